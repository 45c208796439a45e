"""Log saving: bits and a task's loss against those of the same codec without a filter, in one number."""

import torch
from torch import Tensor, nn

from losses.schedules import Scalar, value_at
from losses.term import Term
from models.outputs import CodecOutput


class LogSaving(Term):
    """ln(b / b0) + ln((d + floor) / (d0 + floor)) / slope, mean over images: it reads as a saving, and needs no lmbda.

    b are the bits and d is how far the task's predictions on the decode are from those on the original (no labels); b0
    and d0 are the codec's own on the unfiltered picture at the same rate. ``slope`` is by how much ln d falls where
    ln b rises along the codec's own ladder: a value of -0.1 is what 10 % fewer bits at equal d are worth.

    Args:
        task: name of the one that judges; a head on pixels, frozen in the stage.
        slope: a number or a schedule, usually of the rate.
        floor: of d, in its unit: images that are read as well as the original are no reason for yet more bits.
    """

    reads = ("bits", "pixels")

    def __init__(self, task: str, *, slope: Scalar = 1.0, floor: float = 0.05):
        super().__init__()
        if floor <= 0:
            raise ValueError(f"floor={floor} must be above 0: the logarithm of d = 0 is none")
        self.slope, self.floor = slope, floor
        self.uses = ("codec", f"tasks.{task}")

    def forward(self, output: CodecOutput, batch: dict, codec: nn.Module, task: nn.Module) -> Tensor:
        """Scalar; 0 for a filter that does nothing."""
        x = batch["image"]
        compare, plain = task.compared_with(x), codec.unfiltered(x, output.rate)
        with torch.no_grad():
            before = compare(plain.x_hat)
        bits = (sum(output.bits.values()) / plain.bits["base"]).log()
        worse = ((compare(output.x_hat) + self.floor) / (before + self.floor)).log()
        return (bits + worse / value_at(self.slope, 0.0, output.rate)).mean()
