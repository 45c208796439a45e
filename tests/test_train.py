"""The train command: what a run leaves, how it goes on, what repeats exactly, and that it learns."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.utils import instantiate

import train
from callbacks.csv_logger import RunCSV
from launch.overrides import point_name
from lightning_modules.compression import CompressionSystem
from tests.conftest import compose_config

ROOT = Path(__file__).parents[1]

TINY = (
    "data.size=32",
    "data.num_train=8",
    "data.num_val=4",
    "data.num_test=4",
    "data.batch_size=4",
    "data.num_workers=0",
    "codec.width=4",
    "codec.latent_channels=4",
    "callbacks.reconstructions.num_images=1",
    "callbacks.latent_statistics=null",
    "schedule.pretrain.num_batches=2",
    "schedule.pretrain.num_validations=1",
    "schedule.heads.num_batches=2",
    "schedule.heads.num_validations=2",
    "schedule.joint.num_batches=2",
    "schedule.joint.num_validations=1",
    "baselines.jpeg.rates=[20]",
)
"""The quickstart in a few seconds: all three stages, both tasks, one baseline."""
STAGES = ("01-pretrain", "02-heads", "03-joint")


@dataclass
class Result:
    """What a command left on the screen."""

    status: int
    stdout: str
    stderr: str


def command(*arguments: str) -> Result:
    """``python train.py ARGUMENTS`` in this process, which saves seconds of imports."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    hydra = Singleton.get_state()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", [str(ROOT / "train.py"), *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            GlobalHydra.instance().clear()
            train.command()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            Singleton.set_state(hydra)
    return Result(status, out.getvalue(), err.getvalue())


def checkpoint(run: Path, stage: str, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "stages" / stage / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(a: Path, b: Path, stage: str) -> None:
    first, second = checkpoint(a, stage)["state_dict"], checkpoint(b, stage)["state_dict"]
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, msg=key)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny quickstart."""
    folder = tmp_path_factory.mktemp("train") / "run"
    with mock.patch.dict(os.environ):
        train.train(compose_config(*TINY), folder)
    return folder


# -- what a run leaves -------------------------------------------------------------------------------------------


def test_the_run_folder_holds_what_the_contract_says(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "reconstructions",
        "stages",
        "summary.json",
    }
    assert sorted(path.name for path in (run / "stages").iterdir()) == list(STAGES)
    for stage in STAGES:
        files = sorted(path.name for path in (run / "stages" / stage / "checkpoints").iterdir())
        assert files == ["best.ckpt", "last.ckpt"]
    pictures = sorted(path.name for path in (run / "reconstructions").iterdir())
    # One for each validation, named by stage and step of the run.
    assert pictures == [
        "01-pretrain-0000002.png",
        "02-heads-0000003.png",
        "02-heads-0000004.png",
        "03-joint-0000006.png",
    ]


def test_the_config_is_plain_and_starts_the_same_run(run: Path) -> None:
    """No interpolation is left: other programs read it with any yaml reader."""
    text = (run / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    config = yaml.safe_load(text)
    assert config["lmbda"] == config["schedule"]["pretrain"]["updates"]["main"]["objective"]["lmbda"]
    assert config["run_dir"] == str(run)
    with mock.patch.dict(os.environ):
        experiment = train.build(train.OmegaConf.create(config), run)
    assert experiment.config == config


def test_checkpoints_load_safely_and_hold_the_config(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for stage in STAGES:
        for name in ("last", "best"):
            state = checkpoint(run, stage, name)  # weights_only: no object of ours or of OmegaConf's inside
            assert state["config"] == config


def test_one_step_axis_runs_through_all_stages(run: Path) -> None:
    rows = rows_of(run)
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    by_key = {
        key: [int(row["step"]) for row in rows if row[key]]
        for key in ("train/loss", "val/loss", "test/bpp_real")
    }
    assert by_key == {"train/loss": [2, 4, 6], "val/loss": [2, 3, 4, 6], "test/bpp_real": [2, 4, 6]}


def test_the_summary_holds_what_the_contract_says(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary) == ["experiment", "seed", "git_commit", "stages", "test", "peak_memory_mb"]
    assert (summary["experiment"], summary["seed"]) == ("quickstart", 0)
    assert summary["peak_memory_mb"] > 10
    assert [stage["name"] for stage in summary["stages"]] == ["pretrain", "heads", "joint"]
    for stage in summary["stages"]:
        assert list(stage) == ["name", "num_batches", "seconds", "images_per_second", "metrics"]
        assert stage["num_batches"] == 2
        assert stage["images_per_second"] == pytest.approx(2 * 4 / stage["seconds"])
        assert {"val/loss", "val/bpp", "val/psnr"} <= set(stage["metrics"])
    rows = summary["test"]["rows"]
    assert [(row["codec"], row["rate"]) for row in rows] == [
        ("pretrain", None),
        ("heads", None),
        ("joint", None),
        ("jpeg", 20),
    ]
    for row in rows:
        assert row["bpp"] == pytest.approx(row["bpp_payload"] + 8 * row["header_bytes"] / 32**2)
    # Heads that are not trained yet are not judged.
    assert rows[0]["tasks"] == {}
    assert {"identity/top1", "identity/bpp", "parsing/miou", "parsing/bpp"} <= set(rows[2]["tasks"])
    # A frozen codec writes the same files.
    assert rows[0]["bpp"] == rows[1]["bpp"]


@pytest.mark.parametrize(("stage", "row"), [("01-pretrain", 0), ("03-joint", 2)])
def test_bpp_is_the_size_of_files_that_the_checkpoint_writes(
    run: Path, tmp_path: Path, stage: str, row: int
) -> None:
    """Recomputed with nothing of the training code: a fresh codec, its weights, files on disk."""
    state = checkpoint(run, stage)
    codec = instantiate(state["config"]["codec"])
    weights = {k.removeprefix("codec."): v for k, v in state["state_dict"].items() if k.startswith("codec.")}
    codec.load_state_dict(weights)
    codec.eval()
    split = instantiate(state["config"]["data"]).split("test")
    sizes = []
    for index in range(len(split)):
        image = split.read(index)["image"]
        (bitstream,) = codec.compress(image[None] / 255)
        file = tmp_path / f"{index}{codec.file_suffix}"
        file.write_bytes(codec.serialise(bitstream))
        sizes.append(8 * file.stat().st_size / (image.shape[1] * image.shape[2]))
    summary = json.loads((run / "summary.json").read_text())
    assert len(sizes) == 4
    assert summary["test"]["rows"][row]["bpp"] == pytest.approx(sum(sizes) / len(sizes), rel=1e-6)


# -- going on ----------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    step = CompressionSystem.training_step
    pulled, random_states = True, []

    def die(system: CompressionSystem, batch: Any, batch_idx: int) -> Any:
        if pulled and system.stage_title.startswith("2/") and batch_idx == 1:
            raise RuntimeError("the plug is pulled")
        found = step(system, batch, batch_idx)
        random_states.append((system.stage_title, batch_idx, torch.get_rng_state()))
        return found

    monkeypatch.setattr(CompressionSystem, "training_step", die)
    with pytest.raises(RuntimeError, match="the plug is pulled"):
        train.train(compose_config(*TINY), killed)
    before = rows_of(killed)
    assert [row["step"] for row in before][-1] == "3"  # the second stage had validated once

    untouched = (killed / "stages/01-pretrain/checkpoints/last.ckpt").stat().st_mtime_ns
    # Somewhere else: a run folder may be moved between two calls.
    moved = killed.rename(tmp_path / "moved")
    pulled, states_before = False, {(title, batch): state for title, batch, state in random_states}
    random_states.clear()
    result = command(f"resume={moved}")
    assert result.status == 0, result.stderr
    assert "stage 1 'pretrain' is finished already" in result.stdout
    assert (moved / "stages/01-pretrain/checkpoints/last.ckpt").stat().st_mtime_ns == untouched
    assert not killed.exists()
    # The stage goes on after its first batch, which left a state with its validation.
    assert [batch for title, batch, _ in random_states if title == "2/3 heads"] == [1]
    assert ("2/3 heads", 0) in states_before
    for stage in STAGES:
        assert_same_weights(run, moved, stage)

    # Rows of the first stage stay as they were; those of the killed stage are not there twice.
    after = rows_of(moved)
    first = [row for row in before if int(row["step"]) <= 2]
    assert [{k: v for k, v in row.items() if v} for row in after[: len(first)]] == [
        {k: v for k, v in row.items() if v} for row in first
    ]
    assert after == rows_of(run)
    results = [json.loads((folder / "summary.json").read_text())["test"]["rows"] for folder in (run, moved)]
    for a, b in zip(*results, strict=True):
        assert a | {"command": None} == b | {"command": None}


def test_resume_takes_the_same_command_and_no_other_values(run: Path) -> None:
    same = command(*TINY, f"resume={run}")
    assert same.status == 0, same.stderr
    assert "stage 3 'joint' is finished already" in same.stdout
    # A changed value would silently do nothing.
    other = command(*TINY, "lmbda=7", f"resume={run}")
    assert other.status == 2
    assert "differs in lmbda (0.0015 there, 7 here)" in other.stderr


def test_a_folder_with_another_run_is_left_alone(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = command(*TINY, "lmbda=7", f"run_dir={run}")
    assert result.status == 2
    assert f"train.py: error: {run} holds another run, which differs in lmbda (0.0015 there, 7 here)" in (
        result.stderr
    )
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_rows_after_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    RunCSV(file).rewind(3)  # nothing there yet
    assert not file.exists()
    file.write_text("step,a,test/b\n1,0.5,\n3,,1\n3,2,\n4,3,\n")
    RunCSV(file).rewind(3)
    whole = ["step,a,test/b", "1,0.5,", "3,,1", "3,2,"]
    assert file.read_text().split() == whole
    for torn in ("5", "3", "3,2", "3,2,0.1"):  # killed in the middle of a line
        file.write_text(file.read_text() + torn)
        RunCSV(file).rewind(3)
        assert file.read_text().split() == whole
    # The test at the stage's end is taken again: its rows go, those of steps before stay.
    RunCSV(file).rewind(3, tested=False)
    assert file.read_text().split() == ["step,a,test/b", "1,0.5,", "3,2,"]


def test_a_state_that_cannot_be_gone_on_from_is_told(run: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    (broken / "summary.json").unlink()
    last, finished = broken / "stages/03-joint/checkpoints/last.ckpt", broken / "stages/03-joint/stage.json"
    whole = last.read_bytes()
    for content, damage in (
        (whole[:2000], "is no checkpoint that can be loaded safely"),
        (None, "there is no checkpoint"),
    ):
        last.unlink() if content is None else last.write_bytes(content)
        result = command(f"resume={broken}")
        assert result.status == 2
        assert damage in result.stderr
        assert f"to take the stage again, remove {broken / 'stages/03-joint'}" in result.stderr
        assert result.stderr.count("error") == 1
    # Nor is one gone on from that was made with other settings.
    last.write_bytes(whole)
    config = broken / "config.yaml"
    edited = yaml.safe_load(config.read_text())
    edited["schedule"]["joint"]["num_batches"] += 1
    config.write_text(yaml.safe_dump(edited, sort_keys=False))
    result = command(f"resume={broken}")
    assert result.status == 2
    assert (
        "another config: schedule.joint.num_batches was 2 and is 3. Give the old value back" in result.stderr
    )
    config.write_bytes((run / "config.yaml").read_bytes())
    # Where the stage is not finished, one without a state begins anew.
    finished.unlink()
    last.unlink()
    assert command(f"resume={broken}").status == 0
    assert_same_weights(run, broken, "03-joint")
    assert rows_of(broken) == rows_of(run)


# -- repeating and learning --------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    sizes = ("data.size=16", "data.num_train=8", "data.num_val=2", "data.num_test=2", "data.batch_size=4")
    settings = (
        "experiment=task_on_originals",
        "data.num_workers=0",
        "schedule.heads.num_batches=2",
        "schedule.heads.num_validations=1",
        "callbacks.reconstructions=null",
        "callbacks.latent_statistics=null",
        *sizes,
    )
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train.train(compose_config(*settings, f"seed={seed}"), tmp_path / name)
        torch.rand(7)  # whatever was drawn before a run is of no matter
    assert_same_weights(tmp_path / "a", tmp_path / "b", "01-heads")
    a, c = (checkpoint(tmp_path / name, "01-heads")["state_dict"] for name in ("a", "c"))
    moved = [key for key in a if a[key].is_floating_point() and not torch.equal(a[key], c[key])]
    assert len(moved) > len(a) // 4


def test_a_few_pictures_are_learned_by_heart(tmp_path: Path) -> None:
    """The same four pictures again and again: the loss must fall far, or something does not learn."""
    config = compose_config(
        *(text for text in TINY if "schedule" not in text and "reconstructions" not in text),
        "schedule=rate_distortion",
        "schedule.rate_distortion.num_batches=150",
        "schedule.rate_distortion.num_validations=1",
        "schedule.rate_distortion.updates.main.optimiser.lr=0.01",
        "callbacks.reconstructions=null",
        "callbacks.training_log.every=10",
        "data.num_train=4",
        "codec.width=8",
        "~baselines.jpeg",
    )
    train.train(config, tmp_path / "run")
    losses = [float(row["train/loss"]) for row in rows_of(tmp_path / "run") if row.get("train/loss")]
    assert len(losses) == 15
    assert losses[-1] < 0.35 * losses[0], losses
    # Not one lucky batch: it falls all the way.
    assert sum(losses[10:]) < 0.8 * sum(losses[5:10]), losses


# -- the command itself ------------------------------------------------------------------------------------------


def test_help_says_what_the_command_does_and_how() -> None:
    result = command("--help")
    assert result.status == 0
    for text in (
        "Train a codec and its tasks",
        "python train.py experiment=NAME key=value",
        "python train.py -m experiment=NAME lmbda=",
        "resume=RUN_DIR",
        "run_dir=DIR",
        "--cfg job",
        "experiment: ",
        "quickstart",
    ):
        assert text in result.stdout
    # The values of one experiment, hundreds of lines, are not help.
    assert "_target_" not in result.stdout
    assert len(result.stdout.splitlines()) < 50


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The command as people call it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("HYDRA_FULL_ERROR", "BIFOCAL_RUN_DIR"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_mistake_seen_from_outside(tmp_path: Path) -> None:
    done = call("codec.width=abc", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "train.py: error: codec.width is 'abc', must be a whole number\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_makes_a_folder_a_point_and_skips_what_is_finished(tmp_path: Path) -> None:
    arguments = ("-m", "experiment=quickstart", "lmbda=0.001,0.01", *TINY)
    first = call(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    points = sorted((tmp_path / "multirun/quickstart").iterdir())
    assert len(points) == 2
    lmbdas = [yaml.safe_load((point / "config.yaml").read_text())["lmbda"] for point in points]
    assert sorted(lmbdas) == [0.001, 0.01]
    assert all((point / "summary.json").is_file() for point in points)
    assert {path.name for path in tmp_path.iterdir()} == {"multirun"}  # no litter where it was called

    # As if it had been killed in the last stage of the second point.
    finished, half = points
    wanted = checkpoint(half, STAGES[2])["state_dict"]
    (half / "summary.json").unlink()
    (half / "stages/03-joint/stage.json").unlink()
    before = (finished / "summary.json").stat().st_mtime_ns
    second = call(*arguments, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("is finished already") == 3  # a point, and two stages of the other
    assert f"{finished.relative_to(tmp_path)} is finished already" in second.stdout
    assert (finished / "summary.json").stat().st_mtime_ns == before
    assert (half / "summary.json").is_file()
    assert sorted((tmp_path / "multirun/quickstart").iterdir()) == points
    for key, value in checkpoint(half, STAGES[2])["state_dict"].items():
        assert torch.equal(value, wanted[key]), key


@pytest.mark.slow
def test_a_point_of_a_sweep_runs_on_several_processes(tmp_path: Path) -> None:
    one_stage = ("schedule=rate_distortion", "schedule.rate_distortion.num_batches=2")
    tiny = [text for text in TINY if not text.startswith(("schedule", "baselines"))]
    arguments = ("-m", "trainer=ddp_cpu", "lmbda=0.001", *one_stage, *tiny, "baselines={}")
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (point,) = (tmp_path / "multirun/quickstart").iterdir()
    assert "lmbda-0.001+" in point.name
    assert (point / "summary.json").is_file()


def test_a_point_on_several_processes_is_a_command_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is caught, and given to Hydra: its folder and its values come back."""
    monkeypatch.chdir(tmp_path)
    called = mock.Mock(return_value=mock.Mock(returncode=0))
    monkeypatch.setattr(train.subprocess, "run", called)
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart, _self_]\nname: it's = mine\n"
    )
    given = ("experiment=mine", "trainer=ddp_cpu", "data=class_folders", "data.root='/d, e'")
    result = command("-m", "--config-dir", str(tmp_path / "own"), *given, "lmbda=0.001,0.01")
    assert result.status == 0, result.stderr
    commands = [call.args[0] for call in called.call_args_list]
    assert [arguments[2:4] for arguments in commands] == [["--config-dir", str(tmp_path / "own")]] * 2
    for (*overrides, run_dir), lmbda in zip(commands, ("0.001", "0.01"), strict=True):
        point = (
            f"data-class_folders+lmbda-{lmbda}+trainer-ddp_cpu+data.root-%27%2Fd%2C%20e%27+experiment-mine"
        )
        assert compose_config(run_dir).run_dir == f"multirun/it's = mine/{point}"
        # python, train.py and --config-dir DIR come first; the experiment lies in that.
        own = [text for text in overrides[4:] if not text.startswith("experiment=")]
        assert compose_config(*own).data.root == "/d, e"


def test_a_finished_point_is_the_one_that_is_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its config: a yaml may have been edited since."""
    monkeypatch.chdir(tmp_path)
    point = Path("multirun/quickstart") / point_name([*TINY, "seed=0"])
    point.parent.mkdir(parents=True)
    shutil.copytree(run, point)
    same = command("-m", *TINY, "seed=0")
    assert (same.status, same.stdout) == (0, f"{point} is finished already\n"), same.stderr
    config = yaml.safe_load((point / "config.yaml").read_text())
    (point / "config.yaml").write_text(yaml.safe_dump(config | {"lmbda": 7}))
    other = command("-m", *TINY, "seed=0")
    assert other.status == 2
    assert f"{point} holds another run, which differs in lmbda (7 there, 0.0015 here): give" in other.stderr


@pytest.mark.slow
def test_every_point_of_a_sweep_has_its_own_wandb_run(tmp_path: Path) -> None:
    """W&B goes on in a run that is open: each point has to end its own."""
    for lmbda in (0.001, 0.01):
        folder = tmp_path / str(lmbda)
        train.train(compose_config(*TINY, "logger=wandb", f"lmbda={lmbda}"), folder)
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1
