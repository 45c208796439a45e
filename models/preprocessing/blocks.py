"""Gains on the blocks of a picture: each block keeps its mean, and more or less of what differs from it."""

import torch.nn.functional as F
from torch import Tensor

from models.padding import crop, pad_to_stride, padded_size

SIDE = 8
"""Of a block: JPEG's."""


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Blocks along the height and the width of a picture of (H, W); the last may be cut off."""
    height, width = padded_size(size, SIDE)
    return height // SIDE, width // SIDE


def scaled(x: Tensor, gains: Tensor) -> Tensor:
    """mean + gain * (x - mean) in every block of 8x8 pixels: in JPEG's terms, all its coefficients but the DC.

    Args:
        x: pictures (B, 3, H, W).
        gains: (B, 1 or 3, *grid_of((H, W))).
    """
    padded = pad_to_stride(x, SIDE)
    mean = _enlarged(F.avg_pool2d(padded, SIDE))
    return crop(mean + _enlarged(gains) * (padded - mean), tuple(x.shape[-2:]))


def _enlarged(blocks: Tensor) -> Tensor:
    return blocks.repeat_interleave(SIDE, -1).repeat_interleave(SIDE, -2)
