"""A training step of ours, through Lightning with everything at its defaults, beside others' in the same process.

Parts of the record ``speed``. After each of our steps every other program takes one on the same batch, so that what
else the machine does meets all alike; data are at hand for all, for loading is measured apart.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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

import train
from benchmarks.record import ROOT
from lightning_modules.compression import CompressionSystem
from lightning_modules.experiment import Experiment
from models.codecs.base import Codec
from models.entropy.noise import sample_keys

Step = Callable[[Tensor], Any]
Others = Callable[[Experiment], Mapping[str, Step]]
LMBDA = 0.01
WARM_UP = 4
"""Rounds that are not counted."""

ARCHITECTURES = {
    "hyperprior": ("bmshj2018-hyperprior", {"N": 128, "M": 192}),
    "mean_scale": ("mbt2018-mean", {"N": 128, "M": 192}),
    "cheng2020": ("cheng2020-anchor", {"N": 128}),
}


class InTurn(Callback):
    """Times a fit's steps, and after each lets all others take one of theirs, timed too.

    Our time is from the end of the others' to the last callback of our next: loop, transfer, callbacks and all.

    Args:
        others: {name: one step on a batch of images}.
    """

    def __init__(self, others: Mapping[str, Step]):
        self.others = others
        self.rounds: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds = {"ours": time.perf_counter() - self._start}
        for name, step in self.others.items():
            start = time.perf_counter()
            step(batch["image"])
            seconds[name] = time.perf_counter() - start
        self.rounds.append(seconds)
        self._start = time.perf_counter()


def beside(
    overrides: Sequence[str], others: Others, *, size: int, batch_size: int = 8, steps: int = 30
) -> dict[str, Any]:
    """A stage of an experiment for some steps on one batch, with other programs in turn.

    Args:
        overrides: of configs/train.yaml; the first stage is taken.
        others: from the experiment, before its first step.
        size: of the pictures, drawn portraits.
        batch_size: of them.
        steps: that count.

    Returns:
        Median ``seconds`` of each, their ``low`` and ``high``, and what the fit ran with.
    """
    data = [f"data.size={size}", f"data.num_train={2 * batch_size}", "data.num_val=2", "data.num_test=2"]
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed(*overrides, *data, f"data.batch_size={batch_size}", "data.num_workers=0")
        experiment = train.build(cfg, Path(folder))
        stage = next(iter(experiment.stages.values()))
        stage.num_batches = steps + WARM_UP
        system = CompressionSystem(experiment.codec, experiment.tasks, stage, config=experiment.config)
        system.stage_title = "1/1"
        in_turn = InTurn(others(experiment))
        loader = experiment.data.for_stage(num_batches=stage.num_batches, seed=0).train_dataloader()
        batches = [next(iter(loader))] * stage.num_batches
        system.train()
        with experiment.compute.of(system) as for_compute:
            trainer = experiment.trainer(
                Path(folder),
                training=True,
                callbacks=[*experiment.make_callbacks(), *for_compute, in_turn],
                max_epochs=1,
                limit_val_batches=0,
            )
            chosen = experiment.compute.chosen(trainer, for_compute)
            trainer.fit(system, train_dataloaders=_Prepared(batches, experiment.data))
    rounds = in_turn.rounds[WARM_UP:]
    series = {name: [round_[name] for round_ in rounds] for name in rounds[0]}
    return {
        "size": size,
        "batch_size": batch_size,
        "seconds": {name: statistics.median(values) for name, values in series.items()},
        "low": {name: min(values) for name, values in series.items()},
        "high": {name: max(values) for name, values in series.items()},
        "compute": chosen,
    }


class _Prepared:
    """Batches that are there already, as a loader gives them.

    Args:
        batches: collated.
        data: prepares them.
    """

    def __init__(self, batches: Sequence[Mapping[str, Any]], data: Any):
        self.batches = [data.on_after_batch_transfer(dict(batch), 0) for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def composed(*overrides: str) -> DictConfig:
    """configs/train.yaml with overrides, as ``python train.py`` has it."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compressai_step(model: CompressionModel) -> Step:
    """What CompressAI's example of a training does with a batch: both losses, clipping, both optimisers."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    quantiles = {name for name in names if name.endswith(".quantiles")}
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.Adam((parameters[name] for name in sorted(names - quantiles)), lr=1e-4)
    auxiliary = torch.optim.Adam((parameters[name] for name in sorted(quantiles)), lr=1e-3)
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


def bare_step(codec: Codec, *, bf16: bool) -> Step:
    """A PyTorch loop by hand: our codec in the same arithmetic and order, the same optimiser, nothing logged."""
    codec = copy.deepcopy(codec).train().to(memory_format=torch.channels_last)
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


def against_compressai(name: str, size: int, *, compiled: bool = False, steps: int = 30) -> dict[str, Any]:
    """Our step beside CompressAI's and a bare loop's, on the same weights and batch."""
    architecture, arguments = ARCHITECTURES[name]

    def others(experiment: Experiment) -> Mapping[str, Step]:
        theirs = MODELS[architecture](**arguments)
        theirs.load_state_dict(experiment.codec.model.state_dict(), strict=False)
        bf16 = experiment.compute.precision(None, "cpu") == "bf16-mixed"
        return {"compressai": compressai_step(theirs), "bare": bare_step(experiment.codec, bf16=bf16)}

    more = ["compute.compile=true"] if compiled else []
    row = beside([*codec_overrides(name), *more], others, size=size, steps=steps)
    seconds = row["seconds"]
    return {
        "kind": "step",
        "model": name,
        "compiled": compiled,
        **row,
        "speedup": seconds["compressai"] / seconds["ours"],
        "over_bare": seconds["ours"] / seconds["bare"],
    }
