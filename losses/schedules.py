"""Schedules: a scalar as a function of how far its stage has come, ``progress`` in [0, 1]."""

import math


class Linear:
    """From ``start`` to ``end`` in a straight line, reached at ``until`` of the stage and kept."""

    def __init__(self, start: float, end: float, *, until: float = 1.0):
        if not 0 < until <= 1:
            raise ValueError(f"until={until} must be in (0, 1], a fraction of the stage")
        self.start, self.end, self.until = start, end, until

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        return self.start + (self.end - self.start) * min(progress / self.until, 1.0)


class Cosine:
    """Up from 0 to 1 in a straight line during ``warmup``, then down to ``floor`` along half a cosine.

    The usual multiplier of a learning rate.
    """

    def __init__(self, *, warmup: float = 0.0, floor: float = 0.0):
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup={warmup} must be in [0, 1), a fraction of the stage")
        self.warmup, self.floor = warmup, floor

    def __call__(self, progress: float) -> float:
        """The multiplier at ``progress``, in (0, 1]."""
        if progress < self.warmup:
            # Never exactly 0: the first batch should teach something.
            return max(progress / self.warmup, 0.01)
        along = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(along, 1.0))) / 2


Scalar = float | Linear | Cosine


def value_at(scalar: Scalar, progress: float) -> float:
    """A plain number as it is, a schedule at ``progress``."""
    return scalar(progress) if callable(scalar) else float(scalar)
