"""GainFilter: base of filters that have a network look at the picture and then scale the bands of its blocks."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.preprocessing.blocks import scaled


class GainFilter(nn.Module, ABC):
    r"""What matters to a machine lies in objects, not in the energy of pixels: so the filter has a network look first.

    ::

        x ─► network, held still ─► what is known of blocks ─► decision(level) ─► gains ─► · ─► filtered
                                                                             x ────────────┘

    Gains are in [0, 2], one for each block of 8x8 pixels and each of its bands; all are 1 at first, which is no filter
    at all. Train ``decision`` alone: the network stays in evaluation mode and gets no gradients. Models hold its
    weights: who encodes needs them, who decodes does not.

    Args:
        network: takes pictures (B, 3, H, W) in [0, 1].
        decision: what learns.
    """

    def __init__(self, network: nn.Module, decision: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.decision = decision

    def train(self, mode: bool = True) -> "GainFilter":
        """As ever, but for the network, which is in evaluation mode always."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        gains = self.gains(x, level).float()
        with torch.autocast(x.device.type, enabled=False):
            return scaled(x.float(), gains)

    @abstractmethod
    def gains(self, x: Tensor, level: float) -> Tensor:
        """What each block's bands are multiplied by, (B, NUM_BANDS, *grid_of((H, W))), in [0, 2]."""
