"""Convolutions that torch gets wrong on a CPU (2.15), computed in ways that it gets right: for training.

In bfloat16, the gradient of a kernel's elements that reach beyond the map on all sides is memory that nobody wrote to.
And a 1x1 convolution with strides over few channels in channels_last order crashes in its backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Float32OnSmallMaps:
    """In front of a convolution's class: on maps that its kernel is larger than, it computes in float32."""

    def forward(self, x: Tensor, *more: object) -> Tensor:
        """As the convolution."""
        kernel = zip(self.kernel_size, self.dilation, strict=True)
        reach = max(1 + d * (k - 1) for k, d in kernel)
        if x.device.type != "cpu" or min(x.shape[2:]) >= reach:
            return super().forward(x, *more)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype), *more)


class _EveryNth(nn.Conv2d):
    """A 1x1 convolution of stride n as one of stride 1 on every n-th position: the same products and sums."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H/n), ceil(W/n))."""
        down, right = self.stride
        return F.conv2d(x[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


@contextmanager
def safe_convolutions(network: nn.Module) -> Iterator[None]:
    """Inside the block a network's convolutions have right gradients; their weights are what they were."""
    found = [(layer, type(layer)) for layer in network.modules() if isinstance(layer, CONVOLUTIONS)]
    for layer, kind in found:
        strided = max(layer.kernel_size) == 1 < max(layer.stride) and set(layer.padding) == {0}
        layer.__class__ = _EveryNth if strided and kind is nn.Conv2d else _safe(kind)
    try:
        yield
    finally:
        for layer, kind in found:
            layer.__class__ = kind


@cache
def _safe(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Float32OnSmallMaps, kind), {})
