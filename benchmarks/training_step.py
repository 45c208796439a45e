"""A training step of ours, through Lightning with everything at its defaults, beside others' in the same process.

python -m benchmarks.training_step MODEL SIZE chosen|fp32|compiled TURNS      one row of the record ``speed``

MODEL is one of ARCHITECTURES, or two_tasks. Programs take turns on one batch, two steps a turn of which the second is
timed, so that what else the machine does meets all alike. Data are at hand, for loading is measured apart.
"""

import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compressai.losses import RateDistortionLoss
from compressai.models import CompressionModel
from compressai.registry import MODELS
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

import train
from benchmarks.record import ROOT
from launch.process import give_freed_memory_back, keep_freed_memory
from lightning_modules.compression import CompressionSystem
from lightning_modules.experiment import Experiment
from models.codecs.base import Codec
from models.entropy.noise import sample_keys
from models.transforms.for_training import convolutions_for_training

LMBDA = 0.01
WARM_UP = 3
"""Turns that are not counted."""

ARCHITECTURES = {
    "hyperprior": ("bmshj2018-hyperprior", {"N": 128, "M": 192}),
    "mean_scale": ("mbt2018-mean", {"N": 128, "M": 192}),
    "cheng2020": ("cheng2020-anchor", {"N": 128}),
}


@dataclass(frozen=True)
class Other:
    """Somebody else's step.

    Attributes:
        step: on a batch of images.
        memory: what that program does with memory that it frees.
    """

    step: Callable[[Tensor], Any]
    memory: Callable[[], Any] = keep_freed_memory


class InTurn(Callback):
    """Times a fit's steps, and lets all others take theirs in between.

    Our time is from the end of one step's last callback to that of the next: loop, transfer, callbacks and all.

    Args:
        others: by name.
    """

    def __init__(self, others: Mapping[str, Other]):
        self.others = others
        self.turns: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if batch_idx % 2:
            seconds = {"ours": now - self._start}
            for name, other in self.others.items():
                other.memory()
                other.step(batch["image"])
                start = time.perf_counter()
                other.step(batch["image"])
                seconds[name] = time.perf_counter() - start
            self.turns.append(seconds)
            keep_freed_memory()
        self._start = time.perf_counter()


def beside(
    overrides: Sequence[str],
    others: Callable[[Experiment], Mapping[str, Other]],
    *,
    size: int,
    batch_size: int = 8,
    turns: int = 15,
) -> dict[str, Any]:
    """A stage of an experiment for some steps on one batch, with other programs in turn.

    Args:
        overrides: of configs/train.yaml; the first stage is taken.
        others: from the experiment, before its first step.
        size: of the pictures, drawn portraits.
        batch_size: of them.
        turns: that count.

    Returns:
        Median ``seconds`` of each, their ``low`` and ``high``, what the fit ran with, and the mean ``callback_seconds``
        a step.
    """
    data = [f"data.size={size}", f"data.num_train={2 * batch_size}", "data.num_val=2", "data.num_test=2"]
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed(*overrides, *data, f"data.batch_size={batch_size}")
        experiment = train.build(cfg, Path(folder))
        stage = next(iter(experiment.stages.values()))
        stage.num_batches = 2 * (turns + WARM_UP)
        system = CompressionSystem(experiment.codec, experiment.tasks, stage, config=experiment.config)
        system.stage_title = "1/1"
        in_turn = InTurn(others(experiment))
        loader = experiment.data.for_stage(num_batches=1, seed=0).train_dataloader()
        batch = experiment.data.on_after_batch_transfer(next(iter(loader)), 0)
        system.train()
        callbacks = experiment.make_callbacks()
        costs = {type(callback).__name__: _timed(callback) for callback in callbacks}
        with experiment.compute.of(system) as for_compute:
            trainer = experiment.trainer(
                Path(folder),
                training=True,
                callbacks=[*callbacks, *for_compute, in_turn],
                max_epochs=1,
                limit_val_batches=0,
            )
            chosen = experiment.compute.chosen(trainer, for_compute)
            trainer.fit(system, train_dataloaders=DataLoader([batch] * stage.num_batches, batch_size=None))
    counted = in_turn.turns[WARM_UP:]
    series = {name: [seconds[name] for seconds in counted] for name in counted[0]}
    return {
        "size": size,
        "batch_size": batch_size,
        "seconds": {name: statistics.median(values) for name, values in series.items()},
        "low": {name: min(values) for name, values in series.items()},
        "high": {name: max(values) for name, values in series.items()},
        "compute": chosen,
        "callback_seconds": {name: sum(spent) / stage.num_batches for name, spent in costs.items()},
    }


def _timed(callback: Callback) -> list[float]:
    """Where the seconds of a callback's hooks around a training step gather from here on."""
    spent: list[float] = []

    def timed(call: Callable[..., None]) -> Callable[..., None]:
        def hook(*arguments: Any, **named: Any) -> None:
            start = time.perf_counter()
            call(*arguments, **named)
            spent.append(time.perf_counter() - start)

        return hook

    for name in ("on_train_batch_start", "on_train_batch_end"):
        setattr(callback, name, timed(getattr(callback, name)))
    return spent


def composed(*overrides: str) -> DictConfig:
    """configs/train.yaml with overrides, as ``python train.py`` has it."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compressai_step(model: CompressionModel) -> Callable[[Tensor], None]:
    """What CompressAI's example of a training does with a batch: both losses, clipping, both optimisers."""
    quantiles = [p for name, p in model.named_parameters() if name.endswith(".quantiles")]
    others = [p for name, p in model.named_parameters() if not name.endswith(".quantiles")]
    optimiser, auxiliary = torch.optim.Adam(others, lr=1e-4), torch.optim.Adam(quantiles, lr=1e-3)
    criterion = RateDistortionLoss(lmbda=LMBDA)
    model.train()

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        auxiliary.zero_grad()
        criterion(model(x), x)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.aux_loss().backward()
        auxiliary.step()

    return step


def bare_step(codec: Codec, *, bf16: bool) -> Callable[[Tensor], None]:
    """A PyTorch loop by hand: our codec in the same arithmetic and order, the same optimiser, nothing logged."""
    codec = copy.deepcopy(codec).train()
    in_order = convolutions_for_training(codec)
    in_order.__enter__()  # for good: the copy is ours
    quantiles = [p for name, p in codec.named_parameters() if name.endswith(".quantiles")]
    others = [p for name, p in codec.named_parameters() if not name.endswith(".quantiles")]
    groups = [{"params": others, "lr": 1e-4}, {"params": quantiles, "lr": 1e-3}]
    optimiser = torch.optim.Adam(groups, fused=True)
    draws = iter(range(1 << 30))

    def step(x: Tensor) -> None:
        keys = sample_keys(0, torch.tensor([next(draws) for _ in x]))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = codec(x, keys=keys)
        loss = output.bpp.mean() + LMBDA * 255**2 * (output.x_hat - x).square().mean()
        loss = loss + codec.auxiliary_loss()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        optimiser.step()

    return step


def codec_overrides(name: str) -> list[str]:
    """Configs of rate-distortion training of one of ``ARCHITECTURES``, quantised as in CompressAI."""
    architecture, arguments = ARCHITECTURES[name]
    inside = ", ".join(f"{key}: {value}" for key, value in arguments.items())
    return [
        "experiment=photos",
        "data=portraits",
        "codec=compressai_mbt2018_mean",
        f"codec.architecture={architecture}",
        "~codec.arguments",
        f"+codec.arguments={{{inside}}}",
        f"lmbda={LMBDA}",
    ]


def against_compressai(
    name: str, size: int, *, compiled: bool = False, precision: str | None = None, turns: int = 15
) -> dict[str, Any]:
    """Our step beside CompressAI's and a bare loop's, on the same weights and batch.

    CompressAI's is taken twice: with memory as glibc has it by default, as its users run it, and with freed memory kept
    as we do. The first is glibc's state after it has adapted to the largest activations: mallopt ends its adapting.
    """
    architecture, arguments = ARCHITECTURES[name]

    def others(experiment: Experiment) -> Mapping[str, Other]:
        theirs = MODELS[architecture](**arguments)
        theirs.load_state_dict(experiment.codec.model.state_dict(), strict=False)
        step = compressai_step(theirs)
        bf16 = experiment.compute.precision(precision, "cpu") == "bf16-mixed"
        batch_size, width = experiment.data.batch_size, arguments["N"]
        return {
            "compressai": Other(
                step, partial(give_freed_memory_back, 4 * batch_size * width * (size // 2) ** 2)
            ),
            "compressai_keeping_memory": Other(step),
            "bare": Other(bare_step(experiment.codec, bf16=bf16)),
        }

    more = ["compute.compile=true"] if compiled else []
    more += [] if precision is None else [f"trainer.precision={precision}"]
    row = beside([*codec_overrides(name), *more], others, size=size, turns=turns)
    seconds = row["seconds"]
    return {
        "kind": "step",
        "model": name,
        "compiled": compiled,
        "precision": row["compute"]["precision"],
        **row,
        "speedup": seconds["compressai"] / seconds["ours"],
        "speedup_at_equal_memory": seconds["compressai_keeping_memory"] / seconds["ours"],
        "over_bare": seconds["ours"] / seconds["bare"],
    }


def two_tasks(*, turns: int = 15) -> dict[str, Any]:
    """A joint step with a classifier and a segmenter on latents beside a bare step of the codec alone, 128 pixels."""

    def others(experiment: Experiment) -> Mapping[str, Other]:
        bf16 = experiment.compute.precision(None, "cpu") == "bf16-mixed"
        return {"codec_alone": Other(bare_step(experiment.codec, bf16=bf16))}

    overrides = [
        "experiment=photos",
        "data=portraits",
        "codec=mean_scale",
        "+task@tasks.identity=classification_latents",
        "tasks.identity.target=identity",
        "tasks.identity.head.features={backbone: resnet18, entry_stride: 16}",
        "+task@tasks.parsing=segmentation_latents",
        "tasks.parsing.head.features.entry_stride=16",
        "+task_weights={identity: 0.1, parsing: 0.1}",
        "stage@schedule.rate_distortion=joint",
        f"lmbda={LMBDA}",
    ]
    row = beside(overrides, others, size=128, turns=turns)
    return {"kind": "two_tasks", **row, "ratio": row["seconds"]["ours"] / row["seconds"]["codec_alone"]}


def main(model: str, size: int, how: str, turns: int) -> None:
    """Print one row: what pins the end of one measurement's heap would spare the next one's CompressAI its trimming."""
    row = (
        two_tasks(turns=turns)
        if model == "two_tasks"
        else against_compressai(
            model,
            size,
            compiled=how == "compiled",
            precision="32-true" if how == "fp32" else None,
            turns=turns,
        )
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
