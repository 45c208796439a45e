"""The ``.bif`` file: one image's layers behind a header that a decoder checks before it decodes anything.

Bytes, in order (integers little endian)::

    "BIF1"  version (1)  model id (4)  height (varint)  width (varint)  rate (float32)  number of layers (1)
    for every layer: length (varint)  CRC-32 of the string (4)
    the layers' strings, in order

A varint holds 7 bits a byte, so the header of an image below 16384 pixels a side takes at most 18 bytes and at most 7 a
layer below 2 MiB. Names are not stored: they come from the model that ``model id`` stands for.
"""

import math
import struct
import zlib
from collections.abc import Sequence

from models.outputs import Bitstream, Layer

MAGIC, VERSION = b"BIF1", 1
MAX_SIDE = 1 << 16


class BitstreamError(ValueError):
    """The bytes are no whole, unharmed file of this codec with these weights."""


def pack(bitstream: Bitstream, model_id: bytes) -> bytes:
    """Serialise one image.

    Args:
        bitstream: layers in the codec's order; ``rate`` None is written as NaN.
        model_id: 4 bytes that identify the codec and its entropy side (``Codec.model_id``).
    """
    height, width = bitstream.size
    rate = math.nan if bitstream.rate is None else bitstream.rate
    header = [MAGIC, bytes([VERSION]), model_id, _varint(height), _varint(width), struct.pack("<f", rate)]
    header.append(bytes([len(bitstream.strings)]))
    for string in bitstream.strings.values():
        header += [_varint(len(string)), struct.pack("<I", zlib.crc32(string))]
    return b"".join(header) + b"".join(bitstream.strings.values())


def unpack(data: bytes, layers: Sequence[Layer], model_id: bytes) -> Bitstream:
    """Read what ``pack`` wrote.

    A file cut off behind a complete layer gives the layers before the cut.

    Raises:
        BitstreamError: not a .bif file, another version, other weights, a damaged or cut header, a damaged layer, or
            not even the first layer is complete.
    """
    reader = _Reader(data)
    if reader.take(4) != MAGIC:
        raise BitstreamError("not a .bif file: it does not begin with BIF1")
    if (version := reader.take(1)[0]) != VERSION:
        raise BitstreamError(f".bif version {version} is not supported; this program reads version {VERSION}")
    if reader.take(4) != model_id:
        raise BitstreamError(
            "the file was written by another codec or with other weights than the ones loaded"
        )
    size = reader.varint(), reader.varint()
    if not all(0 < side <= MAX_SIDE for side in size):
        raise BitstreamError(f"image size {size[0]}x{size[1]} is outside 1..{MAX_SIDE}")
    rate = struct.unpack("<f", reader.take(4))[0]
    if (count := reader.take(1)[0]) != len(layers):
        raise BitstreamError(f"the file has {count} layers, the codec {len(layers)}")
    index = [(layer.name, reader.varint(), struct.unpack("<I", reader.take(4))[0]) for layer in layers]
    strings: dict[str, bytes] = {}
    for name, length, checksum in index:
        if reader.remaining < length:
            break
        string = reader.take(length)
        if zlib.crc32(string) != checksum:
            raise BitstreamError(f"layer {name!r} is damaged: its checksum differs")
        strings[name] = string
    if not strings:
        raise BitstreamError(f"the file ends inside its first layer {layers[0].name!r}")
    return Bitstream(strings, size, None if math.isnan(rate) else rate)


def join(strings: Sequence[bytes]) -> bytes:
    """Several strings as one: lengths of all but the last (varints), then the strings."""
    return b"".join(_varint(len(s)) for s in strings[:-1]) + b"".join(strings)


def split(data: bytes, count: int) -> list[bytes]:
    """Undo ``join``; ``count`` is how many there were."""
    reader = _Reader(data)
    lengths = [reader.varint() for _ in range(count - 1)]
    return [*(reader.take(n) for n in lengths), reader.take(reader.remaining)]


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
                return value
        raise BitstreamError("a number in the header is too long")
