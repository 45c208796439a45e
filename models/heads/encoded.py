"""A layered codec's encoders as the beginning of a head on pixels: what its analysis reaches with nothing quantised."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models.heads.features import is_pixels
from models.outputs import LatentSpec
from models.padding import pad_to_stride


class Encoded(nn.Module):
    """Pixels to a content map and a style vector, neither rounded nor paid for, and a head on both.

    With the identity codec it is the bound of models/codecs/layered_generative.py for a task: the same encoders and the
    same analysis, trained for the task alone.

    Args:
        specs: pixels alone.
        num_outputs: of the head.
        content_channels: of the map.
        style_channels: of the vector.
        content_encoder: called with its channels; see ``LayeredGenerative``.
        style_encoder: likewise.
        head: called as ``head([map, vector], num_outputs)``: ``Modulated``.

    Raises:
        ValueError: something else than pixels is read.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        content_channels: int,
        style_channels: int,
        content_encoder: Callable[[int], nn.Module],
        style_encoder: Callable[[int], nn.Module],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
    ):
        super().__init__()
        if len(specs) != 1 or not is_pixels(specs[0]):
            raise ValueError(f"Encoded reads pixels, not {list(specs)}: give `reads: pixels`")
        self.content, self.style = content_encoder(content_channels), style_encoder(style_channels)
        layer, self.stride = specs[0].layer, self.content.stride
        latents = [
            LatentSpec("map", content_channels, layer, stride=self.stride),
            LatentSpec("vector", style_channels, layer),
        ]
        self.head = head(latents, num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """What the head gives for pictures (B, 3, H, W) in [0, 1]."""
        # Two positions a side at least, as the codec has them.
        x = pad_to_stride(x, 2 * self.stride)
        return self.head(self.content(x), self.style(x), size=size)
