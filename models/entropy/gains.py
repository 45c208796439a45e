"""Gain units: one set of weights codes at any rate of a range, on finer or coarser grids of its latents."""

import math

import torch
from torch import Tensor, nn

from models.entropy.exact_attention import exp


class GainUnit(nn.Module):
    """A factor for every channel, given at some rates in [0, 1] and in a straight line of its logarithm between them.

    What is decoded depends on it, so no machine may find another number (models/entropy/exact_attention.py).

    Args:
        channels: of the latent.
        levels: rates, evenly over [0, 1], at which factors are learned.
        span: the largest rate's factor over the smallest's, before training; below 1 for the way back.
    """

    def __init__(self, channels: int, levels: int, span: float):
        super().__init__()
        positions = torch.linspace(-0.5, 0.5, levels)[:, None]
        self.log_gain = nn.Parameter(positions.repeat(1, channels) * math.log(span))

    def forward(self, rate: float) -> Tensor:
        """The factors at a rate, float32, (C, 1, 1)."""
        position = rate * (len(self.log_gain) - 1)
        low = min(int(position), len(self.log_gain) - 2)
        above = position - low
        ends = self.log_gain[low : low + 2].double()
        return exp(ends[0] * (1 - above) + ends[1] * above).float()[:, None, None]


class Gains(nn.Module):
    """Both ways: what the encoder multiplies y by before it is rounded, and what the decoder multiplies it by after.

    Objectives train it all over its range with a ``lmbda`` that follows the rate (losses.schedules.OfRate).

    Args:
        channels: of y.
        levels: rates at which gains are learned, at least 2.
        span: ratio of the finest step's gain to the coarsest's before training. Gains of the best rates go with
            the square root of lmbda: 8 suits lmbdas that differ by a factor of 64.

    Raises:
        ValueError: a number is out of range.

    Reference: Cui et al., Asymmetric Gained Deep Image Compression With Continuous Rate Adaptation, CVPR 2021,
    https://arxiv.org/abs/2003.02012, section 3: gain and inverse gain units, equation 6. Differs from the paper: the
    gain of z is 1.
    """

    def __init__(self, channels: int, *, levels: int = 6, span: float = 8.0):
        super().__init__()
        if levels < 2 or span <= 1:
            raise ValueError(f"levels={levels} must be at least 2 and span={span} above 1")
        self.rates = tuple(level / (levels - 1) for level in range(levels))
        self.up, self.down = GainUnit(channels, levels, span), GainUnit(channels, levels, 1 / span)

    def at(self, rate: float) -> tuple[Tensor, Tensor]:
        """(up, down) at a rate in [0, 1]: what models/entropy/gained_hyperprior.py is given."""
        return self.up(rate), self.down(rate)
