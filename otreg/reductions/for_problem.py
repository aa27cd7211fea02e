"""The engine for a problem that asks for many sums over the same points."""

from __future__ import annotations

from otreg.reductions import compiled
from otreg.reductions.cuda import SortedEngine
from otreg.reductions.engines import Engine, choose, get_engine
from otreg.reductions.truncated import MEMORY, TruncatedEngine


def engine_for_problem(engine: str, device_type: str, accuracy: float, memory: int = MEMORY) -> Engine:
    """An engine that knows its points again, and leaves out pairs of no consequence; one for each problem.

    Parameters
    ----------
    engine : {"auto", "fused", "keops", "blocks"}
        Only the fused one can leave out pairs; the others are given as they are.
    device_type : str
        Where the points are.
    accuracy : float
        Largest relative error of a sum.
    memory : int
        Bytes of shares stored at most, on a CPU.
    """
    name = choose(engine, device_type)
    reduce = get_engine(name, device_type)
    if name != "fused":
        return reduce
    if device_type == "cuda":
        return SortedEngine()
    return (
        compiled.CompiledEngine(accuracy)
        if compiled.is_available()
        else TruncatedEngine(reduce, accuracy, memory)
    )
