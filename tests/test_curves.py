"""Rows become curves: ladders, heads, rate axes, directions."""

from typing import Any

import numpy as np
import pytest

from evaluation.curves.curve import curves, metrics_of, rate_key, value_of


def row(codec: str, bpp: float, psnr: float | None = 30.0, **others: Any) -> dict[str, Any]:
    """A result row with the keys that curves read; the container takes 0.05 bpp."""
    return {
        "codec": codec,
        "rate": others.pop("rate", bpp),
        "seed": others.pop("seed", 0),
        "scale": others.pop("scale", 1),
        "bpp": bpp,
        "bpp_payload": bpp - 0.05,
        "psnr": psnr,
        "ms_ssim": None,
        "tasks": others.pop("tasks", {}),
        "task_head": others.pop("task_head", None),
        **others,
    }


def test_points_by_rising_rate_whatever_the_order_of_rows() -> None:
    rows = [row("a", 0.4, 34), row("b", 0.3, 33), row("a", 0.1, 28), row("a", 0.2, 31)]
    a, b = curves(rows, "psnr")
    assert (a.codec, a.rate, a.quality, a.indices) == ("a", (0.1, 0.2, 0.4), (28, 31, 34), (2, 3, 0))
    assert a.rows == (rows[2], rows[3], rows[0])
    assert (a.label, a.ladder, a.task_head, a.seed, a.is_point) == ("a", "plain", None, 0, False)
    assert b.is_point
    (payload, _) = curves(rows, "psnr", rate_axis="bpp_payload")
    assert payload.rate == pytest.approx((0.05, 0.15, 0.35))


def test_scaled_ladder_is_the_pareto_front_over_all_scales() -> None:
    plain = [row("hevc", r, q) for r, q in [(0.1, 28), (0.2, 31), (0.4, 34)]]
    half = [row("hevc", r, q, scale=0.5) for r, q in [(0.03, 26), (0.08, 27.5), (0.15, 29), (0.3, 30)]]
    small, scaled = curves(plain + half, "psnr")
    assert (small.label, small.rate) == ("hevc", (0.1, 0.2, 0.4))
    assert (scaled.label, scaled.ladder) == ("hevc+scaled", "scaled")
    # 0.3 bpp at half size is worse than 0.2 bpp at full size: it is not on the front.
    assert scaled.rate == (0.03, 0.08, 0.1, 0.15, 0.2, 0.4)
    assert scaled.indices == (3, 4, 0, 5, 1, 2)


@pytest.mark.parametrize("upward", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_front_holds_exactly_the_points_that_nothing_beats(seed: int, upward: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        row("c", float(r), float(q), scale=s)
        for r, q, s in zip(
            rng.integers(1, 12, 30) / 10,
            rng.integers(20, 40, 30),
            rng.choice([1, 0.5, 0.25], 30),
            strict=True,
        )
    ]
    (scaled,) = (c for c in curves(rows, "psnr", higher_is_better={"psnr": upward}) if c.ladder == "scaled")
    sign = 1 if upward else -1
    points = {(r["bpp"], r["psnr"]) for r in rows}
    front = {
        p for p in points if not any(q != p and q[0] <= p[0] and sign * q[1] >= sign * p[1] for q in points)
    }
    assert set(zip(scaled.rate, scaled.quality, strict=True)) == front
    assert len(scaled.rate) == len(front)


def test_heads_are_curves_of_their_own_for_tasks_and_one_for_pictures() -> None:
    rows = [
        row("a", bpp, psnr, task_head=head, tasks={"scene/top1": top1, "scene/bpp": bpp / 2}, num=head)
        for bpp, psnr, top1 in [(0.2, 30, 0.6), (0.4, 33, 0.7)]
        for head in ("own", "resnet")
    ]
    (picture,) = curves(rows, "psnr")
    assert (picture.task_head, picture.rate) == (None, (0.2, 0.4))
    own, foreign = curves(rows, "scene/top1")
    assert (own.task_head, own.indices) == ("own", (0, 2))
    assert (foreign.task_head, foreign.indices) == ("resnet", (1, 3))
    assert own.rate == (0.1, 0.2)
    # A layered file's task pays for its layers, and sheds the same container.
    (payload, _) = curves(rows, "scene/top1", rate_axis="bpp_payload")
    assert payload.rate == pytest.approx((0.05, 0.15))


def test_seeds_are_apart_and_sweep_points_without_a_rate_stay() -> None:
    rows = [row("a", bpp, 30 + 10 * bpp, seed=s, rate=None) for s in (0, 1) for bpp in (0.1, 0.2, 0.3)]
    first, second = curves(rows, "psnr")
    assert (first.seed, second.seed) == (0, 1)
    assert len(first.rows) == len(second.rows) == 3


def test_rows_without_the_metric_or_a_rate_are_left_out() -> None:
    rows = [
        row("a", 0.1, None),
        row("a", 0.2, float("nan")),
        row("a", float("inf"), 31),
        row("a", 0.3, 32, tasks={"scene/top1": 0.5}),
    ]
    (a,) = curves(rows, "psnr")
    assert a.indices == (3,)
    assert curves(rows, "scene/top1") == []  # nobody says what the task paid
    assert curves(rows, "ms_ssim") == []


def test_metrics_are_listed_without_rates_and_without_what_nobody_measured() -> None:
    rows = [
        row("a", 0.1, tasks={"seg/miou": 0.4, "seg/bpp": 0.1, "scene/top1": None}),
        row("b", 0.1, tasks={"scene/top5": 0.9, "scene/bpp": 0.1}),
    ]
    assert metrics_of(rows) == ["psnr", "scene/top5", "seg/miou"]
    assert metrics_of([]) == []


def test_rates_by_key() -> None:
    assert rate_key("psnr", "bpp_payload") == "bpp_payload"
    assert rate_key("seg/miou", "bpp") == "seg/bpp"
    layered = row("a", 0.3, tasks={"seg/bpp": 0.1})
    assert value_of(layered, "seg/bpp_payload") == pytest.approx(0.05)
    with pytest.raises(ValueError, match="rate_axis='bits' must be one of"):
        curves([], "psnr", rate_axis="bits") or rate_key("psnr", "bits")
