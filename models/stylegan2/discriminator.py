"""StyleGAN2's discriminator: real pictures or drawn ones."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.stylegan2.layers import EqualConv, EqualLinear, activate
from models.stylegan2.synthesis import channels_at, side_levels


class Residual(nn.Module):
    """Two convolutions, the second of which halves the map, beside a 1x1 convolution that does; over sqrt(2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0 = EqualConv(inputs, inputs, 3)
        self.conv1 = EqualConv(inputs, outputs, 3, down=True)
        self.skip = EqualConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/2, W/2)."""
        return (activate(self.conv1(activate(self.conv0(x)))) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Scores pictures: above 0 for real.

    Args:
        size: of the pictures, a power of two from 8 to 1024.
        channel_base: see ``StyleGAN2Synthesis``.
        max_channels: likewise.
        group: pictures whose features' deviation it sees, neighbours in the batch: how alike they are gives drawn ones
            away. The largest divisor of the batch that this holds; 1 for scores that depend on no other picture, and
            so not on how many processes share a batch.

    Reference: Karras et al., CVPR 2020, https://arxiv.org/abs/1912.04958, figure 7c; the deviation: Karras et al., ICLR
    2018, https://arxiv.org/abs/1710.10196, section 3.
    """

    def __init__(self, size: int, *, channel_base: int = 32768, max_channels: int = 512, group: int = 4):
        super().__init__()
        if group < 1:
            raise ValueError(f"group={group} must be at least 1 picture")
        sides = [2**level for level in range(side_levels(size), 1, -1)]
        widths = [channels_at(side, channel_base, max_channels) for side in sides]
        self.size, self.group = size, group
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(Residual(a, b) for a, b in pairwise(widths))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.linear, self.score = EqualLinear(16 * widths[-1], widths[-1]), EqualLinear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B,) of pictures (B, 3, size, size) in [0, 1].

        Raises:
            ValueError: pictures of another size.
        """
        if tuple(x.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"pictures of {x.shape[-1]} x {x.shape[-2]} px, and the discriminator was made for {self.size}: give "
                f"the data this size (data.size or data.crop and data.eval_size = {self.size})"
            )
        x = activate(self.from_rgb(2 * x - 1))
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x, self._deviation(x)], 1)
        x = activate(self.linear(activate(self.conv(x)).flatten(1)))
        return self.score(x)[:, 0]

    def _deviation(self, x: Tensor) -> Tensor:
        """Mean deviation of features within each group, as one more map (B, 1, h, w)."""
        group = next(n for n in range(min(self.group, len(x)), 0, -1) if len(x) % n == 0)
        grouped = x.float().unflatten(0, (-1, group))
        deviation = (grouped.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)
