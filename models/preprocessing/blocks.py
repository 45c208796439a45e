"""Gains on the blocks of a picture: each block keeps its mean, and more or less of what differs from it."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from models.block_dct import SIDE
from models.padding import crop, pad_to_stride, padded_size

NUM_BANDS = 3
"""Of a block, coarse to fine: what its means of 4x4 add to its mean, those of 2x2 to these, and its pixels to these."""


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Blocks along the height and the width of a picture of (H, W); the last may be cut off."""
    height, width = padded_size(size, SIDE)
    return height // SIDE, width // SIDE


def scaled(x: Tensor, gains: Tensor) -> Tensor:
    """mean + sum of gain * band in every block of 8x8 pixels; with one gain, that is of all that differs from the mean.

    Args:
        x: pictures (B, 3, H, W).
        gains: (B, 1 to NUM_BANDS, *grid_of((H, W))).
    """
    found, *bands = _bands(pad_to_stride(x, SIDE), gains.shape[1])
    for band, gain in zip(bands, gains.unbind(1), strict=True):
        found = found + _enlarged(gain[:, None], SIDE) * band
    return crop(found, tuple(x.shape[-2:]))


def band_contrasts(x: Tensor) -> Tensor:
    """log2(1 + root mean square of each band of each block, in 8-bit values), (B, NUM_BANDS, *grid_of((H, W)))."""
    _, *bands = _bands(pad_to_stride(x, SIDE), NUM_BANDS)
    powers = [F.avg_pool2d((255 * band).square().mean(1, keepdim=True), SIDE) for band in bands]
    return torch.log2(1 + torch.cat(powers, 1).sqrt())


def summed_bands(x: Tensor, weights: Tensor) -> Tensor:
    """Sum of each band of each block of x times the weights there, (B, NUM_BANDS, H / SIDE, W / SIDE).

    With the slope of something over x's pixels as weights: its slope over ``scaled``'s gains, at 1.

    Args:
        x: pictures (B, 3, H, W), whose sides are multiples of ``SIDE``.
        weights: likewise.
    """
    _, *bands = _bands(x, NUM_BANDS)
    return SIDE**2 * torch.cat(
        [F.avg_pool2d((weights * band).sum(1, keepdim=True), SIDE) for band in bands], 1
    )


def _bands(x: Tensor, count: int) -> list[Tensor]:
    """Means of blocks and ``count`` bands, the last with all that is finer, whose sum is x; its sides: n * ``SIDE``."""
    sides = [SIDE // 2**i for i in range(count)]
    views = [*(_enlarged(F.avg_pool2d(x, side), side) for side in sides), x]
    return [views[0], *(fine - coarse for coarse, fine in itertools.pairwise(views))]


def _enlarged(blocks: Tensor, side: int) -> Tensor:
    return blocks.repeat_interleave(side, -1).repeat_interleave(side, -2)
