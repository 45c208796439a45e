"""Attributes: any number of yes-or-no facts about each image."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAccuracy, MultilabelAveragePrecision

from tasks.base import Task

SHOWN = 0.5
"""Probability from which on an attribute is told in a caption."""


class Attributes(Task):
    """Independent binary attributes; ``preds`` are logits (B, A), the target int64 (B, A) of 0, 1 or missing.

    The head (see Task) returns logits (B, A). Attributes that an image lacks a label for count nowhere.
    """

    kind = "attributes"
    monitor = "ap"

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy (nats) summed over labelled attributes, and their number."""
        labelled = target != int(self.label.missing)
        losses = F.binary_cross_entropy_with_logits(
            preds.float(), target.clamp(min=0).float(), reduction="none"
        )
        return (losses * labelled).sum(), labelled.sum().float()

    def decide(self, preds: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (B, A)."""
        return preds.float().sigmoid()

    def metrics(self) -> MetricCollection:
        """``ap``: average precision, mean over attributes that some image has; ``accuracy`` at 1/2; in [0, 1]."""
        settings = {"ignore_index": int(self.label.missing), "validate_args": False}
        num = len(self.label.names)
        return MetricCollection(
            {
                "ap": MultilabelAveragePrecision(num, average="macro", **settings),
                "accuracy": MultilabelAccuracy(num, average="micro", **settings),
            },
            compute_groups=False,
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{attribute: probability}``."""
        return {name: round(value, 6) for name, value in zip(self.label.names, decided.tolist(), strict=True)}

    def illustrate(self, image: Any, decided: Tensor, target: Tensor) -> tuple[Any, str]:
        """The picture as it is; those that are there, and those that are wrongly told, as ``smiling, -hat``."""
        told, wrong = [], []
        for name, guess, truth in zip(
            self.label.names, (decided > SHOWN).tolist(), target.tolist(), strict=True
        ):
            if truth != self.label.missing and bool(truth) != guess:
                wrong.append(f"{'+' if guess else '-'}{name}")
            elif guess:
                told.append(name)
        text = ", ".join([*told, *wrong]) or "nothing"
        return image, text if len(text) <= 60 else f"{text[:57]}..."
