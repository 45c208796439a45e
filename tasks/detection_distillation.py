"""Detection distillation: what a frozen detector's output says of the original, to be said of the decode. No labels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from tasks.means import MeanCost
from tasks.taught import Taught

BOX = slice(1, 5)
"""Corners in a packed candidate: objectness, x0, y0, x1, y1, class probabilities."""


class DetectionDistillation(Taught):
    """A detector's candidates on the original, predicted from the decode, before any threshold or suppression.

    ``preds`` are candidates, ``{"boxes": (B, N, 4) corners in pixels, "objectness": (B, N), "classes": (B, N, K)}``, of
    models/heads/frozen.py; targets and decisions are the same in one tensor, (B, N, 5 + K).

    Args:
        readable: see Task.
        labels: see Task; none is needed.
        reads: see Task.
        head: see Task; returns candidates, as many as the teacher.
        num_classes: of the teacher.
        teacher: (B, 3, H, W) in [0, 1] -> candidates, a ``models.frozen.Frozen``; ``None`` in exported models, which
            need it for judging alone.

    Raises:
        ValueError: see Task; or ``num_classes`` is not positive.
    """

    monitor = "divergence"

    @torch.no_grad()
    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What the teacher says of the originals, (B, N, 5 + K).

        Raises:
            ValueError: the teacher has another number of classes.
        """
        packed = pack(self.teacher(batch["image"]))
        if packed.shape[2] != 5 + self.num_classes:
            raise ValueError(
                f"the teacher has {packed.shape[2] - 5} classes, and num_classes={self.num_classes}: give its own"
            )
        return packed

    def decide(self, preds: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Packed candidates, (B, N, 5 + K)."""
        return pack(preds)

    def criterion(self, preds: Mapping[str, Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence (``divergence``) summed over images, and their number."""
        return divergence(pack(preds), target).sum(), target.new_tensor(float(len(target)))

    def difference(self, preds: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensor:
        """Divergence from the other predictions for each object that they hold, (B,)."""
        return divergence(pack(preds), pack(reference))

    def metrics(self) -> MetricCollection:
        """Means over images, for each object that the teacher sees: ``divergence`` and its three parts."""
        return MetricCollection(
            {
                "divergence": MeanCost(divergence),
                "objectness_kl": MeanCost(objectness_kl),
                "class_kl": MeanCost(class_kl),
                "box_error": MeanCost(box_error),
            },
            compute_groups=False,
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"candidates": N, "objectness": the highest}``."""
        return {"candidates": len(decided), "objectness": round(float(decided[:, 0].max()), 6)}


def pack(candidates: Mapping[str, Tensor]) -> Tensor:
    """Candidates in one tensor, (B, N, 5 + K) float32."""
    objectness = candidates["objectness"][..., None]
    return torch.cat((objectness, candidates["boxes"], candidates["classes"]), -1).float()


def divergence(preds: Tensor, target: Tensor) -> Tensor:
    """Nats and box error together for each object, (B,)."""
    return objectness_kl(preds, target) + class_kl(preds, target) + box_error(preds, target)


def objectness_kl(preds: Tensor, target: Tensor) -> Tensor:
    """KL(teacher || head) of there being an object, over all candidates, for each object, (B,) in nats."""
    theirs, ours = target[..., 0], preds[..., 0]
    there = theirs * (_log(theirs) - _log(ours))
    return (there + (1 - theirs) * (_log(1 - theirs) - _log(1 - ours))).sum(1) / _objects(target)


def class_kl(preds: Tensor, target: Tensor) -> Tensor:
    """KL(teacher || head) of the classes of each object, (B,) in nats."""
    theirs, ours = target[..., BOX.stop :], preds[..., BOX.stop :]
    return _mean((theirs * (_log(theirs) - _log(ours))).sum(2), target)


def box_error(preds: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the corners of each object, as a share of its box's mean side, (B,)."""
    boxes = target[..., BOX]
    side = (boxes[..., 2:] - boxes[..., :2]).mean(-1).clamp(min=1)
    return _mean((preds[..., BOX] - boxes).abs().mean(-1) / side, target)


def _mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean over candidates (B, N), weighed by how sure the teacher is of an object."""
    return (values * target[..., 0]).sum(1) / _objects(target)


def _objects(target: Tensor) -> Tensor:
    return target[..., 0].sum(1).clamp(min=1)


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=1e-6).log()
