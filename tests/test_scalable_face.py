"""Scalable face codec: layers, sizes, terms, and the whole chain from a generator's training to files."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import codec as codec_command
import train
from export import export, read_options
from lightning_modules.init_from import load_into, read_weights
from lightning_modules.parts import Parts
from losses.bits_per_image import BitsPerImage
from losses.embedding import EmbeddingDistance
from losses.perceptual import Perceptual
from losses.styles import InversionError, StyleDistortion
from models.codecs.identity import Identity
from models.codecs.principal_axes import principal_axes
from models.codecs.refined import refined
from models.codecs.scalable_face import ScalableFace
from models.entropy.factorized_tokens import FactorizedTokens
from models.entropy.noise import sample_keys
from models.outputs import CodecOutput
from models.pretrained.model import load
from models.stylegan2.generator import StyleGAN2
from models.stylegan2.inversion import Inversion, shared_out
from models.stylegan2.synthesis import StyleGAN2Synthesis
from models.transforms.linear_tokens import LinearTokenParameters
from tests.conftest import compose_config, tiny_codec

FACES = ("scalable_face_tiny", "scalable_face_linear", "scalable_face_independent")


def made(name: str = "scalable_face_tiny") -> ScalableFace:
    """A codec whose layers all say something."""
    codec = tiny_codec(name)
    with torch.no_grad():
        for head in codec.inversion.heads:
            head[-1].weight.mul_(20)
        codec.synthesis.w_mean.normal_()
        for latent_codec in codec.latent_codecs:
            if isinstance(latent_codec, FactorizedTokens):
                latent_codec.entropy_bottleneck.quantiles[:, :, 1] += 0.7
            elif isinstance(latent_codec.network, LinearTokenParameters):
                latent_codec.network.mean.weight.normal_(std=0.2)
    return codec.eval()


@pytest.mark.parametrize("name", FACES)
def test_missing_layers_are_what_the_entropy_model_expects(name: str) -> None:
    codec = made(name)
    x = torch.rand(2, 3, 32, 32)
    bitstreams = codec.compress(x)
    whole = codec.decompress(bitstreams)
    assert list(whole.pixels_by_layer) == ["basic", "middle", "enhanced"]
    for count, layer in enumerate(whole.pixels_by_layer, 1):
        known = codec.decompress(bitstreams, upto=layer)
        tokens = list(known.latents.values())
        assert len(tokens) == count
        for i in range(count, 3):
            latent_codec, shape = codec.latent_codecs[i], codec.shapes[i]
            if name == "scalable_face_independent":
                tokens.append(
                    latent_codec.entropy_bottleneck.quantiles[:, 0, 1]
                    .detach()
                    .reshape(1, *shape)
                    .expand(2, -1, -1)
                )
            else:
                # Scales first, then means.
                mean = latent_codec.network.double()(*(t.double() for t in tokens))[..., shape[1] :]
                latent_codec.network.float()
                tokens.append(mean.float())
        offsets = [up(t.flatten(1)).reshape(2, -1, 64) for up, t in zip(codec.up, tokens, strict=True)]
        expected = codec.synthesis(codec.synthesis.w_mean + torch.cat(offsets, 1)).clamp(0, 1)
        # Means of the codec lie on a grid of 1/256.
        torch.testing.assert_close(known.x_hat, expected, rtol=0, atol=0.01)
        torch.testing.assert_close(known.x_hat, whole.pixels_by_layer[layer], rtol=0, atol=1e-5)
    assert not torch.allclose(whole.pixels_by_layer["basic"], whole.x_hat, atol=0.01)


@pytest.mark.parametrize("name", FACES)
def test_symbols_do_not_depend_on_batch_or_estimate(name: str) -> None:
    codec = made(name)
    x = torch.rand(3, 3, 32, 32)
    decoded = codec.decompress(codec.compress(x))
    estimate = codec(x)
    alone = codec.decompress(codec.compress(x[1:2]))
    for layer, tokens in decoded.latents.items():
        assert torch.equal(tokens, estimate.latents[layer])
        assert torch.equal(tokens[1:2], alone.latents[layer])
    assert len(set(decoded.latents["basic"].flatten().tolist())) > 5


def test_a_cut_file_gives_the_layers_that_are_left() -> None:
    codec = made()
    (bitstream,) = codec.compress(torch.rand(1, 3, 32, 32))
    file = codec.serialise(bitstream)
    length = len(file) - len(bitstream.strings["enhanced"])
    parsed = codec.parse(file[:length])
    assert list(parsed.strings) == ["basic", "middle"]
    decoded, expected = codec.decompress([parsed]), codec.decompress([bitstream], upto="middle")
    assert torch.equal(decoded.x_hat, expected.x_hat)


def test_nothing_is_stretched() -> None:
    codec = made()
    x = torch.rand(1, 3, 48, 20)
    square = F.pad(x, (0, 28, 0, 0), mode="replicate")
    torch.testing.assert_close(codec(x).x_hat, codec(square).x_hat[..., :20])
    (bitstream,) = codec.compress(x)
    larger = codec.resized(bitstream, 96)
    assert larger.size == (96, 40)
    picture = codec.decompress([larger]).x_hat
    assert picture.shape == (1, 3, 96, 40)
    small = F.interpolate(picture, (48, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, codec.decompress([bitstream]).x_hat, rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="own size alone"):
        Identity().resized(bitstream, 96)


def test_only_the_pictures_that_are_asked_for_are_drawn() -> None:
    codec, x = made(), torch.rand(1, 3, 32, 32)
    every = codec(x, keys=torch.zeros(1, dtype=torch.long))
    codec.pictures = "last"
    last = codec(x, keys=torch.zeros(1, dtype=torch.long))
    assert list(last.pixels_by_layer) == ["enhanced"]
    torch.testing.assert_close(last.x_hat, every.x_hat)
    codec.pictures = "ends"
    ends = codec(x, keys=torch.zeros(1, dtype=torch.long))
    assert list(ends.pixels_by_layer) == ["basic", "enhanced"]
    torch.testing.assert_close(ends.pixels_by_layer["basic"], every.pixels_by_layer["basic"])
    torch.testing.assert_close(ends.x_hat, every.x_hat)
    codec.pictures = "none"
    assert codec(x).x_hat is None


def test_wrong_groups_are_told() -> None:
    assert shared_out(10, [3, 4, None]) == (3, 4, 3)
    for groups in ([3, 4], [3, 8, None], [None, None], [10, None]):
        with pytest.raises(ValueError, match=r"do not share out the generator's 10"):
            shared_out(10, groups)
    synthesis = StyleGAN2Synthesis(32, style_dim=8, channel_base=64)
    encoder = lambda styles, dim: nn.Identity()  # noqa: E731
    with pytest.raises(ValueError, match="must have.*channels.*styles.*tokens"):
        ScalableFace(synthesis, encoder, {"basic": {"styles": 8, "tokens": 0, "channels": 4}})
    with pytest.raises(ValueError, match="step=0"):
        ScalableFace(synthesis, encoder, {"basic": {"styles": 8, "tokens": 1, "channels": 4}}, step=0)
    with pytest.raises(ValueError, match="pictures='all'"):
        ScalableFace(synthesis, encoder, {"basic": {"styles": 8, "tokens": 1, "channels": 4}}, pictures="all")


def test_the_bottleneck_begins_as_a_quantiser_of_its_step() -> None:
    synthesis = StyleGAN2Synthesis(8, style_dim=8, channel_base=64)
    codec = ScalableFace(
        synthesis,
        lambda styles, dim: nn.Identity(),
        {"basic": {"styles": 4, "tokens": 4, "channels": 8}},
        step=0.5,
    )
    offsets = torch.randn(5, 4, 8)
    (tokens,) = codec.tokens(offsets)
    torch.testing.assert_close(codec.decoded_offsets([tokens]), offsets, rtol=1e-4, atol=1e-5)
    error = codec.decoded_offsets([tokens.round()]) - offsets
    assert error.square().mean().item() == pytest.approx(0.5**2 / 12, rel=0.3)


def test_the_bottleneck_may_begin_on_principal_axes() -> None:
    codec = made()
    # Styles of few dimensions, which random axes miss.
    table = torch.randn(5, codec.synthesis.num_styles * codec.synthesis.style_dim)
    codec.inversion = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.Linear(5, table.shape[1], bias=False))
    codec.inversion[2].weight.data = table.T
    codec.inversion.append(nn.Unflatten(1, (codec.synthesis.num_styles, -1)))
    draws = iter([{"image": torch.rand(20, 3, 1, 1)} for _ in range(10)])
    principal_axes(codec.train(), draws, pictures=100)
    assert codec.training
    assert len(list(draws)) == 5
    offsets = codec.offsets(torch.rand(50, 3, 1, 1))
    tokens = codec.tokens(offsets)
    torch.testing.assert_close(codec.decoded_offsets(tokens), offsets, atol=1e-3, rtol=1e-3)
    # Of the quantiser's step, where anything is left to say; of three dimensions, that is on three axes.
    error = (codec.decoded_offsets([t.round() for t in tokens]) - offsets).square().sum((1, 2)).mean()
    assert error < 3 * len(tokens) * codec.step**2 / 4


def test_refinement_gains_by_its_own_measure_and_keeps_the_files() -> None:
    codec = made().requires_grad_(False)
    x = torch.rand(2, 3, 40, 32)

    def teacher(original: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x_hat: (x_hat - original).square().mean((1, 2, 3))

    better = refined(codec, 12, teacher, weight=5e4)
    assert better.model_id() == codec.model_id()  # which makes the tables, as commands do
    with torch.inference_mode():
        bitstreams = {name: one.compress(x) for name, one in (("plain", codec), ("refined", better))}
    costs = {}
    for name, own in bitstreams.items():
        # Whoever has the codec reads both.
        decoded = codec.decompress([codec.parse(codec.serialise(b)) for b in own])
        costs[name] = sum(codec_bits for codec_bits in decoded.bits.values()) + 5e4 * teacher(x)(
            decoded.x_hat
        )
    assert (costs["refined"] < costs["plain"]).all()
    assert len(better.seconds) == 1
    alone = better.compress(x[1:])[0]
    assert alone.strings == bitstreams["refined"][1].strings
    # No teacher that says nothing helps: the file is then the encoder's own, or a smaller one.
    idle = refined(codec, 2, lambda original: lambda x_hat: 0 * x_hat.mean((1, 2, 3)))
    assert sum(map(len, idle.compress(x[:1])[0].strings.values())) <= sum(
        map(len, bitstreams["plain"][0].strings.values())
    )
    # At a smaller side it sees smaller pictures, of the same shape.
    seen = []

    def small_teacher(original: Tensor) -> Callable[[Tensor], Tensor]:
        seen.append(original.shape)
        return teacher(original)

    smaller = refined(codec, 2, small_teacher, side=20)
    assert (
        codec.decompress([codec.parse(smaller.serialise(b)) for b in smaller.compress(x)]).x_hat.shape
        == x.shape
    )
    assert seen == [(2, 3, 20, 16)]
    with pytest.raises(ValueError, match="steps=0 of refinement must be at least 1"):
        refined(codec, 0, teacher)
    with pytest.raises(ValueError, match="lr=-1"):
        refined(codec, 1, teacher, lr=-1)


def test_an_encoder_of_small_pictures_sees_no_finer_detail() -> None:
    class Features(nn.Module):
        channels = (3,)

        def forward(self, x: Tensor) -> list[Tensor]:
            assert x.shape[-1] == 32
            return [x]

    encoder = Inversion(
        4, 4, features=lambda spec: Features(), size=8, enlarged=32, split=(4,), width=2, hidden=4
    )
    x = torch.rand(2, 3, 24, 24)
    small = F.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(encoder(x), encoder(small))


# -- terms


def test_bits_are_counted_by_image_and_layer() -> None:
    output = CodecOutput(
        (8, 8), bits={"basic": torch.tensor([10.0, 20.0]), "middle": torch.tensor([4.0, 8.0])}
    )
    assert BitsPerImage()(output, {}).item() == 21.0
    assert BitsPerImage({"basic": 2.0, "middle": 0.0})(output, {}).item() == 30.0
    with pytest.raises(ValueError, match=r"\['top'\]; the codec has \['basic', 'middle'\]"):
        BitsPerImage({"top": 1.0})(output, {})
    with pytest.raises(ValueError, match="must not be rewarded"):
        BitsPerImage({"basic": -1.0})


def test_terms_of_styles_and_embeddings() -> None:
    torch.manual_seed(0)
    wanted, found = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    output = CodecOutput(
        (8, 8), x_hat=2 * torch.rand(2, 3, 8, 8), extras={"offsets": wanted, "offsets_hat": found}
    )
    slow = sum((float(a) - float(b)) ** 2 for a, b in zip(wanted.flatten(), found.flatten(), strict=True))
    assert StyleDistortion()(output, {}).item() == pytest.approx(slow / 2, rel=1e-5)
    seen = []

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return found

    assert InversionError()(output, {}, Encoder()).item() == pytest.approx(slow / 24, rel=1e-5)
    assert seen[0].max() == 1.0
    output.extras["offsets_filled"] = wanted + 1
    assert StyleDistortion("offsets_filled")(output, {}).item() == pytest.approx(12)
    batch = {"image": torch.rand(2, 3, 8, 8)}
    identity, basic = (lambda x: [x]), torch.rand(2, 3, 8, 8)
    output.pixels_by_layer = {"basic": basic}
    alone = CodecOutput((8, 8), x_hat=basic)
    assert Perceptual(identity, layer="basic").reads == ("pixels@basic",)
    torch.testing.assert_close(
        Perceptual(identity, layer="basic")(output, batch), Perceptual(identity)(alone, batch)
    )
    cosines = []
    for a, b in zip(output.x_hat.flatten(1), batch["image"].flatten(1), strict=True):
        cosines.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
    value = EmbeddingDistance(nn.Flatten())(output, batch).item()
    assert value == pytest.approx(1 - sum(cosines) / 2, rel=1e-4)


def test_a_part_takes_over_another_parts_weights() -> None:
    generator = StyleGAN2(32, style_dim=64, channel_base=1024, max_channels=64)
    system = Parts(tiny_codec("scalable_face_tiny"), {}, {"generator": generator})
    load_into(system, "codec.synthesis", ":networks.generator.synthesis")
    for key, value in generator.synthesis.state_dict().items():
        assert torch.equal(value, system.codec.synthesis.state_dict()[key])
    with pytest.raises(ValueError, match="weights in the system do not fit"):
        read_weights(system, "codec.inversion", ":networks.generator.synthesis")
    with pytest.raises(ValueError, match="the system holds no weights under 'networks.nobody.'"):
        read_weights(system, "codec.synthesis", ":networks.nobody")


def test_the_encoder_learns_a_generators_styles() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(8, style_dim=4, channel_base=64, max_channels=8, mapping_depth=1, mixing=0.0).eval()
    generator.synthesis.w_mean.copy_(generator.mapping.mean())

    class Features(nn.Module):
        channels = (8, 8)

        def __init__(self, spec: object):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> list[Tensor]:
            fine = self.fine(x - 0.5).relu()
            return [fine, self.coarse(fine).relu()]

    encoder = Inversion(4, 4, features=Features, size=8, split=(2, 2), width=8, hidden=64)
    optimiser, term, errors = torch.optim.Adam(encoder.parameters(), 3e-3), InversionError(), []
    for step in range(150):
        with torch.no_grad():
            output = generator.answer({}, None, sample_keys(0, torch.arange(32) + 32 * step))
        loss = term(output, {}, encoder)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        errors.append(loss.item())
    assert sum(errors[-20:]) / 20 < 0.7 * sum(errors[:5]) / 5


# -- the whole chain

TINY = (
    "data={size: 32, batch_size: 8, num_train: 64, num_val: 4, num_test: 4, num_workers: 0}",
    "callbacks={reconstructions: {num_images: 1}, latent_statistics: null}",
    "networks={generator: {style_dim: 32, channel_base: 256, max_channels: 16}, critic: {channel_base: 256, "
    "max_channels: 16}}",
    "codec={synthesis: {style_dim: 32, channel_base: 256, max_channels: 16}}",
    *(f"schedule.{name}={{num_batches: {n}, num_validations: 1}}" for name, n in
      (("prior", 20), ("inversion", 20), ("inversion_pictures", 5), ("bottleneck", 20), ("heads", 10), ("joint", 10))),
)  # fmt: skip


@pytest.mark.slow
def test_the_whole_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, begun = tmp_path / "run", []

    def beginning(codec: ScalableFace, batches: Iterator[dict]) -> None:
        begun.append(next(batches)["image"])
        principal_axes(codec, batches)

    with mock.patch.dict(os.environ), mock.patch("models.codecs.principal_axes.principal_axes", beginning):
        train.train(compose_config("experiment=scalable_face_portraits", *TINY), run)
    # Once, on pictures as training sees them.
    assert len(begun) == 1
    assert begun[0].shape == (8, 3, 32, 32)
    assert 0.3 < begun[0].max() <= 1
    summary = json.loads((run / "summary.json").read_text())
    stages = {stage["name"]: stage["metrics"] for stage in summary["stages"]}
    assert list(stages) == ["prior", "inversion", "inversion_pictures", "bottleneck", "heads", "joint"]
    assert {"test/critic/logistic", "test/critic/r1", "test/generator/logistic"} <= stages["prior"].keys()
    assert "test/inversion" in stages["inversion"]
    (*_, row) = summary["test"]["rows"]
    assert list(row["bpp_by_layer"]) == ["basic", "middle", "enhanced"]
    paid = [row["tasks"][f"{task}/bpp"] for task in ("attributes", "landmarks")]
    assert 0 < paid[0] < paid[1] < row["bpp"]
    model = tmp_path / "model"
    export(read_options([f"run={run}", f"out={model}"]))
    state = load(model).codec.state_dict()
    trained = torch.load(run / "stages/01-prior/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    # The codec draws with the generator of the first stage, and nothing after has moved it.
    prefix = "networks.generator.synthesis."
    for key, value in trained.items():
        if key.startswith(prefix):
            assert torch.equal(value, state["synthesis." + key.removeprefix(prefix)]), key
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)).save(picture)
    files = tmp_path / "files"

    def command(*arguments: object) -> None:
        assert codec_command.main([*map(str, arguments)]) == 0

    command("compress", model, picture, "-o", files)
    for options, size in (((), (40, 50)), (("--upto", "basic"), (40, 50)), (("--size", "100"), (80, 100))):
        out = tmp_path / "-".join(["out", *options])
        command("decompress", model, files, "-o", out, *options)
        assert Image.open(out / "a.png").size == size
    capsys.readouterr()
    command("analyze", model, files)
    (line,) = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)["tasks"]) == {"attributes", "landmarks"}
