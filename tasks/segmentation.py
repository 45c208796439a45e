"""Segmentation: one class for each pixel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.cross_entropy import cross_entropy_sum, weights_of_classes
from tasks.palette import palette

OVERLAY = 0.5
"""Opacity of the class colours over the picture."""


class Segmentation(Task):
    """Softmax classification of pixels; ``preds`` are logits (B, K, H, W), the target int64 (B, H, W).

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"mask"``.
        head: see Task; returns logits (B, K, H, W) at the image's own size.
        class_weights: weight of each class in the loss, in the order of the label's names.

    Raises:
        ValueError: see Task; ``class_weights`` are not one positive number for each class; or there are so
            many classes that the mask's value for "no label" is one of them.
    """

    kind = "mask"
    monitor = "miou"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(readable, labels, reads=reads, target=target, head=head)
        if len(self.label.names) > self.label.missing:
            raise ValueError(
                f"{target!r} has {len(self.label.names)} classes, but the mask value {self.label.missing} "
                "means no label"
            )
        # Not in the state dict: they are settings of the training, known from its config.
        self.register_buffer(
            "class_weights", weights_of_classes(class_weights, self.label.names), persistent=False
        )

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy (nats) summed over labelled pixels, and their number (or class weights' sum)."""
        missing = int(self.label.missing)
        return cross_entropy_sum(preds, target, missing=missing, class_weights=self.class_weights)

    def metrics(self) -> MetricCollection:
        """``miou`` over the classes in prediction or target, and ``pixel_accuracy``; both in [0, 1]."""
        num_classes, missing = len(self.label.names), int(self.label.missing)
        return MetricCollection(
            {
                "miou": MulticlassJaccardIndex(num_classes, ignore_index=missing, validate_args=False),
                "pixel_accuracy": MulticlassAccuracy(
                    num_classes, average="micro", ignore_index=missing, validate_args=False
                ),
            }
        )

    def illustrate(self, image: np.ndarray, decided: Tensor, target: Tensor) -> tuple[np.ndarray, str]:
        """The predicted classes in colours over the picture; ``mIoU 0.71`` of this picture, if labelled."""
        guess = decided.argmax(0)
        colours = palette(len(self.label.names))[guess.cpu().numpy()]
        picture = np.round((1 - OVERLAY) * image + OVERLAY * colours).astype(np.uint8)
        if bool((target == self.label.missing).all()):
            return picture, "no label"
        miou = self.metrics()["miou"].to(decided.device)(guess[None], target[None].to(torch.int64))
        return picture, f"mIoU {miou:.2f}"

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"shares": {class: share of the image's pixels}}``, largest first; classes without a pixel are left out."""
        names = self.label.names
        guess = decided.argmax(0)
        shares = torch.bincount(guess.flatten(), minlength=len(names)).double() / guess.numel()
        order = shares.argsort(descending=True, stable=True).tolist()
        return {"shares": {names[i]: round(shares[i].item(), 6) for i in order if shares[i] > 0}}

    def label_map(self, decided: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """See ``Task``."""
        guess = decided.argmax(0).to(torch.uint8).cpu().numpy()
        return guess, palette(len(self.label.names))
