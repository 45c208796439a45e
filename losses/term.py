"""Term: one number that an objective adds up, and what it has to be given for it."""

from typing import Any

from torch import Tensor, nn

from models.outputs import CodecOutput


class Term(nn.Module):
    """Base of all terms: rate, distortion, and whatever else is minimised. Unweighted, mean over the batch.

    A term holds no weights that train: a critic is a network of the system, named in ``uses``, and a fixed network is
    wrapped in ``models.frozen.Frozen``.

    Attributes:
        reads: what it takes from the output: any of ``"bits"``, ``"pixels"``, ``"pixels@<layer>"``, names of latents,
            ``"extras.<name>"``.
        uses: paths of the system's modules that it calls, such as ``"networks.critic"``. Through those that do not
            train in the same update gradients still flow, to what does.
    """

    reads: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    def forward(self, output: CodecOutput, batch: dict[str, Any], *modules: nn.Module) -> Tensor:
        """The term's value.

        Args:
            output: what the stage's subject answered.
            batch: what it was asked (datamodules/samples.py).
            modules: those that ``uses`` names, in its order.

        Returns:
            Scalar. Validation asks for it too, without gradients: a term that needs some of its own takes them under
            ``torch.enable_grad``.
        """
        raise NotImplementedError
