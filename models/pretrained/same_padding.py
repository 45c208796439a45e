"""Convolutions with TensorFlow's "same" padding as one ONNX operator.

timm computes that padding from the input's size. Where the size is free, every stride of a deep network (the
``tf_efficientnet`` family) nests one more rounding in the exporter's algebra, which then does not come to an end. ONNX
has the rule as an attribute: ``auto_pad=SAME_UPPER``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import conv2d_same
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn


@torch.library.custom_op("bifocal::conv2d_same", mutates_args=())
def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int,
) -> Tensor:
    return conv2d_same(x, weight, bias, tuple(stride), groups=groups)


@_convolve.register_fake
def _shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int,
) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty(batch, weight.shape[0], -(-height // stride[0]), -(-width // stride[1]))


def traceable(module: nn.Module) -> nn.Module:
    """The same module; its convolutions of that kind are one operator each from now on.

    Dilated ones stay as they are: onnxruntime runs none with ``auto_pad``.
    """
    for part in module.modules():
        if type(part) is Conv2dSame and part.dilation == (1, 1):
            part.forward = _forward(part)
    return module


def _forward(part: Conv2dSame) -> Callable[[Tensor], Tensor]:
    return lambda x: _convolve(x, part.weight, part.bias, part.stride, part.groups)


def translations() -> Mapping[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` makes of the operator: its ``custom_translation_table``."""
    from onnxscript import opset18 as op

    def translate(x, weight, bias, stride, groups):
        return op.Conv(
            x,
            weight,
            *(() if bias is None else (bias,)),
            auto_pad="SAME_UPPER",
            strides=stride,
            group=groups,
        )

    return {torch.ops.bifocal.conv2d_same.default: translate}
