"""Mean-scale hyperprior of any rate: y is coded on a grid whose steps are given."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.entropy.hyperprior import Hyperprior
from models.entropy.latent_codec import LatentCodec, LatentOutput, Shape
from models.entropy.stream import Stream


class GainedHyperprior(Hyperprior):
    r"""Codes y given z; y is multiplied by gains before it is rounded, and by others after.

    ::

        y ─┬─► h_a ─► z ─► hyper ─► h_s ─► · up ─► mean, scale
           └─► · up ─► Q: round(y - mean) + mean ─► · down ─► y_hat

    What h_a and h_s learn of y holds at every rate: means and scales follow the grid by themselves.

    Args:
        h_a: see Hyperprior.
        h_s: likewise; a sequence.
        hyper: likewise.
        stride: likewise.

    ``given`` is (up, down), as models/entropy/gains.py has them.

    Reference: Cui et al., Asymmetric Gained Deep Image Compression With Continuous Rate Adaptation, CVPR 2021,
    https://arxiv.org/abs/2003.02012, figure 3. Differs from the paper: there, h_a and h_s meet y in steps of the rate.
    """

    def __init__(self, h_a: nn.Module, h_s: nn.Sequential, hyper: LatentCodec, *, stride: int = 4):
        super().__init__(h_a, _InSteps(*h_s), hyper, stride=stride)

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        up, down = given
        z = self.hyper(self.h_a(y), keys)
        coded = self.estimate(y * up, keys, (z.y_hat, up))
        return LatentOutput(coded.y_hat * down, coded.y_tilde * down, coded.likelihoods | z.likelihoods)

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        up, down = given
        z = None if y is None else self.h_a(y)
        z_hat = self.hyper.code(stream, z, tuple(side // self.stride for side in shape))
        return down * self.code_with(stream, None if y is None else y * up, shape, (z_hat, up))


class _InSteps(nn.Sequential):
    """h_s, whose scales and means are told in steps; its weights are called as a plain one's."""

    def forward(self, z_hat: Tensor, up: Tensor) -> Tensor:
        return super().forward(z_hat) * torch.cat([up, up])
