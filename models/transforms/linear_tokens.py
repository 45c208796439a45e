"""Scales and means of tokens as a linear function of the layers before them: what attention is measured against."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearTokenParameters(nn.Module):
    """Means from one linear layer over all tokens before, scales that are learned and depend on nothing.

    The best that can be done where all layers together are Gaussian. Takes the place of ``TokenParameters``.

    Args:
        given: (length, channels) of every layer that it is given, in order.
        length: tokens of this layer.
        channels: of this layer's tokens.
    """

    def __init__(self, given: Sequence[tuple[int, int]], length: int, channels: int):
        super().__init__()
        self.shape = length, channels
        self.mean = nn.Linear(sum(count * inputs for count, inputs in given), length * channels)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        self.scale = nn.Parameter(torch.ones(length, channels))

    def forward(self, *given: Tensor) -> Tensor:
        """Tokens (B, L_i, C_i) of the layers before to (B, L, 2 C): scales, then means."""
        mean = self.mean(torch.cat([x.flatten(1) for x in given], 1)).unflatten(1, self.shape)
        return torch.cat([self.scale.expand(len(mean), -1, -1), mean], 2)
