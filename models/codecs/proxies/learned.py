"""A learned codec that imitates a standard codec, conditioned on its quality."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.codecs.hyperprior import TransformCodec
from models.codecs.proxies.proxy import Proxy
from models.codecs.standard.base import StandardCodec
from models.entropy.code_length import code_length
from models.outputs import CodecOutput
from models.padding import crop, pad_to_stride
from models.preprocessing.rate_scale import RateScale


class LearnedProxy(Proxy):
    """Any of our own codecs between two rate-adaptive scales of its latent.

    ::

        x ─► g_a ─► · s(level) ─► latent codec ─► · t(level) ─► g_s ─► x_hat
                                       └─► bits · u(level)

    Pretrain ``model`` by itself for rate and distortion, then fit the whole to the codec's pictures and bits.

    Args:
        codec: what it imitates; see ``Proxy``.
        model: what imitates, one rate, one layer.
        rates: see ``Proxy``.
        hidden: width of the MLPs that make the scales.

    Reference: Lu et al., Preprocessing Enhanced Image Compression for Machine Vision, https://arxiv.org/abs/2206.05650.

    Differs from it: one proxy knows all rates, its bits are fitted as well (u), and the picture is of rounded latents.
    """

    def __init__(
        self,
        codec: StandardCodec,
        model: TransformCodec,
        rates: Sequence[float] | None = None,
        *,
        hidden: int = 32,
    ):
        super().__init__(codec, rates)
        self.model = model
        channels = model.latents["y_hat"].channels
        self.before, self.behind = RateScale(channels, hidden), RateScale(channels, hidden)
        self.of_bits = RateScale(1, hidden)

    def imitate(self, x: Tensor, rate: float, keys: Tensor | None) -> CodecOutput:
        size, level = tuple(x.shape[-2:]), self.level(rate)
        y = self.before(self.model.g_a(pad_to_stride(x, self.model.stride)).float(), level)
        with torch.autocast(x.device.type, enabled=False):
            latent = self.model.latent_codec(y, keys)
            bits = torch.stack([code_length(p) for p in latent.likelihoods.values()]).sum(0)
            bits = self.of_bits(bits[:, None, None, None], level).flatten()
        x_hat = self.model.g_s(self.behind(latent.y_hat, level)).float()
        return CodecOutput(size, x_hat=crop(x_hat, size), bits={"base": bits}, rate=rate)

    def auxiliary_loss(self) -> Tensor:
        """The model's own."""
        return self.model.auxiliary_loss()
