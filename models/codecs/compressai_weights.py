"""Weights to and from CompressAI's own checkpoints, where the architecture is CompressAI's."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from models.entropy.tables import is_table
from models.pretrained.checkpoint import safely_loaded
from models.pretrained.fit import misfit

FILE = "compressai.pth.tar"
"""Name of the file in an exported model: CompressAI's tools know it by this ending."""

CONTAINERS = ("network", "state_dict", "model_state_dict")
"""Keys under which CompressAI's own tools look for the weights."""


def state_for_compressai(module: nn.Module, prefixes: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """A module's weights as CompressAI's ``from_state_dict`` and ``load_state_dict`` take them.

    Coding tables are left empty, as in any CompressAI checkpoint that was just trained: ``model.update()`` makes them,
    and its evaluation tool does so by itself.

    Args:
        module: whose structure is CompressAI's.
        prefixes: {beginning of a key here: its beginning there}; other keys are the same.
    """
    state = {}
    for key, value in module.state_dict().items():
        old, new = next(((a, b) for a, b in (prefixes or {}).items() if key.startswith(a)), ("", ""))
        state[new + key.removeprefix(old)] = (
            value.new_empty(0) if is_table(key) else value.detach().cpu().clone()
        )
    return state


def load_compressai(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a CompressAI checkpoint into a CompressAI model: a state dict, or a training checkpoint that holds one.

    Keys of older versions and of ``DataParallel`` are understood; coding tables in the file are left out, they are made
    anew.

    Raises:
        ValueError: no such file, no weights-only checkpoint, or of another architecture or size.
    """
    from compressai.zoo import load_state_dict as renamed  # here, for it loads longer than torch

    try:
        content = safely_loaded(Path(path))
    except ValueError as error:
        raise ValueError(f"weights: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"weights={path} holds no state dict")
    state = renamed(next((content[key] for key in CONTAINERS if key in content), content))
    given = {key: value for key, value in state.items() if not is_table(key)}
    if trouble := misfit(module, given):
        raise ValueError(f"weights={path} do not fit: {trouble}; check `architecture` and `arguments`")
    nn.Module.load_state_dict(module, given, strict=False)
