"""Integer symbols to bytes and back: one coder state for all that a layer holds.

A string is the coder's last state, then the 32-bit words it gave off, all little endian::

    state (2-8 bytes, see below)  words (4 bytes each)

Two things differ from CompressAI's strings, and both save bytes. The encoder starts at a 16-bit fingerprint of all
symbols instead of 2**31: the decoder ends there or reports an error. And the state is stored without leading zeros: as
many bytes as leave 1, 2 or 3 over when the string is cut into words, 8 for none (5 at least where words follow). What
a string costs beyond its symbols' ideal length is thereby 2 bytes of fingerprint and a fraction of one byte on average.
``finish_for_compressai`` and ``CompressAIDecoder`` write and read CompressAI's own strings.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.bitstream import BitstreamError
from models.counted import counted
from models.entropy import rans
from models.entropy.density import Density


@dataclass(frozen=True)
class Tables:
    """The CDF tables of one entropy model, flat.

    Attributes:
        entries: number in its row << 32 | start << 16 | frequency of every symbol of every row, uint64. The last of a
            row is the escape, marked by ``rans.ESCAPE`` on its number.
        first: position of each row's first entry, and one behind the last, int64 (rows + 1,).
        offsets: value of each row's first symbol, int64 (rows,).
        guesses: the entries where a decoder begins to search, uint64 (rows << BUCKET_BITS,).
    """

    entries: np.ndarray
    first: np.ndarray
    offsets: np.ndarray
    guesses: np.ndarray

    @classmethod
    def of(cls, model: Density) -> "Tables":
        """Flatten the buffers of a density (``tables.build`` fills them).

        Raises:
            ValueError: a row that is no CDF: not ascending from 0 to 65536, or without an escape.
        """
        padded = model.quantized_cdf.detach().cpu().numpy().astype(np.int64)
        sizes = model.cdf_length.detach().cpu().numpy().astype(np.int64).reshape(-1) - 1
        offsets = model.offset.detach().cpu().numpy().astype(np.int64).reshape(-1)
        if padded.ndim != 2 or not len(padded) == len(sizes) == len(offsets):
            raise ValueError(
                "the CDF tables are empty or do not belong together: build them with tables.build"
            )
        if sizes.min() < 2 or sizes.max() >= padded.shape[1]:
            raise ValueError(
                f"CDF rows hold {sizes.min()}..{sizes.max()} symbols; 2..{padded.shape[1] - 1} are possible"
            )
        inside = np.arange(padded.shape[1] - 1) < sizes[:, None]
        starts, frequencies = padded[:, :-1][inside], np.diff(padded, axis=1)[inside]
        ends = padded[np.arange(len(sizes)), sizes]
        if (padded[:, 0] != 0).any() or (ends != 1 << rans.PRECISION).any() or frequencies.min() < 1:
            raise ValueError("a CDF row does not ascend from 0 to 65536: the stored tables are damaged")
        first = np.concatenate([[0], np.cumsum(sizes)])
        numbers = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
        numbers[first[1:] - 1] += rans.ESCAPE
        entries = (numbers << 32 | starts << 16 | frequencies).astype(np.uint64)
        buckets = np.arange(1 << rans.BUCKET_BITS) << rans.PRECISION - rans.BUCKET_BITS
        guesses = [
            entries[begin + np.searchsorted(row[:size], buckets, side="right") - 1]
            for row, size, begin in zip(padded, sizes, first[:-1], strict=True)
        ]
        return cls(entries, first, offsets, np.concatenate(guesses))


class TableCache:
    """Flat tables of entropy models, made anew whenever a model's buffers have changed."""

    def __init__(self) -> None:
        self._known: dict[Density, tuple[tuple, Tables]] = {}

    def __call__(self, model: Density) -> Tables:
        buffers = (model.quantized_cdf, model.cdf_length, model.offset)
        # The tensors themselves, not their ids: an id may return with another tensor.
        state = (*buffers, *(b._version for b in buffers))
        known = self._known.get(model)
        if known is None or any(a is not b for a, b in zip(known[0], state, strict=True)):
            known = self._known[model] = state, Tables.of(model)
        return known[1]

    def __deepcopy__(self, memo: dict) -> "TableCache":
        return TableCache()

    def __reduce__(self) -> tuple:
        return TableCache, ()


class Encoder:
    """Collects the symbols of one image's layer, in the order a decoder will ask for them."""

    def __init__(self) -> None:
        self._pieces: list[tuple[np.ndarray, np.ndarray, Tables]] = []

    def push(self, symbols: np.ndarray, rows: np.ndarray, tables: Tables) -> None:
        """Add symbols behind those that are there.

        Args:
            symbols: int32, any shape.
            rows: row of ``tables`` for each of them, uint16, same shape.
            tables: of their entropy model.
        """
        assert symbols.dtype == np.int32
        assert rows.dtype == np.uint16
        assert symbols.shape == rows.shape
        self._pieces.append((np.ascontiguousarray(symbols), _flat(rows), tables))

    def finish(self) -> bytes:
        """The string of all symbols pushed."""
        state, words = self._run(_start(fingerprint(piece[0] for piece in self._pieces)))
        length = (state.bit_length() + 7) // 8
        return state.to_bytes(max(5, length) if words else length, "little") + words

    def finish_for_compressai(self) -> bytes:
        """The string that CompressAI's coder writes for these symbols, byte for byte; it holds no fingerprint."""
        state, words = self._run(rans.LOW)
        return state.to_bytes(8, "little") + words

    def _run(self, start: int) -> tuple[int, bytes]:
        state, chunks = np.uint64(start), []
        for symbols, rows, tables in reversed(self._pieces):
            words = np.empty(2 * symbols.size + 2, np.uint32)
            state, position = rans.encode(
                _flat(symbols), rows, tables.entries, tables.first, tables.offsets, np.uint64(state), words
            )
            if position < 0:
                raise ValueError(
                    f"a symbol's row is {rows.max()}, but the tables have {counted(len(tables.offsets), 'row')}"
                )
            chunks.append(words[position:].astype("<u4", copy=False).tobytes())
        return int(state), b"".join(reversed(chunks))


class Decoder:
    """Gives back the symbols of one string, piece by piece.

    Raises:
        BitstreamError: (here, in ``pop`` or in ``finish``) the string is none that an ``Encoder`` wrote for these rows
            and tables.
    """

    def __init__(self, string: bytes) -> None:
        # What is left over from whole words is the state's; see the head of the file.
        length = len(string) if len(string) < 9 else (5, 6, 7, 8)[(len(string) - 1) % 4]
        self._start(string, length)
        self._hash = np.uint64(0)

    def _start(self, string: bytes, length: int) -> None:
        state = int.from_bytes(string[:length], "little")
        if state >= 1 << 63:
            raise BitstreamError("the string is damaged: no encoder ends in this state")
        self._state, self._position = np.uint64(state), 0
        # A copy, for numba compiles a version apart for read-only or unaligned arrays.
        self._words = np.frombuffer(string, "<u4", offset=length).astype(np.uint32)

    def pop(self, rows: np.ndarray, tables: Tables) -> np.ndarray:
        """The next symbols, int32, in the shape of ``rows`` (uint16)."""
        assert rows.dtype == np.uint16
        symbols = np.empty(rows.size, np.int32)
        state, position = rans.decode(
            symbols,
            _flat(rows),
            tables.entries,
            tables.first,
            tables.offsets,
            tables.guesses,
            self._state,
            self._words,
            self._position,
        )
        if position == rans.NO_SUCH_ROW:
            raise ValueError(
                f"a symbol's row is {rows.max()}, but the tables have {counted(len(tables.offsets), 'row')}"
            )
        if position == rans.DAMAGED:
            raise BitstreamError("the string is damaged: it holds a symbol that no encoder writes")
        self._state, self._position = np.uint64(state), position
        symbols = symbols.reshape(rows.shape)
        self._hash = fingerprint((symbols,), self._hash)
        return symbols

    def finish(self) -> None:
        """Check that the string ends here, and that its symbols are the encoder's."""
        if self._position != self._words.size or int(self._state) != _start(self._hash):
            raise BitstreamError(
                "decoded symbols differ from the encoder's: the string is damaged, or was written with other weights "
                "or by a device that computes differently"
            )


class CompressAIDecoder(Decoder):
    """Reads the strings of CompressAI's coder, which hold no fingerprint."""

    def __init__(self, string: bytes) -> None:
        if len(string) < 8 or len(string) % 4:
            raise BitstreamError(
                f"a string of {counted(len(string), 'byte')} is not one of CompressAI's: 8, 12, 16..."
            )
        self._start(string, 8)
        self._hash = np.uint64(0)

    def finish(self) -> None:
        if self._position != self._words.size or int(self._state) != rans.LOW:
            raise BitstreamError("the string is damaged, or was written with other tables")


def fingerprint(pieces: Iterable[np.ndarray], seed: int = 0) -> np.uint64:
    """A 64-bit hash of int32 arrays, of their shapes, and of how they are divided into pieces."""
    for piece in pieces:
        # Latents of another shape may have as many symbols: a changed size in a header shows here.
        for array in (np.array(piece.shape, np.int32), _flat(piece)):
            seed = rans.fingerprint(array, np.uint64(seed))
    return np.uint64(seed)


def _flat(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1)


def _start(hashed: np.uint64) -> int:
    """The encoder's first state: 16 bits of the fingerprint, never 0, where a state that ran out of bits would end."""
    return int(hashed) % 0xFFFF + 1
