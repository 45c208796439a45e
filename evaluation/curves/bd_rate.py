"""Bjøntegaard deltas: mean rate saved over another codec at equal quality, and mean quality won at equal rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.curves.monotone import MonotoneCurves
from evaluation.curves.pchip import Pchip
from models.counted import counted

MIN_OVERLAP = 0.25
"""Curves that share less than this part of the narrower one's range give no number."""


@dataclass(frozen=True)
class BD:
    """Bjøntegaard deltas of one pair of curves.

    Attributes:
        bd_rate_percent: mean rate difference at equal quality in percent; negative: the codec needs less than the
            anchor. ``None`` where not defined.
        bd_metric: mean difference at equal rate in the metric's own unit, codec minus anchor; ``None`` where not
            defined.
        overlap: range of qualities that both curves reach over the range of the narrower curve, in [0, 1]. (Over
            the anchor's range, a longer ladder of the anchor's would turn a sound comparison into none.) ``None`` where
            there are not two curves.
        quality_range: the common (low, high) that ``bd_rate_percent`` is a mean over, in the metric's unit.
        reason: why ``bd_rate_percent`` is ``None``, else ``None``.
        method: how the numbers came about, in words.
    """

    bd_rate_percent: float | None
    bd_metric: float | None
    overlap: float | None
    quality_range: tuple[float, float] | None
    reason: str | None
    method: str


@dataclass(frozen=True)
class Deltas:
    """Bjøntegaard deltas of many pairs, (B,) each, NaN where not defined; fields as in ``BD``."""

    bd_rate_percent: np.ndarray
    bd_metric: np.ndarray
    overlap: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bd_rate(
    anchor_rate: Sequence[float],
    anchor_quality: Sequence[float],
    rate: Sequence[float],
    quality: Sequence[float],
    *,
    higher_is_better: bool = True,
) -> BD:
    r"""Bjøntegaard delta rate and delta metric of a codec against an anchor.

    ::

        bd_rate_percent = 100 * (exp( 1/(q1-q0) * integral_{q0}^{q1} [log r(q) - log r_anchor(q)] dq ) - 1)
        bd_metric       = 1/(l1-l0) * integral_{l0}^{l1} [q(l) - q_anchor(l)] dl,   l = log rate

    over the common ranges [q0, q1] of quality and [l0, l1] of log rate, with PCHIP between the points. Curves that do
    not rise are made to by ``MonotoneCurves``, whose docstring has the rule.

    Args:
        anchor_rate: of the anchor's points, in any order, bits per pixel; points without a positive rate are left out.
        anchor_quality: of the anchor's points.
        rate: of the codec's points; the numbers of points may differ.
        quality: of the codec's points.
        higher_is_better: the metric's direction.

    Returns:
        Numbers are ``None`` where a curve has fewer than two points left, does not rise at all, or where both share
        less than ``MIN_OVERLAP`` of the narrower one's range (of quality for the rate, of log rate for the metric).

    Raises:
        ValueError: rates and qualities of a curve differ in number, or there are none.

    Reference: Bjøntegaard, Calculation of average PSNR differences between RD-curves, VCEG-M33, 2001, with PCHIP in
    place of one cubic, as in JCTVC-L1100.

    Example:
        >>> bd_rate([0.2, 0.4, 0.8], [30, 33, 36], [0.1, 0.2, 0.4], [30, 33, 36]).bd_rate_percent
        -50.0
    """
    anchor = MonotoneCurves([anchor_rate], [anchor_quality], higher_is_better=higher_is_better)
    curve = MonotoneCurves([rate], [quality], higher_is_better=higher_is_better)
    return between_two(anchor, curve)


def between_two(anchor: MonotoneCurves, curve: MonotoneCurves) -> BD:
    """``bd_rate`` of curves that are fitted already, one each."""
    all_deltas = deltas(anchor, curve)
    values = [float(v[0]) for v in (all_deltas.bd_rate_percent, all_deltas.bd_metric, all_deltas.overlap)]
    percent, metric, overlap = (None if np.isnan(value) else value for value in values)
    reason = None
    if percent is None:
        reason = _why_undefined({"the anchor": anchor, "the codec": curve}, overlap)
    # `+ 0.0` turns -0.0 of an exact tie into 0.0.
    return BD(
        None if percent is None else percent + 0.0,
        None if metric is None else metric + 0.0,
        overlap,
        (float(all_deltas.low[0]), float(all_deltas.high[0])) if percent is not None else None,
        reason,
        _method(anchor, curve),
    )


def deltas(anchor: MonotoneCurves, curve: MonotoneCurves) -> Deltas:
    """Bjøntegaard deltas of row b of ``curve`` against row b of ``anchor``, for all rows at once.

    Raises:
        ValueError: the numbers of rows or the directions of the metric differ.
    """
    if len(anchor) != len(curve) or anchor.higher_is_better != curve.higher_is_better:
        raise ValueError(
            f"`anchor` ({len(anchor)} curves, higher_is_better={anchor.higher_is_better}) and `curve` "
            f"({len(curve)}, {curve.higher_is_better}) must match"
        )
    low, high, overlap = _common(anchor.log_rate_of, curve.log_rate_of)
    difference = _mean_difference(anchor.log_rate_of, curve.log_rate_of, low, high, overlap)
    with np.errstate(over="ignore"):
        percent = 100 * np.expm1(difference)
    low_log, high_log, log_overlap = _common(anchor.quality_of, curve.quality_of)
    metric = _mean_difference(anchor.quality_of, curve.quality_of, low_log, high_log, log_overlap)
    if not curve.higher_is_better:
        metric, low, high = -metric, -high, -low
    return Deltas(percent, metric, overlap, low, high)


def _common(anchor: Pchip, curve: Pchip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Common range (low, high) of two interpolants' nodes, and its share of the narrower; NaN without two curves."""
    low, high = np.maximum(anchor.first, curve.first), np.minimum(anchor.last, curve.last)
    narrower = np.minimum(anchor.last - anchor.first, curve.last - curve.first)
    both = (anchor.count > 1) & (curve.count > 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.where(both, np.clip((high - low) / narrower, 0.0, 1.0), np.nan)
    return low, high, overlap


def _mean_difference(
    anchor: Pchip, curve: Pchip, low: np.ndarray, high: np.ndarray, overlap: np.ndarray
) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (curve.integral(low, high) - anchor.integral(low, high)) / (high - low)
        return np.where(overlap >= MIN_OVERLAP, mean, np.nan)


def _why_undefined(curves: dict[str, MonotoneCurves], overlap: float | None) -> str:
    for name, curve in curves.items():
        if (num_points := int(curve.quality_of.count[0])) < 2:
            return f"{name} has {counted(num_points, 'point')} with a positive rate, and a curve needs 2"
        if int(curve.log_rate_of.count[0]) < 2:
            return f"{name}'s quality does not rise with rate"
    return f"the curves share {overlap:.0%} of the narrower one's quality range, and {MIN_OVERLAP:.0%} is the least"


def _method(anchor: MonotoneCurves, curve: MonotoneCurves) -> str:
    adjusted = [name for name, c in (("anchor", anchor), ("codec", curve)) if c.adjusted[0]]
    return "PCHIP of log rate over quality" + (
        f", isotonic regression of {' and '.join(adjusted)}" if adjusted else ""
    )
