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
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from callbacks.csv_logger import RunCSV
from lightning_modules.schedule import Experiment

KEYS = {"name", "seed", "lmbda", "tasks", "task_weights", "baselines", "run_dir", "resume"}
GROUPS = {"codec", "data", "schedule", "trainer", "callbacks", "logger"}


class UserError(Exception):
    """A mistake in the configuration or the data, found before anything trains."""


def build(cfg: DictConfig, run_dir: Path) -> Experiment:
    """Make every part of an experiment and check how they fit.

    Raises:
        ValueError: with what is wrong in the configuration.
    """
    if unknown := set(cfg) - KEYS - GROUPS:
        raise ValueError(f"unknown config keys {sorted(unknown)}; there are {sorted(KEYS | GROUPS)}")
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    codec = instantiate(cfg.codec)
    experiment = Experiment(
        name=cfg.name,
        codec=codec,
        tasks={name: instantiate(node)(codec.readable, data.labels) for name, node in cfg.tasks.items()},
        stages={name: _stage(node, cfg.data) for name, node in cfg.schedule.items()},
        data=data,
        make_trainer=instantiate(cfg.trainer),
        make_callbacks=lambda: [c for c in instantiate(cfg.callbacks).values() if c is not None],
        loggers=[RunCSV(run_dir / "metrics.csv"), *instantiate(cfg.logger or {}).values()],
        baselines=instantiate(cfg.baselines, _convert_="all"),
        seed=cfg.seed,
        config=OmegaConf.to_container(cfg, resolve=True),
    )
    experiment.check()
    return experiment


def _stage(node: DictConfig, data: DictConfig) -> Any:
    own = OmegaConf.merge(data, node.data) if node.data else None
    return instantiate(OmegaConf.merge(node, {"data": own}))


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Run every stage of an experiment; finished ones that ``run_dir`` holds are loaded.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UserError: one clear line, before anything trains.
    """
    try:
        if (run_dir / "config.yaml").is_file():
            _check_same(cfg, run_dir)
        cfg = OmegaConf.merge(cfg, {"run_dir": str(run_dir)})
        experiment = build(cfg, run_dir)
    except (ValueError, TypeError, InstantiationException, OmegaConfBaseException) as error:
        raise UserError(_message(error)) from error
    _save_config(cfg, run_dir)
    for logger in experiment.loggers:
        logger.log_hyperparams(dict(experiment.config))
    return experiment.run(run_dir)


@rank_zero_only
def _save_config(cfg: DictConfig, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)


def choose_run_dir(cfg: DictConfig) -> Path:
    """A new folder for this run, the one it names, or the point's own in a sweep; the same in every process."""
    if "BIFOCAL_RUN_DIR" in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return Path(os.environ["BIFOCAL_RUN_DIR"])
    if cfg.run_dir is not None:
        run_dir = Path(cfg.run_dir)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        run_dir = Path("multirun") / cfg.name / HydraConfig.get().job.override_dirname.replace("/", "_")
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("processes started by torchrun or SLURM need a common folder: give run_dir=DIR")
    else:
        run_dir = Path("runs") / cfg.name / time.strftime("%Y-%m-%d_%H-%M-%S")
    os.environ["BIFOCAL_RUN_DIR"] = str(run_dir)
    return run_dir


def _check_same(cfg: DictConfig, run_dir: Path) -> None:
    saved = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    now = OmegaConf.to_container(OmegaConf.merge(cfg, {"run_dir": str(run_dir)}), resolve=True)
    if changed := sorted(key for key in {*now, *saved} if now.get(key) != saved.get(key)):
        raise ValueError(f"{run_dir} holds a run with other {changed}: remove it, or give another run_dir")


def _message(error: Exception) -> str:
    """The mistake itself, without the frames around it."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause, InstantiationException):
        cause = cause.__cause__
    where = next((line for line in str(error).splitlines() if line.startswith("full_key: ")), "")
    return str(cause).split("\n\n")[0] + (f" ({where})" if where and cause is not error else "")


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Entry point: errors of the user become one line and exit status 2."""
    try:
        if cfg.resume is None:
            run_dir = choose_run_dir(cfg)
        else:
            run_dir = Path(cfg.resume)
            if not (run_dir / "config.yaml").is_file():
                raise UserError(f"resume={run_dir} is no run folder: it has no config.yaml")
            cfg = OmegaConf.load(run_dir / "config.yaml")
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if sweep and (run_dir / "summary.json").is_file():
            print(f"{run_dir} is finished already")
        elif sweep and cfg.trainer.devices != 1:
            # Several processes inside a sweep would run the whole sweep each: one command a point instead.
            overrides = [*HydraConfig.get().overrides.task, f"run_dir={run_dir}"]
            subprocess.run([sys.executable, __file__, *overrides], check=True)
        else:
            train(cfg, run_dir)
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"train.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except SIGTERMException:
        sys.exit(143)


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
    _quieten()
    torch.set_float32_matmul_precision("high")
    main()
