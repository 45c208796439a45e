"""Code images to real files and decode them again."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from models import bitstream as container
from models.codecs.base import Codec
from models.outputs import CodecOutput


@dataclass
class Coded:
    """A batch after a round trip through files.

    Attributes:
        output: decoded from the files' bytes alone.
        file_bits: 8 x file length of each image, float (B,).
        estimated: {layer: (B,)} bits that ``forward`` estimated.
    """

    output: CodecOutput
    file_bits: Tensor
    estimated: dict[str, Tensor]

    def bits_for(self, layers: Collection[str]) -> Tensor:
        """File bits without the layers that are not in ``layers``: what somebody who reads only those pays, (B,)."""
        left_out = [bits for name, bits in self.output.bits.items() if name not in layers]
        return self.file_bits - sum(left_out)

    def rates(self, grey_bytes: int | None) -> dict[str, Tensor]:
        """All rates in bits per pixel of the original image, (B,) each, by their names in ``Measures``.

        Args:
            grey_bytes: as the function of that name gives it.
        """
        pixels = self.output.size[0] * self.output.size[1]
        if grey_bytes is None:
            header = self.file_bits - sum(self.output.bits.values())
        else:
            header = torch.full_like(self.file_bits, 8.0 * grey_bytes)
        return {
            "bpp": sum(self.estimated.values()) / pixels,
            "bpp_real": self.file_bits / pixels,
            "bpp_payload": (self.file_bits - header) / pixels,
            "header_bytes": header / 8,
            **{f"bpp_of_{layer}": bits / pixels for layer, bits in self.output.bits.items()},
        }

    def gaps(self) -> dict[str, float]:
        """{layer: real - estimated bits of the batch}, where an image differs by over 2 % + 200 bits."""
        gaps = {}
        for layer, real in self.output.bits.items():
            estimated = self.estimated[layer].cpu()
            if bool(((real - estimated).abs() > 0.02 * estimated + 200).any()):
                gaps[layer] = float((real - estimated).sum())
        return gaps


@torch.no_grad()
def code(
    codec: Codec, x: Tensor, rate: float | None = None, *, want: Collection[str] = ("pixels", "latents")
) -> Coded:
    """x -> files -> decode.

    Args:
        codec: in evaluation mode.
        x: images (B, 3, H, W) in [0, 1].
        rate: the codec's native rate value.
        want: what to decode.
    """
    files = [codec.serialise(bitstream) for bitstream in codec.compress(x, rate)]
    output = codec.decompress([codec.parse(data) for data in files], want=want)
    output.x_hat = None if output.x_hat is None else output.x_hat.to(x.device)
    output.latents = {name: latent.to(x.device) for name, latent in output.latents.items()}
    file_bits = torch.tensor([8.0 * len(data) for data in files])
    return Coded(output, file_bits, dict(output.bits) if codec.exact else codec(x, rate).bits)


@torch.no_grad()
def grey_bytes(codec: Codec, size: tuple[int, int], rate: float | None = None) -> int | None:
    """What a file of somebody else's format holds besides its payload: the length of a flat grey picture's file.

    Formats of others do not tell their headers from what they code; where nothing is to be coded, nearly all is header.
    Of a ``.bif`` file it is known, and ``None`` is returned: all but the layers' strings, which hold the coder's flush
    and fingerprint. There a grey picture would not do: a learned codec spends bits on it as on any other.
    """
    if codec.file_suffix == container.SUFFIX:
        return None
    parameter = next(codec.parameters(), torch.zeros(()))
    grey = torch.full((1, 3, *size), 0.5, device=parameter.device)
    return len(codec.serialise(codec.compress(grey, rate)[0]))
