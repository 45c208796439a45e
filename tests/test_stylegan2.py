"""StyleGAN2 against slow versions of its layers, official layouts of its weights, and its game."""

import math
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from losses.stylegan2 import R1, LogisticCritic, LogisticGenerator
from models.entropy.noise import normal_noise, sample_keys
from models.outputs import CodecOutput
from models.stylegan2.discriminator import Discriminator
from models.stylegan2.generator import StyleGAN2
from models.stylegan2.layers import EqualConv, ModulatedConv, blur, doubled
from models.stylegan2.synthesis import Block, StyleGAN2Synthesis

TINY = {"style_dim": 16, "channel_base": 256, "max_channels": 12, "mapping_depth": 3}


def tiny(size: int = 32, **more: object) -> StyleGAN2:
    torch.manual_seed(0)
    generator = StyleGAN2(size, **TINY, **more)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        generator.synthesis.w_mean.normal_()
    return generator.eval()


# -- slow versions, written from the paper: loops over images, channels and positions


def slow_filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of one map (H, W) without padding, position by position."""
    k = kernel.shape[0]
    rows = range(x.shape[0] - k + 1)
    columns = range(x.shape[1] - k + 1)
    return torch.stack(
        [torch.stack([(x[i : i + k, j : j + k] * kernel).sum() for j in columns]) for i in rows]
    )


def slow_up_filter(x: Tensor, before: int, behind: int) -> Tensor:
    """Padding by zeros and the filter of gain 4 over each map."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = 4 * torch.outer(taps, taps) / taps.sum() ** 2
    return torch.stack([slow_filter(F.pad(m, (before, behind, before, behind)), kernel) for m in x])


def slow_modulated(x: Tensor, style: Tensor, layer: ModulatedConv) -> Tensor:
    """Equations 1 to 3, image by image and output channel by output channel, in float64."""
    images = []
    weight, affine = layer.weight.double(), layer.affine
    outputs, inputs, k, _ = weight.shape
    for image, w in zip(x.double(), style.double(), strict=True):
        s = affine.weight.double() @ w / math.sqrt(len(w)) + affine.bias.double()
        maps = []
        for o in range(outputs):
            own = torch.stack([weight[o, i] * s[i] for i in range(inputs)]) / math.sqrt(inputs * k * k)
            if layer.demodulate:
                own = own / torch.sqrt((own**2).sum() + 1e-8)
            if layer.up:
                # Every input position adds its kernel to the result: 2 h + 1 a side.
                height, width = image.shape[1:]
                total = torch.zeros(2 * height + k - 2, 2 * width + k - 2, dtype=torch.float64)
                for i in range(inputs):
                    for y in range(height):
                        for z in range(width):
                            total[2 * y : 2 * y + k, 2 * z : 2 * z + k] += image[i, y, z] * own[i]
            else:
                pad = k // 2
                padded = F.pad(image, (pad, pad, pad, pad))
                total = sum(slow_filter(padded[i], own[i]) for i in range(inputs))
            maps.append(total)
        images.append(slow_up_filter(torch.stack(maps), 1, 1) if layer.up else torch.stack(maps))
    return torch.stack(images)


def slow_activation(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


@pytest.mark.parametrize("side", [5, 32])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_the_papers(side: int, up: bool, demodulate: bool) -> None:
    torch.manual_seed(1)
    layer = ModulatedConv(3, 2, 3, 6, demodulate=demodulate, up=up)
    side = {5: 4, 32: 33}[side] if up else side
    x, style = torch.randn(2, 3, side, side), torch.randn(2, 6)
    expected = slow_modulated(x, style, layer)
    torch.testing.assert_close(layer(x, style).double(), expected, rtol=1e-5, atol=1e-5)
    # Both ways of computing it, whatever the size.
    weight, scale = layer.weight / math.sqrt(27), layer.affine(style)
    ways = [layer._by_weights(x, weight, scale), layer._by_activations(x, weight, scale)]
    torch.testing.assert_close(*ways, rtol=1e-5, atol=1e-5)


def test_a_block_is_the_papers() -> None:
    torch.manual_seed(2)
    block = Block(3, 2, 5, 8)
    for convolution in (block.conv0, block.conv1):
        nn.init.constant_(convolution.noise_strength, 0.4)
        nn.init.normal_(convolution.bias)
    nn.init.normal_(block.to_rgb.bias)
    x, picture, styles = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 5)
    features, shown = block(x, picture, styles, "fixed", None)
    slow = x
    for convolution, style in ((block.conv0, styles[:, 0]), (block.conv1, styles[:, 1])):
        slow = slow_modulated(slow, style, convolution.conv) + 0.4 * convolution.noise.double()
        slow = slow_activation(slow + convolution.bias.double()[:, None, None])
    rgb = slow_modulated(slow, styles[:, 2], block.to_rgb.conv) + block.to_rgb.bias.double()[:, None, None]
    wide = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    wide[..., ::2, ::2] = picture.double()
    rgb = rgb + torch.stack([slow_up_filter(image, 2, 1) for image in wide])
    torch.testing.assert_close(features.double(), slow, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shown.double(), rgb, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        doubled(picture).double(), torch.stack([slow_up_filter(i, 2, 1) for i in wide])
    )


def test_a_halving_convolution_is_filter_then_every_second_position() -> None:
    torch.manual_seed(3)
    layer, x = EqualConv(2, 3, 3, down=True), torch.randn(1, 2, 6, 6)
    filtered = torch.stack([slow_up_filter(m[None], 2, 2)[0] / 4 for m in x[0]])
    expected = torch.zeros(3, 5, 5)
    for o in range(3):
        expected[o] = sum(slow_filter(filtered[i], layer.weight[o, i] / math.sqrt(18)) for i in range(2))
    torch.testing.assert_close(layer(x)[0], expected[:, ::2, ::2])
    torch.testing.assert_close(
        blur(x, (1, 2))[0], torch.stack([slow_up_filter(m[None], 1, 2)[0] / 4 for m in x[0]])
    )


def test_styles_go_where_the_paper_has_them() -> None:
    synthesis = tiny(32).synthesis
    assert synthesis.num_styles == 8
    styles = torch.randn(1, 8, 16).requires_grad_()
    seen = []
    for i, block in enumerate(synthesis.blocks):
        for name in ("conv0", "conv1", "to_rgb"):
            if getattr(block, name) is not None:
                affine = getattr(getattr(block, name).conv, "affine")  # noqa: B009
                affine.register_forward_hook(
                    lambda m, inputs, out, key=(i, name): seen.append((key, inputs[0].detach()))
                )
    synthesis(styles)
    used = {key: next(k for k in range(8) if torch.equal(styles[0, k], w[0])) for key, w in seen}
    assert used == {
        (0, "conv1"): 0, (0, "to_rgb"): 1, (1, "conv0"): 1, (1, "conv1"): 2, (1, "to_rgb"): 3, (2, "conv0"): 3,
        (2, "conv1"): 4, (2, "to_rgb"): 5, (3, "conv0"): 5, (3, "conv1"): 6, (3, "to_rgb"): 7,
    }  # fmt: skip


@pytest.mark.parametrize(("size", "base", "channels"), [
    (32, 32768, [512, 512, 512, 512]), (1024, 32768, [512, 512, 512, 512, 512, 256, 128, 64, 32]),
    (256, 16384, [512, 512, 512, 512, 256, 128, 64]),
])  # fmt: skip
def test_resolutions_and_multipliers(size: int, base: int, channels: list[int]) -> None:
    with torch.device("meta"):
        synthesis = StyleGAN2Synthesis(size, channel_base=base)
    assert [block.conv1.conv.weight.shape[0] for block in synthesis.blocks] == channels
    assert synthesis.num_styles == 2 * int(math.log2(size)) - 2
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2Synthesis(size + 8)


def test_noise_and_truncation_are_controlled() -> None:
    generator = tiny(32)
    synthesis, keys = generator.synthesis, sample_keys(0, torch.arange(3))
    with torch.no_grad():
        styles = generator.draw_styles(keys)
        plain = {noise: synthesis(styles, noise=noise) for noise in ("fixed", "none")}
        keyed = synthesis(styles, noise="keyed", keys=keys)
        assert torch.equal(synthesis(styles), plain["fixed"])
        assert not torch.allclose(plain["fixed"], plain["none"])
        # By sample, not by batch.
        alone = synthesis(styles[1:2], noise="keyed", keys=keys[1:2])
        torch.testing.assert_close(alone, keyed[1:2], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(synthesis(styles, noise="keyed", keys=keys + 1), keyed)
        assert torch.allclose(synthesis.truncated(styles, 0.0), synthesis.w_mean)
        torch.testing.assert_close(synthesis.truncated(styles, 1.0), styles)
        with pytest.raises(ValueError, match="keys go with 'keyed'"):
            synthesis(styles, noise="keyed")
        with pytest.raises(ValueError, match=r"takes \(B, 8, 16\)"):
            synthesis(styles[:, :5])
        with pytest.raises(ValueError, match="none of this generator's sizes"):
            synthesis(styles, size=64)
    drawn = normal_noise(keys, (3, 20_000), salt=1)
    assert torch.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02


def test_styles_are_mixed_and_keyed() -> None:
    generator = tiny(32, mixing=0.5)
    keys = sample_keys(0, torch.arange(200))
    with torch.no_grad():
        styles = generator.draw_styles(keys)
        torch.testing.assert_close(generator.draw_styles(keys[7:9]), styles[7:9])
    # One change of style at most, and in half of them none.
    changes = (styles[:, 1:] != styles[:, :-1]).any(2).sum(1)
    assert set(changes.tolist()) == {0, 1}
    assert 0.3 < changes.float().mean() < 0.6
    generator.mixing = 0.0
    assert not (generator.draw_styles(keys)[:, 1:] != generator.draw_styles(keys)[:, :-1]).any()


# -- official layouts, written down from the table of their keys


def port_checkpoint(size: int, style_dim: int, widths: list[int], depth: int, device: str = "cpu") -> dict:
    """Random weights under the names of the widely used PyTorch port."""
    make = lambda *shape: torch.randn(*shape, device=device)  # noqa: E731
    g: dict[str, Tensor] = OrderedDict()
    for i in range(depth):
        g[f"style.{i + 1}.weight"], g[f"style.{i + 1}.bias"] = make(style_dim, style_dim), make(style_dim)

    def conv(name: str, inputs: int, outputs: int, k: int, bias: str) -> None:
        g[f"{name}.conv.weight"] = make(1, outputs, inputs, k, k)
        g[f"{name}.conv.modulation.weight"] = make(inputs, style_dim)
        g[f"{name}.conv.modulation.bias"] = make(inputs)
        g[f"{name}.{bias}"] = make(1, outputs, 1, 1) if bias == "bias" else make(outputs)
        if bias != "bias":
            g[f"{name}.noise.weight"] = make(1)

    g["input.input"] = make(1, widths[0], 4, 4)
    conv("conv1", widths[0], widths[0], 3, "activate.bias")
    conv("to_rgb1", widths[0], 3, 1, "bias")
    g["noises.noise_0"] = make(1, 1, 4, 4)
    for j, width in enumerate(widths[1:]):
        conv(f"convs.{2 * j}", widths[j], width, 3, "activate.bias")
        g[f"convs.{2 * j}.conv.blur.kernel"] = make(4, 4)
        conv(f"convs.{2 * j + 1}", width, width, 3, "activate.bias")
        conv(f"to_rgbs.{j}", width, 3, 1, "bias")
        g[f"to_rgbs.{j}.upsample.kernel"] = make(4, 4)
        side = 8 * 2**j
        g[f"noises.noise_{2 * j + 1}"], g[f"noises.noise_{2 * j + 2}"] = (
            make(1, 1, side, side),
            make(1, 1, side, side),
        )
    return {"g_ema": g, "latent_avg": make(style_dim)}


def nvidia_from_port(port: dict) -> dict[str, Tensor]:
    """The same weights under NVIDIA's names: the table row by row."""
    g, found = port["g_ema"], {"mapping.w_avg": port["latent_avg"]}

    def conv(name: str, other: str, bias: str) -> None:
        found[f"{other}.weight"] = g[f"{name}.conv.weight"][0]
        found[f"{other}.affine.weight"] = g[f"{name}.conv.modulation.weight"]
        found[f"{other}.affine.bias"] = g[f"{name}.conv.modulation.bias"]
        found[f"{other}.bias"] = g[f"{name}.{bias}"].flatten()
        if bias != "bias":
            found[f"{other}.noise_strength"] = g[f"{name}.noise.weight"].reshape(())
            found[f"{other}.resample_filter"] = torch.zeros(4, 4, device=port["latent_avg"].device)

    i = 0
    while f"style.{i + 1}.weight" in g:
        for part in ("weight", "bias"):
            found[f"mapping.fc{i}.{part}"] = g[f"style.{i + 1}.{part}"]
        i += 1
    found["synthesis.b4.const"] = g["input.input"][0]
    conv("conv1", "synthesis.b4.conv1", "activate.bias")
    conv("to_rgb1", "synthesis.b4.torgb", "bias")
    found["synthesis.b4.conv1.noise_const"] = g["noises.noise_0"][0, 0]
    j = 0
    while f"to_rgbs.{j}.bias" in g:
        block = f"synthesis.b{8 * 2**j}"
        conv(f"convs.{2 * j}", f"{block}.conv0", "activate.bias")
        conv(f"convs.{2 * j + 1}", f"{block}.conv1", "activate.bias")
        conv(f"to_rgbs.{j}", f"{block}.torgb", "bias")
        found[f"{block}.conv0.noise_const"] = g[f"noises.noise_{2 * j + 1}"][0, 0]
        found[f"{block}.conv1.noise_const"] = g[f"noises.noise_{2 * j + 2}"][0, 0]
        j += 1
    return found


def slow_picture(port: dict, w: Tensor) -> Tensor:
    """The port's generator, written as its checkpoint is: one image, fixed noise."""
    g = {key: value.double() for key, value in port["g_ema"].items()}

    def conv(name: str, x: Tensor, style: Tensor, *, up: bool, demodulate: bool) -> Tensor:
        s = (
            g[f"{name}.conv.modulation.weight"] @ style / math.sqrt(len(style))
            + g[f"{name}.conv.modulation.bias"]
        )
        weight = g[f"{name}.conv.weight"][0]
        weight = weight * s[None, :, None, None] / math.sqrt(weight[0].numel())
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            x = F.conv_transpose2d(x[None], weight.transpose(0, 1), stride=2)[0]
            kernel = torch.outer(*[torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)] * 2) / 16
            return F.conv2d(F.pad(x, (1, 1, 1, 1))[:, None], kernel[None, None])[:, 0]
        return F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]

    def styled(name: str, x: Tensor, style: Tensor, noise: str, *, up: bool = False) -> Tensor:
        x = conv(name, x, style, up=up, demodulate=True) + g[f"{name}.noise.weight"] * g[noise][0]
        return slow_activation(x + g[f"{name}.activate.bias"][:, None, None])

    def rgb(name: str, x: Tensor, style: Tensor) -> Tensor:
        return conv(name, x, style, up=False, demodulate=False) + g[f"{name}.bias"][0]

    w = w.double()
    x = styled("conv1", g["input.input"][0], w[0], "noises.noise_0")
    picture, j = rgb("to_rgb1", x, w[1]), 0
    while f"to_rgbs.{j}.bias" in g:
        x = styled(f"convs.{2 * j}", x, w[2 * j + 1], f"noises.noise_{2 * j + 1}", up=True)
        x = styled(f"convs.{2 * j + 1}", x, w[2 * j + 2], f"noises.noise_{2 * j + 2}")
        wide = torch.zeros(3, 2 * picture.shape[1], 2 * picture.shape[1], dtype=torch.float64)
        wide[:, ::2, ::2] = picture
        kernel = torch.outer(*[torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)] * 2) / 16
        up = F.conv2d(F.pad(wide, (2, 1, 2, 1))[:, None], kernel[None, None])[:, 0]
        picture, j = up + rgb(f"to_rgbs.{j}", x, w[2 * j + 3]), j + 1
    return picture / 2 + 0.5


WIDTHS = [12, 12, 8, 8, 4]
SMALL = {"size": 64, "style_dim": 16, "channel_base": 256, "max_channels": 12, "mapping_depth": 3}


@pytest.mark.parametrize("layout", ["port", "port_flat", "nvidia"])
def test_official_layouts_load_key_for_key(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    port = port_checkpoint(64, 16, [12, 12, 12, 8, 4], 3)
    if layout == "port":
        path = tmp_path / "weights.pt"
        torch.save(port, path)
    else:
        path = tmp_path / "weights.safetensors"
        flat = (
            port["g_ema"] | {"latent_avg": port["latent_avg"]}
            if layout == "port_flat"
            else nvidia_from_port(port)
        )
        save_file({key: value.contiguous().clone() for key, value in flat.items()}, path)
    generator = StyleGAN2(**SMALL, weights=path).eval()
    assert generator.trained
    styles = torch.randn(2, 10, 16)
    with torch.no_grad():
        picture = generator.synthesis(styles)
        w = generator.mapping(torch.ones(1, 16))
    expected = torch.stack([slow_picture(port, w) for w in styles])
    scale = expected.abs().max()
    torch.testing.assert_close(picture.double() / scale, expected / scale, rtol=1e-5, atol=1e-5)
    x = torch.ones(16, dtype=torch.float64)
    for i in range(3):
        weight, bias = (port["g_ema"][f"style.{i + 1}.{part}"].double() for part in ("weight", "bias"))
        x = slow_activation(0.01 * (weight @ x / 4 + bias))
    torch.testing.assert_close(w[0].double(), x, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(generator.synthesis.w_mean, port["latent_avg"])


@pytest.mark.parametrize("layout", ["port", "nvidia"])
def test_shapes_at_1024_pixels(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [512, 512, 512, 512, 512, 256, 128, 64, 32]
    port = port_checkpoint(1024, 512, widths, 8, device="meta")
    state = port if layout == "port" else nvidia_from_port(port)
    monkeypatch.setattr("models.stylegan2.weights._opened", lambda path: state)
    with torch.device("meta"):
        generator = StyleGAN2(1024, weights="official.pt")
    assert sum(p.numel() for p in generator.parameters()) == 30_370_060


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    port = port_checkpoint(64, 16, [12, 12, 12, 8, 4], 3)
    torch.save(port, path)
    for change in ({"size": 32}, {"style_dim": 8}, {"channel_base": 512}, {"mapping_depth": 2}):
        with pytest.raises(ValueError, match=r"another generator than this one .*px, styles of"):
            StyleGAN2(**(SMALL | change), weights=path)
    del port["latent_avg"]
    torch.save(port, path)
    generator = StyleGAN2(**SMALL, weights=path)
    torch.testing.assert_close(generator.synthesis.w_mean, generator.mapping.mean())
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="of neither layout"):
        StyleGAN2(**SMALL, weights=path)
    with path.open("wb") as file:
        pickle.dump({"G_ema": Path("x")}, file)
    with pytest.raises(ValueError, match="holds code.*convert it once.*state_dict"):
        StyleGAN2(**SMALL, weights=path)
    with pytest.raises(ValueError, match="no file of weights"):
        StyleGAN2(**SMALL, weights=tmp_path / "nothing.pt")


# -- the game


def test_the_terms_are_the_papers() -> None:
    torch.manual_seed(5)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0))
    output, batch = CodecOutput((4, 4), x_hat=torch.rand(6, 3, 4, 4)), {"image": torch.rand(6, 3, 4, 4)}
    weight, bias = critic[1].weight[0].double(), critic[1].bias.double()
    scores = {
        key: [float((x.flatten().double() @ weight + bias).detach()) for x in pictures]
        for key, pictures in (("real", batch["image"]), ("drawn", output.x_hat))
    }
    fooled = sum(math.log1p(math.exp(-s)) for s in scores["drawn"]) / 6
    told = sum(math.log1p(math.exp(s)) for s in scores["drawn"]) / 6
    told += sum(math.log1p(math.exp(-s)) for s in scores["real"]) / 6
    assert LogisticGenerator()(output, batch, critic).item() == pytest.approx(fooled, rel=1e-5)
    assert LogisticCritic()(output, batch, critic).item() == pytest.approx(told, rel=1e-5)
    # The slope of a linear critic is its weights everywhere.
    for share in (1.0, 0.2):
        value = R1(share=share)(output, batch, critic)
        assert value.item() == pytest.approx(float(weight.square().sum()), rel=1e-5)
    value.backward()
    torch.testing.assert_close(critic[1].weight.grad[0], 2 * weight.float())
    with pytest.raises(ValueError, match="part of the batch"):
        R1(share=0)


def test_the_discriminator_sees_how_alike_pictures_are() -> None:
    torch.manual_seed(6)
    critic = Discriminator(32, channel_base=256, max_channels=8)
    x = torch.rand(4, 3, 32, 32)
    alike = x[:1].expand(4, -1, -1, -1)
    assert not torch.allclose(critic(alike)[:1], critic(x)[:1])
    single = Discriminator(32, channel_base=256, max_channels=8, group=1)
    torch.testing.assert_close(single(x)[:1], single(x[:1]))
    # A remainder of any length.
    assert critic(x[:3]).shape == (3,)
    features = torch.randn(4, 2, 3, 3)
    deviation = features.double().var(0, correction=0).add(1e-8).sqrt().mean()
    torch.testing.assert_close(critic._deviation(features)[:, 0, 1, 1].double(), deviation.expand(4))
    with pytest.raises(ValueError, match="made for 32"):
        critic(torch.rand(1, 3, 64, 64))
