"""Styles: how far those of an encoder, or of a decoder, are from those that they should be."""

import torch
from torch import Tensor, nn

from losses.term import Term
from models.entropy.noise import sample_keys
from models.outputs import CodecOutput


class InversionError(Term):
    """Mean squared error of the styles that an encoder finds in pictures whose styles are known: a generator's own.

    For a stage that ``trains`` the generator, frozen, whose answers are the samples, and moves the encoder.

    Args:
        encoder: path of the encoder in the system: square pictures -> offsets from the mean style.
    """

    reads = ("pixels", "extras.offsets")

    def __init__(self, encoder: str = "codec.inversion"):
        super().__init__()
        self.uses = (encoder,)

    def forward(self, output: CodecOutput, batch: dict, encoder: nn.Module) -> Tensor:
        """Scalar >= 0."""
        found = encoder(output.x_hat.detach().clamp(0, 1))
        return (found.float() - output.extras["offsets"].detach()).square().mean()


class SampledInversionError(InversionError):
    """The same of samples that it draws itself: beside terms of real pictures, in a stage that trains the codec.

    Args:
        generator: path of the generator in the system.
        encoder: of the encoder.
        seed: of the samples, which are new with every draw of the stage.
    """

    reads = ()

    def __init__(
        self, generator: str = "networks.generator", encoder: str = "codec.inversion", *, seed: int = 0
    ):
        super().__init__(encoder)
        self.uses, self.seed = (generator, encoder), seed

    def forward(self, output: CodecOutput, batch: dict, generator: nn.Module, encoder: nn.Module) -> Tensor:
        """Scalar >= 0."""
        with torch.no_grad():
            drawn = generator.answer(batch, None, sample_keys(self.seed, batch["draw"]))
        return super().forward(drawn, batch, encoder)


class StyleDistortion(Term):
    """|w_hat - w|^2 of what a codec decodes and what its encoder found: summed over styles, mean over images.

    Args:
        decoded: what is decoded: ``"offsets_hat"``, of all layers; ``"offsets_filled"``, of the first, with the entropy
            model's means for the rest. Trained for bits alone, that model has never seen its own means.
    """

    def __init__(self, decoded: str = "offsets_hat"):
        super().__init__()
        self.reads = ("extras.offsets", f"extras.{decoded}")
        self.decoded = decoded

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        error = output.extras[self.decoded].float() - output.extras["offsets"].float()
        return error.square().sum((1, 2)).mean()
