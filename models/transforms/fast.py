"""Fast transforms at inference: the same weights and state dict, other kernels, the same result up to float rounding.

Legend: B batch, C channels.

A network is sped up in place, layer by layer, and can be slowed down again: its layers change class, its weights do not
change at all. Four things make the difference on a CPU:

- activations in channels_last order, so that convolutions do not reorder them;
- GDN's parameters folded once, and its norm as one matrix product over positions, in pieces that stay in the cache;
- a transposed convolution to a picture's few channels as a convolution and a pixel shuffle: twice as fast, for oneDNN
  computes at least a vector of output channels;
- on demand bfloat16, where the processor multiplies in it.

All of it holds for calls without gradients only. With gradients the layers compute as they always did, for torch 2.15
crashes in the backward pass of a 1x1 convolution of stride 2 on RGB in channels_last order.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.attached import with_attached
from models.transforms.gdn import GDN, pieces, positions_of

FEW_CHANNELS = 8
"""Up to so many outputs, a transposed convolution is computed as a convolution."""

FAST_DTYPES = (torch.float32, torch.bfloat16)


class Derived:
    """Tensors made of a layer's parameters, one set a data type; made anew when a parameter was written to or moved.

    No part of state dicts, copies or pickles.
    """

    def __init__(self) -> None:
        self._known: dict[torch.dtype, tuple[tuple, tuple[Tensor, ...]]] = {}

    def of(self, layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What ``layer.derive()`` makes, in ``dtype``."""
        state = tuple((p, p.data_ptr(), p._version) for p in layer.parameters())
        known = self._known.get(dtype)
        if known is None or any(
            a[0] is not b[0] or a[1:] != b[1:] for a, b in zip(known[0], state, strict=True)
        ):
            with torch.no_grad():
                known = self._known[dtype] = state, tuple(t.to(dtype) for t in layer.derive())
        return known[1]

    def __deepcopy__(self, memo: dict) -> "Derived":
        return Derived()

    def __reduce__(self) -> tuple:
        return Derived, ()


class FastGDN(GDN):
    """GDN with its parameters folded.

    Reference: Ballé et al., ICLR 2016, https://arxiv.org/abs/1511.06281.
    """

    derived: Derived

    def derive(self) -> tuple[Tensor, Tensor]:
        """beta (C,) and gamma's transpose (C, C) as the equation has them."""
        return self.beta_reparam(self.beta), self.gamma_reparam(self.gamma).T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, in channels_last order."""
        if torch.is_grad_enabled() or x.dtype not in FAST_DTYPES:
            return super().forward(x)
        beta, gamma = self.derived.of(self, x.dtype)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        for source, target in pieces(positions_of(x), positions_of(y)):
            norm = torch.addmm(beta, source * source, gamma)
            torch.mul(source, norm.sqrt_() if self.inverse else norm.rsqrt_(), out=target)
        return y


class FastConv2d(nn.Conv2d):
    """A convolution that holds its weights in the type of its input, too."""

    derived: Derived

    def derive(self) -> tuple[Tensor, ...]:
        """Weight, and bias where there is one."""
        return tuple(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """As ``Conv2d``."""
        if torch.is_grad_enabled() or x.dtype not in FAST_DTYPES or x.dtype == self.weight.dtype:
            return super().forward(x)
        weight, bias = (*self.derived.of(self, x.dtype), None)[:2]
        return self._conv_forward(x, weight, bias)


class FastConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that holds its weights in its input's type; one to few channels is a convolution."""

    derived: Derived

    def derive(self) -> tuple[Tensor, ...]:
        """Weight, of the convolution before the shuffle where that is faster, and bias where there is one."""
        return convolution_of(self) if self._shuffles() else tuple(self.parameters())

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As ``ConvTranspose2d``."""
        shuffles = self._shuffles()
        as_it_is = x.dtype not in FAST_DTYPES or (x.dtype == self.weight.dtype and not shuffles)
        if torch.is_grad_enabled() or output_size is not None or as_it_is:
            return super().forward(x, output_size)
        weight, bias = (*self.derived.of(self, x.dtype), None)[:2]
        if shuffles:
            return F.pixel_shuffle(
                F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2)),
                self.stride[0],
            )
        return F.conv_transpose2d(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def _shuffles(self) -> bool:
        sides = zip(
            self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation, strict=True
        )
        return (
            self.out_channels <= FEW_CHANNELS
            and self.groups == 1
            and self.stride[0] == self.stride[1] > 1
            # One position becomes exactly ``stride`` positions.
            and all(k + extra == s + 2 * p and d == 1 for k, s, p, extra, d in sides)
        )


def convolution_of(layer: nn.ConvTranspose2d) -> tuple[Tensor, ...]:
    """The convolution that, before a pixel shuffle, equals a transposed convolution of stride s.

    Output s i + a takes input i + u by the kernel's element a + p - s u (p: padding), in each dimension: for every a of
    0..s - 1 that is a kernel of its own, and the shuffle interleaves their results.

    Args:
        layer: without groups and dilation, each side of its output s times that of its input.

    Returns:
        Weight (out s^2, in, 2 r + 1, 2 r' + 1) for padding (r, r'), and bias (out s^2,) where there is one.
    """
    taps = [_taps(*sides) for sides in zip(layer.kernel_size, layer.stride, layer.padding, strict=True)]
    reaches = [max(abs(u) for _, u, _ in side) for side in taps]
    stride, (inputs, outputs) = layer.stride, layer.weight.shape[:2]
    weight = layer.weight.new_zeros(
        outputs, *stride, inputs, *(2 * reach + 1 for reach in reaches)
    )  # output, a, a', input, u, u'
    for a, u, k in taps[0]:
        for b, v, m in taps[1]:
            weight[:, a, b, :, u + reaches[0], v + reaches[1]] = layer.weight[:, :, k, m].T
    weight = weight.flatten(0, 2)
    return (weight,) if layer.bias is None else (weight, layer.bias.repeat_interleave(stride[0] * stride[1]))


def _taps(kernel: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
    """All (a, u, element of the kernel) along one side."""
    return [
        (a, u, k)
        for a in range(stride)
        for u in range(-kernel, kernel + 1)
        if 0 <= (k := a + padding - stride * u) < kernel
    ]


FAST: dict[type[nn.Module], type[nn.Module]] = {
    GDN: FastGDN,
    nn.Conv2d: FastConv2d,
    nn.ConvTranspose2d: FastConvTranspose2d,
}
SLOW = {fast: slow for slow, fast in FAST.items()}


class Enter:
    """What happens to a network's input.

    Args:
        dtype: to compute in.
    """

    def __init__(self, dtype: torch.dtype | None):
        self.dtype = dtype

    def __call__(self, network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """In channels_last order, and in ``dtype`` if it is float32."""
        (x,) = inputs
        if torch.is_grad_enabled() or x.dim() != 4:
            return None
        dtype = self.dtype if self.dtype is not None and x.dtype == torch.float32 else x.dtype
        return (x.to(dtype, memory_format=torch.channels_last),)


def leave(network: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """What happens to a network's output: all others see float32 in the usual order."""
    if torch.is_grad_enabled():
        return None
    return (output.float() if output.dtype == torch.bfloat16 else output).contiguous()


def speed_up(network: nn.Module, *, bf16: bool = False) -> tuple[RemovableHandle, ...]:
    """Make a network fast for calls without gradients, in place.

    Args:
        network: (B, C, H, W) to one map; any layers. What is neither GDN nor a convolution computes as it did.
        bf16: compute in bfloat16; ``why_not_bf16`` says where that cannot be.

    Returns:
        For ``slow_down``.
    """
    for layer in with_attached(network):
        if fast := FAST.get(type(layer)):
            layer.__class__, layer.derived = fast, Derived()
    return (
        network.register_forward_pre_hook(Enter(torch.bfloat16 if bf16 else None)),
        network.register_forward_hook(leave),
    )


def slow_down(network: nn.Module, handles: tuple[RemovableHandle, ...]) -> None:
    """Undo ``speed_up``."""
    for handle in handles:
        handle.remove()
    for layer in with_attached(network):
        if slow := SLOW.get(type(layer)):
            layer.__class__ = slow
            del layer.derived


def bf16_instructions() -> str | None:
    """The CPU's instructions that multiply in bfloat16, by name; ``None`` where it has none."""
    if torch.cpu._is_amx_tile_supported():
        return "amx_bf16"
    return "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else None


def why_not_bf16(network: nn.Module) -> str | None:
    """What keeps a network from computing in bfloat16: its device, or a layer; ``None`` if nothing does."""
    return _of_device(network) or _of_layers(network)


def _of_device(network: nn.Module) -> str | None:
    device = next((p.device.type for p in network.parameters()), "cpu")
    able = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else bf16_instructions()
    )
    if device in ("cpu", "cuda") and not able:
        return (
            f"this {device.upper()} has no bfloat16 instructions (avx512_bf16 or AMX on a CPU), and without them it "
            "would be slower than float32"
        )
    return None


def _of_layers(network: nn.Module) -> str | None:
    for name, layer in _with_parameters(network):
        if type(layer) not in FAST and type(layer) not in SLOW:
            known = ", ".join(slow.__name__ for slow in FAST)
            return (
                f"layer {name!r} is a {type(layer).__name__}, which computes in float32 only (known: {known})"
            )
    return None


def _with_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, layer) for name, layer in network.named_modules() if any(True for _ in layer.parameters(False))
    )
