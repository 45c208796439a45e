"""Both sides of a hinge game between a codec and ``networks.critic``."""

import torch
from torch import Tensor, nn

from losses.term import Term
from models.outputs import CodecOutput


class Fooling(Term):
    """The codec's side: -critic(x_hat)."""

    reads = ("pixels",)
    uses = ("networks.critic",)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar."""
        return -critic(output.x_hat).mean()


class Telling(Term):
    """The critic's side: hinge of both kinds of picture, and a penalty on its slope at real ones (R1).

    Args:
        penalty: weight of the squared slope.
    """

    reads = ("pixels",)
    uses = ("networks.critic",)

    def __init__(self, *, penalty: float = 1.0):
        super().__init__()
        self.penalty = penalty

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar >= 0."""
        with torch.enable_grad():
            real = batch["image"].detach().requires_grad_()
            scores = critic(real)
            (slope,) = torch.autograd.grad(scores.mean((1, 2, 3)).sum(), real, create_graph=True)
        hinge = (1 - scores).relu().mean() + (1 + critic(output.x_hat.detach())).relu().mean()
        return hinge + self.penalty * slope.square().sum((1, 2, 3)).mean()
