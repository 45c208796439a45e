"""CompressAI's image models behind Codec, all through one wrapper."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import compressai.models  # noqa: F401  fills the registry
import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.registry import MODELS
from torch import Tensor, nn

from models.bitstream import join, split
from models.codecs.base import Codec
from models.entropy import tables
from models.entropy.code_length import code_length
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste
from models.outputs import CodecOutput, LatentSpec


class CompressAICodec(Codec):
    """Any image model of CompressAI that has g_a and g_s.

    CompressAI's models return neither their latents nor rounded ones in training. Both are obtained here without
    touching a model's code: while ``forward`` runs, its entropy models get our quantisation (noise keyed by sample
    inside the rate estimate, straight-through rounding for what goes on), and the input of g_s is y_hat.

    Args:
        architecture: CompressAI's name, e.g. ``"mbt2018-mean"`` or ``"elic2022-official"``.
        arguments: of the model's constructor, e.g. ``{"N": 128, "M": 192}``.
        quantise: what g_s sees in training: rounded values (``"ste"``) or y plus noise (``"noise"``, as in CompressAI
            itself). Tasks always get rounded values.

    Raises:
        ValueError: unknown architecture or arguments, or a model without g_a and g_s.

    Note:
        Models with a serial context (``mbt2018``, ``cheng2020-*``) estimate from another y_hat than the one they code:
        only their real bytes count.
    """

    encoder = ("model.g_a", "model.h_a", "model.latent_codec.h_a", "model.latent_codec.hyper.h_a")
    decoder = ("model.g_s",)

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        *,
        quantise: Literal["ste", "noise"] = "ste",
    ):
        super().__init__()
        if quantise not in ("ste", "noise"):
            raise ValueError(f"quantise={quantise!r} must be 'ste' or 'noise'")
        if architecture not in MODELS:
            raise ValueError(f"architecture={architecture!r} is not one of CompressAI's {sorted(MODELS)}")
        try:
            self.model = MODELS[architecture](**arguments)
        except TypeError as error:
            raise ValueError(
                f"arguments={dict(arguments)} do not fit CompressAI's {architecture}: {error}"
            ) from error
        if not isinstance(getattr(self.model, "g_a", None), nn.Module):
            raise ValueError(f"architecture={architecture!r} has no g_a and g_s: it is not an image model")
        self.quantise = quantise
        latent_stride, channels = self._measure()
        self.latents = {"y_hat": LatentSpec("map", channels, "base", stride=latent_stride)}
        self.stride = max(latent_stride, 64)
        self._measured_layout: tuple[int, Any] | None = None

    @torch.no_grad()
    def _measure(self) -> tuple[int, int]:
        y = self.model.g_a(torch.zeros(1, 3, 64, 64))
        return 64 // y.shape[-1], y.shape[1]

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        captured: dict[str, Tensor] = {}

        def see_y(module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
            captured["y"] = y

        def see_y_hat(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
            captured["y_hat"] = inputs[0]
            if self.training and self.quantise == "noise":
                return (captured["y"] + uniform_noise(keys, captured["y"].shape, salt=self._salt_of_y()),)
            return None

        with (
            _hooks(self.model.g_a.register_forward_hook(see_y)),
            _keyed(self.model, keys, self.training),
            _hooks(self.model.g_s.register_forward_pre_hook(see_y_hat)),
        ):
            result = self.model(x)
        likelihoods = result["likelihoods"]
        bits = torch.stack([code_length(p) for p in likelihoods.values()]).sum(0)
        return CodecOutput(
            size=tuple(x.shape[-2:]),
            x_hat=result["x_hat"],
            bits={"base": bits},
            latents={"y_hat": captured["y_hat"].float()},
            likelihoods=dict(likelihoods),
        )

    def _salt_of_y(self) -> int:
        """Of the noise in y's rate estimate, which is what CompressAI's g_s sees; 0 where y is estimated in pieces."""
        models = [(salt, m) for salt, (_, m) in enumerate(tables.entropy_models(self.model), start=1)]
        of_y = [salt for salt, m in models if not isinstance(m, EntropyBottleneck)] or [
            salt for salt, _ in models
        ]
        return of_y[0] if len(of_y) == 1 else 0

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        # One by one: a batch may pick other kernels, and the decoder decodes one by one.
        with torch.autocast(x.device.type, enabled=False):
            results = [self.model.compress(image[None].float()) for image in x]
        return [{"base": join([strings[0] for strings in result["strings"]])} for result in results]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        count, unit = self._layout()
        shape = _scaled(unit, size[0] // self.stride, size[1] // self.stride)
        decoded = [self._decode_one(split(s["base"], count), shape, "pixels" in want) for s in strings]
        latents, pictures = zip(*decoded, strict=True)
        return CodecOutput(
            size,
            x_hat=torch.cat(pictures) if "pixels" in want else None,
            latents={"y_hat": torch.cat(latents)},
        )

    def _decode_one(self, strings: list[bytes], shape: Any, pixels: bool) -> tuple[Tensor, Tensor | None]:
        captured: list[Tensor] = []

        def see_y_hat(module: nn.Module, inputs: tuple[Tensor]) -> None:
            captured.append(inputs[0])
            if not pixels:
                raise _Enough

        device = next(self.model.parameters()).device.type
        with (
            _hooks(self.model.g_s.register_forward_pre_hook(see_y_hat)),
            torch.autocast(device, enabled=False),
        ):
            try:
                x_hat = self.model.decompress([[s] for s in strings], shape)["x_hat"]
            except _Enough:
                x_hat = None
        return captured[0], x_hat

    def _layout(self) -> tuple[int, Any]:
        """How many strings an image takes, and the nested shapes that belong to a picture of one stride each way."""
        if self._measured_layout is None:
            parameter = next(self.model.parameters())
            result = self.model.compress(torch.zeros(1, 3, self.stride, self.stride).to(parameter))
            self._measured_layout = len(result["strings"]), result["shape"]
        return self._measured_layout


class _Enough(Exception):
    """Raised before g_s runs when nobody asked for pixels."""


@contextmanager
def _hooks(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _keyed(model: nn.Module, keys: Tensor | None, training: bool) -> Iterator[None]:
    """Give every entropy model inside our quantisation while the block runs."""
    with ExitStack() as stack:
        for salt, (_, entropy_model) in enumerate(tables.entropy_models(model), start=1):
            entropy_model.forward = _forward_of(entropy_model, keys, training, salt)
            entropy_model.quantize = _quantise_of(entropy_model, keys, salt)
            stack.callback(_restore, entropy_model)
        yield


def _restore(model: EntropyModel) -> None:
    del model.forward, model.quantize


def _forward_of(
    model: EntropyModel, keys: Tensor | None, training: bool, salt: int
) -> Callable[..., tuple[Tensor, Tensor]]:
    original = type(model).forward

    def forward(y: Tensor, *parameters: Tensor | None, **named: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            y, parameters = y.float(), tuple(p if p is None else p.float() for p in parameters)
            named = {key: value.float() for key, value in named.items() if value is not None}
            y_hat, likelihood = original(model, y, *parameters, **named, training=training)
            if training:
                mean = (
                    _median(model, y)
                    if isinstance(model, EntropyBottleneck)
                    else named.get("means", _mean(parameters))
                )
                y_hat = round_ste(y - mean) + mean
            return y_hat, likelihood

    return forward


def _quantise_of(model: EntropyModel, keys: Tensor | None, salt: int) -> Callable[..., Tensor]:
    original = type(model).quantize

    def quantise(y: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        if mode != "noise":
            return original(model, y, mode, means)
        if not isinstance(model, EntropyBottleneck):
            return y + uniform_noise(keys, y.shape, salt=salt)
        # An EntropyBottleneck quantises (C, 1, B*h*w).
        channels, batch = len(y), len(keys)
        noise = uniform_noise(keys, (batch, channels, y.numel() // (channels * batch)), salt=salt)
        return y + noise.transpose(0, 1).reshape(y.shape)

    return quantise


def _median(model: EntropyBottleneck, y: Tensor) -> Tensor:
    return model.quantiles[:, 0, 1].detach().reshape(1, -1, *[1] * (y.dim() - 2))


def _mean(parameters: tuple[Tensor | None, ...]) -> Tensor | float:
    return parameters[1] if len(parameters) > 1 and parameters[1] is not None else 0.0


def _scaled(shape: Any, height: int, width: int) -> Any:
    """Nested shapes of a picture ``height`` x ``width`` strides large; the last two entries of a shape are spatial."""
    if isinstance(shape, Mapping):
        return {key: _scaled(value, height, width) for key, value in shape.items()}
    if isinstance(shape, Sequence) and not all(isinstance(value, int) for value in shape):
        return [_scaled(value, height, width) for value in shape]
    *channels, h, w = shape
    return torch.Size([*channels, h * height, w * width])
