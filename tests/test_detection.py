"""Detection: losses and metrics against slow independent versions, and torchvision's networks against themselves."""

from functools import partial

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchvision.models import get_model
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from datamodules.samples import Label
from evaluation.set_metrics import Resampled, from_json, states_of, to_json
from models.codecs.identity import Identity
from models.heads.fcos import FCOS, decoded
from models.heads.features import TimmFeatures
from models.heads.torchvision_detectors import FasterRCNN, RetinaNet, TorchvisionFCOS
from models.outputs import CodecOutput, LatentSpec
from tasks.detection import Detection
from tasks.mean_average_precision import THRESHOLDS, MeanAveragePrecision
from tasks.own_detections import OwnDetections

SIZE = (70, 90)
PIXELS = LatentSpec("map", 3, "base", stride=1)
LATENT = LatentSpec("map", 8, "base", stride=16)
FEATURES = partial(TimmFeatures, backbone="resnet10t", norm="group")
LABELS = {"boxes": Label("boxes", ("cell", "clot", "dust"))}


def detections(seed: int, images: int = 8, classes: int = 4, rounded: bool = True):
    """(decided, target) of images with boxes near the true ones, many scores and overlaps alike; some are empty."""
    rng = np.random.default_rng(seed)
    decided, target = [], []
    for i in range(images):
        num_true, num_found = (
            (0 if i in (0, 1) else rng.integers(1, 8)),
            (0 if i in (0, 2) else rng.integers(1, 40)),
        )
        low = rng.uniform(0, 100, (num_true, 2))
        truth = np.concatenate((low, low + rng.uniform(10, 80, (num_true, 2))), 1)
        kinds = rng.integers(classes - 1, size=num_true)  # the last class never occurs
        if num_true:
            near = rng.integers(num_true, size=num_found)
            found, own = truth[near] + 6 * rng.standard_normal((num_found, 4)), kinds[near]
        else:
            low = rng.uniform(0, 100, (num_found, 2))
            found, own = np.concatenate((low, low + 30), 1), np.zeros(num_found, dtype=np.int64)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        own = np.where(rng.random(num_found) < 0.2, rng.integers(classes, size=num_found), own)
        scores = rng.random(num_found)
        if rounded:
            found, truth, scores = found.round(), truth.round(), (10 * scores).round() / 10
        decided.append({
            "boxes": torch.tensor(found).float(),
            "scores": torch.tensor(scores).float(),
            "classes": torch.tensor(own),
        })  # fmt: skip
        target.append({"boxes": torch.tensor(truth).float(), "classes": torch.tensor(kinds)})
    return decided, target


def coco_tools(decided, target, classes: int = 4) -> tuple[float, float]:
    """(mAP, AP50) by faster-coco-eval."""

    def rows(of, **more):
        return [
            {"image_id": i + 1, "category_id": int(k) + 1, "bbox": [*b[:2], b[2] - b[0], b[3] - b[1]]}
            | {key: float(one[key][j]) for key in more}
            for i, one in enumerate(of)
            for j, (k, b) in enumerate(zip(one["classes"], one["boxes"].double().tolist(), strict=True))
        ]

    truth = [
        {**row, "id": n + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for n, row in enumerate(rows(target))
    ]
    images = [{"id": i + 1, "width": 300, "height": 300} for i in range(len(target))]
    names = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    ground = COCO({"images": images, "annotations": truth, "categories": names})
    found = [
        {key: row[key] for key in row if key != "scores"} | {"score": row["scores"]}
        for row in rows(decided, scores=1)
    ]
    tool = COCOeval_faster(ground, ground.loadRes(found), "bbox", print_function=lambda *_: None)
    tool.evaluate()
    tool.accumulate()
    tool.summarize()
    return float(tool.stats[0]), float(tool.stats[1])


def both(classes: int = 4) -> MetricCollection:
    metrics = {"map": MeanAveragePrecision(classes), "map_50": MeanAveragePrecision(classes, (0.5,))}
    return MetricCollection(metrics, compute_groups=False)


# -- metrics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_map_is_that_of_cocos_tools(seed, rounded):
    decided, target = detections(seed, rounded=rounded)
    metrics = both()
    for i in range(0, len(decided), 3):
        metrics.update(decided[i : i + 3], target[i : i + 3])
    values = metrics.compute()
    expected = coco_tools(decided, target)
    assert 0.05 < expected[0] < 0.9
    assert (float(values["map"]), float(values["map_50"])) == pytest.approx(expected, abs=1e-6)


def test_map_of_resampled_images_is_that_of_cocos_tools():
    decided, target = detections(5)
    parts = [
        from_json(to_json(states_of(both(), [one], [truth])))
        for one, truth in zip(decided, target, strict=True)
    ]
    counts = np.array([1, 0, 2, 3, 0, 0, 1, 1])
    drawn = np.repeat(np.arange(8), counts)
    values = Resampled(both(), parts).compute(counts)
    expected = coco_tools([decided[i] for i in drawn], [target[i] for i in drawn])
    assert (values["map"], values["map_50"]) == pytest.approx(expected, abs=1e-6)


def test_only_the_best_hundred_of_a_class_count():
    truth = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "classes": torch.tensor([0])}
    boxes = torch.tensor([[50.0, 50, 60, 60]]).repeat(101, 1)
    boxes[100] = truth["boxes"][0]
    found = {
        "boxes": boxes,
        "scores": torch.linspace(0.9, 0.1, 101),
        "classes": torch.zeros(101, dtype=torch.int64),
    }
    for most, expected in ((100, 0.0), (101, 1 / 101)):
        metric = MeanAveragePrecision(1, max_boxes=most)
        metric.update([found], [truth])
        assert float(metric.compute()) == pytest.approx(expected)


def test_images_without_label_count_nowhere_and_nothing_is_nan():
    decided, target = detections(1)
    metrics, fewer = both(), both()
    fewer.update(decided[:-1], target[:-1])
    lacking = {"boxes": torch.full((1, 4), torch.nan), "classes": torch.tensor([-1])}
    metrics.update(decided, [*target[:-1], lacking])
    assert metrics.compute() == fewer.compute()
    empty = both()
    empty.update(decided[-1:], [lacking])
    assert all(torch.isnan(value) for value in empty.compute().values())


def test_thresholds_are_cocos():
    assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]) == list(THRESHOLDS)


# -- FCOS ----------------------------------------------------------------------------------------------------------


def slow_fcos_loss(head: FCOS, raw, boxes, classes) -> float:
    """One image's loss, position by position, from the definition."""
    strides, positives, total = head.pyramid.strides, 0, 0.0
    places = decoded(raw["sides"], raw["points"])[0]
    for a, (x, y, stride) in enumerate(raw["points"].tolist()):
        best, area = None, float("inf")
        for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            sides = (x - x0, y - y0, x1 - x, y1 - y)
            near = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < 1.5 * stride
            low = 0 if stride == strides[0] else 4 * stride
            high = float("inf") if stride == strides[-1] else 8 * stride
            if min(sides) > 0 and near and low < max(sides) < high and (x1 - x0) * (y1 - y0) < area:
                best, area = n, (x1 - x0) * (y1 - y0)
        aims = torch.zeros(raw["logits"].shape[2])
        if best is not None:
            positives += 1
            aims[classes[best]] = 1
            x0, y0, x1, y1 = boxes[best].tolist()
            ratio = min(x - x0, x1 - x) / max(x - x0, x1 - x) * min(y - y0, y1 - y) / max(y - y0, y1 - y)
            total += float(generalized_box_iou_loss(places[a], boxes[best]))
            share = raw["centre"][0, a, 0].sigmoid()
            total -= float(ratio**0.5 * share.log() + (1 - ratio**0.5) * (1 - share).log())
        total += float(sigmoid_focal_loss(raw["logits"][0, a], aims, reduction="sum"))
    assert positives
    return total / positives


def random_head(spec: LatentSpec, **more) -> FCOS:
    torch.manual_seed(0)
    return FCOS([spec], 3, features=FEATURES, width=16, num_convs=1, **more).eval()


BOXES = torch.tensor([[4.0, 6, 40, 30], [20, 10, 88, 69], [2, 40, 20, 60], [10, 8, 30, 28]])
CLASSES = torch.tensor([0, 2, 1, 0])


@torch.no_grad()
def test_fcos_loss_equals_a_plain_loop_and_needs_no_neighbours():
    head = random_head(PIXELS)
    raw = head(torch.rand(3, 3, *SIZE), size=SIZE)
    boxes, classes = torch.zeros(3, 4, 4), torch.full((3, 4), -1)
    boxes[0], classes[0], boxes[1, 0], classes[1, 0] = BOXES, CLASSES, BOXES[1], 2
    singles = [{key: x if key == "points" else x[i : i + 1] for key, x in raw.items()} for i in range(2)]
    expected = slow_fcos_loss(head, singles[0], BOXES, CLASSES)
    expected += slow_fcos_loss(head, singles[1], BOXES[1:2], torch.tensor([2]))
    total, count = head.loss(raw, boxes, classes, torch.tensor([True, True, False]))
    assert count == 2
    assert float(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("spec", "entry"), [(PIXELS, None), (LATENT, 8), (LATENT, 4)])
def test_fcos_points_lie_where_the_strides_say(spec, entry):
    features = partial(FEATURES, entry_stride=entry)
    head = FCOS([spec], 3, features=features, width=16, min_stride=4)
    shape = [-(-side // spec.stride) for side in SIZE]
    raw = head(torch.rand(1, spec.channels, *shape), size=SIZE)
    x, y, stride = raw["points"].T
    assert (
        stride.unique().tolist()
        == list(head.pyramid.strides)
        == [s for s in (4, 8, 16, 32) if s >= (entry or 4)]
    )
    assert torch.equal((x / stride) % 1, torch.full_like(x, 0.5))
    for level in stride.unique():
        own = stride == level
        assert float(x[own].max()) >= SIZE[1] - level
        assert float(y[own].max()) >= SIZE[0] - level


def test_fcos_decodes_what_its_loss_asks_for():
    """Raw output that is right everywhere gives back the true boxes, at full overlap."""
    head = random_head(PIXELS)
    raw = head(torch.rand(1, 3, *SIZE), size=SIZE)
    distances, index, positive = head._matched(raw["points"], BOXES[None], CLASSES[None])
    wanted = CLASSES[index[0]]
    logits = torch.full_like(raw["logits"], -20.0)
    logits[0, torch.arange(len(wanted))[positive[0]], wanted[positive[0]]] = 20.0
    raw |= {
        "sides": distances / raw["points"][:, 2:],
        "logits": logits,
        "centre": torch.full_like(raw["centre"], 20.0),
    }
    (found,) = head.detect(raw, SIZE)
    assert sorted(map(tuple, found["boxes"].round().tolist())) == sorted(map(tuple, BOXES.tolist()))
    metric = MeanAveragePrecision(3)
    metric.update([found], [{"boxes": BOXES, "classes": CLASSES}])
    assert float(metric.compute()) == pytest.approx(1)


def test_heads_refuse_what_they_cannot_read():
    with pytest.raises(ValueError, match="FCOS reads one map, not 2"):
        FCOS([PIXELS, PIXELS], 3, features=FEATURES)
    with pytest.raises(ValueError, match="`min_stride`=64 leaves no map of this backbone; its strides: .*32"):
        FCOS([PIXELS], 3, features=FEATURES, min_stride=64)
    with pytest.raises(ValueError, match="RetinaNet needs `features` or `builder`, and not both"):
        RetinaNet([PIXELS], 3)
    with pytest.raises(ValueError, match=r"class_ids=.* must be 3 different numbers within 1..2"):
        FasterRCNN([PIXELS], 3, features=FEATURES, class_ids=[0, 1, 2])
    with pytest.raises(ValueError, match="is a FasterRCNN, not a RetinaNet: choose"):
        RetinaNet([PIXELS], 3, builder="fasterrcnn_mobilenet_v3_large_320_fpn")
    with pytest.raises(ValueError, match="whole detector on pixels: give `features` for a latent"):
        RetinaNet([LATENT], 3, builder="retinanet_resnet50_fpn")


# -- torchvision's detectors ---------------------------------------------------------------------------------------

PUBLISHED = [
    (RetinaNet, "retinanet_resnet50_fpn"),
    (TorchvisionFCOS, "fcos_resnet50_fpn"),
    (FasterRCNN, "fasterrcnn_mobilenet_v3_large_320_fpn"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("head", "builder"), PUBLISHED)
def test_a_published_detector_finds_what_torchvision_finds(head, builder, tmp_path):
    torch.manual_seed(0)
    more = {"score_thresh" if head is not FasterRCNN else "box_score_thresh": 0.0}
    theirs = get_model(builder, weights=None, weights_backbone=None, num_classes=7, **more).eval()
    for part in theirs.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ids = [4, 6, 1, 2, 3, 5]
    ours = head(
        [PIXELS],
        6,
        builder=builder,
        weights=tmp_path / "weights.pth",
        norm="frozen",
        class_ids=ids,
        arguments={**more, "num_classes": 7},
    )
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in ours.modules())
    image = torch.rand(1, 3, 96, 128)
    theirs.transform.min_size, theirs.transform.max_size = (96,), 128
    with torch.no_grad():
        (expected,) = theirs(list(image))
        (found,) = ours.eval().detect(ours(image, size=(96, 128)), (96, 128))
    known = (
        expected["labels"] > 0 if head is FasterRCNN else torch.isin(expected["labels"], torch.tensor(ids))
    )
    torch.testing.assert_close(found["scores"], expected["scores"][known])
    torch.testing.assert_close(found["boxes"], expected["boxes"][known], rtol=1e-4, atol=1e-3)
    assert torch.equal(torch.tensor(ids)[found["classes"]], expected["labels"][known])
    assert len(found["scores"]) > 10


@pytest.mark.parametrize("kind", [RetinaNet, TorchvisionFCOS, FasterRCNN])
def test_torchvision_losses_are_those_of_its_own_training_step(kind):
    torch.manual_seed(0)
    head = kind([PIXELS], 3, features=FEATURES, width=32 if kind is not TorchvisionFCOS else 64)
    images = torch.rand(2, 3, 64, 96)
    targets = [
        {"boxes": BOXES, "labels": head.ids[CLASSES]},
        {"boxes": BOXES[:0], "labels": head.ids[CLASSES[:0]]},
    ]

    class Plain(torch.nn.Module):  # its own transform would resize; its backbone gives a list
        def forward(self, images, targets=None):
            sizes = [tuple(image.shape[-2:]) for image in images]
            return ImageList(torch.stack(images), sizes), targets

        def postprocess(self, found, *sizes):
            return found

    backbone, expected = head.network.backbone, 0.0
    boxes, classes = torch.zeros(2, 4, 4), torch.full((2, 4), -1)
    boxes[0], classes[0] = BOXES, CLASSES
    with torch.no_grad():
        total, count = head.loss(head(images, size=(64, 96)), boxes, classes, torch.tensor([True, True]))
        head.network.backbone = NamedMaps(backbone)
        head.network.transform = Plain()
        for i in range(2):
            with torch.random.fork_rng():
                torch.manual_seed(int(1000 * targets[i]["boxes"].sum()))
                expected += float(sum(head.network([images[i]], [targets[i]]).values()))
    assert count == 2
    assert float(total) == pytest.approx(expected, rel=1e-4)


class NamedMaps(torch.nn.Module):
    """A backbone as torchvision takes it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return {str(level): value for level, value in enumerate(self.backbone(x))}


def test_wrong_weights_are_refused(tmp_path):
    torch.save({"head": torch.zeros(1)}, tmp_path / "weights.pth")
    make = partial(FasterRCNN, [PIXELS], 3, builder="fasterrcnn_mobilenet_v3_large_320_fpn")
    with pytest.raises(
        ValueError, match="`norm: group` drops the statistics .*: use `norm: frozen` with them"
    ):
        make(weights=tmp_path / "weights.pth")
    make = partial(make, norm="frozen")
    with pytest.raises(
        ValueError, match="does not hold the weights of .* with 4 classes: .*; give `class_ids`"
    ):
        make(weights=tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="no file .*absent.pth"):
        make(weights=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="torchvision has no detector 'yolo'"):
        FasterRCNN([PIXELS], 3, builder="yolo")


# -- the task ------------------------------------------------------------------------------------------------------


class Frozen(torch.nn.Module):
    """Somebody else's detector: one box in each quarter of brightness, and no loss."""

    def forward(self, x, *, size):
        return x.mean((1, 2, 3))

    def detect(self, raw, size):
        box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        return [{"boxes": box, "scores": one[None], "classes": torch.tensor([1])} for one in raw]


def test_a_frozen_detector_without_loss_is_judged_and_nothing_learns_from_it():
    task = Detection(
        {"pixels": PIXELS}, LABELS, reads="pixels", target="boxes", head=lambda specs, num: Frozen()
    )
    output = CodecOutput(SIZE, x_hat=torch.full((2, 3, *SIZE), 0.25))
    batch = {"boxes": [torch.tensor([[0.0, 0, 90, 70]]), torch.zeros(0, 4)]}
    batch["box_class"] = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    with torch.no_grad():
        result = task(output, batch)
    assert (float(result.loss_sum), float(result.count)) == (0, 0)
    with pytest.raises(ValueError, match="Frozen has no loss: it can be judged, but nothing learns from it"):
        task(output, batch)
    decided = task.decide(result.preds, SIZE)
    assert task.describe(decided[0]) == {
        "boxes": [{"class": "clot", "score": 0.25, "box": [0.0, 0.0, 90.0, 70.0]}]
    }
    metrics = task.metrics()
    metrics.update(decided, task.target_of(batch))
    # Of two detections of equal score the first is right.
    assert {key: float(value) for key, value in metrics.compute().items()} == {"map": 1.0, "map_50": 1.0}


def test_boxes_are_drawn_where_they_are():
    task = Detection(
        {"pixels": PIXELS}, LABELS, reads="pixels", target="boxes", head=lambda specs, num: Frozen()
    )
    decided = {
        "boxes": torch.tensor([[10.0, 5, 30, 25], [40, 40, 60, 60]]),
        "scores": torch.tensor([0.9, 0.1]),
        "classes": torch.tensor([2, 0]),
    }
    target = {"boxes": torch.tensor([[10.0, 5, 30, 25]]), "classes": torch.tensor([2])}
    picture, caption = task.illustrate(np.zeros((*SIZE, 3), np.uint8), decided, target)
    assert caption == "1 boxes, 1 true, AP50 1.00"
    assert picture[5, 20].any()
    assert picture[15, 10].any()
    assert not picture[15, 20].any()
    assert not picture[40:61, 40:61].any()  # too unsure


class Bright(nn.Module):
    """Two boxes in every picture, of classes 0 and 2, as sure as the picture is bright, and half as sure."""

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        return x.mean((1, 2, 3))

    def detect(self, raw: Tensor, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
        return [
            {"boxes": boxes, "scores": torch.stack([one, one / 2]), "classes": torch.tensor([0, 2])}
            for one in raw
        ]


def test_own_detections_are_those_that_the_detector_is_sure_of_in_the_original() -> None:
    readable = Identity().readable
    task = OwnDetections(
        readable, {}, reads="pixels", head=lambda specs, num: Bright(), num_classes=3, sure=0.3
    )
    batch = {"image": torch.tensor([0.9, 0.5, 0.2])[:, None, None, None].expand(3, 3, 32, 32)}
    truth = task.target_of(batch)
    assert [one["classes"].tolist() for one in truth] == [[0, 2], [0], []]
    assert truth[0]["boxes"].shape == (2, 4)
    # The original itself, where the detector is sure of all that it finds, is read as it is.
    decided = task.decide(task.predict(CodecOutput((32, 32), x_hat=batch["image"])), (32, 32))
    metrics = task.metrics()
    metrics.update(decided[:1], truth[:1])
    assert metrics.compute()["map"] == 1
    with pytest.raises(ValueError, match="sure=2 must be within 0..1"):
        OwnDetections(readable, {}, reads="pixels", head=lambda *_: Bright(), num_classes=3, sure=2)
    with pytest.raises(ValueError, match="num_classes=0 must be positive"):
        OwnDetections(readable, {}, reads="pixels", head=lambda *_: Bright(), num_classes=0)
