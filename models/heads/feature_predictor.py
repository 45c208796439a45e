"""FeaturePredictor: another network's feature maps, from backbone features of pixels or of a latent."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models.outputs import LatentSpec


class FeaturePredictor(nn.Module):
    """One 1x1 convolution from a backbone's map of the same stride to each map that is to be predicted.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: channels of all maps to predict.
        channels: of each of them.
        strides: image pixels per position of each of them.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse, and
            publishes their ``channels`` and ``strides`` (TimmFeatures).

    Raises:
        ValueError: more than one map is read, ``channels`` are not ``num_outputs`` in all, ``strides`` not one for each
            of them, or the backbone has no map of one stride, or coarser ones.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        features: Callable[[LatentSpec], nn.Module],
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"FeaturePredictor reads one map, not {len(specs)}")
        if sum(channels) != num_outputs:
            raise ValueError(f"channels={list(channels)} must be {num_outputs} in all, as those of the task")
        if len(strides) != len(channels):
            raise ValueError(f"strides={list(strides)} must be {len(channels)} numbers, one for each map")
        self.features = features(specs[0])
        if missing := set(strides) - set(self.features.strides):
            raise ValueError(
                f"strides={list(strides)}: the backbone has no maps of {sorted(missing)}, only of "
                f"{list(self.features.strides)}"
            )
        if (last := self.features.strides[-1]) > max(strides):
            raise ValueError(
                f"strides={list(strides)}: nothing reads the backbone's map of stride {last}: give the backbone "
                f"max_stride={max(strides)}"
            )
        self.strides = tuple(strides)
        self.places = [self.features.strides.index(stride) for stride in strides]
        self.project = nn.ModuleList(
            nn.Conv2d(self.features.channels[place], width, 1)
            for place, width in zip(self.places, channels, strict=True)
        )

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> list[Tensor]:
        """Maps (B, C, ceil(H / stride), ceil(W / stride)) that cover an image of ``size`` (H, W)."""
        maps = self.features(x)
        found = []
        for place, stride, project in zip(self.places, self.strides, self.project, strict=True):
            height, width = ((side + stride - 1) // stride for side in size)
            found.append(project(maps[place])[..., :height, :width])
        return found
