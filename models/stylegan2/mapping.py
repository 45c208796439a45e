"""The mapping network: from a normal vector to a style."""

import torch
from torch import Tensor, nn

from models.stylegan2.layers import EqualLinear, activate


class Mapping(nn.Module):
    """z to w: normalised to unit length in the mean, then linear layers with leaky ReLU.

    Args:
        style_dim: numbers in z and in w.
        depth: number of layers.
        lr_multiplier: of their rate of learning.

    Reference: Karras et al., CVPR 2019, https://arxiv.org/abs/1812.04948, section 2 and appendix C.
    """

    def __init__(self, style_dim: int = 512, *, depth: int = 8, lr_multiplier: float = 0.01):
        super().__init__()
        self.style_dim = style_dim
        self.layers = nn.ModuleList(
            EqualLinear(style_dim, style_dim, lr_multiplier=lr_multiplier) for _ in range(depth)
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, style_dim), standard normal, to w (B, style_dim)."""
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = activate(layer(x))
        return x

    @torch.no_grad()
    def mean(self, count: int = 10_000) -> Tensor:
        """Mean style (style_dim,) of so many z, always the same ones."""
        weight = self.layers[0].weight
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(count, self.style_dim, generator=generator)
        return torch.stack([self(part.to(weight)).sum(0) for part in z.split(1000)]).sum(0) / count
