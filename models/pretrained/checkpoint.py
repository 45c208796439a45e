"""Checkpoints of training runs, read without Lightning: what one holds of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.git_lfs import refuse_pointer


@dataclass
class Checkpoint:
    """What a checkpoint holds of a model.

    Attributes:
        path: of the file.
        config: of its run, plain.
        state: {"codec.*" and "tasks.*": tensor}: the averaged weights where the run had EMA.
        labels: {target: {"kind", "names", "missing"}}, or ``None`` in checkpoints of earlier versions.
        ready: the tasks that were trained by then; all where the checkpoint does not tell.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Tensor]
    labels: dict[str, dict[str, Any]] | None
    ready: list[str]


def safely_loaded(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers alone: no code in the file is run.

    Raises:
        ValueError: no such file, one that git-LFS has not fetched, or it cannot be loaded so.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    refuse_pointer(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # garbage makes the restricted unpickler raise anything: IndexError, KeyError...
        raise ValueError(
            f"{path} is no checkpoint that can be loaded safely ({type(error).__name__}): it is damaged, of another "
            "kind, or holds code"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the model of a checkpoint, weights only: no code in the file is run.

    Raises:
        ValueError: no such file, not a checkpoint, or one of another project; the message says which.
    """
    content = safely_loaded(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} is no checkpoint of a training run: it has no `state_dict`")
    config = content.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("codec"), dict):
        raise ValueError(
            f"{path} is a checkpoint of another project or version: it has no `config` with a `codec`; give one that "
            "train.py wrote"
        )
    tasks = config.get("tasks") or {}
    return Checkpoint(
        path=path,
        config=config,
        state={k: v for k, v in content["state_dict"].items() if k.startswith(("codec.", "tasks."))},
        labels=content.get("labels"),
        ready=[name for name in tasks if name in content.get("ready", tasks)],
    )
