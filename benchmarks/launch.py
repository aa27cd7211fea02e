"""Run a command and write what it used: ``launch.py LIMIT RESULT.json LOG COMMAND…``.

A child's peak memory, as Linux counts it, starts at that of the process that made it. So it is made by this
small one and not by the benchmark, which has meshes loaded.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    limit, result, log, *command = sys.argv[1:]
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.execvp(command[0], command)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(max(1, int(float(limit))))
    _, status, used = os.wait4(child, 0)
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": kilobytes / 1024,
        "code": os.waitstatus_to_exitcode(status),
    }
    with open(result, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
