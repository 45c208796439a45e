"""Where a run keeps its files, seen from a Trainer."""

import re
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer


def run_folder(trainer: Trainer) -> Path:
    """The run's folder: two levels above ``stages/<NN>-<name>``, or ``default_root_dir`` itself."""
    folder = Path(trainer.default_root_dir)
    return folder.parent.parent if folder.parent.name == "stages" else folder


def stage_name(trainer: Trainer, pl_module: LightningModule) -> str:
    """A file name's beginning that sorts by stage, e.g. ``01-pretrain``."""
    folder = Path(trainer.default_root_dir)
    if folder.parent.name == "stages":
        return folder.name
    title = str(getattr(pl_module, "stage_title", "") or "run")
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")
