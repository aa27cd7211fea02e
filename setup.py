"""What pyproject.toml cannot say: the folder ``cli`` is installed as the package ``otreg_cli``."""

import sys

from setuptools import Extension, find_packages, setup

# Plain C, called through ctypes. Optional: without a compiler, or with one that knows no vector types, sums over pairs
# go through torch, with the same results.
library = Extension(
    "otreg.reductions._library",
    ["otreg/reductions/native/library.c"],
    depends=[
        f"otreg/reductions/native/{part}.h"
        for part in ("closest", "farthest", "mixed", "near", "order", "problem", "rows")
    ],
    extra_compile_args=[
        "-O2",
        "-g0",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
        "-pthread",
    ],
    extra_link_args=["-pthread"],
    libraries=[] if sys.platform == "win32" else ["m"],
    optional=True,
)

setup(
    ext_modules=[library],
    packages=[*find_packages(include=["otreg", "otreg.*"]), "otreg_cli"],
    package_dir={"otreg_cli": "cli"},
    package_data={"otreg": ["py.typed"], "otreg.reductions": ["*.cu"], "otreg.visualize": ["page/*"]},
)
