"""Figures of the record ``scalable_face``, from its rows."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.record import Figures, Rows
from evaluation.curves.bootstrap import interval, means, resamples

LIMITS = {"basic_164": ("basic", 164), "all_655": ("enhanced", 655)}
"""{what figures call it: (decoded up to this layer, most payload bits an image)}"""
JUDGES = ("nme", "rank1", "gmsd")
AGAINST = {
    "basic_164": ("vvc_qp63", "vvc_qp57", "average_face"),
    "all_655": ("vvc_qp63", "vvc_half_qp57", "vvc_qp57", "vvc_qp52", "hevc_half_qp51"),
}


def figures(rows: Rows) -> Figures:
    """What the judges say at the two limits, of the opponents, and paired differences; savings; bits and seconds."""
    points = [row for row in rows if row["kind"] == "point"]
    found: dict[str, float | None] = {}
    others = {_name(row): row for row in points if row["codec"] != "ours"}
    for name, row in others.items():
        found |= {f"{judge}_{name}": statistics.mean(row[judge]) for judge in JUDGES}
        found[f"bits_{name}"] = statistics.mean(row["payload_bits"])
        found[f"file_bits_{name}"] = statistics.mean(row["file_bits"])
    for limit, (upto, most) in LIMITS.items():
        for ending in ("", "_refined"):
            row = best(points, upto, most, bool(ending))
            for judge in JUDGES:
                name = f"{judge}_{limit}{ending}"
                found[name] = row and statistics.mean(row[judge])
                for other in AGAINST[limit]:
                    low, high = _difference(row, others.get(other), judge)
                    found[f"{name}_less_{other}_ci_low"], found[f"{name}_less_{other}_ci_high"] = low, high
            found[f"images_{limit}{ending}"] = row and len(row["nme"])
            found[f"bits_{limit}{ending}"] = row and statistics.mean(row["payload_bits"])
            found[f"file_bits_{limit}{ending}"] = row and statistics.mean(row["file_bits"])
    chosen = best(points, *LIMITS["all_655"], refined=False)
    for row in points:
        if (
            chosen is not None
            and row["codec"] == "ours"
            and not row["refined"]
            and row["rate"] == chosen["rate"]
        ):
            found[f"bits_{row['upto']}"] = statistics.mean(row["payload_bits"])
            found["encode_seconds"] = row["seconds"]
    refining = [row["seconds"] for row in points if row["refined"]]
    found["refine_seconds"] = statistics.mean(refining) if refining else None
    entropy = {row["model"]: row for row in rows if row["kind"] == "entropy"}
    for model in ("transformer", "linear"):
        for ending, key in (("", "ideal_bits"), ("_strings", "string_bits")):
            saved = None
            if entropy:
                saved = 100 * (
                    1 - statistics.mean(entropy[model][key]) / statistics.mean(entropy["independent"][key])
                )
            found[f"entropy_{model}_saving_percent{ending}"] = saved
    for row in rows:
        if row["kind"] == "decode":
            found["decode_seconds_1024"] = row["seconds"]
    return found


def _name(row: Mapping[str, Any]) -> str:
    if row["codec"] == "average":
        return "average_face"
    return f"{row['codec']}{'_half' if row['scale'] == 0.5 else ''}_qp{row['rate']:g}"


def best(points: Rows, upto: str, most: float, refined: bool) -> Mapping[str, Any] | None:
    """Of our points within a limit, the one that uses most of it."""

    def bits(row: Mapping[str, Any]) -> float:
        return statistics.mean(row["payload_bits"])

    own = [
        row
        for row in points
        if row["codec"] == "ours" and row["upto"] == upto and bool(row["refined"]) == refined
    ]
    return max((row for row in own if bits(row) <= most), key=bits, default=None)


def _difference(row: Any, other: Any, key: str) -> tuple[float | None, float | None]:
    """Interval of the paired difference of two rows, over the images that both have."""
    if row is None or other is None:
        return None, None
    count = min(len(row[key]), len(other[key]))
    values = np.array(row[key][:count]) - np.array(other[key][:count])
    low, high = interval(means(values, resamples(count))) or (None, None)
    return low, high
