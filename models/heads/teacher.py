"""Teachers: whole trained networks that are asked what they see in the original."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.heads.backbones import create_backbone
from models.heads.norms import NormalisePixels


class TimmTeacher(nn.Module):
    """Any timm classifier on pixels in [0, 1], with its own classes.

    Args:
        backbone: timm's name.
        pretrained: load timm's published weights, from the local cache or the network.
        weights: load this timm checkpoint, or that of an installed ``package:NAME``, instead; needs no network.
        backbone_args: further arguments of ``timm.create_model``.

    Example:
        >>> import torch
        >>> TimmTeacher("test_vit", backbone_args={"num_classes": 7})(torch.rand(2, 3, 160, 160)).shape
        torch.Size([2, 7])
    """

    def __init__(
        self,
        backbone: str,
        *,
        pretrained: bool = False,
        weights: str | os.PathLike[str] | None = None,
        backbone_args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.net = create_backbone(backbone, pretrained=pretrained, weights=weights, arguments=backbone_args)
        cfg = self.net.pretrained_cfg
        self.normalise = NormalisePixels(cfg["mean"], cfg["std"])
        # The layout that CPUs and tensor cores convolve in.
        self.to(memory_format=torch.channels_last)

    @property
    def num_outputs(self) -> int:
        """Its classes."""
        return self.net.num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, K) of pictures (B, 3, H, W) in [0, 1]."""
        return self.net(self.normalise(x).contiguous(memory_format=torch.channels_last))
