"""Does a run survive ``kill -9``? Kills runs of three stages at random moments, takes them up again, and compares.

python -m benchmarks.kills [--kills 20] [--processes 1] [--seed 0] [--folder DIR]

One run is left alone. Another is killed at a moment drawn at random, between when it begins to write and its end, gone
on with by ``resume=``, killed again, and so on until it is finished; then the next, until there were that many kills.
The runs have two tasks, dropout, averaged weights, accumulated gradients, and TensorBoard beside metrics.csv. Every
finished run must hold the same weights, bit by bit, and the same metrics.csv. About a quarter of a minute a kill on two
CPU cores.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Rows
from launch.overrides import quoted
from models.counted import counted

ROOT = Path(__file__).parents[1]
SMALL = (
    "data={size: 32, num_train: 16, num_val: 4, num_test: 6, batch_size: 4, num_workers: 0}",
    "codec={width: 4, latent_channels: 4}",
    "callbacks=ema",
    "callbacks.ema.decay=0.5",
    "callbacks={training_log: {every: 3}, reconstructions: null, latent_statistics: null}",
    "logger=tensorboard",
    "baselines={jpeg: {rates: [20]}}",
    "+tasks.identity.head.backbone_args={drop_rate: 0.2}",
    *(f"schedule.{stage}.num_batches=30" for stage in ("pretrain", "heads", "joint")),
    "+schedule.joint.accumulate=3",
    *(f"+schedule.{stage}.checkpoint_every=4" for stage in ("pretrain", "heads", "joint")),
)
TRAINERS = {1: "cpu", 2: "ddp_cpu"}


def start(folder: Path, log: Path, processes: int) -> subprocess.Popen:
    """Begin a run, or go on with it once it has a config."""
    begun = (folder / "config.yaml").is_file()
    arguments = (
        [f"resume={quoted(folder)}"]
        if begun
        else [f"run_dir={quoted(folder)}", *SMALL, f"trainer={TRAINERS[processes]}"]
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        # A session of its own, so that all of its processes can be killed at once.
        return subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def measure(kills: int, folder: Path, *, processes: int = 1, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each kill, and one for each run that was finished after some."""
    moments = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole"
    begin = time.time()
    if start(whole, folder / "whole.log", processes).wait():
        raise RuntimeError(f"the run that is left alone failed: {(folder / 'whole.log').read_text()[-2000:]}")
    total, startup = time.time() - begin, (whole / "config.yaml").stat().st_mtime - begin
    number, done, own = 0, 0, 0
    while done < kills or own:
        run, log = folder / f"run-{number}", folder / f"run-{number}.log"
        process = start(run, log, processes)
        # The last kills done, the run may finish.
        patience = moments.uniform(0.8 * startup, total) if done < kills else None
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done, own = done + 1, own + 1
            yield {
                "what": "kill",
                "processes": processes,
                "run": number,
                "seconds": patience,
                "at": _where(run),
            }
            continue
        if status:
            raise RuntimeError(f"a resumed run failed: {log.read_text()[-2000:]}")
        yield {"what": "run", "processes": processes, "run": number, "kills": own, **compare(whole, run)}
        number, own = number + 1, 0


def _where(run: Path) -> str:
    """What a killed run has finished."""
    finished = len(list(run.glob("stages/*/stage.json")))
    begun = [path.parts[-3] for path in sorted(run.glob("stages/*/checkpoints/last.ckpt"))]
    return f"{counted(finished, 'stage')} finished, last checkpoint in {begun[-1] if begun else 'none'}"


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Largest difference of any weight or buffer in any stage's last checkpoint; whether metrics.csv is the same."""
    largest = 0.0
    stages = sorted(path.name for path in (one / "stages").iterdir())
    for stage in stages:
        a, b = (
            torch.load(run / "stages" / stage / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for run in (one, other)
        )
        if a.keys() != b.keys():
            raise RuntimeError(
                f"{other}: stage {stage} holds other weights: {sorted(a.keys() ^ b.keys())[:3]}"
            )
        differences = [(a[key].double() - b[key].double()).abs().max().item() for key in a if a[key].numel()]
        largest = max([largest, *differences])
    same = (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    return {"max_difference": largest, "same_metrics_csv": same}


def figures(rows: Rows) -> dict[str, float | None]:
    """``kills`` survived, and ``resume_max_difference`` over all runs that were finished after them."""
    runs = [row for row in rows if row["what"] == "run"]
    return {
        "kills": sum(row["kills"] for row in runs),
        "resume_max_difference": max((row["max_difference"] for row in runs), default=None),
    }


def main() -> int:
    """Print rows and figures; exit status 1 where a run was not the same."""
    parser = argparse.ArgumentParser(prog="benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, choices=sorted(TRAINERS), default=1, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="of the runs (default: a temporary one)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for row in measure(options.kills, folder.absolute(), processes=options.processes, seed=options.seed):
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(json.dumps(figures(rows), indent=2))
    return int(
        any(row["what"] == "run" and (row["max_difference"] or not row["same_metrics_csv"]) for row in rows)
    )


if __name__ == "__main__":
    sys.exit(main())
