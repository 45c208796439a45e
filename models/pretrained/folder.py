"""The model folder: ``model.safetensors``, ``config.yaml`` and ``README.md``, read safely and written whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.git_lfs import refuse_pointer

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"
FORMAT, FORMAT_VERSION = "bifocal-model", 1
MAX_CONFIG_BYTES = 1 << 20


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds, or held, an exported model."""
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a model folder.

    Raises:
        ValueError: it is missing, not fetched by git-LFS, no yaml, not of a model, or of a version that this code does
            not know.
    """
    path = folder / CONFIG
    refuse_pointer(path)
    try:
        text = path.read_text() if path.stat().st_size <= MAX_CONFIG_BYTES else None
        config = None if text is None else yaml.load(text, _PlainLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no plain yaml: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} describes no exported model: it lacks `format: {FORMAT}`")
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {config.get('format_version')}, this code reads {FORMAT_VERSION}: use the "
            f"version of the code that made it (git commit {(config.get('training') or {}).get('git_commit')})"
        )
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder.

    Raises:
        ValueError: missing, not fetched by git-LFS, or damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}")
    refuse_pointer(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def write(
    folder: Path,
    *,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: str,
    others: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write a model's files into an existing folder.

    Args:
        folder: where to.
        config: plain.
        weights: of the codec and its tasks.
        card: the README.
        others: {file name: state dict} for other libraries.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    try:
        save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})
        # safetensors makes its files private; a model is as readable as other files.
        (folder / WEIGHTS).chmod(0o666 & ~_umask())
        for name, state in others.items():
            torch.save(dict(state), folder / name)
        describe(folder, config=config, card=card)
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # torch.save tells of a full disk by RuntimeError
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder.parent} cannot be written: {reason}") from error


def describe(folder: Path, *, config: Mapping[str, Any], card: str) -> None:
    """Write config and card alone."""
    (folder / CONFIG).write_text(to_yaml(config))
    (folder / CARD).write_text(card)


def to_yaml(content: Any) -> str:
    """Plain containers as yaml, in their own order, without anchors."""
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=110)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends well, and vanishes when it fails.

    Raises:
        ValueError: ``folder`` exists and is no earlier export, or cannot be written.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name of its own
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} is a file or a link: give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            read_config(folder)
        except ValueError as error:
            raise ValueError(
                f"{folder} holds something that is no earlier export: give an empty or a new one"
            ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        # mkdtemp makes it private too.
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        try:
            _replace(folder, temporary)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    if not folder.exists():
        new.replace(folder)
        return
    # A folder that is not empty cannot be replaced in one step: the old one steps aside, and back if that fails.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.replace(aside / "old")
    try:
        new.replace(folder)
    except OSError:
        (aside / "old").replace(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: a few of them, nested, stand for more values than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
