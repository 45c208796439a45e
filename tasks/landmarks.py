"""Landmarks: one point for each name, anywhere in the image."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.means import MeanCost

MARK = (255, 64, 64)
"""Colour of a predicted point."""


class Landmarks(Task):
    """Points in pixels; ``preds`` and the target are float (B, P, 2), x and y, pixel centres at whole numbers.

    Distances are in units of the image's own scale: between two of its labelled points (the eyes), or the diagonal of
    the box around all of them. Points without a label, and images without that scale, count nowhere.

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"landmarks"``.
        head: see Task; returns pixels (B, P, 2): ``models.heads.points``.
        scale: names of the two points; ``None``: the box.
        beta: distance, in that unit, where the loss turns from square to linear.

    Raises:
        ValueError: see Task; or ``scale`` names no two of the points.
    """

    kind = "landmarks"
    monitor = "nme"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        scale: Sequence[str] | None = None,
        beta: float = 0.05,
    ):
        super().__init__(readable, labels, reads=reads, target=target, head=head)
        names = list(self.label.names)
        if scale is not None and (len(set(scale)) != 2 or not set(scale) <= set(names)):
            raise ValueError(f"scale={list(scale)} must be two of the points {names}")
        self.scale = None if scale is None else tuple(names.index(name) for name in scale)
        self.beta = beta

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Smooth L1 of both coordinates in units of the image's scale, summed over labelled points; their number."""
        units = units_of(target, self.scale)[:, None, None]
        labelled = target.isfinite().all(-1, keepdim=True) & units.isfinite()
        aim = torch.where(labelled, target, preds.detach().to(target)) / units.nan_to_num(1.0)
        losses = F.smooth_l1_loss(
            preds.float() / units.nan_to_num(1.0), aim.float(), reduction="none", beta=self.beta
        )
        return (losses * labelled).sum(), labelled.sum().float()

    def metrics(self) -> MetricCollection:
        """``nme``: distance of a point in units of the image's scale, mean over points, then over images."""
        return MetricCollection(
            {"nme": MeanCost(partial(errors_of, scale=self.scale), partial(measurable, scale=self.scale))}
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{point: [x, y]}`` in pixels."""
        return {
            name: [round(value, 2) for value in point]
            for name, point in zip(self.label.names, decided.tolist(), strict=True)
        }

    def illustrate(self, image: np.ndarray, decided: Tensor, target: Tensor) -> tuple[np.ndarray, str]:
        """Every predicted point as a dot; the error as the caption, where it is known."""
        picture = image.copy()
        height, width = image.shape[:2]
        reach = max(1, min(height, width) // 64)
        for x, y in decided.round().long().tolist():
            rows = slice(max(0, y - reach), max(0, y + reach + 1))
            picture[rows, max(0, x - reach) : max(0, x + reach + 1)] = MARK
        error = float(errors_of(decided[None].cpu(), target[None].cpu(), self.scale)[0])
        return picture, "" if np.isnan(error) else f"nme {100 * error:.1f} %"


def units_of(target: Tensor, scale: tuple[int, int] | None) -> Tensor:
    """The scale of each image in pixels, (B,): NaN where its points lack a label, or coincide."""
    if scale is not None:
        units = (target[:, scale[0]] - target[:, scale[1]]).norm(dim=-1)
    else:
        known = target.isfinite().all(-1, keepdim=True)
        low = torch.where(known, target, torch.inf).amin(1)
        high = torch.where(known, target, -torch.inf).amax(1)
        units = (high - low).norm(dim=-1)
    return torch.where(units.isfinite() & (units > 0), units, torch.nan)


def errors_of(preds: Tensor, target: Tensor, scale: tuple[int, int] | None) -> Tensor:
    """Mean distance of each image's labelled points in units of its scale, (B,); NaN where nothing is known."""
    distances = (preds.to(target) - target).norm(dim=-1)
    return distances.nanmean(1) / units_of(target, scale)


def measurable(target: Tensor, scale: tuple[int, int] | None) -> Tensor:
    """Whether an image has a labelled point and a scale, (B,)."""
    return target.isfinite().all(-1).any(1) & units_of(target, scale).isfinite()
