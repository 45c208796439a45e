"""What an exported model tells of its training and its figures: plain facts, with no class to construct."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.pretrained.run_folder import StageFolder

FIGURES = ("rate", "bpp", "bpp_payload", "bpp_estimated", "psnr", "ms_ssim", "tasks", "seed")
"""What is kept of a result row."""


def training_facts(config: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Data and stages behind a checkpoint.

    Args:
        config: of its run, plain.
        checkpoint: where it lies; inside a run folder, stages after its own are left out.

    Returns:
        ``checkpoint`` (stage and file), ``git_commit`` (of the training code, where the run tells), ``data`` and
        ``stages``, as in the config, with ``class`` for ``_target_`` and without the machine's folders.
    """
    stages = list((config.get("schedule") or {}).items())
    stage = StageFolder.of(checkpoint)
    summary = _json(stage.run.summary) if stage else {}
    return {
        "checkpoint": f"{stage.name}/{checkpoint.stem}" if stage else checkpoint.name,
        "git_commit": summary.get("git_commit"),
        "data": _described(config.get("data")),
        "stages": {name: _described(node) for name, node in stages[: stage.number if stage else None]},
    }


def own_results(config: Mapping[str, Any], checkpoint: Path) -> list[dict[str, Any]]:
    """What the run itself measured of this checkpoint, in real bytes on its test split, and its baselines.

    Returns:
        A row for each rate of the model, then the baselines'; none for a checkpoint that was not tested: only the last
        one of a finished stage is, and not where that stage tested another subject than the codec.
    """
    stage = StageFolder.of(checkpoint)
    record = _json(stage.record) if stage and checkpoint.name == stage.last.name else {}
    if not record.get("test") or record["trains"] != "codec":
        return []
    stages = set(config.get("schedule") or {})
    rows = _json(stage.run.summary).get("test", {}).get("rows", [])
    baselines = [row for row in rows if row["codec"] not in stages]
    models = [{**row, "codec": config.get("name")} for row in record["test"]]
    about = {"dataset": _dataset(config), "split": "test"}
    return [about | kept(row) for row in (*models, *baselines)]


def kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result row that goes with a model."""
    return {"codec": row.get("codec"), **{key: row[key] for key in FIGURES if row.get(key) is not None}}


def _dataset(config: Mapping[str, Any]) -> str | None:
    target = (config.get("data") or {}).get("_target_")
    return target.rpartition(".")[2] if isinstance(target, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _described(node: Any) -> Any:
    if isinstance(node, Mapping):
        named = {"class": node["_target_"]} if "_target_" in node else {}
        # Underscored keys steer construction; paths mean nothing elsewhere and tell more than they should.
        return named | {
            key: _described(value)
            for key, value in node.items()
            if not str(key).startswith("_") and value is not None and not _is_path(key, value)
        }
    if isinstance(node, (list, tuple)):
        return [_described(value) for value in node]
    return node


def _is_path(key: Any, value: Any) -> bool:
    return key in ("root", "init_from") or (isinstance(value, str) and value.startswith(("/", "~")))
