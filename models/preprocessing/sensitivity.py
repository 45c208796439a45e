"""What a picture's places tell a network: the trace of its Fisher information, block by block."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block_dct import SIDE
from models.frozen import Frozen
from models.padding import pad_to_stride
from models.preprocessing.amplitudes import OfClasses

NEIGHBOURHOOD = 5
"""Blocks along a side: one block's own sensitivity is a rough guess."""
KEPT = 16
"""Answers that are kept: who codes a picture at several rates asks once."""


class Sensitivity(nn.Module):
    """A network that is asked what small errors in each block would cost it.

    To second order, a small error e in a picture moves a network's answer p by KL = 1/2 e^T F e, where

        F = sum over answers y of p(y) (d log p(y) / d x) (d log p(y) / d x)^T

    is the Fisher information: a fact of picture and network, without labels, codec or rate. A block's sensitivity is
    the trace of its part.

    Models do not hold the network: who encodes needs it, who decodes does not. An exported model finds it in its
    package.

    Args:
        network: in ``models.frozen.Frozen``: pictures (B, 3, H, W) in [0, 1] -> what ``answers`` reads; ``None`` in an
            exported model whose weights no installed package holds.
        answers: what the network says -> square roots of probabilities (B, N) (models/preprocessing/amplitudes.py).
            Default: the likeliest class of logits (B, K).
        probes: most ways back through the network, each costs the encoder one: where answers are more, that many
            random sums of them stand for all.

    Raises:
        ValueError: no probe; or, when pictures come, there is no network.
    """

    def __init__(
        self, network: Frozen | None, answers: Callable[[Any], Tensor] | None = None, probes: int = 4
    ):
        super().__init__()
        if probes < 1:
            raise ValueError(f"probes={probes} must be at least 1")
        self.network, self.answers, self.probes = network, answers or OfClasses(), probes
        self.known: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to (B, rows, columns), each picture's mean 1; no gradients.

        Of a block and its neighbours, of the picture and its mirror image.
        """
        if self.network is None:
            raise ValueError(
                "the filter has no network to ask: exported models hold none. `make pretrained` installs published "
                "ones; where the weights came from a file, code with the run itself"
            )
        if self.training:  # every batch is new
            return self._asked(x)
        key = x.shape, x.device, hashlib.blake2b(x.detach().float().cpu().contiguous().numpy()).digest()
        if (found := self.known.get(key)) is None:
            found = self.known[key] = self._asked(x)
            while len(self.known) > KEPT:
                self.known.popitem(last=False)
        return found

    def _asked(self, x: Tensor) -> Tensor:
        # Files are coded in inference mode, whose tensors know no gradients.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = pad_to_stride(x.detach().clone().float(), SIDE)
            found = self._trace(x) + self._trace(x.flip(-1)).flip(-1)
            edge = NEIGHBOURHOOD // 2
            around = F.avg_pool2d(F.pad(found[:, None], (edge,) * 4, mode="replicate"), NEIGHBOURHOOD, 1)[
                :, 0
            ]
            return around / around.mean((1, 2), keepdim=True).clamp_min(torch.finfo(around.dtype).tiny)

    def _trace(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        said = self.answers(self.network(x))
        if (count := said.shape[1]) > self.probes:
            # The mean square of a random sum's slope is the sum of squares. Signs are the same for every picture.
            signs = (
                torch.randint(2, (count, self.probes), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
            )
            said = said @ signs.to(said)
        found = 0
        for one in said.unbind(1):
            (slope,) = torch.autograd.grad(one.sum(), x, retain_graph=True)
            found = found + F.avg_pool2d(slope.square().sum(1), SIDE)
        return found
