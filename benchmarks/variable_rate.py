"""One codec for all rates beside one for each: the record ``variable_rate``.

python -m benchmarks.variable_rate PHOTOS SCENES DIR      writes benchmarks/results/variable_rate.json

PHOTOS holds photographs in train/, val/ and test/ (BSDS500's), DIR gets the runs; killed, the same command goes on. The
codec with gain units gets as many batches as all single ones together. All begin with the same trained codec, whose
lmbda is the middle one, and share the arithmetic, the data and the range of lmbdas; all are judged by real bytes on
whole test photographs. SCENES (scenes6) shows tasks with it: one codec with a classifier on its pixels and one on its
latents, tested at each rate at which gains are learned.
"""

import argparse
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, Figures, Rows, write
from benchmarks.runs import evaluate, train
from launch.overrides import quoted

LMBDAS = (0.0009, 0.0025, 0.0067, 0.018, 0.0483)
"""Of the single codecs; the variable one's range ends where they do."""
CODEC = ROOT / "benchmarks" / "weights" / "scenes6_codec"
PARTS = ("g_a", "g_s", "latent_codec.h_a", "latent_codec.h_s", "latent_codec.hyper")
"""Of a codec without gain units: those of one with them begin at 1 for the middle rate."""
KEPT = ("codec", "rate", "seed", "bpp", "bpp_payload", "psnr")
QUICK = ("metrics=[psnr]", "timed_images=0", "gallery=0", "complexity=false")
HEADS = ("pixels", "latents")


def beginning() -> str:
    """``init_from`` of a first stage."""
    parts = (f"codec.{part}: {quoted(f'{CODEC}:codec.{part}')}" for part in PARTS)
    return f"{{{', '.join(parts)}}}"


def runs(photos: Path, root: Path, batches: int, seed: int) -> dict[Path, list[str]]:
    """{run folder: overrides}, the longest first."""
    shared = [
        f"data.root={quoted(photos)}", "data.crop=64", "data.batch_size=8", f"seed={seed}", "data.keep_mb=1024",
        "schedule.rate_distortion.updates.main.optimiser.lr=5.0e-4", "schedule.rate_distortion.num_validations=2",
        f"schedule.rate_distortion.init_from={beginning()}", "callbacks.reconstructions=null",
        "callbacks.latent_statistics=null", "+trainer.limit_val_batches=8", "+trainer.limit_test_batches=1",
    ]  # fmt: skip
    length = "schedule.rate_distortion.num_batches="
    found = {
        root / "variable" / str(seed): [
            "experiment=photos_variable",
            f"{length}{batches * len(LMBDAS)}",
            *shared,
        ]
    }
    for lmbda in LMBDAS:
        folder = root / "single" / f"{lmbda:g}-{seed}"
        found[folder] = ["experiment=photos", f"lmbda={lmbda:g}", f"{length}{batches}", *shared]
    return found


def evaluated(photos: Path, root: Path) -> list[dict[str, Any]]:
    """Rows of both curves, and of what evaluate.py says between them."""
    out = root / "evaluation"
    codecs = ", ".join(f"{{{name}: {quoted(root / name)}}}" for name in ("single", "variable"))
    overrides = [
        f"codecs=[{codecs}]", "anchors=[single]", "data=image_folder", f"data.root={quoted(photos)}", "split=test",
        "num_images=50", *QUICK,
    ]  # fmt: skip
    rows = [{"kind": "point", **{key: row[key] for key in KEPT}} for row in evaluate(out, overrides)["rows"]]
    found = json.loads((out / "bd.json").read_text())["rows"]
    return [*rows, *({"kind": "bd", **row} for row in found)]


def read(scenes: Path, root: Path, threads: int) -> list[dict[str, Any]]:
    """Rows of a codec with gain units whose pixels and latents are classified, at each of its rates."""
    run = root / "scenes"
    training = [
        "experiment=scenes6_variable", f"data.root={quoted(scenes)}", f"schedule.pretrain.init_from={beginning()}",
        "callbacks.reconstructions=null", "+trainer.limit_test_batches=1", "~baselines.jpeg",
    ]  # fmt: skip
    train(run, training, threads)
    overrides = [f"codecs=[{{scenes: {quoted(run)}}}]", "data=scenes6", f"data.root={quoted(scenes)}"]
    rows = evaluate(root / "scenes_test", [*overrides, "num_images=750", *QUICK])["rows"]
    kept = (*KEPT, "tasks", "ci95", "num_images")
    return [{"kind": "task", **{key: row[key] for key in kept}} for row in rows]


def figures(rows: Rows) -> Figures:
    """BD-rates of the variable codec against the single ones, on files, and their 95 % intervals over photographs.

    Of the classified one: bits and top-1 of both heads at each rate.
    """
    found: dict[str, float | None] = {}
    for row in rows:
        if row["kind"] == "bd" and (row["codec"], row["metric"], row["rate_axis"]) == (
            "variable",
            "psnr",
            "bpp",
        ):
            for name, unit, key, ends in (
                ("bd_rate", "percent", "bd_rate_percent", "ci95"),
                ("bd_psnr", "db", "bd_metric", "bd_metric_ci95"),
            ):
                low, high = row[ends] or (None, None)
                found |= {f"variable_rate_{name}_{unit}": row[key]}
                found |= {f"variable_rate_{name}_low": low, f"variable_rate_{name}_high": high}
        elif row["kind"] == "task":
            of = f"variable_rate_scenes6_{row['rate']:g}"
            found[f"{of}_bpp"] = row["bpp"]
            found |= {f"{of}_top1_{head}": row["tasks"][f"{head}/top1"] for head in HEADS}
    return found


def main(photos: Path, scenes: Path, root: Path, batches: int, seeds: list[int], jobs: int) -> None:
    """Train what is missing, evaluate, write the record."""
    wanted = dict(
        itertools.chain.from_iterable(
            runs(photos.resolve(), root.resolve(), batches, s).items() for s in seeds
        )
    )
    for folder in wanted:
        folder.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        tasks = pool.submit(read, scenes.resolve(), root.resolve(), threads)
        list(pool.map(lambda folder: train(folder, wanted[folder], threads), wanted))
    setting = {"kind": "setting", "batches": batches, "seeds": seeds}
    rows = [setting, *evaluated(photos, root.resolve()), *tasks.result()]
    notes = (
        f"Crops of 64 pixels, batches of 8; single: {batches} batches each, variable: {batches * len(LMBDAS)}. BD-rate "
        "over means of the seeds on file bytes of 50 whole test photographs, negative saves; intervals: bootstrap over "
        "photographs. All begin with the codec in benchmarks/weights, which was trained on scenes6. Classified: "
        "experiment=scenes6_variable, on every second test scene."
    )
    commands = [f"python -m benchmarks.variable_rate PHOTOS SCENES DIR --batches {batches} --jobs {jobs}"]
    print(write("variable_rate", commands=commands, rows=rows, figures=figures, notes=notes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.variable_rate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder with train/, val/ and test/")
    parser.add_argument(
        "scenes", type=Path, metavar="SCENES", help="folder of train/, val/ and test/ in classes"
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the runs")
    parser.add_argument(
        "--batches", type=int, default=4000, help="of each single codec's training (default: 4000)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of all randomness (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at once, sharing the cores (default: 1)"
    )
    options = parser.parse_args()
    main(options.photos, options.scenes, options.out, options.batches, options.seeds, options.jobs)
