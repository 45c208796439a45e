"""A filter that knows what a picture's places tell a network, and drops what costs bits where they tell nothing."""

import math

import torch
from torch import Tensor, nn

from models.block_dct import LUMA_TABLE, SIDE, TO_YCBCR, blocks_of, dct_matrix, plane_of
from models.padding import crop, pad_to_stride
from models.preprocessing.sensitivity import Sensitivity

FLOOR = 0.05
"""Added to sensitivities, whose mean is 1: nothing is worth no bit at all."""
MOST = 4.0
"""The largest coefficient that may go, in steps."""
SOFTNESS = 0.08
"""Of the threshold, in steps: what gradients need."""


class InformedFilter(nn.Module):
    r"""Drops coefficients of luma whose bits buy the network nothing: for codecs of 8x8 blocks.

    ::

        x ─┬─► network and back ─► sensitivity of blocks ─► thresholds(level)
           └─► DCT of blocks ───────────────────────────────► · kept ─► filtered

    An encoder that weighs bits against errors of blocks of sensitivity s, coding in steps of q, drops a coefficient c
    where |c| / q < 1/2 + amount / s: the amount is what a bit is worth. With the standard's steps, and a power of s,
    that is how the filter begins; ``thresholds`` has an amount for each frequency and rate, which may learn.

    Args:
        sensitivity: what is asked, and how.
        steps: of the codec's quantisation, at the lowest and the highest rate: multiples of JPEG's at quality 50.
        amount: what all amounts are at first, at the lowest and the highest rate.
        power: of the sensitivity, at first; above 1, for large errors are worse than small ones say.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        sensitivity: Sensitivity,
        *,
        steps: tuple[float, float] = (10.0, 1.25),
        amount: tuple[float, float] = (0.04, 0.04),
        power: float = 3.0,
    ):
        super().__init__()
        self.sensitivity, self.thresholds = sensitivity, Thresholds(steps, amount, power)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        self.register_buffer("luma", TO_YCBCR[0].clone(), persistent=False)

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        known = self.sensitivity(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            padded = pad_to_stride(x, SIDE)
            luma = torch.einsum("c,bchw->bhw", 255 * self.luma, padded)
            coefficients = blocks_of(luma) @ self.dct.T
            dropped = coefficients * (1 - self.thresholds(coefficients, known, level))
            # Red, green and blue change alike: chroma stays.
            return x - crop(plane_of(dropped @ self.dct)[:, None] / 255, tuple(x.shape[-2:]))


class Thresholds(nn.Module):
    """What stays of each coefficient: next to nothing below 1/2 + amount / (s + FLOOR) ** power steps, else all.

    Amounts, one for each frequency, and the power are straight in the level, amounts by their logarithm.

    Args:
        steps: see InformedFilter.
        amount: see InformedFilter.
        power: see InformedFilter.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, steps: tuple[float, float], amount: tuple[float, float], power: float):
        super().__init__()
        if min(*steps, *amount) <= 0:
            raise ValueError(f"steps={list(steps)} and amount={list(amount)} must be above 0")
        table = torch.tensor(LUMA_TABLE).log()
        self.register_buffer("log_steps", torch.stack([table + math.log(s) for s in steps]))
        self.log_amount = nn.Parameter(torch.tensor(amount).log()[:, None].repeat(1, SIDE**2))
        self.power = nn.Parameter(torch.full((2,), power))

    def forward(self, coefficients: Tensor, sensitivity: Tensor, level: float) -> Tensor:
        """Shares in [0, 1].

        Args:
            coefficients: in 8-bit units, (B, rows, columns, 64).
            sensitivity: (B, rows, columns), mean 1.
            level: in [0, 1].
        """
        step, amount, power = (
            torch.lerp(*ends, level) for ends in (self.log_steps, self.log_amount, self.power)
        )
        needed = 0.5 + (amount - power * (sensitivity[..., None] + FLOOR).log()).exp().clamp(max=MOST)
        kept = torch.sigmoid((coefficients.abs() / step.exp() - needed) / SOFTNESS)
        return torch.cat([torch.ones_like(kept[..., :1]), kept[..., 1:]], -1)  # blocks keep their means
