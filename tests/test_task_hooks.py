"""Tasks of other kinds than one tensor for one label: boxes of any number, no label at all, and all that reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from datamodules.samples import Label
from evaluation.devices import moved
from evaluation.evaluator import Evaluation, evaluate
from evaluation.measures import Measures
from evaluation.points import OWN, Head, Point
from evaluation.report.matched_pictures import matched_pictures
from evaluation.rows import image_rows, rows_of
from evaluation.set_metrics import Resampled, from_json, single_numbers, states_of, to_json
from files.analysing import analyse
from files.inputs import find
from models.codecs.identity import Identity
from models.codecs.preprocessed import Preprocessed
from models.codecs.proxies.jpeg import DifferentiableJPEG
from models.codecs.standard.pillow import JPEG
from models.outputs import CodecOutput, LatentSpec
from models.pretrained.onnx import export_onnx
from tasks.base import Task
from tasks.plain import CAPTION, in_short, plain
from tests.conftest import tiny_codec

SIZE = (40, 48)
READABLE = {
    "pixels": LatentSpec("map", 3, "base", stride=1),
    "pixels@base": LatentSpec("map", 3, "base", stride=1),
    "y_hat": LatentSpec("map", 6, "base", stride=8),
}
BOXES = {"boxes": Label("boxes", ("spot", "hole"))}
NUM_QUERIES = 6


class Queries(nn.Module):
    """A detector's head: a fixed number of boxes, each with a score, from mean colours."""

    def __init__(self, specs, num_outputs: int):
        super().__init__()
        self.linear = nn.Linear(specs[0].channels, NUM_QUERIES * (4 + num_outputs))

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> dict[str, Tensor]:
        out = self.linear(x.mean((2, 3))).unflatten(1, (NUM_QUERIES, -1))
        return {"boxes": out[..., :4], "scores": out[..., 4:]}


class Detection(Task):
    """Boxes and classes; decisions are a list of dictionaries, one an image, as torchmetrics takes them."""

    kind = "boxes"
    monitor = "found"

    def decide(self, preds: Mapping[str, Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        height, width = size
        corners = preds["boxes"].float().sigmoid() * torch.tensor([width, height, width, height])
        boxes = torch.cat(
            (corners.unflatten(-1, (2, 2)).amin(-2), corners.unflatten(-1, (2, 2)).amax(-2)), -1
        )
        scores, labels = preds["scores"].float().sigmoid().max(-1)
        return [
            {"boxes": b[s > 0.5], "scores": s[s > 0.5], "labels": c[s > 0.5]}
            for b, s, c in zip(boxes, scores, labels, strict=True)
        ]

    def target_of(self, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        pairs = zip(batch["boxes"], batch["box_class"], strict=True)
        return [{"boxes": boxes, "labels": classes} for boxes, classes in pairs]

    def criterion(self, preds: Mapping[str, Tensor], target: Any) -> tuple[Tensor, Tensor]:
        return preds["scores"].float().square().sum(), torch.tensor(float(len(target)))

    def metrics(self) -> MetricCollection:
        return MetricCollection({"found": Found()})


class Found(Metric):
    """Share of true boxes that a detection overlaps; keeps lists of tensors of all lengths, as detection metrics do."""

    full_state_update = False
    higher_is_better = True

    def __init__(self):
        super().__init__()
        for name in ("detected", "detected_class", "boxes", "box_class"):
            self.add_state(name, default=[], dist_reduce_fx=None)

    def update(self, decided: list[dict[str, Tensor]], target: list[dict[str, Tensor]]) -> None:
        for ours, truth in zip(decided, target, strict=True):
            self.detected.append(ours["boxes"])
            self.detected_class.append(ours["labels"])
            self.boxes.append(truth["boxes"])
            self.box_class.append(truth["labels"])

    def compute(self) -> dict[str, Tensor]:
        """The share, and that of each class that occurs: how many numbers there are depends on the images."""
        overlaps = [
            (box_iou(truth, ours) > 0.1).any(1) if len(ours) else torch.zeros(len(truth), dtype=torch.bool)
            for truth, ours in zip(self.boxes, self.detected, strict=True)
        ]
        found, classes = torch.cat(overlaps).float(), torch.cat(self.box_class)
        shares = {f"found_{k}": found[classes == k].mean() for k in classes.unique().tolist()}
        return {"found": found.mean(), **shares, "classes": classes.unique()}


class Edges(Task):
    """Learns from no label: how bright the picture is, and is judged by the picture itself."""

    monitor = "error"
    num_outputs = 3

    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"].mean((2, 3))

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return (preds - target).square().sum(), torch.tensor(float(len(target)))

    def metrics(self) -> MetricCollection:
        return MetricCollection({"error": MeanSquaredError()})


class Means(nn.Module):
    """A linear layer on means over positions."""

    def __init__(self, specs, num_outputs: int):
        super().__init__()
        self.linear = nn.Linear(specs[0].channels, num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        return self.linear(x.mean((2, 3)))


def detection(seed: int = 0, reads: str = "pixels", readable=READABLE) -> Detection:
    torch.manual_seed(seed)
    return Detection(readable, BOXES, reads=reads, target="boxes", head=Queries).eval()


def edges(reads: str = "pixels", readable=READABLE, **more) -> Edges:
    torch.manual_seed(0)
    return Edges(readable, {}, reads=reads, head=Means, **more).eval()


def boxed(index: int) -> dict[str, Any]:
    """A batch of one picture with ``index % 3`` boxes."""
    generator = torch.Generator().manual_seed(index)
    count = index % 3
    corners = torch.rand(count, 2, generator=generator) * 20
    return {
        "image": torch.rand(1, 3, *SIZE, generator=generator),
        "id": [f"image {index}"],
        "draw": torch.tensor([index]),
        "boxes": [torch.cat((corners, corners + 15), 1)],
        "box_class": [torch.arange(count)],
        "skipped": [],
    }


class Darker(nn.Module):
    """A filter that takes five grey levels off."""

    def forward(self, x: Tensor, level: float) -> Tensor:
        return x - 5 / 255


class Boxed:
    """Pictures with boxes, as evaluation reads them; the first has none."""

    def __len__(self) -> int:
        return 6

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> dict[str, Any]:
        return boxed(index)


def measured(points: list[Point], folder: Path) -> Evaluation:
    return evaluate(points, Boxed(), cache=folder, progress=False, timed_images=0, workers=1)


# -- decisions -----------------------------------------------------------------------------------------------------


def test_raw_output_may_be_anything_and_decisions_any_number():
    task = detection()
    batches = [boxed(i) for i in range(4)]
    batch = {
        "image": torch.cat([b["image"] for b in batches]),
        "boxes": [b["boxes"][0] for b in batches],
        "box_class": [b["box_class"][0] for b in batches],
    }
    result = task(CodecOutput(SIZE, x_hat=batch["image"]), batch)
    assert result.preds["boxes"].shape == (4, NUM_QUERIES, 4)
    decided = task.decide(result.preds, SIZE)
    assert [len(d["boxes"]) == len(d["scores"]) == len(d["labels"]) for d in decided] == [True] * 4
    measures = Measures({"spots": task})
    measures.add_task("spots", decided, task.target_of(batch))
    alone = task.metrics()
    for one, truth in zip(decided, task.target_of(batch), strict=True):
        alone.update([one], [truth])
    expected = single_numbers(alone.compute())
    assert set(expected) == {"found", "found_0", "found_1"}
    assert measures.compute() == {f"spots/{key}": value for key, value in expected.items()}


def test_by_default_decisions_are_the_raw_numbers_in_float32():
    preds = torch.randn(2, 3, dtype=torch.bfloat16)
    assert torch.equal(edges().decide(preds, SIZE), preds.float())


def found_by_hand(task: Detection, indices: list[int]) -> float:
    """Share of true boxes that a decision overlaps, box by box."""
    hits = []
    for index in indices:
        batch = boxed(index)
        with torch.no_grad():
            output = CodecOutput(SIZE, x_hat=batch["image"])
            (decided,) = task.decide(task.predict(output), SIZE)
        for truth in batch["boxes"][0].tolist():
            best = 0.0
            for ours in decided["boxes"].tolist():
                width = min(truth[2], ours[2]) - max(truth[0], ours[0])
                height = min(truth[3], ours[3]) - max(truth[1], ours[1])
                inside = max(width, 0) * max(height, 0)
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (truth, ours)]
                best = max(best, inside / (sum(areas) - inside))
            hits.append(best > 0.1)
    return float(np.mean(hits))


def test_evaluation_of_boxes_equals_a_plain_loop(tmp_path):
    task = detection(seed=3)
    # The codec changes nothing, so that predictions are those of the originals in 8 bits.
    rounded = {i: {**boxed(i), "image": (boxed(i)["image"] * 255).round() / 255} for i in range(6)}
    point = Point("identity", Identity().eval(), heads=[Head("spots", OWN, task)])
    images = Boxed()
    images.read = rounded.__getitem__
    evaluation = evaluate([point], images, cache=tmp_path, progress=False, timed_images=0, workers=2)
    assert not evaluation.skipped
    (row,), (samples,) = rows_of(evaluation, command="", num_resamples=50, progress=False)
    assert row["tasks"]["spots/found"] == pytest.approx(found_by_hand(task, list(range(6))))
    assert 0 < row["tasks"]["spots/found"] < 1
    # A resample without one of the classes has no figure of it; the others have.
    assert np.isfinite(samples["spots/found"]).sum() >= 45
    assert samples["spots/found_1"].shape == (50,)
    rows = image_rows(evaluation)
    assert [r["spots (own)/found"] for r in rows][1:3] == [
        pytest.approx(found_by_hand(task, [index])) for index in (1, 2)
    ]
    json.dumps(evaluation.entries)


def test_states_of_images_without_boxes_survive_json_and_resampling():
    task = detection(seed=3)
    parts, everything = [], []
    for index in range(6):
        batch = boxed(index)
        decided = task.decide(task.predict(CodecOutput(SIZE, x_hat=batch["image"])), SIZE)
        everything.append((decided, task.target_of(batch)))
        states = states_of(task.metrics(), *everything[-1])
        back = from_json(json.loads(json.dumps(to_json(states))))
        assert back["found"].keys() == states["found"].keys()
        for key, values in states["found"].items():
            assert [v.shape for v in back["found"][key]] == [v.shape for v in values]
            assert all(map(torch.equal, back["found"][key], values))
            assert [v.dtype for v in back["found"][key]] == [v.dtype for v in values]
        parts.append(back)
    assert parts[0]["found"]["boxes"][0].shape == (0, 4)
    resampled = Resampled(task.metrics(), parts)
    for counts in ([1] * 6, [0, 3, 0, 0, 2, 1], [4, 0, 1, 1, 0, 0]):
        metrics = task.metrics()
        for (decided, target), count in zip(everything, counts, strict=True):
            for _ in range(count):
                metrics.update(decided, target)
        assert resampled.compute(np.array(counts)) == pytest.approx(
            single_numbers(metrics.compute()), nan_ok=True
        )


def test_torchmetrics_own_detection_metric_is_resampled():
    metrics = MetricCollection(
        {"map": MeanAveragePrecision(iou_thresholds=[0.1], backend="faster_coco_eval")}
    )
    task = detection(seed=3)
    pairs = []
    for index in range(5):
        batch = boxed(index)
        decided = task.decide(task.predict(CodecOutput(SIZE, x_hat=batch["image"])), SIZE)
        pairs.append((moved(decided, "cpu"), task.target_of(batch)))
    parts = [from_json(json.loads(json.dumps(to_json(states_of(metrics, *pair))))) for pair in pairs]
    for counts in ([1] * 5, [0, 3, 0, 0, 2]):
        whole = MetricCollection(
            {"map": MeanAveragePrecision(iou_thresholds=[0.1], backend="faster_coco_eval")}
        )
        for pair, count in zip(pairs, counts, strict=True):
            for _ in range(count):
                whole.update(*pair)
        values = Resampled(metrics, parts).compute(np.array(counts))
        assert values == pytest.approx(single_numbers(whole.compute()))
        assert "map" in values


def test_a_metric_that_keeps_no_tensors_is_named():
    class Names(MeanMetric):
        def __init__(self):
            super().__init__()
            self.add_state("names", default=[], dist_reduce_fx=None)

        def update(self, decided: Any, target: Any) -> None:
            self.names.append("a name")

    with pytest.raises(ValueError, match="metric 'm' keeps str in its state 'names', not tensors alone"):
        states_of(MetricCollection({"m": Names()}), None, None)


# -- what is decoded, and how much comes out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "want"),
    [
        ("pixels", {"pixels"}),
        ("pixels@base", {"pixels"}),
        ("y_hat", {"latents"}),
        (["y_hat", "pixels"], {"pixels", "latents"}),
    ],
)
def test_what_a_task_wants_decoded(reads, want):
    task = edges(reads)
    assert task.want == want
    assert Head("edges", OWN, task).want == want
    assert Head("edges", OWN, task).reads_pixels == (want == {"pixels"})
    # A head that reads through its own codec makes its latents of decoded pixels.
    assert Head("edges", "other", task, reader=Identity()).want == {"pixels"}


def test_evaluation_decodes_what_heads_want_and_the_picture(tmp_path, monkeypatch):
    codec = tiny_codec("mean_scale_tiny").eval()
    wanted = []
    plainly = codec.decompress
    monkeypatch.setattr(
        codec, "decompress", lambda b, want: wanted.append(set(want)) or plainly(b, want=want)
    )
    for reads, expected in (("y_hat", {"pixels", "latents"}), ("pixels", {"pixels"})):
        task = edges(reads, codec.readable)
        measured([Point("mine", codec, heads=[Head("edges", OWN, task)])], tmp_path / reads)
        assert wanted[-1] == expected


def test_a_task_may_say_how_many_outputs_its_head_has():
    class Embedding(Edges):
        def __init__(self, *args: Any, dimension: int, **kwargs: Any):
            self.dimension = dimension
            super().__init__(*args, **kwargs)

        @property
        def num_outputs(self) -> int:
            return self.dimension

    task = Embedding(READABLE, {}, reads="y_hat", head=Means, dimension=7)
    assert task.predict(CodecOutput(SIZE, latents={"y_hat": torch.rand(2, 6, 5, 6)})).shape == (2, 7)


# -- no label ------------------------------------------------------------------------------------------------------


def test_a_task_without_a_label():
    task, batch = edges(), boxed(1)
    assert task.label is None
    assert task.has_target(batch)
    assert task.misfit(BOXES) is None
    result = task(CodecOutput(SIZE, x_hat=batch["image"]), batch)
    assert result.count == 1
    measures = Measures({"edges": task})
    measures.add_task("edges", task.decide(result.preds, SIZE), task.target_of(batch))
    assert measures.compute()["edges/error"] == pytest.approx(result.loss_sum.item() / 3, rel=1e-5)


def test_labels_that_are_there_missing_and_others():
    task = detection()
    assert task.has_target(boxed(1))
    assert not task.has_target({"image": boxed(1)["image"]})
    assert task.misfit(BOXES) is None
    assert task.misfit({}) == "it needs the label 'boxes', the data set has none"
    assert task.misfit({"boxes": Label("boxes", ("spot",))}) == (
        "it learned boxes of ['spot', 'hole'], the data set has ['spot']"
    )


def test_label_and_target_go_together():
    with pytest.raises(ValueError, match="Edges needs no label, but `target` is 'boxes'"):
        Edges(READABLE, BOXES, reads="pixels", target="boxes", head=Means)
    with pytest.raises(ValueError, match="Detection needs a label of kind 'boxes', but `target` is None"):
        Detection(READABLE, BOXES, reads="pixels", head=Queries)

    class Uncounted(Edges):
        num_outputs = Task.num_outputs

    with pytest.raises(ValueError, match="Uncounted has no label: it must say its own `num_outputs`"):
        Uncounted(READABLE, {}, reads="pixels", head=Means)


def test_evaluation_and_gallery_of_a_task_without_a_label(tmp_path):
    codec = tiny_codec("mean_scale_tiny").eval()
    head = Head("edges", OWN, edges("y_hat", codec.readable))
    jpeg = JPEG().eval()
    foreign = Head("edges", "other", head.task, reader=codec)
    points = [Point("mine", codec, heads=[head]), Point("jpeg", jpeg, rate=50.0, heads=[foreign])]
    evaluation = measured(points, tmp_path)
    rows, _ = rows_of(evaluation, command="", num_resamples=5, progress=False)
    errors = []
    for index in range(6):
        batch = boxed(index)
        with torch.no_grad():
            output = codec.decompress(codec.compress(batch["image"]))
            errors.append((head.task.predict(output) - batch["image"].mean((2, 3))).square().mean().item())
    assert rows[0]["tasks"]["edges/error"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert rows[1]["tasks"]["edges/bpp"] == pytest.approx(rows[1]["bpp"])
    gallery = matched_pictures(evaluation, Boxed(), 2, progress=False)
    assert [[list(view.overlays) for view in image.views] for image in gallery] == [
        [["edges (own)"], ["edges (other)"]]
    ] * 2


def test_gallery_of_boxes_shows_the_picture_and_no_words(tmp_path):
    point = Point("jpeg", JPEG().eval(), rate=50.0, heads=[Head("spots", "other", detection())])
    (image,) = matched_pictures(measured([point], tmp_path), Boxed(), 1, progress=False)
    picture, caption = image.views[0].overlays["spots (other)"]
    assert np.array_equal(picture, image.views[0].picture)
    assert caption == ""


def test_gallery_shows_what_a_filter_changes(tmp_path):
    filtered = Preprocessed(Darker(), DifferentiableJPEG(JPEG(), (10, 40))).eval()
    point = Point("filtered", filtered, rate=40.0)
    (image,) = matched_pictures(measured([point], tmp_path), Boxed(), 1, progress=False)
    change, caption = image.views[0].overlays["the filter's change"]
    assert caption == "8 times, on grey"
    expected = np.clip(127.5 - 8 * np.minimum(image.original.astype(float), 5), 0, 255)
    assert np.abs(change - expected).max() <= 4.5  # half a level, eight times


# -- without its frozen network ------------------------------------------------------------------------------------


def test_what_was_left_out_is_said_where_it_would_be_judged(tmp_path):
    task, batch = edges(), boxed(1)
    task.left_out = ("teacher",)
    assert not task.has_target(batch)
    reason = "an exported model has no teacher: judge the run it comes from"
    assert task.misfit({}) == reason
    point = Point("jpeg", JPEG().eval(), rate=50.0, heads=[Head("edges", "other", task)])
    ((_, told),) = measured([point], tmp_path).skipped
    assert f"nothing to judge 'edges' by: {reason}" in told
    assert task.describe(task.decide(task.predict(CodecOutput(SIZE, x_hat=batch["image"])), SIZE)[0])


# -- for programs and people ---------------------------------------------------------------------------------------


def test_by_default_a_description_is_the_decision_in_plain_json():
    task = edges()
    assert task.describe(torch.tensor([1 / 3, float("nan"), 2.0])) == {"prediction": [0.333333, None, 2.0]}
    decided = {"boxes": torch.zeros(0, 4), "scores": torch.tensor([0.1234567]), "labels": torch.tensor([3])}
    assert detection().describe(decided) == {"boxes": [], "scores": [0.123457], "labels": [3]}
    assert plain((np.float32(0.5), float("inf"), "a", None, True)) == [0.5, None, "a", None, True]


def test_by_default_a_picture_is_shown_as_it_is():
    class Named(Edges):
        def describe(self, decided: Tensor) -> dict[str, Any]:
            return {"class": "cat", "probability": float(decided.max()), "all": decided.tolist()}

    image = np.zeros((*SIZE, 3), np.uint8)
    task = Named(READABLE, {}, reads="pixels", head=Means)
    picture, caption = task.illustrate(image, torch.tensor([0.25, 0.5]), None)
    assert picture is image
    assert caption == "class cat, probability 0.5"
    assert edges().illustrate(image, torch.tensor([0.25]), None)[1] == ""
    assert len(in_short({"text": "line\n" * 40})) == CAPTION
    assert "\n" not in in_short({"text": "line\n" * 40})


def test_files_are_analysed_by_what_a_task_decides(tmp_path, capsys):
    codec = tiny_codec("mean_scale_tiny").eval()
    (bits,) = codec.compress(boxed(1)["image"])
    (tmp_path / "a.bif").write_bytes(codec.serialise(bits))
    tasks = {"spots": detection(readable=codec.readable), "edges": edges("y_hat", codec.readable)}
    found, _ = find([tmp_path / "a.bif"], {".bif"}, apart=None)
    assert analyse(codec, tasks, found, workers=1).status == 0
    told = json.loads(capsys.readouterr().out)["tasks"]
    assert told["spots"].keys() == {"boxes", "scores", "labels"}
    assert len(told["spots"]["boxes"]) == len(told["spots"]["scores"])
    output = codec.decompress([bits])
    assert told["edges"]["prediction"] == pytest.approx(tasks["edges"].predict(output)[0].tolist(), abs=1e-5)


@pytest.mark.slow
def test_onnx_files_hold_raw_predictions_by_name(tmp_path):
    codec = tiny_codec("mean_scale_tiny").eval()
    tasks = {"spots": detection(readable=codec.readable), "edges": edges("y_hat", codec.readable)}
    record = export_onnx(codec, tasks, tmp_path)
    assert {"task_spots.onnx", "task_edges.onnx"} <= record.keys()
    session = onnxruntime.InferenceSession(str(tmp_path / "task_spots.onnx"))
    assert [output.name for output in session.get_outputs()] == ["output_boxes", "output_scores"]
    x = torch.rand(2, 3, 64, 80)
    boxes, scores = session.run(None, {"pixels": x.numpy()})
    expected = tasks["spots"].predict(CodecOutput((64, 80), x_hat=x))
    torch.testing.assert_close(torch.from_numpy(boxes), expected["boxes"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(scores), expected["scores"], rtol=1e-3, atol=1e-4)


def test_raw_output_that_is_no_tensor_cannot_be_onnx(tmp_path):
    class Counted(Means):
        def forward(self, x: Tensor, *, size: tuple[int, int]) -> dict[str, Any]:
            return {"value": super().forward(x, size=size), "count": len(x)}

    codec = Identity().eval()
    task = Edges(codec.readable, {}, reads="pixels", head=Counted).eval()
    with pytest.raises(
        ValueError, match=r"task_edges cannot be written .*output_count is int, no tensor.*onnx=false"
    ):
        export_onnx(codec, {"edges": task}, tmp_path)
