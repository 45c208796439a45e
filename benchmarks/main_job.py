"""Is joint tuning worth it? ``python -m benchmarks.main_job DIR`` trains the quickstart and its control.

At each of three lmbdas and three seeds, both have the same pretraining and the same first training of the heads. Then
codec and heads are trained together as long, from the same weights, on the same batches, at the same lmbda, with the
same learning rates: *joint* with the tasks' gradients in the codec, *control* without them (configs/stage/
side_by_side.yaml). That gradient is what they differ in.

DIR gets the runs; killed, the same command goes on. Writes benchmarks/results/main_job.json and
docs/figures/quickstart.png (``draw``: the picture alone, from the record).
"""

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.record import RESULTS, Figures, Rows, write
from benchmarks.runs import train
from evaluation.curves.bd_rate import bd_rate
from launch.overrides import quoted

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "figures" / "quickstart.png"
LMBDAS, SEEDS = (0.0005, 0.0015, 0.005), (0, 1, 2)
TASKS = {"identity": "top1", "parsing": "miou"}
RATES = ("bpp", "bpp_payload")
MEASURES = (*RATES, "psnr", *TASKS)
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % points of Student's t for the mean of this many seeds."""

SHARED = ("01-pretrain", "02-heads")
RUNS = {
    "joint": (),
    "control": ("name=quickstart_control", "schedule=quickstart_side_by_side", "~baselines.jpeg"),
}


def begin_with_stages_of(other: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Make a run folder in which the shared stages are finished: trained once, they are the same for both runs."""
    if (folder / "config.yaml").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for stage in SHARED:
        shutil.copytree(other / "stages" / stage, folder / "stages" / stage)
    command = [
        sys.executable,
        "train.py",
        *overrides,
        f"run_dir={quoted(folder)}",
        "--cfg",
        "job",
        "--resolve",
    ]
    config = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (folder / "config.yaml").write_text(config)


def pair(root: Path, lmbda: float, seed: int, threads: int) -> list[dict[str, Any]]:
    """Rows of both runs at one lmbda and seed."""
    rows: list[dict[str, Any]] = []
    folders = {name: root / f"{name}-{lmbda:g}-{seed}" for name in RUNS}
    for name, overrides in RUNS.items():
        overrides = [*overrides, f"lmbda={lmbda:g}", f"seed={seed}"]
        if name == "control":
            begin_with_stages_of(folders["joint"], folders[name], overrides)
        summary = train(folders[name], overrides, threads)
        kept = ("codec", "rate", "bpp", "bpp_payload", "header_bytes", "psnr", "tasks")
        rows += [
            {"run": name, "lmbda": lmbda, "seed": seed, **{key: row[key] for key in kept}}
            for row in summary["test"]["rows"]
            # The stages before it are the other's.
            if name == "joint" or row["codec"] == "joint"
        ]
    print(f"lmbda {lmbda:g}, seed {seed}: done", flush=True)
    return rows


def figures(rows: Rows) -> Figures:
    """Means over seeds, differences at equal lmbda, and BD figures over the lmbdas: joint less control.

    Every difference and BD figure is taken for each seed; its 95 % interval is Student's t over them.
    """
    found: dict[str, float | None] = {}
    lmbdas, seeds = (sorted({row[key] for row in rows}) for key in ("lmbda", "seed"))
    for lmbda in lmbdas:
        runs = {name: [_value(rows, name, lmbda, seed) for seed in seeds] for name in RUNS}
        for measure in MEASURES:
            for name, values in runs.items():
                found[f"{measure}_{name}_{lmbda:g}"] = statistics.mean(v[measure] for v in values)
            differences = [a[measure] - b[measure] for a, b in zip(*runs.values(), strict=True)]
            found |= _interval(f"{measure}_difference_{lmbda:g}", differences)
    for measure, rate in itertools.product(("psnr", *TASKS), RATES):
        rates, metrics = [], []
        for seed in seeds:
            control, joint = (
                [_value(rows, name, lmbda, seed) for lmbda in lmbdas] for name in ("control", "joint")
            )
            bd = bd_rate(*([v[key] for v in run] for run in (control, joint) for key in (rate, measure)))
            rates.append(bd.bd_rate_percent)
            metrics.append(bd.bd_metric)
        found |= _interval(f"bd_rate_{measure}_{rate}", rates) | _interval(f"bd_{measure}_{rate}", metrics)
    return found


def _value(rows: Rows, run: str, lmbda: float, seed: int) -> dict[str, float]:
    (row,) = (
        row
        for row in rows
        if (row["run"], row["codec"], row["lmbda"], row["seed"]) == (run, "joint", lmbda, seed)
    )
    tasks = {task: row["tasks"][f"{task}/{metric}"] for task, metric in TASKS.items()}
    return {key: row[key] for key in (*RATES, "psnr")} | tasks


def _interval(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and 95 % interval; nothing where a seed has no value, for the others would be a selection."""
    ends = dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    if any(value is None for value in values):
        return ends
    mean = statistics.mean(values)
    ends[name] = mean
    if (count := len(values)) in STUDENT_T:
        half = STUDENT_T[count] * statistics.stdev(values) / math.sqrt(count)
        ends |= {f"{name}_low": mean - half, f"{name}_high": mean + half}
    return ends


def draw(rows: Rows, path: Path) -> None:
    """Task metrics over real bits per pixel: every seed a thin line, means a thick one, JPEG grey."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    looks = {"joint": ("joint", "#1f6fb4", "D"), "control": ("no task gradient in the codec", "#c66a2b", "s")}
    lmbdas, seeds = (sorted({row[key] for row in rows}) for key in ("lmbda", "seed"))
    for axes, (task, metric) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
        for name, (label, colour, marker) in looks.items():
            lines = np.array(
                [
                    [[v["bpp"], v[task]] for v in (_value(rows, name, lmbda, seed) for lmbda in lmbdas)]
                    for seed in seeds
                ]
            )
            for line in lines:
                axes.plot(*line.T, "-", color=colour, linewidth=0.7, alpha=0.5)
            axes.plot(*lines.mean(0).T, "-", marker=marker, color=colour, markersize=6, label=label)
        for seed, line in _jpeg(rows, f"{task}/{metric}"):
            label = "JPEG, read by the joint codec's heads" if seed == seeds[0] else None
            axes.plot(*zip(*line, strict=True), "-^", color="#bbbbbb", markersize=4, linewidth=1, label=label)
        axes.set(xscale="log", xlabel="bits per pixel, whole files", ylabel=f"{task}: {metric}")
        axes.set_xticks([], minor=True)
        axes.set_xticks([0.2, 0.3, 0.5, 1, 2, 3], labels=["0.2", "0.3", "0.5", "1", "2", "3"])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _jpeg(rows: Rows, metric: str) -> Iterable[tuple[int, list[tuple[float, float]]]]:
    """{seed: points} at the middle lmbda, whose heads are as good as any."""
    middle = sorted({row["lmbda"] for row in rows})[1]
    jpeg = [row for row in rows if row["codec"] == "jpeg" and row["lmbda"] == middle]
    for seed in sorted({row["seed"] for row in jpeg}):
        yield seed, sorted((row["bpp"], row["tasks"][metric]) for row in jpeg if row["seed"] == seed)


def main(root: Path, seeds: Sequence[int], jobs: int) -> None:
    """Run everything and write the record and its picture."""
    root.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        points = itertools.product(seeds, LMBDAS)
        done = [pool.submit(pair, root.absolute(), lmbda, seed, threads) for seed, lmbda in points]
        rows = [row for future in done for row in future.result()]
    notes = (
        "400 test portraits, the same for all; rates and tasks from real files. Joint and control share pretraining "
        "and the heads' first training, and train on from there as long, on the same batches, at the same lmbda, "
        "with the same rates of learning; no task's gradient reaches the control's codec, whose gradient is clipped "
        "apart from its heads'. Differences are joint less control, paired by seed; intervals are Student's t over "
        "the seeds, no bootstrap over images. BD figures are over the three lmbdas. JPEG is read by the joint "
        "codec's heads, which never saw JPEG."
    )
    path = write(
        "main_job",
        commands=["python -m benchmarks.main_job DIR --jobs 2"],
        rows=rows,
        figures=figures,
        notes=notes,
    )
    draw(rows, PICTURE)
    print(f"{path}\n{PICTURE}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.main_job", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", metavar="DIR", help="folder of the runs, or `draw` for the picture alone")
    parser.add_argument("--jobs", type=int, default=1, help="pairs trained at once, sharing the cores")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="intervals need three")
    options = parser.parse_args()
    if options.out == "draw":
        draw(json.loads((RESULTS / "main_job.json").read_text())["rows"], PICTURE)
    else:
        main(Path(options.out), options.seeds, options.jobs)
