"""A filter that knows what a picture's places tell a network, and drops what costs bits where they tell nothing."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block_dct import LUMA_TABLE, SIDE, TO_YCBCR, blocks_of, dct_matrix, plane_of
from models.frozen import Frozen
from models.padding import crop, pad_to_stride
from models.preprocessing.amplitudes import OfClasses

NEIGHBOURHOOD = 5
"""Blocks along a side: one block's own sensitivity is a rough guess."""
FLOOR = 0.05
"""Added to sensitivities, whose mean is 1: nothing is worth no bit at all."""
MOST = 4.0
"""The largest coefficient that may go, in steps."""
SOFTNESS = 0.08
"""Of the threshold, in steps: what gradients need."""


class InformedFilter(nn.Module):
    r"""Drops coefficients of luma whose bits buy the network nothing.

    ::

        x ─┬─► network and back ─► sensitivity of blocks ─► thresholds(level)
           └─► DCT of blocks ───────────────────────────────► · kept ─► filtered

    To second order, a small error e in a picture moves a network's answer p by KL = 1/2 e^T F e, where

        F = sum over answers y of p(y) (d log p(y) / d x) (d log p(y) / d x)^T

    is the Fisher information: a fact of picture and network, without labels, codec or rate. A block's sensitivity s is
    the trace of its part. An encoder that weighs bits against such errors, coding in steps of q, drops a coefficient c
    where |c| / q < 1/2 + amount / s: the amount is what a bit is worth. With the standard's steps, and a power of s,
    that is how the filter begins; ``thresholds`` has an amount for each frequency and rate, which may learn. Models
    do not hold the network: who encodes needs it, who decodes does not. An exported model finds it in its package.

    Args:
        network: in ``models.frozen.Frozen``: pictures (B, 3, H, W) in [0, 1] -> what ``answers`` reads; ``None`` in an
            exported model whose weights no installed package holds.
        answers: what the network says -> square roots of probabilities (B, N) (models/preprocessing/amplitudes.py).
            Default: the likeliest class of logits (B, K).
        probes: most ways back through the network, each costs the encoder one: where answers are more, that many
            random sums of them stand for all.
        steps: of the codec's quantisation, at the lowest and the highest rate: multiples of JPEG's at quality 50.
        flat: the codec's steps are alike at all frequencies; ``steps`` are then in 8-bit levels.
        amount: what all amounts are at first, at the lowest and the highest rate.
        power: of the sensitivity, at first; above 1, for large errors are worse than small ones say.

    Raises:
        ValueError: a number is out of range; or, when pictures come, there is no network.
    """

    def __init__(
        self,
        network: Frozen | None,
        *,
        answers: Callable[[Any], Tensor] | None = None,
        probes: int = 4,
        steps: tuple[float, float] = (10.0, 1.25),
        flat: bool = False,
        amount: tuple[float, float] = (0.04, 0.04),
        power: float = 3.0,
    ):
        if probes < 1:
            raise ValueError(f"probes={probes} must be at least 1")
        super().__init__()
        self.network, self.answers, self.probes = network, answers or OfClasses(), probes
        self.thresholds = Thresholds(steps, amount, power, flat=flat)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        self.register_buffer("luma", TO_YCBCR[0].clone(), persistent=False)

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        if self.network is None:
            raise ValueError(
                "the filter has no network to ask: exported models hold none. `make pretrained` installs published "
                "ones; where the weights came from a file, code with the run itself"
            )
        known = sensitivity(lambda x: self.answers(self.network(x)), x, self.probes)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            padded = pad_to_stride(x, SIDE)
            luma = torch.einsum("c,bchw->bhw", 255 * self.luma, padded)
            coefficients = blocks_of(luma) @ self.dct.T
            dropped = coefficients * (1 - self.thresholds(coefficients, known, level))
            # Red, green and blue change alike: chroma stays.
            return x - crop(plane_of(dropped @ self.dct)[:, None] / 255, tuple(x.shape[-2:]))


class Thresholds(nn.Module):
    """What stays of each coefficient: next to nothing below 1/2 + amount / (s + FLOOR) ** power steps, else all.

    Amounts, one for each frequency, and the power are straight in the level, amounts by their logarithm.

    Args:
        steps: see InformedFilter.
        amount: see InformedFilter.
        power: see InformedFilter.
        flat: see InformedFilter.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, steps: tuple[float, float], amount: tuple[float, float], power: float, *, flat: bool = False
    ):
        super().__init__()
        if min(*steps, *amount) <= 0:
            raise ValueError(f"steps={list(steps)} and amount={list(amount)} must be above 0")
        table = torch.zeros(SIDE**2) if flat else torch.tensor(LUMA_TABLE).log()
        self.register_buffer("log_steps", torch.stack([table + math.log(s) for s in steps]))
        self.log_amount = nn.Parameter(torch.tensor(amount).log()[:, None].repeat(1, SIDE**2))
        self.power = nn.Parameter(torch.full((2,), power))

    def forward(self, coefficients: Tensor, sensitivity: Tensor, level: float) -> Tensor:
        """Shares in [0, 1].

        Args:
            coefficients: in 8-bit units, (B, rows, columns, 64).
            sensitivity: (B, rows, columns), mean 1.
            level: in [0, 1].
        """
        step, amount, power = (
            torch.lerp(*ends, level) for ends in (self.log_steps, self.log_amount, self.power)
        )
        needed = 0.5 + (amount - power * (sensitivity[..., None] + FLOOR).log()).exp().clamp(max=MOST)
        kept = torch.sigmoid((coefficients.abs() / step.exp() - needed) / SOFTNESS)
        return torch.cat([torch.ones_like(kept[..., :1]), kept[..., 1:]], -1)  # blocks keep their means


def sensitivity(answers: Callable[[Tensor], Tensor], x: Tensor, probes: int) -> Tensor:
    """How much blocks tell, (B, rows, columns), each picture's mean 1; no gradients.

    That is the trace of the Fisher information of a block's pixels, and of its neighbours', of the picture and its
    mirror image.

    Args:
        answers: of pictures, as InformedFilter's of what its network says; what it holds stands still.
        x: pictures (B, 3, H, W) in [0, 1].
        probes: see InformedFilter.
    """
    # Files are coded in inference mode, whose tensors know no gradients.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = pad_to_stride(x.detach().clone().float(), SIDE)
        found = _trace(answers, x, probes) + _trace(answers, x.flip(-1), probes).flip(-1)
    edge = NEIGHBOURHOOD // 2
    around = F.avg_pool2d(F.pad(found[:, None], (edge,) * 4, mode="replicate"), NEIGHBOURHOOD, 1)[:, 0]
    return around / around.mean((1, 2), keepdim=True).clamp_min(torch.finfo(around.dtype).tiny)


def _trace(answers: Callable[[Tensor], Tensor], x: Tensor, probes: int) -> Tensor:
    x = x.detach().requires_grad_()
    said = answers(x)
    count = said.shape[1]
    if count > probes:
        # Independent signs: the mean square of a random sum's slope is the sum of squares. The same for every picture.
        signs = torch.randint(2, (count, probes), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        said = said @ signs.to(said)
    found = 0
    for one in said.unbind(1):
        (slope,) = torch.autograd.grad(one.sum(), x, retain_graph=True)
        found = found + F.avg_pool2d(slope.square().sum(1), SIDE)
    return found
