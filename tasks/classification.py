"""Classification: one class for each image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.cross_entropy import cross_entropy_sum, weights_of_classes
from tasks.means import divergence

TOP5_ABOVE = 10
"""Classes from which on ``top5`` is worth a column."""
NUM_DESCRIBED = 5
"""Most probable classes that ``describe`` names."""


class Classification(Task):
    """Softmax classification of images; ``preds`` are logits (B, K), the target int64 (B,).

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"class"``.
        head: see Task; returns logits (B, K).
        label_smoothing: share of the target's probability that is spread over all classes, in [0, 1].
        class_weights: weight of each class in the loss, in the order of the label's names.

    Raises:
        ValueError: see Task; or ``class_weights`` are not one positive number for each class.
    """

    kind = "class"
    monitor = "top1"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(readable, labels, reads=reads, target=target, head=head)
        self.label_smoothing = label_smoothing
        # Not in the state dict: they are settings of the training, known from its config.
        self.register_buffer(
            "class_weights", weights_of_classes(class_weights, self.label.names), persistent=False
        )

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy (nats) summed over labelled images, and their number (or class weights' sum)."""
        return cross_entropy_sum(
            preds,
            target,
            missing=int(self.label.missing),
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )

    def difference(self, preds: Tensor, reference: Tensor) -> Tensor:
        """Kullback-Leibler divergence in nats from the other predictions, (B,)."""
        return divergence(preds.float(), reference.float())

    def metrics(self) -> MetricCollection:
        """``top1``, and ``top5`` above ten classes: share of labelled images, in [0, 1]."""
        ks = (1, 5) if len(self.label.names) > TOP5_ABOVE else (1,)
        return MetricCollection(
            {
                f"top{k}": MulticlassAccuracy(
                    len(self.label.names),
                    top_k=k,
                    average="micro",
                    ignore_index=int(self.label.missing),
                    validate_args=False,
                )
                for k in ks
            }
        )

    def illustrate(self, image: np.ndarray, decided: Tensor, target: Tensor) -> tuple[np.ndarray, str]:
        """The picture as it is; ``cat`` where right or unlabelled, else ``cat (is dog)``."""
        guess, truth = int(decided.argmax()), int(target)
        names = self.label.names
        return image, names[guess] if truth in (
            guess,
            self.label.missing,
        ) else f"{names[guess]} (is {names[truth]})"

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"class", "probability", "top5": [{"class", "probability"}, ...]}``, most probable first."""
        names = self.label.names
        values, indices = decided.softmax(0).topk(min(NUM_DESCRIBED, len(names)))
        top = [
            {"class": names[index], "probability": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]
        return {**top[0], "top5": top}
