"""Train a codec and its tasks: every stage of an experiment, from one command.

python train.py                                        the quickstart, minutes on two CPU cores
python train.py experiment=NAME key=value ...          another experiment, with changes
python train.py -m experiment=NAME lmbda=0.005,0.02    a lambda sweep
python train.py resume=RUN_DIR                         go on where a run stopped
python train.py --help                                 all groups and keys
"""

import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from launch.command import MISTAKES, run_main
from launch.config_check import check_components
from launch.errors import SHOW_ALL, UserError, fail, one_line
from launch.overrides import point_name, quoted
from launch.run_identity import check_run_dir, differences, is_finished, moved
from losses.schedules import Scalar
from models.pretrained.run_folder import RunFolder
from models.pretrained.whole_file import write_whole

# What takes seconds to load is imported where it is used: `--help` waits for none of it.
if TYPE_CHECKING:
    from lightning_modules.experiment import Experiment

KEYS = {
    "name": str,
    "seed": int,
    "lmbda": Scalar,
    "tasks": Mapping,
    "networks": Mapping,
    "task_weights": Mapping[str, Scalar],
    "baselines": Mapping,
    "compute": Mapping,
    "run_dir": str | None,
    "resume": str | None,
    "codec": Mapping,
    "data": Mapping,
    "schedule": Mapping,  # of stages
    "trainer": Mapping,
    "callbacks": Mapping,
    "logger": Mapping | None,
}
"""Top-level keys of a config and what they hold."""


def build(cfg: DictConfig, run_dir: Path) -> "Experiment":
    """Make every part of an experiment and check how they fit.

    Raises:
        ValueError: with what is wrong in the configuration.
    """
    from lightning.pytorch import seed_everything

    from callbacks.csv_logger import RunCSV
    from lightning_modules.experiment import Experiment

    _check_config(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    codec = instantiate(cfg.codec)
    experiment = Experiment(
        name=cfg.name,
        codec=codec,
        tasks={name: _task(name, node, codec.readable, data.labels) for name, node in cfg.tasks.items()},
        stages={name: _stage(node, cfg.data) for name, node in cfg.schedule.items()},
        networks={name: _network(name, node) for name, node in cfg.networks.items()},
        data=data,
        make_trainer=instantiate(cfg.trainer),
        make_callbacks=lambda: _parts(cfg.callbacks),
        loggers=[RunCSV(RunFolder(run_dir).metrics), *_parts(cfg.logger or {})],
        baselines=instantiate(cfg.baselines, _convert_="all"),
        seed=cfg.seed,
        compute=instantiate(cfg.compute),
        config=OmegaConf.to_container(cfg, resolve=True),
    )
    experiment.check()
    return experiment


def _parts(group: DictConfig | dict) -> list[Any]:
    """What a group of named parts makes; a part that is null is left out."""
    return [part for part in instantiate(group).values() if part is not None]


def _check_config(cfg: DictConfig) -> None:
    from lightning_modules.stages import Stage

    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except InterpolationToMissingValueError as error:
        # The one value that is missing, not the first place that reads it.
        key = str(error).partition("Missing mandatory value: ")[2].split()[0]
        raise ValueError(f"{key} is missing: give {key}=VALUE") from error
    for stage in plain.get("schedule", {}).values():
        if isinstance(stage, dict) and stage.get("data"):
            # As `_stage` will see it.
            stage["data"] = OmegaConf.to_container(OmegaConf.merge(plain["data"], stage["data"]))
    check_components(plain, KEYS | {"schedule": Mapping[str, Stage]})
    if not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed is {cfg.seed}, must be within 0..{2**32 - 1}")


def _task(name: str, node: DictConfig, *parts: Any) -> Any:
    try:
        return instantiate(node)(*parts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tasks.{name}: {error}") from error


def _network(name: str, node: DictConfig) -> Any:
    from torch import nn

    network = instantiate(node)
    if not isinstance(network, nn.Module):
        raise ValueError(f"networks.{name} is {type(network).__name__}, must be a network")
    return network


def _stage(node: DictConfig, data: DictConfig) -> Any:
    own = OmegaConf.merge(data, node.data) if node.get("data") else None
    with open_dict(node):
        return instantiate(OmegaConf.merge(node, {"data": own}))


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Run every stage of an experiment; finished ones that ``run_dir`` holds are loaded.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UserError: one clear line, before anything trains.
        DataError, TooManyUnreadable: files of the data set stop the run.
        FloatingPointError: the loss is no number any more.
    """
    from lightning.pytorch.utilities import rank_zero_only

    from lightning_modules.schedule import run

    try:
        check_run_dir(cfg, run_dir)
        cfg = OmegaConf.merge(cfg, {"run_dir": str(run_dir)})
        experiment = build(cfg, run_dir)
        rank_zero_only(_save_config)(cfg, run_dir)
    except (*MISTAKES, InstantiationException) as error:
        raise UserError(one_line(error)) from error
    for logger in experiment.loggers:
        logger.log_hyperparams(dict(experiment.config))
    try:
        return run(experiment, run_dir)
    finally:
        for logger in experiment.loggers:
            # Else the next point of a sweep would go on in this W&B run.
            getattr(getattr(logger, "experiment", None), "finish", lambda: None)()


def _save_config(cfg: DictConfig, run_dir: Path) -> None:
    try:
        # Whole or not at all: a run that is killed here can still be started again.
        write_whole(RunFolder(run_dir).config, OmegaConf.to_yaml(cfg, resolve=True))
    except OSError as error:
        raise ValueError(f"run_dir={run_dir} cannot be written to: {error.strerror}") from error


def choose_run_dir(cfg: DictConfig) -> Path:
    """A new folder for this run, the one it names, or the point's own in a sweep; the same in every process."""
    if "BIFOCAL_RUN_DIR" in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return Path(os.environ["BIFOCAL_RUN_DIR"])
    if cfg.run_dir is not None:
        run_dir = Path(cfg.run_dir)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        run_dir = Path("multirun") / cfg.name / point_name(HydraConfig.get().overrides.task)
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("processes started by torchrun or SLURM need a common folder: give run_dir=DIR")
    else:
        run_dir = Path("runs") / cfg.name / time.strftime("%Y-%m-%d_%H-%M-%S")
    os.environ["BIFOCAL_RUN_DIR"] = str(run_dir)
    return run_dir


@hydra.main(config_path=str(Path(__file__).parent / "configs"), config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Entry point: the user's errors become one line and status 2, what stops a run one line and status 1."""
    import torch
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from callbacks.unreadable_files import TooManyUnreadable
    from datamodules.source import DataError
    from lightning_modules.checkpoints import UnusableState

    torch.set_float32_matmul_precision("high")
    _quieten()
    if not SHOW_ALL:
        # Processes that are started from here, and errors that are none of the user's, are Hydra's to show.
        os.environ.pop("HYDRA_FULL_ERROR", None)
    run_dir = None
    try:
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if cfg.resume is None:
            run_dir = choose_run_dir(cfg)
        else:
            run_dir, cfg = _resume(cfg)
        if sweep and is_finished(cfg, run_dir):
            print(f"{run_dir} is finished already")
        elif sweep and cfg.trainer.devices != 1:
            # Several processes inside a sweep would run the whole sweep each: one command a point instead.
            _run_alone(run_dir)
        else:
            train(cfg, run_dir)
    except (UserError, UnusableState, OmegaConfBaseException) as error:
        fail(error, 2)
    except (DataError, TooManyUnreadable, FloatingPointError) as error:
        fail(error, 1, f" What was written before is in {run_dir}.")
    except SIGTERMException:
        sys.exit(143)


def _run_alone(run_dir: Path) -> None:
    """The sweep's point in a command of its own: what was given, and its folder."""
    hydra_config = HydraConfig.get()
    own = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    options = [text for path in own for text in ("--config-dir", path)]
    overrides = [*hydra_config.overrides.task, f"run_dir={quoted(run_dir)}"]
    status = subprocess.run([sys.executable, __file__, *options, *overrides], check=False).returncode
    if status != 0:
        sys.exit(status)


def _resume(cfg: DictConfig) -> tuple[Path, DictConfig]:
    """The folder to go on in, and the config of its run."""
    run_dir = Path(cfg.resume)
    config = RunFolder(run_dir).config
    if not config.is_file():
        raise UserError(f"resume={run_dir} is no run folder: it has no config.yaml")
    saved = OmegaConf.load(config)
    given = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
    # The same command with resume= is fine. Other values would silently be ignored.
    if given and (changed := differences(saved, cfg, run_dir)):
        raise UserError(
            f"resume={run_dir} goes on with that run's own config, and what is given beside it differs in "
            f"{changed}: give resume= alone"
        )
    return run_dir, OmegaConf.create(moved(OmegaConf.to_container(saved), str(saved.run_dir), str(run_dir)))


def command() -> None:
    """``python train.py``: what Hydra refuses is one line and status 2 too."""
    run_main(main, (HydraException,))


def _quieten() -> None:
    """Silence what Lightning says that is meant here, or is advertisement."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts are, on purpose
        ".*treespec, LeafSpec.*",
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",  # its sampler starts where the stage stopped
    ):
        warnings.filterwarnings("ignore", message=message)


if __name__ == "__main__":
    command()
