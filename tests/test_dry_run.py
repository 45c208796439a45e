"""Heads, terms and subjects that cannot work at the data's sizes are told before anything trains."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.experiment import Experiment
from lightning_modules.parts import Parts
from losses.term import Term
from models.outputs import CodecOutput
from tests.conftest import compose_config
from train import build

TINY = (
    "data.size=32",
    "data.num_train=4",
    "data.num_val=2",
    "data.num_test=2",
    "data.batch_size=4",
    "data.num_workers=0",
    "codec.width=4",
    "codec.latent_channels=4",
    "callbacks.reconstructions=null",
    "callbacks.latent_statistics=null",
    "baselines={}",
)
ON_PIXELS = (
    "task@tasks.parsing=segmentation_pixels",
    "tasks.parsing.head.features.backbone=vit_tiny_patch16_224",
)
IMG_SIZE = "tasks.parsing.head.features.backbone_args.img_size"


def built(*overrides: str) -> Experiment:
    return build(compose_config(*TINY, *overrides), Path())


def test_a_backbone_for_another_size_is_told_with_the_override_that_helps() -> None:
    with pytest.raises(
        ValueError,
        match=r"stage 'heads': tasks\.parsing: its head fails on training pictures of 32x32 pixels \(AssertionError: "
        rf"Input height \(32\) .*tell it this one \(\+{IMG_SIZE}=32 for timm's\)",
    ):
        built(*ON_PIXELS)
    with pytest.raises(ValueError, match=r"tasks\.parsing: .* validation pictures of 48x48 .*img_size=48"):
        built(*ON_PIXELS, f"+{IMG_SIZE}=32", "+data.eval_size=48")
    built(*ON_PIXELS, f"+{IMG_SIZE}=32")


def state_of(experiment: Experiment) -> list[Any]:
    parts = Parts(experiment.codec, experiment.tasks, experiment.networks)
    weights = {key: value.clone() for key, value in parts.state_dict().items()}
    modes = [module.training for module in parts.modules()]
    flags = [parameter.requires_grad for parameter in parts.parameters()]
    return [
        weights,
        modes,
        flags,
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    ]


def test_nothing_moves() -> None:
    experiment = built("task@tasks.parsing=segmentation_pixels")  # has batch norms
    before = state_of(experiment)
    experiment.check()
    weights, modes, flags, drawn, *others = state_of(experiment)
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(value, before[0][key]) for key, value in weights.items())
    assert (modes, flags) == (before[1], before[2])
    assert torch.equal(drawn, before[3])
    assert others == before[4:]


class Glow(Term):
    reads = ("extras.glow",)

    def forward(self, output: CodecOutput, batch: dict[str, Any]) -> torch.Tensor:
        return output.extras["glow"].mean()


class Texture(Term):
    reads = ("pixels",)

    def forward(self, output: CodecOutput, batch: dict[str, Any]) -> torch.Tensor:
        torch.rand(3)  # a draw of its own is no matter
        return output.x_hat.unfold(-1, 64, 1).var()


def test_terms_are_asked_too() -> None:
    experiment = built()
    objective = experiment.stages["joint"].updates["main"].objective
    objective.terms["texture"] = Texture()
    with pytest.raises(
        ValueError,
        match=r"stage 'joint': its objective's term/texture fails on training pictures of 32x32 pixels \(RuntimeError",
    ):
        experiment.check()
    del objective.terms["texture"]
    # What is promised must be there: `gives` alone is only a word.
    experiment.codec.gives = (*experiment.codec.gives, "extras.glow")
    objective.terms["glow"] = Glow()
    with pytest.raises(
        ValueError,
        match=r"stage 'joint': its objective's term/glow reads \['extras\.glow'\], which codec says it gives, and does",
    ):
        experiment.check()


def test_what_stages_share_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = built()
    answered, asked = [], []
    answer, parsing = type(experiment.codec).answer, experiment.tasks["parsing"]

    def noted(codec: Any, batch: Any, *others: Any) -> CodecOutput:
        answered.append(tuple(batch["image"].shape))
        return answer(codec, batch, *others)

    monkeypatch.setattr(type(experiment.codec), "answer", noted)
    parsing.register_forward_hook(lambda *_: asked.append(1))
    experiment.check()
    assert answered == [(2, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32)]
    assert len(asked) == 3
