"""A run that takes seconds, for the tests of what becomes of runs."""

import os
from pathlib import Path
from unittest import mock

import train
from tests.conftest import compose_config

SMALL = (
    "data.size=32",
    "data.num_train=16",
    "data.num_val=4",
    "data.num_test=6",
    "data.batch_size=4",
    "data.num_workers=0",
    "codec.width=4",
    "codec.latent_channels=4",
    "callbacks=ema",
    "callbacks.ema.decay=0.5",
    "callbacks.reconstructions=null",
    "callbacks.latent_statistics=null",
    "baselines.jpeg.rates=[20]",
)
"""The quickstart with averaged weights: two tasks, a baseline."""

LENGTHS = (
    "schedule.pretrain.num_batches=2",
    "schedule.heads.num_batches=2",
    "schedule.joint.num_batches=4",
)


def train_small(folder: Path, *overrides: str, lengths: tuple[str, ...] = LENGTHS) -> Path:
    """Train the small quickstart into a folder."""
    with mock.patch.dict(os.environ):
        train.train(compose_config(*SMALL, *overrides, *lengths), folder)
    return folder
