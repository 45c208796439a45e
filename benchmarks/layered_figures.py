"""Figures of the record ``layered_generative``, from its rows."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.layered_sets import SETS
from benchmarks.record import Figures, Rows
from evaluation.curves.bootstrap import interval, means, resamples

OURS = {"joint": "joint", "separate": "separate", "single": "single_stream"}
"""{codec of ours: what figures call it}"""
SMALLER = {1: "", 0.5: "_half", 0.25: "_quarter"}
"""{scale: how a standard codec of such pictures is called}"""
LEAST, MOST = 0.9, 2.0
"""Shares of our payload within which that of a standard codec that stands against ours must be; its file no smaller."""
RGB_BPP = 24
RIVALS = ("rgb", "separate", "single_stream", "best_standard")
LOOKS = {"gmsd": False, "features": False, "psnr": True}
"""{how alike pictures look: whether higher is better}"""
Point = Mapping[str, Any]


def figures(rows: Rows) -> Figures:
    """Metrics, bits and looks of every point, gaps with intervals, and what the analysis costs."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row["kind"] == "images":
            name = row["set"]
            points = {_name(p): p for p in rows if p["kind"] == "point" and p["set"] == name}
            found |= {f"{name}_{key}": value for key, value in _of_set(name, points, row["people"])}
        elif row["kind"] == "costs":
            macs, seconds = row["macs_per_pixel"], row["seconds"]
            found[f"{row['set']}_analyze_macs_ratio"] = macs["streams"] / macs["pixels"]
            pairs = zip(seconds["streams"], seconds["pixels"], strict=True)
            found[f"{row['set']}_analyze_seconds_ratio"] = statistics.median(a / b for a, b in pairs)
        elif row["kind"] == "attached":
            found[f"{row['set']}_files_identical_share"] = row["identical"] / row["files"]
    return found | dict(_in_short(found))


def _in_short(found: Figures) -> Iterator[tuple[str, float | None]]:
    """(key, figure) without rates: of each set at the most bits that it was measured at, of all sets the worst.

    ``perceptual_`` is GMSD, at the fewest bits: of VVC and HEVC the best that stands against ours.
    """
    for name, of in SETS.items():
        measured = [rate for rate in of.rates if f"{name}_bits_joint_{rate}" in found]
        if not measured:
            continue
        yield f"{name}_bpp", RGB_BPP * found[f"{name}_bits_joint_{measured[-1]}"] / found[f"{name}_bits_rgb"]
        yield f"{name}_perceptual_ours", found[f"{name}_gmsd_joint_{measured[0]}"]
        for codec in ("hevc", "vvc"):
            gaps = f"{name}_gmsd_gap_to_{codec}", f"_{measured[0]}"
            rivals = [codec + key[len(gaps[0]) : -len(gaps[1])] for key in found if _between(key, *gaps)]
            if rivals:
                yield f"{name}_perceptual_{codec}", min(found[f"{name}_gmsd_{rival}"] for rival in rivals)
        for metric in of.metrics:
            for kind in ("joint", "separate", "single_stream", *(f"gap_to_{rival}" for rival in RIVALS)):
                for ending in ("", "_low", "_high"):
                    keys = (f"{name}_{metric}_{kind}_{rate}{ending}" for rate in reversed(measured))
                    key = next((key for key in keys if key in found), None)
                    if key is not None:
                        yield f"{name}_{metric}_{kind}{ending}", found[key]
    for key in ("analyze_macs_ratio", "analyze_seconds_ratio"):
        values = [value for name, value in found.items() if name.endswith(key)]
        if values:
            yield key, max(values)
    saved = [value for name, value in found.items() if "_bits_saved_vs_rgb_percent_" in name]
    if saved:
        yield "bits_saved_vs_rgb_percent", min(saved)


def _between(key: str, begin: str, end: str) -> bool:
    return key.startswith(begin) and key.endswith(end)


def _name(point: Point) -> str:
    if point["codec"] in OURS:
        return f"{OURS[point['codec']]}_{point['rate']}"
    if "qp" in point:
        return f"{point['codec']}{SMALLER[point['scale']]}_qp{point['qp']}"
    return point["codec"]


def _of_set(
    name: str, points: Mapping[str, Point], people: Sequence[str] | None
) -> Iterator[tuple[str, Any]]:
    """(key, figure) of one set."""
    of, (first, *_) = SETS[name], points.values()
    drawn = _draws(people or range(len(first["file_bits"])))
    for key, point in points.items():
        yield f"bits_{key}", statistics.mean(point["file_bits"])
        yield f"payload_bits_{key}", statistics.mean(point["payload_bits"])
        for look in LOOKS.keys() & point.keys():
            yield f"{look}_{key}", statistics.mean(point[look])
        for heads, read in point["readings"].items():
            ending = f"_heads_of_{heads}" if "qp" in point else ""
            yield from ((f"{metric}_{key}{ending}", statistics.mean(v)) for metric, v in read.items())
    for label in of.rates:
        joint = points.get(f"joint_{label}")
        if joint is None:
            continue
        bits = statistics.mean(joint["file_bits"])
        yield (
            f"bits_saved_vs_rgb_percent_{label}",
            100 * (1 - bits / statistics.mean(points["rgb"]["file_bits"])),
        )
        against = _standards(points, joint)
        for metric, about in of.metrics.items():
            higher, own = about.higher_is_better, joint["readings"]["own"][metric]
            rivals = {"rgb": points["rgb"]["readings"]["originals"][metric]}
            for other in ("separate", "single_stream"):
                if (point := points.get(f"{other}_{label}")) is not None:
                    rivals[other] = point["readings"]["own"][metric]
            readings = [read[metric] for point in against.values() for read in point["readings"].values()]
            if readings:
                rivals["best_standard"] = (max if higher else min)(readings, key=statistics.mean)
            for rival, values in rivals.items():
                yield from _gap(f"{metric}_gap_to_{rival}_{label}", own, values, higher, drawn)
        rivals = {"separate": points.get(f"separate_{label}"), **against}
        for look, higher in LOOKS.items():
            for rival, point in rivals.items():
                if point is not None:
                    yield from _gap(f"{look}_gap_to_{rival}_{label}", joint[look], point[look], higher, drawn)


def _standards(points: Mapping[str, Point], ours: Point) -> dict[str, Point]:
    """Standard codecs that have about as many bits as a point of ours in payload, and no fewer in files."""

    def bits(point: Point, kind: str) -> float:
        return statistics.mean(point[kind])

    return {
        key: point
        for key, point in points.items()
        if "qp" in point
        and LEAST <= bits(point, "payload_bits") / bits(ours, "payload_bits") <= MOST
        and bits(point, "file_bits") >= bits(ours, "file_bits")
    }


def _draws(people: Sequence[Any]) -> np.ndarray:
    """How often each image counts in each resample of the people, (B, N)."""
    _, group = np.unique(np.array(people), return_inverse=True)
    return resamples(int(group.max()) + 1)[:, group]


def _gap(
    key: str, own: Sequence[float], other: Sequence[float], higher_is_better: bool, drawn: np.ndarray
) -> Iterator[tuple[str, float | None]]:
    """How far ours is ahead, with the interval of the paired difference."""
    ahead = (np.array(own) - np.array(other)) * (1 if higher_is_better else -1)
    low, high = interval(means(ahead, drawn)) or (None, None)
    yield from ((key, float(ahead.mean())), (f"{key}_low", low), (f"{key}_high", high))
