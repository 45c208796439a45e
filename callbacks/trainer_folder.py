"""Where a run keeps its files, seen from a Trainer."""

import re
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from models.pretrained.run_folder import RunFolder, StageFolder


def run_folder(trainer: Trainer) -> RunFolder:
    """Of the stage that the Trainer writes to, or its ``default_root_dir`` itself."""
    folder = Path(trainer.default_root_dir)
    stage = StageFolder.of(folder)
    return stage.run if stage else RunFolder(folder)


def stage_name(trainer: Trainer, pl_module: LightningModule) -> str:
    """A file name's beginning that sorts by stage, e.g. ``01-pretrain``."""
    if stage := StageFolder.of(Path(trainer.default_root_dir)):
        return stage.name
    title = str(getattr(pl_module, "stage_title", "") or "run")
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")
