"""The range coder's inner loops: rANS with a 64-bit state and 16-bit probabilities, compiled by numba.

Everything here works on flat NumPy arrays, releases the GIL and never reads outside them, whatever the bytes hold.
Bit for bit the arithmetic of CompressAI's coder, so that either reads what the other wrote:

- a symbol of frequency f and start c takes the state x to (x // f) << 16 | (x % f + c); the last symbol of each row
  stands for "out of range" and is followed by the distance in nibbles, their number first;
- 32 bits leave the state whenever the next step would carry it past 2**63.

Reference: Duda, Asymmetric numeral systems, 2013, https://arxiv.org/abs/1311.2540; Giesen, Interleaved entropy coders,
2014, https://arxiv.org/abs/1402.3392.

Differs from CompressAI's coder: distances are 9 nibbles at most (8 hold every distance that fits 32 bits), and a
decoder stops at the first thing that no encoder writes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from models.entropy.frequencies import PRECISION

LOW = 1 << 31
"""The state stays at or above this while there are words to read."""
BUCKET_BITS = 7
"""A decoder finds its first guess at a symbol by this many leading bits of the state's slot: enough to be right nearly
always, and few enough that the guesses stay in the cache."""
ESCAPE = 1 << 24
"""Added to the number of a row's last symbol; rows are shorter."""
MAX_NIBBLES = 9
CELL_SHIFT = 46
"""Of a float64's 52 bits of mantissa, those that do not choose a cell of ``find_rows``: 64 cells an octave."""
DAMAGED, NO_SUCH_ROW = -1, -2
"""Returned in place of a position."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; keep the machine code on disk where a folder for it can be written."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no place for its cache
        return njit(**options)(function)


@_compiled
def encode(
    symbols: np.ndarray,
    rows: np.ndarray,
    entries: np.ndarray,
    first: np.ndarray,
    offsets: np.ndarray,
    state: np.uint64,
    words: np.ndarray,
) -> tuple[np.uint64, int]:
    """Push symbols, last one first.

    Args:
        symbols: int32 (n,).
        rows: row of the table for every symbol, uint16 (n,).
        entries: rows behind one another; number << 32 | start << 16 | frequency of each symbol, uint64.
        first: position of every row's first entry, and behind the last row's last, int64 (rows + 1,).
        offsets: value of each row's first symbol, int64 (rows,).
        state: of the coder before.
        words: uint32 with room for 2 n + 2; filled from the back.

    Returns:
        The state after, and the position of the first word written, or ``NO_SUCH_ROW``.
    """
    position = words.size
    num_rows = first.size - 1
    x = np.uint64(state)
    low_half = np.uint64(0xFFFFFFFF)
    shift32, shift47, shift59 = np.uint64(32), np.uint64(47), np.uint64(59)
    for i in range(symbols.size - 1, -1, -1):
        row = np.int64(rows[i])
        if row >= num_rows:
            return x, NO_SUCH_ROW
        begin = first[row]
        escape = first[row + 1] - begin - 1
        value = np.int64(symbols[i]) - offsets[row]
        if value < 0 or value >= escape:
            distance = -2 * value - 1 if value < 0 else 2 * (value - escape)
            count = 0
            while (distance >> (4 * count)) != 0:
                count += 1
            for j in range(count - 1, -2, -1):
                # Read in the opposite order: the number of nibbles, then the lowest first.
                nibble = count if j < 0 else distance >> (4 * j) & 15
                if x >> shift59:
                    position -= 1
                    words[position] = np.uint32(x & low_half)
                    x >>= shift32
                x = x << np.uint64(4) | np.uint64(nibble)
            value = escape
        entry = entries[begin + value]
        frequency = entry & np.uint64(0xFFFF)
        if x >> shift47 >= frequency:
            position -= 1
            words[position] = np.uint32(x & low_half)
            x >>= shift32
        quotient = x // frequency
        x = (quotient << np.uint64(PRECISION)) + (x - quotient * frequency)
        x += entry >> np.uint64(16) & np.uint64(0xFFFF)
    return x, position


@_compiled
def decode(
    symbols: np.ndarray,
    rows: np.ndarray,
    entries: np.ndarray,
    first: np.ndarray,
    offsets: np.ndarray,
    guesses: np.ndarray,
    state: np.uint64,
    words: np.ndarray,
    position: int,
) -> tuple[np.uint64, int]:
    """Fill ``symbols``; arguments as in ``encode``.

    Args:
        guesses: entry to begin the search at, for every row and bucket of slots, uint64 (rows << BUCKET_BITS,).
        position: of the next word.

    Returns:
        The state and the position after, or ``DAMAGED`` or ``NO_SUCH_ROW`` in place of the position.
    """
    end = words.size
    num_rows = first.size - 1
    x = np.uint64(state)
    low = np.uint64(LOW)
    shift16, shift32, shift4 = np.uint64(16), np.uint64(32), np.uint64(4)
    for i in range(symbols.size):
        row = np.int64(rows[i])
        if row >= num_rows:
            return x, NO_SUCH_ROW
        slot = x & np.uint64(0xFFFF)
        entry = guesses[row << BUCKET_BITS | np.int64(slot >> np.uint64(PRECISION - BUCKET_BITS))]
        # Starts and frequencies of a row tile 0..65535, so this ends at the row's last entry at the latest.
        while slot - (entry >> shift16 & np.uint64(0xFFFF)) >= entry & np.uint64(0xFFFF):
            entry = entries[first[row] + np.int64(entry >> shift32) + 1]
        x = (entry & np.uint64(0xFFFF)) * (x >> shift16) + slot - (entry >> shift16 & np.uint64(0xFFFF))
        if x < low and position < end:
            x = x << shift32 | np.uint64(words[position])
            position += 1
        value = np.int64(entry >> shift32)
        if value >= ESCAPE:
            count = np.int64(x & np.uint64(15))
            if count > MAX_NIBBLES:
                return x, DAMAGED
            distance = np.int64(0)
            for j in range(-1, count):
                if j >= 0:
                    distance |= np.int64(x & np.uint64(15)) << (4 * j)
                x >>= shift4
                if x < low and position < end:
                    x = x << shift32 | np.uint64(words[position])
                    position += 1
            value -= ESCAPE
            value = -(distance >> 1) - 1 if distance & 1 else value + (distance >> 1)
            if not -(1 << 31) <= value + offsets[row] < 1 << 31:
                return x, DAMAGED
        symbols[i] = np.int32(value + offsets[row])
    return x, position


@_compiled
def fingerprint(symbols: np.ndarray, seed: np.uint64) -> np.uint64:
    """A 64-bit hash of int32 symbols and of ``seed``, in four lanes so that multiplications overlap."""
    a, b, c, d = seed, seed + np.uint64(1), seed + np.uint64(2), seed + np.uint64(3)
    factor = np.uint64(0x9E3779B97F4A7C15)
    whole = symbols.size & ~3
    for i in range(0, whole, 4):
        a = (a + np.uint64(symbols[i])) * factor
        b = (b + np.uint64(symbols[i + 1])) * factor
        c = (c + np.uint64(symbols[i + 2])) * factor
        d = (d + np.uint64(symbols[i + 3])) * factor
    for i in range(whole, symbols.size):
        a = (a + np.uint64(symbols[i])) * factor
    h = np.uint64(symbols.size)
    for lane in (a, b, c, d):
        h = (h ^ (lane ^ lane >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(32)
    return h


@_compiled
def find_rows(
    values: np.ndarray, borders: np.ndarray, cells: np.ndarray, lowest: int, rows: np.ndarray
) -> None:
    """How many of the ascending ``borders`` lie below each value: a row of the scale table.

    Args:
        values: float64 (n,), positive.
        borders: float64, ascending, followed by infinity.
        cells: the answer at the lower end of every cell that the leading bits of a float64 make, uint16.
        lowest: number of the first cell.
        rows: uint16 (n,), filled.
    """
    bits = values.view(np.int64)
    last = cells.size - 1
    for i in range(values.size):
        cell = (bits[i] >> CELL_SHIFT) - lowest
        row = np.int64(cells[min(max(cell, 0), last)])
        # A cell seldom holds two borders: this addition spares a branch that cannot be foreseen.
        row += borders[row] < values[i]
        while borders[row] < values[i]:
            row += 1
        rows[i] = row
