"""Two processes train what one trains: every kind of shipped schedule, with gloo on CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.run_schedules import SCHEDULES

ROOT = Path(__file__).parents[1]

TOLERANCE = 2e-5
"""Largest difference of any weight after three batches a stage, two processes against one.

Sums run in another order, so gradients differ by 1e-7 of their size. Adam divides a gradient by its own size, so one
that is nearly zero can move its weight by another 1e-5 or so at these learning rates (1e-4 to 2e-3). Keyed noise,
augmentation and label counts that depended on the rank would show as 1e-3 and more.
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_and_measure_what_one_does(tmp_path: Path) -> None:
    """One test, for both trainings are long; they run side by side."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/run_schedules.py"]
    logs = {trainer: tmp_path / f"{trainer}.log" for trainer in ("cpu", "ddp_cpu")}
    started = {}
    for trainer, log in logs.items():
        with log.open("w") as file:
            started[trainer] = subprocess.Popen(
                [*command, trainer, str(tmp_path / trainer)],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
            )
    for trainer, process in started.items():
        assert process.wait() == 0, f"{trainer}: {logs[trainer].read_text()[-3000:]}"
    for schedule in SCHEDULES:
        one, two = (tmp_path / trainer / schedule for trainer in started)
        check_weights(one, two)
        check_figures(one, two)


def check_weights(one: Path, two: Path, *, tolerance: float = TOLERANCE) -> None:
    """Of every stage's last checkpoint."""
    stages, others = (sorted((run / "stages").iterdir()) for run in (one, two))
    assert stages
    assert [stage.name for stage in stages] == [stage.name for stage in others]
    for a, b in zip(stages, others, strict=True):
        weights, same = (
            torch.load(stage / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for stage in (a, b)
        )
        assert weights.keys() == same.keys()
        for name, value in weights.items():
            difference = (
                (value.double() - same[name].double()).abs().max() if value.numel() else torch.zeros(())
            )
            assert difference <= tolerance, f"{one.name}, {a.name}: {name} differs by {difference:.1e}"


def check_figures(one: Path, two: Path) -> None:
    """Validation and test see every image once, whoever reads it: five images, three on one rank, two on the other."""
    mine, theirs = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    for a, b in zip(mine["stages"], theirs["stages"], strict=True):
        assert a["metrics"].keys() == b["metrics"].keys()
        for key, value in a["metrics"].items():
            assert b["metrics"][key] == pytest.approx(value, rel=2e-3, abs=2e-3), f"{one.name}: {key}"
    for a, b in zip(mine["test"]["rows"], theirs["test"]["rows"], strict=True):
        assert b["bpp"] == pytest.approx(a["bpp"], rel=5e-3), one.name
        assert b["psnr"] == pytest.approx(a["psnr"], abs=0.01), one.name
        assert a["tasks"].keys() == b["tasks"].keys()
