"""Whole commands of ours, run by records: trainings that go on where they were killed, and evaluations."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from launch.overrides import quoted


def train(folder: Path, overrides: Sequence[str], threads: int) -> dict[str, Any]:
    """One run of train.py, or the rest of one: its summary."""
    if not (folder / "summary.json").is_file():
        begun = (folder / "config.yaml").is_file()
        arguments = [f"resume={quoted(folder)}"] if begun else [*overrides, f"run_dir={quoted(folder)}"]
        # A core a thread: two runs side by side get more done than one on both.
        folder.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            command = [sys.executable, "train.py", *arguments]
            subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    return json.loads((folder / "summary.json").read_text())


def evaluate(out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """One run of evaluate.py, or what an earlier one wrote: its ``results.json``."""
    if not (out / "results.json").is_file():
        command = [sys.executable, "evaluate.py", *overrides, f"out={quoted(out)}"]
        with out.with_suffix(".log").open("a") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    return json.loads((out / "results.json").read_text())
