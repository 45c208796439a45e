"""Does a file decode to the same integers whatever computes it? A star of ways around the plain path.

The plain path is one thread and torch's defaults. Each way changes something of that, which its row names; it writes
files for the plain path, and reads the plain path's. A photo counts as wrong where any integer differs: a symbol, or
the row of the coder's table it was coded under.

python -m benchmarks.determinism PHOTOS      prints the star of an untrained hyperprior; the record is benchmarks.coding
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.entropy_coder import Row, picture_of
from models.bitstream import BitstreamError
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.entropy.exact import Exact
from models.entropy.stream import Reader, Writer
from models.outputs import Bitstream
from models.threads import threads
from models.transforms.fast import Enter, bf16_instructions

Symbols = list[Tensor]
"""Of one image, in coding order: symbols and rows in turn, int32."""


@dataclass(frozen=True)
class Way:
    """One way of computing, on one thread where it says no other number.

    Attributes:
        name: as rows and messages have it.
        prepare: changes a codec in place, once.
        entered: around every call.
        place: takes a picture to where and how it is computed.
        batch: pictures that are coded in one call.
    """

    name: str
    prepare: Callable[[Codec], Any] = lambda codec: None
    entered: Callable[[], AbstractContextManager] = nullcontext
    place: Callable[[Tensor], Tensor] = lambda x: x
    batch: int = 1


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """torch's default type is ``dtype`` inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def compiled_copies() -> Iterator[None]:
    """The entropy side's exact copies are compiled, too: what a compiler does to them is what matters most."""
    original = Exact.copy_of

    def copy_of(self: Exact, module: nn.Module) -> nn.Module:
        copy = original(self, module)
        if copy._compiled_call_impl is None:
            copy.compile()
        return copy

    Exact.copy_of = copy_of
    try:
        yield
    finally:
        Exact.copy_of = original


def in_channels_last(codec: Codec) -> None:
    """All weights in channels_last order."""
    codec.to(memory_format=torch.channels_last)


def compile_networks(codec: Codec) -> None:
    """All networks of a codec compiled."""
    for network in codec.transforms().values():
        network.compile()


def ways(*, compiled: bool = True) -> list[Way]:
    """All ways that this machine can go.

    Args:
        compiled: with torch.compile, which takes minutes.
    """
    found = [
        Way("2 threads", entered=lambda: threads(2)),
        Way("batch 4", batch=4),
        Way(
            "channels_last",
            in_channels_last,
            place=lambda x: x.contiguous(memory_format=torch.channels_last),
        ),
        Way("oneDNN off", entered=lambda: torch.backends.mkldnn.flags(enabled=False)),
        Way("float64 default", entered=lambda: default_dtype(torch.float64)),
        Way("bf16 default", entered=lambda: default_dtype(torch.bfloat16)),
        Way("bf16 autocast", entered=lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
        Way("accelerated", Codec.accelerate),
    ]
    if bf16_instructions() is not None:
        found.append(Way("bf16 transforms", partial(Codec.accelerate, bf16=True)))
    if compiled:
        found.append(Way("compile", compile_networks, entered=compiled_copies))
    if torch.cuda.is_available():
        found.append(Way("GPU", Codec.cuda, place=Tensor.cuda))
    return found


def circumstances(codec: Codec, x: Tensor) -> dict[str, Any]:
    """What a computation may depend on and no symbol must, by name: here and now, for one call with pictures x."""
    networks = list(codec.transforms().values())
    weights = [parameter for network in networks for parameter in network.parameters()]
    hooks = [hook for network in networks for hook in network._forward_pre_hooks.values()]
    return {
        "threads": torch.get_num_threads(),
        "batch": len(x),
        "memory format": (x.stride(), [weight.stride() for weight in weights]),
        "oneDNN": torch._C._get_mkldnn_enabled(),
        "default dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        "layers": [type(layer) for network in networks for layer in network.modules()],
        "precision": {hook.dtype for hook in hooks if isinstance(hook, Enter)} - {None},
        "compiled": ([network._compiled_call_impl is not None for network in networks], Exact.copy_of),
        "device": [weight.device.type for weight in weights],
    }


def star(
    make: Callable[[], Codec], pictures: Sequence[Tensor], *, among: Sequence[Way], name: str
) -> Iterator[Row]:
    """Measure a codec.

    Args:
        make: a fresh codec of the same weights each time, in evaluation mode.
        pictures: (1, 3, H, W) each.
        among: the ways to measure.
        name: of the codec, for the rows.

    Yields:
        One row a way: ``codec``, ``way``, ``differs_in`` (names of the ``circumstances`` that are not the plain
        path's: where there is none, the way shows nothing), ``photos``, ``symbols`` (in all, of the plain path),
        ``wrong_encoding`` (photos that the way wrote and the plain path read otherwise), ``wrong_decoding`` (the other
        direction) and ``wrong`` (in any).
    """
    plain, usual = make(), Way("plain")
    # As they come from files, they are in channels_last order.
    pictures = [picture.contiguous() for picture in pictures]
    with _under(usual):
        expected = circumstances(plain, pictures[0])
    written = [_encode(plain, [picture], usual)[0] for picture in pictures]
    read = [_decode(plain, [bitstream], usual)[0] for bitstream, _ in written]
    for (_, coded), decoded in zip(written, read, strict=True):
        if not same(coded, decoded):
            raise AssertionError(f"{name}: the plain path does not decode its own file")
    for way in among:
        codec = make()
        way.prepare(codec)
        with _under(way):
            found = circumstances(codec, way.place(torch.cat(list(pictures[: way.batch]))))
        wrong_encoding, wrong_decoding = set(), set()
        for start in range(0, len(pictures), way.batch):
            places = range(start, min(start + way.batch, len(pictures)))
            for place, decoded in zip(
                places, _decode(codec, [written[i][0] for i in places], way), strict=True
            ):
                if not same(decoded, written[place][1]):
                    wrong_decoding.add(place)
            for place, (bitstream, coded) in zip(
                places, _encode(codec, [pictures[i] for i in places], way), strict=True
            ):
                if not same(_decode(plain, [bitstream], usual)[0], coded):
                    wrong_encoding.add(place)
        yield {
            "codec": name,
            "way": way.name,
            "differs_in": [name for name in found if found[name] != expected[name]],
            "photos": len(pictures),
            "symbols": sum(symbols.numel() for _, coded in written for symbols in coded[::2]),
            "wrong_encoding": len(wrong_encoding),
            "wrong_decoding": len(wrong_decoding),
            "wrong": len(wrong_encoding | wrong_decoding),
        }


def figures(rows: Sequence[Row]) -> dict[str, int]:
    """The record's figures.

    Returns:
        ``determinism_ways``, those that every codec went and that were not the plain path, ``determinism_codecs``, and
        ``wrong_photos``, with any wrong integer, over all codecs and ways.
    """
    by_codec: dict[str, set[str]] = {row["codec"]: set() for row in rows}
    for row in rows:
        if row["differs_in"]:
            by_codec[row["codec"]].add(row["way"])
    return {
        "determinism_ways": len(set.intersection(*by_codec.values())),
        "determinism_codecs": len(by_codec),
        "wrong_photos": sum(row["wrong"] for row in rows),
    }


def same(a: Symbols | None, b: Symbols | None) -> bool:
    """Whether two images' integers are all equal; ``None``, what failed to decode, equals nothing."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@contextmanager
def _under(way: Way) -> Iterator[None]:
    # The plain path is the same whatever number of threads the caller has.
    with threads(1), way.entered():
        yield


def _encode(codec: Codec, pictures: Sequence[Tensor], way: Way) -> list[tuple[Bitstream, Symbols]]:
    with _under(way), _recorded(Writer) as seen:
        bitstreams = codec.compress(way.place(torch.cat(list(pictures))))
    return list(zip(bitstreams, _by_image(seen, len(pictures)), strict=True))


def _decode(codec: Codec, bitstreams: Sequence[Bitstream], way: Way) -> list[Symbols | None]:
    try:
        with _under(way), _recorded(Reader) as seen:
            codec.decompress(bitstreams, want=("latents",))
    except BitstreamError:
        # The fingerprint tells. Of a batch, the one is not known, and all are lost.
        return [None] * len(bitstreams)
    return _by_image(seen, len(bitstreams))


@contextmanager
def _recorded(stream: type[Writer] | type[Reader]) -> Iterator[list[Tensor]]:
    """All integers that pass through a stream, (B, ...) each."""
    original, seen = stream.code, []

    def code(self: Writer | Reader, y: Tensor | None, mean: Tensor, rows: Tensor, tables: Any) -> Tensor:
        y_hat = original(self, y, mean, rows, tables)
        seen.extend(t.to("cpu", torch.int32) for t in ((y_hat - mean).round(), rows))
        return y_hat

    stream.code = code
    try:
        yield seen
    finally:
        stream.code = original


def _by_image(seen: Sequence[Tensor], count: int) -> list[Symbols]:
    return [[tensor[image] for tensor in seen] for image in range(count)]


def photos_of(folder: str | Path, *, count: int, crop: int | None = None) -> list[Tensor]:
    """The first photos of one size and orientation in a folder.

    Args:
        folder: of PNG or JPEG files, in the order of their names.
        count: of photos.
        crop: side of the square to take from the middle; default: the whole photo.

    Raises:
        ValueError: there are too few.
    """
    by_size: dict[tuple[int, ...], list[Tensor]] = {}
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        picture = picture_of(path)
        if crop is not None:
            top, left = ((side - crop) // 2 for side in picture.shape[-2:])
            if min(top, left) < 0:
                continue
            picture = picture[..., top : top + crop, left : left + crop].contiguous()
        found = by_size.setdefault(picture.shape, [])
        found.append(picture)
        if len(found) == count:
            return found
    most = max(map(len, by_size.values()), default=0)
    raise ValueError(
        f"{folder} has {most} photos of one size, and {count} are needed: give a folder such as Kodak's"
    )


def main(folder: str) -> None:
    """Print the star of an untrained hyperprior on 12 photos."""
    state = CompressAICodec("bmshj2018-hyperprior", {"N": 128, "M": 192}).state_dict()

    def make() -> Codec:
        codec = CompressAICodec("bmshj2018-hyperprior", {"N": 128, "M": 192}).eval()
        codec.load_state_dict(state)
        return codec

    for row in star(make, photos_of(folder, count=12), among=ways(), name="bmshj2018-hyperprior"):
        print(row, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.determinism PHOTOS", file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1])
