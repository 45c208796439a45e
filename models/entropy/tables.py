"""The integer CDF tables behind CompressAI's entropy models: when they are built, forgotten and reloaded.

Users never call ``update()``. A table is *empty* while weights may move, and is built at the first real coding:
``clear`` on ``train()``, ``build`` on ``compress`` / ``decompress``. A checkpoint therefore never holds tables that do
not fit its weights, and tables that were stored with final weights come back as stored, at any nesting.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.models.base import get_scale_table
from torch import Tensor, nn

_BUFFERS = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")


def entropy_models(module: nn.Module) -> Iterator[tuple[str, EntropyModel]]:
    """(name, module) of every CompressAI entropy model inside."""
    return ((name, m) for name, m in module.named_modules() if isinstance(m, EntropyModel))


def clear(module: nn.Module) -> None:
    """Forget all tables: the weights they were made from may change."""
    for _, model in entropy_models(module):
        for name in _BUFFERS[:3]:
            setattr(model, name, torch.empty(0, dtype=torch.int32, device=getattr(model, name).device))


@torch.no_grad()
def build(module: nn.Module) -> None:
    """Make every table that is empty, with the tails of the factorised models solved exactly.

    The auxiliary loss reaches the quantiles only slowly, and barely trained models would pay 9-40 % more bits for
    tails that are too short. Bisection on the cumulative needs no training. It leaves the parameters alone (a frozen
    module does not move); the median stays the trained one, for it is the grid that training rounds on.
    """
    for _, model in entropy_models(module):
        if model._quantized_cdf.numel():
            continue
        if isinstance(model, EntropyBottleneck):
            with _solved_tails(model):
                model.update(force=True)
        elif isinstance(model, GaussianConditional):
            if not model.scale_table.numel():
                model.scale_table = get_scale_table().to(model._offset.device)
            model.update()


@contextmanager
def _solved_tails(model: EntropyBottleneck) -> Iterator[None]:
    trained = model.quantiles.detach().clone()
    medians = trained[:, 0, 1]
    try:
        model.quantiles.data[:, 0, 0] = torch.minimum(_solve(model, model.target[0]), medians)
        model.quantiles.data[:, 0, 2] = torch.maximum(_solve(model, model.target[2]), medians)
        yield
    finally:
        model.quantiles.data.copy_(trained)


def _solve(model: EntropyBottleneck, target: Tensor) -> Tensor:
    """Where each channel's monotone cumulative logit reaches ``target``, (C,), by bisection to 0.01 symbols."""
    low = torch.full((model.channels, 1, 1), -1e4, device=target.device)
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
