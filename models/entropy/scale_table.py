"""The scales that have CDF tables."""

import math

import torch
from torch import Tensor

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 160
"""Range of the scale table, and its size: 160 levels in log scale cost 0.02 % over exact scales (64 cost 0.2-0.4 %)."""
COMPRESSAI_LEVELS = 64


def fine_table() -> list[float]:
    """``SCALE_LEVELS`` scales, evenly spaced in log scale."""
    return (
        torch.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), SCALE_LEVELS, dtype=torch.float64)
        .exp()
        .tolist()
    )


def compressai_table() -> Tensor:
    """CompressAI's 64 scales of the same range, whatever the default dtype is."""
    return torch.linspace(
        math.log(SCALE_MIN), math.log(SCALE_MAX), COMPRESSAI_LEVELS, dtype=torch.float32
    ).exp()
