"""Rate-adaptive channel scales: how one network serves a ladder of qualities."""

import torch
from torch import Tensor, nn


class RateScale(nn.Module):
    """Multiplies the channels of a map by a vector that a small MLP makes of the rate's level.

    ::

        level ──► Linear ──► ReLU ──► Linear ──► ReLU ──► scales (C)

    At first all scales are 1.

    Args:
        channels: C.
        hidden: width of the MLP.

    Reference: Lu et al., Preprocessing Enhanced Image Compression for Machine Vision, https://arxiv.org/abs/2206.05650.

    Differs from it: the level is the place among the codec's rates, in [0, 1], and not lambda / 8, which goes with the
    rate there; the scales begin at 1.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first, self.last = nn.Linear(1, hidden), nn.Linear(hidden, channels)
        nn.init.zeros_(self.last.weight)
        nn.init.ones_(self.last.bias)

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, C, h, w) to the same shape; ``level`` in [0, 1] from the fewest bits to the most."""
        at = torch.full((1, 1), level, device=x.device, dtype=self.first.weight.dtype)
        scales = self.last(self.first(at).relu()).relu()
        return x * scales[..., None, None].to(x.dtype)
