"""What MODEL on the command line stands for."""

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import yaml

from models.pretrained import Pretrained, from_pretrained, load, split_variant
from models.pretrained.construct import construct, target_of

CONFIGS = Path(__file__).parents[1] / "configs" / "codec"


def open_model(name: str, *, tasks: Collection[str] | None = (), frozen: bool = False) -> Pretrained:
    """A model in evaluation mode, on the CPU.

    Args:
        name: of a standard codec in configs/codec; or an exported folder, a run folder or a checkpoint, each with
            ``@NAME`` for a set of its codec's adapters; or a hub id.
            The name of a standard codec goes first: a folder of that name is ``./jpeg``.
        tasks: to load with it; ``None`` for all that it has.
        frozen: of a run or a checkpoint, its frozen networks too (models/frozen.py), from the files that it names.

    Raises:
        ValueError: none of these, a config without weights, or what is there is no trained model.
        ImportError: the library behind a standard codec is not installed.
    """
    if (config := CONFIGS / f"{name}.yaml").is_file() and re.fullmatch(r"\w+", name):
        node = yaml.safe_load(config.read_text())
        # What is composed of other yamls is for training.
        codec = None if "defaults" in node else construct(node).eval()
        if codec is None or (codec.learned and not codec.trained):
            raise ValueError(
                f"{name} is a codec to train and has no weights: give a trained model, or one of {_names()}"
            )
        codec.check_available()
        return Pretrained(codec, {}, {"name": name}, config)
    if split_variant(Path(name).expanduser())[0].exists():
        return load(Path(name).expanduser(), tasks=tasks, frozen=frozen)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return from_pretrained(name, tasks=tasks)
    raise ValueError(
        f"MODEL {name!r} is no exported model, run folder or checkpoint here, no hub id (owner/name), and no standard "
        f"codec ({_names()})"
    )


def _names() -> str:
    """Of the codecs that need no training, as their classes say, so that none of their libraries is needed."""
    names = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        # A config without a class of its own, or with one that cannot be imported, is no name to offer.
        with suppress(KeyError, ValueError):
            if not getattr(target_of(yaml.safe_load(path.read_text())), "learned", True):
                names.append(path.stem)
    return ", ".join(names)
