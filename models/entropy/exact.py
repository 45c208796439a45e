"""A float64 copy of a network, for the parameters that encoder and decoder must agree on."""

import copy

import torch
from torch import Tensor, nn


class Exact:
    """Runs a module in float64, outside autocast.

    A fp32 network gives parameters that differ by 1e-6 with thread count, memory format or kernel, and one scale index
    in a million then falls on the other side of a border: the rest of that stream decodes to garbage. In float64 the
    differences are 1e-14, and a border case practically never happens.

    The copy is no submodule: it is not in the state dict, ``.half()`` does not touch it, and no optimiser sees it.
    ``forget`` it whenever the weights may have moved.
    """

    def __init__(self) -> None:
        self._copy: nn.Module | None = None

    def forget(self) -> None:
        """Drop the copy; the next call makes a fresh one."""
        self._copy = None

    def __call__(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """``module(*inputs)`` in float64, without gradients."""
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            if self._copy is None:
                self._copy = copy.deepcopy(module).double().eval().requires_grad_(False)
            return self._copy(*(tensor.double() for tensor in inputs))

    def __deepcopy__(self, memo: dict) -> "Exact":
        return Exact()

    def __getstate__(self) -> dict:
        return {"_copy": None}
