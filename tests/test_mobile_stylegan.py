"""MobileStyleGAN: its layers against slow versions, its cuts, and the package's files converted."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.stylegan2.convert_mobile import constants, converted, fit_heads, main
from models.stylegan2.mobile import MobileStyleGAN, inverse_haar, narrowed

WIDTHS = (8, 8, 8, 4)
DIM = 6


def tiny(**more: object) -> MobileStyleGAN:
    torch.manual_seed(0)
    return MobileStyleGAN(style_dim=DIM, widths=WIDTHS, mapping_depth=2, **more).eval()


def test_inverse_haar_is_the_transform() -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 8, 2, 2)
    expected = torch.zeros(1, 2, 4, 4)
    for c in range(2):
        for i in range(2):
            for j in range(2):
                ll = x[0, c, i, j]
                lh, hl, hh = (x[0, 2 + 3 * c + k, i, j] for k in range(3))
                for a in (0, 1):
                    for b in (0, 1):
                        value = ll + (-1) ** a * lh + (-1) ** b * hl + (-1) ** (a + b) * hh
                        expected[0, c, 2 * i + a, 2 * j + b] = value / 2
    torch.testing.assert_close(inverse_haar(x), expected)


@pytest.mark.parametrize("times", [1, 2])
def test_kernels_are_narrowed_to_what_they_do_to_means(times: int) -> None:
    torch.manual_seed(2)
    kernel, coarse = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 5, 5)
    fine = coarse.repeat_interleave(2**times, 2).repeat_interleave(2**times, 3)
    expected = F.avg_pool2d(F.conv2d(fine, kernel, padding=1), 2**times)
    torch.testing.assert_close(F.conv2d(coarse, narrowed(kernel, times), padding=1), expected)


def test_half_size_is_the_mean_and_cuts_are_its_likes() -> None:
    generator = tiny()
    synthesis = generator.synthesis
    assert synthesis.sizes == (64, 128)
    assert synthesis.num_styles == 14
    assert [synthesis.size_for(side) for side in (3, 64, 65, 500)] == [64, 64, 128, 128]
    styles = generator.draw_styles(torch.arange(2))
    whole, half = (synthesis(styles, size=size) for size in (128, 64))
    torch.testing.assert_close(half, F.avg_pool2d(whole, 2))
    with pytest.raises(ValueError, match="none of this generator's sizes"):
        tiny(size=32)
    with pytest.raises(ValueError, match="distilled with fixed noise"):
        synthesis(styles, noise="keyed", keys=torch.arange(2))


def test_heads_of_cuts_are_fitted_in_closed_form() -> None:
    torch.manual_seed(0)
    generator = MobileStyleGAN(style_dim=DIM, widths=(8, 8, 8, 8, 4), mapping_depth=2, size=64).eval()
    keys = torch.arange(3)
    with torch.no_grad():
        wanted = F.avg_pool2d(generator.synthesis(generator.draw_styles(keys), size=256), 4)
        before = (generator.answer({}, None, keys).x_hat - wanted).square().mean()
        quality = fit_heads(generator, 4)
        after = (generator.answer({}, None, keys).x_hat - wanted).square().mean()
    assert set(quality) == {64}
    assert after < before


def package(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Made-up files of the package's kind, tiny; what they hold, by file and name."""
    torch.manual_seed(3)
    make = torch.randn
    mapping = {"Constant_5": make(1, 1)}
    for i in range(2):
        mapping[f"{171 + 2 * i}"], mapping[f"{172 + 2 * i}"] = make(DIM, DIM), make(DIM)
    synthesis: dict[str, Tensor] = {"m.input.input": make(1, 8, 4, 4), "Mul_39_copy": make(8, 8, 3, 3)}

    def style(name: str, channels: int) -> None:
        synthesis[f"{name}.modulation.weight"] = make(channels, DIM)
        synthesis[f"{name}.modulation.bias"] = make(1, channels)

    def noisy(name: str, channels: int, side: int, number: int) -> None:
        synthesis[f"{number}"] = make(1, 1, side, side)
        synthesis[f"{name}.bias"] = make(1, channels, 1, 1)

    style("m.conv1.conv", 8)
    noisy("m.conv1", 8, 4, 1531)
    for i, (a, b) in enumerate(zip((8, *WIDTHS), WIDTHS, strict=False)):
        style(f"m.layers.{i}.up", a)
        for name, channels, number in (("conv1", a // 4, 106), ("conv2", b, 139)):
            style(f"m.layers.{i}.{name}.conv", channels)
            synthesis[f"m.layers.{i}.{name}.conv.weight_dw"] = make(channels, 1, 1, 3, 3)
            synthesis[f"Mul_{100 * i + number}_copy"] = make(b, channels, 1, 1)
            noisy(f"m.layers.{i}.{name}", b, 8 * 2**i, 1600 + 10 * i + number)
    style("m.layers.3.to_img.conv", 4)
    synthesis["m.layers.3.to_img.conv.weight"] = make(12, 4, 1, 1)
    synthesis["m.layers.3.to_img.bias"] = make(1, 12, 1, 1)
    files = {"MappingNetwork": mapping, "SynthesisNetwork": synthesis}
    for name, tensors in files.items():
        root, data = ElementTree.Element("net", name=name), b""
        layers = ElementTree.SubElement(root, "layers")
        ElementTree.SubElement(layers, "layer", name="axis", type="Const").append(
            ElementTree.Element("data", element_type="i64", shape="1", offset="0", size="8")
        )
        for key, tensor in tensors.items():
            layer = ElementTree.SubElement(layers, "layer", name=key, type="Const")
            own = tensor.numpy().tobytes()
            ElementTree.SubElement(
                layer, "data", element_type="f32", shape=", ".join(map(str, tensor.shape)), offset=str(len(data)),
                size=str(len(own)),
            )  # fmt: skip
            data += own
        ElementTree.ElementTree(root).write(folder / f"{name}.xml")
        (folder / f"{name}.bin").write_bytes(data)
    return files


def slow_picture(files: dict[str, dict[str, Tensor]], w: Tensor) -> Tensor:
    """The published network as its file describes it, for one style per layer (L, DIM), in float64."""
    g = {key: value.double() for key, value in files["SynthesisNetwork"].items()}
    names = list(g)
    w = w.double()

    def style(name: str, k: int, factor: float) -> Tensor:
        return ((g[f"{name}.modulation.weight"] @ w[k] + g[f"{name}.modulation.bias"][0]) * factor)[
            :, None, None
        ]

    def finish(x: Tensor, name: str) -> Tensor:
        noise = g[names[names.index(f"{name}.bias") - 1]]
        return F.leaky_relu(x + noise[0] + g[f"{name}.bias"][0], 0.2)

    x = g["m.input.input"][0] * style("m.conv1.conv", 0, 1 / 72**0.5)
    x = finish(F.conv2d(x[None], g["Mul_39_copy"], padding=1)[0], "m.conv1")
    for i in range(4):
        x = inverse_haar((x * style(f"m.layers.{i}.up", 1 + 3 * i, 1.0))[None])[0]
        for k, (name, number) in enumerate((("conv1", 106), ("conv2", 139))):
            ours = f"m.layers.{i}.{name}"
            x = x * style(f"{ours}.conv", 2 + 3 * i + k, 1 / (9 * len(x)) ** 0.5)
            x = F.conv2d(x[None], g[f"{ours}.conv.weight_dw"][:, 0], padding=1, groups=len(x))
            x = finish(F.conv2d(x, g[f"Mul_{100 * i + number}_copy"])[0], ours)
    x = x * style("m.layers.3.to_img.conv", 13, 1 / 2)
    x = F.conv2d(x[None], g["m.layers.3.to_img.conv.weight"]) + g["m.layers.3.to_img.bias"]
    return inverse_haar(x)[0] / 2 + 0.5


def test_the_packages_files_are_converted(tmp_path: Path) -> None:
    files = package(tmp_path)
    generator = tiny()
    generator.load_state_dict(converted(tmp_path, generator))
    styles = torch.randn(2, 14, DIM)
    with torch.no_grad():
        picture, w = generator.synthesis(styles), generator.mapping(torch.ones(1, DIM))[0]
    expected = torch.stack([slow_picture(files, own) for own in styles])
    torch.testing.assert_close(picture.double(), expected, rtol=1e-4, atol=1e-4 * expected.std().item())
    x = torch.ones(DIM)
    _, *layers = files["MappingNetwork"].values()
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = F.leaky_relu(weight @ x + bias, 0.2) * 2**0.5
    torch.testing.assert_close(w, x, rtol=1e-4, atol=1e-4)


def test_other_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package(tmp_path)
    with pytest.raises(ValueError, match="another network"):
        converted(tmp_path, MobileStyleGAN(style_dim=DIM, widths=(8, 8, 8, 8), mapping_depth=2))
    with pytest.raises(ValueError, match=r"mapping network has 4 tensors, 6"):
        converted(tmp_path, MobileStyleGAN(style_dim=DIM, widths=WIDTHS, mapping_depth=3))
    binary = tmp_path / "SynthesisNetwork.bin"
    binary.write_bytes(binary.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        constants(tmp_path / "SynthesisNetwork.xml")
    (tmp_path / "SynthesisNetwork.xml").write_text("no xml")
    with pytest.raises(ValueError, match="no network of OpenVINO"):
        constants(tmp_path / "SynthesisNetwork.xml")
    assert main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "random-face" in capsys.readouterr().err
    with pytest.raises(ValueError, match="convert_mobile"):
        MobileStyleGAN(weights=tmp_path / "nothing.safetensors")


@pytest.mark.slow
def test_the_published_network_is_what_openvino_runs() -> None:
    spec = importlib.util.find_spec("random_face")
    if spec is None:
        pytest.skip("the package random-face is not installed (pip install --no-deps random-face)")
    openvino = pytest.importorskip(
        "openvino", reason="openvino, which runs the package's own file, is not installed"
    )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    generator = MobileStyleGAN().eval()
    generator.load_state_dict(converted(folder, generator))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    mapping, synthesis = (
        openvino.Core().compile_model(str(folder / f"{name}Network.xml"), "CPU", exact)
        for name in ("Mapping", "Synthesis")
    )
    z = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    w = mapping([z])[0]
    with torch.no_grad():
        np.testing.assert_allclose(generator.mapping(torch.from_numpy(z)).numpy(), w, atol=1e-5)
        picture = generator.synthesis(torch.from_numpy(w)[:, None].expand(-1, 23, -1))
    np.testing.assert_allclose(picture.numpy(), synthesis([w])[0] / 2 + 0.5, atol=1e-4)
