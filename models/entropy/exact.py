"""Networks in integer-valued arithmetic, for the parameters that encoder and decoder must agree on to the last bit."""

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from models.attached import with_attached
from models.entropy.exact_attention import Product, layer_norm, softmax
from models.entropy.grid import FRACTION_BITS, RANGE_BITS, SUM_BITS, round_inputs

PART_BYTES = 1 << 26
"""Bytes of memory that one part of a convolution may take."""
BROKEN = "a network of the entropy model has NaN or infinite weights: it cannot code"
SPLIT = (nn.Conv2d, nn.ConvTranspose2d)
"""Layers that are computed in parts; subclasses have ways of their own."""


class Exact:
    """Runs modules so that the result is the same on every machine.

    A float32 network gives parameters that differ by 1e-6 with kernel, memory format or batch, and one scale index in a
    million then falls on the other side of a border: the rest of that stream decodes to garbage. Here, weights and
    inputs of every linear layer are rounded to fixed-point numbers, held in float64. All its products and sums are then
    whole multiples of one step and smaller than 2**53 of them: nothing is rounded, whatever the order of summation, and
    the result is *the* result. Activations in between work on single elements (ReLU, LeakyReLU, PixelShuffle), which
    IEEE 754 fixes. Rounding moves parameters by about 1e-5, alike for encoder and decoder: no cost in bits.

    Attention is made of ``Product``, ``nn.Softmax`` and ``nn.LayerNorm`` (models/transforms/attention.py). Products are
    exact sums as well; softmax and layer norm go by one IEEE operation at a time, in an order that is written down. If
    a compiler does not keep to it, a symbol's table or mean changes with a probability below 1e-9
    (models/entropy/exact_attention.py); where its table does, the 16-bit fingerprint of the string reports an error
    rather than give a wrong picture, but for one case in 65535.

    Other layers, and functions that a network calls by itself, are computed in float64 without rounding: equal to
    1e-14, so that a border case practically never happens. Fused attention (``nn.MultiheadAttention``) is of this kind,
    and its sums are long: build attention of the layers above.

    The copies are no submodules: they are not in the state dict, ``.half()`` does not touch them, and no optimiser sees
    them. They are made anew when a parameter was written to; ``forget`` them where that may go unnoticed (``.data``).
    """

    def __init__(self) -> None:
        self._copies: dict[nn.Module, tuple[tuple, nn.Module]] = {}

    def forget(self) -> None:
        """Drop all copies; the next call makes fresh ones."""
        self._copies.clear()

    def copy_of(self, module: nn.Module) -> nn.Module:
        """The float64 copy of a module, whose linear layers round their inputs by themselves.

        Raises:
            ValueError: NaN or infinite weights.
        """
        tensors = [
            tensor
            for part in with_attached(module)
            for tensor in (*part.parameters(False), *part.buffers(False))
        ]
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        known = self._copies.get(module)
        if known is None or known[0] != state:
            with torch.no_grad():
                exact = copy.deepcopy(module)
                for layer in list(with_attached(exact)):
                    layer.double().eval().requires_grad_(False)
                    if not all(parameter.isfinite().all() for parameter in layer.parameters(False)):
                        raise ValueError(BROKEN)
                    make_exact(layer)
            known = self._copies[module] = state, exact
        return known[1]

    def __call__(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """``module(*inputs)``, float64, without gradients."""
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            return self.copy_of(module)(*(t.double() if t.is_floating_point() else t for t in inputs))

    def __deepcopy__(self, memo: dict) -> "Exact":
        return Exact()

    def __reduce__(self) -> tuple:
        return Exact, ()


def make_exact(layer: nn.Module) -> None:
    """Have one layer of a float64 copy compute exactly, in place; what it holds inside is not touched."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        round_weights(layer)
        layer.register_forward_pre_hook(_round_inputs)
    if type(layer) in SPLIT and layer.groups == 1 and layer.padding_mode == "zeros":
        layer.forward = partial(in_parts, layer)
    elif isinstance(layer, Product):
        layer.forward = layer.exactly
    elif isinstance(layer, nn.Softmax) and layer.dim is not None:
        layer.forward = partial(softmax, dim=layer.dim)
    elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        layer.forward = partial(layer_norm, layer)


def round_weights(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    """Round a float64 layer's parameters, in place, as finely as keeps all its sums exact.

    Raises:
        ValueError: NaN or infinite weights.
    """
    output_dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    # In steps of 2**-32 these sums are exact, so every machine finds the same number of bits.
    rows = (layer.weight.abs() * 2.0**32).round().transpose(0, output_dim).flatten(1).sum(1)
    largest = rows.max().item() * 2.0 ** (RANGE_BITS - 32)
    if layer.bias is not None:
        largest += layer.bias.abs().max().item()
    if not math.isfinite(largest):
        raise ValueError(BROKEN)
    weight_bits = min(SUM_BITS - FRACTION_BITS - math.frexp(largest)[1], 40)
    layer.weight.data = (layer.weight * 2.0**weight_bits).round() * 2.0**-weight_bits
    if layer.bias is not None:
        bias_bits = weight_bits + FRACTION_BITS
        layer.bias.data = (layer.bias * 2.0**bias_bits).round() * 2.0**-bias_bits


def in_parts(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """An exact convolution, some channels at a time, where a large picture would take much memory.

    In float64, torch lays out every position's whole neighbourhood: k k C numbers a position, of the input's channels C
    in a convolution, of the output's in a transposed one. Exact sums may be split in any way.
    """
    transposed = isinstance(layer, nn.ConvTranspose2d)
    positions = x.shape[-2] * x.shape[-1] // (1 if transposed else math.prod(layer.stride))
    channels = layer.weight.shape[1]
    at_once = max(1, PART_BYTES // (8 * positions * math.prod(layer.kernel_size)))
    if at_once >= channels:
        return type(layer).forward(layer, x)
    weights = layer.weight.split(at_once, dim=1)
    if transposed:
        parts = [
            nn.functional.conv_transpose2d(
                x, weight, None, layer.stride, layer.padding, layer.output_padding, 1, layer.dilation
            )
            for weight in weights
        ]
        result = torch.cat(parts, dim=1)
    else:
        result = None
        for part, weight in zip(x.split(at_once, dim=1), weights, strict=True):
            sums = nn.functional.conv2d(part, weight, None, layer.stride, layer.padding, layer.dilation)
            result = sums if result is None else result.add_(sums)
    return result if layer.bias is None else result.add_(layer.bias[:, None, None])


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(round_inputs(tensor) for tensor in inputs)
