"""Classification heads: a whole timm classifier on pixels, or pooled features of pixels or a latent."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.heads.backbones import create_backbone
from models.heads.features import is_pixels
from models.heads.norms import NormalisePixels
from models.outputs import LatentSpec

SIZE_ARGUMENTS = ("img_size", "dynamic_img_size", "strict_img_size")
"""timm arguments by which a user takes over which picture sizes a network accepts."""


class TimmClassifier(nn.Module):
    """Any timm classifier, its own pooling and last layer included, on pixels in [0, 1].

    Args:
        specs: what is read: pixels alone.
        num_outputs: number of classes.
        backbone: timm's name.
        pretrained: load timm's published weights, from the local cache or the network.
        weights: load this timm checkpoint, or that of an installed ``package:NAME``, instead; needs no network.
        input_size: resize pictures to this side before the network (bilinear, antialiased). The default
            leaves them alone, unless the network takes one size only, as most transformers: then that size.
        norm: ``"own"``, or ``"group"`` to replace batch norm by group norm.
        backbone_args: further arguments of ``timm.create_model``, e.g. ``{drop_rate: 0.2}``.

    Raises:
        ValueError: ``specs`` is not pixels.

    Example:
        >>> import torch
        >>> head = TimmClassifier([LatentSpec("map", 3, "base", stride=1)], 10, backbone="test_vit")
        >>> head(torch.rand(2, 3, 70, 90), size=(70, 90)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        backbone: str,
        pretrained: bool = False,
        weights: str | os.PathLike[str] | None = None,
        input_size: int | None = None,
        norm: Literal["own", "group"] = "own",
        backbone_args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if len(specs) != 1 or not is_pixels(specs[0]):
            raise ValueError(
                f"TimmClassifier reads pixels, not {list(specs)}: use FeatureClassifier for latents"
            )
        arguments = {"num_classes": num_outputs, **(backbone_args or {})}
        self.net = create_backbone(
            backbone, pretrained=pretrained, weights=weights, norm=norm, arguments=arguments
        )
        cfg = self.net.pretrained_cfg
        self.normalise = NormalisePixels(cfg["mean"], cfg["std"])
        self.input_size = None if input_size is None else (input_size, input_size)
        size_is_free = any(name in arguments for name in SIZE_ARGUMENTS)
        if self.input_size is None and cfg.get("fixed_input_size") and not size_is_free:
            self.input_size = tuple(cfg["input_size"][-2:])

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Class logits (B, num_outputs) of pictures (B, 3, H, W) in [0, 1]; ``size`` is not needed."""
        if self.input_size is not None:
            x = F.interpolate(
                x.float(), self.input_size, mode="bilinear", align_corners=False, antialias=True
            )
        return self.net(self.normalise(x))


class FeatureClassifier(nn.Module):
    """Backbone features, averaged over the picture, and one linear layer.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of classes.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse,
            and publishes their ``channels`` and ``strides`` (TimmFeatures).
        dropout: probability of dropping a pooled feature in training.

    Raises:
        ValueError: more than one map is read.

    Example:
        >>> import torch; from functools import partial
        >>> from models.heads.features import TimmFeatures
        >>> y = LatentSpec("map", 48, "base", stride=16)
        >>> head = FeatureClassifier([y], 10, features=partial(TimmFeatures, backbone="resnet10t"))
        >>> head(torch.rand(2, 48, 8, 8), size=(70, 90)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"FeatureClassifier reads one map, not {len(specs)}")
        self.features = features(specs[0])
        self.stride = self.features.strides[-1]
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.features.channels[-1], num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Class logits (B, num_outputs) of a map (B, M, h, w) that covers an image of ``size`` (H, W)."""
        last = self.features(x)[-1]
        # Positions that lie in the padding alone say nothing about the picture.
        # Rounded up without negative numbers, whose division ONNX rounds the other way.
        height, width = ((side + self.stride - 1) // self.stride for side in size)
        last = last[..., :height, :width]
        return self.linear(self.dropout(last.mean((-2, -1))))
