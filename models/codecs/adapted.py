"""Adapters: any learned codec, frozen, with small modules for one purpose each, of which one set is chosen by name."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import bitstream as container
from models.bitstream import BitstreamError
from models.codecs.around import Around
from models.codecs.base import Codec
from models.outputs import Bitstream

NETWORKS = ("g_a", "g_s", "h_a", "h_s", "entropy_parameters")
"""Where adapters go unless a set says otherwise, by the papers' names."""
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Adapter(nn.Module):
    """x + W_2 relu(W_1 x) behind a layer, as its forward hook. W_2 begins at zero: the layer then gives what it gave.

    Args:
        channels: of the layer's output (B, C, h, w).
        width: channels in between.
        kernel_size: of W_1, odd; W_2 is pointwise. ``Adapted`` makes both so behind pointwise layers.

    Reference: Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019,
    https://arxiv.org/abs/1902.00751, with convolutions.
    """

    def __init__(self, channels: int, *, width: int = 16, kernel_size: int = 1):
        super().__init__()
        if width < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"width={width} must be at least 1, kernel_size={kernel_size} odd")
        self.down = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2)
        self.up = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's output, adapted."""
        return output + self.up(F.relu(self.down(output)))


class Adapted(Around):
    """A codec with sets of adapters, one set a purpose.

    ::

        x ──► g_a ──► ... ──► g_s ──► x_hat        each layer or block with a convolution: y ──► y + adapter(y)

    An adapter stands behind every layer or block with a convolution among the children of the networks that ``at``
    names. Those of the chosen set are forward hooks there, all others are out of the way: with ``active=None`` files
    and pictures are the codec's own, byte for byte, and its model id too. Files of a set whose decoder differs from
    the codec's have an id of their own, and only that set reads them.

    Args:
        codec: any learned codec.
        adapters: {name: arguments of ``Adapter``, and ``at``: names of networks, e.g. ``[g_a, h_a]``}; default: all of
            ``NETWORKS`` that the codec has.
        active: the set that is in use; ``None`` for the codec as it is. May be set at any time.

    Raises:
        ValueError: no such set, a name that cannot be one, networks that the codec lacks, or arguments out of range.

    Example:
        >>> from models.codecs.hyperprior import MeanScaleHyperprior
        >>> codec = Adapted(MeanScaleHyperprior(8, 12), {"machines": {"width": 4}}).eval()
        >>> codec.active = "machines"
    """

    def __init__(
        self, codec: Codec, adapters: Mapping[str, Mapping[str, Any] | None], active: str | None = None
    ):
        super().__init__(codec)
        self.adapters = nn.ModuleDict()
        self._places: dict[str, dict[str, str]] = {}  # {set: {adapter: path of its layer in the codec}}
        for name, arguments in adapters.items():
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                raise ValueError(f"adapters: {name!r} cannot be a name: give it another")
            arguments = dict(arguments or {})
            try:
                channels = _places(codec, arguments.pop("at", None))
                made = {
                    path: Adapter(count, **arguments | _pointwise(codec.get_submodule(path)))
                    for path, count in channels.items()
                }
            except (ValueError, TypeError) as error:
                raise ValueError(f"adapters.{name}: {error}") from error
            self._places[name] = {path.replace(".", "_"): path for path in made}
            self.adapters[name] = nn.ModuleDict({path.replace(".", "_"): m for path, m in made.items()})
        self.encoder = (*self._inner(codec.encoder), *self._within(codec.encoder))
        self.decoder = (*self._inner(codec.decoder), *self._within(codec.decoder))
        self._handles: tuple[Any, ...] = ()
        self._active: str | None = None
        self.active = active

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the sets."""
        return tuple(self.adapters)

    @property
    def active(self) -> str | None:
        """The set in use. What was accelerated is no more when it changes."""
        return self._active

    @active.setter
    def active(self, name: str | None) -> None:
        if name is not None and name not in self.adapters:
            raise ValueError(f"active={name!r} is no set of adapters; there are {list(self.adapters)}")
        self._slow_down()
        for handle in self._handles:
            handle.remove()
        self._handles = tuple(
            self.codec.get_submodule(path).register_forward_hook(self.adapters[name][key])
            for key, path in self._places.get(name, {}).items()
        )
        self._active, self._model_id = name, None

    @property
    def receptive_field(self) -> int | None:
        return self.codec.receptive_field

    def model_id(self) -> bytes:
        """The codec's own where no set is in use, or one that adapts the encoder alone: such files it reads as well."""
        self._prepare()
        if self._model_id is None:
            self._model_id = self._id_of(self._active)
        return self._model_id

    def _id_of(self, name: str | None) -> bytes:
        places = self._places.get(name, {})
        inside = tuple(f"{part}." for part in self.codec.encoder)
        if all(path.startswith(inside) for path in places.values()):
            return self.codec.model_id()
        digest = hashlib.blake2b(self.codec.model_id() + name.encode(), digest_size=4)
        for _, tensor in sorted(self._told(name).items()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.digest()

    def entropy_side(self) -> dict[str, Tensor]:
        """The codec's, and every set's adapters in it."""
        told = {key: value for name in self.adapters for key, value in self._told(name).items()}
        return {f"codec.{key}": value for key, value in self.codec.entropy_side().items()} | told

    def _told(self, name: str) -> dict[str, Tensor]:
        """A set's adapters that the symbols depend on."""
        outside = tuple(f"{path}." for path in (*self.encoder, *self.decoder))
        state = self.adapters[name].state_dict(prefix=f"adapters.{name}.")
        return {key: value for key, value in state.items() if not key.startswith(outside)}

    def parse(self, data: bytes, *, max_pixels: int = container.MAX_PIXELS) -> Bitstream:
        """As in ``Codec``; of a file that was written with another set the error says with which."""
        written = container.read_header(data).model_id
        if written != self.model_id():
            for name in (None, *self.adapters):
                if self._id_of(name) == written:
                    which = "none of the sets of adapters" if name is None else f"the adapters {name!r}"
                    raise BitstreamError(f"the file was written with {which}: choose MODEL@{name or 'none'}")
        return Codec.parse(self, data, max_pixels=max_pixels)

    def serialise(self, bitstream: Bitstream) -> bytes:
        """A file with the id of the set in use."""
        return Codec.serialise(self, bitstream)

    def _prepare(self) -> None:
        super()._prepare()
        self.codec._prepare()

    def _inner(self, names: Collection[str]) -> Iterator[str]:
        return (f"codec.{name}" for name in names)

    def _within(self, names: Collection[str]) -> Iterator[str]:
        """The adapters in these submodules of the codec."""
        for set_name, places in self._places.items():
            for key, path in places.items():
                if path.startswith(tuple(f"{name}." for name in names)):
                    yield f"adapters.{set_name}.{key}"


def _pointwise(layer: nn.Module) -> dict[str, int]:
    """Behind what looks at no neighbours an adapter does not either: contexts code positions in an order of theirs."""
    kernels = {m.kernel_size for m in layer.modules() if isinstance(m, CONVOLUTIONS)}
    return {"kernel_size": 1} if kernels == {(1, 1)} else {}


@torch.no_grad()
def _places(codec: Codec, at: Sequence[str] | None) -> dict[str, int]:
    """{path of a layer: channels of its output} of all that get an adapter, found on a grey picture."""
    networks = {path: m for path, m in codec.named_modules() if path.rpartition(".")[2] in (at or NETWORKS)}
    found = {path.rpartition(".")[2] for path in networks}
    if not found or (at is not None and set(at) - found):
        known = sorted({path.rpartition(".")[2] for path, _ in codec.named_modules()} & {*NETWORKS})
        raise ValueError(f"at={list(at or NETWORKS)}: {type(codec).__name__} has of these only {known}")
    layers = {
        f"{path}.{name}": layer
        for path, network in networks.items()
        for name, layer in network.named_children()
        if any(isinstance(module, CONVOLUTIONS) for module in layer.modules())
    }
    channels: dict[str, int] = {}

    def seen_by(path: str) -> Any:
        return lambda layer, inputs, output: channels.update({path: output.shape[1]})

    handles = [layer.register_forward_hook(seen_by(path)) for path, layer in layers.items()]
    grey = torch.full((1, 3, codec.stride, codec.stride), 0.5)
    codec(grey, keys=torch.zeros(1, dtype=torch.int64))
    for handle in handles:
        handle.remove()
    return {path: channels[path] for path in layers if path in channels}
