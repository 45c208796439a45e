"""Trained models, loaded with ``models/`` and ``tasks/`` alone: no Lightning, no Hydra, no training config.

from models.pretrained import load

model = load("runs/quickstart/STAMP")   # or a checkpoint, or an exported model folder
files = [model.codec.serialise(b) for b in model.codec.compress(images)]
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.pretrained import folder as model_folder
from models.pretrained.assemble import assemble, is_frozen
from models.pretrained.card import model_card
from models.pretrained.checkpoint import Checkpoint, read_checkpoint
from models.pretrained.run_folder import RunFolder
from models.pretrained.training_facts import own_results, training_facts

OWN_KEYS = ("format", "format_version", "model_id", "license", "weights", "onnx")
"""What the config of a model folder says of the folder itself."""


@dataclass
class Pretrained:
    """A trained codec and its tasks, on the CPU, in evaluation mode.

    Attributes:
        codec: as it was trained, with its coding tables where they were stored.
        tasks: {name: Task}: those that had been trained.
        config: plain: ``name``, ``codec`` and ``tasks`` (nodes), ``labels`` ({task: {"target", "kind",
            "names", "missing"}} of tasks that learn from one), ``lmbda``, ``seed``, ``training`` and
            ``results`` (facts), and in an exported model ``model_id``, ``weights`` and ``exported``.
        source: what it was loaded from: a checkpoint, or the folder of an exported model.
    """

    codec: Codec
    tasks: dict[str, nn.Module]
    config: dict[str, Any]
    source: Path


def load(path: str | Path, *, tasks: Collection[str] | None = None, frozen: bool = True) -> Pretrained:
    """Load a trained model.

    Args:
        path: a run folder (the last checkpoint of its last finished stage), a checkpoint, or an exported model folder;
            with ``@NAME`` behind it, its codec switched to that variant (a set of adapters), or by ``@none`` to none.
        tasks: names of the tasks to load; default: all that had been trained. ``()`` for the codec alone.
        frozen: of a run or a checkpoint, make its frozen networks too (models/frozen.py): a distilled task is judged by
            its teacher, but predicts without. Those of an exported model are never made. A task whose head itself is
            such a network is loaded with them alone.

    Raises:
        ValueError: there is nothing there, or it is not a trained model of this project and version; in one line.
    """
    path, variant = split_variant(path)
    if variant is not None:
        return _switched(load(path, tasks=tasks, frozen=frozen), variant)
    if path.is_file():
        return _from_checkpoint(read_checkpoint(path), tasks, frozen)
    if not path.exists():
        raise ValueError(f"there is no {path}: give a run folder, a checkpoint or an exported model folder")
    if (run := RunFolder(path)).is_run:
        return _from_checkpoint(read_checkpoint(run.result()), tasks, frozen)
    if (path / model_folder.CONFIG).is_file() or (path / model_folder.WEIGHTS).is_file():
        return _from_folder(path, tasks)
    found = sorted(entry.name for entry in path.iterdir())
    raise ValueError(
        f"{path} is neither a run folder (config.yaml, stages/) nor an exported model (config.yaml, "
        f"{model_folder.WEIGHTS}); it holds {', '.join(found[:5]) or 'nothing'}"
    )


def split_variant(path: str | Path) -> tuple[Path, str | None]:
    """``PATH@NAME`` in two; what is there under its whole name has no variant."""
    before, at, name = str(path).rpartition("@")
    if at and not Path(path).exists() and Path(before).exists():
        return Path(before), name
    return Path(path), None


def _switched(model: Pretrained, variant: str) -> Pretrained:
    known = [*model.codec.variants, "none"]
    if not model.codec.variants or variant not in known:
        has = f"the adapters {known}" if known[1:] else "no adapters (codec=adapted has)"
        raise ValueError(f"{model.source}@{variant}: its codec has {has}")
    model.codec.active = None if variant == "none" else variant
    model.config = {
        **model.config,
        "name": f"{model.config['name']}@{variant}",
        "codec": {**model.config["codec"], "active": model.codec.active},
    }
    return model


def from_pretrained(
    folder_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    tasks: Collection[str] | None = None,
) -> Pretrained:
    """Load an exported model from a folder or from the Hugging Face hub.

    A folder that exists is read without any network. Anything else must be a hub id, ``owner/name``.

    Args:
        folder_or_hub_id: where the model is.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept; default: the hub client's own cache.
        local_files_only: take the hub's files from that cache alone.
        tasks: see ``load``.

    Raises:
        ValueError: neither a model folder nor a hub id, or the hub has it not or does not answer; in one line.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for models on the hub, and {folder} is a folder here")
        return _from_folder(folder, tasks)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(folder_or_hub_id)):
        raise ValueError(f"{folder_or_hub_id} is neither a folder nor a hub id (owner/name)")
    downloaded = _download(
        str(folder_or_hub_id), revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
    )
    return _from_folder(downloaded, tasks)


def save_pretrained(
    model: Pretrained,
    folder: str | Path,
    *,
    dtype: Literal["fp32", "fp16"] = "fp32",
    license: str = "unknown",
) -> Path:
    """Write a model folder that ``from_pretrained`` reads, here or after an upload to the hub.

    Args:
        model: what ``load`` or ``from_pretrained`` gave.
        folder: new, empty, or an earlier export, which is replaced. Written whole or not at all.
        dtype: ``"fp16"`` halves what the bits do not depend on (encoder, decoder, heads); the entropy side stays in
            fp32, so that files of both versions are exchangeable.
        license: identifier for the model card, as the hub knows it.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else or cannot be written, or weights are too large for fp16.
    """
    with model_folder.written_whole(Path(folder)) as temporary:
        write_model(model, temporary, dtype=dtype, license=license)
    return Path(folder)


def write_model(
    model: Pretrained,
    folder: Path,
    *,
    dtype: Literal["fp32", "fp16"] = "fp32",
    license: str = "unknown",
    foreign: bool = True,
) -> None:
    """Write a model's files into an existing folder.

    Args:
        model: see ``save_pretrained``.
        folder: where to.
        dtype: see ``save_pretrained``.
        license: see ``save_pretrained``.
        foreign: also write the weights as other libraries know them (``Codec.foreign_weights``), in fp32.

    Raises:
        ValueError: weights are too large for fp16.
    """
    if dtype not in ("fp32", "fp16"):
        raise ValueError(f"dtype={dtype!r} must be 'fp32' or 'fp16'")
    # Makes the coding tables, so that no other machine has to arrive at the same ones.
    model_id = model.codec.model_id().hex()
    weights = _halved(model) if dtype == "fp16" else _state(model)
    others = model.codec.foreign_weights() if foreign else {}
    modules = (model.codec, *model.tasks.values())
    config = {
        "format": model_folder.FORMAT,
        "format_version": model_folder.FORMAT_VERSION,
        **{key: value for key, value in model.config.items() if key not in OWN_KEYS},
        "model_id": model_id,
        "license": license,
        "weights": {
            "dtype": dtype,
            "parameters": sum(p.numel() for m in modules for p in m.parameters()),
            "foreign": list(others),
        },
    }
    card = model_card(config, model.codec, model.tasks)
    model_folder.write(folder, config=config, weights=weights, card=card, others=others)


def _state(model: Pretrained) -> dict[str, Tensor]:
    parts = {"codec": model.codec, **{f"tasks.{name}": task for name, task in model.tasks.items()}}
    return {f"{part}.{key}": value for part, m in parts.items() for key, value in m.state_dict().items()}


def _halved(model: Pretrained) -> dict[str, Tensor]:
    kept = {f"codec.{key}" for key in model.codec.entropy_side()}
    # Buffers stay too: running variances can be too small or too large for fp16, and are few.
    movable = {f"codec.{key}" for key, _ in model.codec.named_parameters()} | {
        f"tasks.{name}.{key}" for name, task in model.tasks.items() for key, _ in task.named_parameters()
    }
    state = _state(model)
    halves = {key: state[key].half() for key in movable - kept}
    if spoilt := [key for key in sorted(halves) if not torch.isfinite(halves[key]).all()]:
        raise ValueError(f"dtype=fp16 cannot hold the weights of {spoilt[0]}: export in fp32")
    return {key: halves.get(key, value) for key, value in state.items()}


def _download(
    hub_id: str, *, revision: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            hub_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=[model_folder.WEIGHTS, model_folder.CONFIG, model_folder.CARD],
        )
    except (OSError, HFValidationError) as error:  # connections that fail are OSErrors too
        at = f" at revision {revision}" if revision else ""
        raise ValueError(
            f"{hub_id}{at} is no folder here, and the hub gives no such model ({type(error).__name__}): check the name "
            "and the network, or copy the model folder and give its path"
        ) from error
    return Path(folder)


def _from_checkpoint(checkpoint: Checkpoint, tasks: Collection[str] | None, frozen: bool) -> Pretrained:
    config, nodes = checkpoint.config, checkpoint.config.get("tasks") or {}
    ready = [name for name in checkpoint.ready if frozen or not is_frozen(nodes[name].get("head"))]
    names = _chosen(tasks, ready, checkpoint.path)
    if names and checkpoint.labels is None:
        raise ValueError(
            f"{checkpoint.path} was written by an earlier version and lacks its tasks' `labels`: train it again with "
            "this one, or load its codec alone (tasks=[])"
        )
    plain = {
        "name": config.get("name"),
        "codec": config["codec"],
        "tasks": {name: nodes[name] for name in names},
        "labels": {
            name: {"target": target, **checkpoint.labels[target]}
            for name in names
            if (target := nodes[name].get("target")) in checkpoint.labels
        },
        "lmbda": config.get("lmbda"),
        "seed": config.get("seed"),
        "training": training_facts(config, checkpoint.path),
        "results": own_results(config, checkpoint.path),
    }
    return _assembled(plain, checkpoint.state, checkpoint.path, frozen=frozen)


def _from_folder(folder: Path, tasks: Collection[str] | None) -> Pretrained:
    config = model_folder.read_config(folder)
    nodes = config.get("tasks") or {}
    names = _chosen(tasks, nodes, folder)
    chosen = {**config, "tasks": {name: nodes[name] for name in names}}
    model = _assembled(chosen, model_folder.read_weights(folder), folder)
    if (stored := config.get("model_id")) != (actual := model.codec.model_id().hex()):
        raise ValueError(
            f"{folder}: its weights have model_id {actual}, its config says {stored}: the files do not belong "
            "together, or this code is of another version"
        )
    return model


def _chosen(tasks: Collection[str] | None, there: Collection[str], source: Path) -> list[str]:
    if tasks is None:
        return list(there)
    if unknown := sorted(set(tasks) - set(there)):
        raise ValueError(f"{source} has no trained tasks {unknown}; it has {sorted(there)}")
    return list(tasks)


def _assembled(
    config: dict[str, Any], state: Mapping[str, Tensor], source: Path, *, frozen: bool = False
) -> Pretrained:
    labels = config.get("labels") or {}
    try:
        parts = assemble(config.get("codec"), config["tasks"], labels, state, frozen=frozen)
    # The last two are of frozen networks, whose files or downloads are missing.
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error
    return Pretrained(*parts, config, source)
