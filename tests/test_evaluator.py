"""The evaluation engine: figures from real files, cache, resumption, damaged images, failing codecs."""

import json
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.utilities import dim_zero_sum

from datamodules.portraits import Portraits
from evaluation.cache import Cache
from evaluation.curves.comparison import compare
from evaluation.evaluator import evaluate
from evaluation.failures import Failures
from evaluation.points import OWN, Head, Point
from evaluation.rows import image_rows, rows_of
from evaluation.set_metrics import Resampled, from_json, states_of, to_json
from evaluation.sources import SplitImages
from models.codecs.identity import Identity
from models.codecs.standard.pillow import JPEG
from tasks.classification import Classification
from tests.conftest import tiny_codec


class Head1(torch.nn.Module):
    """A linear classifier on mean colours."""

    def __init__(self, specs, num_outputs):
        super().__init__()
        self.linear = torch.nn.Linear(specs[0].channels, num_outputs)

    def forward(self, x, *, size):
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def images() -> SplitImages:
    return SplitImages(Portraits(size=64, num_test=6, batch_size=2), "test")


def task(codec, labels, reads="pixels", seed=0) -> Classification:
    torch.manual_seed(seed)
    return Classification(codec.readable, labels, reads=reads, target="identity", head=Head1).eval()


def jpeg(rate: float, **more) -> Point:
    return Point("jpeg", JPEG(subsampling="4:4:4").eval(), rate=rate, shown_rate=rate, **more)


def quietly(points, images, folder: Path, **more):
    return evaluate(
        points, images, cache=folder, progress=False, timed_images=more.pop("timed_images", 0), **more
    )


def test_figures_equal_those_of_a_plain_loop(images, tmp_path):
    codec = tiny_codec("mean_scale_tiny").eval()
    labels = images.source.labels
    own, foreign = task(codec, labels, "y_hat"), task(codec, labels, "y_hat", seed=1)
    heads = [Head("identity", OWN, own), Head("identity", "other", foreign, reader=codec)]
    points = [
        Point("mine", codec, shown_rate=0.01, heads=heads[:1]),
        jpeg(30.0, heads=heads[1:]),
        Point("identity", Identity().eval(), heads=heads[1:]),
    ]
    evaluation = quietly(points, images, tmp_path, workers=2)
    rows, _ = rows_of(evaluation, command="test", num_resamples=20, progress=False)
    assert [row["codec"] for row in rows] == ["mine", "jpeg", "identity"]
    assert [row["task_head"] for row in rows] == [OWN, "other", "other"]
    assert rows[2]["bpp"] == pytest.approx(24, rel=0.01)
    assert rows[2]["psnr"] == 100
    for row, point, head in zip(rows, points, (own, foreign, foreign), strict=True):
        bits, errors, right = [], [], []
        for index in range(len(images)):
            batch = images.read(index)
            data = point.codec.serialise(point.codec.compress(batch["image"], point.rate)[0])
            output = point.codec.decompress([point.codec.parse(data)])
            bits.append(8 * len(data) / 64**2)
            decoded = (output.x_hat[0].numpy() * 255).round().astype(np.uint8).astype(float)
            errors.append(
                10 * np.log10(255**2 / max(((decoded - batch["image"][0].numpy() * 255) ** 2).mean(), 1e-5))
            )
            with torch.no_grad():
                latents = codec(output.x_hat).latents if head is foreign else output.latents
                logits = head.head(latents["y_hat"], size=(64, 64))
            right.append(int(logits.argmax()) == int(batch["identity"]))
        assert row["bpp"] == pytest.approx(np.mean(bits), abs=1e-9)
        if row["codec"] != "identity":
            assert row["psnr"] == pytest.approx(np.mean(errors), abs=1e-4)
        assert row["tasks"]["identity/top1"] == pytest.approx(np.mean(right))
        # A head on latents that were never sent pays for the file it was given.
        assert row["tasks"]["identity/bpp"] == pytest.approx(row["bpp"])


@pytest.mark.parametrize("name", ["mean_scale_tiny", "compressai_mbt2018_mean"])
def test_workers_and_order_change_nothing(name, images, tmp_path):
    codec = tiny_codec(name).eval()
    # Two readers of one model: CompressAI's needs hooks while it estimates, which threads must not share.
    heads = [Head("identity", "other", task(codec, images.source.labels, "y_hat"), reader=codec)]
    points = [Point("mine", codec), jpeg(30.0, heads=heads), jpeg(80.0, heads=heads)]
    one = quietly(points, images, tmp_path / "1", workers=1)
    two = quietly(points, images, tmp_path / "2", workers=2)
    assert one.entries == two.entries
    assert one.images == [images.name(i) for i in range(6)]


def test_second_call_measures_nothing_and_new_heads_alone_are_added(images, tmp_path, monkeypatch):
    labels = images.source.labels
    codec = JPEG().eval()
    first = quietly([jpeg(30.0), jpeg(60.0)], images, tmp_path, timed_images=1)
    monkeypatch.setattr(JPEG, "encode", lambda *_: pytest.fail("coded again"))
    again = quietly([jpeg(30.0), jpeg(60.0)], images, tmp_path, timed_images=1)
    assert again.entries == first.entries
    assert again.seconds == first.seconds
    assert again.seconds[0]["encode"] > 0
    monkeypatch.undo()
    calls = []
    encode = JPEG.encode
    monkeypatch.setattr(JPEG, "encode", lambda self, x, rate: calls.append(rate) or encode(self, x, rate))
    heads = [Head("identity", "other", task(codec, labels), codec)]
    quietly([jpeg(30.0, heads=heads), jpeg(60.0)], images, tmp_path, workers=1)
    assert set(calls) == {30.0}
    others = [Head("identity", "another", task(codec, labels, seed=1), codec)]
    quietly([jpeg(30.0, heads=others)], images, tmp_path, workers=1)
    calls.clear()
    quietly([jpeg(30.0, heads=[*heads, *others])], images, tmp_path, workers=1)
    assert not calls


def test_interrupted_goes_on(images, tmp_path, monkeypatch):
    encode, calls = JPEG.encode, []

    def interrupted(self, image, rate):
        calls.append(rate)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return encode(self, image, rate)

    monkeypatch.setattr(JPEG, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly([jpeg(30.0)], images, tmp_path, workers=1)
    kept = sum(len(path.read_text().splitlines()) for path in tmp_path.glob("*.jsonl"))
    assert kept == 4  # one of the five calls was for the header
    path = next(tmp_path.glob("*.jsonl"))
    path.write_text(path.read_text()[:-20])  # and the last line is torn
    calls.clear()
    monkeypatch.setattr(JPEG, "encode", lambda self, x, rate: calls.append(rate) or encode(self, x, rate))
    done = quietly([jpeg(30.0)], images, tmp_path, workers=1)
    assert len(calls) == 3 + 1
    monkeypatch.undo()
    assert done.entries == quietly([jpeg(30.0)], images, tmp_path / "fresh").entries


def test_other_content_under_the_same_name_is_measured_again(images, tmp_path):
    first = quietly([jpeg(30.0)], images, tmp_path)
    other = SplitImages(Portraits(size=48, num_test=6, batch_size=2), "test")
    second = quietly([jpeg(30.0)], other, tmp_path)
    assert [e["image"] for e in first.entries[0]] == [e["image"] for e in second.entries[0]]
    assert second.entries == quietly([jpeg(30.0)], other, tmp_path / "fresh").entries


def test_new_weights_are_another_point():
    codec = tiny_codec("mean_scale_tiny").eval()
    before = Point("mine", codec).key
    assert Point("mine", codec).key == before
    with torch.no_grad():
        next(codec.g_s.parameters()).add_(1e-3)
    assert Point("mine", codec).key != before
    assert jpeg(30.0).key != jpeg(31.0).key


def test_a_damaged_image_is_named_and_left_out_for_all(images, tmp_path, monkeypatch):
    read = images.read
    monkeypatch.setattr(images, "read", lambda i: {"skipped": ["cut off"]} if i == 2 else read(i))
    evaluation = quietly([jpeg(30.0), Point("identity", Identity().eval())], images, tmp_path)
    assert evaluation.excluded == {images.name(2): "cut off"}
    assert images.name(2) not in evaluation.images
    assert [len(entries) for entries in evaluation.entries] == [5, 5]
    monkeypatch.setattr(images, "read", lambda i: {"skipped": ["cut off"]})
    with pytest.raises(ValueError, match="none of 6 images can be read, first: cut off"):
        quietly([jpeg(30.0)], images, tmp_path)


def test_a_failing_codec_is_skipped_with_its_reason(images, tmp_path, monkeypatch):
    decode = JPEG.decode

    def fails(self, data):
        if self.subsampling == "4:2:0":
            raise OSError("encoder crashed")
        return decode(self, data)

    monkeypatch.setattr(JPEG, "decode", fails)
    broken = Point("broken", JPEG().eval(), rate=30.0)
    evaluation = quietly([broken, jpeg(30.0)], images, tmp_path)
    assert [point.name for point in evaluation.points] == ["jpeg"]
    ((point, reason),) = evaluation.skipped
    assert point is broken
    assert "OSError: encoder crashed" in reason


@pytest.fixture
def picky(monkeypatch) -> set[bytes]:
    """Pictures, as bytes, that JPEG in 4:2:0 refuses."""
    encode, refused = JPEG.encode, set()

    def refuses(self, image, rate):
        if self.subsampling == "4:2:0" and image.tobytes() in refused:
            raise ValueError("too long for me")
        return encode(self, image, rate)

    monkeypatch.setattr(JPEG, "encode", refuses)
    return refused


def other(rate: float) -> Point:
    return Point("other", JPEG().eval(), rate=rate, settings={"subsampling": "4:2:0"})


def pixels(images: SplitImages, index: int) -> bytes:
    return (images.read(index)["image"][0] * 255).round().byte().permute(1, 2, 0).numpy().tobytes()


def test_an_image_that_a_codec_fails_on_is_left_out_for_all(images, tmp_path, picky):
    picky.add(pixels(images, 2))
    points = [other(30.0), other(60.0), jpeg(30.0)]
    evaluation = quietly(points, images, tmp_path, timed_images=6, workers=2)
    assert evaluation.points == points
    assert not evaluation.skipped
    assert evaluation.excluded == {images.name(2): "other: too long for me"}
    others = [images.name(index) for index in (0, 1, 3, 4, 5)]
    assert evaluation.images == others
    assert [[entry["image"] for entry in entries] for entries in evaluation.entries] == [others] * 3
    assert all(seconds["encode"] > 0 for seconds in evaluation.seconds)
    rows, _ = rows_of(evaluation, command="", num_resamples=5, progress=False)
    assert [row["num_images"] for row in rows] == [5, 5, 5]
    # Again from the cache; and without the codec, or once it can, the image counts.
    again = quietly(points, images, tmp_path, timed_images=6)
    assert (again.entries, again.excluded) == (evaluation.entries, evaluation.excluded)
    assert len(quietly(points[2:], images, tmp_path).images) == 6
    picky.clear()
    assert [len(entries) for entries in quietly(points, images, tmp_path).entries] == [6, 6, 6]


def test_a_codec_that_fails_on_many_images_is_left_out_and_the_images_stay(images, tmp_path, picky):
    picky |= {pixels(images, index) for index in (2, 4)}
    broken = other(30.0)
    evaluation = quietly([broken, jpeg(30.0)], images, tmp_path)
    assert [point.name for point in evaluation.points] == ["jpeg"]
    assert len(evaluation.images) == 6
    assert not evaluation.excluded
    reason = (
        "it fails on too many images: of 6, 1 may be left out for all codecs together; "
        f"first {images.name(2)}: too long for me"
    )
    assert evaluation.skipped == [(broken, reason)]


@pytest.mark.parametrize(
    ("num_images", "failed", "points", "excluded"),
    [
        (1, {0: [0]}, {0}, set()),  # nothing would be left
        (2, {0: [1]}, set(), {1}),
        (30, {0: [1, 2, 3], 1: [2]}, set(), {1, 2, 3}),
        (30, {0: [1, 2, 3, 4], 1: [2]}, {0}, {2}),
        # Each could be borne, not both: a codec's points go together, the later ones first.
        (6, {0: [1], 1: [1], 2: [4], 3: [4]}, {2, 3}, {1}),
        (20, {0: [1], 1: [4, 5]}, {1}, {1}),
    ],
)
def test_who_is_left_out(num_images, failed, points, excluded):
    failures = Failures([jpeg(30.0)] * 4, num_images)
    for position, indices in failed.items():
        for index in indices:
            failures.add(position, index, ValueError("no"))
    out, images = failures.settle({index: str(index) for index in range(num_images)})
    assert (set(out), set(images)) == (points, excluded)


def test_a_codec_that_is_not_installed_costs_no_image(images, tmp_path, monkeypatch):
    calls = []

    def missing(self, data):
        calls.append(data)
        raise ImportError("needs something: pip install something")

    monkeypatch.setattr(JPEG, "decode", missing)
    evaluation = quietly([jpeg(30.0), Point("identity", Identity().eval())], images, tmp_path, workers=1)
    assert [reason for _, reason in evaluation.skipped] == ["needs something: pip install something"]
    assert (len(calls), len(evaluation.images)) == (1, 6)


def test_ms_ssim_is_null_where_images_are_too_small(images, tmp_path):
    rows, samples = rows_of(
        quietly([jpeg(30.0)], images, tmp_path), command="", num_resamples=5, progress=False
    )
    assert rows[0]["ms_ssim"] is None
    assert "ms_ssim" not in samples[0]
    json.dumps(rows)


def test_per_image_rows_average_to_the_row(images, tmp_path):
    head = Head("identity", "other", task(JPEG(), images.source.labels), JPEG())
    evaluation = quietly([jpeg(30.0, heads=[head])], images, tmp_path)
    (row,), (samples,) = rows_of(evaluation, command="", num_resamples=400, progress=False)
    single = image_rows(evaluation)
    assert len(single) == 6
    for key in ("bpp", "bpp_payload", "psnr"):
        assert np.mean([r[key] for r in single]) == pytest.approx(row[key])
        assert samples[key].std() == pytest.approx(np.std([r[key] for r in single]) / 6**0.5, rel=0.2)
    assert np.mean([r["identity (other)/top1"] for r in single]) == pytest.approx(
        row["tasks"]["identity/top1"]
    )
    low, high = row["ci95"]["psnr"]
    assert low < row["psnr"] < high


def test_rows_share_their_resamples(images, tmp_path):
    """A codec under two names differs from itself by nothing in every resample, by some percent were they unpaired."""
    labels = images.source.labels
    heads = [Head("identity", "other", task(JPEG(), labels), JPEG())]
    codec = JPEG().eval()
    points = [
        Point(name, codec, rate=rate, shown_rate=rate, heads=heads)
        for name in ("one", "two")
        for rate in (10.0, 30.0, 50.0, 80.0)
    ]
    rows, samples = rows_of(quietly(points, images, tmp_path), command="", num_resamples=50, progress=False)
    assert {"bpp", "bpp_payload", "psnr", "identity/top1", "identity/bpp"} <= samples[0].keys()
    for one, two in zip(samples[:4], samples[4:], strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key], equal_nan=True) for key in one)
    # Rates of one codec move together too: the images that make one file long make all long.
    assert all(np.corrcoef(samples[0]["bpp"], other["bpp"])[0, 1] > 0.5 for other in samples[1:4])
    compared = [row for row in compare(rows, samples, anchors=["one"])["rows"] if row["metric"] == "psnr"]
    assert [row["codec"] for row in compared] == ["two", "two"]
    for row in compared:
        assert row["bd_rate_percent"] == pytest.approx(0, abs=1e-9)
        assert row["ci95"] == pytest.approx([0, 0], abs=1e-9)


def test_seconds_hold_the_transforms(images, tmp_path):
    """As a user has them: from a picture to a file, and from the file to the picture."""
    codec = tiny_codec("mean_scale_tiny").eval()
    codec.g_a.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    codec.g_s.register_forward_pre_hook(lambda *_: time.sleep(0.4))
    (seconds,) = quietly([Point("mine", codec)], images, tmp_path, timed_images=1).seconds
    assert seconds["encode"] >= 0.3
    assert seconds["decode"] >= 0.4


def test_payload_is_what_a_file_holds_beyond_a_grey_one(images, tmp_path):
    evaluation = quietly([jpeg(30.0)], images, tmp_path)
    codec = JPEG(subsampling="4:4:4")
    grey = len(codec.encode(np.full((64, 64, 3), 128, np.uint8), 30.0))
    for entry in evaluation.entries[0]:
        values = entry["values"]
        assert values["header_bytes"] == grey
        assert values["bpp_payload"] == pytest.approx(values["bpp_real"] - 8 * grey / 64**2)


@pytest.mark.parametrize(
    "metric",
    [
        MulticlassJaccardIndex(4, ignore_index=255, validate_args=False),
        MulticlassAccuracy(4, average="macro", validate_args=False),
    ],
)
def test_resampled_set_metrics_equal_the_metric_of_the_repeated_images(metric):
    generator = torch.Generator().manual_seed(0)
    collection = MetricCollection({"m": metric})
    batches = [
        (torch.randn(1, 4, 9, 9, generator=generator), torch.randint(4, (1, 9, 9), generator=generator))
        for _ in range(7)
    ]
    parts = [from_json(json.loads(json.dumps(to_json(states_of(collection, *b))))) for b in batches]
    resampled = Resampled(collection, parts)
    for counts in ([1] * 7, [0, 3, 0, 1, 1, 2, 0]):
        drawn = [batches[i] for i, c in enumerate(counts) for _ in range(c)]
        collection.reset()
        collection.update(torch.cat([p for p, _ in drawn]), torch.cat([t for _, t in drawn]))
        assert resampled.compute(np.array(counts)) == pytest.approx({"m": float(collection.compute()["m"])})


def test_what_is_used_of_torchmetrics_is_still_there():
    """evaluation/set_metrics.py sets the state of metrics, of torchmetrics from 1.6 up to 2."""
    version = f"torchmetrics {torchmetrics.__version__}: evaluation/set_metrics.py knows those up to 1.9"
    metric = MulticlassAccuracy(4, average="macro", validate_args=False)
    for name in ("_reductions", "_update_count", "metric_state"):
        assert hasattr(metric, name), f"`{name}` of Metric is gone in {version}"
    assert metric._reductions.keys() == metric.metric_state.keys(), f"`_reductions` changed in {version}"
    assert set(metric._reductions.values()) == {dim_zero_sum}, f"sums are combined otherwise in {version}"
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert metric._update_count == 1, f"`_update_count` changed in {version}"
    metric.reset()
    for name, value in metric.metric_state.items():
        setattr(metric, name, value + 1)
    metric._update_count = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a metric that was never updated
        assert float(metric.compute()) == pytest.approx(0.5), f"states that are set do not count in {version}"


def test_torn_and_foreign_lines_of_a_cache_do_not_count(tmp_path):
    cache = Cache(tmp_path, "key")
    cache.add("a", "1", {"values": {"psnr": 30.0}})
    with cache.path.open("a") as file:
        file.write('[]\n{"image": "b", "dig')
    again = Cache(tmp_path, "key")
    assert again.get("a", "1")["values"] == {"psnr": 30.0}
    assert again.get("a", "2") is None
    assert list(again.entries) == ["a"]
