"""Encoder and decoder agree on every integer, whatever computes them; CompressAI's models code as CompressAI does."""

import inspect
from collections.abc import Callable

import pytest
import torch
from compressai.registry import MODELS
from torch import Tensor, nn

from benchmarks.determinism import default_dtype
from models.bitstream import BitstreamError
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.entropy import exact
from models.entropy.checkerboard import put, take
from models.entropy.exact import Exact
from models.entropy.serial_context import wavefronts
from models.outputs import Bitstream
from models.threads import threads
from tests.conftest import SMALL_ARGUMENTS

ARCHITECTURES = {
    "bmshj2018-factorized": {"N": 8, "M": 12},
    "bmshj2018-factorized-relu": {"N": 8, "M": 12},
    "bmshj2018-hyperprior": {"N": 8, "M": 12},
    "mbt2018-mean": {"N": 8, "M": 12},
    "mbt2018": {"N": 8, "M": 12},
    "cheng2020-anchor": {"N": 8},
    "cheng2020-attn": {"N": 8},
    "cheng2020-anchor-checkerboard": {"N": 8},
    "elic2022-official": {"N": 8, "M": 12, "groups": [4, 8]},
    "elic2022-chandelier": {"N": 8, "M": 12, "groups": [4, 4, 4]},
}


def lively(codec: Codec) -> Codec:
    """An untrained codec of many symbols, and of scales that depend on what was decoded before: chances to differ."""
    for name, parameter in codec.named_parameters():
        if parameter.dim() == 4:
            parameter.data.mul_(1.6 if "g_a" in name else 1.5)
        elif name.endswith("g_a.6.bias"):
            parameter.data.mul_(20)
    for path, network in codec.named_modules():
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        name = path.rpartition(".")[2]
        if layers and name in ("g_a", "h_a"):
            layers[-1].weight.data.mul_(8)
        if layers and name in ("h_s", "entropy_parameters"):
            layers[-1].weight.data.mul_(4)
            layers[-1].bias.data.add_(torch.linspace(0.1, 6, len(layers[-1].bias)).flip(0))
    return codec.eval()


def wrapped(architecture: str, **options: str) -> CompressAICodec:
    torch.manual_seed(0)
    return lively(CompressAICodec(architecture, ARCHITECTURES[architecture], **options))


def own() -> Codec:
    torch.manual_seed(0)
    return lively(MeanScaleHyperprior(8, 12))


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(2))


# -- integer-valued arithmetic -------------------------------------------------------------------------------------


LAYERS = {
    "conv": lambda: nn.Conv2d(96, 40, 5, padding=2),
    "strided": lambda: nn.Conv2d(96, 40, 3, stride=2, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(96, 40, 5, stride=2, padding=2, output_padding=1),
    "pointwise": lambda: nn.Conv2d(96, 40, 1),
}


@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_sums_are_the_same_in_any_order(kind: str, scale: float) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    layer.weight.data.mul_(scale)
    x = 30 * torch.randn(2, 96, 12, 20)
    order = torch.randperm(96)
    other = LAYERS[kind]()
    other.load_state_dict(layer.state_dict())
    channel = 0 if kind == "transposed" else 1
    other.weight.data = layer.weight.data.index_select(channel, order)
    expected = Exact()(layer, x)
    assert expected.dtype == torch.float64
    assert torch.equal(Exact()(other, x[:, order]), expected)
    assert torch.equal(Exact()(layer, x[1:]), expected[1:])
    assert torch.equal(Exact()(layer, x.to(memory_format=torch.channels_last)), expected)
    # The control: floating point does depend on the order.
    assert not torch.equal(layer(x), other(x[:, order]))
    error = (expected - layer.double()(x.double())).abs().max()
    assert error < 3e-3 * max(scale, 0.1)


@pytest.mark.parametrize("part_bytes", [1, 400_000])
@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_parts_of_a_convolution_are_the_whole(
    kind: str, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[kind](), 30 * torch.randn(2, 96, 12, 20)
    expected, calls = Exact()(layer, x), []
    monkeypatch.setattr(exact, "PART_BYTES", part_bytes)
    name = "conv_transpose2d" if kind == "transposed" else "conv2d"
    original = getattr(nn.functional, name)
    monkeypatch.setattr(nn.functional, name, lambda *a: calls.append(a[1].shape[1]) or original(*a))
    assert torch.equal(Exact()(layer, x), expected)
    channels = layer.weight.shape[1]
    assert sum(calls) == channels
    if part_bytes == 1:
        assert len(calls) == channels


def test_other_layers_are_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 6)
    for options in ({"groups": 4}, {"padding_mode": "reflect"}):
        layer = nn.Conv2d(8, 8, 3, padding=1, **options)
        expected = Exact()(layer, x)
        monkeypatch.setattr(exact, "PART_BYTES", 1)
        assert torch.equal(Exact()(layer, x), expected)
        monkeypatch.undo()
        torch.testing.assert_close(expected, layer.double()(x.double()), rtol=0, atol=1e-3)


def test_exact_inputs_are_bounded() -> None:
    layer = nn.Linear(3, 2)
    out = Exact()(layer, torch.tensor([[1e30, -1e30, 0.0], [4096.0, -4096.0, 0.0]]))
    assert torch.equal(out[0], out[1])


def test_broken_weights_are_refused() -> None:
    layer = nn.Conv2d(2, 2, 1)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        Exact()(layer, torch.zeros(1, 2, 1, 1))


def test_exact_copies_notice_writes() -> None:
    layer, exact = nn.Linear(2, 2), Exact()
    exact(layer, torch.ones(1, 2))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert not exact(layer, torch.ones(1, 2)).any()


# -- the same symbols on every path ----------------------------------------------------------------------------------


def by_channels_last(codec: Codec) -> None:
    for module in codec.modules():
        # A 1x1 convolution of stride 2 on RGB crashes torch 2.15 in channels_last.
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            module.to(memory_format=torch.channels_last)


PATHS: dict[str, Callable] = {
    "two threads": lambda: threads(2),
    "bf16 autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "oneDNN off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "float64 default": lambda: default_dtype(torch.float64),
    "bf16 default": lambda: default_dtype(torch.bfloat16),
}


@pytest.mark.parametrize("name", ["own", *ARCHITECTURES])
def test_every_path_reads_and_writes_for_the_plain_one(name: str, pictures: Tensor) -> None:
    """A star around the plain path: what either writes, the other decodes to the same latents, bit for bit."""

    def fresh() -> Codec:
        return own() if name == "own" else wrapped(name)

    plain = fresh()
    alone = [plain.compress(picture[None])[0] for picture in pictures]
    expected = torch.cat([plain.decompress([b], want=("latents",)).latents["y_hat"] for b in alone])
    assert expected.unique().numel() > 2
    together = plain.decompress(alone, want=("latents",)).latents["y_hat"]
    assert torch.equal(together, expected)
    files = [plain.serialise(b) for b in alone]
    for path, entered in PATHS.items():
        other = fresh()
        with entered():
            read = other.decompress([other.parse(f) for f in files], want=("latents",)).latents["y_hat"]
            assert torch.equal(read, expected), path
            written = other.compress(pictures)
            own_read = other.decompress(written, want=("latents",)).latents["y_hat"]
        assert torch.equal(plain.decompress(written, want=("latents",)).latents["y_hat"], own_read), path
    other = fresh()
    by_channels_last(other)
    assert torch.equal(other.decompress(alone, want=("latents",)).latents["y_hat"], expected)


@pytest.mark.parametrize("name", ["own", "mbt2018", "elic2022-official"])
def test_an_encoder_whose_networks_differ_is_told(name: str, pictures: Tensor) -> None:
    """Without the container's check of weights: what a wrong kernel in the decoder would do."""
    codec = own() if name == "own" else wrapped(name)
    (bitstream,) = codec.compress(pictures[:1])
    h_s = next(module for path, module in codec.named_modules() if path.endswith("h_s"))
    last = [layer for layer in h_s.modules() if hasattr(layer, "weight")][-1]
    with torch.no_grad():
        last.bias.add_(0.2)
    with pytest.raises(BitstreamError, match="differ from the encoder's|no encoder writes"):
        codec.decompress([bitstream])


@pytest.mark.parametrize("name", ["own", "mbt2018", "elic2022-official", "bmshj2018-factorized"])
def test_harmed_strings_are_told_and_none_decodes(name: str, pictures: Tensor) -> None:
    codec = own() if name == "own" else wrapped(name)
    (bitstream,) = codec.compress(pictures[:1, :, :64, :64])
    string = bitstream.strings["base"]
    generator = torch.Generator().manual_seed(0)
    passed = 0
    for trial in range(40):
        harmed = bytearray(string)
        if trial % 2:
            bit = int(torch.randint(8 * len(string), (), generator=generator))
            harmed[bit // 8] ^= 1 << bit % 8
        else:
            del harmed[int(torch.randint(len(string), (), generator=generator)) :]
        try:
            codec.decompress([Bitstream({"base": bytes(harmed)}, bitstream.size)], want=("latents",))
            passed += 1
        except BitstreamError:
            pass
    assert passed == 0


# -- CompressAI's models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_walk_codes_what_compressai_codes(architecture: str, pictures: Tensor) -> None:
    """Same latents as CompressAI's own compress and decompress, in fewer bytes."""
    codec = wrapped(architecture, rounding="up")
    bitstreams = codec.compress(pictures)
    mine = codec.decompress(bitstreams, want=("latents",)).latents["y_hat"]
    seen: list[Tensor] = []
    handle = codec.model.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for picture, bitstream in zip(pictures, bitstreams, strict=True):
            theirs = codec.model.compress(picture[None])
            codec.model.decompress(theirs["strings"], theirs["shape"])
            assert len(bitstream.strings["base"]) <= sum(len(string[0]) for string in theirs["strings"])
    handle.remove()
    # Parameters agree to fixed-point precision. A latent that lies within it of a border may round the other way, and
    # its neighbours' parameters then move with it under a context.
    difference = (mine - torch.cat(seen)).abs()
    assert (difference < 2e-4).float().mean() > 0.75
    assert (difference < 0.3).float().mean() > 0.98
    assert mine.std() > 0.3


def test_nearest_indexes_on_the_fine_table_take_fewer_bits(pictures: Tensor) -> None:
    lengths = {}
    for rounding in ("nearest", "up"):
        codec = wrapped("mbt2018-mean", rounding=rounding)
        lengths[rounding] = sum(len(b.strings["base"]) for b in codec.compress(pictures))
        assert len(codec.model.gaussian_conditional.scale_table) == {"nearest": 160, "up": 64}[rounding]
    assert lengths["nearest"] <= lengths["up"]


def test_the_rule_of_rounding_is_part_of_the_model_s_id(pictures: Tensor) -> None:
    nearest, up = wrapped("mbt2018-mean"), wrapped("mbt2018-mean", rounding="up")
    up.model.gaussian_conditional.scale_table = nearest.model.gaussian_conditional.scale_table
    assert nearest.model_id() != up.model_id()
    with pytest.raises(BitstreamError, match="other weights"):
        up.parse(nearest.serialise(nearest.compress(pictures[:1])[0]))


VARIABLE = ("bmshj2018-hyperprior-vbr", "mbt2018-mean-vbr", "mbt2018-vbr")


@pytest.mark.parametrize("rate", [0.0, 2.5, 7.0])
@pytest.mark.parametrize("architecture", VARIABLE)
def test_variable_rate_decodes_what_compressai_computes(
    architecture: str, rate: float, pictures: Tensor
) -> None:
    torch.manual_seed(0)
    codec = lively(CompressAICodec(architecture, {"N": 8, "M": 12}))
    low, gains = int(rate), codec.model.Gain
    gain = gains[low] if rate == low else (gains[low] + gains[low + 1]) / 2
    decoded = codec.decompress([codec.parse(codec.serialise(b)) for b in codec.compress(pictures, rate)])
    assert decoded.latents["y_hat"].unique().numel() > 50
    seen: dict[str, Tensor] = {}
    hook = codec.model.g_s.register_forward_pre_hook(lambda module, inputs: seen.update(y_hat=inputs[0]))
    height, width = decoded.latents["y_hat"].shape[-2:]
    padded = nn.functional.pad(
        pictures, (0, 16 * width - pictures.shape[-1], 0, 16 * height - pictures.shape[-2])
    )
    codec.model(padded, inputscale=gain)
    hook.remove()
    error = (decoded.latents["y_hat"] - seen["y_hat"]).abs()
    # A symbol on the border between two values, of which float32 and float64 may take either.
    assert (error > 1e-3).float().mean() < (0.02 if architecture == "mbt2018-vbr" else 0.002)


def test_tables_that_depend_on_the_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="vr_entbttlnck=true is not supported"):
        CompressAICodec("mbt2018-mean-vbr", {"N": 8, "M": 12, "vr_entbttlnck": True})


@pytest.mark.parametrize("architecture", sorted(MODELS))
def test_whatever_compressai_registers_works_by_name(architecture: str, pictures: Tensor) -> None:
    """Newer versions register more; those that cannot be made small, or have no walk, are skipped and say why."""
    takes = inspect.signature(MODELS[architecture]).parameters
    arguments = {key: value for key, value in SMALL_ARGUMENTS.items() if key in takes}
    try:
        codec = CompressAICodec(architecture, arguments).eval()
        bitstreams = codec.compress(pictures)
    except (ValueError, RuntimeError, AssertionError) as error:
        assert architecture not in ARCHITECTURES
        pytest.skip(f"{architecture}: {' '.join(str(error).split())[:200]}")
    decoded = codec.decompress([codec.parse(codec.serialise(b)) for b in bitstreams])
    torch.testing.assert_close(decoded.x_hat, codec(pictures).x_hat.detach(), rtol=0, atol=0.003)


@pytest.mark.parametrize(("height", "width", "reach"), [(1, 1, 2), (5, 7, 2), (7, 4, 1), (3, 12, 2)])
def test_wavefronts_hold_every_position_once_after_all_it_needs(height: int, width: int, reach: int) -> None:
    step = torch.full((height, width), -1)
    fronts = wavefronts(height, width, reach)
    assert len(fronts) <= width + (reach + 1) * (height - 1)
    for number, (rows, columns) in enumerate(fronts):
        assert (step[rows, columns] == -1).all()
        step[rows, columns] = number
    assert (step >= 0).all()
    for i in range(height):
        for j in range(width):
            above = [(i - a, j + b) for a in range(1, reach + 1) for b in range(-reach, reach + 1)]
            left = [(i, j - b) for b in range(1, reach + 1)]
            for k, m in above + left:
                if 0 <= k < height and 0 <= m < width:
                    assert step[k, m] < step[i, j]


@pytest.mark.parametrize("height", [4, 5])
def test_take_and_put_split_a_checkerboard(height: int) -> None:
    x = torch.arange(2 * 3 * height * 6.0).reshape(2, 3, height, 6)
    back = torch.zeros_like(x)
    for parity in (0, 1):
        half = take(x, parity)
        for i in range(height):
            assert torch.equal(half[..., i, :], x[..., i, (parity + i) % 2 :: 2])
        put(back, half, parity)
    assert torch.equal(back, x)
