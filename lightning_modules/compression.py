"""The system: codec, tasks and networks, and what the current stage does with them."""

import random
from collections.abc import Collection, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from evaluation import real_bytes
from evaluation.measures import Measures, psnr
from lightning_modules.parts import freeze_all_but, modules_of, parameters_of, set_modes, titled
from lightning_modules.stages import Stage
from lightning_modules.turns import take_turns
from lightning_modules.updates import log_names
from models.codecs.base import Codec
from models.entropy.noise import sample_keys
from models.outputs import CodecOutput
from models.subject import Subject
from tasks.base import Task, TaskOutput

Batch = Mapping[str, Any]


class CompressionSystem(LightningModule):
    """Trains, validates and really codes with one codec, any tasks and any other networks. One instance a stage.

    With one update, Lightning takes the steps; with several they take turns (lightning_modules/turns.py).

    Args:
        codec: what is trained or read from.
        tasks: {name: Task}.
        stage: what trains; ``None`` for testing the codec alone.
        networks: {name: critics, generators, whatever else trains}.
        ready: names of the tasks that are worth judging: trained before, in this stage, or frozen all along.
        seed: keys the training noise together with each sample's draw.
        first_step: batches that earlier stages took: all stages log on one axis.
        rate: native rate value for validation and test; ``None`` for the subject's middle or only one.
        config: plain containers, stored in every checkpoint, so that the checkpoint can be used alone.
    """

    def __init__(
        self,
        codec: Codec,
        tasks: Mapping[str, Task],
        stage: Stage | None = None,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        ready: Collection[str] = (),
        seed: int = 0,
        first_step: int = 0,
        rate: float | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.codec, self.tasks, self.networks = codec, nn.ModuleDict(tasks), nn.ModuleDict(networks or {})
        self.stage, self.seed, self.first_step, self.rate = stage, seed, first_step, rate
        self.config, self.ready, self.stage_title = config, set(ready), ""
        self.updates = {} if stage is None else dict(stage.updates)
        self.objectives = nn.ModuleDict({name: update.objective for name, update in self.updates.items()})
        # A subject that is not the codec may not serve everybody.
        self.judged = [n for n in tasks if n in self.ready and self.subject.serves(tasks[n].reads, codec)]
        self.shown = log_names(self.updates)
        measured = [log for names in self.shown.values() for log in names.values()]
        layers = [layer.name for layer in self.subject.layers]
        self.measures = Measures({name: tasks[name] for name in self.judged}, layers, measured)
        self.latest, self.batches_done = dict[str, Tensor](), 0
        self.automatic_optimization = len(self.updates) <= 1
        self.moving = {name: parameters_of(self, update.trainable) for name, update in self.updates.items()}
        self._used = {
            name: {path: modules_of(self, path)[0] for _, term in o.named_terms() for path in term.uses}
            for name, o in self.objectives.items()
        }
        if stage is not None:
            freeze_all_but(self, stage.trainable)

    @property
    def subject(self) -> Subject:
        """What the stage trains: its answers are what objectives and tasks read."""
        return self.codec if self.stage is None else self.get_submodule(self.stage.trains)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """{title: part}, for summaries."""
        return titled(self)

    # -- reading ---------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Decode-side view of images (B, 3, H, W): every ready task's raw predictions, by name."""
        output = self.codec(image, self.rate)
        return {name: self.tasks[name].predict(output) for name in self.tasks if name in self.ready}

    def look(self, batch: Batch) -> CodecOutput:
        """The subject's answer in evaluation mode, at the rate that validation has."""
        return self.subject.answer(batch, self.rate, sample_keys(self.seed, batch["draw"]))

    def train(self, mode: bool = True) -> "CompressionSystem":
        """Training mode for what trains, evaluation mode for what is frozen."""
        super().train(mode)
        for module in (self.codec, self.tasks, self.networks):
            set_modes(module, mode)
        return self

    def training_rate(self, batch_idx: int) -> float | None:
        """The whole batch's rate: drawn from (seed, step) over all of the subject's, so the same on every rank."""
        if self.rate is not None:
            return self.rate
        return self.subject.rate_at(random.Random(f"{self.seed} {batch_idx}").random())

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
        self.latest = {}
        if not self.automatic_optimization:
            return take_turns(self, batch, batch_idx)
        (name,) = self.updates
        found = self.losses(name, batch, batch_idx)
        self.batches_done = batch_idx + 1
        return found

    def losses(self, name: str, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One update's loss, with the auxiliary loss of what trains, and its parts for those who watch."""
        output, parts = self.answered(name, batch, batch_idx)
        loss = parts["loss"] + self.subject.auxiliary_loss().to(parts["loss"])
        parts = {key: value.detach() for key, value in parts.items()}
        self.latest |= {shown: parts[key] for key, shown in self.shown[name].items()}
        if name == next(iter(self.updates)):
            self._look_at(output, batch)
        return {"loss": loss, "parts": parts}

    def answered(self, name: str, batch: Batch, batch_idx: int) -> tuple[CodecOutput, dict[str, Tensor]]:
        """The subject's answer and what one update's objective makes of it, with gradients; writes nothing down."""
        objective, position = self.updates[name].objective, list(self.updates).index(name)
        # What layers of other libraries draw (dropout) goes on after a restart as if there had been none.
        torch.manual_seed(
            random.Random(f"{self.seed} {batch_idx} {self.global_rank} {position}").getrandbits(63)
        )
        # Several updates of a batch see noise of their own.
        keys = sample_keys(self.seed + (position << 32), batch["draw"])
        output = self.subject.answer(batch, self.training_rate(batch_idx), keys)
        losses = self._mean_losses({task: self.tasks[task](output, batch) for task in objective.tasks})
        return output, objective(output, batch, losses, batch_idx / self.stage.num_batches, self._used[name])

    @torch.no_grad()
    def _look_at(self, output: CodecOutput, batch: Batch) -> None:
        if output.bpp is not None:
            self.latest["bpp"] = output.bpp.detach().mean()
        if output.x_hat is not None and self.subject.reconstructs:
            self.latest["psnr"] = psnr(output.x_hat.detach().clamp(0, 1), batch["image"]).mean()

    def configure_optimizers(self) -> Any:
        """Every update's own; Lightning steps a single one's schedule, as often as the optimiser."""
        built = [
            update.build(self, lambda: self.batches_done / self.stage.num_batches)
            for update in self.updates.values()
        ]
        if len(built) == 1:
            ((optimiser, schedule),) = built
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return tuple(map(list, zip(*built, strict=True)))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Here, for scaled gradients (fp16) have just been unscaled, with one update or several.
        position = [id(known) for known in self.trainer.optimizers].index(id(optimizer))
        list(self.updates.values())[position].clip_gradients(optimizer)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"], checkpoint["ready"] = self.config, sorted(self.ready)
        checkpoint["updates"], checkpoint["batches_done"] = list(self.updates), self.batches_done
        # What tasks need of the data set, so that they are built again without it.
        labels = {task.target: task.label for task in self.tasks.values() if task.label is not None}
        facts = {t: {"kind": x.kind, "names": list(x.names), "missing": x.missing} for t, x in labels.items()}
        checkpoint["labels"] = facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        averaging = any(getattr(callback, "averages_weights", False) for callback in self.trainer.callbacks)
        if "current_model_state" in checkpoint and not averaging:
            raise ValueError(
                "the checkpoint holds averaged weights (EMA), and this run has no EMA callback: add callbacks=ema, "
                "or begin a new stage with init_from"
            )
        if checkpoint.get("updates") != list(self.updates):
            raise ValueError(
                f"the checkpoint was made with the updates {checkpoint.get('updates')}, and this stage has "
                f"{list(self.updates)}: go on with the config it was made with, or begin a new stage with init_from"
            )
        self.batches_done = checkpoint["batches_done"]

    # -- validation: estimated bits of rounded latents --------------------------------------------------------------

    def on_validation_model_train(self) -> None:
        # Lightning would put the flags back without train(), and tables of older weights would stay.
        if self.trainer.state.fn == "fit":
            self.train()

    def on_validation_model_zero_grad(self) -> None:
        # In the middle of an accumulation, gradients are still needed.
        if self.stage is None or self.stage.steps_after(self.batches_done - 1):
            super().on_validation_model_zero_grad()

    def on_validation_epoch_start(self) -> None:
        self.measures.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if "image" in batch:
            self._estimate(batch)

    def _estimate(self, batch: Batch) -> None:
        """Measure without real bytes: the subject's answer, and what every update's objective makes of it."""
        output = self.look(batch)
        outputs = self._measure(output, batch)
        losses = {name: o.loss_sum / o.count.where(o.count > 0, 1) for name, o in outputs.items()}
        for name, update in self.updates.items():
            parts = update.objective(output, batch, losses, 1.0, self._used[name])
            for key, shown in self.shown[name].items():
                # Task losses are not: their metrics say it better.
                if not key.startswith("task/"):
                    self.measures.add(shown, parts[key].expand(len(batch["image"])))

    def _measure(self, output: CodecOutput, batch: Batch) -> dict[str, TaskOutput]:
        """Add what the answer itself shows; returns the ready tasks' outputs."""
        if output.bpp is not None:
            self.measures.add("bpp", output.bpp)
        if self.subject.reconstructs:
            self.measures.add_pictures(output, batch["image"])
        outputs = {name: self.tasks[name](output, batch) for name in self.judged}
        for name, found in outputs.items():
            task = self.tasks[name]
            self.measures.add_task(name, task.decide(found.preds, output.size), task.target_of(batch))
        return outputs

    def on_validation_epoch_end(self) -> None:
        self._publish("val")

    # -- test: real bytes, where there are some ----------------------------------------------------------------------

    def on_test_epoch_start(self) -> None:
        self.measures.reset()
        self.headers: dict[tuple[int, int], int | None] = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if "image" not in batch:
            return
        if not self.subject.codes:
            self._estimate(batch)
            return
        coded = real_bytes.code(self.subject, batch["image"], self.rate)
        for layer, gap in coded.gaps().items():
            rank_zero_warn(
                f"layer {layer!r}: real bits differ by {gap:+.0f}, over 2 % + 200 for an image (hardly trained?)"
            )
        size = coded.output.size
        if size not in self.headers:
            self.headers[size] = real_bytes.grey_bytes(self.subject, size, self.rate)
        for name, values in coded.rates(self.headers[size]).items():
            self.measures.add(name, values)
        for name in self.judged:
            paid = coded.bits_for(self.subject.layers_of(self.tasks[name].reads))
            self.measures.add(f"{name}/bpp", paid / (size[0] * size[1]))
        coded.output.bits = {}  # the files' own, which are measured already
        self._measure(coded.output, batch)

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
