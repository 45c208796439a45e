"""Gains on the blocks of a picture: each block keeps its mean, and more or less of what differs from it."""

import torch.nn.functional as F
from torch import Tensor

from models.block_dct import SIDE
from models.padding import crop, pad_to_stride, padded_size


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Blocks along the height and the width of a picture of (H, W); the last may be cut off."""
    height, width = padded_size(size, SIDE)
    return height // SIDE, width // SIDE


def scaled(x: Tensor, gains: Tensor) -> Tensor:
    """mean + gain * (x - mean) in every block of 8x8 pixels.

    Args:
        x: pictures (B, 3, H, W).
        gains: (B, 1, *grid_of((H, W))).
    """
    padded = pad_to_stride(x, SIDE)
    means = _enlarged(F.avg_pool2d(padded, SIDE))
    return crop(means + _enlarged(gains) * (padded - means), tuple(x.shape[-2:]))


def _enlarged(blocks: Tensor) -> Tensor:
    return blocks.repeat_interleave(SIDE, -1).repeat_interleave(SIDE, -2)
