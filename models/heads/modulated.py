"""The analysis network: a map in the style of vectors, and any head on what that gives."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import LatentSpec
from models.transforms.adain import AdaINBlock


class Modulated(nn.Module):
    r"""AdaIN blocks on a latent map, told by latent vectors, and a head on the map that comes out.

    ::

        map ──────► 1x1 ──► AdaIN blocks ──► head
        vectors ────────────────┘

    The very same blocks read a map alone (AdaIN then is told by nothing) or vectors alone (the map then is learned, and
    the same for all pictures): what a probe finds in one stream, in the other and in both is compared like with like.

    Args:
        specs: at most one map, and any number of vectors; in any order.
        num_outputs: of the head.
        head: called as ``head([spec], num_outputs)`` with the spec of the map that the blocks give.
        width: channels of the blocks.
        blocks: how many.
        stride: pixels per position where no map is read.

    Raises:
        ValueError: two maps, or latents that are neither map nor vector.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        width: int = 64,
        blocks: int = 4,
        stride: int = 16,
    ):
        super().__init__()
        kinds = [spec.kind for spec in specs]
        if kinds.count("map") > 1 or set(kinds) - {"map", "vector"}:
            raise ValueError(
                f"Modulated reads one map at most and any vectors, not {kinds}: choose another `head`"
            )
        self.vectors = [place for place, kind in enumerate(kinds) if kind == "vector"]
        self.place = kinds.index("map") if "map" in kinds else None
        if self.place is None:
            spec = LatentSpec("map", width, specs[0].layer, stride=stride)
            self.learned = nn.Parameter(torch.randn(1, width, 8, 8))
        else:
            spec = specs[self.place]
            self.enter = nn.Conv2d(spec.channels, width, 1)
        self.stride = spec.stride
        told_by = sum(specs[place].channels for place in self.vectors)
        self.blocks = nn.ModuleList(AdaINBlock(width, max(told_by, 1)) for _ in range(blocks))
        self.head = head([LatentSpec("map", width, spec.layer, stride=spec.stride)], num_outputs)

    def forward(self, *latents: Tensor, size: tuple[int, int]) -> Tensor:
        """What the head gives for latents, as in ``specs``, of an image of ``size`` (H, W)."""
        count = len(latents[0])
        if self.place is None:
            sides = [(side + self.stride - 1) // self.stride for side in size]
            h = F.interpolate(self.learned, sides, mode="bilinear").expand(count, -1, -1, -1)
        else:
            h = self.enter(latents[self.place])
        if self.vectors:
            vector = torch.cat([latents[place] for place in self.vectors], 1)
        else:
            vector = latents[0].new_zeros(count, 1)
        for block in self.blocks:
            h = block(h, vector)
        return self.head(h, size=size)


class Itself(nn.Module):
    """The features of a map that others have worked out already: the map itself.

    Args:
        spec: a map.
    """

    def __init__(self, spec: LatentSpec):
        super().__init__()
        self.channels, self.strides = (spec.channels,), (spec.stride,)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, M, h, w) to a list of it."""
        return [x]
