"""Number: a quantity told as a distribution over its values, such as an age in years."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.cross_entropy import cross_entropy_sum
from tasks.means import MeanCost


class Number(Task):
    """A class whose names are numbers; ``preds`` are logits (B, K), the decision is the mean of their distribution.

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"class"`` whose names are numbers, ``"0"``, ``"1"``... or middles of bins.
        head: see Task; returns logits (B, K).
        mean_weight: weight of the mean's absolute error, in units of the quantity, beside the cross-entropy.

    Raises:
        ValueError: see Task; or a name that is no number.

    Reference: Rothe et al., DEX: Deep EXpectation of apparent age, ICCV workshops 2015, section 3.
    Differs from the paper: the mean is trained, too.
    """

    kind = "class"
    monitor = "mae"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        mean_weight: float = 0.1,
    ):
        super().__init__(readable, labels, reads=reads, target=target, head=head)
        try:
            values = torch.tensor([float(name) for name in self.label.names])
        except ValueError as error:
            raise ValueError(f"label {target!r}: {error}: Number needs classes that are numbers") from error
        self.mean_weight = mean_weight
        # Not in the state dict: the label's names say them.
        self.register_buffer("values", values, persistent=False)

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy (nats) and weighted absolute error of the mean, summed over labelled images; their number."""
        missing = int(self.label.missing)
        entropy, count = cross_entropy_sum(preds, target, missing=missing)
        errors = (self._mean(preds) - self.values[target.clamp(min=0)]).abs()
        return entropy + self.mean_weight * (errors * (target != missing)).sum(), count

    def _mean(self, preds: Tensor) -> Tensor:
        return preds.float().softmax(1) @ self.values

    def decide(self, preds: Tensor, size: tuple[int, int]) -> Tensor:
        """The mean of each image's distribution, (B,), in units of the quantity."""
        return self._mean(preds)

    def metrics(self) -> MetricCollection:
        """``mae``: mean absolute error over labelled images, in units of the quantity."""
        values, missing = self.values.cpu(), int(self.label.missing)
        return MetricCollection(
            {"mae": MeanCost(partial(error_of, values), partial(torch.ne, other=missing))}
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"value": number}``."""
        return {"value": round(float(decided), 2)}

    def illustrate(self, image: Any, decided: Tensor, target: Tensor) -> tuple[Any, str]:
        """The picture as it is; ``31.5 (is 28)``, or the guess alone without a label."""
        guess, truth = f"{float(decided):.1f}", int(target)
        return image, guess if truth == self.label.missing else f"{guess} (is {self.label.names[truth]})"


def error_of(values: Tensor, decided: Tensor, target: Tensor) -> Tensor:
    """|decision - value of the class| of each image, (B,); of an image without a label it means nothing."""
    return (decided - values.to(decided)[target.clamp(min=0)]).abs()
