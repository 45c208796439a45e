"""Parts of a system: its codec, tasks and networks, described once, and what frozen means for them."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from models.codecs.base import Codec
from models.entropy.tables import is_table

ROOTS = ("codec", "tasks", "networks")
"""Attributes of a system that hold its parts. All are frozen or trained, hashed, checkpointed and resumed alike; an
exported model holds the first two. What is ``models.frozen.Frozen`` inside them has no weights to do that with."""


class Parts(nn.Module):
    """The parts alone, under the names that they have in a system: to check a schedule before there is one.

    Args:
        codec: what codes.
        tasks: {name: task}.
        networks: {name: any other network that trains or is trained against}: critics, generators, filters.
    """

    def __init__(self, codec: Codec, tasks: dict[str, nn.Module], networks: dict[str, nn.Module]):
        super().__init__()
        self.codec, self.tasks, self.networks = codec, nn.ModuleDict(tasks), nn.ModuleDict(networks)


def titled(system: nn.Module) -> dict[str, nn.Module]:
    """{title: part}, for summaries: the codec, and every task and network."""
    return {
        "codec": system.codec,
        **{f"task {name}": task for name, task in system.tasks.items()},
        **{f"network {name}": network for name, network in system.networks.items()},
    }


def modules_of(system: nn.Module, part: str) -> list[nn.Module]:
    """The modules that a part names: a path such as ``codec.g_a``, or ``codec.encoder``, ``codec.decoder``.

    Raises:
        ValueError: there is no such module.
    """
    roles = {"codec.encoder": system.codec.encoder, "codec.decoder": system.codec.decoder}
    known = {
        path: module for path, module in system.named_modules() if path.partition(".")[0] in ROOTS and path
    }
    paths = [f"codec.{path}" for path in roles[part]] if part in roles else [part]
    found = [known[path] for path in paths if path in known]
    if not found:
        children = sorted(path for path in known if path.count(".") <= 1)
        raise ValueError(f"part {part!r} is no module; there are {children}, codec.encoder and codec.decoder")
    return found


def reached(system: nn.Module, parts: Collection[str]) -> set[nn.Parameter]:
    """All parameters of some parts, which may have none."""
    return {p for part in parts for module in modules_of(system, part) for p in module.parameters()}


def parameters_of(system: nn.Module, parts: Collection[str]) -> set[nn.Parameter]:
    """All parameters of some parts.

    Raises:
        ValueError: a part is no module, or has no parameters.
    """
    found: set[nn.Parameter] = set()
    for part in parts:
        own = reached(system, [part])
        if not own:
            raise ValueError(f"part {part!r} has no parameters to train")
        found |= own
    return found


def freeze_all_but(system: nn.Module, parts: Collection[str]) -> set[nn.Parameter]:
    """Let only ``parts`` move: requires_grad off elsewhere.

    Returns:
        The parameters that train.

    Raises:
        ValueError: nothing would train, or a part has no parameters.
    """
    trainable = parameters_of(system, parts)
    if not trainable:
        raise ValueError("the stage trains nothing: name at least one part in `trainable`")
    let_move(system, trainable)
    return trainable


def setting(codec: Codec, path: str) -> Any:
    """The value of a codec's attribute, or of one inside it, that a stage's ``settings`` name.

    Raises:
        ValueError: there is none.
    """
    owner, _, key = path.rpartition(".")
    inside = dict(codec.named_modules()).get(owner)
    if not hasattr(inside, key):
        raise ValueError(f"settings: this codec has no {path!r}")
    return getattr(inside, key)


@contextmanager
def applied(codec: Codec, settings: Mapping[str, Any]) -> Iterator[None]:
    """The codec's attributes, or those of modules inside it, as a stage's ``settings`` say, while the block runs.

    Raises:
        ValueError: there is no such attribute, or the codec refuses its value.
    """
    usual = {path: setting(codec, path) for path in settings}
    try:
        _set(codec, settings)
        yield
    finally:
        _set(codec, usual)


def _set(codec: Codec, settings: Mapping[str, Any]) -> None:
    for path, value in settings.items():
        owner, _, key = path.rpartition(".")
        setattr(codec.get_submodule(owner), key, value)


def let_move(system: nn.Module, parameters: Collection[nn.Parameter]) -> None:
    """requires_grad on for these parameters, off for all others."""
    for parameter in system.parameters():
        parameter.requires_grad_(parameter in parameters)


def set_modes(module: nn.Module, training: bool) -> None:
    """Training mode for every module that holds a trainable parameter, evaluation mode for all others.

    A frozen batch norm in training mode would still move its statistics, a frozen dropout still drop.
    """
    module.train(training)
    if training:
        for child in module.modules():
            if not any(p.requires_grad for p in child.parameters()) and any(True for _ in child.parameters()):
                child.train(False)


def frozen_state(system: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything that must not move: parameters without gradient, and buffers of modules that are wholly frozen.

    A module without parameters (running means alone) is as frozen as the module around it, as in ``set_modes``.
    """
    moving: dict[str, bool] = {}
    for path, module in system.named_modules():
        if path.partition(".")[0] not in ROOTS:
            continue
        flags = [p.requires_grad for p in module.parameters()]
        moving[path] = any(flags) if flags else moving.get(path.rpartition(".")[0], False)
        own = [(n, p) for n, p in module.named_parameters(recurse=False) if not p.requires_grad]
        own += [] if moving[path] else list(module.named_buffers(recurse=False))
        yield from ((f"{path}.{name}", tensor) for name, tensor in own if not is_table(name))


def fingerprint(state: Iterator[tuple[str, Tensor]]) -> dict[str, str]:
    """{name: hash of the tensor's bytes}."""
    return {
        name: hashlib.blake2b(
            tensor.detach().cpu().contiguous().numpy().tobytes(), digest_size=16
        ).hexdigest()
        for name, tensor in state
    }
