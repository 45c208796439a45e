"""The ``.bif`` file: one image's layers behind a header that a decoder checks before it decodes anything.

Bytes, in order (integers little endian)::

    "BIF1"  version (1)  model id (4)  height - 1 (varint)  width - 1 (varint)
    number of layers, plus 128 where a rate follows (1)  rate (float32, or nothing)
    for every layer: length (varint)
    for every layer: CRC-32 (4)
    the layers' strings, in order

A layer's CRC-32 runs over everything in front of it in the header, then over its string. So the header costs no
checksum of its own, a change anywhere in the file shows, and layers of two files cannot be mixed. A varint holds 7 bits
a byte; for an image of at most 16384 pixels a side the header takes at most 18 bytes, 14 without a rate, and each layer
below 2 MiB 5 to 7 more. Names are not stored: they come from the model that ``model id`` stands for.

Nothing is allocated by what a file declares: strings are parts of the bytes that are there, and a picture larger than
the reader's limit is refused before anything is decoded.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from models.counted import counted
from models.outputs import Bitstream, Layer

MAGIC, VERSION = b"BIF1", 1
SUFFIX = ".bif"
MAX_SIDE = 1 << 16
MAX_LAYERS = 127
MAX_PIXELS = 1 << 27
"""Of a picture that is decoded unless its reader allows more: 134 megapixels, 0.4 GB as 8-bit RGB."""
HAS_RATE = 0x80


class BitstreamError(ValueError):
    """The bytes are no whole, unharmed file of this codec with these weights."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself; nothing of it is verified before a layer's checksum is.

    Attributes:
        model_id: of the codec and the weights of its entropy side.
        size: (H, W).
        rate: native rate, or ``None``.
        lengths: of the layers' strings, in bytes.
        checksums: of the layers.
        num_bytes: of the header itself: where the first string begins.
    """

    model_id: bytes
    size: tuple[int, int]
    rate: float | None
    lengths: tuple[int, ...]
    checksums: tuple[int, ...]
    num_bytes: int

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.num_bytes + sum(self.lengths)


def pack(bitstream: Bitstream, model_id: bytes) -> bytes:
    """Serialise one image.

    Args:
        bitstream: layers in the codec's order.
        model_id: 4 bytes that identify the codec and its entropy side (``Codec.model_id``).

    Raises:
        ValueError: a side outside 1..``MAX_SIDE``, no layer or more than ``MAX_LAYERS``, or a rate that is no number.
    """
    strings = list(bitstream.strings.values())
    _check_size(bitstream.size, ValueError)
    if not 1 <= len(strings) <= MAX_LAYERS:
        raise ValueError(f"a .bif file holds 1..{MAX_LAYERS} layers, not {len(strings)}")
    if bitstream.rate is not None and not math.isfinite(bitstream.rate):
        raise ValueError(f"rate={bitstream.rate} must be a finite number")
    header = bytearray(MAGIC + bytes([VERSION]) + model_id)
    for side in bitstream.size:
        header += _varint(side - 1)
    header.append(len(strings) | (0 if bitstream.rate is None else HAS_RATE))
    if bitstream.rate is not None:
        header += struct.pack("<f", bitstream.rate)
    for string in strings:
        header += _varint(len(string))
    for string in strings:
        header += struct.pack("<I", _checksum(header, string))
    return b"".join([header, *strings])


def read_header(data: bytes) -> Header:
    """The header alone: needs no model, and verifies no checksum.

    Raises:
        BitstreamError: not a .bif file, another version, or a header that is cut off or that no encoder writes.
    """
    reader = _Reader(data)
    if (magic := data[:4]) != MAGIC:
        cut = " (it is cut off)" if len(data) < 4 and MAGIC.startswith(magic) else ""
        raise BitstreamError(f"not a .bif file: it does not begin with BIF1{cut}")
    reader.take(4)
    if (version := reader.take(1)[0]) != VERSION:
        raise BitstreamError(f".bif version {version} is not supported; this program reads version {VERSION}")
    model_id = reader.take(4)
    size = reader.varint() + 1, reader.varint() + 1
    _check_size(size, BitstreamError)
    count = reader.take(1)[0]
    rate = struct.unpack("<f", reader.take(4))[0] if count & HAS_RATE else None
    if rate is not None and not math.isfinite(rate):
        raise BitstreamError(f"the header is damaged: its rate is {rate}")
    if not count & ~HAS_RATE:
        raise BitstreamError("the header is damaged: it announces no layer")
    lengths = tuple(reader.varint() for _ in range(count & ~HAS_RATE))
    checksums = struct.unpack(f"<{len(lengths)}I", reader.take(4 * len(lengths)))
    return Header(model_id, size, rate, lengths, checksums, reader.position)


def layer_states(data: bytes, header: Header) -> list[str]:
    """Of each layer of a file: ``"ok"``, ``"damaged"`` or ``"cut off"``; needs no model."""
    states, position = [], header.num_bytes
    # Behind all lengths, where the checksums begin.
    seed_end = header.num_bytes - 4 * len(header.lengths)
    for index, (length, checksum) in enumerate(zip(header.lengths, header.checksums, strict=True)):
        string = data[position : position + length]
        if len(string) < length:
            states.append("cut off")
        else:
            whole = _checksum(data[: seed_end + 4 * index], string) == checksum
            states.append("ok" if whole else "damaged")
        position += length
    return states


def unpack(
    data: bytes, layers: Sequence[Layer], model_id: bytes, *, max_pixels: int = MAX_PIXELS
) -> Bitstream:
    """Read what ``pack`` wrote.

    A file of several layers that is cut off behind a complete one gives the layers before the cut.

    Args:
        data: the file.
        layers: of the codec that is to decode it.
        model_id: of that codec.
        max_pixels: of the picture; larger ones are refused.

    Raises:
        BitstreamError: not a .bif file, another version, other weights, a damaged or cut header, a damaged layer, bytes
            behind the last layer, a picture beyond ``max_pixels``, or not even the first layer is complete.
    """
    header = read_header(data)
    if header.model_id != model_id:
        raise BitstreamError(
            f"the file was written by another codec or with other weights (model id {header.model_id.hex()}) "
            f"than the ones loaded ({model_id.hex()})"
        )
    if len(header.lengths) != len(layers):
        raise BitstreamError(f"the file has {counted(len(header.lengths), 'layer')}, the codec {len(layers)}")
    if len(data) > header.total:
        raise BitstreamError(
            f"{counted(len(data) - header.total, 'byte')} too many after the last layer: no .bif file has any"
        )
    strings: dict[str, bytes] = {}
    position = header.num_bytes
    for layer, length, state in zip(layers, header.lengths, layer_states(data, header), strict=True):
        if state == "cut off":
            break
        if state == "damaged":
            raise BitstreamError(f"the header or layer {layer.name!r} is damaged: the checksum differs")
        strings[layer.name] = data[position : position + length]
        position += length
    if not strings:
        missing = header.num_bytes + header.lengths[0] - len(data)
        raise BitstreamError(
            f"the file ends inside its first layer {layers[0].name!r}: it lacks {counted(missing, 'byte')}"
        )
    # Only now is the size known to be what the encoder wrote.
    check_pixels(header.size, max_pixels)
    return Bitstream(strings, header.size, header.rate)


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture of (H, W) that is larger than a reader allows.

    Raises:
        BitstreamError: it is.
    """
    if size[0] * size[1] > max_pixels:
        raise BitstreamError(
            f"the picture has {size[1]} x {size[0]} pixels, more than the limit of {max_pixels}: raise the limit "
            "if you trust the file"
        )


def _checksum(before: bytes, string: bytes) -> int:
    return zlib.crc32(string, zlib.crc32(before))


def _check_size(size: tuple[int, int], error: type[ValueError]) -> None:
    if not all(0 < side <= MAX_SIDE for side in size):
        raise error(f"image size {size[1]}x{size[0]} (width x height) is outside 1..{MAX_SIDE} a side")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class _Reader:
    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    @property
    def remaining(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.remaining:
            raise BitstreamError("the file is cut off")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise BitstreamError(
                        "the header is damaged: a number in it is longer than it needs to be"
                    )
                return value
        raise BitstreamError("the header is damaged: a number in it is too long")
