"""The record ``speed``: training, coding and evaluation beside CompressAI, bare loops and the hardware's own limit.

python -m benchmarks.speed --photos KODAK --train DIR      writes benchmarks/results/speed.json

KODAK holds photos of one size, DIR photographs to train on (BSDS500's, in train/, val/ and test/ or in one folder). On
a quiet machine with two cores or more. Sections that are done are kept in runs/speed,
as in benchmarks/coding.py: ``--only SECTION`` does some of them beforehand.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import coding, equal_result, fuzz
from benchmarks.determinism import photos_of
from benchmarks.engines import engines
from benchmarks.entropy_coder import Row
from benchmarks.evaluation_overhead import overhead
from benchmarks.record import KEPT, ROOT, Figures, Rows, section, write
from benchmarks.whole_codecs import beside_compressai
from datamodules.image_folder import ImageFolder
from launch.overrides import quoted
from launch.process import prepare
from models.codecs.compressai import CompressAICodec
from models.pretrained import load
from models.transforms.fast import bf16_instructions

NAME = "speed"
BEFORE = "ea1667c"
"""The last commit before the training step was made faster."""
STEPS = (
    ("hyperprior", 128, "chosen"),
    ("hyperprior", 256, "chosen"),
    ("mean_scale", 128, "chosen"),
    ("mean_scale", 256, "chosen"),
    ("cheng2020", 128, "chosen"),
    ("hyperprior", 128, "compiled"),
    ("hyperprior", 128, "fp32"),
    ("mean_scale", 128, "fp32"),
    ("cheng2020", 128, "fp32"),
    ("two_tasks", 128, "chosen"),
)
"""Model, size of its pictures, and how it computes; see benchmarks/training_step.py."""
SEEDS = (0, 1, 2)
PHOTOS = 6
MODELS = ("hyperprior", "shipped")
NOTES = (
    "Steps: ours through Lightning with all callbacks at their defaults; others in turn in the same process, two "
    "steps a turn of which the second counts. 'compressai' is CompressAI's example step in float32 with memory as "
    "glibc handles it by default, 'compressai_keeping_memory' the same with freed memory kept, as our commands keep"
    " it: ..._at_equal_memory figures are against that. 'bare' is a loop by hand with our codec in the same "
    "arithmetic. bf16 figures are ours in bfloat16 against theirs in float32, null where the processor has no bf16 "
    "instructions. Loss gaps are between means over three seeds, in units of the larger range of the two ways' "
    "seeds: below 1 is within the spread. Memory: peak of five steps at 256 pixels beyond what was there before, "
    "ours against CompressAI's. share_of_floor: multiply-accumulates of g_a or g_s at the speed of its fastest "
    "convolution measured alone, over the seconds of the whole codec. Whole codecs: medians over the photos; "
    "speedups against CompressAI in float32 at default memory. quickstart: three stages and tests of `python "
    "train.py`, at the commit named in its row and now, one after the other. busy: two busy processes beside a "
    "step, on as many cores as the machine has. Engines: one transform in float32; none is faster than ours, so "
    "none is offered."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of one size (Kodak)")
    parser.add_argument("--train", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--steps", type=int, default=5000, help="of each training (default: 5000)")
    parser.add_argument("--turns", type=int, default=8, help="of each measurement of a step (default: 8)")
    parser.add_argument(
        "--only", nargs="+", metavar="SECTION", help="measure and keep these, write no record"
    )
    options = parser.parse_args(arguments)
    prepare()
    given = [str(options.photos.resolve()), str(options.train.resolve()), options.steps, options.turns]
    sections = sections_of(options)
    if unknown := set(options.only or ()) - set(sections):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: the sections are {', '.join(sections)}")
    rows: list[Row] = []
    for name in options.only or sections:
        rows += section(NAME, name, sections[name], given)[0]
    if not options.only:
        commands = ["python -m benchmarks.speed --photos KODAK --train DIR"]
        print(write(NAME, commands=commands, rows=rows, figures=figures, notes=NOTES))


def sections_of(options: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    """{name: what measures its rows}: those that want quiet first."""
    return {
        **{
            f"step {' '.join(map(str, step))}": partial(training_step, *step, options.turns) for step in STEPS
        },
        "memory": memory,
        "whole": partial(whole, options.photos),
        "engines": partial(engine_rows, options.photos),
        "evaluate": lambda: iter([overhead(options.photos)]),
        "busy": busy,
        "loading": partial(loading, options.train),
        "quickstart": quickstart,
        **{
            f"result {way} {seed}": partial(result, way, seed, options.train, options.steps)
            for seed in SEEDS
            for way in equal_result.WAYS
        },
    }


# -- sections ----------------------------------------------------------------------------------------------------------


def result(way: str, seed: int, photos: Path, steps: int) -> Iterator[Row]:
    """One training to compare."""
    yield equal_result.trained(way, seed, photos, steps=steps, held_out=24)


def training_step(model: str, size: int, how: str, turns: int) -> Iterator[Row]:
    """One model's step, in a process of its own."""
    printed = _output("-m", "benchmarks.training_step", model, str(size), how, str(turns))
    yield json.loads(printed.splitlines()[-1])


def memory() -> Iterator[Row]:
    """Peaks of a step's memory."""
    sides = ("ours", "ours_giving_back", "compressai")
    peaks = {side: float(_output("-m", "benchmarks.step_memory", side, "256")) for side in sides}
    yield {"kind": "memory", "mib": peaks, "bf16": bf16_instructions()}


def busy() -> Iterator[Row]:
    """Steps beside busy processes, several times: schedulers play dice."""
    for _ in range(3):
        yield {"kind": "busy", **json.loads(_output("-m", "benchmarks.busy_machine", "2"))}


def codec_of(model: str, photos: Path) -> CompressAICodec:
    """One of ``MODELS`` as CompressAI's: the hyperprior with weights from a short training."""
    if model == "shipped":
        return coding.for_compressai(load(fuzz.SHIPPED).codec)
    weights = KEPT / NAME / "hyperprior.safetensors"
    return coding.trained(
        coding.HYPERPRIOR, photos, weights, num_threads=torch.get_num_threads(), most_steps=300
    )


def whole(photos: Path) -> Iterator[Row]:
    """Whole codecs on some photos."""
    for model in MODELS:
        codec = codec_of(model, photos)
        for number, photo in enumerate(photos_of(photos, count=PHOTOS)):
            row = beside_compressai(codec, photo, repeats=7, num_threads=os.cpu_count() or 1)
            yield {"kind": "whole", "model": model, "photo": number, **row}


def engine_rows(photos: Path) -> Iterator[Row]:
    """Other engines on g_a and g_s."""
    (photo,) = photos_of(photos, count=1)
    for model in MODELS:
        codec = codec_of(model, photos)
        with torch.no_grad():
            y = codec.model.g_a(photo)
        for part, x in (("g_a", photo), ("g_s", y)):
            with tempfile.TemporaryDirectory() as folder:
                seconds = engines(getattr(codec.model, part), x, Path(folder))
            yield {"kind": "engines", "model": model, "part": part, "seconds": seconds}


def loading(photos: Path) -> Iterator[Row]:
    """Images a second of a training loader in the training process, over four passes of a set that fits in memory."""
    for keep_mb in (0, 1024):
        data = ImageFolder(photos, batch_size=8, crop=128, num_workers=0, keep_mb=keep_mb)
        count = 4 * len(data.split("train")) // 8
        start = time.perf_counter()
        for _ in data.for_stage(num_batches=count, seed=0).train_dataloader():
            pass
        rate = 8 * count / (time.perf_counter() - start)
        yield {"kind": "loading", "keep_mb": keep_mb, "images_per_second": rate}


def quickstart() -> Iterator[Row]:
    """Whole quickstarts: the code before, and today's."""
    with tempfile.TemporaryDirectory() as temporary:
        before = Path(temporary) / "before"
        worktree = ["git", "worktree", "add", "--quiet", "--detach", str(before), BEFORE]
        subprocess.run(worktree, cwd=ROOT, check=True)
        try:
            seconds = {}
            for name, code in (("before", before), ("now", ROOT)):
                run = Path(temporary) / f"run-{name}"
                start = time.perf_counter()
                _output("train.py", f"run_dir={quoted(run)}", cwd=code)
                seconds[name] = time.perf_counter() - start
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    yield {"kind": "quickstart", "before": BEFORE, "seconds": seconds}


def _output(*arguments: str, cwd: Path = ROOT) -> str:
    """What a command of ours prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


# -- figures -----------------------------------------------------------------------------------------------------------


def figures(rows: Rows) -> Figures:
    """The quoted figures."""

    def of(kind: str) -> list[Any]:
        return [row for row in rows if row["kind"] == kind]

    bf16 = any(row["bf16"] for row in of("memory"))
    found: dict[str, float | None] = {"cpu_has_bf16": float(bf16)}
    steps = of("step")
    for row in steps:
        if row["precision"] == "32-true" and bf16:
            name = f"step_speedup_{row['model']}_{row['size']}_fp32"
        else:
            name = f"step_speedup_{row['model']}_{row['size']}{'_compiled' if row['compiled'] else ''}"
        found[name] = row["speedup"]
        found[f"{name}_at_equal_memory"] = row["speedup_at_equal_memory"]
    long = [row for row in steps if row["seconds"]["bare"] >= 0.05 and not row["compiled"]]
    found["framework_overhead_ratio"] = statistics.median(row["over_bare"] for row in long)
    found["framework_overhead_ratio_high"] = max(row["over_bare"] for row in long)
    (tasks,), (peaks,) = of("two_tasks"), of("memory")
    found["two_tasks_cost_ratio"] = tasks["ratio"]
    found["memory_ratio_bf16"] = peaks["mib"]["ours"] / peaks["mib"]["compressai"] if bf16 else None
    found["memory_ratio_bf16_giving_back"] = (
        peaks["mib"]["ours_giving_back"] / peaks["mib"]["compressai"] if bf16 else None
    )
    # In torch's usual order our GDN is CompressAI's, and such a training says nothing of it.
    in_order = [row for row in of("result") if row["way"] != "gdn" or row["compute"]["channels_last"]]
    found["loss_gap_gdn_in_seed_spreads"] = equal_result.gap(in_order, "gdn", "compressai_gdn")
    found["loss_gap_bf16_in_seed_spreads"] = (
        equal_result.gap(rows, "chosen", "compressai_gdn") if bf16 else None
    )
    for model in MODELS:
        whole_ = [row for row in of("whole") if row["model"] == model]
        for side in ("encode", "decode"):
            for precision in ("fp32", "bf16"):
                for key in ("speedup", "share_of_floor"):
                    values = [row[key][precision][side] for row in whole_ if precision in row[key]]
                    found[f"{model}_{side}_{key}_{precision}"] = statistics.median(values) if values else None
            # In the precision that files are written in.
            found[f"{model}_{side}_share_of_floor"] = found[f"{model}_{side}_share_of_floor_fp32"]
    found["files_read_to_other_symbols"] = float(sum(not row["same_symbols"] for row in of("whole")))
    sizes = [row["file_bytes"] for row in of("whole")]
    found["bytes_of_bf16_percent"] = (
        max(abs(100 * b["bf16"] / b["fp32"] - 100) for b in sizes) if bf16 else None
    )
    others = [
        row["seconds"]["ours"] / min(v for k, v in row["seconds"].items() if k != "ours")
        for row in of("engines")
    ]
    found["best_engine_speedup"] = statistics.geometric_mean(others)
    (evaluated,) = of("evaluate")
    found["evaluate_overhead_ratio"] = evaluated["ratio"]
    found["evaluate_overhead_ratio_at_equal_memory"] = evaluated["ratio_at_equal_memory"]
    (run,) = of("quickstart")
    found["quickstart_speedup"] = run["seconds"]["before"] / run["seconds"]["now"]
    found["busy_machine_ratio"] = statistics.median(row["busy"] / row["quiet"] for row in of("busy"))
    found["busy_machine_ratio_high"] = max(row["busy"] / row["quiet"] for row in of("busy"))
    plain, kept = (row["images_per_second"] for row in of("loading"))
    found["loading_speedup_of_keeping"] = kept / plain
    return found


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"benchmarks.speed: error: {error}", file=sys.stderr)
        sys.exit(2)
