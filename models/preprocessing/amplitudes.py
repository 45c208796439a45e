"""Square roots of what a network holds for likely: their slopes are its Fisher information.

With p the probabilities of independent choices and a = sqrt p, F = 4 sum (d a / d x) (d a / d x)^T.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

LEAST = 1e-6
"""Of a probability: the slope of its root has no bound."""
SOFTNESS = 0.05
"""Of the score from which candidates count."""


class OfClasses:
    """Of a classifier's likeliest classes.

    Args:
        likeliest: how many stand for all.

    Raises:
        ValueError: that is none.
    """

    def __init__(self, likeliest: int = 1):
        if likeliest < 1:
            raise ValueError(f"likeliest={likeliest} must be at least 1")
        self.likeliest = likeliest

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (B, K) to (B, ``likeliest``)."""
        logs = logits.float().log_softmax(1)
        return (0.5 * logs.topk(min(self.likeliest, logs.shape[1])).values).exp()


class OfCandidates:
    """Of a detector's candidates: is there an object, which, and where.

    Args:
        tolerance: by how much of its side a box may be off, one standard deviation.
        sure: score at which a candidate counts half; those that are far below are no detections, whatever becomes of
            them. Default: all count.

    Raises:
        ValueError: ``tolerance`` is not above 0, or ``sure`` is outside 0..1.
    """

    def __init__(self, tolerance: float = 0.1, sure: float | None = None):
        if tolerance <= 0:
            raise ValueError(f"tolerance={tolerance} must be above 0")
        if sure is not None and not 0 <= sure <= 1:
            raise ValueError(f"sure={sure} must be within 0..1")
        self.tolerance, self.sure = tolerance, sure

    def __call__(self, candidates: Mapping[str, Tensor]) -> Tensor:
        """Candidates (models/heads/frozen.py) to (B, N (K + 5)); classes and boxes count as their object does."""
        objectness = candidates["objectness"].float().clamp(LEAST, 1 - LEAST)
        there = objectness.detach().sqrt()[..., None]
        classes = there * candidates["classes"].float().clamp_min(LEAST).sqrt()
        boxes = candidates["boxes"].float()
        sides = (boxes[..., 2:] - boxes[..., :2]).detach().clamp_min(1).repeat(1, 1, 2)
        places = there * boxes / (2 * self.tolerance * sides)  # F of a Gaussian's mean is 1 / variance
        parts = (objectness.sqrt()[..., None], (1 - objectness).sqrt()[..., None], classes, places)
        found = torch.cat(parts, -1)
        if self.sure is not None:
            counts = ((candidates["scores"].detach().float() - self.sure) / SOFTNESS).sigmoid()
            found = counts[..., None] * found
        return found.flatten(1)
