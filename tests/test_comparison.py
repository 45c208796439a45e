"""Codecs against anchors and the bound: the numbers of simulated image sets whose truth is known."""

import json
from typing import Any

import numpy as np
import pytest

from evaluation.curves import bootstrap
from evaluation.curves.bd_rate import bd_rate
from evaluation.curves.comparison import compare, within_bound

NUM_IMAGES = 60
COUNTS = bootstrap.resamples(NUM_IMAGES, num=400)
HEADER = 0.02


class Simulated:
    """Rows and samples of codecs on one image set: PSNR = 40 + 6 log2(rate x gain), top1 rising with rate.

    Easy images are easy for every codec: that is what pairing takes out.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.ease = rng.lognormal(0, 0.5, NUM_IMAGES)
        self.threshold = rng.uniform(-4, 0, NUM_IMAGES)
        self.rng = rng
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, np.ndarray]] = []

    def add(
        self,
        codec: str,
        *,
        gain: float = 1.0,
        rates: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8),
        heads: tuple[str | None, ...] = (None,),
        seed: int = 0,
        noise: float = 0.0,
        scale: float = 1,
        share: float = 1.0,
        uncompressed: bool = False,
    ) -> None:
        """A codec that needs 1/gain of the reference codec's rate; its task pays ``share`` of the file."""
        for rate in rates:
            bits = rate * self.ease * self.rng.lognormal(0, noise, NUM_IMAGES)
            psnr = 40 + 6 * np.log2(rate * gain) + self.rng.normal(0, 10 * noise, NUM_IMAGES)
            for head in heads:
                right = (np.log2(rate * gain) > self.threshold).astype(float)
                values = {"bpp": bits, "bpp_payload": bits - HEADER, "psnr": psnr}
                if head is not None:
                    values |= {"scene/top1": right, "scene/bpp": bits * share}
                sampled = {key: bootstrap.means(value, COUNTS) for key, value in values.items()}
                means = {key: float(value.mean()) for key, value in values.items()}
                tasks = {key: means.pop(key) for key in list(means) if "/" in key}
                self.rows.append(
                    means
                    | {"codec": codec, "rate": rate, "seed": seed, "scale": scale, "tasks": tasks}
                    | {"task_head": head, "num_images": NUM_IMAGES, "uncompressed": uncompressed}
                )
                self.samples.append(sampled)

    def compare(self, *anchors: str, **options: Any) -> dict[str, Any]:
        return compare(self.rows, self.samples, anchors=anchors, **options)


def pick(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one row with these values."""
    (row,) = (r for r in rows if all(r[key] == value for key, value in wanted.items()))
    return row


def test_rows_of_a_codec_that_halves_the_rate() -> None:
    sim = Simulated()
    sim.add("hevc")
    sim.add("ours", gain=2)
    result = sim.compare("hevc")
    assert (result["anchor"], result["skipped"]) == ("hevc", [])
    assert [(r["metric"], r["rate_axis"]) for r in result["rows"]] == [
        ("psnr", "bpp"),
        ("psnr", "bpp_payload"),
    ]
    row = pick(result["rows"], rate_axis="bpp")
    assert row["bd_rate_percent"] == pytest.approx(-50)
    assert row["bd_metric"] == pytest.approx(6, abs=1e-6)
    # Both codecs scale with the same ease of the same images: pairing leaves no uncertainty at all.
    assert row["ci95"] == pytest.approx([-50, -50])
    assert row["bd_metric_ci95"] == pytest.approx([6, 6], abs=1e-6)
    assert row["overlap"] == pytest.approx(12 / 18)
    assert row["quality_range"] == pytest.approx([40 + 6 * np.log2(0.2), 40 + 6 * np.log2(0.8)])
    assert (row["num_images"], row["codec"], row["anchor"], row["ladder"]) == (60, "ours", "hevc", "plain")
    assert (row["reason"], row["method"]) == (None, "PCHIP of log rate over quality")
    payload = pick(result["rows"], rate_axis="bpp_payload")
    assert (
        payload["bd_rate_percent"] < -50
    )  # the container costs both the same, so without it the ratio grows
    json.dumps(result, allow_nan=False)


def test_interval_equals_a_loop_over_resamples() -> None:
    sim = Simulated()
    sim.add("hevc", noise=0.2)
    sim.add("ours", gain=1.2, noise=0.2)
    row = pick(sim.compare("hevc")["rows"], rate_axis="bpp")
    percents = []
    for b in range(len(COUNTS)):
        rate, psnr = ([s[key][b] for s in sim.samples] for key in ("bpp", "psnr"))
        percents.append(bd_rate(rate[:4], psnr[:4], rate[4:], psnr[4:]).bd_rate_percent)
    assert row["ci95"] == pytest.approx(np.quantile(percents, [0.025, 0.975]).tolist())
    assert row["ci95"][0] < row["bd_rate_percent"] < row["ci95"][1]
    # Unpaired, with other resamples for the anchor, it would be far wider: rates vary much from image to image.
    other = bootstrap.resamples(NUM_IMAGES, num=400, seed=9)
    shuffled = [dict(s) for s in sim.samples]
    order = np.random.default_rng(0).permutation(len(other))
    for samples in shuffled[:4]:
        samples |= {key: value[order] for key, value in samples.items()}
    unpaired = pick(compare(sim.rows, shuffled, anchors=["hevc"])["rows"], rate_axis="bpp")
    assert np.diff(unpaired["ci95"]) > 2 * np.diff(row["ci95"])


def test_several_anchors_and_ladders() -> None:
    sim = Simulated()
    sim.add("hevc")
    sim.add("hevc", gain=1.5, rates=(0.02, 0.05, 0.1), scale=0.5)
    sim.add("vvc", gain=1.6)
    result = sim.compare("hevc", "hevc+scaled", "vvc", "missing")
    pairs = [(r["anchor"], r["codec"], r["ladder"]) for r in result["rows"] if r["rate_axis"] == "bpp"]
    assert pairs == [
        ("hevc", "hevc", "scaled"),
        ("hevc", "vvc", "plain"),
        ("hevc+scaled", "hevc", "plain"),
        ("hevc+scaled", "vvc", "plain"),
        ("vvc", "hevc", "plain"),
        ("vvc", "hevc", "scaled"),
    ]
    assert [s["anchor"] for s in result["skipped"]] == ["missing"]
    assert result["skipped"][0]["reason"] == "no rows of 'missing'; there are ['hevc', 'hevc+scaled', 'vvc']"


def test_pairs_without_a_number_say_why() -> None:
    sim = Simulated()
    sim.add("hevc")
    sim.add("default", rates=(0.3,))
    sim.add("far", gain=1e-3)
    sim.add("originals", gain=100, rates=(24.0,), uncompressed=True)
    rows = sim.compare("hevc")["rows"]
    assert {r["codec"] for r in rows} == {"default", "far"}  # the bound is no competitor
    for codec, reason in (("default", "the codec has 1 point"), ("far", "the curves share 0%")):
        row = pick(rows, codec=codec, rate_axis="bpp")
        assert (row["bd_rate_percent"], row["ci95"]) == (None, None)
        assert reason in row["reason"]


def test_mean_over_seeds_and_its_interval() -> None:
    sim = Simulated()
    sim.add("hevc")
    gains = (1.1, 1.3, 1.6)
    for seed, gain in enumerate(gains):
        sim.add("ours", gain=gain, seed=seed)
    rows = [r for r in sim.compare("hevc")["rows"] if r["rate_axis"] == "bpp"]
    assert [r["seed"] for r in rows] == [0, 1, 2, "mean"]
    percents = [100 * (1 / gain - 1) for gain in gains]
    assert [r["bd_rate_percent"] for r in rows[:3]] == pytest.approx(percents)
    mean = rows[-1]
    assert mean["bd_rate_percent"] == pytest.approx(np.mean(percents))
    # No uncertainty from images here, so all of it is the seeds': two of three drawn with replacement.
    assert mean["ci95"] == pytest.approx([min(percents), max(percents)])
    assert mean["method"].startswith("mean over 3 seeds; PCHIP")


def test_variance_over_seeds_is_that_of_a_mean() -> None:
    from evaluation.curves.comparison import _seeds_drawn

    values = np.array([1.0, 2.0, 4.0, 9.0])
    drawn = _seeds_drawn([np.full(100_000, value) for value in values])
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.05)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / len(values), rel=0.03)
    assert _seeds_drawn([None, np.zeros(3)]) is None


def test_a_seed_without_a_number_leaves_the_mean_without_one() -> None:
    sim = Simulated()
    sim.add("hevc")
    sim.add("ours", seed=0)
    sim.add("ours", seed=1, gain=1e-3)
    mean = pick(sim.compare("hevc")["rows"], seed="mean", rate_axis="bpp")
    assert (mean["bd_rate_percent"], mean["ci95"]) == (None, None)
    assert mean["reason"] == "undefined for the seeds [1]"


def test_task_curves_meet_the_same_heads() -> None:
    sim = Simulated()
    sim.add("hevc", heads=("resnet",))
    sim.add("ours", gain=2, heads=("own", "resnet"), share=0.5)
    of_task = {"metric": "scene/top1", "rate_axis": "bpp"}
    foreign = pick(sim.compare("hevc")["rows"], task_head="resnet", **of_task)
    # Half the rate for the same quality, and the task reads but half of the file.
    assert foreign["bd_rate_percent"] == pytest.approx(-75, abs=10)
    assert foreign["anchor_task_head"] == "resnet"
    own = pick(sim.compare("hevc")["rows"], task_head="own", **of_task)
    assert own["bd_rate_percent"] is None
    assert own["reason"] == "no rows of 'hevc' with the heads 'own'"
    named = pick(sim.compare("hevc", own_head_of={"ours": "resnet"})["rows"], task_head="own", **of_task)
    assert named["bd_rate_percent"] == pytest.approx(foreign["bd_rate_percent"])
    assert named["anchor_task_head"] == "resnet"
    # Two learned codecs, each with its own heads, need no mapping.
    sim.add("theirs", heads=("own",))
    both = pick(sim.compare("theirs")["rows"], codec="ours", task_head="own", **of_task)
    assert both["anchor_task_head"] == "own"
    assert both["bd_rate_percent"] is not None


def test_no_interval_from_one_image_or_without_samples() -> None:
    sim = Simulated()
    sim.add("hevc")
    sim.add("ours", gain=2)
    bare = compare(sim.rows, [{} for _ in sim.rows], anchors=["hevc"])["rows"][0]
    single = compare([r | {"num_images": 1} for r in sim.rows], sim.samples, anchors=["hevc"])["rows"][0]
    for row in (bare, single):
        assert row["bd_rate_percent"] == pytest.approx(-50)
        assert (row["ci95"], row["bd_metric_ci95"]) == (None, None)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`anchors` is empty"):
        compare([], [], anchors=[])
    with pytest.raises(ValueError, match="`samples` has 1 entries for 0 rows"):
        compare([], [{}], anchors=["hevc"])
    with pytest.raises(ValueError, match="points=-1 must not be negative"):
        within_bound([], [], points=-1)


# -- the uncompressed bound --------------------------------------------------------------------------------------------


def bounded(quality: list[float], bound: float, num: int = 200, **options: Any) -> dict[str, Any]:
    """``within_bound`` of one codec at 0.1, 0.2, 0.4, 0.8 bpp; noise of the bound over resamples is 0.01."""
    return within_bound(*with_bound(quality, bound, num), **options)[0]


def with_bound(
    quality: list[float], bound: float, num: int = 200, name: str = "originals"
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Rows and samples of ``bounded``, the uncompressed codec under ``name``."""
    noise = np.random.default_rng(0).normal(0, 0.01, num)
    rows, samples = [], []
    for codec, rate, value in [
        *(("ours", 0.1 * 2**i, q) for i, q in enumerate(quality)),
        (name, 24.0, bound),
    ]:
        tasks = {"scene/top1": value, "scene/bpp": rate}
        rows.append(
            {"codec": codec, "seed": 0, "rate": rate, "bpp": rate, "bpp_payload": rate, "tasks": tasks}
        )
        rows[-1] |= {"task_head": "resnet", "num_images": 50, "uncompressed": codec == name}
        sampled = {key: np.full(num, rate) for key in ("bpp", "bpp_payload", "scene/bpp")}
        samples.append(sampled | {"scene/top1": value + (noise if codec == name else 0) + np.zeros(num)})
    return rows, samples


def test_rate_within_a_point_of_the_bound() -> None:
    row = bounded([0.5, 0.6, 0.7, 0.8], 0.66)
    # Quality is linear in log rate, so the rate for 0.65 lies half-way between 0.2 and 0.4.
    assert row["rate"] == pytest.approx(0.2 * 2**0.5)
    assert (row["bound"], row["points"], row["reason"]) == (0.66, 0.01, None)
    low, high = row["ci95"]
    noise = np.random.default_rng(0).normal(0, 0.01, 200)
    expected = np.quantile(0.2 * 2 ** (0.5 + noise / 0.1), [0.025, 0.975], method="inverted_cdf")
    assert [low, high] == pytest.approx(expected.tolist())
    assert bounded([0.5, 0.6, 0.7, 0.8], 0.66, points=0.06)["rate"] == pytest.approx(0.2)
    assert bounded([0.5, 0.6, 0.7, 0.8], 0.81)["rate"] == pytest.approx(0.8)  # a whole point away is within


def test_bound_that_is_out_of_reach_or_met_at_once() -> None:
    never = bounded([0.5, 0.6, 0.7, 0.8], 0.9)
    assert (never["rate"], never["ci95"]) == (None, None)
    assert never["reason"] == "its best, 0.8, is not within 0.01 of 0.9"
    barely = bounded([0.5, 0.6, 0.7, 0.8], 0.809)
    assert barely["ci95"][0] < barely["rate"] < 0.8
    assert barely["ci95"][1] is None  # in many resamples it is never reached
    at_once = bounded([0.5, 0.6, 0.7, 0.8], 0.45)
    assert (at_once["rate"], at_once["ci95"]) == (pytest.approx(0.1), pytest.approx([0.1, 0.1]))
    assert at_once["reason"] == "met at the lowest rate measured: an upper limit"
    # The last three are one plateau of 0.7, reached at 0.2 bpp.
    jagged = bounded([0.5, 0.8, 0.6, 0.7], 0.7)
    assert jagged["rate"] == pytest.approx(0.1 * 2 ** (0.19 / 0.2))


def test_bound_of_errors_and_of_other_heads() -> None:
    error = bounded([0.5, 0.4, 0.3, 0.2], 0.34, higher_is_better={"scene/top1": False})
    assert error["rate"] == pytest.approx(0.2 * 2**0.5)
    sim = Simulated()
    sim.add("originals", rates=(24.0,), heads=("resnet",), uncompressed=True)
    sim.add("ours", gain=4, heads=("own", "resnet"))
    rows = within_bound(sim.rows, sim.samples)
    assert {(r["task_head"], r["rate_axis"]) for r in rows} == {
        (head, axis) for head in ("own", "resnet") for axis in ("bpp", "bpp_payload")
    }
    own = pick(rows, task_head="own", rate_axis="bpp")
    assert (own["rate"], own["reason"]) == (None, "no rows of an uncompressed codec with the heads 'own'")
    foreign = pick(rows, task_head="resnet", rate_axis="bpp")
    assert foreign["bound"] == 1
    named = within_bound(sim.rows, sim.samples, own_head_of={"ours": "resnet"})
    assert pick(named, task_head="own", rate_axis="bpp")["rate"] == foreign["rate"]
    assert foreign["rate"] is not None
    json.dumps(named, allow_nan=False)


@pytest.mark.parametrize("name", ["identity", "originals", "vvc"])
def test_the_bound_is_known_by_its_rows_not_by_its_name(name: str) -> None:
    rows, samples = with_bound([0.5, 0.6, 0.7, 0.8], 0.66, name=name)
    found = within_bound(rows, samples)
    assert {row["codec"] for row in found} == {"ours"}
    assert found[0] == bounded([0.5, 0.6, 0.7, 0.8], 0.66)
    result = compare(rows, samples, anchors=["ours", name])
    assert result["rows"] == []
    assert [entry["anchor"] for entry in result["skipped"]] == [name]
    # As results.json of older versions hold them: a codec among others.
    old = [{key: value for key, value in row.items() if key != "uncompressed"} for row in rows]
    assert {row["codec"] for row in within_bound(old, samples)} == {"ours", name}
    assert {row["codec"] for row in compare(old, samples, anchors=["ours"])["rows"]} == {name}
