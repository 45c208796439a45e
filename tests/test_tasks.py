"""Tasks: a contract for every yaml in configs/task, and numbers against slow independent versions."""

import json
import math
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from datamodules.samples import IGNORE, MISSING, Label
from evaluation.devices import moved
from evaluation.set_metrics import single_numbers
from models.frozen import Frozen
from models.heads.features import TimmFeatures
from models.heads.points import HeatmapPoints
from models.outputs import CodecOutput, LatentSpec
from tasks.base import Task
from tasks.classification import Classification
from tasks.cross_entropy import cross_entropy_sum
from tasks.distillation import Distillation
from tasks.segmentation import Segmentation
from tests.conftest import TASKS, component
from tests.published import NUM_CLASSES, without_downloads

SIZE = (70, 90)
STRIDE = 16
READABLE = {
    "pixels": LatentSpec("map", 3, "base", stride=1),
    "y_hat": LatentSpec("map", 48, "base", stride=STRIDE),
    "enhancement": LatentSpec("map", 8, "top", stride=STRIDE),
    "style": LatentSpec("vector", 32, "base"),
    "content_hat": LatentSpec("map", 12, "content", stride=STRIDE),
    "style_hat": LatentSpec("vector", 16, "style"),
    "basic": LatentSpec("tokens", 8, "basic", length=3),
    "middle": LatentSpec("tokens", 8, "middle", length=4),
}
LABELS = {
    "class": Label("class", tuple(f"class {i}" for i in range(12))),
    "few": Label("class", ("cat", "dog", "cow")),
    "age": Label("class", ("5", "15", "30", "60")),
    "identity": Label("class", ("ann", "bob")),
    "mask": Label("mask", ("background", "skin", "hair", "mouth")),
    "attributes": Label("attributes", ("smiling", "glasses", "hat")),
    "landmarks": Label("landmarks", ("left eye", "right eye", "nose")),
    "boxes": Label("boxes", ("face", "hand")),
    "things": Label("boxes", tuple(f"thing {i}" for i in range(NUM_CLASSES))),
}


def random_output(batch: int) -> CodecOutput:
    height, width = -(-SIZE[0] // STRIDE), -(-SIZE[1] // STRIDE)
    latents = {
        "y_hat": torch.randn(batch, 48, height, width),
        "enhancement": torch.randn(batch, 8, height, width),
        "style": torch.randn(batch, 32),
        "content_hat": torch.randn(batch, 12, height, width),
        "style_hat": torch.randn(batch, 16),
        "basic": torch.randn(batch, 3, 8),
        "middle": torch.randn(batch, 4, 8),
    }
    x_hat = torch.rand(batch, 3, *SIZE)
    for tensor in (x_hat, *latents.values()):
        tensor.requires_grad_()  # as a codec that learns gives them
    return CodecOutput(size=SIZE, x_hat=x_hat, latents=latents)


def random_target(label: Label, batch: int) -> Tensor | list[Tensor]:
    """Labels with nothing missing, as a batch holds them (datamodules/samples.py)."""
    num = len(label.names)
    if label.kind == "class":
        return torch.randperm(batch) % num  # some alike, some not
    if label.kind == "mask":
        return torch.randint(num, (batch, *SIZE))
    if label.kind == "attributes":
        return torch.randint(2, (batch, num))
    if label.kind == "landmarks":
        return torch.rand(batch, num, 2) * torch.tensor([SIZE[1], SIZE[0]])
    corners = [torch.rand(2, 2) * 40 for _ in range(batch)]
    return [torch.cat((corner, corner + 20), 1) for corner in corners]


def random_batch(task: Task, batch: int) -> dict[str, Any]:
    """Pictures, and whatever label the task learns from."""
    found: dict[str, Any] = {"image": torch.rand(batch, 3, *SIZE), "id": [f"image {i}" for i in range(batch)]}
    if task.label is not None:
        found[task.target] = random_target(task.label, batch)
        if task.label.kind == "boxes":
            found["box_class"] = [torch.randint(len(task.label.names), (2,)) for _ in range(batch)]
    return found


def without_labels(task: Task, batch: dict[str, Any], start: int = 0) -> dict[str, Any]:
    """The batch with labels missing from image ``start`` on."""
    if task.label is None:
        pytest.skip("learns from no label that could be missing")
    missing = {task.target: task.label.missing, "box_class": MISSING}
    found = dict(batch)
    for key in missing.keys() & batch.keys():
        if isinstance(batch[key], Tensor):
            found[key] = batch[key].clone()
            found[key][start:] = missing[key]
        else:  # one row, whatever there was
            kept, rest = batch[key][:start], batch[key][start:]
            found[key] = [*kept, *(torch.full_like(value[:1], missing[key]) for value in rest)]
    return found


OTHERS = {
    "classification_frozen_pixels": {"head.network.network.backbone_args": {"num_classes": 12}},
    "fastestdet_pixels": {"target": "things"},
    "fastestdet_own_pixels": {"sure": 0.0},
}
"""Of tasks whose networks come from elsewhere, what fits them to the made-up data set."""


def build(name: str) -> Task:
    """configs/task/<name>.yaml on a made-up codec and data set; published networks have random weights."""
    torch.manual_seed(0)
    node = component("task", name)
    for path, value in {**without_downloads(node), **OTHERS.get(name, {})}.items():
        OmegaConf.update(node, path, value, force_add=True)
    return instantiate(node)(READABLE, LABELS)


def learning(name: str) -> Task:
    """The task, where something can be learned from it: a frozen detector judges alone."""
    task = build(name)
    if hasattr(task.head, "detect") and not hasattr(task.head, "loss"):
        pytest.skip("its head has no loss")
    return task


def first_half(output: CodecOutput, batch: int) -> CodecOutput:
    half = batch // 2
    latents = {name: tensor[:half] for name, tensor in output.latents.items()}
    return CodecOutput(size=output.size, x_hat=output.x_hat[:half], latents=latents)


# --------------------------------------------------------------------------- contract, every configs/task

every_task = pytest.mark.parametrize("name", TASKS)


@every_task
def test_loss_reaches_every_parameter(name):
    task, output = learning(name), random_output(4)
    result = task(output, random_batch(task, 4))
    assert len(task.decide(result.preds, SIZE)) == 4
    assert result.loss_sum.shape == result.count.shape == ()
    assert result.loss_sum.dtype == torch.float32
    assert result.count.dtype == torch.float32
    assert torch.isfinite(result.loss_sum)
    assert result.count > 0
    (result.loss_sum / result.count).backward()
    for path, parameter in task.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
    read = output.read(task.reads[0]).grad
    assert read.isfinite().all()
    assert read.any(), "a codec learns nothing from it"


@every_task
def test_what_needs_no_labels_can_teach_on_pixels(name):
    task = build(name).eval()
    if task.label is not None or task.reads != ("pixels",):
        pytest.skip("learns from labels, or reads more than pixels")
    if type(task).difference is Task.difference:
        pytest.skip("does not say how far two predictions are apart, which is its choice")
    x = torch.rand(2, 3, *SIZE)
    compare = task.compared_with(x)
    torch.testing.assert_close(compare(x), torch.zeros(2), rtol=0, atol=1e-4)
    worse = torch.stack([x[0], x[1].flip(-1)]).requires_grad_()
    found = compare(worse)
    assert found.shape == (2,)
    assert found[0] < 1e-4 < found[1], "each image has its own"
    (gradient,) = torch.autograd.grad(found[1], worse)
    assert gradient[1].any()
    assert not gradient[0].any()


@every_task
def test_loss_falls_on_one_batch(name):
    task = learning(name)
    if not list(task.parameters()):
        pytest.skip("all of its networks are frozen")
    output, batch = random_output(2), random_batch(task, 2)
    optimiser = torch.optim.Adam(task.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        result = task(output, batch)
        loss = result.loss_sum / result.count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@every_task
def test_missing_labels_do_not_count(name):
    task = learning(name).eval()  # batch statistics must not mix the halves
    output, batch = random_output(4), random_batch(task, 4)
    half = task(first_half(output, 4), {key: value[:2] for key, value in batch.items()})
    partly = task(output, without_labels(task, batch, 2))
    torch.testing.assert_close(partly.count, half.count)
    torch.testing.assert_close(partly.loss_sum, half.loss_sum, rtol=1e-4, atol=1e-4)


@every_task
def test_without_any_label_the_loss_is_zero_and_keeps_the_graph(name):
    task = learning(name)
    result = task(random_output(2), without_labels(task, random_batch(task, 2)))
    assert result.loss_sum.item() == 0
    assert result.count.item() == 0
    result.loss_sum.backward()
    for path, parameter in task.named_parameters():
        assert parameter.grad is not None, path
        assert (parameter.grad == 0).all(), path


@every_task
def test_metrics_take_what_the_task_gives(name):
    task = build(name).eval()
    metrics = task.metrics()
    assert task.monitor in metrics
    batch = random_batch(task, 3)
    batches = (batch, batch) if task.label is None else (batch, without_labels(task, batch, 2))
    for batch in batches:
        with torch.no_grad():
            metrics.update(task.decide(task.predict(random_output(3)), SIZE), task.target_of(batch))
    values = single_numbers(metrics.compute())
    assert np.isfinite(list(values.values())).all(), values
    assert all(metric.higher_is_better is not None for metric in metrics.values())


@every_task
def test_illustrate_draws_a_picture(name):
    task = build(name).eval()
    with torch.no_grad():
        decided = task.decide(task.predict(random_output(1)), SIZE)[0]
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    before = image.copy()
    labelled = random_batch(task, 1)
    for batch in (labelled,) if task.label is None else (labelled, without_labels(task, labelled)):
        picture, caption = task.illustrate(image, decided, task.target_of(batch)[0])
        assert picture.shape == (*SIZE, 3)
        assert picture.dtype == np.uint8
        assert len(caption) <= 60
        assert "\n" not in caption
    assert (image == before).all()


@every_task
def test_a_description_is_plain_json(name):
    task = build(name).eval()
    with torch.no_grad():
        decided = task.decide(task.predict(random_output(2)), SIZE)
    for i in range(2):
        described = task.describe(decided[i])
        assert isinstance(described, dict)
        json.dumps(described, allow_nan=False)


@every_task
def test_criterion_is_computed_in_float32_under_autocast(name):
    task = learning(name).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = task(random_output(2), random_batch(task, 2))
    assert result.loss_sum.dtype == torch.float32
    assert torch.isfinite(result.loss_sum)


@every_task
def test_predictions_need_no_labels_and_survive_saving(name):
    task, other = build(name).eval(), build(name).eval()
    other.load_state_dict(task.state_dict())
    output = random_output(2)
    with torch.no_grad():
        torch.testing.assert_close(task.predict(output), other.predict(output))


WAITING = {"detection_faster_rcnn_pixels", "detection_retinanet_pixels"}
"""torchvision's matching and suppression: how much comes out of them depends on values."""


@pytest.mark.parametrize("name", [name for name in TASKS if name not in WAITING])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu(name):
    task = build(name).cuda()
    output, batch = moved(random_output(2), "cuda"), moved(random_batch(task, 2), "cuda")
    task(output, batch)  # the first call may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        task(output, batch).loss_sum.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ----------------------------------------------------------------------------------------- base class


class Constant(nn.Module):
    """A head that answers with its parameter, whatever it reads."""

    def __init__(self, specs, num_outputs: int, *, shape: tuple[int, ...] = ()):
        super().__init__()
        self.specs = specs
        self.logits = nn.Parameter(torch.randn(num_outputs, *shape))

    def forward(self, *tensors: Tensor, size: tuple[int, int]) -> Tensor:
        self.read, self.size = tensors, size
        return self.logits.expand(len(tensors[0]), *self.logits.shape)


def test_head_gets_what_is_read_in_order():
    task = Classification(READABLE, LABELS, reads=["style", "y_hat"], target="class", head=Constant)
    output = random_output(2)
    task.predict(output)
    assert task.head.specs == [READABLE["style"], READABLE["y_hat"]]
    assert task.head.read[0] is output.latents["style"]
    assert task.head.read[1] is output.latents["y_hat"]
    assert task.head.size == SIZE
    assert task.head.logits.shape == (12,)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Classification, {"reads": "z_hat"}, "reads 'z_hat'.*it has .*'y_hat'"),
        (Classification, {"reads": []}, "at least one"),
        (Classification, {"reads": ["pixels", "pixels"]}, "each once"),
        (Classification, {"target": "colour"}, "'colour' is not a label of this data set; it has .*'mask'"),
        (
            Classification,
            {"target": "mask"},
            "Classification needs a label of kind 'class', but 'mask' is 'mask'",
        ),
        (Segmentation, {"target": "class"}, "Segmentation needs a label of kind 'mask'"),
        (Classification, {"class_weights": [1.0, 2.0]}, "`class_weights` must be 12 positive numbers"),
        (
            Segmentation,
            {"target": "mask", "class_weights": [1, 1, 0, 1]},
            "`class_weights` must be 4 positive",
        ),
    ],
)
def test_what_does_not_fit_is_refused(task, options, message):
    with pytest.raises(ValueError, match=message):
        task(READABLE, LABELS, **{"reads": "pixels", "target": "class", "head": Constant, **options})


def test_more_classes_than_a_mask_can_tell_from_no_label():
    labels = {"mask": Label("mask", tuple(map(str, range(256))))}
    with pytest.raises(ValueError, match="256 classes, but the mask value 255 means no label"):
        Segmentation(READABLE, labels, reads="pixels", target="mask", head=Constant)


# ------------------------------------------------------------------------------------------- numerics


def slow_cross_entropy(logits, target, *, missing, weights, smoothing):
    """(sum, count) entry by entry, from the definition."""
    logits, target = logits.double().numpy(), target.numpy()
    num_classes = logits.shape[1]
    logits = np.moveaxis(logits, 1, -1).reshape(-1, num_classes)
    total, count = 0.0, 0.0
    for row, t in zip(logits, target.reshape(-1), strict=True):
        if t == missing:
            continue
        log_p = row - np.log(np.exp(row).sum())
        wanted = np.full(num_classes, smoothing / num_classes)
        wanted[t] += 1 - smoothing
        total += -(weights * wanted * log_p).sum()
        count += weights[t]
    return total, count


@pytest.mark.parametrize("shape", [(), (3, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0, 2.0]])
@pytest.mark.parametrize("missing", [MISSING, IGNORE])
def test_cross_entropy_against_the_definition(shape, smoothing, weights, missing):
    logits, target = torch.randn(6, 4, *shape), torch.randint(4, (6, *shape))
    target[1] = missing
    loss_sum, count = cross_entropy_sum(
        logits,
        target,
        missing=missing,
        class_weights=None if weights is None else torch.tensor(weights),
        label_smoothing=smoothing,
    )
    expected = slow_cross_entropy(
        logits, target, missing=missing, weights=np.array(weights or [1.0] * 4), smoothing=smoothing
    )
    np.testing.assert_allclose((loss_sum.item(), count.item()), expected, rtol=1e-5)


def test_sums_and_counts_of_parts_add_up_to_the_whole():
    """What two ranks add up is what one process has: the (sum, count) contract."""
    weights = torch.tensor([1.0, 3.0, 0.2])
    logits, target = torch.randn(8, 3, 4, 4), torch.randint(3, (8, 4, 4))
    target[0, :2] = IGNORE
    whole = cross_entropy_sum(logits, target, missing=IGNORE, class_weights=weights)
    parts = [
        cross_entropy_sum(logits[i : i + 2], target[i : i + 2], missing=IGNORE, class_weights=weights)
        for i in range(0, 8, 2)
    ]
    for k in (0, 1):
        torch.testing.assert_close(sum(part[k] for part in parts), whole[k])


def slow_miou(preds: np.ndarray, target: np.ndarray, num_classes: int) -> float:
    preds, target = preds[target != IGNORE], target[target != IGNORE]
    ious = []
    for k in range(num_classes):
        union = ((preds == k) | (target == k)).sum()
        if union:
            ious.append(((preds == k) & (target == k)).sum() / union)
    return float(np.mean(ious))


@pytest.mark.parametrize("seen", [(0, 1, 2, 3), (0, 3), (2,)])
def test_miou_against_numpy(seen):
    """Classes absent from prediction and target do not count; the set is pooled before the ratio."""
    task = Segmentation(READABLE, LABELS, reads="pixels", target="mask", head=Constant)
    metrics = task.metrics()
    all_preds, all_targets = [], []
    for _ in range(3):
        target = torch.tensor(seen)[torch.randint(len(seen), (2, 9, 7))]
        guess = torch.where(torch.rand(2, 9, 7) < 0.6, target, torch.tensor(seen)[0])
        target[:, :2] = IGNORE
        guess[:, 0] = 1  # where nothing is labelled, a class predicted only there does not occur
        logits = nn.functional.one_hot(guess, 4).movedim(-1, 1) * 5.0 + torch.rand(2, 4, 9, 7)
        metrics.update(logits, target)
        all_preds.append(guess.numpy())
        all_targets.append(target.numpy())
    preds, target = np.concatenate(all_preds), np.concatenate(all_targets)
    values = metrics.compute()
    assert values["miou"].item() == pytest.approx(slow_miou(preds, target, 4), abs=1e-6)
    labelled = target != IGNORE
    assert values["pixel_accuracy"].item() == pytest.approx((preds == target)[labelled].mean(), abs=1e-6)


def test_class_predicted_but_never_there_counts_as_zero():
    task = Segmentation(READABLE, LABELS, reads="pixels", target="mask", head=Constant)
    metrics = task.metrics()
    guess = torch.tensor([[[0, 0, 0, 1]]])
    metrics.update(nn.functional.one_hot(guess, 4).movedim(-1, 1).float(), torch.zeros_like(guess))
    assert metrics.compute()["miou"].item() == pytest.approx((3 / 4 + 0) / 2)


def test_accuracies_against_numpy():
    task = Classification(READABLE, LABELS, reads="pixels", target="class", head=Constant)
    metrics = task.metrics()
    logits, target = torch.randn(50, 12), torch.randint(12, (50,))
    target[::4] = MISSING
    metrics.update(logits[:20], target[:20])
    metrics.update(logits[20:], target[20:])
    values = metrics.compute()
    labelled = (target != MISSING).numpy()
    ranks = (-logits).argsort(1).numpy()
    for k in (1, 5):
        hits = (ranks[:, :k] == target.numpy()[:, None]).any(1)[labelled]
        assert values[f"top{k}"].item() == pytest.approx(hits.mean(), abs=1e-6)


def test_few_classes_have_no_top5():
    task = Classification(READABLE, LABELS, reads="pixels", target="few", head=Constant)
    assert list(task.metrics()) == ["top1"]


# --------------------------------------------------------------------------------------- illustrations


def test_captions_of_a_classification():
    task = Classification(READABLE, LABELS, reads="pixels", target="few", head=Constant)
    image, cat = np.zeros((4, 4, 3), np.uint8), torch.tensor([2.0, 0.0, 1.0])
    assert task.illustrate(image, cat, torch.tensor(0))[1] == "cat"
    assert task.illustrate(image, cat, torch.tensor(1))[1] == "cat (is dog)"
    assert task.illustrate(image, cat, torch.tensor(MISSING))[1] == "cat"


def test_overlay_of_a_segmentation():
    task = Segmentation(READABLE, LABELS, reads="pixels", target="mask", head=Constant)
    image, target = np.full((2, 2, 3), 100, np.uint8), torch.tensor([[0, 1], [2, 2]])
    preds = nn.functional.one_hot(torch.tensor([[0, 1], [2, 1]]), 4).movedim(-1, 0).float()
    picture, caption = task.illustrate(image, preds, target)
    assert caption == "mIoU 0.67"  # (1 + 1/2 + 1/2) / 3
    assert (picture[0, 1] == picture[1, 1]).all()
    assert (picture[0, 0] != picture[1, 0]).any()


def test_distillation_is_its_formula_and_the_teacher_itself_agrees() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    head = deepcopy(teacher)

    class Student(nn.Module):
        def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
            return head(x)

    task = Distillation(
        READABLE,
        {},
        reads="pixels",
        head=lambda specs, num: Student(),
        num_classes=5,
        teacher=Frozen(teacher),
        temperature=2.0,
    )
    x = torch.rand(4, 3, *SIZE)
    target = task.target_of({"image": x})
    assert not target.requires_grad
    same = task.metrics()
    same.update(task.predict(CodecOutput(size=SIZE, x_hat=x)), target)
    assert {key: round(float(value), 5) for key, value in same.compute().items() if key != "nll"} == {
        "kl": 0,
        "agreement": 1,
    }
    preds = torch.randn(4, 5)
    loss, count = task.criterion(preds, target)
    by_hand = sum(
        4 * p * math.log(p / q)
        for a, b in zip(target, preds, strict=True)
        for p, q in zip((a / 2).softmax(0).tolist(), (b / 2).softmax(0).tolist(), strict=True)
    )
    assert (float(loss), float(count)) == (pytest.approx(by_hand, rel=1e-4), 4)
    found = task.metrics()
    for part in (slice(0, 1), slice(1, 4)):
        found.update(preds[part], target[part])
    first = target.argmax(1)
    nll = -preds.log_softmax(1)[range(4), first].mean()
    assert float(found.compute()["nll"]) == pytest.approx(float(nll), rel=1e-5)
    assert float(found.compute()["agreement"]) == float((preds.argmax(1) == first).float().mean())


def test_a_teacher_of_other_classes_is_named() -> None:
    task = Distillation(
        READABLE,
        {},
        reads="pixels",
        head=lambda specs, num: nn.Identity(),
        num_classes=7,
        teacher=Frozen(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))),
    )
    with pytest.raises(ValueError, match=r"the teacher gives \(5,\) for an image, and num_classes=7"):
        task.target_of({"image": torch.rand(1, 3, *SIZE)})


def test_attributes_count_where_they_are_labelled() -> None:
    task = build("attributes_pixels")
    preds = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.2, -0.4], [-1.0, 3.0, 0.1], [1.0, 0.1, 0.2]])
    target = torch.tensor([[1, 0, -1], [0, 1, 1], [1, -1, 0], [0, 1, 1]])
    loss, count = task.criterion(preds, target)
    pairs = [
        (z, t) for z, t in zip(preds.flatten().tolist(), target.flatten().tolist(), strict=True) if t >= 0
    ]
    by_hand = sum(-math.log(1 / (1 + math.exp(-z if t else z))) for z, t in pairs)
    assert (float(loss), float(count)) == (pytest.approx(by_hand, rel=1e-5), len(pairs))

    def average_precision(scores: list[float], truths: list[int]) -> float:
        ranked = [t for _, t in sorted(zip(scores, truths, strict=True), reverse=True)]
        hits = [sum(ranked[: i + 1]) / (i + 1) for i, t in enumerate(ranked) if t]
        return sum(hits) / len(hits)

    expected = []
    for column in range(3):
        known = [i for i in range(4) if target[i, column] >= 0]
        expected.append(
            average_precision(
                [float(preds[i, column]) for i in known], [int(target[i, column]) for i in known]
            )
        )
    metrics = task.metrics()
    for row in range(4):
        metrics.update(task.decide(preds[row : row + 1], SIZE), target[row : row + 1])
    found = metrics.compute()
    assert float(found["ap"]) == pytest.approx(sum(expected) / 3, abs=1e-6)
    right = sum((z > 0) == bool(t) for z, t in pairs)
    assert float(found["accuracy"]) == pytest.approx(right / len(pairs), abs=1e-6)


@pytest.mark.parametrize("scale", [None, ("left eye", "right eye")])
def test_landmarks_are_measured_in_the_image_s_own_scale(scale: tuple[str, str] | None) -> None:
    node = component("task", "landmarks_latents")
    task = instantiate(node, scale=scale)(READABLE, LABELS)
    target = torch.tensor(
        [[[10.0, 20.0], [40.0, 20.0], [25.0, 60.0]], [[5.0, 5.0], [8.0, 9.0], [math.nan, math.nan]]]
    )
    preds = torch.tensor([[[13.0, 24.0], [40.0, 20.0], [25.0, 50.0]], [[5.0, 5.0], [8.0, 12.0], [70.0, 1.0]]])
    units = [30.0, 5.0] if scale else [math.hypot(30, 40), 5.0]
    by_hand = ((5 + 0 + 10) / 3 / units[0] + (0 + 3) / 2 / units[1]) / 2
    metrics = task.metrics()
    metrics.update(preds, target)
    assert float(metrics.compute()["nme"]) == pytest.approx(by_hand, rel=1e-6)
    preds.requires_grad_()
    loss, count = task.criterion(preds, target)
    loss.backward()
    assert float(count) == 5
    assert preds.grad.isfinite().all()
    assert not preds.grad[1, 2].any()
    assert preds.grad[0, 0].all()
    # An image whose scale has no label counts nowhere.
    target[:, 0] = math.nan
    if scale:
        assert float(task.criterion(preds, target)[1]) == 0


def test_points_lie_where_their_heat_is() -> None:
    head = HeatmapPoints([READABLE["pixels"]], 1, features=partial(TimmFeatures, backbone="resnet10t"))
    stride = head.stride
    heat = torch.full((1, 1, *(-(-side // stride) for side in SIZE)), -1e4)
    heat[0, 0, 3, 5] = heat[0, 0, 3, 6] = 0.0
    head.heat = Given(heat)
    (point,) = head(torch.rand(1, 3, *SIZE), size=SIZE)[0].tolist()
    assert point == pytest.approx([6 * stride - 0.5, 3.5 * stride - 0.5])


class Given(nn.Module):
    """Answers the same whatever it is asked."""

    def __init__(self, answer: Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer


def test_scales_name_two_points() -> None:
    node = component("task", "landmarks_pixels")
    with pytest.raises(ValueError, match=r"scale=\['nose', 'ear'\] must be two of the points"):
        instantiate(node, scale=["nose", "ear"])(READABLE, LABELS)


def test_a_number_is_the_mean_of_its_distribution() -> None:
    task = build("number_latents")
    preds, target = torch.randn(3, 4), torch.tensor([0, 3, -1])
    values = [5.0, 15.0, 30.0, 60.0]
    means = [sum(p * v for p, v in zip(row.softmax(0).tolist(), values, strict=True)) for row in preds]
    decided = task.decide(preds, SIZE)
    assert decided.tolist() == pytest.approx(means, rel=1e-5)
    errors = [abs(means[0] - 5), abs(means[1] - 60)]
    metrics = task.metrics()
    metrics.update(decided, target)
    assert float(metrics.compute()["mae"]) == pytest.approx(sum(errors) / 2, rel=1e-5)
    loss, count = task.criterion(preds, target)
    entropy = -preds.log_softmax(1)[[0, 1], [0, 3]].sum()
    assert (float(loss), float(count)) == (pytest.approx(float(entropy) + 0.1 * sum(errors), rel=1e-5), 2)


def test_classes_that_are_no_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="label 'few': .*'cat': Number needs classes that are numbers"):
        instantiate(component("task", "number_pixels"), target="few")(READABLE, LABELS)
