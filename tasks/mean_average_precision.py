"""Mean average precision as COCO computes it, from matches that are made once for each image.

COCO's tools match and accumulate in one go, so that each of a thousand resamples of the images would match all
detections again. Matching needs no other image: here the states are the matches, and what is computed from them takes
milliseconds. Values are those of pycocotools and faster-coco-eval; torchmetrics' own differ in the fourth digit, for it
reads precision at recalls that are rounded to float32.

Legend: D detections of one image, G its true boxes, T thresholds of overlap, K classes.

Reference: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, https://arxiv.org/abs/1405.0312; the
definition is that of pycocotools.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's overlaps (intersection over union) from which a detection is right."""


class MeanAveragePrecision(Metric):
    """Average precision, averaged over thresholds and over the classes that occur; in [0, 1], NaN where none does.

    Args:
        num_classes: K.
        thresholds: of the overlap.
        max_boxes: detections of a class in an image that count, the best ones.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int, thresholds: Sequence[float] = THRESHOLDS, *, max_boxes: int = 100):
        super().__init__()
        self.num_classes, self.thresholds, self.max_boxes = num_classes, tuple(thresholds), max_boxes
        for name in ("scores", "classes", "right"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("present", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, decided: Sequence[Mapping[str, Tensor]], target: Sequence[Mapping[str, Tensor]]) -> None:
        """Add images.

        Args:
            decided: of each ``boxes`` (D, 4) in pixels, ``scores`` (D,) and ``classes`` (D,).
            target: of each ``boxes`` (G, 4) and ``classes`` (G,); one of which a box is NaN has no label, and counts
                nowhere.
        """
        for found, truth in zip(decided, target, strict=True):
            ours = {key: value.detach().cpu().numpy() for key, value in found.items()}
            theirs = {key: value.detach().cpu().numpy() for key, value in truth.items()}
            if np.isnan(theirs["boxes"]).any():
                continue
            order = _best(ours["scores"], ours["classes"], self.max_boxes)
            ours = {key: value[order] for key, value in ours.items()}
            right = _right(ours, theirs, self.thresholds)
            for name, value in (("scores", ours["scores"]), ("classes", ours["classes"]), ("right", right)):
                getattr(self, name).append(torch.from_numpy(value).to(self.device))
            counts = np.bincount(theirs["classes"], minlength=self.num_classes)
            self.present += torch.from_numpy(counts).to(self.present)

    def compute(self) -> Tensor:
        """The mean over thresholds and classes."""
        scores, classes, right = (_joined(getattr(self, name)) for name in ("scores", "classes", "right"))
        present = self.present.cpu().numpy()
        if not present.any():
            return torch.tensor(torch.nan)
        if not len(scores):
            return torch.tensor(0.0)
        # By class, then best first; stable. Short integers are sorted without comparisons.
        order = np.argsort(-scores, kind="stable")
        order = order[np.argsort(classes[order].astype(np.min_scalar_type(self.num_classes)), kind="stable")]
        classes, right = classes[order].astype(np.int64), right[order]
        first = np.searchsorted(classes, np.arange(self.num_classes))
        rank = np.arange(len(classes)) - first[classes] + 1
        sums = [_average_precisions(right[:, t], classes, rank, present) for t in range(right.shape[1])]
        return torch.tensor(np.stack(sums)[:, present > 0].mean(), dtype=torch.float32)


def _best(scores: np.ndarray, classes: np.ndarray, most: int) -> np.ndarray:
    """Indices of the best detections of each class, best first."""
    order = np.argsort(-scores, kind="stable")
    own = classes[order]
    place = np.array([np.count_nonzero(own[:i] == own[i]) for i in range(len(own))], dtype=np.int64)
    return order[place < most]


def _right(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], thresholds: Sequence[float]
) -> np.ndarray:
    """Whether each detection, best first, takes a true box that no better one has taken, bool (D, T)."""
    overlaps = _overlaps(ours["boxes"], theirs["boxes"])
    overlaps[ours["classes"][:, None] != theirs["classes"]] = -1
    least = np.minimum(thresholds, 1 - 1e-10)
    right = np.zeros((len(overlaps), len(least)), dtype=bool)
    free = np.ones((len(least), overlaps.shape[1]), dtype=bool)
    rows = np.arange(len(least))
    # Most detections reach no box at all.
    for d in np.flatnonzero((overlaps >= least.min()).any(1)):
        fitting = np.where(free, overlaps[d], -1.0)
        last = (
            fitting.shape[1] - 1 - fitting[:, ::-1].argmax(1)
        )  # of equal overlaps pycocotools takes the last
        right[d] = fitting[rows, last] >= least
        free[rows[right[d]], last[right[d]]] = False
    return right


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (D, 4) and (G, 4): float64 (D, G)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    shared = sides.clip(min=0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _average_precisions(
    right: np.ndarray, classes: np.ndarray, rank: np.ndarray, present: np.ndarray
) -> np.ndarray:
    """Average precision of each class at one threshold, (K,); only right detections raise the curve.

    Args:
        right: of all detections, sorted by class and then by falling score.
        classes: of each.
        rank: place of each among those of its class, from 1 on.
        present: true boxes of each class, (K,).
    """
    hits = np.flatnonzero(right)
    own, num_classes = classes[hits], len(present)
    first = np.searchsorted(own, np.arange(num_classes))
    found = np.arange(len(hits)) - first[own] + 1
    precision = found / (rank[hits] + np.spacing(1))
    # The best precision at that recall or above. From the back, each class begins above the one before.
    shift = 2.0 * (num_classes - own)
    best = np.maximum.accumulate((precision + shift)[::-1])[::-1] - shift
    total = np.maximum(present[own], 1)
    upto = np.searchsorted(RECALLS, found / total, side="right")
    before = np.where(found > 1, np.searchsorted(RECALLS, (found - 1) / total, side="right"), 0)
    return np.bincount(own, weights=best * (upto - before), minlength=num_classes) / len(RECALLS)


def _joined(state: Any) -> np.ndarray:
    """A list of states, or after a reduction over processes their concatenation."""
    parts = state if isinstance(state, list) else [state]
    return np.concatenate([part.cpu().numpy() for part in parts]) if parts else np.zeros(0)
