"""Schedules: a scalar as a function of how far its stage has come, of the rate of the batch and of its bits."""

import bisect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # `--help` reads these classes, and does not wait for torch
    from torch import Tensor


class Linear:
    """From ``start`` to ``end`` in a straight line, reached at ``until`` of the stage and kept."""

    def __init__(self, start: float, end: float, *, until: float = 1.0):
        if not 0 < until <= 1:
            raise ValueError(f"until={until} must be in (0, 1], a fraction of the stage")
        self.start, self.end, self.until = start, end, until

    def __call__(self, progress: float, rate: float | None = None, bpp: "Tensor | None" = None) -> float:
        """The value at ``progress`` in [0, 1], whatever the rate and the bits."""
        return self.start + (self.end - self.start) * min(progress / self.until, 1.0)


class Cosine:
    """Up from 0 to 1 in a straight line during ``warmup``, then down to ``floor`` along half a cosine.

    The usual multiplier of a learning rate.
    """

    def __init__(self, *, warmup: float = 0.0, floor: float = 0.0):
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup} must be in [0, 1), a fraction of the stage")
        self.warmup, self.floor = warmup, floor

    def __call__(self, progress: float, rate: float | None = None, bpp: "Tensor | None" = None) -> float:
        """The multiplier at ``progress`` in [0, 1], itself in (0, 1], whatever the rate and the bits."""
        if progress < self.warmup:
            # Never exactly 0: the first batch should teach something.
            return max(progress / self.warmup, 0.01)
        along = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(along, 1.0))) / 2


class OfRate:
    """A value for each rate of a codec, in a straight line between two of them; times a schedule if there is one.

    So one model learns a ladder of trade-offs: ``lmbda`` of every batch follows the rate it is coded at.

    Args:
        values: {native rate: value}, at least one. Beyond the outermost rates their values stay.
        logarithmic: straight in the logarithm of the value, which lmbda usually is over qualities; values above 0.
        times: multiplies the value: a number or a schedule.

    Raises:
        ValueError: no values, or some that have no logarithm.

    Example:
        >>> lmbda = OfRate({10: 0.001, 20: 0.004}, logarithmic=True)
        >>> [round(lmbda(0.0, rate), 6) for rate in (5, 10, 15, 20)]
        [0.001, 0.001, 0.002, 0.004]
    """

    def __init__(
        self, values: Mapping[float, float], *, logarithmic: bool = False, times: "Scalar" = 1.0
    ) -> None:
        if not values:
            raise ValueError("values is empty: give {rate: value}, one at least")
        if logarithmic and min(values.values()) <= 0:
            raise ValueError(f"values={dict(values)} must be above 0 to be straight in the logarithm")
        self.rates = sorted(float(rate) for rate in values)
        by_rate = {float(rate): value for rate, value in values.items()}
        self.values = [by_rate[rate] for rate in self.rates]
        self.logarithmic, self.times = logarithmic, times

    def __call__(self, progress: float, rate: float | None = None, bpp: "Tensor | None" = None) -> float:
        """The value at a rate, whatever the bits.

        Raises:
            ValueError: the batch has no rate.
        """
        if rate is None:
            raise ValueError("a scalar depends on the rate (OfRate), but what trains has only one rate")
        factor = value_at(self.times, progress, rate)
        above = bisect.bisect_left(self.rates, rate)
        if above == 0 or above == len(self.rates):
            return factor * self.values[min(above, len(self.rates) - 1)]
        low, high = self.rates[above - 1 : above + 1]
        a, b = self.values[above - 1 : above + 1]
        along = (rate - low) / (high - low)
        return factor * (a * (b / a) ** along if self.logarithmic else a + (b - a) * along)


class FollowsBits(Protocol):
    """A scalar that answers to the bits of the batch: losses/rate_control.py."""

    def __call__(self, progress: float, rate: float | None, bpp: "Tensor | None") -> "Tensor":
        """The value, a scalar tensor without gradient, for answers that take ``bpp`` bits a pixel, (B,)."""


Scalar = float | Linear | Cosine | OfRate | FollowsBits


def value_at(
    scalar: Scalar, progress: float, rate: float | None = None, bpp: "Tensor | None" = None
) -> "float | Tensor":
    """A plain number as it is, a schedule at ``progress`` and ``rate``, for answers of ``bpp`` (B,)."""
    return scalar(progress, rate, bpp) if callable(scalar) else float(scalar)
