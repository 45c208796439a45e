"""Batches, predictions and decodes from one device to another, however they are nested."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.outputs import CodecOutput


def moved(value: Any, device: str | torch.device) -> Any:
    """The same with every tensor on ``device``.

    Args:
        value: a tensor, a codec's output, or mappings and lists of such; anything else in them stays as it is.
        device: where to.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [moved(part, device) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, CodecOutput):
        return replace(value, **moved(vars(value), device))
    return value
