"""Borrow a codec for evaluation and give it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with fresh derived state inside; every submodule's own mode afterwards.

    ``train()`` makes a codec forget what it derives from its weights (CDF tables, exact copies). Lightning
    puts modes back after validation without calling it, so what an earlier validation derived would still be
    there: it is dropped on entry, and on exit too, for the weights may move from then on.

    Args:
        module: any module; frozen parts of it come back frozen.
    """
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.train()
        module.eval()
        # Tables that are made in inference mode could not be overwritten by training.
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        module.train()
        for child, training in modes:
            child.training = training
