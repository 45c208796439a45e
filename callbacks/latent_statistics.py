"""What the latents of a codec look like: where its bits go by channel, and which values they take."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.fixed_images import FixedImages
from callbacks.pictures import show
from callbacks.trainer_folder import run_folder, stage_name
from models.modes import evaluating

DEAD_BELOW = 0.001
"""A channel that gets fewer bits per symbol than this tells a decoder nothing."""


class LatentStatistics(Callback):
    """Rates by channel and histograms of the latents, at every validation, over the same fixed images.

    Above, a plot for each set of likelihoods: mean bits per symbol of every channel, largest first. Below, a
    histogram for each latent. Records ``val/latents/<name>/dead_channels``, the share of channels that cost
    less than 0.001 bit per symbol: many of them mean a codec wider than its rate needs.

    Args:
        num_images: images measured, evenly spaced over the validation split.
        folder: where the files go; default: ``latents`` in the run folder.

    Raises:
        ValueError: ``num_images`` below 1.
    """

    def __init__(self, *, num_images: int = 8, folder: str | Path | None = None):
        self.images = FixedImages(num_images)
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, draw and record; other ranks do nothing."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        rates: dict[str, list[Tensor]] = {}
        values: dict[str, list[Tensor]] = {}
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            for batch in self.images.load(trainer):
                output = pl_module.look(batch)
                for name, likelihoods in (output.likelihoods or {}).items():
                    rates.setdefault(name, []).append(bits_by_channel(likelihoods).cpu())
                for name, latent in output.latents.items():
                    values.setdefault(name, []).append(latent.float().flatten().cpu())
        bits = {name: _mean_rate(parts) for name, parts in rates.items()}
        symbols = {name: torch.cat(parts).numpy() for name, parts in values.items()}
        if not bits and not symbols:
            return
        step = pl_module.run_step
        dead = {name: float((rate < DEAD_BELOW).mean()) for name, rate in bits.items()}
        picture = draw(f"Stage {pl_module.stage_title or '-'}, step {step}", bits, symbols)
        folder = run_folder(trainer).latents if self.folder is None else Path(self.folder)
        by_channel = {name: rate.tolist() for name, rate in bits.items()}
        about = {"step": step, "dead_channels": dead, "bits_per_symbol": by_channel}
        show(trainer, "val/latents", picture, folder, step, name=stage_name(trainer, pl_module), about=about)
        if dead:
            pl_module.record({f"val/latents/{name}/dead_channels": share for name, share in dead.items()})


def bits_by_channel(likelihoods: Tensor) -> Tensor:
    """Bits of every symbol of one image, by channel.

    Args:
        likelihoods: probabilities in (0, 1] of a map (1, C, h, w), a vector (1, C) or tokens (1, length, C).

    Returns:
        -log2 p, float64 (C, symbols of a channel).
    """
    bits = -likelihoods[0].double().log2()
    return bits.T if likelihoods.ndim == 3 else bits.reshape(bits.shape[0], -1)


def _mean_rate(parts: list[Tensor]) -> np.ndarray:
    """Mean over all symbols of all images, so that large images count by their size, (C,)."""
    return torch.cat(parts, dim=1).mean(1).numpy()


def draw(title: str, bits: dict[str, np.ndarray], symbols: dict[str, np.ndarray]) -> np.ndarray:
    """The figure as a picture.

    Args:
        title: above all.
        bits: {likelihood name: bits per symbol of each channel (C,)}.
        symbols: {latent name: all its values}.

    Returns:
        uint8 (H, W, 3).
    """
    panels = max(len(bits), len(symbols))
    both = bool(bits) + bool(symbols)
    # A Figure of its own: pyplot keeps global state, and may look for a display.
    figure = Figure(figsize=(5.2 * panels, 3.4 * both + 0.4), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=14)
    axes = figure.subplots(both, panels, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (name, rate) in zip(axes[0], bits.items(), strict=False):
        axis.set_visible(True)
        ordered = np.sort(rate)[::-1]
        axis.bar(np.arange(len(ordered)), ordered, width=1.0, color="#3b6ea5")
        dead = f"{(rate < DEAD_BELOW).sum()} of {len(rate)} channels dead"
        axis.set_title(f"{name}: {rate.mean():.3g} bit/symbol, {dead}")
        axis.set_xlabel("channel, by rate")
        axis.set_ylabel("bits per symbol")
        axis.set_xlim(-0.5, len(ordered) - 0.5)
    for axis, (name, value) in zip(axes[-1], symbols.items(), strict=False):
        axis.set_visible(True)
        axis.hist(value, bins=81, color="#c4682f", log=True)
        axis.set_title(f"{name}: {value.min():.3g} to {value.max():.3g}, deviation {value.std():.3g}")
        axis.set_xlabel("value")
        axis.set_ylabel("how often")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
