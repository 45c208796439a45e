"""Modules that act inside another one as forward hooks of its layers: part of what it computes, not of its state."""

from collections.abc import Iterator

from torch import nn


def with_attached(network: nn.Module) -> Iterator[nn.Module]:
    """A network's modules, and those of the modules that are registered as forward hooks of its layers.

    Who changes or copies the layers of a network (to exact arithmetic, to other kernels) goes by this: ``modules()``
    alone would leave out what adapters (models/codecs/adapted.py) compute in between.
    """
    for layer in network.modules():
        yield layer
        for hook in layer._forward_hooks.values():
            if isinstance(hook, nn.Module):
                yield from hook.modules()
