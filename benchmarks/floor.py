"""What the hardware could do at best with a transform: a part of the record ``speed``."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from models.transforms.fast import FastConv2d, FastConvTranspose2d, FastGDN


def floor_seconds(network: nn.Module, x: Tensor, *, repeats: int = 7) -> float:
    """A transform's multiply-accumulates at the speed of its fastest convolution, measured alone.

    Args:
        network: accelerated g_a or g_s; GDN's matrix products count.
        x: its input.
        repeats: of each measurement.
    """
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, y: seen.append((layer, inputs[0], y)))
        for layer in network.modules()
        if isinstance(layer, FastConv2d | FastConvTranspose2d | FastGDN)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    total = sum(_macs(*call) for call in seen)
    speeds = [
        _macs(layer, given, y) / _seconds(lambda layer=layer, given=given: layer(given), repeats)
        for layer, given, y in seen
        if not isinstance(layer, FastGDN)
    ]
    return total / max(speeds)


def _macs(layer: nn.Module, x: Tensor, y: Tensor) -> float:
    if isinstance(layer, FastGDN):
        return float(y.numel() * y.shape[1])
    # Every position of the smaller map meets the whole kernel.
    positions = len(x) * min(x[0, 0].numel(), y[0, 0].numel())
    return float(positions * layer.weight.numel())


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
