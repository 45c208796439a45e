"""Spots: where things are, as any number of points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from models.outputs import LatentSpec
from tasks.base import Task

GRID = 4
"""Cells a side."""


class Spots(Task):
    """Which of 4x4 cells hold the centre of a box; ``preds`` are logits (B, 4, 4), decisions points of any number."""

    kind = "boxes"
    monitor = "found"

    @property
    def num_outputs(self) -> int:
        return GRID * GRID

    def target_of(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Centres (N, 2), x and y in shares of the picture; an image without label has one row of NaN."""
        height, width = batch["image"].shape[-2:]
        scale = batch["image"].new_tensor([width, height])
        return [(boxes[:, :2] + boxes[:, 2:]) / 2 / scale for boxes in batch["boxes"]]

    def criterion(self, preds: Tensor, target: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy (nats) summed over the cells of labelled images, and their number."""
        truth = torch.stack([_cells(points) for points in target])
        known = torch.stack([points.isfinite().all() for points in target]).float()
        losses = F.binary_cross_entropy_with_logits(preds.float(), truth, reduction="none")
        return (losses.sum((1, 2)) * known).sum(), known.sum() * GRID * GRID

    def decide(self, preds: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """For each image {"points": (N, 2) centres of cells, in shares, "scores": (N,)}: those above one half."""
        decided = []
        for scores in preds.float().sigmoid():
            cells = (scores > 0.5).nonzero()
            decided.append({"points": (cells.flip(1) + 0.5) / GRID, "scores": scores[scores > 0.5]})
        return decided

    def metrics(self) -> MetricCollection:
        """``found``: share of the cells with a centre in which there is a point."""
        return MetricCollection({"found": Found()})

    def illustrate(
        self, image: np.ndarray, decided: dict[str, Tensor], target: Tensor
    ) -> tuple[np.ndarray, str]:
        """The picture as it is; how many."""
        return image, f"{len(decided['points'])} of {len(target)}"

    def describe(self, decided: dict[str, Tensor]) -> dict[str, Any]:
        """``{"spots": [{"x", "y", "score"}, ...]}``, shares of the picture."""
        pairs = zip(decided["points"].tolist(), decided["scores"].tolist(), strict=True)
        return {"spots": [{"x": x, "y": y, "score": round(score, 6)} for (x, y), score in pairs]}


class Found(Metric):
    """Share of target cells that hold a decided point, over all images."""

    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("all", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, decided: Sequence[dict[str, Tensor]], target: Sequence[Tensor]) -> None:
        """Add images."""
        for mine, truth in zip(decided, target, strict=True):
            if truth.isfinite().all():
                wanted = _cells(truth)
                self.hits += (wanted * _cells(mine["points"])).sum()
                self.all += wanted.sum()

    def compute(self) -> Tensor:
        """In [0, 1]."""
        return self.hits / self.all.clamp(min=1)


class CellHead(nn.Module):
    """Logits of 4x4 cells from one map.

    Args:
        specs: the map's.
        num_outputs: 16.
    """

    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int):
        super().__init__()
        self.layer = nn.Conv2d(specs[0].channels, num_outputs // GRID**2, 1)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) to (B, 4, 4)."""
        return F.adaptive_avg_pool2d(self.layer(x), GRID)[:, 0]


def _cells(points: Tensor) -> Tensor:
    """1 where a cell holds one of the points (N, 2), else 0; (4, 4), row by row."""
    inside = (points.nan_to_num(-1) * GRID).floor().long()
    cells = points.new_zeros(GRID, GRID)
    for x, y in inside.tolist():
        if 0 <= x < GRID and 0 <= y < GRID:
            cells[y, x] = 1
    return cells
