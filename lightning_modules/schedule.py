"""Schedule: the stages of an experiment in order, one fit each, resumable at every border."""

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from evaluation.output import drop_rows_after
from evaluation.results import Row, git_commit, make_row, table
from lightning_modules.compression import CompressionSystem
from lightning_modules.experiment import Experiment
from lightning_modules.stages import Stage, fingerprint, frozen_state, load_into
from models.codecs.base import Codec
from models.codecs.read_through import ReadThrough


def run(experiment: Experiment, run_dir: Path) -> dict[str, Any]:
    """Run all stages, skipping those that ``run_dir`` holds finished; test after each; write ``summary.json``.

    Returns:
        The summary.
    """
    records: list[dict[str, Any]] = []
    first_step = 0
    for number, (name, stage) in enumerate(experiment.stages.items()):
        folder = run_dir / "stages" / f"{number + 1:02d}-{name}"
        system = CompressionSystem(
            experiment.codec,
            experiment.tasks,
            stage,
            ready=experiment.ready_tasks(number),
            seed=_stage_seed(experiment.seed, number),
            first_step=first_step,
            config=experiment.config,
        )
        if (folder / "stage.json").is_file():
            state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
            system.load_state_dict(state["state_dict"])
            records.append(json.loads((folder / "stage.json").read_text()))
            rank_zero_only(print)(f"stage {number + 1} {name!r} is finished already: loaded {folder}")
        else:
            # Of a stage that was killed, which is taken again.
            rank_zero_only(drop_rows_after)(run_dir / "metrics.csv", first_step)
            records.append(_run_stage(experiment, number, name, stage, system, folder))
        first_step += stage.num_batches
    rows = [record.pop("test") for record in records] + _test_baselines(experiment, run_dir, first_step)
    summary = {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "git_commit": git_commit(),
        "stages": records,
        "test": {"rows": rows},
        "peak_memory_mb": _peak_memory_mb(),
    }
    _write_json(run_dir / "summary.json", summary)
    monitors = {name: task.monitor for name, task in experiment.tasks.items()}
    rank_zero_only(print)(f"\nTest split, real bytes:\n{table(rows, monitors)}\n\n{run_dir / 'summary.json'}")
    return summary


def _run_stage(
    experiment: Experiment, number: int, name: str, stage: Stage, system: CompressionSystem, folder: Path
) -> dict[str, Any]:
    for part, source in stage.init_from.items():
        load_into(system, part, source)
    usual = {key: getattr(experiment.codec, key) for key in stage.settings}
    _set(experiment.codec, stage.settings)
    # Dropout and the like draw the same whether the stages before ran just now or were loaded.
    torch.manual_seed(_stage_seed(experiment.seed, number))
    data = (stage.data or experiment.data).for_stage(
        num_batches=stage.num_batches, seed=_stage_seed(experiment.seed, number)
    )
    system.stage_title = f"{number + 1}/{len(experiment.stages)} {name}"
    system.train()
    before = fingerprint(frozen_state(system))
    start = time.perf_counter()
    trainer = experiment.trainer(
        folder,
        callbacks=[*experiment.make_callbacks(), _checkpoints(folder)],
        max_epochs=1,
        val_check_interval=stage.validate_every,
    )
    trainer.fit(system, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    after = fingerprint(frozen_state(system))
    if moved := [key for key in before if before[key] != after.get(key)]:
        raise RuntimeError(f"stage {name!r} moved frozen weights: {moved[:5]}")
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    _set(experiment.codec, usual)
    record = {
        "name": name,
        "num_batches": stage.num_batches,
        "seconds": seconds,
        "images_per_second": stage.num_batches * data.batch_size / seconds,
        "metrics": metrics,
        "test": _test(experiment, trainer, system, name),
    }
    _write_json(folder / "stage.json", record)
    trainer.strategy.barrier()
    return record


def _test(
    experiment: Experiment, trainer: Trainer, system: CompressionSystem, name: str, rate: float | None = None
) -> Row:
    trainer.test(system, datamodule=experiment.data, verbose=False)
    logged = trainer.callback_metrics.items()
    values = {key.removeprefix("test/"): float(value) for key, value in logged if key.startswith("test/")}
    return make_row(name, values, seed=experiment.seed, rate=rate, command=" ".join(sys.argv))


def _test_baselines(experiment: Experiment, run_dir: Path, first_step: int) -> list[Row]:
    rows = []
    for name, baseline in experiment.baselines.items():
        codec = ReadThrough(baseline["codec"], experiment.codec.eval())
        for rate in baseline["rates"]:
            system = CompressionSystem(
                codec,
                experiment.tasks,
                ready=experiment.tasks,
                seed=experiment.seed,
                first_step=first_step,
                rate=rate,
            )
            system.stage_title = f"{name} {rate:g}"
            trainer = experiment.trainer(run_dir, callbacks=experiment.make_callbacks(), logger=False)
            rows.append(_test(experiment, trainer, system, name, rate))
    return rows


def _checkpoints(folder: Path) -> Callback:
    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/loss",
        save_last=True,
        save_top_k=1,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )


def _stage_seed(seed: int, number: int) -> int:
    return seed * 1000 + number


def _set(codec: Codec, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        setattr(codec, key, value)


@rank_zero_only
def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole or not at all: a killed run leaves no half file that a resume would trust.
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _peak_memory_mb() -> float:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
