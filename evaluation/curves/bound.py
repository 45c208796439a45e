"""How few bits leave a task as good as on uncompressed pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.curves.bootstrap import MAX_UNDEFINED
from evaluation.curves.curve import RATE_AXES, Curve, Row, curves, metrics_of
from evaluation.curves.monotone import MonotoneCurves
from evaluation.curves.resampled import (
    Measured,
    Samples,
    at_seed,
    check_samples,
    counterpart_head,
    identity_of,
)


def within_bound(
    rows: Sequence[Row],
    samples: Sequence[Samples],
    *,
    points: float = 0.01,
    higher_is_better: Mapping[str, bool] | None = None,
    own_head_of: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The lowest rate at which each codec's task metric stays within ``points`` of that on uncompressed pictures.

    Read off the monotone fit of the curve in log rate. Where the cheapest point already is within, that point's rate
    stands, and ``reason`` says that it is an upper limit. Each resample has its own bound, from the same images.

    Args:
        rows: of ``results.json``.
        samples: see ``compare``.
        points: distance to the bound in the metric's unit: 0.01 is one point of a metric in [0, 1].
        higher_is_better: see ``compare``.
        own_head_of: {codec: head source of the bound for rows with the codec's own heads}; without it they have none.

    Returns:
        Rows with ``codec``, ``ladder``, ``seed``, ``task_head``, ``metric``, ``rate_axis``, ``bound`` (the metric on
        uncompressed pictures), ``points``, ``rate`` (bits per pixel or ``None``), ``ci95`` (its high end is ``None``
        where over 2.5 % of the resamples never come within) and ``reason``.

    Raises:
        ValueError: ``points`` is negative, or not one entry of ``samples`` for each row.
    """
    if points < 0:
        raise ValueError(f"points={points} must not be negative")
    check_samples(rows, samples)
    result = []
    for metric in (name for name in metrics_of(rows) if "/" in name):
        for axis in RATE_AXES:
            found = curves(rows, metric, rate_axis=axis, higher_is_better=higher_is_better)
            bounds = [c for c in found if c.uncompressed and c.ladder == "plain"]
            for curve in (c for c in found if not c.uncompressed):
                head = counterpart_head(curve, bounds, own_head_of or {})
                reference = at_seed([c for c in bounds if c.task_head == head], curve.seed)
                row = identity_of(curve) | {"points": points, "bound": None, "rate": None, "ci95": None}
                if reference is None:
                    row["reason"] = f"no rows of an uncompressed codec with the heads {head!r}"
                else:
                    row |= _rate_within(Measured(curve, samples), reference, points)
                result.append(row)
    return result


def _rate_within(measured: Measured, reference: Curve, points: float) -> dict[str, Any]:
    curve, sign = measured.curve, 1 if measured.curve.higher_is_better else -1
    value = reference.quality[0]
    row: dict[str, Any] = {"bound": value, "rate": None, "ci95": None, "reason": None}
    if curve.is_point:
        return row | {"reason": "one point is no curve"}
    # 80 of 100 images is within one point of 81, whatever 0.81 - 0.01 is in binary.
    points_away = points + 1e-9
    target = sign * value - points_away
    rate = float(_lowest_rate(measured.fit, np.array([target]))[0])
    fitted = measured.fit.quality_of
    if not np.isfinite(rate):
        best = sign * float(fitted.y[0, max(fitted.count[0] - 1, 0)])
        return row | {"reason": f"its best, {best:.4g}, is not within {points:g} of {value:.4g}"}
    row["rate"] = rate
    if target <= fitted.y[0, 0]:
        row["reason"] = "met at the lowest rate measured: an upper limit"
    of_bound = measured.samples[reference.indices[0]].get(curve.metric)
    if measured.refits is not None and of_bound is not None:
        row["ci95"] = _interval_with_infinity(_lowest_rate(measured.refits, sign * of_bound - points_away))
    return row


def _lowest_rate(fit: MonotoneCurves, target: np.ndarray) -> np.ndarray:
    """Rate at which each curve first reaches a (signed) quality; infinite where never, NaN where not known."""
    first_rate = fit.quality_of.x[:, 0]
    nodes = fit.log_rate_of
    with np.errstate(invalid="ignore"):
        log_rate = np.where(target <= nodes.first, first_rate, nodes(target))
        log_rate = np.where(target > nodes.last, np.inf, log_rate)
    return np.exp(np.where(np.isnan(target), np.nan, log_rate))


def _interval_with_infinity(values: np.ndarray) -> list[float | None] | None:
    """95 % interval of rates, some of them infinite: the high end is ``None`` where it is infinite."""
    defined = values[~np.isnan(values)]
    if not len(defined) or len(defined) < (1 - MAX_UNDEFINED) * len(values):
        return None
    # Between a finite value and an infinite one nothing can be interpolated.
    low, high = np.quantile(defined, [0.025, 0.975], method="inverted_cdf")
    return [float(low), float(high) if np.isfinite(high) else None] if np.isfinite(low) else None
