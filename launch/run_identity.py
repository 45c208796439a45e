"""Run folders: whose they are, and whether a config is the one they were made with."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from launch.errors import UserError
from lightning_modules.config_changes import changes
from models.counted import counted
from models.pretrained.run_folder import RunFolder


def check_run_dir(cfg: DictConfig, run_dir: Path) -> None:
    """Find out whether a run may be made, or gone on with, in a folder.

    Raises:
        UserError: it is a file, or holds a run of another config or of nobody knows which.
    """
    run = RunFolder(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is a file: give a folder")
    if run.config.is_file():
        if changed := differences(OmegaConf.load(run.config), cfg, run_dir):
            raise UserError(
                f"{run_dir} holds another run, which differs in {changed}: give another run_dir or name, or move that "
                "one away"
            )
    elif run.holds_stages:
        raise UserError(f"run_dir={run_dir} holds stages of a run without config.yaml: give another run_dir")


def is_finished(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether a folder holds all that a run of this config leaves.

    Raises:
        UserError: it holds something else.
    """
    check_run_dir(cfg, run_dir)
    return RunFolder(run_dir).finished


def differences(saved: DictConfig, cfg: DictConfig, run_dir: Path) -> str:
    """Where two configs differ, apart from where the run lies."""
    # ${run_dir} is resolved in what was saved, and a run folder may have been moved since.
    old = moved(OmegaConf.to_container(saved), str(saved.run_dir), str(run_dir))
    new = OmegaConf.to_container(OmegaConf.merge(cfg, {"run_dir": str(run_dir)}), resolve=True)
    none = "nothing"  # of a key that only one side has
    changed = [
        f"{key} ({none if before is None else before} there, {none if now is None else now} here)"
        for key, (before, now) in changes(old, new).items()
        if key not in ("run_dir", "resume")
    ]
    more = len(changed) - 5
    return ", ".join(changed[:5]) + (f" and {counted(more, 'more key')}" if more > 0 else "")


def moved(node: Any, old: str, new: str) -> Any:
    """Plain containers with every path below ``old`` put below ``new``."""
    if isinstance(node, dict):
        return {key: moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + os.sep)):
        return new + node[len(old) :]
    return node
