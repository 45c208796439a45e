"""What a stage is about to do, and what came out of it, in a few lines."""

import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class StageSummary(Callback):
    """Prints, for every stage, what trains and what is frozen before it, and its validation figures after it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        lines = [f"\nStage {pl_module.stage_title}: {trainer.num_training_batches} batches on {trainer.world_size} process(es)"]
        parts = {"codec": pl_module.codec, **{f"task {name}": task for name, task in pl_module.tasks.items()}}
        for name, module in parts.items():
            moving = sum(p.numel() for p in module.parameters() if p.requires_grad)
            total = sum(p.numel() for p in module.parameters())
            lines.append(f"  {name:<20} {moving:>12,} of {total:>12,} parameters train{'' if moving else ' (frozen)'}")
        rank_zero_info("\n".join(lines))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        text = ", ".join(f"{key.removeprefix('val/')} {value:.4g}" for key, value in values.items())
        rank_zero_info(f"Stage {pl_module.stage_title}: {time.perf_counter() - self._start:.0f} s; validation: {text}")
