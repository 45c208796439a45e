"""FCOS: boxes without anchors, from backbone features of pixels or of a latent.

    features -> pyramid -> towers shared by all levels -> class scores, distances to the four sides, centre-ness

Legend: B batch, A positions of all levels together, K classes, N boxes of the fullest image.

Reference: Tian et al., FCOS: A Simple and Strong Anchor-free Object Detector, PAMI 2020, https://arxiv.org/abs/2006.09214.
Differs from the paper: the loss is normalised by each image's own positives and not by the batch's, so that it depends
neither on batch size nor on ranks; positions between the levels are shared as in torchvision, by 4 to 8 strides.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import (
    batched_nms,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    remove_small_boxes,
    sigmoid_focal_loss,
)

from models.heads.norms import group_norm
from models.heads.pyramid import FeaturePyramid
from models.outputs import LatentSpec

CANDIDATES = 1000
"""Boxes of an image, the best ones, among which doubles are looked for."""


class FCOS(nn.Module):
    """Backbone features, a feature pyramid and torchvision's FCOS towers with group norm.

    Strides are those that the features publish, whatever is read: nothing is guessed from the sizes of tensors.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of classes.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse, and gives
            their ``channels`` and ``strides`` (TimmFeatures).
        width: channels of the pyramid and the towers.
        min_stride: levels finer than this are left out.
        num_convs: convolutions of each tower.
        centre_radius: positions that learn a box lie within so many strides of its centre.
        score_threshold: boxes below it are no detections.
        nms_threshold: overlap (intersection over union) from which two boxes of a class are one.
        max_boxes: detections an image, the best ones.

    Raises:
        ValueError: more than one map is read, or ``min_stride`` leaves no level.

    Example:
        >>> from functools import partial
        >>> from models.heads.features import TimmFeatures
        >>> y = LatentSpec("map", 48, "base", stride=16)
        >>> head = FCOS([y], 3, features=partial(TimmFeatures, backbone="resnet10t", entry_stride=8)).eval()
        >>> raw = head(torch.rand(2, 48, 5, 6), size=(70, 90))
        >>> sorted(head.detect(raw, (70, 90))[0])
        ['boxes', 'classes', 'scores']
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        width: int = 64,
        min_stride: int = 8,
        num_convs: int = 2,
        centre_radius: float = 1.5,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        max_boxes: int = 100,
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"FCOS reads one map, not {len(specs)}")
        self.pyramid = FeaturePyramid(specs[0], features=features, width=width, min_stride=min_stride)
        self.classes = FCOSClassificationHead(width, 1, num_outputs, num_convs, norm_layer=group_norm)
        self.sides = FCOSRegressionHead(width, 1, num_convs, norm_layer=group_norm)
        # Distances pass a ReLU: begun at zero, half of them would never move.
        nn.init.ones_(self.sides.bbox_reg.bias)
        self.centre_radius = centre_radius
        self.score_threshold, self.nms_threshold, self.max_boxes = score_threshold, nms_threshold, max_boxes

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> dict[str, Tensor]:
        """Raw output for a map (B, M, h, w).

        Returns:
            ``logits`` (B, A, K); ``sides`` (B, A, 4), distances to the left, top, right and bottom in strides;
            ``centre`` (B, A, 1), logits of the centre-ness; ``points`` (A, 3): x and y in pixels, and the stride.
        """
        maps = self.pyramid(x)
        sides, centre = self.sides(maps)
        points = [
            _points(level.shape[-2:], stride, x.device)
            for level, stride in zip(maps, self.pyramid.strides, strict=True)
        ]
        return {
            "logits": self.classes(maps),
            "sides": sides,
            "centre": centre,
            "points": torch.cat(points),
        }

    def loss(
        self, raw: Mapping[str, Tensor], boxes: Tensor, classes: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Focal, GIoU and centre-ness loss of each image over its positives, summed over labelled images; their number.

        Args:
            raw: what ``forward`` gave.
            boxes: (B, N, 4) in pixels.
            classes: int64 (B, N), -1 where an image has fewer than N boxes.
            known: whether an image is labelled at all, bool (B,).
        """
        logits, centre, points = raw["logits"].float(), raw["centre"].float()[..., 0], raw["points"]
        distances, index, positive = self._matched(points, boxes, classes)
        wanted = classes.gather(1, index).masked_fill(~positive, -1)
        aims = (wanted[..., None] == torch.arange(logits.shape[2], device=index.device)).float()
        losses = sigmoid_focal_loss(logits, aims).sum((1, 2))

        aimed = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        overlaps = generalized_box_iou_loss(decoded(raw["sides"].float(), points), aimed)
        sides = distances.unflatten(2, (2, 2)).clamp(min=0)  # (left, top), (right, bottom)
        ratios = sides.amin(2) / sides.amax(2).clamp(min=1e-6)
        centres = F.binary_cross_entropy_with_logits(centre, ratios.prod(2).sqrt(), reduction="none")
        losses = losses + (overlaps + centres).where(positive, 0).sum(1)
        losses = losses / positive.sum(1).clamp(min=1)
        return losses.where(known, 0).sum(), known.sum().float()

    def _matched(self, points: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each position its distances to the sides of its box (B, A, 4), which box that is, and whether it has one.

        It has the smallest of the boxes that it lies in, near the centre, and whose size is its level's.
        """
        at, stride = points[:, None, :2], points[:, 2:]
        low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
        distances = torch.cat((at - low, high - at), 3)  # (B, A, N, 4)
        reach = distances.amax(3)
        finest, coarsest = self.pyramid.strides[0], self.pyramid.strides[-1]
        fits = (
            (classes >= 0)[:, None]
            & (distances.amin(3) > 0)
            & ((at - (low + high) / 2).abs().amax(3) < self.centre_radius * stride)
            & ((reach > 4 * stride) | (stride == finest))
            & ((reach < 8 * stride) | (stride == coarsest))
        )
        areas = (high - low).prod(3).where(fits, torch.inf)
        least, index = areas.min(2)
        chosen = distances.gather(2, index[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        return chosen, index, least.isfinite()

    @torch.no_grad()
    def detect(self, raw: Mapping[str, Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """For each image ``boxes`` (D, 4) in pixels, ``scores`` (D,) in [0, 1] and ``classes`` (D,), best first."""
        scores = (raw["logits"].float().sigmoid() * raw["centre"].float().sigmoid()).sqrt()
        boxes = clip_boxes_to_image(decoded(raw["sides"].float(), raw["points"]), size)
        return [self._best(own, s) for own, s in zip(boxes, scores, strict=True)]

    def _best(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        place, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        values, order = scores[place, classes].sort(descending=True, stable=True)
        order = order[:CANDIDATES]
        found, classes = boxes[place[order]], classes[order]
        kept = remove_small_boxes(found, 1e-3)
        found, classes, values = found[kept], classes[kept], values[: len(order)][kept]
        kept = batched_nms(found, values, classes, self.nms_threshold)[: self.max_boxes]
        return {"boxes": found[kept], "scores": values[kept], "classes": classes[kept]}


def decoded(sides: Tensor, points: Tensor) -> Tensor:
    """Boxes (B, A, 4) in pixels of distances (B, A, 4) in strides from points (A, 3)."""
    sides, at = sides * points[:, 2:], points[:, :2]
    return torch.cat((at - sides[..., :2], at + sides[..., 2:]), -1)


def _points(shape: Sequence[int], stride: int, device: torch.device) -> Tensor:
    """Centres of a map's positions, row by row, (h * w, 3): x, y, stride."""
    ys, xs = (stride * (torch.arange(side, device=device, dtype=torch.float32) + 0.5) for side in shape)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((x.flatten(), y.flatten(), torch.full_like(x, stride).flatten()), 1)
