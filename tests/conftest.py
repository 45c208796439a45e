"""What tests share: a toy layered codec, tiny versions of shipped codecs, composed configs, small images."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from models.codecs.base import Codec
from models.entropy.code_length import code_length
from models.entropy.factorized import Factorized
from models.outputs import CodecOutput, LatentSpec, Layer
from models.threads import threads

CONFIGS = Path(__file__).parents[1] / "configs"

_TINY_STREAMS = {
    "content_channels": 6,
    "style_channels": 5,
    "content_encoder": {"width": 4, "max_width": 8, "blocks": 1},
    "style_encoder": {"width": 4, "max_width": 8},
    "synthesis": {"width": 16, "min_width": 8, "blocks": 1, "mapping_width": 8},
}
_TINY_TRUNK = {"features": {"backbone": "test_efficientnet"}}
TINY = {
    "layered_generative": {**_TINY_STREAMS, "content_prior": {"width": 4}},
    "layered_generative_small": {**_TINY_STREAMS, "content_prior": {"width": 4}},
    "layered_generative_trunk": {
        **_TINY_STREAMS,
        "content_encoder": _TINY_TRUNK,
        "style_encoder": _TINY_TRUNK,
    },
    "layered_generative_trunk_small": {
        **_TINY_STREAMS,
        "content_encoder": _TINY_TRUNK,
        "content_prior": {"width": 4},
    },
    "single_stream_trunk_small": {
        "g_a": {"channels": 6, **_TINY_TRUNK},
        "g_s": {"channels": 6, "width": 16, "blocks": 1},
        "latent_codec": {"channels": 6, "width": 4},
        "latent_channels": 6,
    },
    "mean_scale_variable": {"width": 6, "latent_channels": 8, "num_stages": 2},
    "adapted": {
        "codec": {"width": 6, "latent_channels": 8, "num_stages": 2},
        "adapters": {"machines": {"width": 4}},
    },
    # With eight channels, untrained scales are so far off that symbols cost the estimate its bound of 30 bits.
    "compressai_elic_chandelier": {"arguments": {"N": 16}},
    "mean_scale": {"width": 8, "latent_channels": 12, "num_stages": 4},
    "mean_scale_small": {"width": 6, "latent_channels": 8, "num_stages": 2},
    "mean_scale_tiny": {"width": 8, "latent_channels": 12, "num_stages": 3},
    "scalable_face": {
        "synthesis": {"style_dim": 32, "channel_base": 512, "max_channels": 16},
        "inversion": {"size": 64, "width": 16, "hidden": 32, "features": {"backbone": "test_efficientnet"}},
        "parameters": {"width": 32, "depth": 1},
    },
    "scalable_face_mobile": {
        "synthesis": {"style_dim": 32, "widths": [8, 8, 8, 8, 8, 8, 4]},
        "inversion": {"size": 64, "width": 16, "hidden": 32, "features": {"backbone": "test_efficientnet"}},
        "parameters": {"width": 32, "depth": 1},
    },
}
for _name in ("webp", "avif", "hevc", "vvc"):
    TINY[f"preprocessed_{_name}"] = {
        "filter": {"widths": [4, 6]},
        "proxy": {"model": {"width": 4, "latent_channels": 6, "num_stages": 2}},
    }
TINY["preprocessed_jpeg"] = {"filter": {"widths": [4, 6]}}
_TINY_ASKED = {"network": {"network": {"backbone": "test_efficientnet", "weights": None}}}
TINY["preprocessed_jpeg_informed"] = {"filter": {"sensitivity": _TINY_ASKED}}
_TINY_PROXY = {"model": {"width": 4, "latent_channels": 6, "num_stages": 2}}
TINY["preprocessed_hevc_informed"] = {"filter": {"sensitivity": _TINY_ASKED}, "proxy": _TINY_PROXY}
_TINY_DETECTOR = {
    "network": {"network": {"_target_": "tests.published.tiny_candidates", "file": "none is read"}}
}
TINY["preprocessed_jpeg_detector"] = {"filter": {"sensitivity": _TINY_DETECTOR}}
TINY["preprocessed_hevc_detector"] = {"filter": {"sensitivity": _TINY_DETECTOR}, "proxy": _TINY_PROXY}
TINY["preprocessed_hevc_gaussian"] = {"proxy": _TINY_PROXY}
"""Overrides that make a shipped codec small; codecs that are not named here are tested as they are."""
SMALL_ARGUMENTS = {"N": 8, "M": 12, "groups": [4, 8]}
"""Likewise, of CompressAI's models, those arguments that a yaml gives."""


class TwoLayers(Codec):
    """A toy scalable codec: a global colour vector for machines, a map of residuals for people.

    The base layer is a vector latent; the detail layer needs it. ``preview`` needs nothing, to test ``needs``.
    """

    layers = (Layer("base"), Layer("detail"), Layer("preview", needs=()))
    stride = 4

    def __init__(self):
        super().__init__()
        self.to_vector, self.from_vector = nn.Linear(3, 6), nn.Linear(6, 3)
        self.to_map, self.from_map = nn.Conv2d(3, 5, 4, stride=4), nn.ConvTranspose2d(5, 3, 4, stride=4)
        nn.init.constant_(self.to_map.bias, 0.3)
        self.vector_codec, self.map_codec = Factorized(6, name="v"), Factorized(5, name="m")
        self.preview_codec = Factorized(3, name="p")
        self.latents = {
            "v_hat": LatentSpec("vector", 6, "base"),
            "m_hat": LatentSpec("map", 5, "detail", stride=4),
        }

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        colour = x.mean((2, 3))
        vector = 8 * self.to_vector(colour)[:, :, None, None]
        return vector, 8 * self.to_map(x - 0.5), 16 * colour[:, :, None, None]

    def _synthesise(self, output: CodecOutput, size: tuple[int, int], want: Collection[str]) -> CodecOutput:
        if "pixels" in want and "v_hat" in output.latents:
            flat = self.from_vector(output.latents["v_hat"])[:, :, None, None].expand(-1, -1, *size)
            output.pixels_by_layer = {"base": flat}
            output.x_hat = flat
            if "m_hat" in output.latents:
                output.x_hat = output.pixels_by_layer["detail"] = flat + self.from_map(
                    output.latents["m_hat"]
                )
        return output

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        codecs = (self.vector_codec, self.map_codec, self.preview_codec)
        parts = [c(y, keys if self.training else None) for c, y in zip(codecs, self._analyse(x), strict=True)]
        bits = [code_length(next(iter(part.likelihoods.values()))) for part in parts]
        output = CodecOutput(
            tuple(x.shape[-2:]),
            bits={layer.name: b for layer, b in zip(self.layers, bits, strict=True)},
            latents={"v_hat": parts[0].y_hat[:, :, 0, 0], "m_hat": parts[1].y_hat},
            extras={"preview": parts[2].y_hat},
        )
        return self._synthesise(output, output.size, ("pixels",))

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        v, m, p = self._analyse(x)
        strings = zip(
            self.vector_codec.compress(v),
            self.map_codec.compress(m),
            self.preview_codec.compress(p),
            strict=True,
        )
        return [{"base": v, "detail": m, "preview": p} for v, m, p in strings]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        output = CodecOutput(size)
        if "base" in strings[0]:
            output.latents["v_hat"] = self.vector_codec.decompress([s["base"] for s in strings], (1, 1))[
                :, :, 0, 0
            ]
        if "detail" in strings[0]:
            shape = size[0] // 4, size[1] // 4
            output.latents["m_hat"] = self.map_codec.decompress([s["detail"] for s in strings], shape)
        if "preview" in strings[0]:
            output.extras["preview"] = self.preview_codec.decompress([s["preview"] for s in strings], (1, 1))
        return self._synthesise(output, size, want)


def tiny_codec(name: str) -> Codec:
    """A small instance of ``configs/codec/<name>.yaml``, or the toy of two layers."""
    torch.manual_seed(0)
    if name == "two_layers":
        return TwoLayers()
    node = component("codec", name)
    small = {key: SMALL_ARGUMENTS[key] for key in node.get("arguments", {}) if key in SMALL_ARGUMENTS}
    codec = instantiate(OmegaConf.merge(node, {"arguments": small} if small else {}, TINY.get(name, {})))
    if codec.continuous and "arguments" in node:
        # CompressAI's untrained latents are lost in the coarse steps of low rates: all symbols would be zero.
        layer = [m for m in codec.transforms()["g_a"].modules() if isinstance(m, nn.Conv2d)][-1]
        layer.weight.data.mul_(4)
    return codec


def component(group: str, name: str) -> DictConfig:
    """``configs/<group>/<name>.yaml`` with its own defaults, alone; also while tests are still being collected."""
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(f"{group}/{name}")[group]


def names_in(group: str) -> list[str]:
    """Every yaml of a group: what is added there is tested without further ado."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


CODECS = [*names_in("codec"), "two_layers"]
TASKS = names_in("task")


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Every shipped codec, tiny, and the toy of two layers, in training mode; a skip says what is not installed."""
    codec = tiny_codec(request.param)
    try:
        codec.check_available()
    except ImportError as error:
        pytest.skip(str(error))
    return codec


@pytest.fixture
def images() -> Tensor:
    """Two smooth pictures with some texture, of a size that fits no stride: (2, 3, 70, 90)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 5, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(70, 90), mode="bilinear", align_corners=False)
    return (smooth + 0.05 * torch.randn(2, 3, 70, 90, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="session", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run side by side: a second thread of one takes the core of another, and both wait ten times as long."""
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def _threads_are_given_back() -> Iterator[None]:
    yield
    assert torch.get_num_threads() == 1


def compose_config(*overrides: str) -> DictConfig:
    """configs/train.yaml with overrides, as ``python train.py`` composes it, without the hydra node."""
    return compose("train", overrides=list(overrides))
