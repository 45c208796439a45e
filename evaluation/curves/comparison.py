"""Codecs against anchors, with intervals: the content of ``bd.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.curves.bd_rate import BD, between_two, deltas
from evaluation.curves.bootstrap import interval
from evaluation.curves.bound import within_bound
from evaluation.curves.curve import RATE_AXES, Row, curves, metrics_of
from evaluation.curves.resampled import (
    Measured,
    Samples,
    at_seed,
    check_samples,
    counterpart_head,
    identity_of,
)

__all__ = ["compare", "within_bound"]


def compare(
    rows: Sequence[Row],
    samples: Sequence[Samples],
    *,
    anchors: Sequence[str],
    higher_is_better: Mapping[str, bool] | None = None,
    own_head_of: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Bjøntegaard deltas of every codec against every anchor, for every metric, on file bytes and on payload.

    Intervals are from the paired bootstrap over images: resample b of the codec meets resample b of the anchor, so what
    makes an image easy for both cancels out. Which points lie on a Pareto front is decided once, on the whole set.

    A codec with several seeds gets a row for each and one more, ``"seed": "mean"``: the mean of the seeds' deltas. Its
    interval holds both sources of chance: each resample draws images and, with replacement, n - 1 of the n seeds (n -
    1, so that the variance of the mean over seeds is right and not (n-1)/n of it: Rao and Wu, Resampling Inference with
    Complex Survey Data, JASA 83, 1988). With three seeds that interval is itself rough.

    A task curve meets the anchor's curve under the same heads. ``"own"`` heads meet the anchor's own where it has some;
    else those that ``own_head_of`` names; else the pair has no number. An anchor with several seeds is taken at the
    codec's seed, or at its lowest where it lacks that one. Uncompressed codecs are bounds, and not compared.

    Args:
        rows: of ``results.json``.
        samples: for each row, {key: (B,) values over resamples of the images} with the keys ``"bpp"``,
            ``"bpp_payload"``, the metrics' names and ``"<task>/bpp"``; all rows share the resamples. What a row lacks
            has no interval.
        anchors: labels of curves: a codec's name, or ``"<codec>+scaled"`` for its ladder with down-scaling.
        higher_is_better: {metric: direction}; metrics that are not in it are better when higher.
        own_head_of: {codec: head source to judge the anchor by where the codec has its own heads}.

    Returns:
        ``{"anchor": anchors[0], "rows": [...], "skipped": [{"anchor", "reason"}]}``. A row holds ``anchor``, ``codec``,
        ``ladder``, ``seed``, ``task_head``, ``anchor_task_head``, ``metric``, ``rate_axis``, ``bd_rate_percent``,
        ``ci95``, ``bd_metric``, ``bd_metric_ci95``, ``overlap``, ``quality_range``, ``num_images``, ``method``,
        ``reason`` (why there is no number, else ``None``). A set of one image has no intervals. ``skipped`` names
        anchors that have no rows.

    Raises:
        ValueError: no anchors, or not one entry of ``samples`` for each row.
    """
    if not anchors:
        raise ValueError("`anchors` is empty: name at least one codec to compare with")
    check_samples(rows, samples)
    result: list[dict[str, Any]] = []
    seen: set[str] = set()
    for metric in metrics_of(rows):
        for axis in RATE_AXES:
            measured = [
                Measured(curve, samples)
                for curve in curves(rows, metric, rate_axis=axis, higher_is_better=higher_is_better)
                if not curve.uncompressed
            ]
            seen |= {m.curve.label for m in measured}
            for anchor in anchors:
                candidates = [m for m in measured if m.curve.label == anchor]
                others = [m for m in measured if m.curve.label != anchor]
                result += _against(candidates, others, anchor, own_head_of or {})
    skipped = [
        {"anchor": anchor, "reason": f"no rows of {anchor!r}; there are {sorted(seen)}"}
        for anchor in anchors
        if anchor not in seen
    ]
    result = [row for row in result if row["anchor"] in seen]
    return {"anchor": anchors[0], "rows": result, "skipped": skipped}


def _against(
    candidates: Sequence[Measured], others: Sequence[Measured], anchor: str, own_head_of: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of all codecs against one anchor for one metric and rate axis."""
    groups: dict[tuple, list[Measured]] = {}
    for other in others:
        groups.setdefault((other.curve.label, other.curve.task_head), []).append(other)
    rows = []
    for members in groups.values():
        head = counterpart_head(members[0].curve, [c.curve for c in candidates], own_head_of)
        with_head = {c.curve.seed: c for c in candidates if c.curve.task_head == head}
        pairs = []
        for member in members:
            opponent = at_seed([c.curve for c in with_head.values()], member.curve.seed)
            pairs.append(_pair(member, None if opponent is None else with_head[opponent.seed]))
            row = {"anchor": anchor, "anchor_task_head": head} | identity_of(member.curve)
            rows.append(row | _described(pairs[-1], f"no rows of {anchor!r} with the heads {head!r}"))
        if len(members) > 1:
            row = {"anchor": anchor, "anchor_task_head": head} | identity_of(members[0].curve)
            seeds = [member.curve.seed for member in members]
            rows.append(row | {"seed": "mean"} | _mean_over_seeds(pairs, seeds))
    return rows


@dataclass(frozen=True)
class _Pair:
    """A codec's deltas on the whole set, and over resamples (``None`` where there are none)."""

    whole: BD
    percent: np.ndarray | None
    metric: np.ndarray | None


def _pair(codec: Measured, anchor: Measured | None) -> _Pair | None:
    if anchor is None:
        return None
    whole = between_two(anchor.fit, codec.fit)
    undefined = whole.bd_rate_percent is None and whole.bd_metric is None
    if undefined or anchor.refits is None or codec.refits is None:
        return _Pair(whole, None, None)
    resampled = deltas(anchor.refits, codec.refits)
    return _Pair(whole, resampled.bd_rate_percent, resampled.bd_metric)


def _described(pair: _Pair | None, without: str) -> dict[str, Any]:
    """The numbers of a pair as a row has them."""
    if pair is None:
        whole = BD(None, None, None, None, without, "")
        pair = _Pair(whole, None, None)
    whole = pair.whole
    return {
        "bd_rate_percent": whole.bd_rate_percent,
        "ci95": _interval(whole.bd_rate_percent, pair.percent),
        "bd_metric": whole.bd_metric,
        "bd_metric_ci95": _interval(whole.bd_metric, pair.metric),
        "overlap": whole.overlap,
        "quality_range": None if whole.quality_range is None else list(whole.quality_range),
        "method": whole.method,
        "reason": whole.reason,
    }


def _mean_over_seeds(pairs: Sequence[_Pair | None], seeds: Sequence[int | None]) -> dict[str, Any]:
    known = [pair for pair in pairs if pair is not None]
    undefined = [s for s, p in zip(seeds, pairs, strict=True) if p is None or p.whole.bd_rate_percent is None]

    def mean(name: str) -> float | None:
        values = [getattr(pair.whole, name) for pair in known]
        return float(np.mean(values)) if len(values) == len(pairs) and None not in values else None

    overlaps = [pair.whole.overlap for pair in known if pair.whole.overlap is not None]
    methods = list(dict.fromkeys(pair.whole.method for pair in known))
    return {
        "bd_rate_percent": (percent := mean("bd_rate_percent")),
        "ci95": _interval(percent, _seeds_drawn([pair.percent for pair in known])),
        "bd_metric": (metric := mean("bd_metric")),
        "bd_metric_ci95": _interval(metric, _seeds_drawn([pair.metric for pair in known])),
        "overlap": min(overlaps, default=None),
        "quality_range": None,
        "method": "; ".join([f"mean over {len(pairs)} seeds", *methods]),
        "reason": f"undefined for the seeds {undefined}" if undefined else None,
    }


def _seeds_drawn(resampled: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Means over n - 1 seeds drawn with replacement in every resample, (B,)."""
    if not resampled or any(values is None for values in resampled):
        return None
    values = np.stack(resampled)
    n, num_resamples = values.shape
    drawn = np.random.default_rng(0).integers(n, size=(max(n - 1, 1), num_resamples))
    return np.take_along_axis(values, drawn, axis=0).mean(axis=0)


def _interval(value: float | None, resampled: np.ndarray | None) -> list[float] | None:
    return None if value is None or resampled is None else interval(resampled)
