"""FeatureSegmenter: class logits for every image pixel, from backbone features of pixels or of a latent.

    features  coarse -> ... -> fine     light feature pyramid: 1x1 lateral convolutions, summed on the way up
              -> x2 -> ... -> x2        learned upsampling to ``output_stride``, if the finest map is coarser
              -> 1x1 -> bilinear to stride 1 -> crop to (H, W)

Reference: Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144 (feature pyramid).
Differs from the paper: group norm, and one prediction, from the finest map.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models.heads.pyramid import Laterals, conv_block, enlarge
from models.outputs import LatentSpec


class FeatureSegmenter(nn.Module):
    """Backbone features, a feature pyramid, and a classifier of every pixel.

    Everything is aligned with the image's top-left corner: maps are enlarged by their exact stride and then
    cropped at the right and the bottom, where padding lies.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of classes.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse,
            and publishes their ``channels`` and ``strides`` (TimmFeatures).
        width: channels of the pyramid.
        output_stride: pixels per position where classes are decided; maps finer than this are left out.

    Raises:
        ValueError: more than one map is read, or ``output_stride`` cannot be reached by doubling.

    Example:
        >>> import torch; from functools import partial
        >>> from models.heads.features import TimmFeatures
        >>> y = LatentSpec("map", 48, "base", stride=16)
        >>> head = FeatureSegmenter([y], 10, features=partial(TimmFeatures, backbone="resnet10t"))
        >>> head(torch.rand(2, 48, 8, 8), size=(70, 90)).shape
        torch.Size([2, 10, 70, 90])
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        width: int = 64,
        output_stride: int = 4,
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"FeatureSegmenter reads one map, not {len(specs)}")
        self.features = features(specs[0])
        levels = list(zip(self.features.strides, self.features.channels, strict=True))
        # The coarsest map always counts: a backbone may end finer than `output_stride`.
        used = [level for level in levels if level[0] >= output_stride] or levels[-1:]
        strides = [stride for stride, _ in used]
        self.lateral = Laterals([channels for _, channels in used], strides, width)
        self.merge = conv_block(width, width)
        self.upsample = nn.Sequential()
        stride = strides[0]
        while stride > output_stride:
            self.upsample.append(
                nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), conv_block(width, width))
            )
            stride, odd = divmod(stride, 2)
            if odd or stride < output_stride:
                raise ValueError(
                    f"`output_stride`={output_stride} is not stride {strides[0]} halved some times"
                )
        self.output_stride = stride
        self.classifier = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Class logits (B, num_outputs, H, W) of a map (B, M, h, w) covering an image of ``size`` (H, W)."""
        merged = self.lateral(self.features(x)[-len(self.lateral) :])
        logits = self.classifier(self.upsample(self.merge(merged[0])))
        return enlarge(logits, self.output_stride)[..., : size[0], : size[1]]
