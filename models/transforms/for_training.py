"""Convolutions for training: fast in channels_last order, and right where torch gets them wrong on a CPU (2.15).

In bfloat16, the gradient of a kernel's elements that reach beyond the map on all sides is memory that nobody wrote to.
And a 1x1 convolution with strides over few channels in channels_last order crashes in its backward pass.

Weights stay in torch's usual order: convolutions are as fast, and fused Adam takes twice as long in another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Training:
    """In front of a convolution's class.

    Attributes:
        channels_last: the order of its input's channels, and so of its output's.
    """

    channels_last: bool

    def forward(self, x: Tensor, *more: object) -> Tensor:
        """As the convolution; on maps that its kernel is larger than, in float32."""
        if self.channels_last and x.dim() == 4:
            x = _in_order(x)
        kernel = zip(self.kernel_size, self.dilation, strict=True)
        reach = max(1 + d * (k - 1) for k, d in kernel)
        if x.device.type != "cpu" or min(x.shape[2:]) >= reach:
            y = super().forward(x, *more)
        else:
            with torch.autocast("cpu", enabled=False):
                y = super().forward(x.to(self.weight.dtype), *more)
        if self.channels_last and y.dim() == 4 and y.requires_grad:
            # A loss has the usual order, in which a picture's few channels are cheap to turn, and what follows is not.
            y.register_hook(_in_order)
        return y


class _EveryNth(nn.Conv2d):
    """A 1x1 convolution of stride n as one of stride 1 on every n-th position: the same products and sums."""

    channels_last: bool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H/n), ceil(W/n))."""
        down, right = self.stride
        x = x[..., ::down, ::right]
        x = _in_order(x) if self.channels_last else x
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


def _in_order(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@contextmanager
def convolutions_for_training(network: nn.Module, *, channels_last: bool = True) -> Iterator[None]:
    """Inside the block a network's convolutions are fast and have right gradients; afterwards they are as they were.

    Args:
        network: whose layers change class.
        channels_last: the order of activations; ``False``: what they have.
    """
    found = [(layer, type(layer)) for layer in network.modules() if isinstance(layer, CONVOLUTIONS)]
    for layer, kind in found:
        strided = max(layer.kernel_size) == 1 < max(layer.stride) and set(layer.padding) == {0}
        layer.__class__ = _for_training(_EveryNth if strided and kind is nn.Conv2d else kind, channels_last)
    try:
        yield
    finally:
        for layer, kind in found:
            layer.__class__ = kind


@cache
def _for_training(kind: type[nn.Module], channels_last: bool) -> type[nn.Module]:
    bases = (kind,) if kind is _EveryNth else (_Training, kind)
    return type(kind.__name__, bases, {"channels_last": channels_last})
