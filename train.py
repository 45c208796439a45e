"""Train a codec and its tasks: every stage of an experiment, from one command.

python train.py                                        the quickstart, minutes on two CPU cores
python train.py experiment=NAME key=value ...          another experiment, with changes
python train.py -m experiment=NAME lmbda=0.005,0.02    a lambda sweep
python train.py resume=RUN_DIR                         go on where a run stopped
python train.py --help                                 all groups and keys
"""

import difflib
import hashlib
import inspect
import logging
import os
import subprocess
import sys
import time
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from callbacks.csv_logger import RunCSV
from callbacks.unreadable_files import TooManyUnreadable
from datamodules.source import DataError
from lightning_modules.schedule import Experiment
from losses.schedules import Scalar

KEYS = {
    "name": str,
    "seed": int,
    "lmbda": Scalar,
    "tasks": Mapping,
    "task_weights": Mapping[str, Scalar],
    "baselines": Mapping,
    "run_dir": str | None,
    "resume": str | None,
}
GROUPS = {
    "codec": Mapping,
    "data": Mapping,
    "schedule": Mapping,
    "trainer": Mapping,
    "callbacks": Mapping,
    "logger": Mapping | None,
}
MAPPINGS = (Mapping, dict)
SHOW_ALL = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether mistakes come with the frames that led to them."""


class UserError(Exception):
    """A mistake in the configuration or the data, found before anything trains."""


def build(cfg: DictConfig, run_dir: Path) -> Experiment:
    """Make every part of an experiment and check how they fit.

    Raises:
        ValueError: with what is wrong in the configuration.
    """
    check_config(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    codec = instantiate(cfg.codec)
    experiment = Experiment(
        name=cfg.name,
        codec=codec,
        tasks={name: _task(name, node, codec.readable, data.labels) for name, node in cfg.tasks.items()},
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


def _task(name: str, node: DictConfig, *parts: Any) -> Any:
    try:
        return instantiate(node)(*parts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tasks.{name}: {error}") from error


def _stage(node: DictConfig, data: DictConfig) -> Any:
    own = OmegaConf.merge(data, node.data) if node.data else None
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
    try:
        _check_run_dir(cfg, run_dir)
        cfg = OmegaConf.merge(cfg, {"run_dir": str(run_dir)})
        experiment = build(cfg, run_dir)
        _save_config(cfg, run_dir)
    except MISTAKES as error:
        raise UserError(_message(error)) from error
    for logger in experiment.loggers:
        logger.log_hyperparams(dict(experiment.config))
    return experiment.run(run_dir)


MISTAKES = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    InstantiationException,
    OmegaConfBaseException,
    MisconfigurationException,
)
"""What building an experiment from a wrong configuration raises."""


@rank_zero_only
def _save_config(cfg: DictConfig, run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    except OSError as error:
        raise ValueError(f"run_dir={run_dir} cannot be written to: {error.strerror}") from error


def choose_run_dir(cfg: DictConfig) -> Path:
    """A new folder for this run, the one it names, or the point's own in a sweep; the same in every process."""
    if "BIFOCAL_RUN_DIR" in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return Path(os.environ["BIFOCAL_RUN_DIR"])
    if cfg.run_dir is not None:
        run_dir = Path(cfg.run_dir)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        run_dir = Path("multirun") / cfg.name / _point_name(HydraConfig.get().job.override_dirname)
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("processes started by torchrun or SLURM need a common folder: give run_dir=DIR")
    else:
        run_dir = Path("runs") / cfg.name / time.strftime("%Y-%m-%d_%H-%M-%S")
    os.environ["BIFOCAL_RUN_DIR"] = str(run_dir)
    return run_dir


def _point_name(overrides: str) -> str:
    name = overrides.replace("/", "_")
    if len(name.encode()) <= 200:
        return name
    # File systems stop at 255 bytes.
    return f"{name[:150]}...{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _check_run_dir(cfg: DictConfig, run_dir: Path) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"run_dir={run_dir} is a file: give a folder")
    if (run_dir / "config.yaml").is_file():
        if changed := _differences(OmegaConf.load(run_dir / "config.yaml"), cfg, run_dir):
            raise ValueError(
                f"{run_dir} holds another run, which differs in {changed}: give another run_dir, "
                "or remove that one"
            )
    elif (run_dir / "stages").exists():
        raise ValueError(f"run_dir={run_dir} holds stages of a run without config.yaml: give another run_dir")


def _differences(saved: DictConfig, cfg: DictConfig, run_dir: Path) -> str:
    """Where two configs differ, apart from where the run lies."""
    # ${run_dir} is resolved in what was saved, and a run folder may have been moved since.
    old = dict(_leaves(_moved(OmegaConf.to_container(saved), str(saved.run_dir), str(run_dir))))
    named = OmegaConf.merge(cfg, {"run_dir": str(run_dir)})
    new = dict(_leaves(OmegaConf.to_container(named, resolve=True)))
    none = "nothing"  # of a key that only one side has
    changed = [
        f"{key} ({old.get(key, none)} there, {new.get(key, none)} here)"
        # What was given, such as lmbda, comes before the places it was copied to.
        for key in sorted(dict.fromkeys((*old, *new)), key=lambda key: key.count("."))
        if key not in ("run_dir", "resume") and old.get(key, none) != new.get(key, none)
    ]
    return ", ".join(changed[:5]) + (f" and {len(changed) - 5} more keys" if len(changed) > 5 else "")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _moved(node: Any, old: str, new: str) -> Any:
    """Plain containers with every path below ``old`` put below ``new``."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + os.sep)):
        return new + node[len(old) :]
    return node


# -- mistakes ----------------------------------------------------------------------------------------------------


def check_config(cfg: DictConfig) -> None:
    """Find missing, unknown and mistyped values before anything is made of them.

    Every component's keys and plain values are held against the signature of its ``_target_``.

    Raises:
        ValueError: the first such key in full, its value and what is allowed.
    """
    known = {**KEYS, **GROUPS}
    plain = OmegaConf.to_container(cfg, resolve=True)
    for key, value in plain.items():
        if key not in known:
            raise ValueError(f"unknown config key {str(key)!r}; {_instead(str(key), known)}")
        _check_value(key, value, known[key])
    if not 0 <= plain["seed"] < 2**32:
        raise ValueError(f"seed is {plain['seed']}, must be within 0..{2**32 - 1}")
    for name, stage in plain["schedule"].items():
        if not isinstance(stage, dict):
            raise ValueError(f"schedule.{name} is {stage!r}, must be a stage (configs/stage)")
        if stage.get("data"):
            # As `_stage` will see it.
            stage["data"] = OmegaConf.to_container(OmegaConf.merge(plain["data"], stage["data"]))
    for key, node in plain.items():
        _check_node(key, node)


def _check_node(path: str, node: Any) -> None:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        if value == "???":
            raise ValueError(f"{path}.{key} is missing: give {path}.{key}=VALUE")
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        _check_call(path, node)
    for key, value in children:
        _check_node(f"{path}.{key}", value)


def _check_call(path: str, node: dict[str, Any]) -> None:
    try:
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{path}._target_={node['_target_']} cannot be used: {error}") from error
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, AttributeError):  # names that exist for type checkers alone
        hints = {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        if key in parameters:
            _check_value(f"{path}.{key}", value, hints.get(key, Any))
        elif not open_ended:
            raise ValueError(f"{path}.{key}: {target.__name__} takes no {key!r}; {_instead(key, parameters)}")


def _instead(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are {', '.join(sorted(known))}"


def _check_value(path: str, value: Any, hint: Any) -> None:
    inner = typing.get_args(hint)
    if isinstance(value, dict) and "_target_" not in value and typing.get_origin(hint) in MAPPINGS:
        for key, child in value.items():
            _check_value(f"{path}.{key}", child, inner[1])
    elif not _fits(value, hint):
        raise ValueError(f"{path} is {value!r}, must be {_describe(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a yaml can be of a type; objects that are still to be made always can."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    if hint is Any or value == "???":
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    kind = origin or hint
    if isinstance(value, dict):
        if not inspect.isclass(kind) or not issubclass(kind, Mapping):
            # The stage's data is what differs from the run's; a path or a number is no mapping.
            return kind not in (int, float, bool, str, Path, type(None)) and not _is_sequence(kind)
        return len(inner) < 2 or all(_fits(child, inner[1]) for child in value.values())
    if isinstance(value, list):
        every = inner[:1] if inner else (Any,)
        return _is_sequence(kind) and all(_fits(child, every[0]) for child in value)
    if value is None:
        return hint is type(None)
    plain = {float: (int, float), int: (int,), str: (str,), Path: (str,), bool: (bool,)}
    return not (isinstance(value, bool) and kind is not bool) and isinstance(value, plain.get(kind, ()))


def _is_sequence(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Sequence) and kind is not str


def _describe(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(option) for option in inner))
    if origin is Literal:
        return " or ".join(repr(option) for option in inner)
    kind = origin or hint
    words = {
        float: "a number",
        int: "a whole number",
        str: "a text",
        Path: "a path",
        bool: "true or false",
        type(None): "null",
    }
    if kind in words:
        return words[kind]
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping" + (f" of names to {_describe(inner[1])}" if len(inner) == 2 else "")
    if _is_sequence(kind):
        return "a list" + (f" with {_describe(inner[0])} in each place" if inner else "")
    return f"a {getattr(kind, '__name__', kind)} (a node with its _target_)"


def _message(error: BaseException) -> str:
    """The mistake itself in one line, without the frames around it."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause, InstantiationException):
        cause = cause.__cause__
    where = next((line for line in str(error).splitlines() if line.startswith("full_key: ")), "")
    prefix = f"{where.removeprefix('full_key: ')}: " if where and cause is not error else ""
    text = str(cause)
    if "Original Traceback" in text:
        # From a loading process: its frames come first.
        text = text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, HydraException) and not isinstance(error, InstantiationException):
        text = text.partition("Config search path")[0]
        if isinstance(cause.__cause__, OmegaConfBaseException) and "append to your config" not in text:
            text += f": {str(cause.__cause__).splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        text = str(error).splitlines()[0] + (f" ({key})" if key else "")
    return prefix + " ".join(text.split())


def _fail(error: BaseException, status: int, more: str = "") -> NoReturn:
    if SHOW_ALL:
        raise error
    print(f"train.py: error: {_message(error)}{more}", file=sys.stderr)
    sys.exit(status)


# -- the command -------------------------------------------------------------------------------------------------


@hydra.main(config_path=str(Path(__file__).parent / "configs"), config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Entry point: the user's mistakes become one line and status 2, what stops a run one line and status 1."""
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
        if sweep and (run_dir / "summary.json").is_file():
            print(f"{run_dir} is finished already")
        elif sweep and cfg.trainer.devices != 1:
            # Several processes inside a sweep would run the whole sweep each: one command a point instead.
            overrides = [*HydraConfig.get().overrides.task, f"run_dir={run_dir}"]
            status = subprocess.run([sys.executable, __file__, *overrides], check=False).returncode
            if status != 0:
                sys.exit(status)
        else:
            train(cfg, run_dir)
    except (UserError, OmegaConfBaseException) as error:
        _fail(error, 2)
    except (DataError, TooManyUnreadable, FloatingPointError) as error:
        _fail(error, 1, f" What was written before is in {run_dir}.")
    except SIGTERMException:
        sys.exit(143)


def _resume(cfg: DictConfig) -> tuple[Path, DictConfig]:
    """The folder to go on in, and the config of its run."""
    run_dir = Path(cfg.resume)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={run_dir} is no run folder: it has no config.yaml")
    saved = OmegaConf.load(run_dir / "config.yaml")
    given = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
    # The same command with resume= is fine. Other values would silently be ignored.
    if given and (changed := _differences(saved, cfg, run_dir)):
        raise UserError(
            f"resume={run_dir} goes on with that run's own config, and what is given beside it differs in "
            f"{changed}: give resume= alone"
        )
    return run_dir, OmegaConf.create(_moved(OmegaConf.to_container(saved), str(saved.run_dir), str(run_dir)))


def command() -> None:
    """``python train.py``: what Hydra refuses is one line and status 2 too."""
    _quieten()
    # Hydra then raises what it would print over several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(error, 2)


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
    torch.set_float32_matmul_precision("high")
    command()
