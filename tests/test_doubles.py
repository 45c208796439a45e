"""Six doubles of what published systems need (tests/doubles): files and yaml, added to a copy of the project.

Two networks against each other; a codec behind a filter with a proxy that is trained by itself; a generator that never
codes; three layers of tokens, each coded given those before; a task of any number of outputs and one without labels; a
continuous rate with a lmbda that follows it. Each trains, goes on after SIGKILL as if nothing had happened, and trains
alike in one process and in two; what codes is evaluated, exported and used on files (tests/doubles_in_use.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.documents import ROOT, add_doubles, copy_project, run
from tests.test_ddp import check_figures, check_weights

NAMES = sorted(path.stem for path in (ROOT / "tests" / "doubles").glob("*/configs/experiment/*.yaml"))
CONTRACTS = "tests/test_codec_contract.py tests/test_tasks.py tests/test_configs.py tests/test_imports.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all doubles, and under ``runs/`` what each way of training them left."""
    folder = copy_project(tmp_path_factory.mktemp("doubles") / "project")
    add_doubles(folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for ways in (("cpu", "ddp_cpu"), ("killed",)):
        started = {}
        for way in ways:
            with (folder / f"{way}.log").open("w") as log:
                command = [sys.executable, "tests/run_doubles.py", way, f"runs/{way}"]
                started[way] = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        for way, process in started.items():
            assert process.wait(500) == 0, f"{way}: {(folder / f'{way}.log').read_text()[-3000:]}"
    return folder


def test_doubles_change_nothing_and_stand_nowhere_else(tmp_path: Path) -> None:
    files = add_doubles(tmp_path)
    assert len(NAMES) == len(set(files.values())) == 6
    assert not [file for file in files if (ROOT / file).exists()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_is_as_if_nothing_had_happened(project: Path) -> None:
    assert (project / "killed.log").read_text().count(": killed\n") == 6
    for name in NAMES:
        one, other = (project / "runs" / way / name for way in ("cpu", "killed"))
        check_weights(one, other, tolerance=0.0)
        assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text(), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_and_measure_what_one_does(project: Path) -> None:
    for name in NAMES:
        one, two = (project / "runs" / way / name for way in ("cpu", "ddp_cpu"))
        check_weights(one, two)
        check_figures(one, two)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_is_judged_by_what_it_has(project: Path) -> None:
    runs = project / "runs" / "cpu"
    summaries = {name: json.loads((runs / name / "summary.json").read_text()) for name in NAMES}
    (painted,) = summaries["double_generator"]["stages"]
    # What never coded has no bits, and no original to be compared with.
    assert painted["metrics"].keys() == {"val/loss", "test/loss"}
    assert summaries["double_generator"]["test"]["rows"] == []
    game = summaries["double_adversarial"]["stages"][1]["metrics"]
    assert {
        f"val/{key}" for key in ("codec/loss", "codec/fooling", "critic/loss", "critic/telling")
    } < game.keys()
    rows = summaries["double_filtered"]["test"]["rows"]
    assert [(row["codec"], row["rate"]) for row in rows] == [
        ("originals", None), ("proxy", None), ("filter", 10), ("filter", 60),
    ]  # fmt: skip
    assert rows[0]["uncompressed"]
    assert "identity/top1" in rows[0]["tasks"]
    assert [row["rate"] for row in summaries["double_any_rate"]["test"]["rows"]] == [4, 16]
    assert list(summaries["double_tokens"]["test"]["rows"][0]["bpp_by_layer"]) == [
        "basic",
        "middle",
        "enhanced",
    ]
    state = torch.load(
        runs / "double_adversarial/stages/02-adversarial/checkpoints/last.ckpt", weights_only=True
    )
    assert any(key.startswith("networks.critic.") for key in state["state_dict"])
    assert len(state["optimizer_states"]) == 2
    learned = torch.load(runs / "double_open_tasks/stages/03-joint/checkpoints/last.ckpt", weights_only=True)
    assert not [key for key in learned["state_dict"] if "teacher" in key]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_contracts_hold_and_files_are_coded(project: Path) -> None:
    names = (
        "three_tokens or filtered_jpeg or any_rate or spots or imitation or double or patch_critic or painter"
    )
    output = run(
        f'python -m pytest {CONTRACTS} tests/doubles_in_use.py -k "{names} or in_use" -q -p no:cacheprovider',
        project,
    )
    assert " passed" in output
    assert " failed" not in output
