"""Points of the record ``preprocessing``: standard codecs and filters before them in real files, read by networks."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runs import evaluate, train
from launch.overrides import quoted

KEPT = ("codec", "rate", "scale", "bpp", "bpp_payload", "psnr", "tasks", "ci95", "num_images")
SMALLER = 0.7
"""Side of the smaller pictures that are filtered."""
PREFIX = {"trained": "", "refined": "refined_", "gaussian": "gaussian_"}
"""{codec: what its figures begin with}"""


@dataclass(frozen=True)
class Standard:
    """A standard codec and the filter before it.

    Args:
        experiment: that trains the filter.
        qualities: of the codec alone.
        own: of the filter, ordered from the fewest bits.
        scales: of its pictures.
        share: of the test pictures that are read: some codecs take long.
    """

    experiment: str
    qualities: Sequence[int]
    own: Sequence[int]
    scales: Sequence[float]
    share: float = 1.0


def trained(setting: Standard, photos: Path, run: Path, more: Sequence[str]) -> None:
    """Train a filter, or the rest of it."""
    arguments = [f"experiment={setting.experiment}", f"data.root={quoted(photos)}"]
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    train(run, [*arguments, "+trainer.limit_test_batches=1", *more], threads)


def measured(
    out: Path,
    judges: Sequence[str],
    *,
    codecs: Mapping[str, Path | str],
    anchors: Sequence[str],
    rates: Mapping[str, Sequence[int]],
    scales: Mapping[str, Sequence[float]],
    images: int,
    refine: str = "null",
) -> list[dict[str, Any]]:
    """Rows of every codec at every rate and scale (``point``), and of evaluate.py's comparison (``bd``).

    Args:
        out: of evaluate.py; what it remembers lies beside it.
        judges: overrides that choose data and networks.
        codecs: {name: yaml or run}.
        anchors: see evaluate.py, as all that follows.
        rates: of those that have other than their own.
        scales: of those that are shrunk, too.
        images: evenly spaced.
        refine: node.
    """
    overrides = [
        *judges,
        f"codecs=[{', '.join(f'{{{name}: {quoted(source)}}}' for name, source in codecs.items())}]",
        f"anchors=[{', '.join(anchors)}]",
        f"scales={_plain(scales)}", f"rates={_plain(rates)}", f"refine={refine}",
        f"num_images={images}", f"cache={quoted(out.parent / 'cache')}",
        "own_tasks=false", "metrics=[psnr]", "gallery=0", "complexity=false", "timed_images=0",
    ]  # fmt: skip
    rows = [
        {"kind": "point", **{key: row[key] for key in KEPT if key in row}}
        for row in evaluate(out, overrides)["rows"]
    ]
    return [*rows, *({"kind": "bd", **row} for row in json.loads((out / "bd.json").read_text())["rows"])]


def bd_figures(row: Mapping[str, Any], name: str) -> dict[str, float | None]:
    """A comparison and its interval, as figures call them; nothing for what is no filter."""
    if row["codec"] not in PREFIX:
        return {}
    name = PREFIX[row["codec"]] + name
    name += "_payload" * (row["rate_axis"] == "bpp_payload")
    name += "_scaled" * (row["ladder"] == "scaled")
    name += "_vs_best_simple" * (row["anchor"] == f"{row['standard']}+scaled")
    name += "_vs_gaussian" * (row["anchor"] == "gaussian")
    return with_interval(name, row)


def with_interval(name: str, row: Mapping[str, Any]) -> dict[str, float | None]:
    """A BD-rate under a name, and the ends of its interval."""
    low, high = row["ci95"] or (None, None)
    return {name: row["bd_rate_percent"], f"{name}_ci_low": low, f"{name}_ci_high": high}


def _plain(lists: Mapping[str, Sequence[float]]) -> str:
    return f"{{{', '.join(f'{name}: {[*values]}' for name, values in lists.items())}}}"
