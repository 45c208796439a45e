"""The integer CDF tables behind densities, ours and CompressAI's: when they are built, forgotten and reloaded.

Users never call ``update()``. A table is *empty* while weights may move, and is built at the first real coding:
``clear`` on ``train()``, ``build`` on ``compress`` / ``decompress``. A checkpoint therefore never holds tables that do
not fit its weights, and tables that were stored with final weights come back as stored, at any nesting.
"""

import copy
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from models.entropy.density import Density, FactorizedDensity
from models.entropy.frequencies import PRECISION, frequencies
from models.entropy.scale_table import compressai_table

TAIL = 6.1094
"""Standard deviations within which a Gaussian has all but 1e-9 of its mass."""
_BUFFERS = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")


def entropy_models(module: nn.Module) -> Iterator[tuple[str, Density]]:
    """(name, module) of everything inside that has CDF tables: ours and CompressAI's, which name them alike."""
    return ((name, m) for name, m in module.named_modules() if hasattr(m, "_quantized_cdf"))


def clear(module: nn.Module) -> None:
    """Forget all tables: the weights they were made from may change."""
    for _, model in entropy_models(module):
        for name in _BUFFERS[:3]:
            setattr(model, name, torch.empty(0, dtype=torch.int32, device=getattr(model, name).device))


@torch.no_grad()
def build(module: nn.Module) -> None:
    """Make every table that is empty, in float64, each row as good as 16 bits allow.

    The tails of factorised models are solved exactly: the auxiliary loss reaches the quantiles only slowly, and barely
    trained models would pay 9-40 % more bits for tails that are too short. Bisection on the cumulative needs no
    training. The parameters stay as they are; so does the median, for it is the grid that training rounds on.
    """
    for _, model in entropy_models(module):
        if model._quantized_cdf.numel():
            continue
        if hasattr(model, "quantiles"):
            rows = _learned_rows(model)
        elif hasattr(model, "scale_table"):
            if not model.scale_table.numel():
                model.scale_table = compressai_table().to(model._offset.device)
            rows = [_gaussian_row(scale) for scale in model.scale_table.tolist()]
        else:
            continue
        _store(model, rows)


def _store(model: Density, rows: list[tuple[int, np.ndarray]]) -> None:
    """Into CompressAI's buffers; each row is (value of its first symbol, probabilities with the escape's last)."""
    device = model._offset.device
    cumulative = np.zeros((len(rows), max(len(p) for _, p in rows) + 1), np.int32)
    for row, (_, probabilities) in zip(cumulative, rows, strict=True):
        row[1 : len(probabilities) + 1] = np.cumsum(frequencies(probabilities))
    model._quantized_cdf = torch.from_numpy(cumulative).to(device)
    model._offset = torch.tensor([first for first, _ in rows], dtype=torch.int32, device=device)
    model._cdf_length = torch.tensor([len(p) + 1 for _, p in rows], dtype=torch.int32, device=device)


def _gaussian_row(scale: float) -> tuple[int, np.ndarray]:
    """Integers around 0 under a Gaussian: out to a mass of 1e-9, but not where 16 bits cannot tell it from nothing.

    At the cost of its slot, a symbol far below 1/65536 is cheaper to escape: at sigma 256 that saves 0.3 %.
    """
    reach = math.ceil(scale * TAIL)
    inside = int((_gaussian_mass(np.arange(reach + 1), scale) * 2.0**PRECISION >= 0.25).sum())
    reach = max(min(reach, inside), 1)
    mass = _gaussian_mass(np.arange(reach + 1), scale)
    tails = _erfc((reach + 0.5) / (scale * math.sqrt(2)))
    return -reach, np.concatenate([mass[:0:-1], mass, [tails]])


def _gaussian_mass(value: np.ndarray, scale: float) -> np.ndarray:
    """Return the mass of the interval of length 1 around each value of at least 0."""
    root = scale * math.sqrt(2)
    return (_erfc((value - 0.5) / root) - _erfc((value + 0.5) / root)) / 2


def _erfc(x: np.ndarray | float) -> np.ndarray:
    from scipy.special import erfc  # here, for most models bring their tables along

    return erfc(x)


def _learned_rows(model: FactorizedDensity) -> list[tuple[int, np.ndarray]]:
    """One row a channel, out to where ``model.target`` says that the density ends."""
    exact = copy.deepcopy(model).cpu().double()
    medians = exact.quantiles[:, 0, 1]
    below = (medians - torch.minimum(_solve(exact, exact.target[0]), medians)).ceil().long()
    above = (torch.maximum(_solve(exact, exact.target[2]), medians) - medians).ceil().long()
    values = torch.arange(int((below + above).max()) + 1) + (medians - below)[:, None]
    mass, lower, upper = (part[:, 0] for part in exact._likelihood(values[:, None], stop_gradient=True))
    rows = []
    for channel, (start, length) in enumerate(zip(below.tolist(), (below + above + 1).tolist(), strict=True)):
        tails = lower[channel, 0].sigmoid() + (-upper[channel, length - 1]).sigmoid()
        rows.append((-start, torch.cat([mass[channel, :length].clamp(min=0), tails[None]]).numpy()))
    return rows


def _solve(model: FactorizedDensity, target: Tensor) -> Tensor:
    """Where each channel's monotone cumulative logit reaches ``target``, (C,), by bisection to 0.01 symbols."""
    low = torch.full((model.channels, 1, 1), -1e4, dtype=torch.float64)
    high = -low
    for _ in range(21):
        mid = (low + high) / 2
        below = model._logits_cumulative(mid, stop_gradient=True) < target
        low, high = torch.where(below, mid, low), torch.where(below, high, mid)
    return high[:, 0, 0]


def make_room(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Give every table inside the size it is stored with, so that loading copies it, also when nested.

    CompressAI resizes the buffers only in its own models' ``load_state_dict``, which nested loading bypasses.
    """
    for path, model in entropy_models(module):
        for name in _BUFFERS:
            stored = state_dict.get(f"{prefix}{path}.{name}")
            if stored is not None and getattr(model, name).shape != stored.shape:
                setattr(model, name, getattr(model, name).new_empty(stored.shape))


def is_table(key: str) -> bool:
    """Whether a state-dict key names a table: derived from weights, not a weight."""
    return key.rpartition(".")[2] in _BUFFERS
