"""A critic that looks at patches."""

from torch import Tensor, nn


class PatchCritic(nn.Module):
    """Tells real pictures from decoded ones, patch by patch.

    Args:
        width: channels.
        dropout: share of features dropped in training.
    """

    def __init__(self, width: int = 8, *, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Conv2d(width, 1, 4, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to scores (B, 1, H/4, W/4): above 0 for real."""
        return self.layers(x - 0.5)
