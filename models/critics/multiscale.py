"""A critic that looks at patches at several scales."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normed

from models.transforms.residual import SLOPE, at_least


class MultiscaleCritic(nn.Module):
    """Tells originals from decodes, patch by patch, on the picture and on halved copies of it.

    No norm that looks at the batch: a batch's size and its ranks change nothing. Spectral norm bounds each layer's
    gain instead.

    Args:
        width: channels behind the first layer of each scale; doubled by each further one, up to eight times.
        num_layers: convolutions of stride 2: one score sees 16 pixels a side with two of them, 34 with three.
        num_scales: how often it looks, each time at half the size.
        spectral_norm: divide weights by their largest singular value; without it, give the loss an ``r1``.

    Raises:
        ValueError: a number below 1.

    Reference: Wang et al., CVPR 2018, https://arxiv.org/abs/1711.11585, section 3.2; Miyato et al., Spectral
    Normalization for GANs, ICLR 2018, https://arxiv.org/abs/1802.05957.
    """

    def __init__(
        self, width: int = 64, *, num_layers: int = 3, num_scales: int = 3, spectral_norm: bool = True
    ):
        super().__init__()
        for name, value in (("width", width), ("num_layers", num_layers), ("num_scales", num_scales)):
            at_least(name, value, 1)
        self.scales = nn.ModuleList(
            patch_layers(3, width, num_layers, spectral_norm=spectral_norm) for _ in range(num_scales)
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Pictures (B, 3, H, W) around [0, 1] to (scores, features), see losses/adversarial.py.

        Scores (B, 1, h, w), above 0 for originals, one for each scale; hidden maps of all scales.
        """
        x = 2 * x - 1
        scores, features = [], []
        for number, layers in enumerate(self.scales):
            h = F.avg_pool2d(x, 2**number, ceil_mode=True)
            *hidden, score = run_through(layers, h)
            scores.append(score)
            features += hidden
        return scores, features


def patch_layers(inputs: int, width: int, num_layers: int, *, spectral_norm: bool) -> nn.ModuleList:
    """Convolutions of stride 2, of any picture's size, and one to a score.

    Args:
        inputs: channels.
        width: channels behind the first layer.
        num_layers: of stride 2.
        spectral_norm: of every layer.
    """
    layers, most = [], 8 * width
    for _ in range(num_layers):
        layers.append(nn.Conv2d(inputs, width, 4, stride=2, padding=2))
        inputs, width = width, min(2 * width, most)
    layers.append(nn.Conv2d(inputs, 1, 3, padding=1))
    return nn.ModuleList(spectrally_normed(layer) if spectral_norm else layer for layer in layers)


def run_through(layers: nn.ModuleList, h: Tensor) -> list[Tensor]:
    """All layers' outputs, a leaky ReLU behind each but the last."""
    outputs = []
    for layer in layers[:-1]:
        h = F.leaky_relu(layer(h), SLOPE)
        outputs.append(h)
    return [*outputs, layers[-1](h)]
