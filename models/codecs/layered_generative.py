"""Layered generative codec: what is where, and what it looks like, in two streams of which neither needs the other."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.entropy.code_length import code_length
from models.entropy.factorized import Factorized
from models.entropy.hyperprior import Hyperprior
from models.entropy.latent_codec import LatentCodec
from models.outputs import CodecOutput, LatentSpec, Layer
from models.transforms import convolutional


class Branch(nn.Module):
    """One stream: its encoder and its entropy model.

    Args:
        g_a: pictures to a latent.
        latent_codec: quantises and codes it.
    """

    def __init__(self, g_a: nn.Module, latent_codec: LatentCodec):
        super().__init__()
        self.g_a, self.latent_codec = g_a, latent_codec


class LayeredGenerative(Codec):
    r"""A content map and a style vector, fused by the decoder; tasks read either or both.

    ::

            ┌─► content.g_a ─► y_c ─► content.latent_codec ─► content_hat ─┬─► g_s (AdaIN) ─► x_hat
        x ──┤                                                              │    ▲
            └─► style.g_a ───► y_s ─► style.latent_codec ───► style_hat ───┴────┘──► tasks

    Each stream decodes alone. A picture of one of them has the other as its entropy model expects it: every symbol at
    its distribution's centre. Instance norm sees the whole picture, so that tiles do not work.

    The paper is known by its abstract and its patent's; those name two encoders, a probability model and a string each,
    both streams in the decoder and in the analysis, and AdaIN. All else is a choice here, and an argument:

    Args:
        content_channels: of the map, 32 to 96 in systems of this kind: 16x16x32 at 256 pixels and 0.05 bpp has 0.4 bits
            a symbol.
        style_channels: of the vector; 64 in the paper's predecessor (Conceptual Compression), 100 to 250 bits.
        content_encoder: called with its channels, makes the encoder of the map and publishes its ``stride``:
            ``MapEncoder`` from scratch, ``TrunkMap`` on a timm network. 16 pixels a position at 256 pixels, 8 at 64.
        style_encoder: likewise of the vector: ``VectorEncoder``, ``TrunkVector``.
        content_prior: called with its channels, makes the map's latent codec: ``hyperprior``, for neighbours tell much
            of each other even where the hyper-latent has four positions, or ``Factorized``.
        style_prior: of the vector: ``Factorized``. Told from the content it would cost less, and could not be read
            without it.
        synthesis: called with both channels and ``stride``, makes the decoder: ``AdaINSynthesis``.
        quantise: what the decoder sees in training: rounded values (``"ste"``) or those with noise (``"noise"``). Tasks
            always get rounded ones.

    Raises:
        ValueError: ``quantise`` is neither.

    Reference: Zhang et al., Machine Perception-Driven Facial Image Compression: A Layered Generative Approach, 2023,
    https://arxiv.org/abs/2304.06896. Its decoder: Chang et al., Conceptual Compression via Deep Structure and Texture
    Synthesis, 2020, https://arxiv.org/abs/2011.04976.
    """

    layers = (Layer("content", needs=()), Layer("style", needs=()))
    pixel_layers = ("content", "style")
    encoder = ("content.g_a", "style.g_a", "content.latent_codec.h_a", "style.latent_codec.h_a")
    decoder = ("g_s",)

    def __init__(
        self,
        content_channels: int,
        style_channels: int,
        *,
        content_encoder: Callable[[int], nn.Module],
        style_encoder: Callable[[int], nn.Module],
        content_prior: Callable[[int], LatentCodec],
        style_prior: Callable[[int], LatentCodec],
        synthesis: Callable[..., nn.Module],
        quantise: Literal["ste", "noise"] = "ste",
    ):
        super().__init__()
        if quantise not in ("ste", "noise"):
            raise ValueError(f"quantise={quantise!r} must be 'ste' or 'noise'")
        self.quantise = quantise
        self.content = Branch(content_encoder(content_channels), content_prior(content_channels))
        self.style = Branch(style_encoder(style_channels), style_prior(style_channels))
        self.latent_stride = self.content.g_a.stride
        self.g_s = synthesis(content_channels, style_channels, stride=self.latent_stride)
        # Two positions a side at least: instance norm leaves nothing of one.
        self.stride = self.latent_stride * max(2, self.content.latent_codec.stride)
        self.latents = {
            "content_hat": LatentSpec("map", content_channels, "content", stride=self.latent_stride),
            "style_hat": LatentSpec("vector", style_channels, "style"),
        }

    def _branches(self) -> dict[str, Branch]:
        return {layer.name: getattr(self, layer.name) for layer in self.layers}

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        output, seen = CodecOutput(tuple(x.shape[-2:]), likelihoods={}), []
        for name, branch in self._branches().items():
            y = branch.g_a(x).float()
            with torch.autocast(x.device.type, enabled=False):
                latent = branch.latent_codec(y, keys)
                output.bits[name] = torch.stack([code_length(p) for p in latent.likelihoods.values()]).sum(0)
            output.likelihoods |= latent.likelihoods
            output.latents[f"{name}_hat"] = latent.y_hat
            seen.append(latent.y_tilde if self.quantise == "noise" else latent.y_hat)
        output.x_hat = self.g_s(*seen)
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        strings = {}
        for name, branch in self._branches().items():
            y = branch.g_a(x).float()
            try:
                with torch.autocast(x.device.type, enabled=False):
                    strings[name] = branch.latent_codec.compress(y)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
        return [dict(zip(strings, image, strict=True)) for image in zip(*strings.values(), strict=True)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        shapes = {"content": (size[0] // self.latent_stride, size[1] // self.latent_stride), "style": ()}
        output, seen = CodecOutput(size), []
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            for name, branch in self._branches().items():
                if name in strings[0]:
                    y_hat = branch.latent_codec.decompress([s[name] for s in strings], shapes[name])
                    output.latents[f"{name}_hat"] = y_hat
                    seen.append(y_hat)
                elif "pixels" in want:
                    seen.append(branch.latent_codec.expect(len(strings), shapes[name]))
        if "pixels" in want:
            output.x_hat = self.g_s(*seen)
        return output


def hyperprior(channels: int, *, width: int, name: str) -> Hyperprior:
    """A mean-scale hyperprior for a map.

    Args:
        channels: of the map.
        width: channels of the hyper-latent, which has a quarter of the map's resolution.
        name: of its likelihoods, and what tells its noise apart.
    """
    return Hyperprior(
        convolutional.hyper_analysis(width, channels),
        convolutional.hyper_synthesis(width, channels),
        Factorized(width, name=f"{name}_z"),
        stride=4,
        name=name,
    )
