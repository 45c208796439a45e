"""Filter strength: how much a filter changes the picture before it is coded."""

from torch import Tensor

from losses.term import Term
from models.outputs import CodecOutput


class FilterStrength(Term):
    """Mean squared difference of the filtered picture and the original, both in [0, 1].

    Reference: Lu et al., https://arxiv.org/abs/2206.05650; there its weight, beta, is 0.5.
    """

    reads = ("extras.filtered",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        return (output.extras["filtered"].float() - batch["image"]).square().mean()
