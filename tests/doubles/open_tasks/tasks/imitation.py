"""Imitation: say of the decode what a teacher says of the original; no labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection

from models.frozen import Frozen
from models.outputs import LatentSpec
from tasks.base import LabelLike, Task


class Imitation(Task):
    """Mean squared difference to a frozen teacher's numbers (B, K).

    Args:
        readable: see Task.
        labels: see Task; none is used.
        reads: see Task.
        head: see Task.
        teacher: pictures (B, 3, H, W) to (B, num_outputs); ``None`` in an exported model, which is not judged.
        num_numbers: K.
    """

    monitor = "mse"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        teacher: Frozen | None,
        num_numbers: int = 6,
    ):
        self._num_numbers = num_numbers
        super().__init__(readable, labels, reads=reads, head=head)
        self.teacher = teacher

    @property
    def num_outputs(self) -> int:
        return self._num_numbers

    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What the teacher says of the originals, (B, K)."""
        with torch.no_grad():
            return self.teacher(batch["image"])

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Squared differences summed, and their number."""
        return (preds.float() - target).square().sum(), target.new_tensor(float(target.numel()))

    def metrics(self) -> MetricCollection:
        """``mse``."""
        return MetricCollection({"mse": MeanSquaredError()})


class Textures(nn.Module):
    """The teacher: how much there is of six edges and spots; its weights are written down, not learned."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 6, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            count = self.filters.weight.numel()
            self.filters.weight.copy_(torch.arange(count).float().sin().view_as(self.filters.weight))
            self.filters.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 6)."""
        return self.drop(self.filters(x).abs().mean((2, 3)))


class PooledHead(nn.Module):
    """K numbers from one map's channel means.

    Args:
        specs: the map's.
        num_outputs: K.
    """

    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int):
        super().__init__()
        self.layer = nn.Linear(specs[0].channels, num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) to (B, K)."""
        return self.layer(x.mean((2, 3)))
