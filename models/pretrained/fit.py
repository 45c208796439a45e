"""Whether weights are a module's own."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.entropy.tables import is_table

NAMED = 3
"""Weights that a message names; of more it gives the number."""


def misfit(module: nn.Module, given: Mapping[str, Any]) -> str | None:
    """What keeps weights from being loaded, in words: ``"g_a.0.bias and 2 more missing"``; ``None`` where they fit.

    Coding tables do not count: their size changes with what they are made from, and missing ones are made.

    Args:
        module: that is to have them.
        given: {key as in the module's state dict: tensor}.
    """
    own = {key: value for key, value in module.state_dict().items() if not is_table(key)}
    given = {key: value for key, value in given.items() if not is_table(key)}
    shapes = {key: tuple(getattr(given[key], "shape", ())) for key in own.keys() & given.keys()}
    troubles = {
        "missing": own.keys() - given.keys(),
        "unknown here": given.keys() - own.keys(),
        "of another shape": {
            f"{key} {shape} for {tuple(own[key].shape)}"
            for key, shape in shapes.items()
            if shape != tuple(own[key].shape)
        },
    }
    for trouble, keys in troubles.items():
        if keys:
            more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            return f"{', '.join(sorted(keys)[:NAMED])}{more} {trouble}"
    return None
