"""A codec and its tasks from their config nodes and their weights: what every way of loading a model ends in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.pretrained.construct import check_targets, construct, targets
from models.pretrained.fit import misfit
from models.weights_file import in_package

BEGINNINGS = ("pretrained", "weights", "checkpoint_path")
"""Arguments that only say where weights begin: a trained model's own replace them."""

TIMM_BEGINNINGS = ("pretrained", "checkpoint_path")
"""Those among the arguments that a node hands on to timm, in a mapping of its own."""

FROZEN = "models.frozen.Frozen"
"""What takes its weights from its own arguments alone: no model holds them."""


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
    codec: Any,
    tasks: Mapping[str, Any],
    labels: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    frozen: bool = False,
) -> tuple[Codec, dict[str, nn.Module]]:
    """Construct a codec and tasks and give them their weights; torch's random generator is left as it was.

    Args:
        codec: its node.
        tasks: {name: node}.
        labels: {name of a task: {"target", "kind", "names", "missing"}}; tasks that learn from no label have none.
        state: {"codec.*" and "tasks.<name>.*": tensor}.
        frozen: make frozen networks too (models/frozen.py), from the files and downloads that their nodes name: for
            what was trained here. Otherwise they are ``None``, and a task's ``left_out`` names them; but for those that
            a codec needs and finds in installed packages.

    Returns:
        Both on the CPU, in evaluation mode, without gradients.

    Raises:
        ValueError: targets that are not allowed, arguments or weights that do not fit.
    """
    left_out: dict[str, tuple[str, ...]] = {}
    if not frozen:
        for name, node in tasks.items():
            left_out[name] = tuple(path for path, target in targets(node) if target == FROZEN)
        codec, tasks = _without_frozen(codec, but=_packaged), _without_frozen(tasks)
    check_targets({"codec": codec, "tasks": dict(tasks)})
    with torch.random.fork_rng(devices=[]):
        made = construct(without_beginnings(codec), path="codec")
        if not isinstance(made, Codec):
            raise ValueError(f"codec: is {type(made).__name__}, not a codec")
        heads = {name: _task(name, node, labels.get(name), made) for name, node in tasks.items()}
    for prefix, module in {"codec": made, **{f"tasks.{name}": task for name, task in heads.items()}}.items():
        module.eval().requires_grad_(False)
        load_weights(module, state, prefix)
    for name, names in left_out.items():
        heads[name].left_out = names
    return made, heads


def _task(name: str, node: Any, label: Any, codec: Codec) -> nn.Module:
    labels = {}
    if label is not None or (isinstance(node, Mapping) and node.get("target") is not None):
        known = label.keys() if isinstance(label, Mapping) else set()
        if not {"target", "kind", "names", "missing"} <= known:
            raise ValueError(
                f"labels.{name} must have `target`, `kind`, `names` and `missing`, not {label!r}"
            )
        labels[label["target"]] = StoredLabel(label["kind"], tuple(label["names"]), label["missing"])
    make = construct(without_beginnings(node), path=f"tasks.{name}")
    if not callable(make) or isinstance(make, nn.Module):
        raise ValueError(f"tasks.{name}: is no task's node: it lacks `_target_` or `_partial_: true`")
    try:
        return make(codec.readable, labels)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tasks.{name}: {error}") from error


def without_beginnings(node: Any) -> Any:
    """A node without the arguments that say where weights begin, but for those of frozen networks.

    They name files and downloads of another machine, and in a stranger's model files that must not be opened here.
    """
    if isinstance(node, (list, tuple)):
        return [without_beginnings(value) for value in node]
    if not isinstance(node, Mapping) or node.get("_target_") == FROZEN:
        return node
    dropped = BEGINNINGS if "_target_" in node else TIMM_BEGINNINGS
    return {key: without_beginnings(value) for key, value in node.items() if key not in dropped}


def is_frozen(node: Any) -> bool:
    """Whether a node is, or holds, a frozen network."""
    return any(target == FROZEN for _, target in targets(node))


def _without_frozen(node: Any, but: Callable[[Any], bool] = lambda node: False) -> Any:
    """A node with ``None`` for frozen networks, but for some."""
    if isinstance(node, (list, tuple)):
        return [_without_frozen(value, but) for value in node]
    if not isinstance(node, Mapping):
        return node
    if node.get("_target_") == FROZEN:
        return node if but(node) else None
    return {key: _without_frozen(value, but) for key, value in node.items()}


def _packaged(node: Any) -> bool:
    """Whether an installed package holds a frozen network's weights: no file and no download is named."""
    network = node.get("network")
    if not isinstance(network, Mapping):
        return False
    named = {key: network[key] for key in BEGINNINGS if network.get(key)}
    return set(named) == {"weights"} and in_package(named["weights"])


def load_weights(module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Load the weights below ``prefix.``, all of them and no others, with coding tables as they are stored.

    Raises:
        ValueError: missing, foreign or wrongly shaped weights.
    """
    start = f"{prefix}."
    given = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if trouble := misfit(module, given):
        raise ValueError(
            f"weights of {prefix} do not fit the config: {trouble}; use the version of the code that made them"
        )
    try:
        module.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights of {prefix} cannot be loaded: {' '.join(str(error).split())}") from error
