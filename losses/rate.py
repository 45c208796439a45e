"""Rate: what the bits of a batch cost."""

import torch
from torch import Tensor, nn

from models.outputs import CodecOutput


class Rate(nn.Module):
    """R: mean over the batch of the bits of all layers, in bits per pixel of the unpadded image."""

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar, bits per pixel; reads ``output.bits`` and nothing else."""
        height, width = output.size
        return torch.stack(list(output.bits.values())).sum(0).mean() / (height * width)
