"""Generalised divisive normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.lower_bound import LowerBound

OFFSET = 2**-18
"""Keeps the root's gradient finite where a parameter is zero."""


class GDN(nn.Module):
    """y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times that root in the inverse.

    State and arithmetic are those of CompressAI's layer, so that weights go both ways and train alike.

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
        """(B, C, H, W) to the same shape."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        norm = F.conv2d(x**2, gamma[..., None, None], beta)
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


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
