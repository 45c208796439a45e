"""A filter that knows what a picture's blocks tell a classifier: gains follow the Fisher information of gains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.padding import pad_to_stride
from models.preprocessing.blocks import NUM_BANDS, SIDE, band_contrasts, grid_of, summed_bands
from models.preprocessing.gain_filter import GainFilter

NEIGHBOURHOOD = 5
"""Blocks along a side: one block's own information is a rough guess."""


class InformedFilter(GainFilter):
    r"""A band of a block may go where the classifier's answer does not depend on it, the more the more it costs.

    To second order, gains g on a picture move a classifier's answer p by KL = 1/2 (g - 1)^T F (g - 1), where

        F_bb = sum over classes y of p(y) (d log p(y) / d g_b)^2

    is the Fisher information of the gain of band b of some block, at g = 1: a fact of picture and network, without
    labels, codec or rate. What is learned is how much to remove where, at each rate (Allotment).

    Args:
        network: a classifier: pictures (B, 3, H, W) in [0, 1] -> logits (B, K).
        classes: how many of the likeliest stand for all; each costs the encoder a way back through the network.

    Raises:
        ValueError: ``classes`` is less than 1.
    """

    def __init__(self, network: nn.Module, *, classes: int = 1):
        if classes < 1:
            raise ValueError(f"classes={classes} must be at least 1")
        super().__init__(network, Allotment())
        self.classes = classes

    def gains(self, x: Tensor, level: float) -> Tensor:
        """See GainFilter."""
        found = information(self.network, x, self.classes)
        edge = NEIGHBOURHOOD // 2
        around = F.avg_pool2d(F.pad(found, (edge,) * 4, mode="replicate"), NEIGHBOURHOOD, 1)
        return self.decision(_relative(around), band_contrasts(x).detach(), level)


class Allotment(nn.Module):
    """1 + shift + slope * score, kept within 0 and 2: scores are what blocks' bands tell for what they cost.

    A score is a sum of the logarithms of information and of contrast, less its mean over the picture. Shift and slope
    of each band are straight in the level, and 0 at first. These are a few numbers, which little training finds.
    """

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(2 * NUM_BANDS, NUM_BANDS, 1, bias=False)
        self.of_level = nn.Linear(1, 2 * NUM_BANDS)
        with torch.no_grad():
            # Bits of a block grow by about that power of e for each doubling of its contrast.
            own = torch.eye(NUM_BANDS)
            self.score.weight.copy_(torch.cat([own, -0.45 * own], 1)[..., None, None])
        nn.init.zeros_(self.of_level.weight)
        nn.init.zeros_(self.of_level.bias)

    def forward(self, information: Tensor, contrasts: Tensor, level: float) -> Tensor:
        """(B, NUM_BANDS, rows, columns) each, in logarithms, to gains of that shape in [0, 2]."""
        score = self.score(torch.cat([information, contrasts], 1))
        score = score - score.mean((2, 3), keepdim=True)
        at = torch.full((1,), level, device=score.device, dtype=score.dtype)
        shift, slope = self.of_level(at)[:, None, None].chunk(2)
        return (1 + shift + slope * score).clamp(0, 2)


def information(network: nn.Module, x: Tensor, classes: int) -> Tensor:
    """Fisher information of the gains of all blocks and bands, (B, NUM_BANDS, *grid_of((H, W))); no gradients.

    Args:
        network: see InformedFilter; held still.
        x: pictures (B, 3, H, W) in [0, 1].
        classes: see InformedFilter.
    """
    # Files are coded in inference mode, whose tensors know no gradients.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = pad_to_stride(x.detach().clone().float(), SIDE).requires_grad_()
        answer = network(x).float().log_softmax(1)
        likeliest, which = answer.detach().exp().topk(min(classes, answer.shape[1]))
        found = x.new_zeros(len(x), NUM_BANDS, *grid_of(tuple(x.shape[-2:])))
        for share, y in zip(likeliest.T, which.T, strict=True):
            (slope,) = torch.autograd.grad(answer.gather(1, y[:, None]).sum(), x, retain_graph=True)
            found += share[:, None, None, None] * summed_bands(x.detach(), slope).square()
        return found


def _relative(found: Tensor) -> Tensor:
    """In factors of e over the picture's mean, above a thousandth of it."""
    mean = found.mean((1, 2, 3), keepdim=True)
    return (found / mean.clamp_min(torch.finfo(found.dtype).tiny) + 1e-3).log()
