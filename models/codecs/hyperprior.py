"""Our own codecs: an analysis and a synthesis transform around a tree of latent codecs."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.codecs.compressai_weights import FILE, state_for_compressai
from models.entropy.code_length import code_length
from models.entropy.factorized import Factorized
from models.entropy.gained_hyperprior import GainedHyperprior
from models.entropy.gains import Gains
from models.entropy.hyperprior import Hyperprior
from models.entropy.latent_codec import LatentCodec
from models.outputs import CodecOutput, LatentSpec
from models.tiling import reach
from models.transforms import convolutional


class TransformCodec(Codec):
    r"""One latent map between two transforms.

    ::

        x ──► g_a ──► y ──► latent_codec ──► y_hat ──► g_s ──► x_hat
                                               └─────► tasks

    With gains, latent_codec is given those of a rate in [0, 1].

    Args:
        g_a: analysis, (B, 3, H, W) -> (B, latent_channels, H/latent_stride, W/latent_stride).
        g_s: synthesis, the way back.
        latent_codec: quantises and codes y.
        latent_channels: M.
        latent_stride: pixels per position of y.
        stride: what image sides must be multiples of (hyper-latents are coarser than y).
        quantise: what g_s sees in training: rounded values (``"ste"``) or y plus noise (``"noise"``). Tasks always
            get rounded values.
        gains: of a codec of any rate from 0 to 1.
    """

    encoder = ("g_a",)
    decoder = ("g_s",)

    def __init__(
        self,
        g_a: nn.Module,
        g_s: nn.Module,
        latent_codec: LatentCodec,
        *,
        latent_channels: int,
        latent_stride: int,
        stride: int,
        quantise: Literal["ste", "noise"] = "ste",
        gains: Gains | None = None,
    ):
        super().__init__()
        if quantise not in ("ste", "noise"):
            raise ValueError(f"quantise={quantise!r} must be 'ste' or 'noise'")
        self.g_a, self.g_s, self.latent_codec = g_a, g_s, latent_codec
        self.stride, self.latent_stride, self.quantise = stride, latent_stride, quantise
        self.latents = {"y_hat": LatentSpec("map", latent_channels, "base", stride=latent_stride)}
        self.gains = gains
        if gains is not None:
            self.rates, self.continuous = gains.rates, True

    @property
    def receptive_field(self) -> int | None:
        """How far beyond a tile g_a and g_s look, in pixels: 32 for four stages of 5x5 convolutions."""
        spec = self.latents["y_hat"]
        return reach(self.g_a, self.g_s, latent_channels=spec.channels, stride=self.latent_stride)

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        y = self.g_a(x).float()
        with torch.autocast(x.device.type, enabled=False):
            latent = self.latent_codec(y, keys, self._given(rate))
            bits = torch.stack([code_length(p) for p in latent.likelihoods.values()]).sum(0)
        x_hat = self.g_s(latent.y_tilde if self.quantise == "noise" else latent.y_hat)
        return CodecOutput(
            size=tuple(x.shape[-2:]),
            x_hat=x_hat,
            bits={"base": bits},
            latents={"y_hat": latent.y_hat},
            likelihoods=latent.likelihoods,
        )

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        y = self.g_a(x).float()
        with torch.autocast(x.device.type, enabled=False):
            return [{"base": string} for string in self.latent_codec.compress(y, self._given(rate))]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        shape = size[0] // self.latent_stride, size[1] // self.latent_stride
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            y_hat = self.latent_codec.decompress([s["base"] for s in strings], shape, self._given(rate))
        return CodecOutput(
            size, x_hat=self.g_s(y_hat) if "pixels" in want else None, latents={"y_hat": y_hat}
        )

    def _given(self, rate: float | None) -> Sequence[Tensor]:
        return () if self.gains is None else self.gains.at(rate)


class MeanScaleHyperprior(TransformCodec):
    """Convolutional transforms with GDN and a mean-scale hyperprior.

    Args:
        width: channels of the transforms and of z (the paper's N).
        latent_channels: channels of y (the paper's M).
        num_stages: halvings of the picture before y; y has stride 2 ** num_stages, z a quarter of its resolution.
        quantise: see ``TransformCodec``.
        gains: called as ``gains(latent_channels)``, makes its ``Gains``: a codec of any rate from 0 to 1.

    Reference: Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression, NeurIPS 2018,
    https://arxiv.org/abs/1809.02736, without the autoregressive part.
    """

    encoder = (*TransformCodec.encoder, "latent_codec.h_a")

    def __init__(
        self,
        width: int = 128,
        latent_channels: int = 192,
        *,
        num_stages: int = 4,
        quantise: Literal["ste", "noise"] = "ste",
        gains: Callable[[int], Gains] | None = None,
    ):
        for name, value in (
            ("width", width),
            ("latent_channels", latent_channels),
            ("num_stages", num_stages),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        hyperprior = (Hyperprior if gains is None else GainedHyperprior)(
            convolutional.hyper_analysis(width, latent_channels),
            convolutional.hyper_synthesis(width, latent_channels),
            Factorized(width),
            stride=4,
        )
        super().__init__(
            convolutional.analysis(width, latent_channels, num_stages),
            convolutional.synthesis(width, latent_channels, num_stages),
            hyperprior,
            latent_channels=latent_channels,
            latent_stride=2**num_stages,
            stride=4 * 2**num_stages,
            quantise=quantise,
            gains=None if gains is None else gains(latent_channels),
        )
        self.num_stages = num_stages

    def foreign_weights(self) -> dict[str, dict[str, Tensor]]:
        """With four stages, a checkpoint of CompressAI's ``mbt2018-mean``, which is built the same."""
        names = {"latent_codec.hyper.": "", "latent_codec.": ""}
        same = self.num_stages == 4 and self.gains is None
        return {FILE: state_for_compressai(self, names)} if same else {}
