"""Subject: what a stage can train. It answers a batch with a ``CodecOutput``; what it lacks is absent there."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.outputs import CodecOutput, LatentSpec, Layer


class Subject(nn.Module):
    """Base of everything a stage can train: codecs, and what answers like one without coding.

    A filter answers with pixels and no bits, a differentiable imitation of a codec with bits that no file holds, a
    generator with pictures that it draws from keyed noise. A subclass says what it gives and implements ``answer``.

    Attributes:
        codes: there are real bytes to judge it by (``compress``, ``decompress``); else its own measures must do.
        trained: its weights were loaded when it was made: it may be read from before any stage trains it.
        reconstructs: its pictures are meant to be those it was asked about; a generator's are its own.
        gives: what its answers hold: any of ``"bits"``, ``"pixels"``, ``"extras.<name>"``; latents go without saying.
        layers: what a bitstream consists of, in order.
        pixel_layers: names of the layers that only together are the picture; ``None``: the last one is, with what it
            needs, and every layer gives a picture of its own.
        latents: {name: LatentSpec}, what tasks can read besides pixels.
        rates: native rate values, ordered from fewest to most bits; empty for one rate.
        continuous: whatever lies between the first and the last of ``rates`` is a rate too.
        stride: both sides of an image are padded to a multiple of it.
        decoder: names of the submodules that the bits do not depend on.
    """

    codes: bool = False
    trained: bool = False
    reconstructs: bool = True
    gives: tuple[str, ...] = ("pixels",)
    layers: tuple[Layer, ...] = (Layer("base"),)
    pixel_layers: tuple[str, ...] | None = None
    latents: ClassVar[dict[str, LatentSpec]] = {}
    rates: tuple[float, ...] = ()
    continuous: bool = False
    stride: int = 1
    decoder: tuple[str, ...] = ()

    def answer(self, batch: Mapping[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """Answer a batch, in training (with gradients, and noise where it needs some) or evaluation mode.

        Args:
            batch: as the data loader gave it (datamodules/samples.py): images (B, 3, H, W) in [0, 1] and labels.
            rate: one of ``rates``, or ``None``.
            keys: one key a sample, int64 (B,): whatever is random is drawn from them (models/entropy/noise.py).
        """
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor:
        """What belongs to no objective, added unweighted: its gradient reaches parameters that nothing else moves."""
        return torch.zeros(())

    @property
    def readable(self) -> dict[str, LatentSpec]:
        """Everything a task can read: pixels (of all layers, and up to each that gives some) and the latents."""
        if "pixels" not in self.gives:
            return dict(self.latents)
        pixels = {"pixels": LatentSpec("map", 3, self.layers[-1].name, stride=1)}
        alone = self.layers if self.pixel_layers is None else ()
        by_layer = {f"pixels@{layer.name}": LatentSpec("map", 3, layer.name, stride=1) for layer in alone}
        return {**pixels, **by_layer, **self.latents}

    def needed(self, layers: Collection[str]) -> tuple[str, ...]:
        """The names of ``layers`` and of all that they need, in bitstream order."""
        names = [layer.name for layer in self.layers]
        wanted: set[str] = set()
        for position in reversed(range(len(names))):
            layer = self.layers[position]
            if layer.name in layers or layer.name in wanted:
                wanted |= {layer.name, *(names[:position] if layer.needs is None else layer.needs)}
        return tuple(name for name in names if name in wanted)

    def layers_of(self, reads: Collection[str]) -> tuple[str, ...]:
        """The layers that who reads these things pays for, in bitstream order."""
        together = (self.pixel_layers or ()) if "pixels" in reads else ()
        return self.needed({*together, *(self.readable[name].layer for name in reads)})

    def serves(self, reads: Collection[str], other: "Subject") -> bool:
        """Whether it gives the things that ``reads`` names in the shape in which ``other`` does."""
        mine, theirs = self.readable, other.readable
        return all(
            name in mine and replace(mine[name], layer="") == replace(theirs[name], layer="")
            for name in reads
        )

    def rate_at(self, position: float) -> float | None:
        """The rate to train on, for a ``position`` drawn from [0, 1): evenly over all there are."""
        if not self.rates:
            return None
        if self.continuous:
            return self.rates[0] + position * (self.rates[-1] - self.rates[0])
        return self.rates[int(position * len(self.rates))]
