"""Noisy measured curves as monotone ones: quality never falls with rate, and every quality has its rate."""

import numpy as np

from evaluation.curves.pchip import Pchip

FLAT = 1e-12
"""Fitted qualities closer than this, relative to the curve's largest quality, count as equal."""


class MonotoneCurves:
    r"""Measured (rate, quality) points of many curves as monotone functions, both ways.

    **The rule for curves that do not rise everywhere.** A task metric over a few hundred images jitters, and a curve
    of rate over quality exists only for one that rises. The points are replaced by their isotonic regression: the
    non-decreasing sequence closest to them in least squares, which averages the points that contradict each other
    (pools them to a *block* of one quality) and leaves every other point untouched; a curve that rises is itself,
    bit for bit. The alternative, keeping only points better than all cheaper ones (the upper envelope), selects the
    lucky ones: it turns noise into quality, more so on ladders with more points, and would favour the noisier curve
    of a pair. Isotonic regression keeps the mean quality of the points as it is, so it leans to neither side.

    As a function of quality, the fitted step curve jumps in rate at each block. A block becomes one node: an inner
    block the middle of its jump in log rate; the best block its *lowest* rate (the rate at which that quality is first
    reached) and the worst block its *highest*. So further points on a saturated plateau change nothing but the estimate
    of its height, and ladders that reach further into it are neither rewarded nor punished.

    Args:
        rate: (B, P), bits per pixel in any order; points with a rate that is not positive or a quality that is not
            finite are left out of their row; points of one row with equal rates become their mean.
        quality: (B, P).
        higher_is_better: the metric's direction.

    Attributes:
        quality_of: fitted quality (negated for lower-is-better metrics) over natural log rate.
        log_rate_of: natural log rate over fitted quality (so negated).
        adjusted: (B,) bool, where the fit differs from the points.
    """

    def __init__(self, rate: np.ndarray, quality: np.ndarray, *, higher_is_better: bool = True):
        rate, quality = np.asarray(rate, np.float64), np.asarray(quality, np.float64)
        if rate.ndim != 2 or rate.shape != quality.shape or not rate.shape[1]:
            raise ValueError(
                f"`rate` {rate.shape} and `quality` {quality.shape} must be (curves, points) of one shape"
            )
        self.higher_is_better = higher_is_better
        x, y = _sorted(rate, quality if higher_is_better else -quality)
        fitted = _isotonic(y)
        with np.errstate(invalid="ignore"):
            self.adjusted = (np.abs(fitted - y) > _tolerance(y)[:, None]).any(axis=1)
        self.quality_of = Pchip(x, fitted)
        self.log_rate_of = Pchip(*_blocks(x, fitted))

    def __len__(self) -> int:
        return len(self.adjusted)


def _sorted(rate: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log rates in rising order with their qualities, unusable points as NaN at the end, equal rates merged."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log(rate)
    usable = np.isfinite(x) & np.isfinite(quality)
    x, y = np.where(usable, x, np.nan), np.where(usable, quality, np.nan)
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    for row in np.flatnonzero((np.diff(x, axis=1) == 0).any(axis=1)):
        rates, which = np.unique(x[row, np.isfinite(x[row])], return_inverse=True)
        means = np.bincount(which, y[row, : len(which)]) / np.bincount(which)
        x[row], y[row] = np.nan, np.nan
        x[row, : len(rates)], y[row, : len(rates)] = rates, means
    return x, y


def _isotonic(y: np.ndarray) -> np.ndarray:
    """Isotonic regression of each row with equal weights; NaN at the end of a row stays.

    By its min-max formula: value i is the largest over starts j <= i of the smallest over ends k >= i of mean(j..k).
    Reference: Robertson, Wright and Dykstra, Order Restricted Statistical Inference, Wiley 1988, theorem 1.4.4.
    """
    fitted = y.copy()
    wrong = np.flatnonzero((np.diff(y, axis=1) < 0).any(axis=1))
    if not len(wrong):
        return fitted
    # Padding with the row's maximum never lowers a mean, so it never decides a minimum.
    rows = np.where(np.isfinite(y[wrong]), y[wrong], np.nanmax(y[wrong], axis=1, keepdims=True))
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    position = np.arange(rows.shape[1])
    length = position[None, :] - position[:, None] + 1
    means = (sums[:, None, 1:] - sums[:, :-1, None]) / np.where(length > 0, length, 1)
    means = np.where(length > 0, means, np.inf)
    smallest = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    smallest = np.where(length > 0, smallest, -np.inf)
    fit = np.maximum.accumulate(smallest.max(axis=1), axis=1)
    # A value that stands alone is the point itself; sums only bring rounding errors in.
    fit = np.where(np.abs(fit - rows) <= _tolerance(rows)[:, None], rows, fit)
    fitted[wrong] = np.where(np.isfinite(y[wrong]), np.maximum.accumulate(fit, axis=1), np.nan)
    return fitted


def _blocks(x: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One node for each run of equal fitted values: (quality, log rate), (B, P) each, NaN at the end."""
    num_points = x.shape[1]
    valid = np.isfinite(fitted)
    starts = valid.copy()
    with np.errstate(invalid="ignore"):
        starts[:, 1:] &= np.diff(fitted, axis=1) > _tolerance(fitted)[:, None]
    # The end of the block that starts at p: the point before the next start, or the last valid one.
    position = np.where(starts, np.arange(num_points), num_points)
    following = np.minimum.accumulate(position[:, ::-1], axis=1)[:, ::-1]
    following = np.concatenate([following[:, 1:], np.full((len(x), 1), num_points)], axis=1)
    end = np.minimum(following, valid.sum(axis=1, keepdims=True)) - 1
    last_rate = np.take_along_axis(x, np.maximum(end, 0), axis=1)
    is_first = np.arange(num_points)[None, :] == 0
    is_last = following == num_points
    rate = np.where(is_first, last_rate, np.where(is_last, x, (x + last_rate) / 2))
    order = np.argsort(~starts, axis=1, kind="stable")
    quality, rate = np.where(starts, fitted, np.nan), np.where(starts, rate, np.nan)
    return np.take_along_axis(quality, order, 1), np.take_along_axis(rate, order, 1)


def _tolerance(y: np.ndarray) -> np.ndarray:
    return FLAT * np.where(np.isfinite(y), np.abs(y), 0.0).max(axis=1)
