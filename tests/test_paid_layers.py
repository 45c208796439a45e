"""What a task pays for on a codec of several layers: those that it reads and those that they need, no others."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.portraits import Portraits
from evaluation.evaluator import evaluate
from evaluation.points import OWN, Head, Point
from evaluation.rows import rows_of
from evaluation.sources import SplitImages
from lightning_modules.compression import CompressionSystem
from models.codecs.base import Codec
from models.entropy.code_length import code_length
from models.entropy.factorized import Factorized
from models.outputs import CodecOutput, LatentSpec, Layer
from tasks.classification import Classification

STRIDES = {"scene": 8, "faces": 4, "texture": 2}
PAID = {
    "scene": {"scene"},
    "faces": {"scene", "faces"},
    "texture": {"scene", "texture"},
    "pixels": {"scene", "texture"},
    "pixels@faces": {"scene", "faces"},
    "faces and texture": {"scene", "faces", "texture"},
}
"""{what a head reads: the layers it pays for}."""


class ThreeLayers(Codec):
    """A scene, and what faces and texture add to it, each without the other."""

    layers = (Layer("scene"), Layer("faces"), Layer("texture", needs=("scene",)))
    stride = 8

    def __init__(self):
        super().__init__()
        self.codecs = nn.ModuleDict({name: Factorized(3, name=name) for name in STRIDES})
        self.latents = {n: LatentSpec("map", 3, n, stride=stride) for n, stride in STRIDES.items()}

    def _analyse(self, x: Tensor) -> dict[str, Tensor]:
        scene = 16 * (F.avg_pool2d(x, 8) - 0.5)
        rest = x - self._pictures({"scene": scene.round()}, tuple(x.shape[-2:]))["scene"]
        return {"scene": scene, **{n: 16 * F.avg_pool2d(rest, STRIDES[n]) for n in ("faces", "texture")}}

    def _pictures(self, latents: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        grown = {name: F.interpolate(y / 16, size) for name, y in latents.items()}
        scene = grown.pop("scene") + 0.5
        return {"scene": scene, **{name: scene + rest for name, rest in grown.items()}}

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        parts = {name: self.codecs[name](y, keys) for name, y in self._analyse(x).items()}
        bits = {n: code_length(part.likelihoods[n]) for n, part in parts.items()}
        return self._answer({n: part.y_hat for n, part in parts.items()}, tuple(x.shape[-2:]), bits)

    def _answer(
        self, latents: dict[str, Tensor], size: tuple[int, int], bits: dict[str, Tensor]
    ) -> CodecOutput:
        pictures = self._pictures(latents, size)
        return CodecOutput(
            size, bits=bits, latents=latents, x_hat=pictures.get("texture"), pixels_by_layer=pictures
        )

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        strings = {name: self.codecs[name].compress(y) for name, y in self._analyse(x).items()}
        return [dict(zip(strings, image, strict=True)) for image in zip(*strings.values(), strict=True)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        latents = {
            name: self.codecs[name].decompress(
                [s[name] for s in strings], tuple(n // STRIDES[name] for n in size)
            )
            for name in strings[0]
        }
        return self._answer(latents, size, {})


class MeanColours(nn.Module):
    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int):
        super().__init__()
        self.linear = nn.Linear(sum(spec.channels for spec in specs), num_outputs)

    def forward(self, *maps: Tensor, size: tuple[int, int]) -> Tensor:
        return self.linear(torch.cat([x.mean((2, 3)) for x in maps], 1))


@pytest.fixture
def codec() -> ThreeLayers:
    torch.manual_seed(0)
    return ThreeLayers().eval()


def test_a_task_pays_for_what_it_reads_and_what_that_needs(codec: ThreeLayers, tmp_path: Path) -> None:
    images = SplitImages(Portraits(size=40, num_test=3, batch_size=2), "test")
    tasks = {
        name: Classification(
            codec.readable,
            images.source.labels,
            reads=name.split(" and "),
            target="identity",
            head=MeanColours,
        ).eval()
        for name in PAID
    }
    heads = [Head(name, OWN, task) for name, task in tasks.items()]
    # A head of somebody else's reads the decoded picture, whatever its own latents are.
    heads.append(Head("foreign", OWN, tasks["scene"], reader=codec))
    paid = PAID | {"foreign": PAID["pixels"]}
    evaluation = evaluate(
        [Point("three", codec, heads=heads)], images, cache=tmp_path, progress=False, timed_images=0
    )
    expected: dict[str, list[float]] = {name: [] for name in paid}
    for index, entry in enumerate(evaluation.entries[0]):
        (bitstream,) = codec.compress(images.read(index)["image"])
        data = codec.serialise(bitstream)
        lengths = {name: len(string) for name, string in codec.parse(data).strings.items()}
        assert len(set(lengths.values())) == 3
        for head in heads:
            unread = sum(length for name, length in lengths.items() if name not in paid[head.name])
            expected[head.name].append(8 * (len(data) - unread) / 40**2)
            assert entry["heads"][head.key]["bpp"] == pytest.approx(expected[head.name][-1]), head.name
    ((row,), _) = rows_of(evaluation, command="", num_resamples=2, progress=False)
    for name, values in expected.items():
        assert row["tasks"][f"{name}/bpp"] == pytest.approx(np.mean(values)), name
    assert row["tasks"]["scene/bpp"] < row["tasks"]["faces/bpp"] < row["tasks"]["texture/bpp"] < row["bpp"]
    assert row["tasks"]["faces and texture/bpp"] == pytest.approx(row["bpp"])

    # The run's own test says the same.
    system = CompressionSystem(codec, tasks, ready=tasks).eval()
    system.on_test_epoch_start()
    for index in range(len(images)):
        system.test_step(images.read(index), index)
    tested = system.measures.compute()
    for name in tasks:
        assert tested[f"{name}/bpp"] == pytest.approx(row["tasks"][f"{name}/bpp"]), name


def test_no_more_is_decoded_than_is_paid_for(codec: ThreeLayers) -> None:
    x = torch.rand(1, 3, 40, 40)
    (bitstream,) = codec.compress(x)
    for layer in codec.layers:
        assert set(codec.decompress([bitstream], layer.name).bits) == PAID[layer.name]
