"""Loggers after a restart: TensorBoard shows nothing twice, W&B goes on in the same run."""

from pathlib import Path

import pytest

from callbacks.tensorboard_logger import RunTensorBoard
from callbacks.wandb_logger import RunWandb


def shown(folder: Path) -> list[tuple[int, float]]:
    """(step, value) of one curve as TensorBoard's own reader gives them, over all event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars("train/loss")]


def test_tensorboard_hides_what_is_logged_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = RunTensorBoard(str(tmp_path))
    first.log_hyperparams({"lmbda": 0.01})
    first.rewind(0)
    for step in range(1, 9):
        first.log_metrics({"train/loss": float(step)}, step)
    first.experiment.flush()  # and killed here; it goes on from a state after step 5
    second = RunTensorBoard(str(tmp_path))
    second.log_hyperparams({"lmbda": 0.01})
    second.rewind(5)
    for step in range(6, 12):
        second.log_metrics({"train/loss": 10.0 * step}, step)
    second.finalize("success")
    expected = [(step, float(step)) for step in range(1, 6)] + [(step, 10.0 * step) for step in range(6, 12)]
    assert shown(tmp_path) == expected
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 2


def test_wandb_goes_on_in_the_same_run(tmp_path: Path) -> None:
    def logger(folder: Path) -> RunWandb:
        return RunWandb(str(folder), project="bifocal", mode="disabled")

    first, other = logger(tmp_path / "a"), logger(tmp_path / "b")
    for made in (first, other):
        made.log_hyperparams({"lmbda": 0.01})
        # An open run would go on in the next test of this process.
        made.experiment.finish()
    assert first._wandb_init["id"] != other._wandb_init["id"]
    again = logger(tmp_path / "a")
    assert again._wandb_init["id"] == first._wandb_init["id"]
    assert again._wandb_init["resume"] == "allow"
    # A run that was refused before it began leaves nothing.
    logger(tmp_path / "c")
    assert not (tmp_path / "c").exists()
