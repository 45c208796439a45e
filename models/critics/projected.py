"""A critic that sees pictures through a frozen network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.critics.multiscale import patch_layers, run_through


class ProjectedCritic(nn.Module):
    """Tells originals from decodes by a frozen network's maps, each mixed at random and judged by layers of its own.

    It learns from few pictures, for it need not learn to see. Of what the frozen network does not see, it says nothing:
    that network, and others of its family, are no judges of what this trained.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] to maps (models/feature_maps.py), in ``models.frozen.Frozen``. Its
            weights come from its own yaml and are stored nowhere.
        width: channels that each map is mixed down to.
        num_layers: convolutions of stride 2 on each map.

    Reference: Sauer et al., Projected GANs Converge Faster, NeurIPS 2021, https://arxiv.org/abs/2111.01007, section 3.
    Differs from the paper: channels are mixed at random, scales are not, and nothing is augmented.
    """

    def __init__(self, network: nn.Module, *, width: int = 64, num_layers: int = 1):
        super().__init__()
        self.network = network
        with torch.no_grad():
            channels = [features.shape[1] for features in network(torch.zeros(1, 3, 64, 64))]
        # Random and fixed: buffers, so that a checkpoint has them and no optimiser does.
        for number, inputs in enumerate(channels):
            self.register_buffer(f"mix{number}", torch.randn(width, inputs, 1, 1) * (2 / inputs) ** 0.5)
        self.judges = nn.ModuleList(
            patch_layers(width, width, num_layers, spectral_norm=True) for _ in channels
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As ``MultiscaleCritic``: one score map and some hidden maps for each map of the network."""
        scores, features = [], []
        for number, (layers, h) in enumerate(zip(self.judges, self.network(x), strict=True)):
            *hidden, score = run_through(layers, F.conv2d(h, self.get_buffer(f"mix{number}")))
            scores.append(score)
            features += hidden
        return scores, features
