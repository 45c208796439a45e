"""StyleGAN2's layers: equalised weights, modulated convolutions, and the filter that goes with every change of size.

Legend: B images, C input channels, O output channels, k kernel side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE, GAIN = 0.2, math.sqrt(2)
"""Of the leaky ReLU, and what it is multiplied by, so that it keeps the variance."""

SMALL_MAP = 32
"""Side below which scaling activations is cheaper than making weights for each image."""


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times sqrt(2)."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualLinear(nn.Module):
    """A linear layer whose weights are stored at unit variance, so that all learn at one rate.

    Args:
        inputs: numbers in.
        outputs: numbers out.
        bias: what the bias begins with.
        lr_multiplier: of its rate of learning.

    Reference: Karras et al., Progressive Growing of GANs, ICLR 2018, https://arxiv.org/abs/1710.10196, section 4.1.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        scale = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        return F.linear(x, self.weight * scale, self.bias * self.lr_multiplier)


class EqualConv(nn.Module):
    """A convolution with equalised weights that keeps the map's size, or halves it behind the blur.

    Args:
        inputs: C.
        outputs: O.
        kernel: k, odd.
        down: halve both sides.
        bias: whether it has one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, down: bool = False, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H, W), or half of both sides."""
        kernel = self.weight.shape[-1]
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=kernel // 2)
        # Blurred such that every second result of the convolution is centred between two positions.
        x = blur(x, (kernel // 2 + 1, kernel // 2 + 1))
        return F.conv2d(x, weight, self.bias, stride=2)


def blur(x: Tensor, padding: tuple[int, int], *, gain: float = 1.0) -> Tensor:
    """The separable filter [1, 3, 3, 1] / 8 over maps that are padded with zeros before and behind.

    Reference: Karras et al., A Style-Based Generator Architecture, CVPR 2019, https://arxiv.org/abs/1812.04948,
    section 2; Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019.
    """
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    channels = x.shape[1]
    kernel = (gain * torch.outer(taps, taps)).expand(channels, 1, 4, 4)
    before, behind = padding
    return F.conv2d(F.pad(x, (before, behind, before, behind)), kernel, groups=channels)


def doubled(x: Tensor) -> Tensor:
    """A picture (B, C, H, W) at twice its size: zeros in between, then the filter."""
    batch, channels, height, width = x.shape
    wide = x.new_zeros(batch, channels, height, 2, width, 2)
    wide[:, :, :, 0, :, 0] = x
    return blur(wide.reshape(batch, channels, 2 * height, 2 * width), (2, 1), gain=4.0)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style, input channel by input channel, for each image.

        W' = scale s W,   W'' = W' / sqrt(sum W'^2 + 1e-8) of each output channel (demodulation)

    Args:
        inputs: C.
        outputs: O.
        kernel: k, odd.
        style_dim: numbers in a style.
        demodulate: normalise each output channel.
        up: double both sides.

    Reference: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020,
    https://arxiv.org/abs/1912.04958, equations 1 to 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = EqualLinear(style_dim, inputs, bias=1.0)
        self.demodulate, self.up = demodulate, up

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) and styles (B, style_dim) to (B, O, H, W), or twice both sides."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        scale = self.affine(style)
        way = self._by_activations if x.shape[-1] < SMALL_MAP else self._by_weights
        x = way(x, weight, scale)
        return blur(x, (1, 1), gain=4.0) if self.up else x

    def _by_activations(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """One set of weights for all images, between two scalings of the maps."""
        x = x * scale[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return x
        with torch.autocast(x.device.type, enabled=False):
            energy = scale.float().square() @ weight.float().square().sum((2, 3)).T
        return x * (energy + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]

    def _by_weights(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Weights for each image, all in one grouped convolution."""
        batch, (outputs, inputs, kernel, _) = len(x), weight.shape
        with torch.autocast(x.device.type, enabled=False):
            weights = weight.float() * scale.float()[:, None, :, None, None]
            if self.demodulate:
                weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        grouped = x.reshape(1, batch * inputs, *x.shape[2:])
        if self.up:
            weights = weights.transpose(1, 2).reshape(batch * inputs, outputs, kernel, kernel)
            result = F.conv_transpose2d(grouped, weights.to(x.dtype), stride=2, groups=batch)
        else:
            weights = weights.reshape(batch * outputs, inputs, kernel, kernel)
            result = F.conv2d(grouped, weights.to(x.dtype), padding=kernel // 2, groups=batch)
        return result.reshape(batch, outputs, *result.shape[2:])
