"""Stage: what trains now, on what, for how long, from where; and what frozen means."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.optim import Optimizer

from losses.objective import Objective
from losses.schedules import Scalar
from models.checkpoint import is_run, last_finished, safely_loaded
from models.entropy.tables import is_table


@dataclass
class Update:
    """One optimiser step: which weights follow which objective.

    Args:
        trainable: parts that move. A part is a module's path in the system, such as ``codec``, ``codec.g_a``,
            ``tasks``, ``tasks.parsing``, or one of the codec's roles ``codec.encoder``, ``codec.decoder``.
            Everything else is frozen.
        objective: what is minimised.
        optimiser: called with parameter groups, e.g. a partial of ``torch.optim.Adam``.
        lr_scales: {part: multiplier of its learning rate}, 1 where not named.
        lr_schedule: multiplier of all learning rates over the stage.
        clip: largest norm of the gradient, quantiles apart; ``None`` for no clipping.
        aux_lr: learning rate of the factorised priors' quantiles.
    """

    trainable: Sequence[str]
    objective: Objective
    optimiser: Callable[[list[dict[str, Any]]], Optimizer]
    lr_scales: Mapping[str, float] | None = None
    lr_schedule: Scalar = 1.0
    clip: float | None = 1.0
    aux_lr: float = 1e-3

    def __post_init__(self) -> None:
        self.lr_scales = self.lr_scales or {}


@dataclass
class Stage:
    """One fit with one trainable set, one objective an update, one data set.

    Args:
        num_batches: how many batches it draws.
        updates: {name: Update}: one normally, several when networks train against each other.
        settings: {attribute of the codec: value} while the stage runs, e.g. ``{"quantise": "noise"}``.
        num_validations: how often the validation split is read, evenly spaced, the last time at the end; fewer where
            this does not divide ``num_batches``.
        data: the data it draws from; ``None`` for the experiment's.
        init_from: {module path: "checkpoint[:prefix]"}, loaded before the stage begins; a run folder stands for the
            last checkpoint of its last finished stage. The prefix is where the module lies, by default its own path.

    Raises:
        ValueError: a number is out of range or there is no update.
    """

    num_batches: int
    updates: Mapping[str, Update]
    settings: Mapping[str, Any] | None = None
    num_validations: int = 4
    data: LightningDataModule | None = None
    init_from: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.settings, self.init_from = self.settings or {}, self.init_from or {}
        for name in ("num_batches", "num_validations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.updates:
            raise ValueError("the stage has no updates: it would train nothing")

    @property
    def validate_every(self) -> int:
        """Batches between validations: divides ``num_batches``, so that the last one sees the final weights."""
        return self.num_batches // max(
            n for n in range(1, self.num_validations + 1) if self.num_batches % n == 0
        )

    @property
    def trainable(self) -> set[str]:
        """All parts that any update trains."""
        return {part for update in self.updates.values() for part in update.trainable}


def modules_of(system: nn.Module, part: str) -> list[nn.Module]:
    """The modules that a part of ``trainable`` or ``init_from`` names.

    Raises:
        ValueError: there is no such module.
    """
    roles = {"codec.encoder": system.codec.encoder, "codec.decoder": system.codec.decoder}
    known = dict(system.named_modules())
    paths = [f"codec.{path}" for path in roles[part]] if part in roles else [part]
    found = [known[path] for path in paths if path in known]
    if not found:
        children = sorted(
            p for p in known if p and p.count(".") <= 1 and p.partition(".")[0] in ("codec", "tasks")
        )
        raise ValueError(f"part {part!r} is no module; there are {children}, codec.encoder and codec.decoder")
    return found


def parameters_of(system: nn.Module, parts: Collection[str]) -> set[nn.Parameter]:
    """All parameters of some parts.

    Raises:
        ValueError: a part is no module, or has no parameters.
    """
    found: set[nn.Parameter] = set()
    for part in parts:
        own = {p for module in modules_of(system, part) for p in module.parameters()}
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
    for parameter in system.parameters():
        parameter.requires_grad_(parameter in trainable)
    return trainable


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
    """Everything that must not move: parameters without gradient, and buffers of modules that are wholly frozen."""
    for path, module in system.named_modules():
        if path.partition(".")[0] not in ("codec", "tasks"):
            continue
        moving = any(p.requires_grad for p in module.parameters())
        own = [(n, p) for n, p in module.named_parameters(recurse=False) if not p.requires_grad]
        own += [] if moving else list(module.named_buffers(recurse=False))
        yield from ((f"{path}.{name}", tensor) for name, tensor in own if not is_table(name))


def fingerprint(state: Iterator[tuple[str, Tensor]]) -> dict[str, str]:
    """{name: hash of the tensor's bytes}."""
    return {
        name: hashlib.blake2b(
            tensor.detach().cpu().contiguous().numpy().tobytes(), digest_size=16
        ).hexdigest()
        for name, tensor in state
    }


def read_weights(system: nn.Module, part: str, source: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module that a part names, and the weights that ``"checkpoint[:prefix]"`` has for it.

    Raises:
        ValueError: no such file or part, or the weights do not fit; the message says which.
    """
    path, _, prefix = source.partition(":")
    if is_run(Path(path)):
        path = last_finished(Path(path))
    try:
        state = safely_loaded(Path(path))
    except ValueError as error:
        raise ValueError(f"init_from: {part}: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    start = (prefix or part) + "."
    state = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not state:
        raise ValueError(f"init_from: {part}: {path} holds no weights under {start!r}")
    modules = modules_of(system, part)
    if len(modules) != 1:
        raise ValueError(f"init_from: {part}: is {len(modules)} modules, name one of them")
    (module,) = modules
    own = module.state_dict()
    # Coding tables are made anew from the weights, and may be there or not.
    missing = sorted(key for key in own.keys() - state.keys() if not is_table(key))
    foreign = sorted(key for key in state.keys() - own.keys() if not is_table(key))
    shapes = sorted(
        key
        for key in own.keys() & state.keys()
        if not is_table(key) and own[key].shape != getattr(state[key], "shape", None)
    )
    for keys, what in ((missing, "missing there"), (foreign, "unknown here"), (shapes, "of another shape")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(
                f"init_from: {part}: the weights in {path} do not fit: {', '.join(keys[:3])}{more} {what}"
            )
    return module, state


def load_into(system: nn.Module, part: str, source: str) -> None:
    """Load ``"checkpoint[:prefix]"`` into a part of the system.

    Raises:
        ValueError: no such file or part, or the weights do not fit; the message says which.
    """
    module, state = read_weights(system, part, source)
    # Whatever was derived from the old weights goes: tables and exact copies.
    system.codec.train()
    module.load_state_dict({key: value for key, value in state.items() if not is_table(key)}, strict=False)
