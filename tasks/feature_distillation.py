"""Feature distillation: what a frozen network's layers see in the original, to be seen in the decode. No labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.feature_maps import feature_distance, unit_features
from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.means import Mean, MeanCost


class FeatureDistillation(Task):
    """A frozen network's feature maps on the original, predicted from the decode; ``preds`` are maps (B, C, h, w).

    With a head that is the frozen network itself, the codec learns to keep what that network looks at; with any other
    head, the head learns its features, from latents as well as from pixels.

    Args:
        readable: see Task.
        labels: see Task; none is needed.
        reads: see Task.
        head: see Task; returns a list of maps with the teacher's ``channels``.
        channels: of the teacher's maps.
        teacher: (B, 3, H, W) in [0, 1] -> maps (models/feature_maps.py), a ``models.frozen.Frozen``; ``None`` in
            exported models, which need it for judging alone.

    Raises:
        ValueError: see Task; or ``channels`` are not positive numbers.
    """

    monitor = "distance"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        channels: Sequence[int],
        teacher: nn.Module | None,
    ):
        if not channels or min(channels) <= 0:
            raise ValueError(
                f"channels={list(channels)} must be positive numbers, one for each map of the teacher"
            )
        self.channels = tuple(channels)
        super().__init__(readable, labels, reads=reads, head=head)
        self.teacher = teacher

    @property
    def num_outputs(self) -> int:
        """Channels of all the teacher's maps."""
        return sum(self.channels)

    @torch.no_grad()
    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        """The teacher's features of the originals as ``unit_features``, (B, N).

        Raises:
            ValueError: the teacher's maps have other channels.
        """
        maps = self.teacher(batch["image"])
        if (found := tuple(part.shape[1] for part in maps)) != self.channels:
            raise ValueError(
                f"the teacher's maps have channels {list(found)}, and channels={list(self.channels)}"
            )
        return unit_features(maps)

    def decide(self, preds: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The head's maps as ``unit_features``, (B, N)."""
        return unit_features(preds)

    def criterion(self, preds: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance of unit-normalised features, mean over positions and layers, summed over images.

        Raises:
            ValueError: the head's maps are of other sizes.
        """
        features = unit_features(preds)
        if features.shape != target.shape:
            raise ValueError(
                f"the head gives maps of {[tuple(part.shape[1:]) for part in preds]}, together {features.shape[1]} "
                f"values an image, and the teacher {target.shape[1]}: give the head the strides of the teacher's maps"
            )
        return feature_distance(features, target).sum(), target.new_tensor(float(len(target)))

    def difference(self, preds: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        """Squared distance of unit-normalised features from others, mean over positions and layers, (B,)."""
        return feature_distance(unit_features(preds), unit_features(reference))

    def metrics(self) -> MetricCollection:
        """Means over images: ``distance`` in [0, 4]; ``cosine`` of head and teacher at the same position."""
        return MetricCollection(
            {"distance": MeanCost(feature_distance), "cosine": Mean(cosine)}, compute_groups=False
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"features": how many}``: nobody reads them one by one."""
        return {"features": len(decided)}


def cosine(preds: Tensor, target: Tensor) -> Tensor:
    """Mean cosine of ``unit_features``, (B,) in [-1, 1]."""
    return (preds * target).sum(1)
