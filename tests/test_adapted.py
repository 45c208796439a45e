"""Adapters: the codec as it is without them, exact with them, one set at a time."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import train
from benchmarks.adaptation import figures
from models.bitstream import BitstreamError
from models.codecs.adapted import Adapted, Adapter
from models.codecs.base import Codec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.entropy.noise import sample_keys
from models.pretrained import load, save_pretrained
from models.transforms.fast import bf16_instructions
from tests.conftest import compose_config, tiny_codec
from tests.tiny_run import SMALL, train_small

SETS = {"people": {"width": 4, "kernel_size": 3}, "machines": {"width": 2}, "camera": {"at": ["g_a", "h_a"]}}


def adapted(base: Codec | None = None, active: str | None = None) -> Adapted:
    """All adapters at random, as after training."""
    codec = Adapted(base or tiny_codec("mean_scale_small"), SETS, active)
    torch.manual_seed(1)
    for parameter in codec.adapters.parameters():
        nn.init.normal_(parameter, std=0.1)
    return codec.eval()


def files(codec: Codec, images: Tensor) -> list[bytes]:
    return [codec.serialise(b) for b in codec.compress(images)]


@pytest.mark.parametrize("name", ["mean_scale_small", "compressai_mbt2018", "compressai_elic"])
def test_without_a_set_files_and_pictures_are_the_codec_s_own(name: str, images: Tensor) -> None:
    base = tiny_codec(name).eval()
    base(
        images, keys=sample_keys(0, torch.arange(2))
    )  # as in training, masked convolutions lose what they mask
    own, picture = files(base, images), base(images).x_hat
    codec = adapted(copy.deepcopy(base))
    assert files(codec, images) == own
    codec.active = "people"
    assert files(codec, images) != own
    decoded = codec.decompress([codec.parse(data) for data in files(codec, images)])
    torch.testing.assert_close(decoded.latents["y_hat"], codec(images).latents["y_hat"], rtol=0, atol=1e-4)
    codec.active = None
    assert files(codec, images) == own
    assert torch.equal(codec(images).x_hat, picture)
    both = (c.decompress([c.parse(data) for data in own]).x_hat for c in (base, codec))
    assert torch.equal(*both)


def test_fresh_adapters_change_nothing_but_have_gradients(images: Tensor) -> None:
    base = tiny_codec("mean_scale_small")
    codec = Adapted(copy.deepcopy(base), SETS, "people")
    keys = sample_keys(0, torch.arange(2))
    output = codec(images, keys=keys)
    assert torch.equal(output.x_hat, base(images, keys=keys).x_hat)
    (output.x_hat.square().mean() + output.bits["base"].mean()).backward()
    assert all(adapter.up.weight.grad.any() for adapter in codec.adapters["people"].values())
    assert all(parameter.grad is None for parameter in codec.adapters["machines"].parameters())


def test_an_adapter_is_a_residual_of_two_convolutions() -> None:
    adapter, y = Adapter(3, width=2, kernel_size=3), torch.randn(1, 3, 5, 5)
    nn.init.normal_(adapter.up.weight)
    hidden = nn.functional.conv2d(y, adapter.down.weight, adapter.down.bias, padding=1).clamp(min=0)
    expected = y + torch.einsum("oi,bihw->bohw", adapter.up.weight[:, :, 0, 0], hidden)
    torch.testing.assert_close(adapter(nn.Identity(), (y,), y), expected)


def test_a_file_of_another_set_is_told_which(images: Tensor) -> None:
    codec = adapted(active="people")
    (data,) = files(codec, images[:1])
    for other in ("machines", None):
        codec.active = other
        with pytest.raises(BitstreamError, match="written with the adapters 'people': choose MODEL@people"):
            codec.parse(data)
    (data,) = files(codec, images[:1])
    codec.active = "people"
    with pytest.raises(BitstreamError, match="none of the sets.*MODEL@none"):
        codec.parse(data)


def test_what_adapts_the_encoder_alone_needs_no_new_decoder(images: Tensor) -> None:
    base = tiny_codec("mean_scale_small").eval()
    codec = adapted(copy.deepcopy(base), "camera")
    data = files(codec, images)
    assert data != files(base, images)
    decoded = base.decompress([base.parse(d) for d in data])
    assert torch.equal(decoded.latents["y_hat"], codec(images).latents["y_hat"])


def test_acceleration_and_copies_keep_the_set(images: Tensor) -> None:
    codec = adapted(active="people")
    plain, symbols = codec(images), codec.decompress(codec.compress(images)).latents["y_hat"]
    copied = copy.deepcopy(codec)
    copied.active = "machines"
    assert not torch.equal(copied(images).x_hat.detach(), plain.x_hat)
    codec.accelerate()
    decoded = codec.decompress(codec.compress(images))
    torch.testing.assert_close(decoded.x_hat, plain.x_hat.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(decoded.latents["y_hat"], symbols, rtol=0, atol=1e-4)
    codec.active = None
    assert torch.equal(codec(images).x_hat, codec.codec(images).x_hat)


@pytest.mark.skipif(bf16_instructions() is None, reason="no bfloat16 instructions")
def test_adapters_compute_in_bf16_too(images: Tensor) -> None:
    codec = adapted(active="people")
    plain = codec(images).x_hat.detach()
    fast = codec.accelerate(bf16=True).decompress(codec.compress(images)).x_hat
    assert (fast - plain).abs().mean() < 0.02


def test_the_receptive_field_includes_the_adapters() -> None:
    codec = Adapted(MeanScaleHyperprior(4, 4), {"wide": {"kernel_size": 5}, "narrow": {}})
    narrow = codec.receptive_field
    codec.active = "narrow"
    assert codec.receptive_field == narrow
    codec.active = "wide"
    assert codec.receptive_field > narrow


@pytest.mark.slow
def test_a_run_trains_adapters_alone_and_its_model_can_be_switched(tmp_path: Path, images: Tensor) -> None:
    base = load(train_small(tmp_path / "base"))
    exported = save_pretrained(base, tmp_path / "exported")
    config = compose_config(
        *(key for key in SMALL if not key.startswith("codec")),
        "codec=adapted",
        "codec@codec.codec=mean_scale_tiny",
        "codec.codec.width=4",
        "codec.codec.latent_channels=4",
        "schedule=adapters",
        "schedule.adapters.num_batches=2",
        f"schedule.adapters.init_from={{codec.codec: '{exported}:codec', tasks: '{exported}'}}",
    )
    train.train(config, tmp_path / "run")
    adapted, plain = load(tmp_path / "run"), load(f"{tmp_path}/run@none")
    assert adapted.codec.active == "machines"
    assert any(a.up.weight.any() for a in adapted.codec.adapters["machines"].values())
    assert files(plain.codec, images) == files(base.codec, images) != files(adapted.codec, images)
    again = load(save_pretrained(plain, tmp_path / "plain"))
    assert again.codec.active is None
    with pytest.raises(ValueError, match=r"@other: its codec has the adapters \['machines', 'none'\]"):
        load(f"{tmp_path}/run@other")
    with pytest.raises(ValueError, match=r"@machines: its codec has no adapters \(codec=adapted has\)"):
        load(f"{tmp_path}/base@machines")


def test_the_record_s_figures_follow_from_its_rows() -> None:
    rows = [
        {
            "row": row,
            "trained": 10 * i,
            "weights": 200,
            "bpp": 0.5,
            "psnr": 30.0,
            "tasks": {"scene/top1": 0.6 + i / 10, "lite0/kl": 2 - i**2, "lite0/agreement": 0.5},
        }
        | {"ci95": {"bpp": [0.4, 0.6], "psnr": None, "scene/top1": [0.5, 0.9]}}
        for i, row in enumerate(("heads", "adapters", "full"))
    ]
    found = figures(rows)
    assert found["adaptation_adapters_trainable_percent"] == 5
    assert found["adaptation_heads_top1"] == 0.6
    assert found["adaptation_full_bpp_low"] == 0.4
    assert found["adaptation_share_of_full_gain_top1"] == pytest.approx(0.5)
    assert found["adaptation_share_of_full_gain_kl"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("adapters", "active", "message"),
    [
        ({"keys": {}}, None, "'keys' cannot be a name"),
        ({"a": {"width": 0}}, None, r"adapters\.a: width=0 must be at least 1"),
        ({"a": {"depth": 2}}, None, r"adapters\.a: .*depth"),
        ({"a": {"at": ["g_x"]}}, None, r"at=\['g_x'\]: MeanScaleHyperprior has of these only"),
        ({"a": {}}, "b", "active='b' is no set of adapters"),
    ],
)
def test_mistakes(adapters: dict, active: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adapted(tiny_codec("mean_scale_small"), adapters, active)


def test_a_codec_without_networks_has_no_place_for_adapters() -> None:
    with pytest.raises(ValueError, match="JPEG has of these only"):
        Adapted(tiny_codec("jpeg"), {"a": {}})
