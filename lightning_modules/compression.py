"""The system: a codec, the tasks that read its output, and what the current stage does with them."""

import random
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from evaluation import real_bytes
from evaluation.measures import Measures, psnr
from lightning_modules.stages import Stage, freeze_all_but, parameters_of, set_modes
from losses.schedules import value_at
from models.codecs.base import Codec
from models.entropy.noise import sample_keys
from models.outputs import CodecOutput
from tasks.base import Task, TaskOutput

Batch = Mapping[str, Any]


class CompressionSystem(LightningModule):
    """Trains, validates and really codes with one codec and any number of tasks. One instance a stage.

    Args:
        codec: what is trained or read from.
        tasks: {name: Task}.
        stage: what trains; ``None`` for testing alone.
        ready: names of the tasks that can be judged: trained before, in this stage, or frozen all along.
        seed: keys the training noise together with each sample's draw.
        first_step: batches that earlier stages took: all stages log on one axis.
        rate: native rate value for validation and test; ``None`` for the codec's only one.
        config: plain containers, stored in every checkpoint, so that the checkpoint can be used alone.

    Raises:
        ValueError: more than one update in the stage.
    """

    def __init__(
        self,
        codec: Codec,
        tasks: Mapping[str, Task],
        stage: Stage | None = None,
        *,
        ready: Collection[str] = (),
        seed: int = 0,
        first_step: int = 0,
        rate: float | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.codec = codec
        self.tasks = nn.ModuleDict(tasks)
        self.stage_title = ""
        self.stage, self.ready, self.seed, self.first_step, self.rate = (
            stage,
            set(ready),
            seed,
            first_step,
            rate,
        )
        self.config = config
        judged = {name: task for name, task in tasks.items() if name in self.ready}
        self.measures = Measures(judged, [layer.name for layer in codec.layers])
        self.latest: dict[str, Tensor] = {}
        self.batches_done = 0
        if stage is not None:
            if len(stage.updates) != 1:
                raise ValueError(
                    f"this system makes one update a batch, the stage has {sorted(stage.updates)}"
                )
            (self.update,) = stage.updates.values()
            self.objective = self.update.objective
            freeze_all_but(self, self.update.trainable)

    # -- reading ---------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Decode-side view of images (B, 3, H, W): every ready task's predictions, by name."""
        output = self.codec(image, self.rate)
        return {name: self.tasks[name].predict(output) for name in self.tasks if name in self.ready}

    def train(self, mode: bool = True) -> "CompressionSystem":
        """Training mode for what trains, evaluation mode for what is frozen."""
        super().train(mode)
        for module in (self.codec, self.tasks):
            set_modes(module, mode)
        return self

    def _code(self, batch: Batch, batch_idx: int) -> CodecOutput:
        frozen = not any(p.requires_grad for p in self.codec.parameters())
        keys = sample_keys(self.seed, batch["draw"])
        with torch.no_grad() if frozen else nullcontext():
            return self.codec(batch["image"], self.training_rate(batch_idx), keys=keys)

    def training_rate(self, batch_idx: int) -> float | None:
        """The whole batch's rate: one of the codec's, drawn from (seed, step), so the same on every rank."""
        if self.rate is not None or not self.codec.rates:
            return self.rate
        return random.Random(f"{self.seed} {batch_idx}").choice(self.codec.rates)

    def _task_outputs(
        self, output: CodecOutput, batch: Batch, names: Collection[str]
    ) -> dict[str, TaskOutput]:
        return {name: self.tasks[name](output, batch) for name in names}

    def _mean_losses(self, outputs: Mapping[str, TaskOutput]) -> dict[str, Tensor]:
        """Mean over what counts on all ranks, scaled so that DDP's average of gradients is that mean's."""
        if not outputs:
            return {}
        counts = torch.stack([output.count for output in outputs.values()]).detach()
        world = self.trainer.world_size
        if world > 1:
            counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        scales = world / counts.where(counts > 0, 1)
        return {
            name: output.loss_sum * scale
            for (name, output), scale in zip(outputs.items(), scales, strict=True)
        }

    # -- training --------------------------------------------------------------------------------------------------

    @property
    def run_step(self) -> int:
        """Batches since the beginning of the run, over all stages."""
        return self.first_step + self.batches_done

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = self._code(batch, batch_idx)
        losses = self._mean_losses(self._task_outputs(output, batch, self.objective.tasks))
        parts = self.objective(output, batch, losses, batch_idx / self.stage.num_batches)
        loss = parts["loss"] + self.codec.auxiliary_loss().to(parts["loss"])
        self.latest = self._training_values(parts, output, batch)
        self.batches_done = batch_idx + 1
        return {"loss": loss, "parts": {name: value.detach() for name, value in parts.items()}}

    @torch.no_grad()
    def _training_values(
        self, parts: Mapping[str, Tensor], output: CodecOutput, batch: Batch
    ) -> dict[str, Tensor]:
        height, width = output.size
        values = {"loss": parts["loss"].detach(), "bpp": sum(output.bits.values()).mean() / (height * width)}
        if output.x_hat is not None:
            values["psnr"] = psnr(output.x_hat.detach().clamp(0, 1), batch["image"]).mean()
        values |= {
            f"{name.removeprefix('task/')}/loss": v.detach()
            for name, v in parts.items()
            if name.startswith("task/")
        }
        return values

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimiser with a group for each learning rate and, last, one for the quantiles (CompressAI's aux)."""
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        quantiles = [p for name, p in named.items() if name.endswith(".quantiles")]
        scales = {p: 1.0 for p in named.values() if not any(p is q for q in quantiles)}
        for part, scale in self.update.lr_scales.items():
            scales |= {p: scale for p in parameters_of(self, [part]) & scales.keys()}
        lr = self.update.optimiser.keywords.get("lr", 1e-3)
        groups: list[dict[str, Any]] = [
            {"params": [p for p, own in scales.items() if own == scale], "lr": lr * scale}
            for scale in sorted(set(scales.values()))
        ]
        self.main_parameters = [p for group in groups for p in group["params"]]
        schedules = [lambda step: value_at(self.update.lr_schedule, step / self.stage.num_batches)] * len(
            groups
        )
        if quantiles:
            groups.append({"params": quantiles, "lr": self.update.aux_lr, "weight_decay": 0.0})
            schedules.append(lambda step: 1.0)
        optimiser = self.update.optimiser(groups)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": LambdaLR(optimiser, schedules), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the main groups: the quantiles' gradient has another scale and would drown theirs."""
        clip = self.update.clip if gradient_clip_val is None else gradient_clip_val
        if clip is not None:
            nn.utils.clip_grad_norm_(self.main_parameters, clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["ready"] = sorted(self.ready)
        # What tasks need of the data set, so that they are built again without it.
        checkpoint["labels"] = {
            task.target: {
                "kind": task.label.kind,
                "names": list(task.label.names),
                "missing": task.label.missing,
            }
            for task in self.tasks.values()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        averaging = any(getattr(callback, "averages_weights", False) for callback in self.trainer.callbacks)
        if "current_model_state" in checkpoint and not averaging:
            raise ValueError(
                "the checkpoint holds averaged weights (EMA), and this run has no EMA callback: add callbacks=ema, "
                "or begin a new stage with init_from"
            )

    # -- validation: estimated bits of rounded latents --------------------------------------------------------------

    def on_validation_model_train(self) -> None:
        # Lightning would put the flags back without train(), and tables of older weights would stay.
        if self.trainer.state.fn == "fit":
            self.train()

    def on_validation_epoch_start(self) -> None:
        self.measures.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if "image" not in batch:
            return
        x = batch["image"]
        output = self.codec(x, self.rate)
        outputs = self._task_outputs(output, batch, self.ready)
        losses = {name: o.loss_sum / o.count.where(o.count > 0, 1) for name, o in outputs.items()}
        parts = self.objective(output, batch, losses, 1.0)
        self.measures.add("loss", parts["loss"].expand(len(x)))
        self.measures.add("bpp", sum(output.bits.values()) / (x.shape[-2] * x.shape[-1]))
        self.measures.add_pictures(output, x)
        self.measures.add_tasks(outputs, {name: self.tasks[name].target_of(batch) for name in outputs})

    def on_validation_epoch_end(self) -> None:
        self._publish("val")

    # -- test: real bytes -------------------------------------------------------------------------------------------

    def on_test_epoch_start(self) -> None:
        self.measures.reset()
        self.headers: dict[tuple[int, int], int] = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if "image" not in batch:
            return
        x = batch["image"]
        coded = real_bytes.code(self.codec, x, self.rate)
        for layer, gap in coded.gaps().items():
            rank_zero_warn(
                f"layer {layer!r}: {gap:+.0f} real bits against the estimate (over 2 % + 200 bits an image)"
            )
        size = coded.output.size
        if size not in self.headers:
            self.headers[size] = real_bytes.header_bytes(self.codec, size, self.rate)
        pixels = size[0] * size[1]
        for name, values in coded.rates(self.headers[size]).items():
            self.measures.add(name, values)
        self.measures.add_pictures(coded.output, x)
        outputs = self._task_outputs(coded.output, batch, self.ready)
        for name in outputs:
            self.measures.add(
                f"{name}/bpp", coded.bits_for(self.codec.needed(self.tasks[name].layers)) / pixels
            )
        self.measures.add_tasks(outputs, {name: self.tasks[name].target_of(batch) for name in outputs})

    def on_test_epoch_end(self) -> None:
        self._publish("test")

    def _publish(self, split: str) -> None:
        """To callbacks and progress through Lightning, to the loggers on the run's own step axis."""
        values = {f"{split}/{name}": value for name, value in self.measures.compute().items()}
        self.log_dict(values, logger=False, sync_dist=True)
        self.record(values)

    def record(self, values: Mapping[str, float]) -> None:
        """Write values to every logger at the run's step. Loggers write on rank 0 only."""
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.run_step)
