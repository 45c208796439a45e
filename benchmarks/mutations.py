"""Ways to spoil a .bif file: damage as it happens, and forgeries with right checksums, to reach what lies behind."""

import itertools
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.bitstream import HAS_RATE, MAGIC, VERSION, read_header


@dataclass(frozen=True)
class Parts:
    """A file taken apart; ``sealed`` puts it together with whatever was changed.

    Attributes:
        version: one byte.
        model_id: four.
        sides: height and width, less one, of any size.
        rate: float32, or ``None``.
        lengths: that the header announces; any.
        strings: that follow.
        count: number of layers that the header announces, 0..127; ``None`` for as many as there are lengths.
    """

    version: int
    model_id: bytes
    sides: tuple[int, int]
    rate: float | None
    lengths: tuple[int, ...]
    strings: tuple[bytes, ...]
    count: int | None = None

    @classmethod
    def of(cls, data: bytes) -> "Parts":
        """Take a whole file apart."""
        header = read_header(data)
        ends = header.num_bytes + np.cumsum((0, *header.lengths))
        strings = tuple(data[a:b] for a, b in itertools.pairwise(ends))
        sides = header.size[0] - 1, header.size[1] - 1
        return cls(VERSION, header.model_id, sides, header.rate, header.lengths, strings)

    def sealed(self) -> bytes:
        """The file, its checksums right for what it now says. Written apart from ``models.bitstream.pack``."""
        count = len(self.lengths) if self.count is None else self.count
        head = MAGIC + bytes([self.version]) + self.model_id + b"".join(map(number, self.sides))
        head += bytes([count | (HAS_RATE if self.rate is not None else 0)])
        head += b"" if self.rate is None else struct.pack("<f", self.rate)
        head += b"".join(map(number, self.lengths))
        for string in self.strings:
            head += struct.pack("<I", zlib.crc32(head + string))
        return head + b"".join(self.strings)


def number(value: int) -> bytes:
    """As a file stores it: 7 bits a byte, lowest first."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def flips(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """1 to 8 bits anywhere."""
    spoilt = bytearray(_one(rng, files))
    for _ in range(rng.integers(1, 9)):
        spoilt[rng.integers(len(spoilt))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def header_flips(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """1 or 2 bits of the header."""
    spoilt = bytearray(data := _one(rng, files))
    for _ in range(rng.integers(1, 3)):
        spoilt[rng.integers(read_header(data).num_bytes)] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def cut(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """The end is missing."""
    data = _one(rng, files)
    return data[: rng.integers(len(data))]


def insertion(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Up to 16 bytes more, somewhere."""
    data = _one(rng, files)
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(int(rng.integers(1, 17))) + data[at:]


def deletion(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Up to 16 bytes fewer, somewhere."""
    data = _one(rng, files)
    at = rng.integers(len(data))
    return data[:at] + data[at + rng.integers(1, 17) :]


def splice(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another, from the same place or from anywhere."""
    first, second = _one(rng, files), _one(rng, files)
    at = rng.integers(min(len(first), len(second)))
    other = at if rng.integers(2) else rng.integers(len(second))
    return first[:at] + second[other:]


def block(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """A run of bytes becomes zeros, ones or noise, as a bad sector does."""
    data = _one(rng, files)
    length = int(rng.integers(1, 65))
    at = rng.integers(len(data))
    filling = (bytes(length), b"\xff" * length, rng.bytes(length))[rng.integers(3)]
    return data[:at] + filling[: len(data) - at] + data[at + length :]


def noise(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Anything, sometimes behind the magic and the model id."""
    lead = _one(rng, files)[: (0, 4, 5, 9)[rng.integers(4)]]
    return lead + rng.bytes(int(rng.integers(200)))


def forged_lengths(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Other lengths of layers: shifted between them, huge, or zero."""
    parts = Parts.of(_one(rng, files))
    huge = (0, 1, 127, 128, 2**16, 2**31 - 1, 2**32, 2**35 - 1)
    lengths = tuple(
        max(0, n + int(rng.integers(-3, 4))) if rng.integers(2) else huge[rng.integers(len(huge))]
        for n in parts.lengths
    )
    return replace(parts, lengths=lengths).sealed()


def forged_header(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Another size, rate, version, model or number of layers."""
    parts = Parts.of(_one(rng, files))
    sides = (0, 1, 7, 63, 64, 127, 255, 16383, 65535, 65536, 2**32, 2**35 - 1)
    rates = (None, 0.0, 1.0, -1.0, 1e30, math.nan, math.inf)
    changed = (
        {"sides": tuple(sides[rng.integers(len(sides))] for _ in range(2))},
        {"sides": tuple(max(0, side + int(rng.integers(-9, 10))) for side in parts.sides)},
        {"rate": rates[rng.integers(len(rates))]},
        {"version": int(rng.integers(256))},
        {"model_id": rng.bytes(4)},
        {"count": int(rng.integers(128))},
    )
    return replace(parts, **changed[rng.integers(len(changed))]).sealed()


def forged_strings(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    """Layers that hold something else: spoilt, cut, grown, of another file, or noise."""
    parts, other = Parts.of(_one(rng, files)), Parts.of(_one(rng, files))
    strings = list(parts.strings)
    at = int(rng.integers(len(strings)))
    string = strings[at] or b"\0"
    spoilt = bytearray(string)
    spoilt[rng.integers(len(string))] ^= 1 << int(rng.integers(8))
    strings[at] = (
        bytes(spoilt),
        string[: rng.integers(len(string))],
        string + rng.bytes(int(rng.integers(1, 9))),
        other.strings[rng.integers(len(other.strings))],
        rng.bytes(int(rng.integers(len(string) + 9))),
        bytes(int(rng.integers(len(string) + 9))),
        b"\xff" * int(rng.integers(len(string) + 9)),
    )[rng.integers(7)]
    return replace(parts, lengths=tuple(map(len, strings)), strings=tuple(strings)).sealed()


Mutation = Callable[[np.random.Generator, Sequence[bytes]], bytes]

DAMAGES: tuple[Mutation, ...] = (flips, header_flips, cut, insertion, deletion, splice, block, noise)
"""What happens to files. None may give another picture."""

FORGERIES: tuple[Mutation, ...] = (forged_lengths, forged_header, forged_strings)
"""What only somebody who computes the checksums can make. Such a file may be one of another picture."""


def mutate(rng: np.random.Generator, files: Sequence[bytes]) -> tuple[Mutation, bytes]:
    """One of all mutations, forgeries as often as damages, and the file it made."""
    group = (DAMAGES, FORGERIES)[rng.integers(2)]
    mutation = group[rng.integers(len(group))]
    return mutation, mutation(rng, files)


def _one(rng: np.random.Generator, files: Sequence[bytes]) -> bytes:
    return files[rng.integers(len(files))]
