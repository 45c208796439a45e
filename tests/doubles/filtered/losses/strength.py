"""How much a filter changes."""

from torch import Tensor

from losses.term import Term
from models.outputs import CodecOutput


class Strength(Term):
    """Mean squared difference of the filtered picture and the original, both in [0, 1]."""

    reads = ("extras.filtered",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        return (output.extras["filtered"] - batch["image"]).square().mean()
