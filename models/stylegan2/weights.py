"""Official StyleGAN2 weights: the layouts in which they are published, and their names here.

Two layouts of one network: the widely used PyTorch port's ``{"g_ema": state dict, "latent_avg": mean style}``, and
NVIDIA's state dict of ``G_ema``. Both store convolutions as they are used: nothing is flipped or transposed.
"""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.git_lfs import refuse_pointer

CONVERSION = (
    "it holds code, as NVIDIA's pickles do, and is not opened. Where you trust it, convert it once in a checkout of "
    "the project that wrote it: "
    '`torch.save(pickle.load(open("FILE.pkl", "rb"))["G_ema"].state_dict(), "FILE.pt")`, then give FILE.pt'
)
NAMED = 4
"""Weights that a message names; of more it gives the number."""


def read_stylegan2(path: str | os.PathLike[str], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a ``StyleGAN2`` from a file of official layout, or of our own names.

    Noise maps that the file lacks stay as they are; a mean style that it lacks is computed from its mapping network.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote: tensors and plain containers alone.
        network: whose shapes they must have.

    Raises:
        ValueError: no such file, one that holds code, or weights of another resolution, width or size of styles.
    """
    path = Path(path)
    state = _flat(_opened(path))
    own = network.state_dict()
    layout = next((names for test, names in LAYOUTS if any(test(key) for key in state)), None)
    if layout is None:
        raise ValueError(
            f"{path} holds no StyleGAN2 generator: its keys, such as {sorted(state)[:NAMED]}, are of neither layout "
            "(g_ema of the PyTorch port, or NVIDIA's state dict of G_ema)"
        )
    names = {key: layout(key) for key in own}
    found: dict[str, Tensor] = {}
    missing, wrong = [], []
    for key, tensor in own.items():
        given = state.get(names[key])
        if given is None:
            missing.append(names[key])
        elif _bare(given) != _bare(tensor):
            wrong.append(f"{names[key]} has {_bare(given)}, the model {_bare(tensor)}")
        else:
            found[key] = given.reshape(tensor.shape).to(tensor.dtype)
    spare = {names[key] for key in own if key.endswith((".noise", ".w_mean"))}
    unknown = [key for key in state if key not in names.values() and not CONSTANTS.search(key)]
    lacking = [key for key in missing if key not in spare]
    if wrong or lacking or unknown:
        troubles = [(wrong, "of another shape"), (lacking, "missing in the file"), (unknown, "unknown here")]
        told = "; ".join(f"{_listed(keys)} {trouble}" for keys, trouble in troubles if keys)
        raise ValueError(
            f"{path} holds another generator than this one ({_facts(own)}): {told}. Give it the file's `size`, "
            "`style_dim`, `channel_base` and `mapping_depth`"
        )
    state = {**own, **found}
    if "synthesis.w_mean" not in found:
        network.load_state_dict(state)
        state["synthesis.w_mean"] = network.mapping.mean()
    return state


def port_name(key: str) -> str:
    """The PyTorch port's name of one of our weights; ``latent_avg`` lies beside ``g_ema``."""
    if match := re.fullmatch(r"mapping\.layers\.(\d+)\.(weight|bias)", key):
        return f"style.{int(match[1]) + 1}.{match[2]}"
    if key == "synthesis.const":
        return "input.input"
    if key == "synthesis.w_mean":
        return "latent_avg"
    _, _, number, kind, rest = key.split(".", 4)
    block = int(number) - 1  # of those that double
    if kind == "to_rgb":
        layer = "to_rgb1" if block < 0 else f"to_rgbs.{block}"
        return f"{layer}.{rest.replace('affine', 'modulation')}"
    second = int(kind == "conv1")
    place = 2 * block + second
    if rest == "noise":
        return f"noises.noise_{0 if block < 0 else place + 1}"
    layer = "conv1" if block < 0 else f"convs.{place}"
    inside = {"noise_strength": "noise.weight", "bias": "activate.bias"}
    return f"{layer}.{inside.get(rest, rest.replace('affine', 'modulation'))}"


def nvidia_name(key: str) -> str:
    """NVIDIA's name of one of our weights."""
    if match := re.fullmatch(r"mapping\.layers\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{match[1]}.{match[2]}"
    if key == "synthesis.const":
        return "synthesis.b4.const"
    if key == "synthesis.w_mean":
        return "mapping.w_avg"
    _, _, number, kind, rest = key.split(".", 4)
    rest = "noise_const" if rest == "noise" else rest.removeprefix("conv.")
    return f"synthesis.b{4 * 2 ** int(number)}.{kind.replace('to_rgb', 'torgb')}.{rest}"


LAYOUTS = (
    (lambda key: key.startswith("synthesis.blocks."), lambda key: key),
    (lambda key: key.startswith("synthesis.b4."), nvidia_name),
    (lambda key: key == "input.input", port_name),
)
"""(how a key of the layout is told, our key -> its key)."""

CONSTANTS = re.compile(r"\.(kernel|resample_filter)$")
"""Filters, which are the same in all files and are made here."""


def _opened(path: Path) -> Mapping:
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path}")
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {CONVERSION}") from error
    except (SafetensorError, RuntimeError, EOFError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds {type(content).__name__}, not a mapping of names to tensors")
    return content


def _flat(content: Mapping) -> dict[str, Tensor]:
    """{key: tensor} of the generator; of several networks in one file, of the averaged one."""
    chosen = dict(content["g_ema"]) if isinstance(content.get("g_ema"), Mapping) else dict(content)
    if isinstance(content.get("latent_avg"), Tensor):
        chosen["latent_avg"] = content["latent_avg"]
    return {key.removeprefix("g_ema."): value for key, value in chosen.items() if isinstance(value, Tensor)}


def _bare(tensor: Tensor) -> tuple[int, ...]:
    """A shape without ones, which the layouts put in different places."""
    return tuple(side for side in tensor.shape if side != 1)


def _facts(own: Mapping[str, Tensor]) -> str:
    sides = [len(tensor) for key, tensor in own.items() if key.endswith(".conv1.noise")]
    depth = sum(key.startswith("mapping.") and key.endswith(".weight") for key in own)
    return f"{max(sides)} px, styles of {len(own['synthesis.w_mean'])}, {depth} mapping layers"


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"{', '.join(sorted(keys)[:NAMED])}{more}"
