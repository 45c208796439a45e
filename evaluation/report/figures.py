"""What the report's figures show: one value over the rate, for all codecs, heads, ladders and seeds."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.curves.curve import RATE_AXES, Curve, curves, metrics_of, value_of

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn.

    Attributes:
        axis: ``"bpp"`` (file bytes) or ``"bpp_payload"`` (without headers).
        codec, head, ladder, seed: whose, as in ``Curve``; ``seed`` is ``None`` where the codec has only one.
        x: bits per pixel, rising.
        y: values, as many.
        intervals: 95 % intervals of the values.
        notes: what the codec was given at each point.
    """

    axis: str
    codec: str
    head: str | None
    ladder: str
    seed: int | None
    x: tuple[float, ...]
    y: tuple[float, ...]
    intervals: tuple[Interval, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Bound:
    """A task's value on uncompressed pictures."""

    head: str | None
    value: float


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        key: its file name without the suffix.
        metric: as in ``curves``.
        title, short, x_label, y_label: as they are written; ``short`` names the value.
        lines: curves on both rate axes.
        bounds: dashed lines across.
    """

    key: str
    metric: str
    title: str
    short: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    bounds: tuple[Bound, ...] = ()

    @property
    def heads(self) -> list[str | None]:
        """Sources of heads in it, a panel each; ``[None]`` for pictures."""
        return list(dict.fromkeys(line.head for line in self.lines))


def decibel(ms_ssim: float) -> float:
    """MS-SSIM as papers plot it, -10 log10(1 - MS-SSIM): good codecs differ in the third digit only."""
    return -10 * math.log10(max(1 - ms_ssim, 1e-10))


def figures_of(results: Mapping[str, Any]) -> list[Figure]:
    """PSNR, MS-SSIM and GMSD over the rate, then one figure for each metric of each task: those that were measured."""
    metrics = metrics_of(results["rows"])
    return [_task_figure(results, m) if "/" in m else _picture_figure(results, m) for m in metrics]


def _picture_figure(results: Mapping[str, Any], metric: str) -> Figure:
    title, short, label = {
        "psnr": ("PSNR over rate", "PSNR", "PSNR of RGB, dB"),
        "ms_ssim": ("MS-SSIM over rate, as −10 log₁₀(1 − MS-SSIM)", "MS-SSIM, dB", "MS-SSIM, dB"),
        "gmsd": ("GMSD over rate, lower is better", "GMSD", "GMSD"),
    }[metric]
    lines = tuple(_lines(results, metric))
    return Figure(f"rd_{metric}", metric, title, short, "bits per pixel", label, lines)


def _task_figure(results: Mapping[str, Any], metric: str) -> Figure:
    task, name = metric.split("/", 1)
    values = {
        (row.get("task_head"), value): None
        for row in results["rows"]
        if row.get("uncompressed") and (value := value_of(row, metric)) is not None
    }
    measured = {head for head, _ in values}
    # A codec's own heads are not run on originals under that name; what they reach there is known by another one.
    values |= {
        (row["task_head"], row["bound"]): None
        for row in results.get("within_one_point") or ()
        if row["metric"] == metric and row["bound"] is not None and row["task_head"] not in measured
    }
    return Figure(
        key=f"task_{file_name(task)}_{file_name(name)}",
        metric=metric,
        title=f"{task}: {name} over rate",
        short=name,
        x_label="bpp the task pays for",
        y_label=f"{task}: {name}",
        lines=tuple(_lines(results, metric)),
        bounds=tuple(Bound(head, value) for head, value in values),
    )


def file_name(text: str) -> str:
    """Letters, digits, dots, dashes and underscores of ``text``: safe in any file system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def _lines(results: Mapping[str, Any], metric: str) -> list[Line]:
    found = [
        curve
        for axis in RATE_AXES
        for curve in curves(
            results["rows"], metric, rate_axis=axis, higher_is_better=results.get("higher_is_better")
        )
        if not curve.uncompressed
    ]
    seeds: dict[str, set[int | None]] = {}
    for curve in found:
        seeds.setdefault(curve.codec, set()).add(curve.seed)
    return [_line(curve, len(seeds[curve.codec]) > 1) for curve in found]


def _line(curve: Curve, several_seeds: bool) -> Line:
    shown = decibel if curve.metric == "ms_ssim" else float
    intervals = [(row.get("ci95") or {}).get(curve.metric) for row in curve.rows]
    return Line(
        axis=curve.rate_axis,
        codec=curve.codec,
        head=curve.task_head,
        ladder=curve.ladder,
        seed=curve.seed if several_seeds else None,
        x=curve.rate,
        y=tuple(shown(value) for value in curve.quality),
        intervals=tuple(None if ends is None else (shown(ends[0]), shown(ends[1])) for ends in intervals),
        notes=tuple(_note(row, curve.metric) for row in curve.rows),
    )


def _note(row: Mapping[str, Any], metric: str) -> str:
    scale = row.get("scale") or 1
    parts = [
        "" if row.get("rate") is None else f"rate {row['rate']:g}",
        "" if scale == 1 else f"coded at {scale:g} of width and height",
        f"MS-SSIM {row['ms_ssim']:.5f}" if metric == "ms_ssim" else "",
    ]
    return ", ".join(part for part in parts if part)
