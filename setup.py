"""What pyproject.toml cannot say: the folder ``cli`` is installed as the package ``otreg_cli``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["otreg", "otreg.*"]), "otreg_cli"],
    package_dir={"otreg_cli": "cli"},
    package_data={"otreg": ["py.typed"], "otreg.reductions": ["*.cu"], "otreg.visualize": ["page/*"]},
)
