"""torchvision's detectors as heads: on a timm backbone of any size, or as torchvision publishes them, from a file.

    pixels or latent -> backbone, pyramid -> torchvision's own heads, anchors, losses and decode

Legend: B batch, N boxes of the fullest image, D detections of one image.

Losses are computed image by image, so that they depend neither on batch size nor on ranks. Detectors of two stages draw
the positions that they learn from at random: here keyed by the image's own boxes, so that several processes draw as one
does. Matching and suppression wait for the device (their sizes depend on values): on a GPU, ``fcos.py`` trains faster.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from models.heads.pyramid import FeaturePyramid
from models.heads.torchvision_published import published
from models.outputs import LatentSpec

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of anchors."""


class TorchvisionDetector(nn.Module):
    """What the detectors share: their network, and losses and detections one image at a time.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of classes.
        features: builds the backbone, as in ``models.heads.fcos.FCOS``.
        builder: instead of ``features``, torchvision's name of a whole detector on pixels of their own size, such as
            ``fasterrcnn_resnet50_fpn``.
        weights: of ``builder``: a file that torchvision publishes; needs no network.
        norm: what becomes of the batch norm of ``builder``: group norm, or ``"frozen"``, its statistics and scales
            fixed, as ``weights`` need it.
        class_ids: the network's own number of each class, for weights with other classes (COCO's have 91).
        width: channels of the pyramid on ``features``.
        min_stride: its levels finer than this are left out.
        anchor_size: side of the smallest anchor of a level, in strides.
        arguments: further arguments of torchvision's class, such as ``{score_thresh: 0.05}``.

    Raises:
        ValueError: not one map; both or neither of ``features`` and ``builder``; what they name is not to be had; or
            ``weights`` do not fit.
        FileNotFoundError: there is no file ``weights``.
    """

    kind: type[nn.Module]
    """torchvision's class."""

    first_class = 0
    """The network's number of the first class: 1 where 0 is the background."""

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module] | None = None,
        builder: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        norm: Literal["group", "frozen"] = "group",
        class_ids: Sequence[int] | None = None,
        width: int = 64,
        min_stride: int = 8,
        anchor_size: float = 4.0,
        arguments: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        if len(specs) != 1:
            raise ValueError(f"{name} reads one map, not {len(specs)}")
        if (features is None) == (builder is None):
            raise ValueError(f"{name} needs `features` or `builder`, and not both")
        first = self.first_class
        ids = list(range(first, first + num_outputs)) if class_ids is None else list(class_ids)
        arguments = dict(arguments or {})
        num_classes = arguments.pop("num_classes", max(ids) + 1)
        if len(set(ids)) != num_outputs or min(ids) < first or max(ids) >= num_classes:
            raise ValueError(
                f"class_ids={ids} must be {num_outputs} different numbers within {first}..{num_classes - 1}"
            )
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.register_buffer("names", torch.full((num_classes,), -1), persistent=False)
        self.names[self.ids] = torch.arange(num_outputs)
        if builder is not None:
            self.network = published(specs[0], builder, self.kind, num_classes, weights, norm, arguments)
        elif weights is not None:
            raise ValueError("`weights` are those of `builder`: give `features.weights` for a backbone's")
        else:
            pyramid = FeaturePyramid(specs[0], features=features, width=width, min_stride=min_stride)
            self.network = self._on(pyramid, num_classes, anchor_size, arguments)

    def _on(
        self, pyramid: FeaturePyramid, num_classes: int, anchor_size: float, arguments: dict[str, Any]
    ) -> nn.Module:
        """torchvision's network on a pyramid."""
        raise NotImplementedError

    def _raw(self, maps: list[Tensor], canvas: Tensor) -> dict[str, Any]:
        raise NotImplementedError

    def _losses(self, raw: Mapping[str, Any], target: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's losses of one image."""
        raise NotImplementedError

    def _detections(self, raw: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        raise NotImplementedError

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> dict[str, Any]:
        """Raw output for a map (B, M, h, w): what torchvision's losses and detections are made of."""
        maps = self.network.backbone(x)
        height, width = (side * self.network.backbone.strides[0] for side in maps[0].shape[-2:])
        # Anchors take their strides from the picture's shape and nothing else of it.
        return self._raw(maps, maps[0].new_zeros(()).expand(len(x), 1, height, width))

    def loss(
        self, raw: Mapping[str, Any], boxes: Tensor, classes: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """torchvision's losses of each image, summed over labelled images; their number. See ``FCOS.loss``."""
        total = boxes.new_zeros(())
        with torch.autocast(boxes.device.type, enabled=False), _modes(self.network, training=True):
            for i, image in enumerate(_images(raw)):
                there = classes[i] >= 0
                target = {"boxes": boxes[i][there], "labels": self.ids[classes[i][there]]}
                with _keyed(target["boxes"]):
                    losses = self._losses(image, target)
                # Unlabelled images keep every weight in the graph.
                total = total + sum(losses.values()).where(known[i], 0)
        return total, known.sum().float()

    @torch.no_grad()
    def detect(self, raw: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """For each image ``boxes`` (D, 4) in pixels, ``scores`` (D,) in [0, 1] and ``classes`` (D,), best first."""
        some = next(iter(self.network.parameters()))
        with torch.autocast(some.device.type, enabled=False), _modes(self.network, training=False):
            found = [self._detections(image, size)[0] for image in _images(raw)]
        detections = []
        for one in found:
            classes = self.names[one["labels"]]
            kept = classes >= 0
            detections.append({
                "boxes": one["boxes"][kept],
                "scores": one["scores"][kept],
                "classes": classes[kept],
            })  # fmt: skip
        return detections


class RetinaNet(TorchvisionDetector):
    """Anchors of three sizes and three shapes a position, classified under the focal loss.

    Reference: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, https://arxiv.org/abs/1708.02002.
    """

    kind = detection.RetinaNet

    def _on(
        self, pyramid: FeaturePyramid, num_classes: int, anchor_size: float, arguments: dict[str, Any]
    ) -> nn.Module:
        sizes = tuple(
            tuple(anchor_size * stride * 2 ** (i / 3) for i in range(3)) for stride in pyramid.strides
        )
        anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        return self.kind(pyramid, num_classes, anchor_generator=anchors, **arguments)

    def _raw(self, maps: list[Tensor], canvas: Tensor) -> dict[str, Any]:
        outputs = {name: value.float() for name, value in self.network.head(maps).items()}
        anchors = self.network.anchor_generator(ImageList(canvas[:1], [canvas.shape[-2:]]), maps)[0]
        per_position = self.network.anchor_generator.num_anchors_per_location()
        counts = [level[0, 0].numel() * n for level, n in zip(maps, per_position, strict=True)]
        return {"outputs": outputs, "anchors": list(anchors.float().split(counts))}

    def _losses(self, raw: Mapping[str, Any], target: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.network.compute_loss([target], raw["outputs"], [torch.cat(raw["anchors"])])

    def _detections(self, raw: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        counts = [len(level) for level in raw["anchors"]]
        outputs = {name: list(value.split(counts, 1)) for name, value in raw["outputs"].items()}
        return self.network.postprocess_detections(outputs, [raw["anchors"]], [size])


class TorchvisionFCOS(RetinaNet):
    """torchvision's own FCOS, for its published weights; ``models.heads.fcos`` is the one to train.

    Reference: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, https://arxiv.org/abs/1904.01355.
    """

    kind = detection.FCOS

    def _on(
        self, pyramid: FeaturePyramid, num_classes: int, anchor_size: float, arguments: dict[str, Any]
    ) -> nn.Module:
        sizes = tuple((stride,) for stride in pyramid.strides)
        anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        return self.kind(pyramid, num_classes, anchor_generator=anchors, **arguments)

    def _losses(self, raw: Mapping[str, Any], target: dict[str, Tensor]) -> dict[str, Tensor]:
        counts = [len(level) for level in raw["anchors"]]
        return self.network.compute_loss([target], raw["outputs"], [torch.cat(raw["anchors"])], counts)


class FasterRCNN(TorchvisionDetector):
    """Region proposals, and a small network on the features of each.

    Args:
        specs: this and the others are those of ``TorchvisionDetector``.
        box_width: channels of the network on proposals, on ``features``.

    Reference: Ren et al., Faster R-CNN, NeurIPS 2015, https://arxiv.org/abs/1506.01497.
    """

    kind, first_class = detection.FasterRCNN, 1

    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int, *, box_width: int = 256, **others: Any):
        self.box_width = box_width
        super().__init__(specs, num_outputs, **others)

    def _on(
        self, pyramid: FeaturePyramid, num_classes: int, anchor_size: float, arguments: dict[str, Any]
    ) -> nn.Module:
        sizes = tuple((anchor_size * stride,) for stride in pyramid.strides)
        names = [str(level) for level in range(len(sizes))]
        return self.kind(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
            box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            box_head=TwoMLPHead(pyramid.out_channels * 7**2, self.box_width),
            box_predictor=FastRCNNPredictor(self.box_width, num_classes),
            **arguments,
        )

    def _raw(self, maps: list[Tensor], canvas: Tensor) -> dict[str, Any]:
        return {"maps": maps, "canvas": canvas}

    def _losses(self, raw: Mapping[str, Any], target: dict[str, Tensor]) -> dict[str, Tensor]:
        features, images = _named(raw), ImageList(raw["canvas"], [tuple(raw["canvas"].shape[-2:])])
        proposals, losses = self.network.rpn(images, features, [target])
        _, more = self.network.roi_heads(features, proposals, images.image_sizes, [target])
        return {**losses, **more}

    def _detections(self, raw: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        features, images = _named(raw), ImageList(raw["canvas"], [size])
        proposals, _ = self.network.rpn(images, features)
        return self.network.roi_heads(features, proposals, [size])[0]


def _named(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(level): x.float() for level, x in enumerate(raw["maps"])}


def _images(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each image's part of a raw output; anchors are all images'."""
    own = {key: value for key, value in raw.items() if key != "anchors"}
    count = len(tree_leaves(own)[0])
    return [{**raw, **tree_map(itemgetter(slice(i, i + 1)), own)} for i in range(count)]


@contextmanager
def _modes(network: nn.Module, *, training: bool) -> Iterator[None]:
    """torchvision's parts give losses in training mode and detections otherwise; what lies in them stays as it is."""
    parts = [part for part in network.children() if part.training != training]
    for part in parts:
        part.training = training
    try:
        yield
    finally:
        for part in parts:
            part.training = not training


@contextmanager
def _keyed(boxes: Tensor) -> Iterator[None]:
    """Random numbers that depend on an image's boxes alone."""
    with torch.random.fork_rng(devices=[boxes.device] if boxes.is_cuda else []):
        torch.manual_seed(int(1000 * boxes.sum().item()) % 2**31)
        yield
