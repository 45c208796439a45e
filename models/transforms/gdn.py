"""Generalised divisive normalisation."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.lower_bound import LowerBound

OFFSET = 2**-18
"""Keeps the root's gradient finite where a parameter is zero."""

PIECE = 1 << 19
"""Elements that are computed at a time on a CPU: 2 MiB in float32, about what a core has of cache."""


class GDN(nn.Module):
    """y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times that root in the inverse.

    State and arithmetic are those of CompressAI's layer, so that weights go both ways and train alike. In training on
    maps in channels_last order the norm is one matrix product over positions, and its gradient is written by hand:
    three products and what lies between them, computed while it is in the cache.

    Args:
        channels: of x.
        inverse: multiply, as synthesis transforms do.

    Reference: Ballé et al., Density Modeling of Images Using a Generalized Normalization Transformation, ICLR 2016,
    https://arxiv.org/abs/1511.06281.
    """

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta_reparam, self.gamma_reparam = NonNegative(1e-6), NonNegative()
        self.beta = nn.Parameter(self.beta_reparam.root(torch.ones(channels)))
        self.gamma = nn.Parameter(self.gamma_reparam.root(0.1 * torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and order in memory."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        in_order = x.is_contiguous(memory_format=torch.channels_last)
        if in_order and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.get_autocast_dtype(x.device.type))
            return _Normalise.apply(x, beta, gamma, self.inverse)
        norm = F.conv2d(x**2, gamma[..., None, None], beta)
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


class _Normalise(torch.autograd.Function):
    """GDN of x (B, C, H, W) with beta (C,) and gamma (C, C); with x in bfloat16, sums over positions are float32.

    With r_i the root's inverse and g the gradient of y, t_i = -g_i x_i r_i^3 / 2 is the norm's (in the inverse
    g_i x_i r_i / 2), and x's is g_i r_i (g_i / r_i) + 2 x_i sum_j t_j gamma_ji.
    """

    @staticmethod
    def forward(ctx, x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
        beta, gamma = beta.to(x.dtype), gamma.to(x.dtype)
        positions, turned = positions_of(x), gamma.T.contiguous()
        y, root = torch.empty_like(x, memory_format=torch.channels_last), torch.empty_like(positions)
        with torch.autocast(x.device.type, enabled=False):
            for x_, y_, r_ in pieces(positions, positions_of(y), root):
                torch.addmm(beta, x_ * x_, turned, out=r_)
                if inverse:
                    torch.mul(x_, r_.sqrt_(), out=y_)
                else:
                    torch.mul(x_, r_.rsqrt_(), out=y_)
        ctx.save_for_backward(positions, root, gamma)
        ctx.inverse = inverse
        return y  # no view of anything: what follows may write into it

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        positions, root, gamma = ctx.saved_tensors
        g = positions_of(gradient)
        for_x = torch.empty_like(gradient, memory_format=torch.channels_last)
        sums = torch.promote_types(gamma.dtype, torch.float32)
        for_beta = gamma.new_zeros(len(gamma), dtype=sums)
        for_gamma = gamma.new_zeros(gamma.shape, dtype=sums)
        with torch.autocast(gradient.device.type, enabled=False):
            for x_, r_, g_, out in pieces(positions, root, g, positions_of(for_x)):
                torch.mul(g_, r_, out=out)
                of_root = (g_ * x_).div_(r_) if ctx.inverse else (out * x_).mul_(r_).mul_(r_)
                t = of_root.mul_(0.5 if ctx.inverse else -0.5)
                out.addcmul_(x_, t @ gamma, value=2)
                for_beta += t.sum(0, dtype=sums)
                for_gamma += t.T @ (x_ * x_)
        return for_x, for_beta, for_gamma, None


def positions_of(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B H W, C), a view where it is in channels_last order."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def pieces(*all_positions: Tensor) -> Iterator[Sequence[Tensor]]:
    """The same rows of each, few at a time on a CPU."""
    first = all_positions[0]
    rows = max(1, PIECE // first.shape[1]) if first.device.type == "cpu" else max(1, len(first))
    return zip(*(positions.split(rows) for positions in all_positions), strict=True)


class NonNegative(nn.Module):
    """A parameter that cannot become negative: what is trained is its root.

    Args:
        minimum: of the parameter.
    """

    pedestal: Tensor

    def __init__(self, minimum: float = 0):
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([OFFSET**2]))
        self.lower_bound = LowerBound((minimum + OFFSET**2) ** 0.5)

    def root(self, parameter: Tensor) -> Tensor:
        """What stands for a parameter."""
        return torch.sqrt(torch.max(parameter + self.pedestal, self.pedestal))

    def forward(self, root: Tensor) -> Tensor:
        """The parameter."""
        return self.lower_bound(root) ** 2 - self.pedestal
