"""Rate control: a lmbda that a stage finds by itself, so that the codec ends at a wanted number of bits a pixel."""

import math

import torch
from torch import Tensor, nn

from losses.schedules import Scalar, value_at


class TwoLevels:
    """One value while a batch takes more bits than wanted, another while it takes fewer.

    As ``lmbda``, ``under`` is the larger: who has bits to spare may spend them on distortion.

    Args:
        bpp: wanted bits per pixel, mean over the batch.
        over: the value where a batch takes more: a number or a schedule.
        under: the value where it takes no more.

    Raises:
        ValueError: ``bpp`` is not above 0.

    Reference: Mentzer et al., High-Fidelity Generative Image Compression, NeurIPS 2020,
    https://arxiv.org/abs/2006.09965, section 3.3 and appendix A.1. Differs from the paper, where the two values
    multiply the rate: here rate has weight 1 and ``lmbda`` is their inverse.
    """

    def __init__(self, bpp: float, *, over: Scalar, under: Scalar):
        self.bpp, self.over, self.under = _checked(bpp), over, under

    def __call__(self, progress: float, rate: float | None = None, bpp: Tensor | None = None) -> Tensor:
        """The value for answers of ``bpp`` bits a pixel, (B,).

        Raises:
            ValueError: what trains counts no bits.
        """
        spent = mean_over_ranks(bpp)
        over, under = (spent.new_tensor(float(value_at(v, progress, rate))) for v in (self.over, self.under))
        return torch.where(spent > self.bpp, over, under)


class TargetBpp(nn.Module):
    """A value that rises while training batches take fewer bits than wanted, and falls while they take more.

    Its logarithm moves by ``gain`` times that of wanted over spent bits with every training batch, so it comes to rest
    where the codec takes what is wanted. It is kept in checkpoints, and stands still in validation.

    Args:
        bpp: wanted bits per pixel, mean over batches.
        start: value at the stage's beginning.
        gain: share of a batch's error, in logarithms, that is taken over: about 1 / (batches of memory).
        low: least value.
        high: greatest value.

    Raises:
        ValueError: ``bpp`` or ``gain`` is not above 0, or ``start`` outside ``low`` .. ``high``.
    """

    def __init__(self, bpp: float, *, start: float, gain: float = 0.01, low: float = 1e-6, high: float = 1e3):
        super().__init__()
        if gain <= 0 or not 0 < low <= start <= high:
            raise ValueError(
                f"gain={gain} must be above 0, and start={start} within low={low} .. high={high}, all above 0"
            )
        self.bpp, self.gain = _checked(bpp), gain
        self.bounds = math.log(low), math.log(high)
        self.register_buffer("log_value", torch.tensor(math.log(start)))

    def forward(self, progress: float, rate: float | None = None, bpp: Tensor | None = None) -> Tensor:
        """The value for this batch; in training, the next one's has learned from its bits.

        Raises:
            ValueError: what trains counts no bits, or codes at several rates.
        """
        if rate is not None:
            raise ValueError(
                f"TargetBpp finds one lmbda for bpp={self.bpp}, and what trains has several rates: give lmbda as "
                "losses.schedules.OfRate"
            )
        spent, value = mean_over_ranks(bpp), self.log_value.exp()
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                # A batch that is far off, or broken, says no more than which way to go.
                error = (math.log(self.bpp) - spent.log()).nan_to_num(0.0).clamp(-1, 1)
                self.log_value.add_(self.gain * error).clamp_(*self.bounds)
        return value


def mean_over_ranks(bpp: Tensor | None) -> Tensor:
    """Mean of all processes' answers, scalar, without gradient: all of them must come to the same value.

    Raises:
        ValueError: there are no bits.
    """
    if bpp is None:
        raise ValueError("a scalar follows the bits of the batch, and what trains counts none")
    mean = bpp.detach().float().mean()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean


def _checked(bpp: float) -> float:
    if not bpp > 0:
        raise ValueError(f"bpp={bpp} must be above 0")
    return float(bpp)
