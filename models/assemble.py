"""A codec and its tasks from their config nodes and their weights: what every way of loading a model ends in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.construct import check_targets, construct
from models.entropy.tables import is_table

BEGINNINGS = ("pretrained", "weights", "checkpoint_path")
"""Arguments that only say where weights begin: a trained model's own replace them."""

TIMM_BEGINNINGS = ("pretrained", "checkpoint_path")
"""Those among the arguments that a node hands on to timm, in a mapping of its own."""


@dataclass(frozen=True)
class StoredLabel:
    """What a task knows of the label it learned, kept with the model (as datamodules/samples.py's Label).

    Args:
        kind: ``"class"``, ``"mask"``, ``"attributes"``, ``"landmarks"`` or ``"boxes"``.
        names: what the indices mean, in order.
        missing: the value that stands for "no label here".
    """

    kind: str
    names: tuple[str, ...]
    missing: float


def assemble(
    codec: Any, tasks: Mapping[str, Any], labels: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[Codec, dict[str, nn.Module]]:
    """Construct a codec and tasks and give them their weights; torch's random generator is left as it was.

    Args:
        codec: its node.
        tasks: {name: node}.
        labels: {name of a task: {"target", "kind", "names", "missing"}}.
        state: {"codec.*" and "tasks.<name>.*": tensor}.

    Returns:
        Both on the CPU, in evaluation mode, without gradients.

    Raises:
        ValueError: targets that are not allowed, arguments or weights that do not fit.
    """
    check_targets({"codec": codec, "tasks": dict(tasks)})
    with torch.random.fork_rng(devices=[]):
        made = construct(without_beginnings(codec), path="codec")
        if not isinstance(made, Codec):
            raise ValueError(f"codec: is {type(made).__name__}, not a codec")
        heads = {name: _task(name, node, labels.get(name), made) for name, node in tasks.items()}
    for prefix, module in {"codec": made, **{f"tasks.{name}": task for name, task in heads.items()}}.items():
        module.eval().requires_grad_(False)
        load_weights(module, state, prefix)
    return made, heads


def _task(name: str, node: Any, label: Any, codec: Codec) -> nn.Module:
    if not isinstance(label, Mapping) or not {"target", "kind", "names", "missing"} <= label.keys():
        raise ValueError(f"labels.{name} must have `target`, `kind`, `names` and `missing`, not {label!r}")
    stored = StoredLabel(label["kind"], tuple(label["names"]), label["missing"])
    make = construct(without_beginnings(node), path=f"tasks.{name}")
    if not callable(make) or isinstance(make, nn.Module):
        raise ValueError(f"tasks.{name}: is no task's node: it lacks `_target_` or `_partial_: true`")
    try:
        return make(codec.readable, {label["target"]: stored})
    except (ValueError, TypeError) as error:
        raise ValueError(f"tasks.{name}: {error}") from error


def without_beginnings(node: Any) -> Any:
    """A node without the arguments that say where weights begin.

    They name files and downloads of another machine, and in a stranger's model files that must not be opened here.
    """
    if isinstance(node, (list, tuple)):
        return [without_beginnings(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    dropped = BEGINNINGS if "_target_" in node else TIMM_BEGINNINGS
    return {key: without_beginnings(value) for key, value in node.items() if key not in dropped}


def load_weights(module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Load the weights below ``prefix.``, all of them and no others, with coding tables as they are stored.

    Raises:
        ValueError: missing, foreign or wrongly shaped weights.
    """
    own, start = module.state_dict(), f"{prefix}."
    given = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    # Tables change their size with what they are made from, and are made when they are missing.
    missing = sorted(key for key in own.keys() - given.keys() if not is_table(key))
    foreign = sorted(given.keys() - own.keys())
    shapes = sorted(
        f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & given.keys()
        if not is_table(key) and own[key].shape != given[key].shape
    )
    for keys, what in ((missing, "missing"), (foreign, "unknown here"), (shapes, "of another shape")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(
                f"weights of {prefix} do not fit the config: {', '.join(keys[:3])}{more} {what}; use the version of "
                "the code that made them"
            )
    try:
        module.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights of {prefix} cannot be loaded: {' '.join(str(error).split())}") from error
