"""The star around the plain path: no integer differs here, and where one does, it is counted."""

import copy
import itertools
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import determinism
from benchmarks.determinism import Way, circumstances, figures, photos_of, star, ways
from models.codecs.base import Codec
from models.entropy.exact import Exact
from models.entropy.stream import Reader
from models.threads import threads
from models.transforms.fast import bf16_instructions
from tests.drawn_pictures import as_tensor, drawn
from tests.test_entropy_exact import own, wrapped

MAKERS: dict[str, Callable[[], Codec]] = {
    "own": own,
    "hyperprior": lambda: wrapped("bmshj2018-hyperprior"),
    "elic": lambda: wrapped("elic2022-official"),
    "serial": lambda: wrapped("mbt2018"),
}


def pictures(count: int) -> list[Tensor]:
    return [as_tensor(drawn(64, 128, seed)) for seed in range(count)]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_no_way_changes_a_symbol(name: str) -> None:
    rows = list(star(MAKERS[name], pictures(3), among=ways(compiled=False), name=name))
    assert {"2 threads", "batch 4", "channels_last", "oneDNN off", "accelerated"} < {r["way"] for r in rows}
    for row in rows:
        assert row["differs_in"]
        assert row["photos"] == 3
        assert row["symbols"] > 3 * 12 * 4 * 8
        assert (row["wrong_encoding"], row["wrong_decoding"], row["wrong"]) == (0, 0, 0), row["way"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "serial"])
def test_compiling_changes_no_symbol(name: str) -> None:
    (way,) = (way for way in ways() if way.name == "compile")
    (row,) = star(MAKERS[name], pictures(2), among=[way], name=name)
    assert row["wrong"] == 0


def under(way: Way) -> dict[str, Any]:
    codec = MAKERS["own"]()
    way.prepare(codec)
    with determinism._under(way):
        return circumstances(codec, way.place(torch.rand(way.batch, 3, 64, 128)))


def test_every_way_is_another_than_the_plain_path_and_than_all_others() -> None:
    """One thread is no way of its own: that is the plain path. With bf16 instructions, ten remain without a GPU."""
    names = [way.name for way in ways()]
    plain = Way("plain")
    assert len(names) == 9 + (bf16_instructions() is not None) + torch.cuda.is_available()
    found = {way.name: under(way) for way in (plain, *ways())}
    for a, b in itertools.combinations(found, 2):
        assert found[a] != found[b], f"{a} and {b}"
    assert under(plain) == found["plain"]
    assert under(Way("1 thread", entered=lambda: threads(1))) == found["plain"]


@pytest.mark.parametrize("outside", [1, 2])
def test_the_plain_path_is_on_one_thread_whatever_the_caller_has(outside: int) -> None:
    among = [Way("1 thread", entered=lambda: threads(1)), Way("2 threads", entered=lambda: threads(2))]
    with threads(outside):
        one, two = star(MAKERS["own"], pictures(1), among=among, name="own")
    assert (one["differs_in"], two["differs_in"]) == ([], ["threads"])


def test_pictures_of_the_plain_path_are_in_the_usual_order() -> None:
    """Pictures from files are not; so the way that changes weights and pictures changed weights alone."""
    assert not pictures(1)[0].is_contiguous()
    as_they_are = Way("as they are", place=lambda x: x)
    turned = Way("turned", place=lambda x: x.contiguous(memory_format=torch.channels_last))
    same, other = star(MAKERS["own"], pictures(1), among=[as_they_are, turned], name="own")
    assert (same["differs_in"], other["differs_in"]) == ([], ["memory format"])


def test_ways_are_counted_where_every_codec_went_them_and_they_differ() -> None:
    def row(codec: str, way: str, *differs_in: str, wrong: int = 0) -> dict[str, Any]:
        return {"codec": codec, "way": way, "differs_in": list(differs_in), "wrong": wrong}

    rows = [
        row("a", "2 threads", "threads"),
        row("a", "compile", "compiled", wrong=1),
        row("a", "1 thread"),
        row("b", "2 threads", "threads", wrong=2),
        row("b", "1 thread"),
    ]
    assert figures(rows) == {"determinism_ways": 1, "determinism_codecs": 2, "wrong_photos": 3}


@contextmanager
def other_exact_networks():
    """As a device would that computes h_s differently: scales fall into other rows of the table."""
    original = Exact.__call__
    Exact.__call__ = lambda self, module, *inputs: original(self, module, *inputs) * 1.1
    try:
        yield
    finally:
        Exact.__call__ = original


@pytest.mark.parametrize("batch", [1, 2])
def test_what_differs_is_counted_in_both_directions(batch: int) -> None:
    (row,) = star(
        MAKERS["own"],
        pictures(2),
        among=[Way("other", entered=other_exact_networks, batch=batch)],
        name="own",
    )
    assert (row["wrong_encoding"], row["wrong_decoding"], row["wrong"]) == (2, 2, 2)


def test_one_changed_symbol_is_counted_though_nothing_else_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three photos one has a wrong symbol, in one direction; no fingerprint is asked."""
    monkeypatch.setattr(Reader, "finish", lambda self: None)
    calls = []

    @contextmanager
    def spoilt():
        original = Reader.code

        def code(self, y, mean, rows, tables):
            y_hat = original(self, y, mean, rows, tables)
            calls.append(y_hat)
            if len(calls) == 4:  # y of the second photo
                y_hat = y_hat.clone()
                y_hat.view(-1)[7] += 1
            return y_hat

        monkeypatch.setattr(Reader, "code", code)
        try:
            yield
        finally:
            monkeypatch.setattr(Reader, "code", original)

    (row,) = star(MAKERS["own"], pictures(3), among=[Way("spoilt", entered=spoilt)], name="own")
    assert (row["wrong_encoding"], row["wrong_decoding"], row["wrong"]) == (0, 1, 1)


def test_a_way_leaves_nothing_behind() -> None:
    before = (torch.get_num_threads(), torch.get_default_dtype(), Reader.code, Exact.copy_of)
    codec, way = MAKERS["own"](), next(way for way in ways() if way.name == "compile")
    with way.entered(), determinism._recorded(Reader):
        assert Exact.copy_of is not before[3]
    assert (torch.get_num_threads(), torch.get_default_dtype(), Reader.code, Exact.copy_of) == before
    assert isinstance(copy.deepcopy(codec), Codec)


def test_photos_are_of_one_size(tmp_path) -> None:
    from PIL import Image

    for place, (height, width) in enumerate([(64, 96), (96, 64), (64, 96), (40, 40)]):
        Image.fromarray(drawn(height, width, place)).save(tmp_path / f"{place}.png")
    assert [tuple(p.shape) for p in photos_of(tmp_path, count=2)] == [(1, 3, 64, 96)] * 2
    assert [tuple(p.shape) for p in photos_of(tmp_path, count=3, crop=64)] == [(1, 3, 64, 64)] * 3
    with pytest.raises(ValueError, match="has 2 photos of one size, and 5 are needed"):
        photos_of(tmp_path, count=5)
