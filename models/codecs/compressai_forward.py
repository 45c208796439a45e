"""What CompressAI's models do in their own ``forward`` while they estimate: our noise, our rounding, a gain of ours."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from torch import Tensor, nn

from models.entropy import tables
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste

ONE_AT_A_TIME = threading.Lock()
"""Estimates change their model while they run, and threads share it (evaluation codes several images at once)."""


@contextmanager
def hooked(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def at_gain(model: nn.Module, gain: Tensor | None) -> Iterator[None]:
    """Have a model of variable rate use this gain while the block runs, in training as well."""
    if gain is not None:
        model._get_scale = lambda *_: gain
    try:
        yield
    finally:
        if gain is not None:
            del model._get_scale


@contextmanager
def keyed(model: nn.Module, keys: Tensor | None) -> Iterator[None]:
    """Give every entropy model inside our quantisation while the block runs."""
    with ExitStack() as stack:
        for salt, (_, entropy_model) in enumerate(tables.entropy_models(model), start=1):
            entropy_model.inside = False  # its own forward, which asks for the noise of its estimate
            entropy_model.forward = _forward_of(entropy_model, keys is not None)
            entropy_model.quantize = _quantise_of(entropy_model, keys, salt)
            stack.callback(_restore, entropy_model)
        yield


def _restore(model: EntropyModel) -> None:
    del model.forward, model.quantize, model.inside


def _forward_of(model: EntropyModel, training: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    original = type(model).forward

    def forward(y: Tensor, *parameters: Tensor | None, **named: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            y, parameters = y.float(), tuple(p if p is None else p.float() for p in parameters)
            named = {key: value.float() for key, value in named.items() if value is not None}
            model.inside = True
            y_hat, likelihood = original(model, y, *parameters, **named, training=training)
            model.inside = False
            if training:
                mean = (
                    _median(model, y)
                    if isinstance(model, EntropyBottleneck)
                    else named.get("means", _mean(parameters))
                )
                y_hat = round_ste(y - mean) + mean
            return y_hat, likelihood

    return forward


def _quantise_of(model: EntropyModel, keys: Tensor | None, salt: int) -> Callable[..., Tensor]:
    original = type(model).quantize
    calls = itertools.count()

    def quantise(y: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        if mode != "noise":
            return original(model, y, mode, means)
        if not model.inside:
            # What a serial context sees, and g_s.
            return round_ste(y)
        if not isinstance(model, EntropyBottleneck):
            # A model that estimates y in pieces has noise of its own for each.
            return y + uniform_noise(keys, y.shape, salt=salt + (next(calls) << 16))
        # An EntropyBottleneck quantises (C, 1, B*h*w).
        channels, batch = len(y), len(keys)
        noise = uniform_noise(keys, (batch, channels, y.numel() // (channels * batch)), salt=salt)
        return y + noise.transpose(0, 1).reshape(y.shape)

    return quantise


def _median(model: EntropyBottleneck, y: Tensor) -> Tensor:
    return model.quantiles[:, 0, 1].detach().reshape(1, -1, *[1] * (y.dim() - 2))


def _mean(parameters: tuple[Tensor | None, ...]) -> Tensor | float:
    return parameters[1] if len(parameters) > 1 and parameters[1] is not None else 0.0
