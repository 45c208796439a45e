"""Does faster arithmetic train to the same result? A part of the record ``speed``.

A hyperprior of 64 and 96 channels on crops of real photographs, several seeds each way: CompressAI's own GDN in float32
and torch's usual order; our GDN in float32 and channels_last order, without which it is CompressAI's; and what the
hardware chooses (bf16 and channels_last where it has bf16). Equal seeds see equal first weights, batches and noise.
Loss on held-out photographs: bits of what would be coded, in float32, whichever way the weights were trained.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from compressai.layers import GDN as TheirGDN

import train
from benchmarks.training_step import LMBDA, composed
from launch.overrides import quoted
from lightning_modules import schedule
from models.codecs.base import Codec
from models.transforms.gdn import GDN

FLOAT32 = ("trainer.precision=32-true", "compute.channels_last=false")
WAYS: Mapping[str, tuple[str, ...]] = {"compressai_gdn": FLOAT32, "gdn": FLOAT32[:1], "chosen": ()}
CODEC = (
    "codec=compressai_mbt2018_mean",
    "codec.architecture=bmshj2018-hyperprior",
    "codec.arguments={N: 64, M: 96}",
)


def trained(way: str, seed: int, photos: Path, *, steps: int, held_out: int) -> dict[str, Any]:
    """One training.

    Args:
        way: of ``WAYS``.
        seed: of everything.
        photos: folder with train and test (or one that is shared out).
        steps: batches of 8 crops of 64 pixels.
        held_out: photographs of the test split.

    Returns:
        A row: ``loss`` (bpp + lmbda 255^2 MSE), ``bpp``, ``mse`` and the ``compute`` it was trained with.
    """
    cfg = composed(
        "experiment=photos",
        "data=image_folder",
        f"data.root={quoted(photos)}",
        "data.crop=64",
        "data.batch_size=8",
        "data.keep_mb=1024",
        *CODEC,
        f"lmbda={LMBDA}",
        f"seed={seed}",
        f"schedule.rate_distortion.num_batches={steps}",
        "schedule.rate_distortion.num_validations=1",
        "schedule.rate_distortion.updates.main.optimiser.lr=5.0e-4",
        "callbacks.reconstructions=null",
        "callbacks.latent_statistics=null",
        "+trainer.limit_val_batches=1",
        "+trainer.limit_test_batches=1",
        *WAYS[way],
    )
    with tempfile.TemporaryDirectory() as folder:
        experiment = train.build(cfg, Path(folder))
        codec = experiment.codec
        if way == "compressai_gdn":
            _exchange(codec, GDN, TheirGDN)
        summary = schedule.run(experiment, Path(folder))
        (record,) = Path(folder).glob("stages/*/stage.json")
        compute = json.loads(record.read_text())["compute"]
        _exchange(codec, TheirGDN, GDN)
        images = experiment.data.split("test")
        codec.eval()
        losses = [_loss(codec, images.read(index)["image"][None].float() / 255) for index in range(held_out)]
    bpp, mse = (statistics.mean(values) for values in zip(*losses, strict=True))
    return {
        "kind": "result",
        "way": way,
        "seed": seed,
        "steps": steps,
        "held_out": held_out,
        "loss": bpp + LMBDA * 255**2 * mse,
        "bpp": bpp,
        "mse": mse,
        "seconds": summary["stages"][0]["seconds"],
        "compute": compute,
    }


def _exchange(codec: Codec, old: type, new: type) -> None:
    for layer in codec.modules():
        if type(layer) is old:
            layer.__class__ = new


@torch.no_grad()
def _loss(codec: Codec, x: torch.Tensor) -> tuple[float, float]:
    output = codec(x)
    return float(output.bpp.mean()), float((output.x_hat - x).square().mean())


def gap(rows: Sequence[Mapping[str, Any]], way: str, other: str) -> float | None:
    """How far two ways' mean losses lie apart, in spreads of seeds: the larger range of the two ways' losses."""
    losses = [
        [row["loss"] for row in rows if row["kind"] == "result" and row["way"] == w] for w in (way, other)
    ]
    if not all(losses):
        return None
    spread = max(max(values) - min(values) for values in losses)
    return abs(statistics.mean(losses[0]) - statistics.mean(losses[1])) / spread
