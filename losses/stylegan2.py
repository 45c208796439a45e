"""StyleGAN2's game: the logistic loss of both sides, and the penalty on the discriminator's slope."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.term import Term
from models.outputs import CodecOutput


class LogisticGenerator(Term):
    """The generator's side: mean of softplus(-D(x_hat)), the non-saturating loss.

    Args:
        critic: path of the discriminator in the system.

    Reference: Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014, https://arxiv.org/abs/1406.2661, section 3.
    """

    reads = ("pixels",)

    def __init__(self, critic: str = "networks.critic"):
        super().__init__()
        self.uses = (critic,)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar >= 0."""
        return F.softplus(-critic(output.x_hat).float()).mean()


class LogisticCritic(Term):
    """The discriminator's side: mean of softplus(D(x_hat)) + softplus(-D(x)).

    Args:
        critic: path of the discriminator in the system.
    """

    reads = ("pixels",)

    def __init__(self, critic: str = "networks.critic"):
        super().__init__()
        self.uses = (critic,)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar >= 0."""
        drawn, real = critic(output.x_hat.detach()).float(), critic(batch["image"]).float()
        return F.softplus(drawn).mean() + F.softplus(-real).mean()


class R1(Term):
    """Squared slope of the discriminator at real pictures: mean of |grad D(x)|^2. The papers' weight is gamma / 2.

    Pictures are in [0, 1] here and in [-1, 1] in the papers, where slopes are half as large: gamma is to be divided by
    4. StyleGAN2's gamma is 10 at 1024 px; NVIDIA's rule is 0.0002 size^2 / batch size.

    Args:
        critic: path of the discriminator in the system.
        share: of the batch that the slope is taken at. StyleGAN2 takes it at a whole batch in one of 16 steps ("lazy");
            at a sixteenth of each it costs as much, and belongs to the same step of the optimiser. Which pictures these
            are depends on how many processes share the batch, but for 1.

    Reference: Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018,
    https://arxiv.org/abs/1801.04406, equation 9; lazy: Karras et al., CVPR 2020, section 3.1.
    """

    reads = ()

    def __init__(self, critic: str = "networks.critic", *, share: float = 1.0):
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must be a part of the batch, in (0, 1]")
        self.uses, self.share = (critic,), share

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar >= 0."""
        count = math.ceil(self.share * len(batch["image"]))
        with torch.enable_grad():
            real = batch["image"][:count].detach().requires_grad_()
            (slope,) = torch.autograd.grad(critic(real).float().sum(), real, create_graph=True)
        return slope.float().square().sum((1, 2, 3)).mean()
