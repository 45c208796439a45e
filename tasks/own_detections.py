"""Own detections: what a detector finds in the original, to be found in the decode. No labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.outputs import LatentSpec
from tasks.base import LabelLike
from tasks.detection import Detection, Found


class OwnDetections(Detection):
    """Detection whose truth is what the detector itself is sure of in the original: it judges codecs, not detectors.

    Args:
        readable: see Task.
        labels: see Task; none is needed.
        reads: see Task; pixels.
        head: see Detection; a detector that is held still (models/heads/frozen.py).
        num_classes: of the detector.
        sure: score from which a detection in the original counts as an object.

    Raises:
        ValueError: see Task; or ``num_classes`` is not positive, or ``sure`` is outside 0..1.
    """

    kind = None

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        num_classes: int,
        sure: float = 0.3,
    ):
        if num_classes <= 0:
            raise ValueError(f"num_classes={num_classes} must be positive")
        if not 0 <= sure <= 1:
            raise ValueError(f"sure={sure} must be within 0..1")
        self.num_classes, self.sure = num_classes, sure
        super().__init__(readable, labels, reads=reads, head=head)

    @property
    def num_outputs(self) -> int:
        """The detector's classes."""
        return self.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their indices."""
        return tuple(map(str, range(self.num_classes)))

    @torch.no_grad()
    def target_of(self, batch: Mapping[str, Any]) -> list[Found]:
        """``boxes`` and ``classes`` of what the detector is sure of in each original."""
        x = batch["image"]
        size = tuple(x.shape[-2:])
        found = self.decide(self.head(x, size=size), size)
        return [{key: one[key][one["scores"] >= self.sure] for key in ("boxes", "classes")} for one in found]
