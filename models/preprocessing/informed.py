"""A filter that knows what a picture's blocks tell a classifier: gains follow the Fisher information of gains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.padding import pad_to_stride
from models.preprocessing.blocks import NUM_BANDS, SIDE, band_contrasts, grid_of, summed_bands
from models.preprocessing.decision import Decision
from models.preprocessing.gain_filter import GainFilter


class InformedFilter(GainFilter):
    r"""A band of a block may go where the classifier's answer does not depend on it, the more the more it costs.

    To second order, gains g on a picture move a classifier's answer p by KL = 1/2 (g - 1)^T F (g - 1), where

        F_bb = sum over classes y of p(y) (d log p(y) / d g_b)^2

    is the Fisher information of the gain of band b of some block, at g = 1: a fact of picture and network, without
    labels, codec or rate. The decision learns what to make of it and of the contrasts, at each rate.

    Args:
        network: a classifier: pictures (B, 3, H, W) in [0, 1] -> logits (B, K).
        classes: how many of the likeliest stand for all; each costs the encoder a way back through the network.
        width: see Decision.
        depth: see Decision.
        hidden: see Decision.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, network: nn.Module, *, classes: int = 1, width: int = 32, depth: int = 2, hidden: int = 16
    ):
        if classes < 1:
            raise ValueError(f"classes={classes} must be at least 1")
        # Of each band: its contrast, its information, and that of its neighbourhood.
        super().__init__(network, Decision(3 * NUM_BANDS, (), width, depth, hidden))
        self.classes = classes

    def gains(self, x: Tensor, level: float) -> Tensor:
        """See GainFilter."""
        found = information(self.network, x, self.classes)
        around = F.avg_pool2d(F.pad(found, (1, 1, 1, 1), mode="replicate"), 3, 1)
        told = [band_contrasts(x).detach(), _relative(found), _relative(around)]
        return self.decision(torch.cat(told, 1), (), level)


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
