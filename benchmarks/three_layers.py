"""A small codec of three layers, for files that are cut or mixed between them."""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.base import Codec
from models.entropy.conditional import Conditional
from models.entropy.factorized import Factorized
from models.outputs import CodecOutput, LatentSpec, Layer

STRIDES = {"base": 16, "middle": 8, "enhanced": 4}
"""Pixels per position of each layer's map."""
LOUDNESS = 8.0
"""Of the latents: so that most of an untrained codec's are not zero."""


class FromCoarser(nn.Module):
    """Scales and means of a map from those with half its resolution and less."""

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(count * channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 2 * channels, 3, padding=1),
        )

    def forward(self, *given: Tensor) -> Tensor:
        height, width = given[-1].shape[-2:]
        return self.layers(torch.cat([F.interpolate(y, (2 * height, 2 * width)) for y in given], dim=1))


class ThreeLayers(Codec):
    """base -> middle -> enhanced, each coded given those before it; for files alone, it has no estimates."""

    layers = tuple(Layer(name) for name in STRIDES)
    stride = max(STRIDES.values())
    encoder = ("g_a",)
    decoder = ("g_s",)

    def __init__(self, channels: int = 4):
        super().__init__()
        self.latents = {
            name: LatentSpec("map", channels, name, stride=stride) for name, stride in STRIDES.items()
        }
        sides = list(STRIDES.values())
        self.g_a = nn.ModuleList(nn.Conv2d(3, channels, side, stride=side) for side in sides)
        self.g_s = nn.ModuleList(nn.ConvTranspose2d(channels, 3, side, stride=side) for side in sides)
        base, *others = STRIDES
        conditional = [
            Conditional(FromCoarser(count, channels), name=name) for count, name in enumerate(others, 1)
        ]
        self.latent_codecs = nn.ModuleList([Factorized(channels, name=base), *conditional])

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        strings, given = {}, ()
        for name, g_a, codec in zip(STRIDES, self.g_a, self.latent_codecs, strict=True):
            y = LOUDNESS * g_a(x - 0.5)
            strings[name] = codec.compress(y, given)
            # What the decoder will have, to the last bit.
            given = (*given, codec.decompress(strings[name], tuple(y.shape[-2:]), given))
        return [dict(zip(strings, image, strict=True)) for image in zip(*strings.values(), strict=True)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        output, x_hat = CodecOutput(size), torch.full((), 0.5)
        for name, codec, g_s in zip(strings[0], self.latent_codecs, self.g_s, strict=False):
            shape = size[0] // STRIDES[name], size[1] // STRIDES[name]
            given = tuple(output.latents.values())
            output.latents[name] = codec.decompress([s[name] for s in strings], shape, given)
            if "pixels" in want:
                x_hat = output.x_hat = output.pixels_by_layer[name] = (
                    x_hat + g_s(output.latents[name]) / LOUDNESS
                )
        return output
