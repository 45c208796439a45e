"""What a stage is about to do, and what came out of it, in a few lines."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from models.counted import counted


class StageSummary(Callback):
    """Prints, for every stage, what trains and what is frozen before it, and its validation figures after it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        lines = [
            f"\nStage {pl_module.stage_title}: "
            f"{counted(trainer.num_training_batches, 'batch')} on {counted(trainer.world_size, 'process')}, "
            f"{trainer.precision}"
        ]
        for name, module in pl_module.parts.items():
            moving = sum(p.numel() for p in module.parameters() if p.requires_grad)
            total = sum(p.numel() for p in module.parameters())
            lines.append(
                f"  {name:<20} {moving:>12,} of {total:>12,} parameters train{'' if moving else ' (frozen)'}"
            )
        _print("\n".join(lines))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {
            key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")
        }
        text = ", ".join(f"{key.removeprefix('val/')} {value:.4g}" for key, value in values.items())
        _print(
            f"Stage {pl_module.stage_title}: {time.perf_counter() - self._start:.0f} s; validation: {text}"
        )


@rank_zero_only
def _print(text: str) -> None:
    # Through tqdm, so that a bar that is being drawn moves down instead of being torn.
    tqdm.write(text, file=sys.stderr)
