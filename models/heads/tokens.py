"""Heads on tokens and vectors: all that is read, side by side, and a small network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.outputs import LatentSpec


class TokenClassifier(nn.Module):
    """Two linear layers on all numbers of one or several latents without a place in the picture.

    Args:
        specs: what is read: tokens or vectors.
        num_outputs: number of outputs.
        width: numbers in between.
        dropout: probability of dropping one of those in training.

    Raises:
        ValueError: a map is read.

    Example:
        >>> head = TokenClassifier([LatentSpec("tokens", 8, "basic", length=3)], 5)
        >>> head(torch.zeros(2, 3, 8), size=(64, 64)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, specs: Sequence[LatentSpec], num_outputs: int, *, width: int = 128, dropout: float = 0.0
    ):
        super().__init__()
        if any(spec.kind == "map" for spec in specs):
            raise ValueError(
                "it reads tokens and vectors, not maps: choose another `head` (FeatureClassifier)"
            )
        inputs = sum(spec.channels * (spec.length or 1) for spec in specs)
        self.layers = nn.Sequential(
            nn.LayerNorm(inputs),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, num_outputs),
        )

    def forward(self, *latents: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, num_outputs) of tokens (B, L, C) or vectors (B, C); ``size`` is not needed."""
        return self.layers(torch.cat([latent.flatten(1) for latent in latents], 1))


class TokenPoints(nn.Module):
    """Points in pixels from ``TokenClassifier``'s layers.

    Args:
        specs: what is read: tokens or vectors.
        num_outputs: number of points.
        width: see ``TokenClassifier``.
        dropout: likewise.
    """

    def __init__(
        self, specs: Sequence[LatentSpec], num_outputs: int, *, width: int = 128, dropout: float = 0.0
    ):
        super().__init__()
        self.inside = TokenClassifier(specs, 2 * num_outputs, width=width, dropout=dropout)

    def forward(self, *latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels (B, num_outputs, 2) in an image of ``size`` (H, W)."""
        # In tenths of the image, from its centre, as FeaturePoints.
        shares = 0.1 * self.inside(*latents, size=size).float().unflatten(1, (-1, 2))
        sides = torch.tensor([size[1], size[0]], device=shares.device, dtype=torch.float32)
        return (0.5 + shares) * sides - 0.5
