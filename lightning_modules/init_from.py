"""``init_from``: weights of a part of the system, taken over from another run's checkpoint or from another part."""

from pathlib import Path

from torch import Tensor, nn

from lightning_modules.parts import modules_of
from models.entropy.tables import is_table
from models.pretrained import folder
from models.pretrained.checkpoint import safely_loaded
from models.pretrained.fit import misfit
from models.pretrained.run_folder import RunFolder


def read_weights(system: nn.Module, part: str, source: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module that a part names, and the weights that ``"checkpoint[:prefix]"`` has for it.

    Besides checkpoints and run folders, exported model folders will do. Without any, ``":prefix"`` is what another part
    of the system has itself.

    Raises:
        ValueError: no such file or part, or the weights do not fit; the message says which.
    """
    name, _, prefix = source.partition(":")
    path = Path(name) if name else "the system"
    state = _stored(path, part) if name else system.state_dict()
    start = (prefix or part) + "."
    state = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not state:
        raise ValueError(f"init_from: {part}: {path} holds no weights under {start!r}")
    modules = modules_of(system, part)
    if len(modules) != 1:
        raise ValueError(f"init_from: {part}: is {len(modules)} modules, name one of them")
    (module,) = modules
    if trouble := misfit(module, state):
        raise ValueError(f"init_from: {part}: the weights in {path} do not fit: {trouble}")
    return module, state


def _stored(path: Path, part: str) -> dict[str, Tensor]:
    if (run := RunFolder(path)).is_run:
        path = run.result()
    try:
        state = folder.read_weights(path) if folder.is_model_folder(path) else safely_loaded(path)
    except ValueError as error:
        raise ValueError(f"init_from: {part}: {error}") from error
    return state.get("state_dict", state) if isinstance(state, dict) else {}


def load_into(system: nn.Module, part: str, source: str) -> None:
    """Load ``"checkpoint[:prefix]"`` into a part of the system.

    Raises:
        ValueError: no such file or part, or the weights do not fit; the message says which.
    """
    module, state = read_weights(system, part, source)
    # Whatever was derived from the old weights goes: tables and exact copies.
    system.codec.train()
    module.load_state_dict({key: value for key, value in state.items() if not is_table(key)}, strict=False)
