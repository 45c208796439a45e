"""The range coder against CompressAI's, against the ideal code length, and against bytes that no encoder wrote."""

import math
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from compressai import ans
from compressai.entropy_models import EntropyModel, GaussianConditional
from compressai.models.base import get_scale_table
from scipy.stats import norm

from models.bitstream import BitstreamError
from models.entropy import rans, tables
from models.entropy.coder import CompressAIDecoder, Decoder, Encoder, TableCache, Tables, fingerprint
from models.entropy.factorized import Factorized
from models.entropy.scale_index import ScaleIndex
from models.entropy.scale_table import compressai_table, fine_table
from models.entropy.stream import Reader, Writer, in_threads

INT32 = np.iinfo(np.int32)


@pytest.fixture(scope="module")
def gaussian() -> GaussianConditional:
    model = GaussianConditional(fine_table())
    tables.build(model)
    return model


@pytest.fixture(scope="module")
def flat(gaussian: GaussianConditional) -> Tables:
    return Tables.of(gaussian)


def draw(count: int, seed: int, *, low: float = 0.05, high: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and the rows of their own scales, some of the symbols far out."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(math.log(low), math.log(high), count))
    rows = np.searchsorted(fine_table()[:-1], scales).astype(np.uint16)
    symbols = (rng.normal(size=count) * scales).round()
    far = rng.random(count) < 0.02
    symbols[far] *= 10.0 ** rng.uniform(0, 6, far.sum())
    return symbols.astype(np.int32), rows


def their_lists(model: EntropyModel) -> tuple[list[list[int]], list[int], list[int]]:
    lengths = model.cdf_length.tolist()
    return (
        [row[:n] for row, n in zip(model.quantized_cdf.tolist(), lengths, strict=True)],
        lengths,
        model.offset.tolist(),
    )


def encoded(symbols: np.ndarray, rows: np.ndarray, flat: Tables, pieces: int = 1) -> Encoder:
    encoder = Encoder()
    for part, part_rows in zip(np.array_split(symbols, pieces), np.array_split(rows, pieces), strict=True):
        encoder.push(part, part_rows, flat)
    return encoder


def decoded(string: bytes, rows: np.ndarray, flat: Tables, pieces: int = 1) -> np.ndarray:
    decoder = Decoder(string)
    symbols = np.concatenate([decoder.pop(part, flat) for part in np.array_split(rows, pieces)])
    decoder.finish()
    return symbols


@pytest.mark.parametrize("count", [4, 17, 1000, 20_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_strings_are_compressai_s_byte_for_byte(
    gaussian: GaussianConditional, flat: Tables, count: int, seed: int
) -> None:
    symbols, rows = draw(count, seed)
    mine = encoded(symbols, rows, flat, pieces=3).finish_for_compressai()
    lists = their_lists(gaussian)
    # Its other encoder, RansEncoder, has one word of room a symbol, too little for short streams with escapes.
    buffered = ans.BufferedRansEncoder()
    buffered.encode_with_indexes(symbols.tolist(), rows.tolist(), *lists)
    assert mine == buffered.flush()
    assert ans.RansDecoder().decode_with_indexes(mine, rows.tolist(), *lists) == symbols.tolist()
    decoder = CompressAIDecoder(mine)
    assert np.array_equal(decoder.pop(rows, flat), symbols)
    decoder.finish()


@pytest.mark.parametrize("values", [[0], [1], [-1], [40], [-40], [100_000], [0, 0], [-3, 100_000]])
def test_the_shortest_strings_are_what_compressai_s_decoder_reads(
    gaussian: GaussianConditional, flat: Tables, values: list[int]
) -> None:
    """CompressAI's own encoders corrupt the heap here, so only its decoder is asked."""
    symbols, rows = np.array(values, np.int32), np.full(len(values), 30, np.uint16)
    mine = encoded(symbols, rows, flat).finish_for_compressai()
    assert ans.RansDecoder().decode_with_indexes(mine, rows.tolist(), *their_lists(gaussian)) == values


def test_the_empty_string_of_compressai_is_its_first_state() -> None:
    assert Encoder().finish_for_compressai() == (1 << 31).to_bytes(8, "little")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 100, 20_000])
@pytest.mark.parametrize("pieces", [1, 4])
def test_symbols_come_back_and_never_in_more_bytes(
    gaussian: GaussianConditional, flat: Tables, count: int, pieces: int
) -> None:
    for seed in range(5):
        symbols, rows = draw(count, seed)
        encoder = encoded(symbols, rows, flat, pieces)
        string = encoder.finish()
        assert len(string) <= len(encoder.finish_for_compressai())
        assert np.array_equal(decoded(string, rows, flat, pieces), symbols)


def test_every_length_of_the_state_is_told_from_the_words(flat: Tables) -> None:
    """Strings around the lengths where the first word leaves the state, all lengths from 2 bytes on."""
    lengths = set()
    for count in range(40):
        for seed in range(40):
            symbols, rows = draw(count, seed, low=0.5, high=3.0)
            string = encoded(symbols, rows, flat).finish()
            lengths.add(len(string))
            assert np.array_equal(decoded(string, rows, flat), symbols)
    assert lengths >= set(range(2, 20))


def test_a_string_costs_at_most_four_bytes_beyond_its_symbols(
    gaussian: GaussianConditional, flat: Tables
) -> None:
    excess = []
    for seed in range(100):
        symbols, rows = draw(seed * 7, seed, high=20.0)
        first, size = gaussian.offset.numpy()[rows], gaussian.cdf_length.numpy()[rows] - 2
        inside = (symbols >= first) & (symbols < first + size)
        symbols, rows = symbols[inside], rows[inside]
        numbers = symbols - gaussian.offset.numpy()[rows]
        cdf = gaussian.quantized_cdf.numpy()
        ideal = -np.log2((cdf[rows, numbers + 1] - cdf[rows, numbers]) / 65536).sum()
        excess.append(8 * len(encoded(symbols, rows, flat).finish()) - ideal)
    assert max(excess) <= 32
    # The fingerprint's 16 bits and half a byte of padding on average.
    assert 15 < np.mean(excess) < 22


def test_extreme_symbols(flat: Tables) -> None:
    symbols = np.array([INT32.min, INT32.max, 0, INT32.min + 1, -(1 << 30), 1 << 30] * 3, np.int32)
    for row in (0, 159):
        rows = np.full(symbols.size, row, np.uint16)
        assert np.array_equal(decoded(encoded(symbols, rows, flat).finish(), rows, flat), symbols)


def test_all_zero_costs_next_to_nothing(flat: Tables) -> None:
    zeros, rows = np.zeros(294_912, np.int32), np.zeros(294_912, np.uint16)
    string = encoded(zeros, rows, flat).finish()
    # At the narrowest scale a zero takes log2(65536/65533) bits.
    assert len(string) <= 294_912 * math.log2(65536 / 65533) / 8 + 4
    assert np.array_equal(decoded(string, rows, flat), zeros)


@pytest.mark.parametrize("center", [-1.5, 0.0, 1.5])
def test_calibrated_symbols_cost_their_exact_scales_entropy(center: float) -> None:
    """Within 0.1 % + 64 bits of -log2 of the Gaussian with the exact scale, everything included."""
    rng, count = np.random.default_rng(0), 300_000
    scale = np.exp(rng.normal(center, 1.0, count)).clip(0.11, 256)
    symbols = (rng.normal(size=count) * scale).round()
    model = GaussianConditional(fine_table())
    tables.build(model)
    rows = ScaleIndex()(torch.from_numpy(scale), model.scale_table).numpy().astype(np.uint16)
    bits = 8 * len(encoded(symbols.astype(np.int32), rows, Tables.of(model)).finish())
    distance = np.abs(symbols)
    ideal = -np.log2(norm.cdf((0.5 - distance) / scale) - norm.cdf((-0.5 - distance) / scale)).sum()
    assert bits <= 1.001 * ideal + 64
    coarse = GaussianConditional(None)
    tables.build(coarse)
    up = ScaleIndex("up")(torch.from_numpy(scale), coarse.scale_table)
    assert torch.equal(up.int(), coarse.build_indexes(torch.from_numpy(scale)))
    assert bits < 8 * len(
        encoded(symbols.astype(np.int32), up.numpy().astype(np.uint16), Tables.of(coarse)).finish()
    )


def test_scale_index_is_the_nearest_in_log_scale() -> None:
    table = torch.tensor(fine_table(), dtype=torch.float32)
    scale = torch.logspace(-3, 4, 20_001, dtype=torch.float64)
    levels = table.double()
    nearest = (scale[:, None].log() - levels.log()).abs().argmin(1)
    assert torch.equal(ScaleIndex()(scale, table).long(), nearest)
    borders = (levels[:-1] * levels[1:]).sqrt()
    for shift, offset in ((1 - 1e-12, 0), (1 + 1e-12, 1)):
        assert torch.equal(ScaleIndex()(borders * shift, table).long(), torch.arange(159) + offset)
    odd = torch.tensor([-1.0, 0.0, -math.inf, math.inf], dtype=torch.float64)
    assert ScaleIndex()(odd, table).tolist() == [0, 0, 0, 159]
    assert 0 <= ScaleIndex()(odd[:1] * math.nan, table).item() < 160
    assert ScaleIndex()(scale[:4].reshape(2, 2), table[:1]).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="'nearest' or 'up'"):
        ScaleIndex("down")


def test_tables_of_scales_do_not_depend_on_the_default_dtype() -> None:
    fine, coarse = fine_table(), compressai_table()
    assert torch.equal(coarse, get_scale_table())
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert fine_table() == fine
        assert torch.equal(compressai_table(), coarse)
    finally:
        torch.set_default_dtype(before)


def test_scale_index_follows_its_table() -> None:
    index, table = ScaleIndex(), torch.tensor([1.0, 2.0, 4.0])
    scale = torch.tensor([1.9], dtype=torch.float64)
    assert index(scale, table).item() == 1
    table.mul_(4)
    assert index(scale, table).item() == 0


def test_frequencies_are_as_close_as_16_bits_allow() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 100, 5000):
        p = rng.dirichlet(np.full(count, 0.05)) + 1e-12
        found = tables.frequencies(p)
        assert found.sum() == 65536
        assert found.min() >= 1
        if count <= 100:
            # No single step from one symbol to another makes the code shorter.
            gain = p * np.log2((found + 1) / found)
            loss = np.where(found > 1, p * np.log2(found / np.maximum(found - 1, 1)), np.inf)
            assert gain.max() <= loss.min() + 2e-5
    symmetric = tables.frequencies(np.array([0.2, 0.3, 0.3, 0.2]))
    assert symmetric.sum() == 65536
    assert np.abs(symmetric - symmetric[::-1]).max() <= 1


def test_gaussian_rows_are_the_gaussian_s(gaussian: GaussianConditional) -> None:
    for row in (0, 40, 80, 120):
        scale = gaussian.scale_table[row].item()
        size, first = int(gaussian.cdf_length[row]) - 1, int(gaussian.offset[row])
        mass = np.diff(gaussian.quantized_cdf[row, : size + 1].numpy()) / 65536
        values = np.arange(first, first + size - 1)
        exact = norm.cdf((values + 0.5) / scale) - norm.cdf((values - 0.5) / scale)
        np.testing.assert_allclose(mass[:-1], np.maximum(exact, 2**-16), atol=2**-16, rtol=3e-3)


# -- what is no string ---------------------------------------------------------------------------------------------


def test_truncation_everywhere_is_told(flat: Tables) -> None:
    symbols, rows = draw(60, 3)
    string = encoded(symbols, rows, flat).finish()
    for cut in range(len(string)):
        with pytest.raises(BitstreamError, match="damaged|differ"):
            decoded(string[:cut], rows, flat)
    with pytest.raises(BitstreamError, match="damaged|differ"):
        decoded(string + bytes(4), rows, flat)


def test_flipped_bits_are_told(flat: Tables) -> None:
    symbols, rows = draw(400, 4)
    string = encoded(symbols, rows, flat).finish()
    missed = 0
    for bit in range(8 * len(string)):
        harmed = bytearray(string)
        harmed[bit // 8] ^= 1 << bit % 8
        try:
            decoded(bytes(harmed), rows, flat)
            missed += 1
        except BitstreamError:
            pass
    # 16 bits of fingerprint let 1 in 65535 pass.
    assert missed <= 1


def test_garbage_ends_quickly_and_inside_its_arrays(flat: Tables) -> None:
    rng = np.random.default_rng(0)
    passed = 0
    for trial in range(3000):
        rows = rng.integers(0, 160, rng.integers(0, 300)).astype(np.uint16)
        fill = (rng.bytes, lambda n: b"\xff" * n, lambda n: bytes(n))[trial % 3]
        try:
            decoded(fill(int(rng.integers(0, 400))), rows, flat)
            passed += 1
        except BitstreamError:
            pass
    assert passed <= 2


def test_other_rows_than_the_encoder_s_are_told(flat: Tables) -> None:
    """What a device that computes scales differently would do: one row in 20 000 off by one."""
    symbols, rows = draw(20_000, 5, high=5.0)
    string = encoded(symbols, rows, flat).finish()
    # The first rows are one and the same table: 16 bits cannot tell them apart.
    for at in np.flatnonzero(rows > 10)[::1000]:
        other = rows.copy()
        other[at] += 1
        with pytest.raises(BitstreamError, match="differ from the encoder's|no encoder writes"):
            decoded(string, other, flat)


def test_symbols_that_are_asked_for_in_excess_or_left_over_are_told(flat: Tables) -> None:
    symbols, rows = draw(500, 6)
    string = encoded(symbols, rows, flat).finish()
    for count in (0, 1, 250, 499):
        with pytest.raises(BitstreamError, match="differ"):
            decoded(string, rows[:count], flat)
    with pytest.raises(BitstreamError, match="differ|no encoder writes"):
        decoded(string, np.concatenate([rows, rows]), flat)


def test_a_string_of_compressai_is_checked_too(flat: Tables) -> None:
    symbols, rows = draw(100, 8)
    string = encoded(symbols, rows, flat).finish_for_compressai()
    for wrong in (b"", string[:7], string[:-1]):
        with pytest.raises(BitstreamError, match="8, 12, 16"):
            CompressAIDecoder(wrong)
    decoder = CompressAIDecoder(string)
    decoder.pop(rows[:-1], flat)
    with pytest.raises(BitstreamError, match="other tables"):
        decoder.finish()


def test_rows_beyond_the_tables_are_refused(flat: Tables) -> None:
    rows = np.array([0, 160], np.uint16)
    encoder = Encoder()
    encoder.push(np.zeros(2, np.int32), rows, flat)
    with pytest.raises(ValueError, match="row is 160, but the tables have 160"):
        encoder.finish()
    with pytest.raises(ValueError, match="row is 160, but the tables have 160"):
        Decoder(b"\x01\x02").pop(rows, flat)


def test_damaged_tables_are_refused() -> None:
    model = Factorized(2).eval().entropy_bottleneck
    with pytest.raises(ValueError, match="tables.build"):
        Tables.of(model)
    tables.build(model)
    whole = model._quantized_cdf.clone()
    for position, value in ((3, 70_000), (0, 5), (2, -1)):
        model._quantized_cdf = whole.clone()
        model._quantized_cdf[1, position] = value
        with pytest.raises(ValueError, match="does not ascend"):
            Tables.of(model)
    model._quantized_cdf = whole
    model._cdf_length = model._cdf_length * 0 + 1
    with pytest.raises(ValueError, match="symbols; 2.."):
        Tables.of(model)


def test_flat_tables_follow_their_model() -> None:
    cache, model = TableCache(), Factorized(2).eval().entropy_bottleneck
    tables.build(model)
    first = cache(model)
    assert cache(model) is first
    model._offset.add_(1)
    assert cache(model).offsets[0] == first.offsets[0] + 1


# -- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_codes_each_image_by_itself(flat: Tables) -> None:
    generator = torch.Generator().manual_seed(0)
    y = 3 * torch.randn(4, 6, 5, 7, generator=generator)
    mean = torch.rand(4, 6, 5, 7, generator=generator)
    rows = torch.randint(0, 100, y.shape, generator=generator)
    writer = Writer(4)
    y_hat = writer.code(y, mean, rows, flat)
    torch.testing.assert_close(y_hat, (y - mean).round() + mean)
    strings = writer.finish()
    alone = Writer(1)
    alone.code(y[2:3], mean[2:3], rows[2:3], flat)
    assert alone.finish() == strings[2:3]
    reader = Reader(strings)
    assert torch.equal(reader.code(None, mean, rows, flat), y_hat)
    reader.finish()


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e9])
def test_latents_that_are_no_numbers_are_refused(flat: Tables, value: float) -> None:
    y = torch.zeros(1, 2, 2, 2)
    y[0, 1, 1, 0] = value
    with pytest.raises(ValueError, match="NaN, infinite or beyond"):
        Writer(1).code(y, torch.zeros(()), torch.zeros(y.shape, dtype=torch.int64), flat)


def test_threads_are_as_many_as_torch_may_use() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        barrier = threading.Barrier(2, timeout=20)
        assert in_threads(lambda item: barrier.wait() * 0 + item, range(4)) == [0, 1, 2, 3]
        torch.set_num_threads(1)
        names = in_threads(lambda _: threading.current_thread().name, range(3))
        assert set(names) == {threading.current_thread().name}
    finally:
        torch.set_num_threads(before)


def test_the_coder_works_where_nothing_can_be_cached() -> None:
    """As in a read-only installation without a home: numba then finds no folder for its cache."""
    program = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = caching.CompileResultCacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from models.entropy import rans\n"
        "assert 'Null' in type(rans.fingerprint._cache).__name__, rans.fingerprint._cache\n"
        "print(rans.fingerprint(np.arange(5, dtype=np.int32), np.uint64(0)))"
    )
    here = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert here.returncode == 0, here.stderr
    assert int(here.stdout) == rans.fingerprint(np.arange(5, dtype=np.int32), np.uint64(0))


def test_the_fingerprint_tells_shapes() -> None:
    piece = np.arange(24, dtype=np.int32)
    shapes = [(24,), (4, 6), (6, 4), (2, 3, 4), (1, 4, 6), (24, 1)]
    assert len({int(fingerprint([piece.reshape(shape)])) for shape in shapes}) == len(shapes)


def test_the_fingerprint_tells_values_order_and_length() -> None:
    base = np.arange(-20, 21, dtype=np.int32)
    others = [base[::-1].copy(), base[:-1], np.append(base, np.int32(0)), base + 1]
    for at in range(base.size):
        changed = base.copy()
        changed[at] ^= 1
        others.append(changed)
    for a, b in pairwise(range(0, 40, 3)):
        swapped = base.copy()
        swapped[[a, b]] = swapped[[b, a]]
        others.append(swapped)
    found = {int(fingerprint((piece,))) % 0xFFFF for piece in [base, *others]}
    assert len(found) == len(others) + 1
