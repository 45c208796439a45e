"""Show a picture: a file in the run folder, and every logger that can show it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, PngImagePlugin


def show(
    trainer: Trainer,
    key: str,
    picture: np.ndarray,
    folder: Path,
    step: int,
    *,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a picture into a folder and to the loggers; on rank 0 alone, without talking to other ranks.

    Args:
        trainer: whose loggers are asked.
        key: the picture's name in the loggers, e.g. ``val/reconstructions``.
        picture: uint8 (H, W, 3).
        folder: of the file.
        step: the run's step.
        name: of the file, before the step. Default: ``key``, with dashes for slashes.
        about: what the picture shows, for programs; kept as JSON in the PNG's text chunk ``bifocal``.

    Returns:
        The file, ``<folder>/<name>-<step>.png``.
    """
    file = Path(folder) / f"{(name or key).replace('/', '-')}-{step:07d}.png"
    if not trainer.is_global_zero:
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("bifocal", json.dumps(dict(about or {})))
    # Written aside and moved: whoever watches the folder never opens half a picture.
    temporary = file.with_suffix(".tmp")
    Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)
    temporary.replace(file)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, global_step=step, dataformats="HWC")
    return file
