"""Monotone cubic interpolation of many curves at once: every row has its own nodes, and its own number of them."""

import numpy as np


class Pchip:
    """Piecewise cubic Hermite interpolants whose slopes keep each row's monotony (PCHIP).

    SciPy's interpolator takes one set of nodes for all rows; bootstrap resamples move the nodes of each.

    Args:
        x: nodes (B, P), float64, strictly increasing along a row; a row with fewer nodes ends in NaN.
        y: values there (B, P), NaN in the same places.

    Rows with a single node are defined at that node only, rows without nodes nowhere.

    Reference: Fritsch and Butland, A Method for Constructing Local Monotone Piecewise Cubic Interpolants, SIAM J. Sci.
    Stat. Comput. 5(2), 1984; end slopes by the three-point formula of Moler, Numerical Computing with MATLAB, ch. 3.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y
        self.count = np.isfinite(x).sum(axis=1)
        self.first, self.last = x[:, 0], _pick(x, np.maximum(self.count - 1, 0))
        self._slopes = _slopes(x, y, self.count)

    def __call__(self, at: np.ndarray) -> np.ndarray:
        """Values at one point for each row, (B,) -> (B,); NaN outside the row's nodes."""
        inside = (at >= self.first) & (at <= self.last)
        with np.errstate(invalid="ignore"):
            segment = (self.x[:, 1:] <= at[:, None]).sum(axis=1)
        segment = np.clip(segment, 0, np.maximum(self.count - 2, 0))
        following = np.minimum(segment + 1, self.x.shape[1] - 1)
        left, right = _pick(self.x, segment), _pick(self.x, following)
        with np.errstate(invalid="ignore", divide="ignore"):
            width = right - left
            t = (at - left) / width
            value = (
                (1 + 2 * t) * (1 - t) ** 2 * _pick(self.y, segment)
                + t * (1 - t) ** 2 * width * _pick(self._slopes, segment)
                + t**2 * (3 - 2 * t) * _pick(self.y, following)
                - t**2 * (1 - t) * width * _pick(self._slopes, following)
            )
        value = np.where(self.count == 1, self.y[:, 0], value)
        return np.where(inside, value, np.nan)

    def integral(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Exact integrals from ``low`` to ``high``, (B,) each, within the row's nodes; NaN where a bound is NaN."""
        left, right = self.x[:, :-1], self.x[:, 1:]
        width = right - left
        with np.errstate(invalid="ignore", divide="ignore"):
            start = np.clip((low[:, None] - left) / width, 0, 1)
            stop = np.clip((high[:, None] - left) / width, 0, 1)
            parts = width * (self._antiderivative(stop, width) - self._antiderivative(start, width))
        total = np.where(np.isfinite(parts), parts, 0.0).sum(axis=1)
        return np.where(np.isfinite(low) & np.isfinite(high), total, np.nan)

    def _antiderivative(self, t: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Integral of each segment's cubic from 0 to ``t`` in [0, 1], in units of the segment's width."""
        y, slopes = self.y, self._slopes
        return (
            (t - t**3 + t**4 / 2) * y[:, :-1]
            + (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4) * width * slopes[:, :-1]
            + (t**3 - t**4 / 2) * y[:, 1:]
            + (t**4 / 4 - t**3 / 3) * width * slopes[:, 1:]
        )


def _slopes(x: np.ndarray, y: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Derivatives at the nodes, (B, P)."""
    h, slopes = np.diff(x, axis=1), np.full(x.shape, np.nan)
    if not h.size:
        return slopes
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        secant = np.diff(y, axis=1) / h
        before, after = secant[:, :-1], secant[:, 1:]
        weight_before = 2 * h[:, 1:] + h[:, :-1]
        weight_after = h[:, 1:] + 2 * h[:, :-1]
        harmonic = (weight_before + weight_after) / (weight_before / before + weight_after / after)
        slopes[:, 1:-1] = np.where(before * after > 0, harmonic, np.where(np.isfinite(h[:, 1:]), 0.0, np.nan))
    rows, end = np.arange(len(x)), count - 1
    if h.shape[1] > 1:
        several = count > 2
        start = _end_slope(h[:, 0], h[:, 1], secant[:, 0], secant[:, 1])
        slopes[several, 0] = start[several]
        i = np.maximum(end - 1, 1)
        stop = _end_slope(h[rows, i], h[rows, i - 1], secant[rows, i], secant[rows, i - 1])
        slopes[rows[several], end[several]] = stop[several]
    two = count == 2
    slopes[two, 0] = slopes[two, 1] = secant[two, 0]
    return slopes


def _end_slope(h0: np.ndarray, h1: np.ndarray, secant0: np.ndarray, secant1: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = ((2 * h0 + h1) * secant0 - h0 * secant1) / (h0 + h1)
        bent = (np.sign(secant0) != np.sign(secant1)) & (np.abs(slope) > 3 * np.abs(secant0))
        return np.where(np.sign(slope) != np.sign(secant0), 0.0, np.where(bent, 3 * secant0, slope))


def _pick(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, index[:, None], axis=1)[:, 0]
