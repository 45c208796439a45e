"""Heads that were trained in other runs on the same codec weights, put into one model."""

from typing import Any

import torch

from models.codecs.base import Codec
from models.counted import counted
from models.entropy.tables import is_table
from models.pretrained import Pretrained


def add_head(model: Pretrained, other: Pretrained, name: str) -> None:
    """Add a task of another model to this one.

    The other model's codec must be this one, weight for weight: only then does the head see what it was trained on.

    Raises:
        ValueError: the codecs differ, there is no such head, or the name is taken.
    """
    if name not in other.tasks:
        raise ValueError(f"{other.source} has no trained task {name!r}; it has {sorted(other.tasks)}")
    if name in model.tasks:
        raise ValueError(
            f"there already is a task {name!r}, from {model.source}: rename it in one of the runs"
        )
    if difference := codecs_differ(model.codec, other.codec):
        raise ValueError(
            f"task {name!r} of {other.source} was trained on another codec than {model.source}: {difference}"
        )
    config = model.config
    config["tasks"] = {**config["tasks"], name: other.config["tasks"][name]}
    if name in other.config["labels"]:
        config["labels"] = {**config["labels"], name: other.config["labels"][name]}
    heads = {**config["training"].get("heads", {}), name: other.config.get("training", {})}
    config["training"] = {**config["training"], "heads": heads}
    config["results"] = [*config.get("results", []), *_results_of(other, name, config["name"])]
    model.tasks[name] = other.tasks[name]


def codecs_differ(one: Codec, other: Codec) -> str:
    """In which part two codecs differ, in words; empty where they are the same, weight for weight."""
    if type(one) is not type(other):
        return f"{type(one).__name__} and {type(other).__name__}"
    ours, theirs = one.state_dict(), other.state_dict()
    differing = [
        key
        for key in sorted(ours.keys() | theirs.keys())
        if not is_table(key) and not (key in ours and key in theirs and torch.equal(ours[key], theirs[key]))
    ]
    if not differing:
        return ""
    roles = {"encoder": one.encoder, "decoder": one.decoder}
    found = [
        role
        for role, paths in roles.items()
        if any(key.startswith(f"{path}.") for key in differing for path in paths)
    ]
    apart = tuple(f"{path}." for paths in roles.values() for path in paths)
    if any(not key.startswith(apart) for key in differing):
        found.append("entropy side")
    return f"{' and '.join(found)} differ in {counted(len(differing), 'weight')} ({differing[0]}...)"


def _results_of(other: Pretrained, name: str, codec: str) -> list[dict[str, Any]]:
    rows = []
    for row in other.config.get("results", [])[:1]:
        own = {key: value for key, value in row.get("tasks", {}).items() if key.startswith(f"{name}/")}
        if own:
            rows.append({**row, "codec": codec, "tasks": own})
    return rows
