"""Schedule: the stages of an experiment in order, one fit each, resumable at any batch."""

import json
import resource
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from evaluation.result_files import write_json
from evaluation.results import Row, git_commit, make_row, table
from lightning_modules.checkpoints import StageCheckpoints, metrics_of, save_whole, state_to_go_on_from
from lightning_modules.compression import CompressionSystem
from lightning_modules.experiment import Experiment
from lightning_modules.init_from import load_into
from lightning_modules.parts import applied, fingerprint, frozen_state, modules_of
from models.codecs.read_through import ReadThrough
from models.pretrained.run_folder import RunFolder, StageFolder


def run(experiment: Experiment, run_dir: Path) -> dict[str, Any]:
    """Run all stages, each from where ``run_dir`` has it; test after each; write ``summary.json``.

    Returns:
        The summary.
    """
    records: list[dict[str, Any]] = []
    first_step = 0
    for number, (name, stage) in enumerate(experiment.stages.items()):
        folder = RunFolder(run_dir).stage(number + 1, name)
        system = CompressionSystem(
            experiment.codec,
            experiment.tasks,
            stage,
            networks=experiment.networks,
            ready=experiment.ready_tasks(number),
            seed=_stage_seed(experiment.seed, number),
            first_step=first_step,
            config=experiment.config,
        )
        system.stage_title = f"{number + 1}/{len(experiment.stages)} {name}"
        if folder.finished:
            state = state_to_go_on_from(folder, name, experiment.config)
            system.load_state_dict(state["state_dict"])
            records.append(json.loads(folder.record.read_text()))
            rank_zero_only(print)(f"stage {number + 1} {name!r} is finished already: loaded {folder.path}")
        else:
            records.append(_run_stage(experiment, number, name, system, folder))
        first_step += stage.num_batches
    # Who reads a run as a whole needs no stage's subject, whose rows go by the stage's name, and no machine's choices.
    own = ("trains", "compute")
    records = [{key: value for key, value in record.items() if key not in own} for record in records]
    rows = [row for record in records for row in record.pop("test")]
    rows += _test_baselines(experiment, run_dir, first_step)
    summary = {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "git_commit": git_commit(),
        "stages": records,
        "test": {"rows": rows},
        "peak_memory_mb": _peak_memory_mb(),
    }
    rank_zero_only(write_json)(RunFolder(run_dir).summary, summary)
    monitors = {name: task.monitor for name, task in experiment.tasks.items()}
    tested = (
        f"Test split, real bytes:\n{table(rows, monitors)}"
        if rows
        else "Nothing codes: see the stages' metrics"
    )
    rank_zero_only(print)(f"\n{tested}\n\n{RunFolder(run_dir).summary}")
    return summary


def _run_stage(
    experiment: Experiment, number: int, name: str, system: CompressionSystem, folder: StageFolder
) -> dict[str, Any]:
    """Train what is left of a stage, test it, and write down that it is finished."""
    stage, seed = system.stage, _stage_seed(experiment.seed, number)
    state = state_to_go_on_from(folder, name, experiment.config)
    start = 0 if state is None else state["batches_done"]
    if state is not None:
        where = f"goes on after batch {start} of {stage.num_batches}"
        rank_zero_only(print)(f"stage {number + 1} {name!r} {where}")
    for logger in experiment.loggers:
        # What a killed run logged after that state will be logged again.
        getattr(logger, "rewind", lambda step, tested: None)(
            system.first_step + start, tested=start < stage.num_batches
        )
    for part, source in stage.init_from.items():
        load_into(system, part, source)
    data = (stage.data or experiment.data).for_stage(num_batches=stage.num_batches, seed=seed, start=start)
    if state is None:
        for part, begin in stage.begin.items():
            for module in modules_of(system, part):
                # As training gets them: pictures are bytes until a batch is transferred.
                begin(module, (data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()))
    if start == stage.num_batches:
        facts, system.batches_done = state["stage"], start
        system.load_state_dict(state["state_dict"])
    else:
        resumed, state = state is not None, None  # Lightning reads it again: the memory is needed
        with applied(experiment.codec, stage.settings):
            facts = _train(experiment, name, system, data, folder, resumed=resumed)
    trainer = experiment.trainer(folder.path, callbacks=experiment.make_callbacks())
    record = {
        "name": name,
        "trains": stage.trains,
        "num_batches": stage.num_batches,
        "seconds": facts["seconds"],
        "images_per_second": stage.num_batches * data.batch_size / facts["seconds"],
        "metrics": facts["metrics"],
        "compute": facts["compute"],
    }
    if system.subject.codes:
        rates = system.subject.rates or (None,)
        record["test"] = [_test(experiment, trainer, system, name, rate) for rate in rates]
    else:
        # No real bytes to judge it by: its own measures on the test split must do.
        trainer.test(system, datamodule=experiment.data, verbose=False)
        record |= {"metrics": facts["metrics"] | metrics_of(trainer), "test": []}
    rank_zero_only(write_json)(folder.record, record)
    trainer.strategy.barrier()
    return record


def _train(
    experiment: Experiment,
    name: str,
    system: CompressionSystem,
    data: LightningDataModule,
    folder: StageFolder,
    *,
    resumed: bool,
) -> dict[str, Any]:
    """Fit, check that what is frozen stood still, keep the weights. Returns seconds and metrics."""
    stage = system.stage
    system.train()
    before = fingerprint(frozen_state(system))
    saving = StageCheckpoints(folder.checkpoints, stage)
    with experiment.compute.of(system) as for_compute:
        trainer = experiment.trainer(
            folder.path,
            training=True,
            callbacks=[*experiment.make_callbacks(), *for_compute, saving],
            max_epochs=1,
            val_check_interval=stage.validate_every,
            accumulate_grad_batches=stage.accumulate if system.automatic_optimization else 1,
        )
        saving.compute = experiment.compute.chosen(trainer, for_compute)
        trainer.fit(system, datamodule=data, ckpt_path=saving.last if resumed else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    facts = {"seconds": saving.seconds, "metrics": metrics_of(trainer), "compute": saving.compute}
    after = fingerprint(frozen_state(system))
    if moved := [key for key in before if before[key] != after.get(key)]:
        raise RuntimeError(f"stage {name!r} moved frozen weights: {moved[:5]}")
    save_whole(trainer, saving.last)
    return facts


def _test(
    experiment: Experiment, trainer: Trainer, system: CompressionSystem, name: str, rate: float | None
) -> Row:
    system.rate = rate
    trainer.test(system, datamodule=experiment.data, verbose=False)
    logged = trainer.callback_metrics.items()
    values = {key.removeprefix("test/"): float(value) for key, value in logged if key.startswith("test/")}
    return make_row(
        name,
        values,
        seed=experiment.seed,
        rate=rate,
        command=shlex.join(sys.argv),
        uncompressed=system.subject.uncompressed,
    )


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


def _stage_seed(seed: int, number: int) -> int:
    return seed * 1000 + number


def _peak_memory_mb() -> float:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
