"""NAL units of raw HEVC and VVC streams: the size of the picture, what of it was padded, and a checksum.

Decoders conceal what they cannot read, a missing half of the picture included. And both encoders refuse pictures below
16 pixels a side, and VVC in 4:2:0 those of odd sides: such pictures are padded. So a last NAL unit of a type that both
standards leave to applications (decoders skip it) holds a checksum, and how much to cut: 8 to 11 bytes::

    00 00 01   header (2 bytes)   [cut]   CRC-32 of all before (its low 21 bits)

The cut is left out where nothing is cut; it takes one byte, rows and columns in 4 bits each, or three, rows in 14 bits
and columns in 7. Numbers of three bytes hold 7 bits a byte below a one: so no byte of the payload is zero, as Annex B
of both standards wants it.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from models.bitstream import MAX_SIDE, BitstreamError
from models.counted import counted

_START = b"\x00\x00\x01"
_MAX_PIXELS = 1 << 28


@dataclass(frozen=True)
class Syntax:
    """What differs between the two standards.

    Attributes:
        name: for messages.
        sps_type: NAL unit type of sequence parameter sets.
        type_byte: which byte of the header holds the type, and how far left it is shifted.
        last_header: of the NAL unit above: an unspecified type that may follow the picture.
    """

    name: str
    sps_type: int
    type_byte: tuple[int, int]
    last_header: bytes


# ITU-T H.265, 7.3.1.2 and table 7-1: types 56..63 are unspecified and may follow the picture.
HEVC = Syntax("HEVC", 33, (0, 1), bytes([56 << 1, 1]))
# ITU-T H.266, 7.3.1.2 and table 5: types 30 and 31 likewise.
VVC = Syntax("VVC", 15, (1, 3), bytes([0, 30 << 3 | 1]))


def pad(image: np.ndarray, *, least: int = 16, multiple: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """Repeat the last row and column until both sides are at least ``least`` and multiples of ``multiple``.

    Args:
        image: (H, W, 3).
        least: 16 or 32.
        multiple: 1 or 2.

    Returns:
        The padded picture, and how many rows and columns were added, each below ``least``.
    """
    rows, columns = (max(least, -(-side // multiple) * multiple) - side for side in image.shape[:2])
    return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge"), (rows, columns)


def seal(stream: bytes, syntax: Syntax, cut: tuple[int, int]) -> bytes:
    """Append the unit above.

    Args:
        stream: as the encoder wrote it.
        syntax: of the standard.
        cut: rows (below 16384) and columns (below 128) that a decoder must cut off.
    """
    rows, columns = cut
    if max(cut) < 16:
        payload = bytes([rows << 4 | columns]) if any(cut) else b""
    else:
        payload = _three_bytes(rows << 7 | columns)
    return stream + _START + syntax.last_header + payload + _three_bytes(zlib.crc32(stream + payload))


def unseal(data: bytes, syntax: Syntax) -> tuple[bytes, tuple[int, int]]:
    """Undo ``seal``: the encoder's stream, and the rows and columns to cut.

    Raises:
        BitstreamError: the stream is cut off or damaged.
    """
    mark = _START + syntax.last_header
    start = data.rfind(mark, max(0, len(data) - len(mark) - 6))
    if start < 0:
        raise BitstreamError(f"not a whole {syntax.name} file of ours: it does not end in a checksum")
    stream, payload, checksum = data[:start], data[start + len(mark) : -3], data[-3:]
    if checksum != _three_bytes(zlib.crc32(stream + payload)):
        raise BitstreamError(f"the {syntax.name} file is damaged: its checksum differs")
    if len(payload) == 0:
        return stream, (0, 0)
    if len(payload) == 1:
        return stream, (payload[0] >> 4, payload[0] & 15)
    if len(payload) == 3:
        high, middle, low = (byte & 0x7F for byte in payload)
        return stream, (high << 7 | middle, low)
    raise BitstreamError(
        f"the {syntax.name} file is damaged: its last unit has {counted(len(payload), 'byte')}"
    )


def picture_size(data: bytes, syntax: Syntax) -> tuple[int, int]:
    """(H, W) of the picture in what ``seal`` wrote.

    Raises:
        BitstreamError: no such stream, damaged, or of an absurd size.
    """
    stream, cut = unseal(data, syntax)
    height, width = (side - part for side, part in zip(coded_size(stream, syntax), cut, strict=True))
    if min(height, width) < 1:
        raise BitstreamError(f"the {syntax.name} file is damaged: nothing of the picture is left uncut")
    return height, width


def coded_size(stream: bytes, syntax: Syntax) -> tuple[int, int]:
    """(H, W) that a stream declares in its first sequence parameter set, after the conformance window.

    Raises:
        BitstreamError: no such stream, or an absurd size.
    """
    byte, shift = syntax.type_byte
    for unit in stream.split(_START)[1:]:
        if len(unit) > 2 and unit[byte] >> shift == syntax.sps_type:
            bits = _Bits(unit[2:].replace(b"\x00\x00\x03", b"\x00\x00"), syntax.name)
            height, width = _hevc_size(bits) if syntax is HEVC else _vvc_size(bits)
            if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= _MAX_PIXELS):
                raise BitstreamError(f"the {syntax.name} stream declares an absurd size, {height}x{width}")
            return height, width
    raise BitstreamError(f"not a {syntax.name} stream: it has no sequence parameter set")


def _three_bytes(value: int) -> bytes:
    return bytes(value >> shift & 0x7F | 0x80 for shift in (14, 7, 0))


class _Bits:
    """Reads the syntax elements of a raw byte sequence payload."""

    def __init__(self, payload: bytes, name: str):
        self._bits = "".join(f"{byte:08b}" for byte in payload)
        self._position, self._name = 0, name

    def u(self, count: int) -> int:
        """An unsigned number of ``count`` bits."""
        if self._position + count > len(self._bits):
            raise BitstreamError(f"the {self._name} stream ends inside its sequence parameter set")
        self._position += count
        return int(self._bits[self._position - count : self._position] or "0", 2)

    def ue(self) -> int:
        """An Exp-Golomb number."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 31:
                raise BitstreamError(f"a number in the {self._name} stream is too long")
        return (1 << zeros) - 1 + self.u(zeros)

    def align(self) -> None:
        self.u(-self._position % 8)


def _hevc_size(bits: _Bits) -> tuple[int, int]:
    """ITU-T H.265, 7.3.2.2.1 seq_parameter_set_rbsp and 7.3.3 profile_tier_level."""
    bits.u(4)
    sublayers = bits.u(3)
    bits.u(1 + 88 + 8)
    present = [(bits.u(1), bits.u(1)) for _ in range(sublayers)]
    bits.u(2 * (8 - sublayers) if sublayers else 0)
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    bits.ue()
    chroma = bits.ue()
    planes_apart = bits.u(1) if chroma == 3 else 0
    return _size_after_window(bits, 0 if planes_apart else chroma)


def _vvc_size(bits: _Bits) -> tuple[int, int]:
    """ITU-T H.266, 7.3.2.4 seq_parameter_set_rbsp and 7.3.3.1 profile_tier_level."""
    bits.u(8)
    sublayers, chroma = bits.u(3), bits.u(2)
    bits.u(2)
    if bits.u(1):
        bits.u(7 + 1 + 8 + 2)
        if bits.u(1):
            # 71 flags and fields of general_constraints_info, then the reserved bits that a count announces.
            bits.u(71)
            bits.u(bits.u(8))
        bits.align()
        present = [bits.u(1) for _ in range(sublayers)]
        bits.align()
        bits.u(8 * sum(present))
        bits.u(32 * bits.u(8))
    bits.u(1)
    if bits.u(1):
        bits.u(1)
    return _size_after_window(bits, chroma)


def _size_after_window(bits: _Bits, chroma: int) -> tuple[int, int]:
    """Width, height and conformance window, which both standards write alike; the window counts chroma samples."""
    width, height = bits.ue(), bits.ue()
    if bits.u(1):
        left, right, top, bottom = (bits.ue() for _ in range(4))
        width -= (left + right) * (2 if chroma in (1, 2) else 1)
        height -= (top + bottom) * (2 if chroma == 1 else 1)
    return height, width
