"""Rate: what the bits of a batch cost."""

from torch import Tensor

from losses.term import Term
from models.outputs import CodecOutput


class Rate(Term):
    """R: mean over the batch of the bits of all layers, in bits per pixel of the unpadded image."""

    reads = ("bits",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar, bits per pixel; reads ``output.bits`` and nothing else."""
        return output.bpp.mean()
