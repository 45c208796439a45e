"""Adversarial terms: a codec against a critic that tells its pictures from originals.

A critic (models/critics) is one of the system's networks. It maps pictures to ``(scores, features)``: scores, above 0
for originals, in a list of maps, one for each scale it looks at, and all its hidden maps in another.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.term import Term
from models.outputs import CodecOutput
from models.padding import pad_to_stride

CRITIC = "networks.critic"


class Game(Protocol):
    """What scores cost either side, element by element."""

    def fooling(self, fake: Tensor) -> Tensor:
        """What the codec pays for the scores of its pictures."""

    def real(self, real: Tensor) -> Tensor:
        """What the critic pays for the scores of originals."""

    def fake(self, fake: Tensor) -> Tensor:
        """What the critic pays for the scores of decoded pictures."""


class Hinge:
    """-d for the codec; relu(1 - d) and relu(1 + d) for the critic, which rests once it is sure.

    Reference: Lim and Ye, Geometric GAN, 2017, https://arxiv.org/abs/1705.02894, section 3.
    """

    def fooling(self, fake: Tensor) -> Tensor:
        return -fake

    def real(self, real: Tensor) -> Tensor:
        return F.relu(1 - real)

    def fake(self, fake: Tensor) -> Tensor:
        return F.relu(1 + fake)


class NonSaturating:
    """softplus(-d) for the codec; softplus(-d) and softplus(d) for the critic.

    Reference: Goodfellow et al., Generative Adversarial Networks, 2014, https://arxiv.org/abs/1406.2661, section 3.
    """

    def fooling(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake)

    def real(self, real: Tensor) -> Tensor:
        return F.softplus(-real)

    def fake(self, fake: Tensor) -> Tensor:
        return F.softplus(fake)


class GeneratorLoss(Term):
    """The codec's side, mean over positions, then over scales.

    Args:
        game: ``Hinge`` or ``NonSaturating``, the same as the critic's.
        critic: path of the critic.
    """

    reads = ("pixels",)

    def __init__(self, game: Game, *, critic: str = CRITIC):
        super().__init__()
        self.game, self.uses = game, (critic,)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar."""
        scores, _ = critic(_some(output.x_hat))
        return _mean(self.game.fooling, scores)


class DiscriminatorLoss(Term):
    """The critic's side: originals and decoded pictures, and its slope at originals.

    Args:
        game: ``Hinge`` or ``NonSaturating``.
        critic: path of the critic.
        r1: weight of half the squared slope of the mean score (R1): needed where nothing else, as spectral norm does,
            bounds the critic. 0 computes none.

    Raises:
        ValueError: ``r1`` is below 0.

    Reference: Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018,
    https://arxiv.org/abs/1801.04406, equation 9.
    """

    reads = ("pixels",)

    def __init__(self, game: Game, *, critic: str = CRITIC, r1: float = 0.0):
        super().__init__()
        if r1 < 0:
            raise ValueError(f"r1={r1} must be 0 or above")
        self.game, self.uses, self.r1 = game, (critic,), r1

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar."""
        fake, _ = critic(_some(output.x_hat).detach())
        loss = _mean(self.game.fake, fake)
        if not self.r1:
            real, _ = critic(batch["image"])
            return loss + _mean(self.game.real, real)
        with torch.enable_grad():
            x = batch["image"].detach().requires_grad_()
            real, _ = critic(x)
            mean = torch.stack([score.float().mean((1, 2, 3)) for score in real]).mean(0).sum()
            (slope,) = torch.autograd.grad(mean, x, create_graph=True)
        penalty = slope.float().square().sum((1, 2, 3)).mean()
        return loss + _mean(self.game.real, real) + self.r1 / 2 * penalty


class FeatureMatching(Term):
    """Mean absolute difference of the critic's hidden maps of decode and original: mean of all maps' means.

    It gives the codec something to follow while the critic is sure, and keeps what is drawn close to the original.

    Args:
        critic: path of the critic.

    Reference: Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, CVPR 2018,
    https://arxiv.org/abs/1711.11585, equation 4.
    """

    reads = ("pixels",)

    def __init__(self, *, critic: str = CRITIC):
        super().__init__()
        self.uses = (critic,)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        """Scalar >= 0."""
        with torch.no_grad():
            _, originals = critic(batch["image"])
        _, decodes = critic(_some(output.x_hat))
        pairs = zip(decodes, originals, strict=True)
        return torch.stack([(a.float() - b.float()).abs().mean() for a, b in pairs]).mean()


class LatentRegression(Term):
    """|E(x_hat) - y_hat|, mean: the decoded picture, encoded again, has the latent that was sent.

    A decoder may not ignore the style then. What was sent counts as given; through E, gradients reach the decoder.

    Args:
        latent: name of the latent.
        encoder: path of what makes it of a picture.
        stride: that pictures are padded to for it.

    Reference: Huang et al., ECCV 2018, https://arxiv.org/abs/1804.04732, equation 4, on what was quantised.
    """

    def __init__(self, latent: str, encoder: str, *, stride: int = 1):
        super().__init__()
        self.latent, self.stride = latent, stride
        self.reads, self.uses = ("pixels", latent), (encoder,)

    def forward(self, output: CodecOutput, batch: dict, encoder: nn.Module) -> Tensor:
        """Scalar >= 0, in the quantiser's steps."""
        again = encoder(pad_to_stride(output.x_hat, self.stride)).float()
        return (again - output.latents[self.latent].detach()).abs().mean()


def _mean(cost: Callable[[Tensor], Tensor], scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([cost(score.float()).mean() for score in scores]).mean()


def _some(x: Tensor) -> Tensor:
    if not len(x):
        raise ValueError(
            "the critic got a batch without a picture: data.batch_size must be at least 1 a process"
        )
    return x
