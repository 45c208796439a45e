"""Is the joint stage worth it? ``python -m benchmarks.main_job [SEED ...]`` runs the quickstart and its control.

The *control* gives the rate-distortion codec and its heads every batch that the joint stage had: a codec trained for
rate and distortion as long as pretraining and joint tuning together, heads as long as both head trainings together.
Writes benchmarks/results/main_job.json and docs/figures/quickstart.png (``draw``: the picture alone, from the record).
About ten minutes a seed on two CPU cores.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.record import RESULTS, Figures, Rows, write
from launch.overrides import quoted

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "main_job"
PICTURE = ROOT / "docs" / "figures" / "quickstart.png"
TASKS = {"identity": "top1", "parsing": "miou"}
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % points of Student's t for the mean of this many seeds."""

QUICKSTART = ("experiment=quickstart",)
CONTROL = (
    "experiment=quickstart",
    "name=quickstart_control",
    "~schedule.joint",
    "schedule.pretrain.num_batches=2000",
    "schedule.heads.num_batches=1700",
    "~baselines.jpeg",
)


def run(overrides: tuple[str, ...], seed: int) -> tuple[dict[str, Any], float]:
    """One run of train.py in a fresh folder: its summary, and the seconds the whole command took."""
    name = "control" if overrides is CONTROL else "quickstart"
    folder = RUNS / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "train.py", *overrides, f"seed={seed}", f"run_dir={quoted(folder)}"]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads((folder / "summary.json").read_text()), time.perf_counter() - start


def measure(seed: int) -> list[dict[str, Any]]:
    """Rows of one seed: the quickstart's test rows and the control's last."""
    rows = []
    for name, overrides in (("quickstart", QUICKSTART), ("control", CONTROL)):
        summary, seconds = run(overrides, seed)
        for row in summary["test"]["rows"]:
            if name == "quickstart" or row["codec"] == "heads":
                kept = {
                    key: row[key] for key in ("codec", "rate", "seed", "bpp", "bpp_payload", "psnr", "tasks")
                }
                rows.append({"run": name, "command_seconds": seconds, **kept})
    return rows


def figures(rows: Rows) -> Figures:
    """Means over seeds, and 95 % intervals of the joint codec's differences to the others, paired by seed."""
    found: dict[str, float | None] = {}
    seconds = {row["seed"]: row["command_seconds"] for row in rows if row["run"] == "quickstart"}
    found["quickstart_seconds"] = max(seconds.values())
    picked = {
        "rd_codec": _by_seed(rows, "quickstart", "heads"),
        "joint": _by_seed(rows, "quickstart", "joint"),
        "control": _by_seed(rows, "control", "heads"),
    }
    for name, by_seed in picked.items():
        for key in ("bpp", "bpp_payload", "psnr"):
            found[f"quickstart_{key}_{name}"] = statistics.mean(row[key] for row in by_seed.values())
        for task, metric in TASKS.items():
            values = [row["tasks"][f"{task}/{metric}"] for row in by_seed.values()]
            found[f"quickstart_{task}_{name}"] = statistics.mean(values)
    for other in ("rd_codec", "control"):
        pairs = [(picked["joint"][seed], picked[other][seed]) for seed in picked["joint"]]
        for key in ("bpp", "bpp_payload"):
            _add_interval(found, f"{key}_joint_minus_{other}", [a[key] - b[key] for a, b in pairs])
        for task, metric in TASKS.items():
            name = f"{task}/{metric}"
            differences = [a["tasks"][name] - b["tasks"][name] for a, b in pairs]
            _add_interval(found, f"{task}_joint_minus_{other}", differences)
    return found


def _by_seed(rows: Rows, run_name: str, codec: str) -> dict[int, Mapping[str, Any]]:
    return {row["seed"]: row for row in rows if row["run"] == run_name and row["codec"] == codec}


def _add_interval(found: dict[str, float | None], name: str, differences: list[float]) -> None:
    count, mean = len(differences), statistics.mean(differences)
    half = STUDENT_T[count] * statistics.stdev(differences) / math.sqrt(count) if count in STUDENT_T else None
    found |= {name: mean, f"{name}_low": None if half is None else mean - half}
    found[f"{name}_high"] = None if half is None else mean + half


def draw(rows: Rows, path: Path) -> None:
    """Task metrics over real bits per pixel: every seed a dot, JPEG a line."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    looks = {
        "heads on the rate-distortion codec": ("quickstart", "heads", "#888888", "o"),
        "the same, trained as long as joint": ("control", "heads", "#c66a2b", "s"),
        "jointly tuned codec and heads": ("quickstart", "joint", "#1f6fb4", "D"),
    }
    for axes, (task, metric) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
        jpeg = [row for row in rows if row["codec"] == "jpeg"]
        for seed in sorted({row["seed"] for row in jpeg}):
            line = sorted((r["bpp"], r["tasks"][f"{task}/{metric}"]) for r in jpeg if r["seed"] == seed)
            label = "JPEG, read by the joint codec's heads" if seed == 0 else None
            axes.plot(*zip(*line, strict=True), "-^", color="#bbbbbb", markersize=4, linewidth=1, label=label)
        for label, (run_name, codec, colour, marker) in looks.items():
            points = _by_seed(rows, run_name, codec).values()
            x, y = [p["bpp"] for p in points], [p["tasks"][f"{task}/{metric}"] for p in points]
            axes.plot(x, y, marker, color=colour, markersize=6, label=label)
        axes.set(xscale="log", xlabel="bits per pixel, whole files", ylabel=f"{task}: {metric}")
        axes.set_xticks([], minor=True)
        axes.set_xticks([0.3, 0.5, 1, 2, 3], labels=["0.3", "0.5", "1", "2", "3"])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(seeds: list[int]) -> None:
    """Run everything and write the record and its picture."""
    rows = [row for seed in seeds for row in measure(seed)]
    notes = (
        f"Seeds {seeds}; 400 test portraits, the same for all; rates and tasks from real files. rd_codec: heads "
        "trained on the frozen rate-distortion codec. control: the same with as many batches in all as the joint run "
        "had. Intervals: Student's t over seeds, paired; not a bootstrap over images. quickstart_seconds: the slowest "
        "whole command, set-up apart. JPEG is read by the joint codec's heads, which never saw JPEG."
    )
    path = write(
        "main_job", commands=["python -m benchmarks.main_job 0 1 2"], rows=rows, figures=figures, notes=notes
    )
    draw(rows, PICTURE)
    print(f"{path}\n{PICTURE}")


if __name__ == "__main__":
    if sys.argv[1:] == ["draw"]:
        draw(json.loads((RESULTS / "main_job.json").read_text())["rows"], PICTURE)
    else:
        main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
