"""Frozen: a trained network that helps to train another, and belongs to no model: a teacher, a perceptual loss."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """A network in evaluation mode whose weights nothing moves and nobody stores.

    It has no parameters and no state dict, so it is in no optimiser, checkpoint, export or count; it moves with
    ``.to()``, ``.half()`` and the like. Gradients flow through it to its input. In a yaml::

        teacher:
          _target_: models.frozen.Frozen
          network: {_target_: models.heads.backbones.create_backbone, backbone: resnet18, weights: FILE}

    Its weights come from what the node says, and nowhere else: loading a run builds it again from there, loading an
    exported model leaves it out (``None`` takes its place), but for a codec's whose weights an installed package holds.
    So nothing that predictions need may be frozen this way.

    Args:
        network: the network, its weights loaded, or a callable that makes it.

    Raises:
        ValueError: ``network`` makes something else.
    """

    def __init__(self, network: nn.Module | Callable[[], nn.Module]):
        super().__init__()
        made = network if isinstance(network, nn.Module) else network()
        if not isinstance(made, nn.Module):
            raise ValueError(f"`network` must be a module or make one, not {type(made).__name__}")
        # Past nn.Module's own way to keep a module: a child that it does not know of is in none of its lists, and
        # train() does not reach it.
        self.__dict__["network"] = made.eval().requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives."""
        return self.network(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        # torch copies some modules (those traced by torch.fx) in training mode.
        return Frozen(copy.deepcopy(self.network, memo))

    def extra_repr(self) -> str:
        """The network's class."""
        return type(self.network).__name__

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
