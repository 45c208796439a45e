"""Normalisations: group norm that fits any width, batch norm replaced by it, and a picture's mean and std."""

from collections.abc import Sequence

import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import Tensor, nn

MAX_GROUPS = 32
MIN_GROUP_WIDTH = 8


def num_groups(channels: int) -> int:
    """Most groups, at most 32, that divide ``channels`` and hold at least 8 channels each (else one group).

    Groups of one channel would be instance norm, which removes the mean that global pooling is about to read.

    Example:
        >>> num_groups(64), num_groups(88), num_groups(512), num_groups(7)
        (8, 11, 32, 1)
    """
    most = max(1, min(MAX_GROUPS, channels // MIN_GROUP_WIDTH))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm over ``channels``: unlike batch norm, it depends neither on batch size nor on ranks."""
    return nn.GroupNorm(num_groups(channels), channels)


def batch_norm_to_group_norm(module: nn.Module) -> nn.Module:
    """Replace every ``BatchNorm2d`` inside ``module`` by group norm, keeping its scale and shift, in place.

    timm's batch norms that hold their activation (``BatchNormAct2d``) become ``GroupNormAct`` with it.

    Returns:
        ``module``, or its replacement when it is a batch norm itself.
    """
    if isinstance(module, nn.BatchNorm2d):
        groups = num_groups(module.num_features)
        if isinstance(module, BatchNormAct2d):
            new: nn.GroupNorm = GroupNormAct(module.num_features, groups)
            new.act, new.drop = module.act, module.drop
        else:
            new = nn.GroupNorm(groups, module.num_features)
        if module.affine:
            # Zero-initialised scales (the last norm of a residual branch) must stay zero.
            new.weight, new.bias = module.weight, module.bias
        return new
    for name, child in module.named_children():
        setattr(module, name, batch_norm_to_group_norm(child))
    return module


class NormalisePixels(nn.Module):
    """(x - mean) / std by channel: from the project's [0, 1] pictures to what a timm network was trained on.

    Args:
        mean: of each channel, for pictures in [0, 1].
        std: of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to the same shape, normalised."""
        return (x - self.mean) / self.std
