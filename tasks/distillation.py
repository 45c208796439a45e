"""Distillation: what a frozen network says of the original, to be said of the decode: a task without labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import LatentSpec
from tasks.base import LabelLike
from tasks.means import Mean, MeanCost, divergence
from tasks.taught import Taught

NUM_DESCRIBED = 5
"""Most probable outputs that ``describe`` names."""


class Distillation(Taught):
    """A teacher's class probabilities on the original, predicted from the decode; ``preds`` are logits (B, K).

    Codecs for machines are trained so where nothing is labelled: with a head that is the teacher itself, held still,
    the codec learns to send what that network looks at; with any other head, the head learns the teacher.

    Args:
        readable: see Task.
        labels: see Task; none is needed.
        reads: see Task.
        head: see Task; returns logits (B, num_classes).
        num_classes: of the teacher.
        teacher: (B, 3, H, W) in [0, 1] -> logits (B, num_classes), a ``models.frozen.Frozen``; ``None`` in exported
            models, which need it for judging alone.
        temperature: both sides' logits are divided by it in the loss, whose size it leaves (times temperature^2).

    Raises:
        ValueError: see Task; or ``temperature`` or ``num_classes`` is not positive.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531, section 2.
    """

    monitor = "agreement"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        num_classes: int,
        teacher: nn.Module | None,
        temperature: float = 1.0,
    ):
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} must be positive")
        self.temperature = temperature
        super().__init__(readable, labels, reads=reads, head=head, num_classes=num_classes, teacher=teacher)

    @torch.no_grad()
    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What the teacher says of the originals: logits (B, K), float32.

        Raises:
            ValueError: the teacher has another number of classes.
        """
        logits = self.teacher(batch["image"]).float()
        if logits.dim() != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"the teacher gives {tuple(logits.shape[1:])} for an image, and num_classes={self.num_classes}: give "
                "the teacher's own number"
            )
        return logits

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Kullback-Leibler divergence in nats from the teacher to the head, summed over images, and their number."""
        t = self.temperature
        return t**2 * divergence(preds.float() / t, target / t).sum(), preds.new_tensor(float(len(preds)))

    def difference(self, preds: Tensor, reference: Tensor) -> Tensor:
        """Kullback-Leibler divergence in nats from the other predictions, (B,)."""
        return divergence(preds.float(), reference.float())

    def metrics(self) -> MetricCollection:
        """Means over images: ``kl``, and ``nll`` of the teacher's first choice, in nats; ``agreement`` in [0, 1]."""
        return MetricCollection(
            {"kl": MeanCost(divergence), "nll": MeanCost(surprise), "agreement": Mean(agreement)},
            compute_groups=False,
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"output", "probability", "top5": [{"output", "probability"}, ...]}``: indices of the teacher's classes."""
        values, indices = decided.softmax(0).topk(min(NUM_DESCRIBED, self.num_classes))
        top = [
            {"output": index, "probability": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]
        return {**top[0], "top5": top}


def surprise(preds: Tensor, target: Tensor) -> Tensor:
    """-log of the probability that the head gives the teacher's first choice, in nats, (B,)."""
    return -preds.log_softmax(1).gather(1, target.argmax(1, keepdim=True))[:, 0]


def agreement(preds: Tensor, target: Tensor) -> Tensor:
    """Whether both have the same first choice, (B,)."""
    return (preds.argmax(1) == target.argmax(1)).float()
