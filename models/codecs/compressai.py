"""CompressAI's image models behind Codec, all through one wrapper."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import compressai.models  # noqa: F401  fills the registry
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN as TheirGDN
from compressai.models.vbr import ScaleHyperpriorVbr
from compressai.registry import MODELS
from torch import Tensor, nn

from models.codecs.base import Codec
from models.codecs.compressai_forward import ONE_AT_A_TIME, at_gain, hooked, keyed
from models.codecs.compressai_weights import FILE, load_compressai, state_for_compressai
from models.entropy import tables
from models.entropy.code_length import code_length
from models.entropy.compressai_models import Walk
from models.entropy.noise import uniform_noise
from models.entropy.scale_index import Rounding
from models.entropy.scale_table import compressai_table, fine_table
from models.entropy.stream import Reader, Writer
from models.outputs import CodecOutput, LatentSpec
from models.tiling import reach
from models.transforms.gdn import GDN


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
        weights: a CompressAI checkpoint to begin with.
        rounding: of scales to the coder's table: ``"nearest"`` of 160 levels, which takes the fewest bits, or ``"up"``
            to one of CompressAI's 64 levels, which gives CompressAI's own rates.

    Raises:
        ValueError: unknown architecture or arguments, a model without g_a and g_s, or weights that do not fit.

    Note:
        Models with a serial context (``mbt2018``, ``cheng2020-anchor``, ``cheng2020-attn``) estimate from another y_hat
        than the one they code: in evaluation ``forward`` codes, and its bits are those of the strings.
    """

    encoder = ("model.g_a", "model.h_a", "model.latent_codec.h_a", "model.latent_codec.hyper.h_a")
    decoder = ("model.g_s",)

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        *,
        quantise: Literal["ste", "noise"] = "ste",
        weights: str | os.PathLike[str] | None = None,
        rounding: Rounding = "nearest",
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
        if isinstance(self.model, ScaleHyperpriorVbr):
            self._vary_rate()
        for layer in self.model.modules():
            if type(layer) is TheirGDN:
                layer.__class__ = GDN  # the same state and arithmetic, and models/transforms/fast.py knows it
        if weights is not None:
            load_compressai(self.model, weights)
            self.trained = True
        self.quantise = quantise
        self.walk = Walk(rounding)
        latent_stride, channels = self._measure()
        self.latents = {"y_hat": LatentSpec("map", channels, "base", stride=latent_stride)}
        self.stride = max(latent_stride, 64)

    @property
    def receptive_field(self) -> int | None:
        """How far beyond a tile g_a and g_s look, in pixels."""
        spec = self.latents["y_hat"]
        return reach(self.model.g_a, self.model.g_s, latent_channels=spec.channels, stride=spec.stride)

    def foreign_weights(self) -> dict[str, dict[str, Tensor]]:
        """The wrapped model's own checkpoint."""
        return {FILE: state_for_compressai(self.model)}

    def _vary_rate(self) -> None:
        """The model's levels, 0, 1, ..., and whatever lies between two of them, are rates."""
        if self.model.vr_entbttlnck:
            raise ValueError("vr_entbttlnck=true is not supported: tables of z would depend on the rate")
        # No gradient reaches the gains in CompressAI's models: as a buffer, they are no weights that should have one.
        gains = self.model.Gain.detach()
        del self.model.Gain
        self.model.register_buffer("Gain", gains)
        self.rates, self.continuous = tuple(float(level) for level in range(len(gains))), True

    def _gain(self, rate: float | None) -> dict[str, float]:
        """What a model of variable rate is told: the gain at a level, or between two, in float64."""
        if rate is None:
            return {}
        low = min(int(rate), len(self.rates) - 2)
        first, second = self.model.Gain[low : low + 2].abs().double().tolist()
        return {"gain": first + (rate - low) * (second - first)}

    @torch.no_grad()
    def _measure(self) -> tuple[int, int]:
        y = self.model.g_a(torch.zeros(1, 3, 64, 64))
        return 64 // y.shape[-1], y.shape[1]

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        if keys is None and not self.walk.estimates(self.model):
            return self._coded(x, rate)
        captured: dict[str, Tensor] = {}
        gain = self._gain(rate).get("gain", 1.0)

        def see_y(module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
            captured["y"] = y

        def see_y_hat(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
            captured["y_hat"] = inputs[0]
            if keys is not None and self.quantise == "noise":
                noise = uniform_noise(keys, captured["y"].shape, salt=self._salt_of_y())
                return (captured["y"] + noise / gain,)
            return None

        with (
            ONE_AT_A_TIME,
            hooked(self.model.g_a.register_forward_hook(see_y)),
            keyed(self.model, keys),
            at_gain(self.model, None if rate is None else x.new_tensor(gain)),
            # First of all: before an accelerated g_s rounds its input.
            hooked(self.model.g_s.register_forward_pre_hook(see_y_hat, prepend=True)),
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

    @torch.no_grad()
    def _coded(self, x: Tensor, rate: float | None) -> CodecOutput:
        """What is coded, where the model's own estimate is of another y_hat."""
        tables.build(self)
        strings = self._encode(x, rate)
        output = self._decode(strings, tuple(x.shape[-2:]), rate, ("pixels", "latents"))
        output.bits = {"base": x.new_tensor([8.0 * len(string["base"]) for string in strings])}
        return output

    def _salt_of_y(self) -> int:
        """Of the noise in y's rate estimate, which is what CompressAI's g_s sees; 0 where y is estimated in pieces."""
        models = [(salt, m) for salt, (_, m) in enumerate(tables.entropy_models(self.model), start=1)]
        of_y = [salt for salt, m in models if not isinstance(m, EntropyBottleneck)] or [
            salt for salt, _ in models
        ]
        return of_y[0] if len(of_y) == 1 else 0

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        y = self.model.g_a(x).float()
        stream = Writer(len(x))
        with torch.autocast(x.device.type, enabled=False):
            self.walk.code(self.model, stream, y, tuple(y.shape[-2:]), **self._gain(rate))
        return [{"base": string} for string in stream.finish()]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        stride = self.latents["y_hat"].stride
        stream = Reader([s["base"] for s in strings])
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            shape = size[0] // stride, size[1] // stride
            y_hat = self.walk.code(self.model, stream, None, shape, **self._gain(rate))
        stream.finish()
        return CodecOutput(
            size, x_hat=self.model.g_s(y_hat) if "pixels" in want else None, latents={"y_hat": y_hat}
        )

    def entropy_side(self) -> dict[str, Tensor]:
        """As in ``Codec``; the rule that rounds scales is part of it."""
        rule = torch.tensor(list(self.walk.scale_index.rounding.encode()), dtype=torch.uint8)
        return {**super().entropy_side(), "rounding": rule}

    def train(self, mode: bool = True) -> "CompressAICodec":
        self.walk.exact.forget()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.walk.exact.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self.walk.exact.forget()
        super()._load_from_state_dict(*args)

    def _prepare(self) -> None:
        if self.walk.scale_index.rounding == "nearest":
            for _, model in tables.entropy_models(self):
                if isinstance(model, GaussianConditional):
                    _refine(model)
        super()._prepare()


def _refine(model: GaussianConditional) -> None:
    """Give a model that has no scale table, or CompressAI's 64 levels, the fine one."""
    coarse, table = compressai_table(), model.scale_table
    if not table.numel() or (table.shape == coarse.shape and torch.allclose(table.cpu().float(), coarse)):
        model.scale_table = torch.tensor(fine_table(), dtype=torch.float32, device=table.device)
        tables.clear(model)
