"""TimmFeatures: feature maps of any timm backbone, entered with pixels or in the middle with a latent.

    pixels   (B, 3, H, W)      - mean/std -> stem -> level 0 -> level 1 -> ... -> last level
    latent   (B, M, H/s, W/s)  - 1x1 conv, group norm -> [level of stride s] -> ... -> last level

Legend: B batch, M latent channels, s the latent's stride; a level is one resolution of a backbone.
"""

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models import FeatureListNet
from torch import Tensor, nn

from models.heads.backbones import create_backbone
from models.heads.norms import NormalisePixels, group_norm
from models.outputs import LatentSpec


def is_pixels(spec: LatentSpec) -> bool:
    """Whether a spec describes RGB pictures, which enter a network through its own stem."""
    return spec.kind == "map" and spec.stride == 1 and spec.channels == 3


class TimmFeatures(nn.Module):
    """A timm backbone as a list of feature maps, fine to coarse, reading pixels or a latent map.

    Pixels pass the whole network, behind its own mean and std. A latent replaces everything up to the level
    of its stride, so that no weight is spent on undoing the codec; the adapted latent is the finest map.

    Args:
        spec: what is read; a map.
        backbone: timm's name of a network that has ``features_only``.
        pretrained: load timm's published weights, from the local cache or the network.
        weights: load this timm checkpoint, or that of an installed ``package:NAME``, instead; needs no network.
        entry_stride: stride at which a latent enters, if finer than its own: pixel shuffle leads there. More
            of the backbone is kept, and details that a coarse latent holds in its channels get their place.
        max_stride: drop levels coarser than this.
        as_image: pass the latent through the whole network, as a picture of M channels. For transformers add
            ``backbone_args: {patch_size: 1, img_size: 16, dynamic_img_size: true}``.
        norm: ``"own"``, ``"group"`` to replace the backbone's batch norm by group norm, or ``"frozen"`` to keep its
            statistics and factors as the weights bring them.
        backbone_args: further arguments of ``timm.create_model``; ``{strict_img_size: false}`` for swin.

    Attributes:
        channels: channels of each map returned.
        strides: image pixels per position of each map returned.

    Raises:
        ValueError: ``spec`` is no map, or this backbone cannot be entered at that stride.
        RuntimeError: ``pretrained`` weights cannot be had.

    Example:
        >>> features = TimmFeatures(LatentSpec("map", 48, "base", stride=16), "resnet10t", entry_stride=8)
        >>> features.strides, features.channels
        ((8, 16, 32), (128, 256, 512))
        >>> [tuple(f.shape) for f in features(torch.zeros(1, 48, 4, 4))]
        [(1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]
    """

    def __init__(
        self,
        spec: LatentSpec,
        backbone: str,
        *,
        pretrained: bool = False,
        weights: str | os.PathLike[str] | None = None,
        entry_stride: int | None = None,
        max_stride: int | None = None,
        as_image: bool = False,
        norm: Literal["own", "frozen", "group"] = "own",
        backbone_args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if spec.kind != "map" or spec.stride is None:
            raise ValueError(
                f"a backbone reads maps, not a latent of kind {spec.kind!r}: choose another `head`"
            )
        whole = as_image or is_pixels(spec)
        if whole and entry_stride is not None:
            raise ValueError(
                "`entry_stride` is for latents that enter in the middle: not for pixels or `as_image`"
            )
        arguments = dict(backbone_args or {})
        if as_image:
            arguments["in_chans"] = spec.channels
        net = _feature_net(backbone, pretrained=pretrained, weights=weights, norm=norm, arguments=arguments)
        levels = list(zip(net.feature_info.reduction(), net.feature_info.channels(), strict=True))
        cuttable = isinstance(net, FeatureListNet)
        if not cuttable and (not whole or max_stride is not None):
            raise ValueError(
                f"timm gives {backbone!r} in one piece, so that it can neither be entered in the middle nor "
                "shortened: choose another backbone (resnet, convnext, regnet, edgenext, efficientnet...) or,"
                " for a latent, `as_image: true`"
            )

        self.nhwc = cuttable and net.output_fmt == "NHWC"
        self.input = (
            NormalisePixels(net.pretrained_cfg["mean"], net.pretrained_cfg["std"])
            if is_pixels(spec)
            else nn.Identity()
        )
        self.adapter: nn.Module | None = None
        self.stages: nn.ModuleList | None = None
        self.net: nn.Module | None = None
        if not cuttable:
            self.net = net
        elif whole:
            levels = [level for level in levels if level[0] <= (max_stride or level[0])]
            self.stages = _split(net)[: len(levels)]
        else:
            entry = _entry_level(
                spec, backbone, entry_stride or spec.stride, [stride for stride, _ in levels]
            )
            kept = [level for level in levels[entry + 1 :] if level[0] <= (max_stride or level[0])]
            if not kept:
                behind = levels[entry][0]
                raise ValueError(
                    f"`max_stride`={max_stride} leaves nothing of {backbone!r} behind stride {behind}"
                )
            self.stages = _split(net)[entry + 1 : entry + 1 + len(kept)]
            levels = [levels[entry], *kept]
            self.adapter = _adapter(spec, stride=levels[0][0], width=levels[0][1])
        if not levels:
            raise ValueError(f"`max_stride`={max_stride} leaves nothing of {backbone!r}")

        scale = spec.stride if as_image else 1
        self.strides = tuple(scale * stride for stride, _ in levels)
        self.channels = tuple(width for _, width in levels)
        # Zeros at the right and the bottom, up to whole positions of the coarsest map: strides stay exact.
        self.multiple = max(1, self.strides[-1] // spec.stride)
        if self.adapter is not None:
            self._check_cut(spec, backbone)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of pictures (B, 3, H, W) in [0, 1], or of a latent (B, M, H/s, W/s); any H and W.

        Returns:
            For each level (B, channels, h, w), covering the input padded at the right and the bottom.
        """
        x = self.input(x)
        x = F.pad(x, (0, -x.shape[-1] % self.multiple, 0, -x.shape[-2] % self.multiple))
        if self.net is not None:
            return list(self.net(x))
        maps = []
        if self.adapter is not None:
            x = self.adapter(x)
            maps.append(x)
            x = x.permute(0, 2, 3, 1) if self.nhwc else x
        for stage in self.stages:
            x = stage(x)
            # Some families hand a tuple from stage to stage; its first part is the feature, as in timm.
            feature = x[0] if isinstance(x, (tuple, list)) else x
            maps.append(feature.permute(0, 3, 1, 2) if self.nhwc else feature)
        return maps

    def _check_cut(self, spec: LatentSpec, backbone: str) -> None:
        """Run the shortened network once: not every family's parts work without those before them."""
        side = 2 * self.multiple
        self.eval()
        try:
            with torch.no_grad():
                shapes = [tuple(f.shape[1:]) for f in self(torch.zeros(1, spec.channels, side, side))]
        except Exception as error:
            raise ValueError(
                f"{backbone!r} does not run when entered at stride {self.strides[0]} ({error}): choose "
                "another backbone or, if made for one input size, free that (swin: `strict_img_size: false` "
                "in `backbone_args`)"
            ) from error
        self.train()
        pixels = side * spec.stride
        expected = [(c, pixels // s, pixels // s) for c, s in zip(self.channels, self.strides, strict=True)]
        if shapes != expected:
            raise ValueError(
                f"{backbone!r} entered at stride {self.strides[0]} gives maps {shapes}, not {expected}"
            )


def _feature_net(
    backbone: str, *, pretrained: bool, weights: Any, norm: Any, arguments: dict[str, Any]
) -> nn.Module:
    """timm's ``features_only`` network, as a list of parts wherever timm can make one."""

    def build(extra: dict[str, Any]) -> nn.Module:
        merged = {"features_only": True, **extra, **arguments}
        return create_backbone(backbone, pretrained=pretrained, weights=weights, norm=norm, arguments=merged)

    try:
        net = build({})
    except (AttributeError, RuntimeError) as error:
        if "features" not in str(error):
            raise
        raise ValueError(f"timm has no `features_only` for {backbone!r}: {error}") from error
    if isinstance(net, FeatureListNet):
        return net
    try:
        # EfficientNets and MobileNets have feature classes of their own, but their blocks make a list too.
        return build({"feature_cfg": {"feature_cls": "list", "flatten_sequential": True}})
    except (TypeError, AssertionError):
        return net


def _split(net: FeatureListNet) -> nn.ModuleList:
    """The parts of a network, grouped so that the i-th group ends with the i-th level."""
    groups: list[list[nn.Module]] = [[]]
    for name, part in net.items():
        groups[-1].append(part)
        if name in net.return_layers:
            groups.append([])
    return nn.ModuleList(nn.Sequential(*group) for group in groups[:-1])


def _entry_level(spec: LatentSpec, backbone: str, stride: int, strides: list[int]) -> int:
    """Index of the level that a latent replaces; something of the network must lie behind it."""
    if stride in strides[:-1] and strides[-1] > stride and spec.stride % stride == 0:
        return strides.index(stride)
    possible = sorted({a for a, b in pairwise(strides) if spec.stride % a == 0 and strides[-1] > a})
    advice = f"set `entry_stride` to one of {possible} or " if possible else ""
    raise ValueError(
        f"a latent of stride {spec.stride} cannot enter {backbone!r} at stride {stride} (its levels: "
        f"{strides}): {advice}set `as_image: true`"
    )


def _adapter(spec: LatentSpec, *, stride: int, width: int) -> nn.Sequential:
    """1x1 convolution to the entry level's width, then pixel shuffle where that level is finer."""
    ratio = spec.stride // stride
    layers: list[nn.Module] = [nn.Conv2d(spec.channels, width * ratio**2, 1)]
    if ratio > 1:
        layers.append(nn.PixelShuffle(ratio))
    return nn.Sequential(*layers, group_norm(width))
