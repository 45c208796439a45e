"""A lower bound that values can be trained away from."""

from typing import Any

import torch
from torch import Tensor, nn


class LowerBound(nn.Module):
    """max(x, bound), whose gradient also passes below the bound where it lifts x towards it.

    Args:
        bound: the least value; a buffer, named as in CompressAI's checkpoints.

    Reference: Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
    https://arxiv.org/abs/1802.01436, as in the authors' TensorFlow Compression.
    """

    bound: Tensor

    def __init__(self, bound: float):
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return _Maximum.apply(x, self.bound)


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, bound = ctx.saved_tensors
        return ((x >= bound) | (gradient < 0)) * gradient, None
