"""One codec for every rate between two: the latent is scaled before it is rounded."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from models.codecs.hyperprior import MeanScaleHyperprior
from models.entropy.code_length import code_length
from models.outputs import CodecOutput


class AnyRate(MeanScaleHyperprior):
    """y is coded in steps of 1 / gain, gain = rate * exp(a) with a learned for every channel; rates 4 to 16."""

    rates = (4.0, 16.0)
    continuous = True

    def __init__(self, width: int = 8, latent_channels: int = 8, *, num_stages: int = 3):
        super().__init__(width, latent_channels, num_stages=num_stages)
        # Scaled latents are large from the beginning.
        nn.init.constant_(self.latent_codec.h_s[-1].bias.data[:latent_channels], 2.0)
        self.log_gain = nn.Parameter(torch.zeros(latent_channels, 1, 1))

    def _gain(self, rate: float) -> Tensor:
        return rate * self.log_gain.exp()

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        with torch.autocast(x.device.type, enabled=False):
            latent = self.latent_codec(self.g_a(x).float() * self._gain(rate), keys)
            bits = torch.stack([code_length(p) for p in latent.likelihoods.values()]).sum(0)
            y_hat = latent.y_hat / self._gain(rate)
        return CodecOutput(
            tuple(x.shape[-2:]),
            x_hat=self.g_s(y_hat),
            bits={"base": bits},
            latents={"y_hat": y_hat},
            likelihoods=latent.likelihoods,
        )

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        with torch.autocast(x.device.type, enabled=False):
            return [{"base": s} for s in self.latent_codec.compress(self.g_a(x).float() * self._gain(rate))]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        output = super()._decode(strings, size, rate, ())
        y_hat = output.latents["y_hat"] / self._gain(rate)
        return CodecOutput(
            size, x_hat=self.g_s(y_hat) if "pixels" in want else None, latents={"y_hat": y_hat}
        )

    def foreign_weights(self) -> dict[str, dict[str, Tensor]]:
        """No other library knows this one."""
        return {}
