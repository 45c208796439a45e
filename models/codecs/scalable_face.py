"""Scalable face codec: the styles of a generator in layers, coarse to fine, each coded given those before it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.base import Codec
from models.codecs.refined_face import RefinedFace
from models.entropy.code_length import code_length
from models.entropy.conditional import Conditional
from models.entropy.factorized_tokens import FactorizedTokens
from models.entropy.stream import Writer
from models.outputs import Bitstream, CodecOutput, LatentSpec, Layer
from models.stylegan2.inversion import shared_out
from models.stylegan2.synthesis import Synthesis

Pictures = Literal["every", "ends", "last", "none", "inverted"]
"""Which pictures ``forward`` makes: one for every layer; of the first layer and of all; of all layers alone; none; or,
to train the encoder before there is a bottleneck, one of the very styles that it found."""


class ScalableFace(Codec):
    r"""basic, middle, enhanced: groups of W+ behind a linear bottleneck, one string each.

    ::

        x ──► inversion ──► offsets from the mean style, (B, num_styles, style_dim), in groups
                                     │ down: linear, group by group
                                     ▼
                  basic tokens ──► Q ──► basic ────────────┐
                  middle tokens ─► Q ──► middle ───────────┼──► up: linear ──► styles ──► synthesis ──► x_hat
                  enhanced tokens► Q ──► enhanced ─────────┘
                                   ▲ each under a Gaussian that ``parameters`` tells from the layers before

    A file that ends behind any layer decodes: the entropy model's mean stands for what is missing. Tasks read tokens.

    Pictures become square by repeating their last row or column, and are resized to the encoder's side; decoded ones
    are resized to the longer side and cut. So nothing is stretched. Faces should lie as in the generator's data: for
    FFHQ's, ``python -m datamodules.align`` brings them there.

    Args:
        synthesis: the generator's synthesis network.
        inversion: called as ``inversion(num_styles, style_dim)``, makes the encoder: square pictures -> offsets.
        groups: {layer: {"styles": how many of W+, or ``None`` for all that are left, "tokens", "channels": of the
            bottleneck}}, in the order of the bitstream, coarse to fine.
        parameters: called as ``parameters(given, tokens, channels)``, with (tokens, channels) of the layers before,
            makes the network that tells a layer's Gaussians; ``None``: each layer has factorised densities of its own.
        step: of the quantiser, in units of styles, when training begins.
        noise: maps inside the synthesis network, ``"fixed"`` or ``"none"``.
        pictures: see there; a stage that needs fewer says so in its ``settings``.

    Raises:
        ValueError: groups that do not share out the styles.

    Reference: Mao et al., Scalable Face Image Coding via StyleGAN Prior, TIP 2024, https://arxiv.org/abs/2312.15622.
    The paper's code is not public: bottleneck, sizes and the entropy model's form are ours.
    """

    gives = ("bits", "pixels", "extras.offsets", "extras.offsets_hat", "extras.offsets_filled")
    encoder = ("inversion", "down")
    decoder = ("up", "synthesis")
    refinement = RefinedFace

    def __init__(
        self,
        synthesis: Synthesis,
        inversion: Callable[[int, int], nn.Module],
        groups: Mapping[str, Mapping[str, int | None]],
        *,
        parameters: Callable[[Sequence[tuple[int, int]], int, int], nn.Module] | None = None,
        step: float = 0.25,
        noise: Literal["fixed", "none"] = "fixed",
        pictures: Pictures = "every",
    ):
        super().__init__()
        for name, value, known in (
            ("noise", noise, ("fixed", "none")),
            ("pictures", pictures, get_args(Pictures)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {list(known)}")
        if step <= 0:
            raise ValueError(f"step={step} must be above 0")
        wanted = {"styles", "tokens", "channels"}
        for name, group in groups.items():
            if set(group) != wanted or min(group["tokens"], group["channels"]) < 1:
                raise ValueError(
                    f"groups: {name} has {dict(group)}, must have {sorted(wanted)}, all at least 1"
                )
        self.synthesis, self.inversion = synthesis, inversion(synthesis.num_styles, synthesis.style_dim)
        self.noise, self.pictures, self.step = noise, pictures, step
        self.layers = tuple(Layer(name) for name in groups)
        self.styles = shared_out(synthesis.num_styles, [group["styles"] for group in groups.values()])
        self.shapes = [(group["tokens"], group["channels"]) for group in groups.values()]
        self.latents = {
            name: LatentSpec("tokens", channels, name, length=tokens)
            for name, (tokens, channels) in zip(groups, self.shapes, strict=True)
        }
        self.down, self.up, self.latent_codecs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, (name, count, (tokens, channels)) in enumerate(
            zip(groups, self.styles, self.shapes, strict=True)
        ):
            down, up = _bottleneck(count * synthesis.style_dim, tokens * channels, step)
            self.down.append(down)
            self.up.append(up)
            if i == 0 or parameters is None:
                self.latent_codecs.append(FactorizedTokens(tokens, channels, name=name))
            else:
                self.latent_codecs.append(
                    Conditional(parameters(self.shapes[:i], tokens, channels), name=name)
                )

    def resized(self, bitstream: Bitstream, side: int) -> Bitstream:
        """The same symbols, for a picture whose longer side is ``side`` pixels: the generator knows its detail."""
        longer = max(bitstream.size)
        height, width = (max(1, round(length * side / longer)) for length in bitstream.size)
        return replace(bitstream, size=(height, width))

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        offsets = self.offsets(x)
        output = self.estimate(self.tokens(offsets), tuple(x.shape[-2:]), keys)
        output.extras["offsets"] = offsets
        with torch.autocast(offsets.device.type, enabled=False):
            first = list(output.latents.values())[:1]
            output.extras["offsets_filled"] = self.decoded_offsets(self._completed(first, keys))
        if self.pictures == "inverted":
            output.x_hat = self.drawn([offsets], output.size)[0]
        elif self.pictures != "none":
            self.show(output, keys)
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.write(self.tokens(self.offsets(x)))

    def estimate(self, tokens: Sequence[Tensor], size: tuple[int, int], keys: Tensor | None) -> CodecOutput:
        """Bits, latents and decoded offsets, without pictures, from all layers' tokens before they are rounded."""
        output, y_hats = CodecOutput(size, likelihoods={}), []
        with torch.autocast(tokens[0].device.type, enabled=False):
            for layer, codec, y in zip(self.layers, self.latent_codecs, tokens, strict=True):
                latent = codec(y, keys, y_hats)
                y_hats.append(latent.y_hat)
                output.latents[layer.name] = latent.y_hat
                output.bits[layer.name] = sum(code_length(p) for p in latent.likelihoods.values())
                output.likelihoods |= latent.likelihoods
        output.extras = {"offsets_hat": self.decoded_offsets(y_hats)}
        return output

    def write(self, tokens: Sequence[Tensor]) -> list[dict[str, bytes]]:
        """The strings of the same tokens, {layer: string} for each image."""
        strings, y_hats = {}, []
        with torch.autocast(tokens[0].device.type, enabled=False):
            for layer, codec, y in zip(self.layers, self.latent_codecs, tokens, strict=True):
                stream = Writer(len(y))
                # What the decoder will have, to the last bit.
                y_hats.append(codec.code(stream, y, (y.shape[1],), y_hats))
                strings[layer.name] = stream.finish()
        return [dict(zip(strings, image, strict=True)) for image in zip(*strings.values(), strict=True)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        output, y_hats = CodecOutput(size), []
        with torch.autocast(self.synthesis.w_mean.device.type, enabled=False):
            for name, codec, (length, _) in zip(strings[0], self.latent_codecs, self.shapes, strict=False):
                y_hats.append(codec.decompress([s[name] for s in strings], (length,), y_hats))
                output.latents[name] = y_hats[-1]
            if "pixels" in want:
                self.show(output, None)
        return output

    def offsets(self, x: Tensor) -> Tensor:
        """What the encoder finds in pictures of any shape."""
        side = max(x.shape[-2:])
        square = F.pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2]), mode="replicate")
        return self.inversion(square).float()

    def tokens(self, offsets: Tensor) -> list[Tensor]:
        """Every layer's, (B, tokens, channels), before they are rounded."""
        groups = offsets.split(self.styles, dim=1)
        with torch.autocast(offsets.device.type, enabled=False):
            return [
                down(group.flatten(1)).unflatten(1, shape)
                for down, group, shape in zip(self.down, groups, self.shapes, strict=True)
            ]

    def decoded_offsets(self, y_hats: Sequence[Tensor]) -> Tensor:
        """Offsets (B, num_styles, style_dim) from the tokens of all layers."""
        groups = [up(y_hat.flatten(1)) for up, y_hat in zip(self.up, y_hats, strict=True)]
        return torch.cat(groups, 1).unflatten(1, (-1, self.synthesis.style_dim))

    def _completed(self, y_hats: Sequence[Tensor], keys: Tensor | None) -> list[Tensor]:
        """All layers' tokens, of which some are known: the rest is what the entropy model expects."""
        found = list(y_hats)
        for codec, shape in zip(self.latent_codecs[len(found) :], self.shapes[len(found) :], strict=True):
            found.append(codec.expect(len(found[0]), shape[:1], found, keys))
        return found

    def drawn(self, offsets: Sequence[Tensor], size: tuple[int, int]) -> Sequence[Tensor]:
        """Pictures (B, 3, H, W) of a size, one for each of several offsets, from one run of the generator."""
        styles, side = self.synthesis.w_mean + torch.cat(list(offsets)), max(size)
        x = self.synthesis(styles, size=self.synthesis.size_for(side), noise=self.noise)
        if x.shape[-1] != side:
            # In float32: torch resizes no bfloat16 like this.
            x = F.interpolate(x.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
        return x[..., : size[0], : size[1]].chunk(len(offsets))

    def show(self, output: CodecOutput, keys: Tensor | None) -> None:
        """Put pictures of an output's latents into it: of the first layer, of the first two..., or of some of these."""
        names, y_hats = list(output.latents), list(output.latents.values())
        counts = list(range(1, len(names) + 1))
        if self.pictures in ("last", "ends"):
            counts = counts[-1:] if self.pictures == "last" else sorted({1, counts[-1]})
        with torch.autocast(y_hats[0].device.type, enabled=False):
            offsets = [self.decoded_offsets(self._completed(y_hats[:count], keys)) for count in counts]
        for count, picture in zip(counts, self.drawn(offsets, output.size), strict=True):
            output.x_hat = output.pixels_by_layer[names[count - 1]] = picture


def _bottleneck(inputs: int, outputs: int, step: float) -> tuple[nn.Linear, nn.Linear]:
    """A projection and its way back; rounding behind the first is a quantiser of ``step`` in each direction kept."""
    down, up = nn.Linear(inputs, outputs), nn.Linear(outputs, inputs)
    nn.init.orthogonal_(down.weight, 1 / step)
    up.weight.data.copy_(down.weight.data.T * step**2)
    for layer in (down, up):
        nn.init.zeros_(layer.bias)
    return down, up
