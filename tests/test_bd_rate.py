"""BD-rate and its parts: against closed forms, SciPy, and the package bjontegaard; batches against single curves."""

import doctest
import time

import bjontegaard
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

import evaluation.curves.bd_rate
from evaluation.curves import bootstrap
from evaluation.curves.bd_rate import MIN_OVERLAP, bd_rate, deltas
from evaluation.curves.monotone import MonotoneCurves
from evaluation.curves.pchip import Pchip

RATE, PSNR = [0.1, 0.2, 0.4, 0.8], [28.0, 31.0, 34.5, 37.0]


def random_curve(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A rising curve of 2 to 9 points."""
    num_points = rng.integers(2, 10)
    return np.cumsum(rng.uniform(0.05, 0.5, num_points)), 25 + np.cumsum(rng.uniform(0.1, 3, num_points))


def slow_bd_rate(anchor: tuple, curve: tuple) -> float:
    """By SciPy's interpolator and numerical integration."""
    a, c = (PchipInterpolator(quality, np.log(rate)) for rate, quality in (anchor, curve))
    low, high = max(a.x[0], c.x[0]), min(a.x[-1], c.x[-1])
    knots = [x for x in np.union1d(a.x, c.x) if low < x < high]
    area, _ = quad(lambda q: c(q) - a(q), low, high, points=knots or None, limit=200)
    return 100 * (np.exp(area / (high - low)) - 1)


def test_examples_in_the_docstrings() -> None:
    result = doctest.testmod(evaluation.curves.bd_rate)
    assert result.attempted == 1
    assert not result.failed


# -- interpolation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_points", [2, 3, 4, 9])
def test_pchip_equals_scipy_also_where_curves_turn(num_points: int) -> None:
    rng = np.random.default_rng(num_points)
    x = np.cumsum(rng.uniform(0.1, 1, (50, num_points)), axis=1)
    y = rng.normal(size=(50, num_points)).round(1)
    padded = np.pad(x, ((0, 0), (0, 3)), constant_values=np.nan)
    ours = Pchip(padded, np.pad(y, ((0, 0), (0, 3)), constant_values=np.nan))
    at = rng.uniform(x[:, 0], x[:, -1])
    low, high = np.sort(rng.uniform(x[:, :1], x[:, -1:], (50, 2)), axis=1).T
    theirs = [PchipInterpolator(*row) for row in zip(x, y, strict=True)]
    np.testing.assert_allclose(ours(at), [f(t) for f, t in zip(theirs, at, strict=True)], atol=1e-12)
    integrals = [f.integrate(a, b) for f, a, b in zip(theirs, low, high, strict=True)]
    np.testing.assert_allclose(ours.integral(low, high), integrals, atol=1e-12)
    np.testing.assert_array_equal(ours(x[:, 0]), y[:, 0])
    np.testing.assert_allclose(ours(x[:, -1]), y[:, -1], atol=1e-12)
    assert np.isnan(ours(x[:, -1] + 1e-9)).all()


# -- monotone fit ------------------------------------------------------------------------------------------------------


def test_isotonic_regression_equals_scipy_and_leaves_rising_rows_alone() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=(300, 8))
    quality[:100].sort(axis=1)
    fit = MonotoneCurves(np.tile(np.arange(1, 9.0), (300, 1)), quality)
    expected = np.stack([isotonic_regression(row).x for row in quality])
    np.testing.assert_allclose(fit.quality_of.y, expected, atol=1e-12)
    np.testing.assert_array_equal(fit.quality_of.y[:100], quality[:100])
    assert not fit.adjusted[:100].any()
    assert fit.adjusted[100:].all()


def test_isotonic_fit_keeps_the_mean_quality_where_the_upper_envelope_does_not() -> None:
    rng = np.random.default_rng(1)
    truth = np.linspace(0.6, 0.7, 8)
    noisy = truth + rng.normal(scale=0.03, size=(2000, 8))
    fit = MonotoneCurves(np.tile(np.arange(1, 9.0), (2000, 1)), noisy).quality_of.y
    envelope = np.maximum.accumulate(noisy, axis=1)
    assert abs((fit - truth).mean()) < 0.001
    assert (envelope - truth).mean() > 0.01


def test_blocks_become_one_point_each() -> None:
    # Worst block: its highest rate; inner block: the middle of its jump; best block: its lowest rate.
    rate = np.exp([0.0, 1, 2, 3, 4, 5, 6, 7])
    quality = [0.2, 0.1, 0.3, 0.5, 0.3, 0.8, 0.9, 0.7]
    fit = MonotoneCurves([rate], [quality])
    np.testing.assert_allclose(fit.log_rate_of.x[0, :4], [0.15, 0.3, 0.4, 0.8])
    np.testing.assert_allclose(fit.log_rate_of.y[0, :4], [1, 2, 3.5, 5])
    assert np.isnan(fit.log_rate_of.x[0, 4:]).all()


def test_more_points_on_a_saturated_plateau_change_nothing() -> None:
    anchor = ([0.1, 0.2, 0.4, 0.8], [0.5, 0.6, 0.7, 0.8])
    short = bd_rate(*anchor, [0.1, 0.15, 0.3], [0.5, 0.65, 0.75])
    long = bd_rate(*anchor, [0.1, 0.15, 0.3, 1, 2, 4], [0.5, 0.65, 0.75, 0.75, 0.75, 0.75])
    assert long.bd_rate_percent == pytest.approx(short.bd_rate_percent, abs=1e-9)


def test_points_in_any_order_unusable_ones_left_out_and_equal_rates_averaged() -> None:
    clean = MonotoneCurves([[1.0, 2, 3]], [[10.0, 12, 13]])
    messy = MonotoneCurves([[3.0, 2, np.nan, 1, -1, 0, 2, 5]], [[13.0, 11.5, 50, 10, 60, 70, 12.5, np.inf]])
    for name in ("x", "y"):
        np.testing.assert_allclose(
            getattr(messy.log_rate_of, name)[0, :3], getattr(clean.log_rate_of, name)[0]
        )
    assert messy.log_rate_of.count[0] == 3


# -- BD-rate -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_bjontegaard_and_with_numerical_integration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    checked = 0
    for _ in range(40):
        anchor, curve = random_curve(rng), random_curve(rng)
        ours = bd_rate(*anchor, *curve)
        options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
        if ours.bd_rate_percent is not None:
            theirs = bjontegaard.bd_rate(*anchor, *curve, **options)
            assert ours.bd_rate_percent == pytest.approx(theirs, abs=0.01)
            assert ours.bd_rate_percent == pytest.approx(slow_bd_rate(anchor, curve), abs=1e-4, rel=1e-6)
            checked += 1
        if ours.bd_metric is not None:
            assert ours.bd_metric == pytest.approx(bjontegaard.bd_psnr(*anchor, *curve, **options), abs=1e-4)
    assert checked > 20


def test_closed_forms() -> None:
    itself = bd_rate(RATE, PSNR, RATE, PSNR)
    assert (itself.bd_rate_percent, itself.bd_metric, itself.overlap) == (0, 0, 1)
    assert itself.quality_range == (28, 37)
    assert itself.method == "PCHIP of log rate over quality"
    halved = bd_rate(RATE, PSNR, np.array(RATE) / 2, PSNR)
    assert halved.bd_rate_percent == pytest.approx(-50, abs=1e-9)
    better = bd_rate(RATE, PSNR, RATE, np.array(PSNR) + 1.5)
    assert better.bd_metric == pytest.approx(1.5, abs=1e-9)
    assert better.bd_rate_percent < 0


@pytest.mark.parametrize("seed", range(20))
def test_properties_of_random_curves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchor, factor = random_curve(rng), rng.uniform(0.3, 3)
    noisy = anchor[1] + rng.normal(scale=2, size=len(anchor[1]))
    for quality in (anchor[1], noisy):
        scaled = bd_rate(anchor[0], quality, factor * anchor[0], quality)
        if scaled.bd_rate_percent is None:
            assert "does not rise" in scaled.reason
            continue
        assert scaled.bd_rate_percent == pytest.approx(100 * (factor - 1), abs=1e-6)
        # An affine change of the metric's scale, or of the rate's unit, changes no rate difference.
        other = random_curve(rng)
        plain = bd_rate(anchor[0], quality, *other)
        affine = bd_rate(8 * anchor[0], 3 * quality - 7, 8 * other[0], 3 * other[1] - 7)
        assert affine.overlap == pytest.approx(plain.overlap)
        if plain.bd_rate_percent is not None:
            assert affine.bd_rate_percent == pytest.approx(plain.bd_rate_percent, rel=1e-6, abs=1e-6)
            # Swapped, the ratio turns over.
            swapped = bd_rate(*other, anchor[0], quality).bd_rate_percent
            assert (1 + swapped / 100) * (1 + plain.bd_rate_percent / 100) == pytest.approx(1)


def test_lower_is_better() -> None:
    error = [0.4, 0.3, 0.2, 0.1]
    down = bd_rate(RATE, error, np.array(RATE) / 2, np.array(error), higher_is_better=False)
    assert down.bd_rate_percent == pytest.approx(-50)
    assert down.quality_range == pytest.approx((0.1, 0.4))
    assert bd_rate(RATE, error, RATE, np.array(error) - 0.05, higher_is_better=False).bd_metric == (
        pytest.approx(-0.05)
    )


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (([0.1, 0.2], [20.0, 21.0]), "share 0% of the narrower one's quality range, and 25% is the least"),
        (([0.1, 0.2], [20.0, 29.0]), "share 11%"),
        (([0.1], [30.0]), "the codec has 1 point with a positive rate, and a curve needs 2"),
        (([0.1, -0.2], [30.0, 31.0]), "the codec has 1 point"),
        (([0.1, 0.2, 0.3], [32.0, 31.0, 30.0]), "the codec's quality does not rise with rate"),
    ],
)
def test_no_number_without_enough_overlap(curve: tuple, reason: str) -> None:
    result = bd_rate(RATE, PSNR, *curve)
    assert result.bd_rate_percent is None
    assert result.quality_range is None
    assert reason in result.reason


def test_overlap_is_a_share_of_the_narrower_curve() -> None:
    inside = bd_rate(RATE, PSNR, [0.2, 0.3], [30.0, 31.0])
    assert inside.overlap == 1
    assert inside.quality_range == (30, 31)
    enough = bd_rate(RATE, PSNR, [0.1, 0.2], [28 - 3.0, 28 + 1.0])
    assert enough.overlap == MIN_OVERLAP
    assert enough.bd_rate_percent is not None


def test_says_which_curve_was_made_monotone() -> None:
    task = [0.5, 0.7, 0.65, 0.8]
    assert bd_rate(RATE, task, RATE, sorted(task)).method.endswith("isotonic regression of anchor")
    assert bd_rate(RATE, task, RATE, task).method.endswith("isotonic regression of anchor and codec")


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`rate` \(1, 4\) and `quality` \(1, 3\) must be"):
        bd_rate(RATE, PSNR[:3], RATE, PSNR)
    with pytest.raises(ValueError, match=r"`anchor` \(1 curves.*must match"):
        deltas(MonotoneCurves([RATE], [PSNR]), MonotoneCurves([RATE] * 2, [PSNR] * 2))


def test_a_batch_of_noisy_curves_equals_them_one_by_one_and_is_fast() -> None:
    rng = np.random.default_rng(3)
    num = 1000
    shapes = {"anchor": 8, "codec": 5}
    rates = {n: np.cumsum(rng.uniform(0.05, 0.4, (num, p)), axis=1) for n, p in shapes.items()}
    qualities = {n: np.linspace(0.5, 0.8, p) + 0.05 * rng.normal(size=(num, p)) for n, p in shapes.items()}
    qualities["codec"][::50, 2] = np.nan
    qualities["codec"][::10] += 0.3
    start = time.perf_counter()
    fits = [MonotoneCurves(rates[n], qualities[n]) for n in shapes]
    batch = deltas(*fits)
    # Some 20 ms on an idle core; the limit leaves room for a busy one.
    assert time.perf_counter() - start < 1
    single = [
        bd_rate(rates["anchor"][b], qualities["anchor"][b], rates["codec"][b], qualities["codec"][b])
        for b in range(num)
    ]
    for name in ("bd_rate_percent", "bd_metric", "overlap"):
        expected = np.array([getattr(s, name) for s in single], np.float64)
        np.testing.assert_allclose(getattr(batch, name), expected, rtol=1e-9, atol=1e-9)
    assert 0 < np.isnan(batch.bd_rate_percent).sum() < num / 4


# -- bootstrap ---------------------------------------------------------------------------------------------------------


def test_resamples_draw_every_image_as_often_and_the_same_each_time() -> None:
    counts = bootstrap.resamples(24, num=2000)
    assert counts.shape == (2000, 24)
    assert (counts.sum(axis=1) == 24).all()
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 24, abs=0.02)  # multinomial
    np.testing.assert_array_equal(counts, bootstrap.resamples(24, num=2000))
    assert (counts != bootstrap.resamples(24, num=2000, seed=1)).any()
    with pytest.raises(ValueError, match="num_images=0 must be at least 1"):
        bootstrap.resamples(0)


def test_means_equal_a_loop_and_leave_out_what_was_not_measured() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=(10, 2)), bootstrap.resamples(10, num=50)
    values[:9, 1] = np.nan
    means = bootstrap.means(values, counts)
    for row, mean in zip(counts, means, strict=True):
        drawn = np.repeat(values, row, axis=0)
        assert mean[0] == pytest.approx(drawn[:, 0].mean())
        assert mean[1] == pytest.approx(values[9, 1]) if row[9] else np.isnan(mean[1])
    with pytest.raises(ValueError, match="`values` has 3 images, `counts` 10"):
        bootstrap.means(np.zeros(3), counts)


def test_interval_of_a_mean_has_the_width_of_theory_and_covers() -> None:
    rng = np.random.default_rng(0)
    counts = bootstrap.resamples(100)
    covered, widths = 0, []
    for _ in range(400):
        low, high = bootstrap.interval(bootstrap.means(rng.normal(size=100), counts))
        covered += low <= 0 <= high
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 / 10, rel=0.05)
    assert covered / 400 == pytest.approx(0.94, abs=0.03)


def test_interval_needs_most_resamples_to_be_defined() -> None:
    values = np.arange(100.0)
    assert bootstrap.interval(values) == pytest.approx([2.475, 96.525])
    assert bootstrap.interval(values, level=0.5) == pytest.approx([24.75, 74.25])
    values[:10] = np.nan
    assert bootstrap.interval(values) == pytest.approx([12.225, 96.775])
    values[10] = np.nan
    assert bootstrap.interval(values) is None
    assert bootstrap.interval(np.array([])) is None
    with pytest.raises(ValueError, match="level=95 must lie between 0 and 1"):
        bootstrap.interval(values, level=95)
