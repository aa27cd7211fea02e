"""The plan of the house, held by tests: who imports whom, what `import otreg` loads, how long a file is."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "otreg").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
OURS = sorted(
    path
    for folder in ("otreg", "cli", "tests", "benchmarks", "examples", "data")
    for path in (ROOT / folder).rglob("*.py")
)
LONGEST = 450

# From the ground up: a part imports from its own row and from rows before it, never from a later one.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("errors", "together"),
    ("surface", "frames", "configuration"),
    ("io", "overlap", "proximity", "reductions", "autodiff"),
    ("kernels",),
    ("transport", "flows", "attachments"),
    ("deformations",),
    ("quality",),
    ("registration",),
    ("visualize", "cohort"),
    ("otreg_cli",),
)
# The one step upwards, taken when it is called: Registration.plot() (docs/decisions/0009).
STEPS_UP = {("registration/result.py", "visualize")}
STOREY = {part: level for level, parts in enumerate(STOREYS) for part in parts}
HEAVY = (
    "torch",
    "vtk",
    "vtkmodules",
    "nibabel",
    "h5py",
    "pykeops",
    "dask",
    "distributed",
    "scipy",
    "trimesh",
    "matplotlib",
    "PIL",
)


def module_name(path: Path) -> tuple[str, ...]:
    """Dotted name of a source file as it is installed, in parts."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("otreg_cli", *parts[1:]) if parts[0] == "cli" else parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def part_of(name: tuple[str, ...]) -> str | None:
    """Which part of the house a module belongs to; None for the front door, ``otreg`` itself."""
    if name[0] == "otreg_cli":
        return "otreg_cli"
    return name[1] if name[0] == "otreg" and len(name) > 1 else None


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Parsed once: every rule below goes through all files."""
    return ast.parse(text_of(path))


@functools.cache
def imported_names(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Every import of a file, at any depth, as (line, absolute dotted name in parts)."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path)[:-1]
    found: list[tuple[int, tuple[str, ...]]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) - node.level + 1] if node.level else ()
            base = (*stem, *(node.module or "").split(".")) if node.module else stem
            found += [(node.lineno, (*base, alias.name)) for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    part = part_of(module_name(path))
    if part is None:
        pytest.skip("the front door names what is behind it, lazily")
    assert part in STOREY, f"otreg/{part} has no place in the plan: give it one in STOREYS"
    for line, name in imported_names(path):
        if name[0] not in ("otreg", "otreg_cli"):
            continue
        other = part_of(name)
        assert name[0] != "otreg_cli" or part == "otreg_cli", (
            f"{path}:{line}: nobody imports the command line"
        )
        if name == ("otreg", "__version__"):
            continue
        assert other in STOREY, f"{path}:{line}: import {name[-1]} from where it is made, not from otreg"
        if ("/".join(path.parts[-2:]), other) in STEPS_UP:
            continue
        assert STOREY[other] <= STOREY[part], f"{path}:{line}: {part} may not import {'.'.join(name)}"


def imports_when_loaded(path: Path) -> list[tuple[int, str]]:
    """Top-level packages that a file imports when it is loaded: not inside functions or TYPE_CHECKING."""
    found: list[tuple[int, str]] = []
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
        waiting += list(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    """vtk, nibabel, h5py, pykeops and dask nowhere at load time; torch neither in io nor in the program."""
    never = {"vtk", "vtkmodules", "nibabel", "h5py", "pykeops", "dask", "distributed", "matplotlib", "PIL"}
    if part_of(module_name(path)) in ("io", "otreg_cli", "surface", "errors", "frames"):
        never = never | {"torch"}
    wrong = [f"{path}:{line}: {name}" for line, name in imports_when_loaded(path) if name in never]
    assert not wrong


def test_import_is_light_and_leaves_no_trace() -> None:
    """`import otreg` loads nothing heavy and changes no global state."""
    code = f"""
import json, os, random, sys, warnings
random.seed(5)
before = (random.getstate(), dict(os.environ), list(warnings.filters))
import otreg
after = (random.getstate(), dict(os.environ), list(warnings.filters))
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps({{"same": before == after, "loaded": loaded, "version": otreg.__version__}}))
"""
    found = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert found["same"]
    assert found["loaded"] == []
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", found["version"])


def test_loading_everything_keeps_global_state() -> None:
    """Loading all of otreg changes neither torch's defaults and threads, nor any random state."""
    names = sorted(
        {".".join(module_name(path)) for path in SOURCES if not path.name.startswith("__main__")} - {"otreg"}
    )
    code = f"""
import importlib, locale, random, signal, warnings
import numpy, torch
random.seed(1); numpy.random.seed(2); torch.manual_seed(3)
torch.set_num_threads(2)
def state():
    kind, keys, *rest = numpy.random.get_state()
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.initial_seed(), torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), rest),
        numpy.geterr(), locale.setlocale(locale.LC_ALL), signal.getsignal(signal.SIGINT),
    )
before = state()
for name in {names!r}:
    importlib.import_module(name)
after = state()
assert before == after, [k for k, (a, b) in enumerate(zip(before, after)) if a != b]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(text_of(path).splitlines()) <= LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_read_from_a_file_is_executed(path: Path) -> None:
    """No pickle, eval or exec, in any disguise that numpy and torch offer."""
    tree = tree_of(path)
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for line, name in imported_names(path):
        assert name[0] not in forbidden, f"{path}:{line}: {name[0]}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "compile", "torch.load", "torch.save"), f"{path}:{node.lineno}"
        for keyword in node.keywords:
            # anything but a plain False could let an array of pickled objects in
            allowed = keyword.arg != "allow_pickle" or (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert allowed, f"{path}:{node.lineno}: allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_bare_except_and_nothing_left_to_do(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        assert not bare, f"{path}: a bare except"
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text_of(path))


def test_every_public_name_of_the_front_door_exists() -> None:
    import otreg

    for name in otreg.__all__:
        assert getattr(otreg, name) is not None
    assert set(otreg.__all__) <= set(dir(otreg))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = otreg.nonsense
