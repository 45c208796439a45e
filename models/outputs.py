"""The nouns every codec shares: layers, latents, what a decode returns, and a bitstream.

Legend: B batch, H and W the image's own (unpadded) height and width, s the stride of a latent.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """One separately decodable part of a bitstream.

    Args:
        name: unique within the codec, e.g. ``"base"``.
        needs: names of the layers that must be there to decode this one; ``None`` means all before it.
    """

    name: str
    needs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LatentSpec:
    """Shape and origin of one latent, published by a codec so that heads never repeat its widths.

    Args:
        kind: ``"map"`` (B, channels, H/stride, W/stride of the padded image), ``"tokens"``
            (B, length, channels) or ``"vector"`` (B, channels).
        channels: number of channels.
        layer: the layer that carries the latent: who reads the latent pays for that layer and its needs.
        stride: pixels per latent position, for maps.
        length: number of tokens, for tokens.
    """

    kind: Literal["map", "tokens", "vector"]
    channels: int
    layer: str
    stride: int | None = None
    length: int | None = None


@dataclass
class CodecOutput:
    """What a codec returns from ``forward`` and from ``decompress``.

    Attributes:
        size: (H, W) of the original image. Padding goes to the right and the bottom, so position (0, 0) of
            every latent map is the image's own top-left corner, and a map may reach beyond the image.
        x_hat: decoded image (B, 3, H, W), RGB in [0, 1] (with overshoot where there is training noise);
            ``None`` where not asked for.
        bits: code length of each image by layer, {layer: (B,)}. Estimated in ``forward`` (differentiable in
            training), 8 x bytes in ``decompress``. The rate term of every objective reads this alone.
        latents: what a decoder has, {name: tensor}: rounded values, with a straight-through gradient in training.
        likelihoods: {name: probabilities in (0, 1]} for analysis, or ``None``.
        pixels_by_layer: {layer: (B, 3, H, W)} for codecs that can decode a picture from fewer layers.
        extras: whatever else a codec wants to show (a filtered image, attention...).
        rate: the native rate value it was coded at; ``None`` for a codec of one rate.
    """

    size: tuple[int, int]
    x_hat: Tensor | None = None
    bits: dict[str, Tensor] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)
    likelihoods: dict[str, Tensor] | None = None
    pixels_by_layer: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None

    @property
    def bpp(self) -> Tensor | None:
        """Bits of all layers per pixel of the original, (B,); ``None`` from what does not count bits."""
        if not self.bits:
            return None
        return torch.stack(list(self.bits.values())).sum(0) / (self.size[0] * self.size[1])

    def read(self, name: str) -> Tensor:
        """The tensor a task names in ``reads``: ``"pixels"``, ``"pixels@<layer>"`` or a latent's name."""
        if name == "pixels":
            if self.x_hat is None:
                raise ValueError("pixels were asked for but not decoded: add 'pixels' to `want`")
            return self.x_hat
        if name.startswith("pixels@"):
            return self.pixels_by_layer[name.removeprefix("pixels@")]
        return self.latents[name]


@dataclass(frozen=True)
class Bitstream:
    """One compressed image: a string for each layer, and what a decoder must know beforehand.

    Attributes:
        strings: {layer: bytes}, in the codec's layer order. A truncated stream lacks the last ones.
        size: (H, W) of the original image in pixels.
        rate: the codec's native rate value the image was coded at, or ``None`` for single-rate codecs.
    """

    strings: dict[str, bytes]
    size: tuple[int, int]
    rate: float | None = None
