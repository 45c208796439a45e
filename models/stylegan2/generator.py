"""Generator: mapping and synthesis together, as something that a stage trains, loads, or draws pictures with."""

import os
from collections.abc import Mapping as Dict
from typing import Any

import torch
from torch import Tensor

from models.entropy.noise import normal_noise, uniform_noise
from models.outputs import CodecOutput
from models.stylegan2.mapping import Mapping
from models.stylegan2.synthesis import Noise, StyleGAN2Synthesis, Synthesis
from models.stylegan2.weights import read_stylegan2
from models.subject import Subject

Z, SECOND_Z, CROSSOVER, PSI = 101, 102, 103, 104
"""Salts of what a picture is drawn from; those of noise maps are twice their side, and one more."""


class Generator(Subject):
    """Draws pictures that nobody sent from keyed noise: there are no bits, and no original to compare with.

    ``extras["offsets"]`` is what each was drawn from, (B, num_styles, style_dim): its styles less their mean.

    Args:
        mapping: z to w.
        synthesis: w to the picture.
        size: of the pictures, one of the synthesis network's ``sizes``; ``None``: the largest.
        mixing: share of pictures that have the fine styles of a second z, from a random one on.
        truncation: styles are drawn to their mean by a factor that is drawn between these two for each picture.
        noise: the maps inside; ``"keyed"`` in training of a generator, ``"fixed"`` for one that stands.
        trained: its weights were loaded.

    Reference: Karras et al., CVPR 2019, https://arxiv.org/abs/1812.04948, section 3.1 (mixing) and appendix B.
    """

    reconstructs = False
    gives = ("pixels", "extras.offsets")
    mean_decay = 0.998

    def __init__(
        self,
        mapping: Mapping,
        synthesis: Synthesis,
        *,
        size: int | None = None,
        mixing: float = 0.9,
        truncation: tuple[float, float] = (1.0, 1.0),
        noise: Noise = "keyed",
        trained: bool = False,
    ):
        super().__init__()
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing={mixing} must be a share of the pictures, in [0, 1]")
        size = synthesis.sizes[-1] if size is None else size
        if size not in synthesis.sizes:
            raise ValueError(f"size={size} is none of this generator's sizes, {list(synthesis.sizes)}")
        low, high = truncation
        if not 0 <= low <= high:
            raise ValueError(
                f"truncation={list(truncation)} must be two factors of at least 0, the smaller first"
            )
        self.mapping, self.synthesis, self.size = mapping, synthesis, size
        self.mixing, self.truncation, self.noise, self.trained = mixing, (low, high), noise, trained

    def draw_styles(self, keys: Tensor) -> Tensor:
        """Styles (B, num_styles, style_dim) from a key each, int64 (B,)."""
        count, dim = self.synthesis.num_styles, self.synthesis.style_dim
        z = [normal_noise(keys, (len(keys), dim), salt=salt) for salt in (Z, SECOND_Z)]
        first, second = self.mapping(torch.cat(z)).chunk(2)
        if self.training and first.requires_grad:
            self._follow(first)
        # The crossover lies behind the last style where nothing is mixed.
        place = (uniform_noise(keys, (len(keys), 1), salt=CROSSOVER) + 0.5) / max(self.mixing, 1e-9)
        mixed = torch.arange(count, device=keys.device) >= 1 + place * (count - 1)
        styles = torch.where(mixed[:, :, None], second[:, None], first[:, None])
        low, high = self.truncation
        psi = low + (high - low) * (uniform_noise(keys, (len(keys), 1, 1), salt=PSI) + 0.5)
        return self.synthesis.truncated(styles, psi)

    def answer(self, batch: Dict[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """As many pictures as the batch holds, of the generator's size, whatever the batch's."""
        styles, keyed = self.draw_styles(keys), self.noise == "keyed"
        x = self.synthesis(styles, size=self.size, noise=self.noise, keys=keys if keyed else None)
        return CodecOutput(tuple(x.shape[-2:]), x_hat=x, extras={"offsets": styles - self.synthesis.w_mean})

    @torch.no_grad()
    def _follow(self, w: Tensor) -> None:
        """The mean style follows the mapping as it trains; the same on all processes."""
        mean = w.float().mean(0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        self.synthesis.w_mean.lerp_(mean, 1 - self.mean_decay)


class StyleGAN2(Generator):
    """StyleGAN2, to be trained here or with official weights.

    Args:
        size: of its pictures, a power of two from 8 to 1024.
        style_dim: numbers in a style.
        channel_base: see ``StyleGAN2Synthesis``.
        max_channels: likewise.
        mapping_depth: layers of the mapping network.
        weights: a file of official layout (models/stylegan2/weights.py), or ``None`` for fresh ones.
        mixing: see ``Generator``; so are ``truncation`` and ``noise``.

    Raises:
        ValueError: a size that it cannot have, or weights of another.
    """

    def __init__(
        self,
        size: int,
        *,
        style_dim: int = 512,
        channel_base: int = 32768,
        max_channels: int = 512,
        mapping_depth: int = 8,
        weights: str | os.PathLike[str] | None = None,
        mixing: float = 0.9,
        truncation: tuple[float, float] = (1.0, 1.0),
        noise: Noise = "keyed",
    ):
        super().__init__(
            Mapping(style_dim, depth=mapping_depth),
            StyleGAN2Synthesis(
                size, style_dim=style_dim, channel_base=channel_base, max_channels=max_channels
            ),
            mixing=mixing,
            truncation=truncation,
            noise=noise,
            trained=weights is not None,
        )
        if weights is not None:
            self.load_state_dict(read_stylegan2(weights, self))
