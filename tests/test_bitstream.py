"""The .bif container: its size, and that no damage goes unseen."""

import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import CODECS, SHIPPED, Fuzzer, _processor_seconds, figures, fuzz
from benchmarks.mutations import DAMAGES, FORGERIES, Parts
from models.bitstream import (
    MAX_LAYERS,
    MAX_SIDE,
    BitstreamError,
    layer_states,
    pack,
    read_header,
    unpack,
)
from models.outputs import Bitstream, Layer
from tests.conftest import tiny_codec

ID = b"\x01\x02\x03\x04"
ONE, TWO = (Layer("base"),), (Layer("base"), Layer("detail"))


def small(**changes: object) -> Bitstream:
    values = {"strings": {"base": b"abcdefgh", "detail": b"ijkl"}, "size": (40, 56), "rate": None, **changes}
    return Bitstream(**values)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    strings=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    size=st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)),
    rate=st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_what_is_packed_is_unpacked(strings: list[bytes], size: tuple[int, int], rate: float | None) -> None:
    layers = [Layer(str(i)) for i in range(len(strings))]
    bitstream = Bitstream({layer.name: s for layer, s in zip(layers, strings, strict=True)}, size, rate)
    data = pack(bitstream, ID)
    assert unpack(data, layers, ID, max_pixels=MAX_SIDE**2) == bitstream
    header = read_header(data)
    assert (header.size, header.rate, header.model_id) == (size, rate, ID)
    assert header.lengths == tuple(map(len, strings))
    assert layer_states(data, header) == ["ok"] * len(strings)
    assert header.total == len(data)
    # The contract, and two bytes of each layer's string that check its symbols.
    assert header.num_bytes <= 20 + 6 * len(strings)


def test_the_bytes_are_the_documented_ones() -> None:
    head = b"BIF1" + bytes([1]) + ID + bytes([39, 0xFF, 0x05, 1 | 0x80]) + struct.pack("<f", 2.5) + bytes([3])
    expected = head + struct.pack("<I", zlib.crc32(head + b"xyz")) + b"xyz"
    assert pack(Bitstream({"base": b"xyz"}, (40, 768), 2.5), ID) == expected


@pytest.mark.parametrize("sides", [(128, 128), (512, 768), (16384, 16384), (MAX_SIDE, MAX_SIDE)])
@pytest.mark.parametrize("rate", [None, 30.0])
@pytest.mark.parametrize("length", [100, 20_000, (1 << 21) - 1])
def test_overhead_keeps_the_contract(sides: tuple[int, int], rate: float | None, length: int) -> None:
    for count in (1, 2, 3):
        strings = {str(i): bytes(length) for i in range(count)}
        overhead = len(pack(Bitstream(strings, sides, rate), ID)) - count * length
        assert overhead <= 20 + 8 * count
        if max(sides) <= 16384 and rate is None:
            # Even with the coder's symbol check of two bytes, which lies within each string.
            assert overhead + 2 * count <= 20 + 8 * count


def test_every_cut_of_one_layer_is_an_error() -> None:
    data = pack(small(strings={"base": b"abcdefgh"}), ID)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError, match="cut off|ends inside its first layer"):
            unpack(data[:cut], ONE, ID)


def test_a_cut_behind_a_whole_layer_gives_that_layer() -> None:
    data = pack(small(), ID)
    for cut in range(len(data)):
        if cut < len(data) - 4:
            with pytest.raises(BitstreamError):
                unpack(data[:cut], TWO, ID)
        else:
            assert unpack(data[:cut], TWO, ID) == small(strings={"base": b"abcdefgh"})
    assert layer_states(data[:-1], read_header(data)) == ["ok", "cut off"]


def test_every_flipped_bit_is_an_error() -> None:
    for bitstream in (small(), small(rate=7.0)):
        data = pack(bitstream, ID)
        for position in range(8 * len(data)):
            spoilt = bytearray(data)
            spoilt[position // 8] ^= 1 << position % 8
            with pytest.raises(BitstreamError):
                unpack(bytes(spoilt), TWO, ID)


def test_every_other_byte_is_an_error() -> None:
    data = pack(small(), ID)
    for position in range(len(data)):
        for value in {0, 1, 127, 128, 255} - {data[position]}:
            with pytest.raises(BitstreamError):
                unpack(data[:position] + bytes([value]) + data[position + 1 :], TWO, ID)


def test_layers_of_two_files_do_not_mix() -> None:
    """Same size, same lengths: only that a checksum covers the ones before tells them apart."""
    first, second = (
        pack(small(strings={"base": b, "detail": b[:4]}), ID) for b in (b"abcdefgh", b"ABCDEFGH")
    )
    checksums = len(first) - 12 - 8
    for own_first in (True, False):
        a, b = (first, second) if own_first else (second, first)
        mixed = a[: checksums + 4] + b[checksums + 4 : checksums + 8] + a[-12:-4] + b[-4:]
        with pytest.raises(BitstreamError, match="'detail' is damaged"):
            unpack(mixed, TWO, ID)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .bif file.*cut off"),
        (b"BIF", "not a .bif file.*cut off"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a .bif file: it does not begin with BIF1$"),
        (b"BIF1" + bytes([2]) + bytes(40), "version 2 is not supported.*reads version 1"),
        (pack(small(), ID) + b"\n", "1 byte too many after the last layer"),
        (pack(small(), b"abcd"), "another codec or with other weights.*61626364.*01020304"),
        (pack(small(strings={"base": b""}), ID), "the file has 1 layer, the codec 2"),
    ],
)
def test_foreign_files_are_told(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message) as caught:
        unpack(data, TWO, ID)
    assert "\n" not in str(caught.value)


def test_forged_headers_are_told_before_anything_is_allocated() -> None:
    parts = Parts.of(pack(small(), ID))
    forged = {
        "outside 1..65536": {"sides": (MAX_SIDE, 9)},
        "too long": {"sides": (2**36, 9)},
        "limit of 134217728": {"sides": (MAX_SIDE - 1, MAX_SIDE - 1)},
        "rate is nan": {"rate": float("nan")},
        "rate is inf": {"rate": float("inf")},
        "announces no layer": {"count": 0},
        "ends inside its first layer": {"lengths": (2**35 - 1, 4)},
        "too many after the last layer": {"lengths": (8, 3)},
    }
    for message, changes in forged.items():
        with pytest.raises(BitstreamError, match=message):
            unpack(Parts(**{**vars(parts), **changes}).sealed(), TWO, ID)
    longer = parts.sealed().replace(bytes([39]), bytes([39 | 128, 0]), 1)
    with pytest.raises(BitstreamError, match="longer than it needs to be"):
        unpack(longer, TWO, ID)


def test_a_caller_may_raise_the_pixel_limit() -> None:
    data = pack(small(size=(20_000, 10_000)), ID)
    with pytest.raises(BitstreamError, match="10000 x 20000 pixels, more than the limit of 134217728"):
        unpack(data, TWO, ID)
    assert unpack(data, TWO, ID, max_pixels=2 * 10**8).size == (20_000, 10_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 5)}, r"image size 5x0 \(width x height\) is outside 1..65536"),
        ({"size": (5, MAX_SIDE + 1)}, "outside"),
        ({"strings": {}}, "1..127 layers, not 0"),
        ({"strings": {str(i): b"" for i in range(MAX_LAYERS + 1)}}, "1..127 layers, not 128"),
        ({"rate": float("nan")}, "rate=nan must be a finite number"),
    ],
)
def test_what_no_file_can_hold_is_not_written(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(small(**changes), ID)


def test_a_file_of_a_rate_that_the_codec_does_not_know_is_refused() -> None:
    codec = tiny_codec("mean_scale_tiny").eval()
    (bitstream,) = codec.compress(torch.rand(1, 3, 24, 24))
    data = pack(Bitstream(bitstream.strings, bitstream.size, 3.0), codec.model_id())
    with pytest.raises(BitstreamError, match="does not know rate 3.0"):
        codec.parse(data)


@pytest.fixture(scope="module", params=list(CODECS))
def fuzzer(request: pytest.FixtureRequest) -> Fuzzer:
    # Of the trained codec, smaller pictures than the benchmark's: a decode takes a hundredth of a second.
    sizes = ((128, 192), (128, 192), (64, 96)) if request.param == SHIPPED.name else None
    return Fuzzer(request.param, sizes=sizes)


def test_cut_anywhere_gives_no_picture_of_its_own(fuzzer: Fuzzer) -> None:
    """Through the whole decoder: an error, or what the layers before the cut give in a whole file."""
    data = fuzzer.files[-1]
    pictures = 0
    for cut in range(len(data)):
        try:
            bitstream = fuzzer.codec.parse(data[:cut])
        except BitstreamError:
            continue
        pictures += 1
        assert len(fuzzer.codec.layers) > 1
        whole = fuzzer.codec.parse(data)
        assert all(bitstream.strings[name] == whole.strings[name] for name in bitstream.strings)
    assert (pictures > 0) == (len(fuzzer.codec.layers) > 1)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(number=st.integers(0, 2**62))
def test_mutated_files_give_an_error_or_the_same_picture(fuzzer: Fuzzer, number: int) -> None:
    mutation, outcome, details = fuzzer.try_file(number)
    assert outcome in ("error", "same"), f"{mutation}: {details}"


@pytest.mark.parametrize("mutation", [*DAMAGES, *FORGERIES], ids=lambda m: m.__name__)
def test_every_mutation_changes_files(mutation, fuzzer: Fuzzer) -> None:
    rng = np.random.default_rng(0)
    made = [mutation(rng, fuzzer.files) for _ in range(40)]
    assert sum(data not in fuzzer.files for data in made) >= 20


def test_the_fuzzer_sees_a_decoder_that_believes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither the container's checksums nor the coder's check of its symbols, damage gives pictures."""
    fuzzer = Fuzzer("hyperprior")
    monkeypatch.setattr("models.bitstream._checksum", lambda before, string: 0)
    monkeypatch.setattr("models.entropy.stream.Reader.finish", lambda self: None)
    forged = [Bitstream({"base": Parts.of(data).strings[0]}, (40, 56)) for data in fuzzer.files]
    fuzzer.files = [pack(bitstream, fuzzer.codec.model_id()) for bitstream in forged]
    assert "failure" in {fuzzer.try_file(number)[1] for number in range(60)}


@pytest.mark.slow
def test_fuzzing_in_a_process_of_its_own() -> None:
    row = fuzz("three_layers", files=100, seconds=120)
    assert row["files"] == 100 == row["error"] + row["same"]
    assert (len(row["bytes"]), row["pictures"]) == (3, ((40, 56), (40, 56), (16, 24)))
    known = figures([row, {**row, "trained": True, "files": 7, "failure": 1}])
    assert known == {"fuzz_codecs": 2, "fuzz_files": 107, "fuzz_files_trained": 7, "fuzz_failures": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="counts a process's own seconds on Linux alone")
def test_a_process_that_waits_does_not_hang() -> None:
    """On a machine that is busy with other things, the clock says little about a decoder."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as idle:
        time.sleep(0.5)
        before = _processor_seconds(idle.pid)
        time.sleep(0.5)
        assert _processor_seconds(idle.pid) - before < 0.3
    begun = _processor_seconds(os.getpid())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert _processor_seconds(os.getpid()) - begun > 0.1


def test_the_shipped_codec_is_fuzzed_on_files_like_a_photo_s() -> None:
    """Half a megapixel at about half a bit a pixel: strings whose lengths take three bytes."""
    fuzzer = Fuzzer(SHIPPED.name)
    assert CODECS[SHIPPED.name].trained
    assert fuzzer.codec.model_id().hex() == "2f2064e1"
    assert CODECS[SHIPPED.name].sizes[-1] == (512, 768)
    bpp = 8 * len(fuzzer.files[-1]) / (512 * 768)
    assert 0.3 < bpp < 0.8
    assert len(fuzzer.files[-1]) > 1 << 14


def test_three_layers_decode_as_far_as_they_are_there() -> None:
    fuzzer = Fuzzer("three_layers")
    codec, whole = fuzzer.codec, fuzzer.codec.parse(fuzzer.files[0])
    every = codec.decompress([whole])
    assert [(y.shape[-2:], y.any().item()) for y in every.latents.values()] == [
        ((3, 4), True),
        ((6, 8), True),
        ((12, 16), True),
    ]
    for count, layer in enumerate(codec.layers, 1):
        part = codec.decompress([whole], upto=layer.name)
        assert list(part.latents) == [other.name for other in codec.layers[:count]]
        assert torch.equal(part.x_hat, every.pixels_by_layer[layer.name])
