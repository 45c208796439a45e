"""Codec: how an image becomes bits and comes back. Everything that codes images is one of these."""

import hashlib
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models import bitstream as container
from models.entropy import tables
from models.outputs import Bitstream, CodecOutput
from models.padding import crop, pad_to_stride, padded_size
from models.subject import Subject
from models.transforms import fast


class Codec(Subject):
    r"""Base of all codecs: learned, standard, identity, or one behind another.

    ::

        forward:    x ──► _forward ──────────────────────────────────► CodecOutput   (estimated bits, differentiable)
        real bits:  x ──► _encode ──► {layer: bytes} ──► _decode ────► CodecOutput   (8 x bytes)

    A subclass sets the class attributes (or sets them on the instance in ``__init__``) and implements the three
    underscored methods on images that are already padded to ``stride``; padding, cropping, checks and CDF tables are
    done here. Images are RGB in [0, 1].

    Attributes, besides those of ``Subject``:
        file_suffix: of the files that ``serialise`` writes.
        receptive_field: how far beyond a tile the transforms look, in pixels, or ``None`` where tiles do not work.
        rate_step: distance of neighbouring rates for who searches among them; ``None`` where any value will do.
        learned: it has weights, and is of no use before they are trained.
        exact: bits of ``forward`` are the file's own, no estimate.
        uncompressed: it sends the picture as it is: what others are measured against.
        variants, active: names of what it can be switched to (sets of adapters), and of the one in use, or ``None``.
        encoder, decoder: names of the submodules that may be fine-tuned alone: a new ``encoder`` writes streams that
            old decoders read; a new ``decoder`` reads streams that old encoders wrote.
        entropy: names of the submodules that decoding the symbols depends on; ``None`` for all but those two.
        refinement: how its encoder is refined (models/codecs/refined.py), ``None`` where it cannot be.
    """

    codes = True
    gives = ("bits", "pixels")
    file_suffix: str = container.SUFFIX
    receptive_field: int | None = None
    rate_step: float | None = None
    learned: bool = True
    exact: bool = False
    uncompressed: bool = False
    variants: tuple[str, ...] = ()
    active: str | None = None
    encoder: tuple[str, ...] = ()
    entropy: tuple[str, ...] | None = None
    refinement: Callable[..., "Codec"] | None = None

    _model_id: bytes | None = None
    _accelerated: tuple = ()

    # -- what a subclass implements ------------------------------------------------------------------------------

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        """Estimate on padded images; ``keys`` (B,) seed training noise, ``None``: as it is coded, without gradients.

        The caller sets ``size`` and ``rate`` of the result.
        """
        raise NotImplementedError

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        """{layer: string} of each padded image, all layers in order."""
        raise NotImplementedError

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        """Decode the layers in ``strings`` (the same for all images) to what ``want`` names, and no more.

        Args:
            strings: {layer: string} for each image.
            size: padded (H, W).
            rate: as given to ``_encode``.
            want: any of ``"pixels"``, ``"latents"``.
        """
        raise NotImplementedError

    # -- what everybody calls --------------------------------------------------------------------------------------

    def forward(self, x: Tensor, rate: float | None = None, *, keys: Tensor | None = None) -> CodecOutput:
        """Code an image without writing bytes.

        Args:
            x: images (B, 3, H, W) of any size.
            rate: one of ``rates`` (or what the codec accepts between them); ``None`` for codecs of one rate.
            keys: one key a sample, int64 (B,), from ``sample_keys``: makes training noise independent of rank and
                batch, in any mode. Default: in training drawn from torch's global generator, in evaluation none.

        Returns:
            Estimated bits by layer, latents as a decoder has them, and the decoded image. With keys, latents are
            rounded with a straight-through gradient, and noise enters the rate estimate alone; without, bits are of
            what would be coded, and have no gradient.
        """
        rate = self._check_rate(rate)
        if keys is None and self.training:
            keys = torch.randint(1 << 32, (len(x),)).to(x.device)
        output = self._forward(pad_to_stride(x, self.stride), rate, keys)
        return self._cropped(output, tuple(x.shape[-2:]), rate, clamp=keys is None)

    def answer(self, batch: Mapping[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """``forward`` of the batch's images: with noise in training mode, else as they would be coded."""
        return self(batch["image"], rate, keys=keys if self.training else None)

    @torch.no_grad()
    def compress(self, x: Tensor, rate: float | None = None) -> list[Bitstream]:
        """Code images to bytes: one ``Bitstream`` each. Same arguments as ``forward``."""
        rate = self._check_rate(rate)
        self._prepare()
        strings = self._encode(pad_to_stride(x, self.stride), rate)
        return [Bitstream(s, tuple(x.shape[-2:]), rate) for s in strings]

    @torch.no_grad()
    def decompress(
        self,
        bitstreams: Sequence[Bitstream],
        upto: str | None = None,
        want: Collection[str] = ("pixels", "latents"),
    ) -> CodecOutput:
        """Decode images of one size and rate.

        Args:
            bitstreams: as ``compress`` returned them, or with their last layers missing.
            upto: decode this layer and what it needs, and nothing else; default: all that is there.
            want: ``"pixels"``, ``"latents"`` or both: no more than that is computed.

        Raises:
            ValueError: unknown layer, a layer that is needed is missing, or the images differ in size or rate.
        """
        first = bitstreams[0]
        if any(
            (b.size, b.rate, [*b.strings]) != (first.size, first.rate, [*first.strings]) for b in bitstreams
        ):
            raise ValueError(
                "bitstreams of one call must share size, rate and layers: decode them one by one"
            )
        if upto is not None and upto not in (names := [layer.name for layer in self.layers]):
            raise ValueError(f"upto={upto!r} is no layer of this codec; it has {names}")
        names = self.needed(first.strings if upto is None else [upto])
        if missing := [name for name in names if name not in first.strings]:
            raise ValueError(f"the bitstream lacks the layers {missing}, which {upto or 'decoding it'} needs")
        self._prepare()
        strings = [{name: b.strings[name] for name in names} for b in bitstreams]
        output = self._decode(strings, padded_size(first.size, self.stride), first.rate, want)
        bits = {name: [8.0 * len(s[name]) for s in strings] for name in names}
        output.bits = {name: torch.tensor(values) for name, values in bits.items()}
        return self._cropped(output, first.size, first.rate)

    def resized(self, bitstream: Bitstream, side: int) -> Bitstream:
        """A bitstream that decodes to a picture with ``side`` as its longer side; ValueError where that is fixed."""
        raise ValueError(f"{type(self).__name__} decodes at a picture's own size alone: leave the size out")

    def serialise(self, bitstream: Bitstream) -> bytes:
        """The file of one image; standard codecs give their own format."""
        return container.pack(bitstream, self.model_id())

    def parse(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> Bitstream:
        """Undo ``serialise``; raise ``max_pixels`` (H x W) for larger files that you trust.

        Raises:
            BitstreamError: not a whole, unharmed file of this codec with these weights, or a larger picture.
        """
        bitstream = container.unpack(data, self.layers, self.model_id(), max_pixels=max_pixels)
        if (bitstream.rate is None) != (not self.rates) or (
            self.rates and not min(self.rates) <= bitstream.rate <= max(self.rates)
        ):
            raise container.BitstreamError(
                f"the header is damaged: this codec does not know rate {bitstream.rate}"
            )
        return bitstream

    def model_id(self) -> bytes:
        """4 bytes from all that decoding the symbols depends on: the codec's class and ``entropy_side``."""
        self._prepare()
        if self._model_id is None:
            digest = hashlib.blake2b(type(self).__qualname__.encode(), digest_size=4)
            for name, tensor in sorted(self.entropy_side().items()):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
            self._model_id = digest.digest()
        return self._model_id

    def entropy_side(self) -> dict[str, Tensor]:
        """Weights and tables that the symbols depend on: not g_a, g_s or heads. Part of ``state_dict()``."""
        named = (*self.encoder, *self.decoder) if self.entropy is None else self.entropy
        inside, wanted = tuple(f"{name}." for name in named), self.entropy is not None
        return {key: value for key, value in self.state_dict().items() if key.startswith(inside) == wanted}

    def transforms(self) -> dict[str, nn.Module]:
        """The networks that other runtimes can take over (ONNX), by the papers' names; by default those so called."""
        found: dict[str, nn.Module] = {}
        for path, module in self.named_modules():
            name = path.rpartition(".")[2]
            if name in ("g_a", "g_s", "h_a", "h_s"):
                # Of two streams that both have one, the second goes by its path.
                found.setdefault(path.replace(".", "_") if name in found else name, module)
        return found

    def check_available(self) -> None:
        """Do nothing where the codec can run here.

        Raises:
            ImportError: what lacks, with the line that installs it.
        """

    def about(self) -> dict[str, Any]:
        """What makes the files besides code and weights, as plain JSON stored with every result."""
        return {}

    def foreign_weights(self) -> dict[str, dict[str, Tensor]]:
        """{file name: state dict} in which other libraries know these weights."""
        return {}

    def auxiliary_loss(self) -> Tensor:
        """Fit of the factorised priors' quantiles (Ballé et al., ICLR 2018, appendix 6.1): reaches them alone."""
        models = [m for _, m in tables.entropy_models(self) if hasattr(m, "quantiles")]
        losses = [m.loss() for m in models if m.quantiles.requires_grad]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def accelerate(self, *, bf16: bool = False) -> "Codec":
        """Code faster from here on, until ``train()`` or other weights are loaded; returns itself.

        Concerns g_a and g_s alone (models/transforms/fast.py): any codec of these weights reads the files, accelerated
        or not, and finds the same symbols.

        Args:
            bf16: in bfloat16, up to twice as fast, a grey level off; where the device or a layer cannot, a warning.

        Raises:
            ValueError: the codec is in training.
        """
        if self.training:
            raise ValueError("accelerate() is for coding: call codec.eval() first")
        self._slow_down()
        found = [module for path, module in self.named_modules() if path.rpartition(".")[2] in ("g_a", "g_s")]
        if bf16 and (reasons := list(filter(None, map(fast.why_not_bf16, found)))):
            warnings.warn(f"bf16=True: {reasons[0]}: computing in float32", stacklevel=2)
            bf16 = False
        self._accelerated = tuple((module, fast.speed_up(module, bf16=bf16)) for module in found)
        return self

    def train(self, mode: bool = True) -> "Codec":
        """As in torch; CDF tables are forgotten, for the weights may move from here on."""
        if mode:
            self._slow_down()
            tables.clear(self)
            self._model_id = None
        return super().train(mode)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Called at any nesting, before the children load: let them take tables of the stored size.
        tables.make_room(self, state_dict, prefix)
        self._slow_down()
        self._model_id = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _slow_down(self) -> None:
        for module, handles in self._accelerated:
            fast.slow_down(module, handles)
        self._accelerated = ()

    def _prepare(self) -> None:
        if self.training:
            raise ValueError("real coding needs a codec in evaluation mode: call codec.eval() first")
        tables.build(self)

    def _check_rate(self, rate: float | None) -> float | None:
        if not self.rates and rate is not None:
            raise ValueError(f"rate={rate}: this codec has one rate; leave `rate` out")
        if not self.rates:
            return None
        if rate is not None and not min(self.rates) <= rate <= max(self.rates):
            raise ValueError(f"rate={rate} is outside this codec's {min(self.rates)}..{max(self.rates)}")
        # As a file stores it: encoder and decoder must not differ in its last bits.
        return torch.tensor(self.rates[len(self.rates) // 2] if rate is None else rate).float().item()

    def _cropped(
        self, output: CodecOutput, size: tuple[int, int], rate: float | None, *, clamp: bool = True
    ) -> CodecOutput:
        def view(x: Tensor) -> Tensor:
            return crop(x.clamp(0, 1) if clamp else x, size)

        output.size, output.rate = size, rate
        output.pixels_by_layer = {name: view(x) for name, x in output.pixels_by_layer.items()}
        if output.x_hat is not None:
            output.x_hat = view(output.x_hat)
            output.pixels_by_layer.setdefault(self.layers[-1].name, output.x_hat)
        return output
