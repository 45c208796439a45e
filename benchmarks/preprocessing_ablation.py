"""Ablation of the record ``preprocessing``: where values and gradients come from, and one filter for each quality.

Filters that know what blocks tell Lite0, in front of JPEG, begin with a small price of a bit and learn for the same
number of batches of the same photos; only what is named differs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.preprocessing_points import measured, with_interval
from benchmarks.record import Figures, Rows
from benchmarks.runs import train
from launch.overrides import quoted
from models.codecs.proxies.bridge import MODES

STEPS = {5: 10.0, 10: 5.0, 20: 2.5, 40: 1.25}
"""{quality of JPEG: its tables, in multiples of those at 50}"""
QUALITIES = (3, 5, 8, 10, 14, 20, 28, 40, 60)
BATCHES = 60
OWN = "one_filter_per_quality"


def rows(photos: Path, imagenet: Path, root: Path, images: int, more: Sequence[str]) -> list[dict[str, Any]]:
    """Train the filters below ``root``, unless they are there, and compare them on so many pictures."""
    for mode in MODES:
        _trained(root / mode, photos, STEPS, mode, more)
    for quality, step in STEPS.items():
        _trained(root / OWN / str(quality), photos, {quality: step}, MODES[0], more)
    compared = {"jpeg": "jpeg", **{name: root / name for name in (*MODES, OWN)}}
    found = measured(
        root / "read",
        ["evaluation=imagenet_reading", "~frozen.lite1", "~frozen.lite2", f"data.root={quoted(imagenet)}"],
        codecs=compared,
        anchors=["jpeg", MODES[0]],
        rates={"jpeg": QUALITIES, **{mode: [*STEPS] for mode in MODES}},
        scales={},
        images=images,
    )
    return [{"set": "ablation", "standard": "jpeg", **row} for row in found]


def _trained(run: Path, photos: Path, steps: dict[int, float], mode: str, more: Sequence[str]) -> None:
    overrides = [
        "experiment=preprocessing_jpeg_informed", f"data.root={quoted(photos)}",
        f"schedule.filter.settings.mode={mode}",
        f"codec.proxy.rates={[*steps]}", f"codec.filter.steps={[max(steps.values()), min(steps.values())]}",
        "+codec.filter.amount=[0.01, 0.01]", "schedule.filter.updates.main.optimiser.lr=0.05",
        f"schedule.filter.num_batches={BATCHES}", "+trainer.limit_test_batches=1",
    ]  # fmt: skip
    train(run, [*overrides, *more], 1)


def figures(found: Rows) -> Figures:
    """``bd_rate_<variant>`` by Lite0's KL on file bytes, against JPEG; and against the first mode."""
    named: dict[str, float | None] = {}
    for row in found:
        asked = row["kind"] == "bd" and row.get("set") == "ablation" and row["codec"] in (*MODES, OWN)
        if asked and (row["metric"], row["rate_axis"]) == ("lite0/kl", "bpp"):
            name = f"bd_rate_{row['codec']}" + ("" if row["anchor"] == "jpeg" else f"_vs_{row['anchor']}")
            named |= with_interval(name, row)
    return named
