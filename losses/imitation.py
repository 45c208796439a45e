"""Imitation: how far a proxy's pictures and bits are from those of the codec that it stands for."""

from torch import Tensor

from losses.term import Term
from models.outputs import CodecOutput


class PictureImitation(Term):
    """Mean squared error to the real codec's picture on the scale of 8-bit values: 255**2 * mean((x_hat - real)**2)."""

    reads = ("pixels", "extras.real")

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        return 255**2 * (output.x_hat.float() - output.extras["real"]).square().mean()


class BitsImitation(Term):
    """Mean squared natural logarithm of estimated over real bits, image by image: 0.0004 is 2 % off."""

    reads = ("bits", "extras.real_bits")

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        bits = sum(output.bits.values())
        return (bits.clamp(min=1) / output.extras["real_bits"].clamp(min=1)).log().square().mean()
