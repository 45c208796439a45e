"""Colours, and the DCT of blocks of 8x8 samples, as JPEG has them."""

import math

import numpy as np
import torch
from torch import Tensor

TO_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""Full-range BT.601, as libjpeg has it."""
SIDE = 8
"""Of a block."""
LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""Steps of luma at quality 50, row by row: ITU-T T.81, table K.1."""


def dct_matrix() -> Tensor:
    """The orthonormal DCT-II of a block, float32: (64 frequencies, 64 samples), both row by row."""
    k, n = np.mgrid[:SIDE, :SIDE]
    of_samples = np.cos((2 * n + 1) * k * np.pi / 16) * np.where(k, 0.5, math.sqrt(1 / 8))
    one = torch.from_numpy(of_samples).float()
    return torch.kron(one, one)


def blocks_of(plane: Tensor) -> Tensor:
    """(B, H, W) to (B, H/8, W/8, 64)."""
    batch, height, width = plane.shape
    split = plane.reshape(batch, height // SIDE, SIDE, width // SIDE, SIDE)
    return split.transpose(2, 3).reshape(batch, height // SIDE, width // SIDE, SIDE**2)


def plane_of(blocks: Tensor) -> Tensor:
    """Undo ``blocks_of``."""
    batch, rows, columns, _ = blocks.shape
    split = blocks.reshape(batch, rows, columns, SIDE, SIDE).transpose(2, 3)
    return split.reshape(batch, SIDE * rows, SIDE * columns)
