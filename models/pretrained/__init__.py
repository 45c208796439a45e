"""Trained models, loaded, described and exported with ``models/`` and ``tasks/`` alone.

from models.pretrained import load

model = load("runs/quickstart/STAMP")   # or a checkpoint, or an exported model folder
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.pretrained.model import Pretrained, from_pretrained, load, save_pretrained, split_variant

__all__ = ["Pretrained", "from_pretrained", "load", "save_pretrained", "split_variant"]


def __getattr__(name: str) -> Any:
    # On first use: who only constructs a codec, or reads a checkpoint, need not wait for the rest.
    if name in __all__:
        return getattr(import_module("models.pretrained.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
