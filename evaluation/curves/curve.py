"""Result rows as curves: quality over rate for each codec, seed, head source and metric."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Row = Mapping[str, Any]
Ladder = Literal["plain", "scaled"]
RateAxis = Literal["bpp", "bpp_payload"]

IMAGE_METRICS = {"psnr": True, "ms_ssim": True, "gmsd": False}
"""{measure of the picture: whether more is better}."""
RATE_AXES: tuple[RateAxis, ...] = ("bpp", "bpp_payload")


@dataclass(frozen=True)
class Curve:
    """The points of one codec for one metric, by rising rate.

    Attributes:
        codec: the rows' name of the codec.
        seed: the rows' seed.
        task_head: the rows' head source; ``None`` for metrics of the picture, which know no heads.
        ladder: ``"plain"``: pictures coded at their own size. ``"scaled"``: the best of all down-scalings at each rate.
        metric: ``"psnr"``, ``"ms_ssim"``, ``"gmsd"`` or ``"<task>/<metric>"``.
        rate_axis: ``"bpp"`` counts whole files, ``"bpp_payload"`` leaves out their headers.
            A task's rate is what that task paid.
        higher_is_better: the metric's direction.
        indices: position of each point's row among the rows the curves were made from.
        rows: the rows themselves.
        rate: of each point, bits per pixel.
        quality: of each point, in the metric's unit.
    """

    codec: str
    seed: int | None
    task_head: str | None
    ladder: Ladder
    metric: str
    rate_axis: RateAxis
    higher_is_better: bool
    indices: tuple[int, ...]
    rows: tuple[Row, ...]
    rate: tuple[float, ...]
    quality: tuple[float, ...]

    @property
    def label(self) -> str:
        """What to call it in legends, and how to name it as an anchor: ``"hevc"``, ``"hevc+scaled"``."""
        return self.codec if self.ladder == "plain" else f"{self.codec}+scaled"

    @property
    def uncompressed(self) -> bool:
        """Whether it is the bound of the others; rows of older versions do not say so."""
        return bool(self.rows[0].get("uncompressed"))

    @property
    def is_point(self) -> bool:
        """Whether it has too few points for a line."""
        return len(self.rows) < 2


def curves(
    rows: Sequence[Row],
    metric: str,
    *,
    rate_axis: RateAxis = "bpp",
    higher_is_better: Mapping[str, bool] | None = None,
) -> list[Curve]:
    """All curves of a metric.

    A codec that has down-scaled rows gives two: the plain ladder, and the Pareto front over quality x scale, i.e. the
    points that are better than every cheaper one, judged by the means over the set. Rows without the metric, or without
    a finite rate, are left out; rows that repeat a point for another head source count once for metrics of the picture.

    Args:
        rows: of ``results.json``.
        metric: ``"psnr"``, ``"ms_ssim"``, ``"gmsd"`` or ``"<task>/<metric>"``.
        rate_axis: what the rate counts.
        higher_is_better: {metric: direction}; tasks' that are not in it are better when higher.

    Returns:
        Curves in the order in which codecs first appear; see ``Curve.is_point``.

    Raises:
        ValueError: unknown ``rate_axis``.
    """
    upward = (higher_is_better or {}).get(metric, IMAGE_METRICS.get(metric, True))
    groups: dict[tuple, dict[tuple, int]] = {}
    for index, row in enumerate(rows):
        quality, rate = value_of(row, metric), value_of(row, rate_key(metric, rate_axis))
        if rate is None or quality is None:
            continue
        head = row.get("task_head") if "/" in metric else None
        point = (row.get("rate"), _scale(row), rate, quality)
        groups.setdefault((row["codec"], row.get("seed"), head), {}).setdefault(point, index)

    found = []
    for (codec, seed, head), points in groups.items():
        ordered = [(rate, quality, index) for (_, _, rate, quality), index in points.items()]
        ordered.sort(key=lambda p: (p[0], -p[1] if upward else p[1]))
        ladders: dict[Ladder, list[tuple[float, float, int]]] = {
            "plain": [p for p in ordered if _scale(rows[p[2]]) == 1]
        }
        if len(ladders["plain"]) < len(ordered):
            ladders["scaled"] = _pareto(ordered, upward)
        for ladder, members in ladders.items():
            if not members:
                continue
            rates, qualities, indices = zip(*members, strict=True)
            chosen = tuple(rows[i] for i in indices)
            found.append(
                Curve(
                    codec,
                    seed,
                    head,
                    ladder,
                    metric,
                    rate_axis,
                    upward,
                    indices,
                    chosen,
                    rates,
                    qualities,
                )
            )
    return found


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Every metric that some row has, those of the picture first, then the tasks' by name; rates are none."""
    rows = list(rows)
    image = [name for name in IMAGE_METRICS if any(value_of(row, name) is not None for row in rows)]
    rates = tuple(f"/{axis}" for axis in RATE_AXES)
    tasks = {key for row in rows for key in (row.get("tasks") or {}) if not key.endswith(rates)}
    return image + sorted(key for key in tasks if any(value_of(row, key) is not None for row in rows))


def rate_key(metric: str, rate_axis: RateAxis) -> str:
    """Which rate a metric's curves run over: the file's, or what the task paid (``"<task>/bpp"``).

    Raises:
        ValueError: unknown ``rate_axis``.
    """
    if rate_axis not in RATE_AXES:
        raise ValueError(f"rate_axis={rate_axis!r} must be one of {list(RATE_AXES)}")
    task, slash, _ = metric.partition("/")
    return f"{task}/{rate_axis}" if slash else rate_axis


def value_of(row: Row, key: str) -> float | None:
    """A finite number out of a row: a metric, or a rate of ``rate_key``; ``None`` where the row has none."""
    task, _, name = key.partition("/")
    if name == "bpp_payload":
        parts = [value_of(row, part) for part in (f"{task}/bpp", "bpp", "bpp_payload")]
        return None if None in parts else payload(*parts)
    value = (row.get("tasks") or {}).get(key) if name else row.get(key)
    return float(value) if value is not None and np.isfinite(value) else None


def payload(task_bpp, bpp, bpp_payload):
    """What a task paid without the container: its rate less what a file holds around its payload. Numbers or arrays."""
    return task_bpp - (bpp - bpp_payload)


def _scale(row: Row) -> float:
    return float(row.get("scale") or 1)


def _pareto(points: Sequence[tuple[float, float, int]], upward: bool) -> list[tuple[float, float, int]]:
    """Of points by rising rate (best first where equal), those better than every cheaper one."""
    front: list[tuple[float, float, int]] = []
    for point in points:
        if not front or (point[1] > front[-1][1] if upward else point[1] < front[-1][1]):
            front.append(point)
    return front
