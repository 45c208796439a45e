"""Compute: the arithmetic, memory order and compiling of a stage's training, chosen for the machine at hand."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import nn

from models.transforms.fast import bf16_instructions
from models.transforms.for_training import convolutions_for_training

HALF = ("bf16-mixed", "bf16-true")
"""Precisions of Lightning that multiply in bfloat16."""


@dataclass(frozen=True)
class Compute:
    """How a stage's steps are computed. The entropy models compute in float32 whatever is chosen.

    Args:
        channels_last: activations of convolutions in the order that hardware computes in; ``None``: yes.
        compile: the codec's transforms (g_a, g_s, h_a, h_s) with torch.compile, in training steps alone. The first step
            takes half a minute and more; names of weights stay as they are.
    """

    channels_last: bool | None = None
    compile: bool = False

    def precision(self, wanted: str | None, device: str) -> str:
        """Lightning's name of the arithmetic of the transforms and heads.

        Args:
            wanted: what the config says; ``None``: bfloat16 where the hardware multiplies in it, else float32.
            device: ``"cpu"`` or ``"cuda"``.
        """
        able = multiplies_in_bf16(device)
        if wanted is None:
            return "bf16-mixed" if able else "32-true"
        if wanted in HALF and not able:
            rank_zero_warn(
                f"trainer.precision={wanted}: this {device.upper()} has no bfloat16 instructions, and without them it "
                "would be many times slower: training in float32 (32-true)"
            )
            return "32-true"
        return wanted

    @contextmanager
    def of(self, system: LightningModule) -> Iterator[list[Callback]]:
        """Prepare a system for a fit inside the block; afterwards it computes as it did before.

        Yields:
            Callbacks that the fit needs.
        """
        with convolutions_for_training(system, channels_last=self.channels_last in (None, True)):
            yield [Compiled()] if self.compile and _can_compile() else []

    def chosen(self, trainer: Trainer, callbacks: list[Callback]) -> dict[str, Any]:
        """What a fit really runs with, for its record."""
        return asdict(self) | {
            "precision": trainer.precision,
            "channels_last": self.channels_last in (None, True),
            "compile": any(isinstance(callback, Compiled) for callback in callbacks),
            "threads": torch.get_num_threads(),
            "bf16_instructions": bf16_instructions() if trainer.strategy.root_device.type == "cpu" else None,
        }


def multiplies_in_bf16(device: str) -> bool:
    """Whether a kind of device has instructions for it."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bf16_instructions() is not None


class Compiled(Callback):
    """The transforms compiled in training steps; validation, which sees other sizes, computes them as they are."""

    def __init__(self) -> None:
        self._compiled: dict[nn.Module, Any] = {}
        self._start: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for network in pl_module.codec.transforms().values():
            network.compile()
            self._compiled[network] = network._compiled_call_impl
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._start is not None:
            took = f"compiled: the first step took {time.perf_counter() - self._start:.0f} s"
            rank_zero_only(print)(took, file=sys.stderr)
            self._start = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put(compiled=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put(compiled=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._put(compiled=False)
        self._compiled = {}

    def _put(self, *, compiled: bool) -> None:
        for network, call in self._compiled.items():
            network._compiled_call_impl = call if compiled else None


def _can_compile() -> bool:
    """Whether torch.compile has what it needs; a line that says what is missing where it has not."""
    if torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++"))):
        return True
    rank_zero_warn(
        "compute.compile=true: there is no C++ compiler (g++, clang++): training without torch.compile"
    )
    return False
