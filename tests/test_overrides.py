"""Paths on Hydra's command line: quoted so that they come back as they are, and folders that need no quotes."""

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from launch.overrides import point_name, quoted
from lightning_modules.config_changes import changes

ODD = "a/'\\\"${}[](),=:; #~é\n|.-+%"


def read(override: str) -> object:
    """What Hydra makes of a value, interpolations resolved."""
    return OmegaConf.create({"value": OverridesParser.create().parse_override(override).value()}).value


def test_any_quoted_text_comes_back() -> None:
    draw = random.Random(0)
    texts = [
        "multirun/q/lmbda=0.5",
        "it's",
        "end\\",
        "\\'",
        "${x}",
        "\\${x}",
        "/d/my photos, 2",
        "/home/üser",
    ]
    texts += ["".join(draw.choices(ODD, k=draw.randint(1, 12))) for _ in range(300)]
    assert [read(f"run_dir={quoted(text)}") for text in texts] == texts


def test_points_have_folders_of_their_own() -> None:
    points = [
        ["data.root=/d/a_b"],
        ["data.root=/d/a/b"],
        ["data.root=/d/a%2Fb"],
        ["data.root=/d/a", "b=1"],
        ["data.root='/d/a,b=1'"],
        ["a-b=c"],
        ["a=b-c"],
        ["+a=b-c"],
        ["a=b+c"],
        ["a=b", "c="],
        ["a=b", "c"],
        ["~a"],
        ["~a="],
        *(["root=" + "x" * 300 + end] for end in "ab"),
        [],
    ]
    names = [point_name(overrides) for overrides in points]
    assert len(set(names)) == len(points)
    assert all(1 <= len(name) <= 200 and "/" not in name for name in names)


def test_a_points_folder_says_what_it_is_and_needs_no_quotes() -> None:
    assert point_name(["lmbda=0.0005"]) == "lmbda-0.0005"
    assert point_name(["data.root=/d/caf\udce9"]) == "data.root-%2Fd%2Fcaf%E9"
    assert point_name(["seed=1", "lmbda=0.0005"]) == point_name(["lmbda=0.0005", "seed=1"])
    assert point_name(["codec=jpeg", "data.root=/d/a_b"]) == "codec-jpeg+data.root-%2Fd%2Fa_b"
    for overrides in (["lmbda=5e-4", "+x={a: [1, 'é ~']}"], ["~a"], ["x=" + "{" * 99], []):
        path = f"multirun/quickstart/{point_name(overrides)}"
        assert read(f"resume={path}") == path
        assert read(f"codecs=[{path}, jpeg]") == [path, "jpeg"]


@pytest.mark.parametrize(("before", "now"), [({"a": None, "b": {}}, {}), ({"a": {"b": None}}, {"c": {}})])
def test_what_is_not_there_is_as_good_as_null(before: dict, now: dict) -> None:
    assert changes(before, now) == {}
    assert changes({**before, "x": {"y": 1}, "z": 1}, {**now, "z": 2}) == {"z": (1, 2), "x.y": (1, None)}
