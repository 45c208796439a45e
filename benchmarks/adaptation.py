"""What does it take to adapt a frozen codec? ``python -m benchmarks.adaptation SCENES DIR`` trains five ways.

One codec and one head, trained on its decoded pixels, are what all five begin with. Then, for as many batches of the
same pictures at the same lmbda, the head trains on: alone; with the encoder; with the decoder; with adapters in a codec
that is frozen otherwise; with the whole codec. What trains also learns to be read by a published network that stays as
it is (EfficientNet-Lite0, of the extra ``pretrained``), without labels: by its own answer on the original. All are
judged on the test split, in real bytes, by their own head and by that network.

DIR gets the runs; killed, the same command goes on. Writes benchmarks/results/adaptation.json.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, Figures, Rows, write
from benchmarks.runs import evaluate, train
from launch.overrides import quoted
from lightning_modules.parts import Parts, parameters_of
from models.pretrained import load

WEIGHTS = ROOT / "benchmarks" / "weights" / "scenes6_codec"
HEADS, BATCHES = 600, 1200
"""Batches of the head alone, once for all, and of each row."""
ROWS: Mapping[str, Sequence[str]] = {
    "heads": (),
    "encoder": ("codec.encoder",),
    "decoder": ("codec.decoder",),
    "adapters": ("codec.adapters",),
    "full": ("codec",),
}
"""What of the codec trains."""
MEASURED = {
    "bpp": "bpp",
    "psnr": "psnr",
    "scene/top1": "top1",
    "lite0/kl": "kl",
    "lite0/agreement": "agreement",
}
"""{key of a result: what figures call it}"""
LITE0 = ("+task@tasks.lite0=distillation_frozen_pixels", "+task_weights.lite0=0.3")


def overrides(data: Path, num_batches: int, codec: Path, row: str, trains: Sequence[str]) -> list[str]:
    """The command line of one run."""
    wrapped = ROWS.get(row) == ("codec.adapters",)
    beginning = f"codec.codec: {quoted(f'{codec}:codec')}" if wrapped else f"codec: {quoted(codec)}"
    return [
        "experiment=scenes6_adaptation",
        *LITE0,
        f"name=adaptation_{row}",
        f"data.root={quoted(data)}",
        "+trainer.limit_test_batches=1",  # evaluate.py judges
        f"schedule.full.num_batches={num_batches}",
        f"schedule.full.updates.main.trainable=[{', '.join((*trains, 'tasks'))}]",
        f"schedule.full.init_from={{{beginning}}}",
        # The rate of learning that suits new modules is the head's.
        *(("codec=adapted", "schedule.full.updates.main.lr_scales={codec: 1.0}") if wrapped else ()),
    ]


def adapt(
    root: Path, data: Path, codec: Path, lengths: tuple[int, int], jobs: int, more: Sequence[str]
) -> Rows:
    """Train the head, then all rows from there, ``jobs`` at a time; code and judge the test split.

    Args:
        root: folder of the runs.
        data: of the scenes.
        codec: run or exported model to begin with.
        lengths: batches of the head alone, and of each row.
        jobs: runs at a time.
        more: overrides of every run and of the evaluation.
    """
    root.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    head = root / "head"
    train(head, [*overrides(data, lengths[0], codec, "head", ()), *more], threads)

    def run(row: str) -> None:
        beginning = f"+schedule.full.init_from.tasks={quoted(head)}"
        train(root / row, [*overrides(data, lengths[1], codec, row, ROWS[row]), beginning, *more], threads)
        print(f"{row}: done", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, ROWS))
    names = ", ".join(f"{{{row}: {quoted(root / row)}}}" for row in ROWS)
    quick = ("gallery=0", "timed_images=0", "complexity=false", "metrics=[psnr]")
    evaluated = [f"codecs=[{names}]", "data=scenes6", f"data.root={quoted(data)}"]
    results = evaluate(root / "test", [*evaluated, *quick, "num_images=750"])
    kept = ("bpp", "bpp_payload", "psnr", "tasks", "ci95", "num_images")
    return [
        {
            "row": row["codec"],
            "num_batches": lengths[1],
            **shares(root / row["codec"], ROWS[row["codec"]]),
            **{key: row[key] for key in kept},
        }
        for row in results["rows"]
    ]


def shares(run: Path, trained: Sequence[str]) -> dict[str, Any]:
    """Weights of the codec that a run trained, the head apart, and of the codec it began with."""
    codec = load(run, tasks=()).codec
    new = sum(p.numel() for p in parameters_of(Parts(codec, {}, {}), trained))
    added = sum(p.numel() for name, p in codec.named_parameters() if name.startswith("adapters."))
    return {"trained": new, "weights": sum(p.numel() for p in codec.parameters()) - added}


def figures(rows: Rows) -> Figures:
    """Rates and scores, their 95 % bootstrap intervals over images, and the share of the codec's weights that train."""
    found: dict[str, float | None] = {}
    for row in rows:
        name = f"adaptation_{row['row']}"
        for key, measured in MEASURED.items():
            value = row["tasks"][key] if "/" in key else row[key]
            low, high = row["ci95"].get(key) or (None, None)
            of = f"{name}_{measured}"
            found |= {of: value, f"{of}_low": low, f"{of}_high": high}
        found[f"{name}_trainable_percent"] = 100 * row["trained"] / row["weights"]
    for measured in ("top1", "kl"):
        heads, adapters, full = (
            found[f"adaptation_{row}_{measured}"] for row in ("heads", "adapters", "full")
        )
        share = (adapters - heads) / (full - heads) if full != heads else None
        found[f"adaptation_share_of_full_gain_{measured}"] = share
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "data", metavar="SCENES", type=Path, help="folder of train/, val/ and test/ in classes"
    )
    parser.add_argument("out", metavar="DIR", type=Path, help="folder of the runs")
    parser.add_argument("--codec", type=Path, default=WEIGHTS, help="run or exported model to begin with")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, sharing the cores")
    parser.add_argument(
        "--batches", type=int, nargs=2, default=(HEADS, BATCHES), help="of the head, of each row"
    )
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="overrides of all runs")
    options = parser.parse_args(arguments)
    folders = (path.absolute() for path in (options.out, options.data, options.codec))
    rows = adapt(*folders, tuple(options.batches), options.jobs, options.set)
    notes = (
        "One codec, at one lmbda; the same head to begin with, trained on for as many batches of the same pictures in "
        "every row. Shares are of the codec's weights without the head; adapters count against the codec they are "
        "added to. Every second picture of the test split, whole files; intervals: bootstrap over images, one training "
        "each, so they say nothing of another seed."
    )
    lengths = " ".join(map(str, options.batches))
    command = f"python -m benchmarks.adaptation SCENES DIR --jobs {options.jobs} --batches {lengths}"
    if options.set:
        command += f" --set {' '.join(options.set)}"
    path = write("adaptation", commands=[command], rows=rows, figures=figures, notes=notes)
    print(path)


if __name__ == "__main__":
    main()
