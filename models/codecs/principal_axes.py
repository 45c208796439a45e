"""Principal axes of real styles, as the bottleneck of a scalable face codec: where gradient descent may begin."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.codecs.scalable_face import ScalableFace


@torch.no_grad()
def principal_axes(
    codec: ScalableFace, batches: Iterable[Mapping[str, Any]], *, pictures: int = 1000
) -> None:
    """Let every layer's bottleneck keep the axes along which its styles vary most, in place.

    Quantised by ``codec.step`` along each. Of random axes, thousands of steps of Adam do not find the way there.

    Args:
        codec: its encoder is trained.
        batches: of the training set.
        pictures: read so many, mirrored ones included, or the few that there are.
    """
    training = codec.training
    found: list[Tensor] = []
    codec.eval()
    for batch in batches:
        found.append(codec.offsets(batch["image"].to(codec.synthesis.w_mean.device)))
        if sum(map(len, found)) >= pictures:
            break
    codec.train(training)
    for down, up, group in zip(codec.down, codec.up, torch.cat(found).split(codec.styles, 1), strict=True):
        _keep_axes(down, up, group.flatten(1), codec.step)


def _keep_axes(down: nn.Linear, up: nn.Linear, x: Tensor, step: float) -> None:
    """Down and up on the principal axes of x (N, inputs); where N has fewer than are kept, the rest is silent."""
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh[: down.out_features]
    for layer in (down, up):
        layer.weight.zero_()
    down.weight[: len(axes)] = axes / step
    up.weight[:, : len(axes)] = axes.T * step
    down.bias.copy_(-down.weight @ mean)
    up.bias.copy_(mean)
