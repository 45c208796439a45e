"""Two processes train what one trains: every shipped schedule, with gloo on CPU."""

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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for trainer in ("cpu", "ddp_cpu"):
        folders[trainer] = tmp_path_factory.mktemp(trainer)
        command = [sys.executable, "tests/run_schedules.py", trainer, str(folders[trainer])]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.slow
@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_processes_agree_with_one(schedule: str, runs: dict[str, Path]) -> None:
    one, two = (sorted((runs[trainer] / schedule / "stages").iterdir()) for trainer in ("cpu", "ddp_cpu"))
    assert [folder.name for folder in one] == [folder.name for folder in two]
    for a, b in zip(one, two, strict=True):
        weights, others = (
            torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (a, b)
        )
        assert weights.keys() == others.keys()
        for name, value in weights.items():
            difference = (
                (value.double() - others[name].double()).abs().max() if value.numel() else torch.zeros(())
            )
            assert difference <= TOLERANCE, f"{a.name}: {name} differs by {difference:.1e}"


@pytest.mark.slow
@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_figures_of_two_processes_are_those_of_one(schedule: str, runs: dict[str, Path]) -> None:
    """Validation and test see every image once, whoever reads it: five images, three on one rank, two on the other."""
    one, two = (json.loads((runs[t] / schedule / "summary.json").read_text()) for t in ("cpu", "ddp_cpu"))
    for a, b in zip(one["stages"], two["stages"], strict=True):
        assert a["metrics"].keys() == b["metrics"].keys()
        for key, value in a["metrics"].items():
            assert b["metrics"][key] == pytest.approx(value, rel=2e-3, abs=2e-3), key
    for a, b in zip(one["test"]["rows"], two["test"]["rows"], strict=True):
        assert b["bpp"] == pytest.approx(a["bpp"], rel=5e-3)
        assert b["psnr"] == pytest.approx(a["psnr"], abs=0.01)
        assert a["tasks"].keys() == b["tasks"].keys()
