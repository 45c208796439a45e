"""Entropy models on the same frozen tokens of real faces: layer-wise transformer, linear, independent layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from models.codecs.scalable_face import ScalableFace
from models.entropy.noise import sample_keys
from models.pretrained import load

MODELS: Mapping[str, Any] = {
    "transformer": "as it is",
    "linear": {"_target_": "models.transforms.linear_tokens.LinearTokenParameters", "_partial_": True},
    "independent": None,
}
"""{name: the codec's ``parameters``}"""
LINEAR = ("mean.weight", "mean.bias", "scale")
"""How names of ``LinearTokenParameters`` end, alone or inside the transformer."""


def rows(run: Path, train: Tensor, test: Tensor, *, steps: int, batch: int = 64) -> list[dict[str, Any]]:
    """Bits of test faces, estimated and in strings, after equal training of fresh entropy models.

    Args:
        run: a trained codec; its encoder and bottleneck give the tokens, and stay as they are.
        train: pictures (N, 3, H, W) to learn on; mirrored ones are added.
        test: pictures that are counted.
        steps: of Adam, the learning rate falling along a cosine.
        batch: images in each.
    """
    trained = load(run, tasks=()).codec
    learned = [
        torch.cat(parts) for parts in zip(*(tokens(trained, x) for x in (train, train.flip(-1))), strict=True)
    ]
    counted = tokens(trained, test)
    config = OmegaConf.load(run / "config.yaml").codec
    config.inversion.features.weights = None
    found = []
    for name, parameters in MODELS.items():
        if parameters != "as it is":
            config.parameters = parameters
        torch.manual_seed(0)
        codec: ScalableFace = instantiate(config)
        fit(codec, learned, steps, batch)
        found.append({"kind": "entropy", "model": name, "steps": steps, **bits(codec, counted)})
    return found


@torch.no_grad()
def tokens(codec: ScalableFace, x: Tensor) -> list[Tensor]:
    """Tokens of every layer, (N, tokens, channels), not rounded."""
    parts = [codec.tokens(codec.offsets(part)) for part in x.split(16)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def fit(codec: ScalableFace, learned: Sequence[Tensor], steps: int, batch: int) -> None:
    """Train a codec's entropy models alone, in place; nothing is drawn."""
    models = codec.latent_codecs.train()
    # Densities and linear functions of all three are slow to find, attention is quick to lose.
    attention, others = [], []
    for name, parameter in models.named_parameters():
        quick = ".network." not in name or name.endswith(LINEAR)
        (others if quick else attention).append(parameter)
    adam = torch.optim.Adam(
        [{"params": part, "lr": lr} for part, lr in ((attention, 1e-3), (others, 1e-2)) if part]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randint(len(learned[0]), (batch,), generator=generator)
        keys = sample_keys(0, batch * step + torch.arange(batch))
        output = codec.estimate([layer[chosen] for layer in learned], (1, 1), keys)
        loss = sum(output.bits.values()).mean() + codec.auxiliary_loss()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    codec.eval()


@torch.no_grad()
def bits(codec: ScalableFace, counted: Sequence[Tensor]) -> dict[str, Any]:
    """{"ideal_bits": of each image, "string_bits": likewise, "by_layer": mean ideal bits}"""
    codec._prepare()
    output = codec.estimate(counted, (1, 1), None)
    strings = codec.write(counted)
    return {
        "ideal_bits": [round(v, 2) for v in sum(output.bits.values()).tolist()],
        "string_bits": [8 * sum(map(len, image.values())) for image in strings],
        "by_layer": {name: value.mean().item() for name, value in output.bits.items()},
    }
