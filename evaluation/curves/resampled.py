"""Curves with their resamples, and who stands against whom: what comparisons share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.curves.curve import Curve, Row, payload, rate_key
from evaluation.curves.monotone import MonotoneCurves

Samples = Mapping[str, np.ndarray]
"""{key: (B,) values of a row over resamples of the images}: ``"bpp"``, ``"bpp_payload"``, metrics, ``"<task>/bpp"``."""

OWN = "own"
"""``task_head`` of rows whose heads were trained with their codec."""


@dataclass(frozen=True)
class Measured:
    """A curve, fitted on the whole set and in every resample."""

    curve: Curve
    samples: Sequence[Samples]

    @cached_property
    def fit(self) -> MonotoneCurves:
        return MonotoneCurves(
            [self.curve.rate], [self.curve.quality], higher_is_better=self.curve.higher_is_better
        )

    @cached_property
    def refits(self) -> MonotoneCurves | None:
        """One curve for each resample; the members of a Pareto front stay those of the whole set.

        ``None`` where a row lacks samples, and for sets of one image, whose resamples are all alike.
        """
        metric = self.curve.metric
        if self.curve.rows[0].get("num_images") == 1:
            return None
        rates, qualities = [], []
        for index in self.curve.indices:
            rate = _rate_samples(self.samples[index], metric, self.curve.rate_axis)
            if rate is None or metric not in self.samples[index]:
                return None
            rates.append(rate)
            qualities.append(self.samples[index][metric])
        return MonotoneCurves(
            np.stack(rates, axis=1),
            np.stack(qualities, axis=1),
            higher_is_better=self.curve.higher_is_better,
        )


def _rate_samples(samples: Samples, metric: str, axis: str) -> np.ndarray | None:
    """A row's rate in every resample, on the axis of a metric's curves."""
    paid = rate_key(metric, "bpp")
    needed = [paid, "bpp", "bpp_payload"] if axis == "bpp_payload" else [paid]
    if any(key not in samples for key in needed):
        return None
    values = [np.asarray(samples[key], np.float64) for key in needed]
    return values[0] if axis == "bpp" else payload(*values)


def counterpart_head(curve: Curve, candidates: Sequence[Curve], own_head_of: Mapping[str, str]) -> str | None:
    """The head source whose rows stand against a curve's."""
    if curve.task_head != OWN or any(c.task_head == OWN for c in candidates):
        return curve.task_head
    return own_head_of.get(curve.codec, OWN)


def at_seed(candidates: Sequence[Curve], seed: int | None) -> Curve | None:
    """The candidate of that seed, else that of the lowest."""
    same = [c for c in candidates if c.seed == seed]
    return min(same or candidates, key=lambda c: -1 if c.seed is None else c.seed, default=None)


def identity_of(curve: Curve) -> dict[str, Any]:
    return {
        "codec": curve.codec,
        "ladder": curve.ladder,
        "seed": curve.seed,
        "task_head": curve.task_head,
        "metric": curve.metric,
        "rate_axis": curve.rate_axis,
        "num_images": curve.rows[0].get("num_images"),
    }


def check_samples(rows: Sequence[Row], samples: Sequence[Samples]) -> None:
    if len(rows) != len(samples):
        raise ValueError(f"`samples` has {len(samples)} entries for {len(rows)} rows: give one for each row")
