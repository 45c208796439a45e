"""Three layers of tokens, each coded given those before it."""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.base import Codec
from models.entropy.code_length import code_length
from models.entropy.conditional import Conditional
from models.entropy.factorized import Factorized
from models.outputs import CodecOutput, LatentSpec, Layer
from models.transforms.attention import TokenParameters

SIDE = 16
"""Of the picture that tokens describe, in pixels; any other is resized to it and back."""


class ThreeTokens(Codec):
    """basic -> middle -> enhanced: 2, 3 and 4 tokens.

    Args:
        channels: of every token.
        width: of the attention.
    """

    layers = (Layer("basic"), Layer("middle"), Layer("enhanced"))
    encoder = ("g_a",)
    decoder = ("g_s",)

    def __init__(self, channels: int = 4, *, width: int = 16):
        super().__init__()
        self.lengths, self.channels = (2, 3, 4), channels
        names = [layer.name for layer in self.layers]
        self.latents = {
            name: LatentSpec("tokens", channels, name, length=length)
            for name, length in zip(names, self.lengths, strict=True)
        }
        self.g_a = nn.Linear(3 * SIDE**2, sum(self.lengths) * channels)
        self.g_s = nn.ModuleList(nn.Linear(length * channels, 3 * SIDE**2) for length in self.lengths)
        given = [(length, channels) for length in self.lengths]
        self.latent_codecs = nn.ModuleList([Factorized(channels, name=names[0])])
        for i in (1, 2):
            network = TokenParameters(given[:i], self.lengths[i], channels, width=width, heads=2, depth=1)
            self.latent_codecs.append(Conditional(network, name=names[i]))

    def _analyse(self, x: Tensor) -> list[Tensor]:
        small = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        tokens = 4 * self.g_a(small.flatten(1) - 0.5).float()
        return list(tokens.unflatten(1, (-1, self.channels)).split(self.lengths, dim=1))

    def _synthesise(self, y_hats: Sequence[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        pictures, small = {}, 0.5
        for layer, g_s, y_hat in zip(self.layers, self.g_s, y_hats, strict=False):
            small = small + 0.1 * g_s(y_hat.flatten(1)).unflatten(1, (3, SIDE, SIDE))
            pictures[layer.name] = F.interpolate(small, size, mode="bilinear")
        return pictures

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        output, given = CodecOutput(tuple(x.shape[-2:]), likelihoods={}), ()
        with torch.autocast(x.device.type, enabled=False):
            for layer, codec, y in zip(self.layers, self.latent_codecs, self._analyse(x), strict=True):
                latent = codec(y, keys, given)
                given = (*given, latent.y_hat)
                output.latents[layer.name] = latent.y_hat
                output.bits[layer.name] = sum(code_length(p) for p in latent.likelihoods.values())
                output.likelihoods |= latent.likelihoods
        output.pixels_by_layer = self._synthesise(given, output.size)
        output.x_hat = output.pixels_by_layer["enhanced"]
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        strings, given = {}, ()
        with torch.autocast(x.device.type, enabled=False):
            for layer, codec, y in zip(self.layers, self.latent_codecs, self._analyse(x), strict=True):
                strings[layer.name] = codec.compress(y, given)
                # What the decoder will have, to the last bit.
                given = (*given, codec.decompress(strings[layer.name], (y.shape[1],), given))
        return [dict(zip(strings, image, strict=True)) for image in zip(*strings.values(), strict=True)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        given: tuple[Tensor, ...] = ()
        for name, codec, length in zip(strings[0], self.latent_codecs, self.lengths, strict=False):
            given = (*given, codec.decompress([s[name] for s in strings], (length,), given))
        output = CodecOutput(size, latents=dict(zip(strings[0], given, strict=True)))
        if "pixels" in want:
            output.pixels_by_layer = self._synthesise(given, size)
            output.x_hat = list(output.pixels_by_layer.values())[-1]
        return output
