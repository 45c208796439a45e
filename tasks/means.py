"""Metrics that are means over images of a function of predictions and targets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """The mean over images of what a function says of each.

    Args:
        of: (preds, target) -> one value an image, (B,).
        known: target -> the images that have a label, bool (B,); ``None``: all.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(
        self, of: Callable[[Tensor, Tensor], Tensor], known: Callable[[Tensor], Tensor] | None = None
    ):
        super().__init__()
        self.of, self.known = of, known
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        values = self.of(preds.float(), target)
        known = torch.ones_like(values, dtype=torch.bool) if self.known is None else self.known(target)
        self.total += values.where(known, 0).sum()
        self.count += known.sum()

    def compute(self) -> Tensor:
        """The mean; NaN of nothing."""
        return self.total / self.count


class MeanCost(Mean):
    """The mean of what had better be small."""

    higher_is_better = False


def divergence(preds: Tensor, target: Tensor) -> Tensor:
    """KL(target || preds) of each image in nats, (B,), from logits (B, K)."""
    theirs = target.log_softmax(1)
    return (theirs.exp() * (theirs - preds.log_softmax(1))).sum(1)
