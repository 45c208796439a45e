"""codec.py: what a user types, and what becomes of it."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

import codec as command
from files import batch, writing
from files.analysing import decode_for
from files.arguments import MAX_PIXELS as DEFAULT
from files.inputs import InputFile, find
from files.writing import targets
from models import bitstream
from models.pretrained import Pretrained, load, save_pretrained
from models.pretrained.assemble import StoredLabel, assemble
from models.pretrained.construct import construct
from models.pretrained.whole_file import write_whole
from models.transforms.fast import bf16_instructions
from tasks.classification import Classification
from tests.conftest import CONFIGS, component, tiny_codec

ROOT = Path(__file__).parents[1]
CLASSES = tuple(["sea", "street", "forest", "desert", "ice", "lake"])


def model_config() -> dict:
    """A tiny codec, two tasks on latents and one on pixels."""
    tasks = {
        "scene": ("classification_latents", "class", CLASSES, -1),
        "scene_pixels": ("classification_pixels", "class", CLASSES, -1),
        "parts": ("segmentation_latents", "mask", ("sky", "ground", "water"), 255),
    }
    codec = {
        **OmegaConf.to_container(component("codec", "mean_scale_tiny")),
        "width": 8,
        "latent_channels": 12,
    }
    return {
        "name": "tiny",
        "codec": codec,
        "tasks": {name: OmegaConf.to_container(component("task", task[0])) for name, task in tasks.items()},
        "labels": {
            name: {"target": kind, "kind": kind, "names": list(names), "missing": missing}
            for name, (_, kind, names, missing) in tasks.items()
        },
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An exported folder of random weights."""
    config = model_config()
    torch.manual_seed(0)
    codec = construct(config["codec"]).eval()
    codec.g_a[-1].weight.data.mul_(30)
    state = {f"codec.{key}": value for key, value in codec.state_dict().items()}
    for name, node in config["tasks"].items():
        label = config["labels"][name]
        stored = StoredLabel(label["kind"], tuple(label["names"]), label["missing"])
        task = construct(node)(codec.readable, {label["target"]: stored})
        state |= {f"tasks.{name}.{key}": value for key, value in task.state_dict().items()}
    made = Pretrained(
        *assemble(config["codec"], config["tasks"], config["labels"], state), config, Path("nowhere")
    )
    return str(save_pretrained(made, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three pictures: one of them in a folder of its own, and a file that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.png", (70, 90)), ("b.jpg", (48, 40)), ("more/c.webp", (33, 64))):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: object) -> int:
    """The exit status of ``python codec.py ...``."""
    try:
        return command.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_there_and_back(model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("compress", model, photos, "-o", tmp_path / "bif") == 0
    out, err = capsys.readouterr()
    assert tree(tmp_path / "bif") == {"a.bif", "b.bif", "more/c.bif"}
    assert err == "3 files: 3 done\n"
    first = out.splitlines()[0].split()
    data = (tmp_path / "bif/a.bif").read_bytes()
    assert first[:6] == ["a.png", "70", "x", "90", str(len(data)), "bytes"]
    assert float(first[6]) == pytest.approx(8 * len(data) / (70 * 90), abs=1e-4)
    assert first[-1] == str(tmp_path / "bif/a.bif")

    assert run("decompress", model, tmp_path / "bif", "-o", tmp_path / "png") == 0
    assert tree(tmp_path / "png") == {"a.png", "b.png", "more/c.png"}
    codec = load(model).codec
    x = torch.from_numpy(np.array(Image.open(photos / "a.png"))).permute(2, 0, 1)[None].float() / 255
    (expected,) = codec.compress(x)
    assert data == codec.serialise(expected)
    picture = (codec.decompress([expected]).x_hat[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "png/a.png")), picture)


@pytest.mark.parametrize(
    "options", [("--tile", 16), ("--workers", 1), ("--workers", 4), ("--tile", 32, "--workers", 3)]
)
def test_tiles_and_workers_change_no_file(options: tuple, model: str, photos: Path, tmp_path: Path) -> None:
    assert run("compress", model, photos, "-o", tmp_path / "plain") == 0
    assert run("compress", model, photos, "-o", tmp_path / "other", *options) == 0
    for name in tree(tmp_path / "plain"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert run("decompress", model, tmp_path / "plain", "-o", tmp_path / "a") == 0
    assert run("decompress", model, tmp_path / "plain", "-o", tmp_path / "b", *options) == 0
    for name in tree(tmp_path / "a"):
        a, b = (np.asarray(Image.open(tmp_path / side / name)).astype(int) for side in "ab")
        # Sums in another order may fall on the other side of half a level.
        assert np.abs(a - b).max() <= 1
        assert (a != b).mean() < 1e-3


@pytest.mark.parametrize("name", ["jpeg", "webp", "jpeg2000", "avif", "identity"])
def test_standard_codecs_write_plain_files(name: str, photos: Path, tmp_path: Path) -> None:
    suffix = tiny_codec(name).file_suffix
    assert run("compress", name, photos / "a.png", "-o", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == f"a{suffix}"
    assert run("decompress", name, path, "-o", tmp_path / "back") == 0
    with Image.open(tmp_path / "back/a.png") as back, Image.open(photos / "a.png") as original:
        difference = np.abs(np.asarray(back).astype(float) - np.asarray(original)).mean()
        assert back.size == (70, 90)
        assert difference < (1e-9 if name == "identity" else 12)
    if name != "identity":
        with Image.open(path) as plain:
            assert np.array_equal(
                np.asarray(plain.convert("RGB")), np.asarray(Image.open(tmp_path / "back/a.png"))
            )


def test_files_of_fast_and_plain_encoders_are_one_kind(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What bfloat16 wrote, a plain decoder reads; where the processor lacks it, one line says so, and it is float32."""
    assert run("compress", model, photos, "-o", tmp_path / "bif", "--bf16") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "bfloat16 instructions" in line]
    assert len(lines) == (bf16_instructions() is None)
    assert run("decompress", model, tmp_path / "bif", "-o", tmp_path / "png") == 0
    original, decoded = (Image.open(path) for path in (photos / "a.png", tmp_path / "png/a.png"))
    assert decoded.size == original.size


def test_rate_and_target(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = {}
    for rate in (10, 90):
        assert run("compress", "jpeg", photos / "a.png", "-o", tmp_path / str(rate), "--rate", rate) == 0
        sizes[rate] = (tmp_path / str(rate) / "a.jpg").stat().st_size
    assert sizes[10] < sizes[90]
    target = 8 * (sizes[90] + sizes[10]) / 2 / (70 * 90)
    assert run("compress", "jpeg", photos / "a.png", "-o", tmp_path / "t", "--target-bpp", target) == 0
    assert 0.8 * target < 8 * (tmp_path / "t/a.jpg").stat().st_size / (70 * 90) <= target
    capsys.readouterr()
    assert run("compress", "jpeg", photos, "-o", tmp_path / "u", "--target-bpp", 0.001) == 2
    assert "a.png: error: bpp=0.001 cannot be reached" in capsys.readouterr().err


def test_analyze(model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("compress", model, photos, "-o", tmp_path / "bif") == 0
    capsys.readouterr()
    assert run("analyze", model, tmp_path / "bif", "--save-maps", tmp_path / "maps") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [
        str(tmp_path / "bif" / name) for name in ("a.bif", "b.bif", "more/c.bif")
    ]
    data = (tmp_path / "bif/a.bif").read_bytes()
    loaded = load(model)
    bits = loaded.codec.parse(data)
    assert lines[0]["size"] == {"width": 70, "height": 90}
    assert lines[0]["bytes"] == len(data)
    assert lines[0]["bytes_read"] == {"base": len(bits.strings["base"])}
    output = loaded.codec.decompress([bits])
    for name in ("scene", "scene_pixels"):
        logits = loaded.tasks[name].predict(output)[0]
        found = lines[0]["tasks"][name]
        assert found["class"] == CLASSES[int(logits.argmax())]
        assert found["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)
        assert [entry["class"] for entry in found["top5"]] == [
            CLASSES[i] for i in logits.argsort(descending=True)[:5]
        ]
    classes = loaded.tasks["parts"].predict(output)[0].argmax(0).numpy()
    assert lines[0]["tasks"]["parts"]["map"] == str(tmp_path / "maps/a.bif.parts.png")
    with Image.open(tmp_path / "maps/a.bif.parts.png") as drawn:
        assert np.array_equal(np.asarray(drawn), classes)
    shares = lines[0]["tasks"]["parts"]["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares == {
        name: pytest.approx(float((classes == i).mean()), abs=1e-6)
        for i, name in enumerate(("sky", "ground", "water"))
        if (classes == i).any()
    }


def test_analyze_decodes_no_more_than_is_read(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("compress", model, photos / "a.png", "-o", tmp_path) == 0
    calls = []
    plain = torch.nn.Sequential.forward

    def counted(self: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        result = plain(self, x)
        if result.shape[1] == 3 and result.shape[-1] > x.shape[-1]:
            calls.append("g_s")
        return result

    monkeypatch.setattr(torch.nn.Sequential, "forward", counted)
    capsys.readouterr()
    assert run("analyze", model, tmp_path / "a.bif", "--tasks", "scene,parts") == 0
    assert set(json.loads(capsys.readouterr().out)["tasks"]) == {"scene", "parts"}
    assert not calls
    assert run("analyze", model, tmp_path / "a.bif", "--tasks", "scene_pixels") == 0
    assert calls


def test_tasks_decode_only_their_layers() -> None:
    """Of a scalable file, a task on the base layer reads the base layer, also where the others are missing."""
    codec = tiny_codec("two_layers").eval()

    def task(reads: str) -> Classification:
        labels = {"class": StoredLabel("class", ("a", "b"), -1)}
        return Classification(
            codec.readable, labels, reads=reads, target="class", head=lambda specs, num_outputs: nn.Identity()
        )

    on_base, on_detail = task("v_hat"), task("pixels@detail")
    (bits,) = codec.compress(torch.rand(1, 3, 20, 24))
    output = decode_for(codec, [on_base], bits)
    assert set(output.bits) == {"base"}
    assert set(output.latents) == {"v_hat"}
    assert output.x_hat is None

    both = decode_for(codec, [on_base, on_detail], bits)
    assert set(both.bits) == {"base", "detail"}
    assert "detail" in both.pixels_by_layer
    cut = bitstream.unpack(
        codec.serialise(bits)[: -len(bits.strings["preview"]) - 1], codec.layers, codec.model_id()
    )
    assert decode_for(codec, [on_base], cut).latents.keys() == {"v_hat"}
    with pytest.raises(bitstream.BitstreamError, match="lacks the layers detail, which the tasks read"):
        decode_for(codec, [on_detail], cut)


def test_info(model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("compress", model, photos / "a.png", "-o", tmp_path) == 0
    capsys.readouterr()
    data = (tmp_path / "a.bif").read_bytes()
    header = bitstream.read_header(data)
    assert run("info", tmp_path / "a.bif") == 0
    text = capsys.readouterr().out
    for part in (
        f"model id  {header.model_id.hex()}",
        "70 x 90 pixels",
        "one rate",
        "layer 0",
        f"{header.lengths[0]} bytes",
        f"header    {header.num_bytes:>9} bytes",
        f"file      {len(data):>9} bytes",
        "  ok",
    ):
        assert part in text
    assert run("info", tmp_path / "a.bif", "--model", model) == 0
    text = capsys.readouterr().out
    assert "layer base" in text
    assert "= the model's" in text
    (tmp_path / "cut.bif").write_bytes(data[:-1])
    (tmp_path / "bad.bif").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "more.bif").write_bytes(data + b"x")
    for name, words in (
        ("cut", "cut off"),
        ("bad", "damaged"),
        ("more", "1 byte too many after the last layer"),
    ):
        assert run("info", tmp_path / f"{name}.bif") == 2
        assert words in capsys.readouterr().out
    assert run("info", photos / "a.png", tmp_path / "a.bif") == 2
    out, err = capsys.readouterr()
    assert err == f"{photos / 'a.png'}: error: not a .bif file: it does not begin with BIF1\n"
    assert "a.bif: Bifocal file, version 1" in out


def test_upto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    codec = tiny_codec("two_layers").eval()
    monkeypatch.setattr("files.model.open_model", lambda name, **_: Pretrained(codec, {}, {}, Path(name)))
    (bits,) = codec.compress(torch.rand(1, 3, 20, 24))
    data = codec.serialise(bits)
    (tmp_path / "a.bif").write_bytes(data)
    (tmp_path / "cut.bif").write_bytes(data[: -len(bits.strings["preview"]) - 1])
    for upto in ("base", "detail"):
        assert run("decompress", "two", tmp_path / "a.bif", "-o", tmp_path / upto, "--upto", upto) == 0
        expected = (
            codec.decompress([bits], upto=upto).x_hat[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        )
        assert np.array_equal(np.asarray(Image.open(tmp_path / upto / "a.png")), expected)
    capsys.readouterr()
    assert run("decompress", "two", tmp_path / "cut.bif", "-o", tmp_path / "cut") == 0
    assert "(cut off: without detail, preview)" in capsys.readouterr().out
    base = np.asarray(Image.open(tmp_path / "base/a.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cut/cut.png")), base)
    assert run("decompress", "two", tmp_path / "a.bif", "-o", tmp_path / "p", "--upto", "preview") == 2
    assert "the layers preview alone give no picture" in capsys.readouterr().err
    assert run("decompress", "two", tmp_path / "a.bif", "-o", tmp_path / "p", "--upto", "nothing") == 2
    assert "--upto nothing: this codec has the layers base, detail, preview" in capsys.readouterr().err


def test_a_bad_file_keeps_no_other_from_being_done(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "bad.png").write_bytes((photos / "a.png").read_bytes()[:200])
    inputs = (
        photos / "a.png",
        photos / "bad.png",
        photos / "notes.txt",
        photos / "gone.png",
        photos / "b.jpg",
    )
    assert run("compress", model, *inputs, "-o", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert tree(tmp_path / "out") == {"a.bif", "b.bif"}
    assert [line.split()[0] for line in out.splitlines()] == ["a.png", "b.jpg"]
    lines = err.splitlines()
    assert lines[0].startswith(f"{photos / 'bad.png'}: error: damaged picture")
    assert lines[1] == f"{photos / 'notes.txt'}: error: not a picture in a format that is known here"
    assert lines[2] == f"{photos / 'gone.png'}: error: No such file or directory"
    assert lines[3] == "5 files: 2 done, 3 failed"
    assert len(lines) == 4

    whole = (tmp_path / "out/a.bif").read_bytes()
    for number, spoilt in enumerate((whole[:-1], whole + b"x", b"", whole[:40] + b"?" + whole[41:])):
        (tmp_path / "out" / f"bad{number}.bif").write_bytes(spoilt)
    assert run("decompress", model, tmp_path / "out", "-o", tmp_path / "png") == 2
    assert tree(tmp_path / "png") == {"a.png", "b.png"}
    assert capsys.readouterr().err.splitlines()[-1] == "6 files: 2 done, 4 failed"
    assert run("analyze", model, tmp_path / "out", "--tasks", "scene") == 2
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [("error" in result) for result in results] == [False, False, True, True, True, True]
    assert "ends inside its first layer" in results[2]["error"]


def test_full_disks_and_closed_folders_are_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == "a.jpg":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "out"
    assert run("compress", "jpeg", photos / "a.png", photos / "more/c.webp", "-o", out) == 2
    assert tree(out) == {"c.jpg"}
    assert f"a.png: error: {out / 'a.jpg'}: No space left on device\n" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "deep/a.bin", b"one")
    assert (tmp_path / "deep/a.bin").read_bytes() == b"one"
    assert os.stat(tmp_path / "deep/a.bin").st_mode & 0o777 == 0o666 & ~_umask()

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="a.bin"):
        write_whole(tmp_path / "deep/a.bin", b"two")
    assert (tmp_path / "deep/a.bin").read_bytes() == b"one"
    assert tree(tmp_path) == {"deep/a.bin"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_results_that_exist_are_skipped(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.jpg").write_bytes(b"mine")
    assert run("compress", "jpeg", photos / "a.png", photos / "more/c.webp", "-o", tmp_path) == 0
    assert (tmp_path / "a.jpg").read_bytes() == b"mine"
    err = capsys.readouterr().err
    assert f"a.png: skipped: {tmp_path / 'a.jpg'} exists (--overwrite replaces it)" in err
    assert "2 files: 1 done, 1 skipped" in err
    assert run("compress", "jpeg", photos / "a.png", "-o", tmp_path, "--overwrite") == 0
    assert Image.open(tmp_path / "a.jpg").size == (70, 90)


def test_no_input_is_overwritten(photos: Path, capsys: pytest.CaptureFixture) -> None:
    before = (photos / "b.jpg").read_bytes()
    assert run("compress", "jpeg", photos / "b.jpg", "-o", photos, "--overwrite") == 2
    assert "is an input and would be overwritten: give another folder with -o" in capsys.readouterr().err
    assert (photos / "b.jpg").read_bytes() == before


def test_inputs_of_one_name_keep_their_suffix(tmp_path: Path) -> None:
    def named(*names: str) -> list[InputFile]:
        return [InputFile(tmp_path / name, Path(name)) for name in names]

    def outputs(*names: str) -> list[Path]:
        paths, refused = targets(named(*names), Path("o"), ".bif")
        assert not refused
        return paths

    assert outputs("a.png", "b.png") == [Path("o/a.bif"), Path("o/b.bif")]
    assert outputs("a.png", "a.jpg", "b.png") == [Path("o/a.png.bif"), Path("o/a.jpg.bif"), Path("o/b.bif")]
    assert outputs("x.v2.png") == [Path("o/x.v2.bif")]
    assert outputs("x/a.png", "y/a.png") == [Path("o/x/a.bif"), Path("o/y/a.bif")]


@pytest.mark.parametrize("apart", [True, False])
def test_upper_and_lower_case_are_one_name_where_the_file_system_says_so(
    apart: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("x.png", "X.png", "B.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    if apart and len({path.name.lower() for path in photos.iterdir()}) < len(list(photos.iterdir())):
        assert writing._tells_case_apart(tmp_path)
    monkeypatch.setattr(writing, "_tells_case_apart", lambda folder: apart)
    status = run("compress", "jpeg", photos, "-o", tmp_path / "out")
    err = capsys.readouterr().err
    if apart:
        assert status == 0
        assert tree(tmp_path / "out") == {"a.jpg", "b.jpg", "B.jpg", "x.jpg", "X.jpg", "more/c.jpg"}
    else:
        # b.jpg and B.png keep their suffix, x.png and X.png have the same one.
        assert status == 2
        assert tree(tmp_path / "out") == {"a.jpg", "b.jpg.jpg", "B.png.jpg", "more/c.jpg"}
        first, second, count = err.splitlines()
        assert first.startswith(f"{photos / 'X.png'}: error: {photos / 'x.png'} would become")
        assert second.startswith(f"{photos / 'x.png'}: error: {photos / 'X.png'} would become")
        assert count == "6 files: 4 done, 2 failed"


def test_a_collision_concerns_its_own_files(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "more/a.png").write_bytes((photos / "a.png").read_bytes())
    inputs = (photos / "a.png", photos / "b.jpg", photos / "more/a.png")
    assert run("compress", "webp", *inputs, "-o", tmp_path / "out") == 2
    assert tree(tmp_path / "out") == {"b.webp"}
    err = capsys.readouterr().err
    assert err.count("use two calls with two output folders, or rename one of them") == 2
    assert f"{inputs[0]}: error: {inputs[2]} would become {tmp_path / 'out/a.png.webp'} too" in err
    # An input that would be overwritten keeps no other from being done either.
    assert run("compress", "jpeg", photos / "a.png", photos / "b.jpg", "-o", photos) == 2
    assert (photos / "a.jpg").is_file()
    assert f"b.jpg: error: {photos / 'b.jpg'} is an input and would be overwritten" in capsys.readouterr().err


def test_links_are_followed_once(photos: Path, tmp_path: Path) -> None:
    (photos / "more/up").symlink_to("..")
    (photos / "again").symlink_to("more")
    (tmp_path / "photos2").symlink_to("photos")
    assert run("compress", "webp", photos, tmp_path / "photos2", "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == {"a.webp", "b.webp", "more/c.webp"}


def test_what_a_folder_holds_and_is_left_out_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("d.jxl", "more/e.jxl", "f.psd"):
        (photos / name).touch()
    assert run("compress", "webp", photos, "-o", tmp_path) == 0
    assert f"{photos}: left out: 2 .jxl, 1 .psd\n" in capsys.readouterr().err


def test_file_names_are_bytes(model: str, photos: Path, tmp_path: Path) -> None:
    """One that is no UTF-8, and one of two lines; the streams refuse what they cannot encode."""
    for name in (b"caf\xe9.png", b"two\nlines.png", b"b\xe9.jpg"):
        source = "a.png" if name.endswith(b"png") else "b.jpg"
        (photos / os.fsdecode(name)).write_bytes((photos / source).read_bytes())
    (photos / os.fsdecode(b"bad\xff\n.png")).write_bytes(b"?")

    def call(*arguments: object) -> tuple[list[str], list[str]]:
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict") for _ in range(2)]
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            run(*arguments)
            for stream in streams:
                stream.flush()
        return tuple(stream.buffer.getvalue().decode().splitlines() for stream in streams)

    out, err = call("compress", model, photos, "-o", tmp_path / "bif")
    assert err == [
        rf"{photos}/bad\xff\n.png: error: not a picture in a format that is known here",
        "7 files: 6 done, 1 failed",
    ]
    names = ["a.png", "b.jpg", r"b\xe9.jpg", r"caf\xe9.png", "more/c.webp", r"two\nlines.png"]
    assert [line.split()[0] for line in out] == names
    assert {os.fsencode(path.name) for path in (tmp_path / "bif").iterdir()} >= {
        b"caf\xe9.bif",
        b"two\nlines.bif",
    }
    out, err = call("decompress", model, tmp_path / "bif", "-o", tmp_path / "png")
    assert (len(out), err) == (6, ["6 files: 6 done"])
    (tmp_path / "bif" / os.fsdecode(b"bad\xff.bif")).write_bytes(b"?")
    out, err = call("analyze", model, tmp_path / "bif", "--save-maps", tmp_path / "maps", "--tasks", "parts")
    lines = [json.loads(line) for line in out]
    assert [Path(line["file"]).name for line in lines if "error" in line] == [r"bad\xff.bif"]
    assert rf"{tmp_path}/maps/caf\xe9.bif.parts.png" in [
        line["tasks"]["parts"]["map"] for line in lines if "tasks" in line
    ]
    out, err = call("info", tmp_path / "bif")
    assert sum("Bifocal file" in line for line in out) == 6


def test_maps_of_one_name_are_errors(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for folder in ("x", "y"):
        assert run("compress", model, photos / "a.png", "-o", tmp_path / folder) == 0
    files = tmp_path / "x/a.bif", tmp_path / "y/a.bif"
    capsys.readouterr()
    assert run("analyze", model, *files, "--save-maps", tmp_path / "maps") == 2
    assert all("would become" in json.loads(line)["error"] for line in capsys.readouterr().out.splitlines())
    assert not (tmp_path / "maps").exists()


def test_files_are_found_once_each(photos: Path) -> None:
    suffixes = {".png", ".webp", ".jpg"}
    assert [s.name.as_posix() for s in find([str(photos)], suffixes)[0]] == ["a.png", "b.jpg", "more/c.webp"]
    assert [s.name.as_posix() for s in find([str(photos / "*.*g"), str(photos)], suffixes)[0]] == [
        "a.png",
        "b.jpg",
        "more/c.webp",
    ]
    assert [s.name.as_posix() for s in find([str(photos / "**/*.webp")], suffixes)[0]] == ["c.webp"]
    assert [s.name.as_posix() for s in find([str(photos)], suffixes, apart=photos / "more")[0]] == [
        "a.png",
        "b.jpg",
    ]
    assert [s.path for s in find(["gone.png"], suffixes)[0]] == [Path("gone.png")]
    with pytest.raises(ValueError, match="holds no file ending in .bif"):
        find([str(photos)], {".bif"})
    with pytest.raises(ValueError, match=r"nothing matches .*\*.gif"):
        find([str(photos / "*.gif")], suffixes)


def test_an_argument_that_names_nothing_keeps_no_other_from_being_done(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = (photos / "*.gif", tmp_path / "empty", photos / "a.png")
    assert run("compress", model, *arguments, "-o", tmp_path / "out") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.bif"]
    err = capsys.readouterr().err
    assert f"error: nothing matches {photos / '*.gif'}\n" in err
    assert f"error: {tmp_path / 'empty'} holds no file ending in" in err


def test_an_output_that_is_a_file_is_told_once_and_at_once(
    model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").write_text("mine")
    assert run("compress", model, photos, "-o", tmp_path / "out" / "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("out is a file; give a folder for the results")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("compress", "nothing", "a.png", "-o", "o"),
            r"MODEL 'nothing' is no exported model.*\(avif, .*hevc,",
        ),
        (("compress", "mean_scale", "a.png", "-o", "o"), "mean_scale is a codec to train and has no weights"),
        (("compress", "tests", "a.png", "-o", "o"), "tests is neither a run folder"),
        (("analyze", "jpeg", "a.jpg"), "jpeg has no tasks"),
        (
            ("compress", "jpeg", "a.png", "-o", "o", "--rate", 1000),
            r"--rate 1000 is outside this codec's 1..95",
        ),
        (("compress", "jpeg", "a.png", "-o", "o", "--target-bpp", -1), "--target-bpp -1 must be above zero"),
        (("compress", "identity", "a.png", "-o", "o", "--rate", 1), "this codec has one rate"),
        (("compress", "jpeg", "a.png", "-o", "o", "--tile", 64), "JPEG cannot be run in tiles"),
        (("compress", "jpeg", "a.png", "-o", "o", "--tile", 0), "--tile 0 must be at least 1"),
        (("compress", "jpeg", "a.png", "-o", "o", "--workers", 0), "--workers 0 must be at least 1"),
        (
            ("compress", "jpeg", "a.png", "-o", "o", "--background", "blurple"),
            "--background blurple is no colour",
        ),
        (("compress", "jpeg", "a.png", "-o", "o", "--device", "abacus"), "--device abacus: "),
        (("compress", "jpeg", "a.png"), "required: -o/--out"),
        (
            ("compress", "jpeg", "a.png", "-o", "o", "--rate", 3, "--target-bpp", 1),
            "not allowed with argument",
        ),
        (("compres", "jpeg"), "invalid choice: 'compres'"),
        ((), "required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple, message: str, capsys: pytest.CaptureFixture) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert err.startswith("codec.py")


def test_unknown_tasks_are_told(model: str, capsys: pytest.CaptureFixture) -> None:
    assert run("analyze", model, "a.bif", "--tasks", "scene,weather") == 2
    assert (
        "has no trained tasks ['weather']; it has ['parts', 'scene', 'scene_pixels']"
        in capsys.readouterr().err
    )


def test_too_many_pixels(model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("compress", model, photos / "a.png", "-o", tmp_path, "--max-pixels", 6299) == 2
    assert "70 x 90 pixels are more than the limit max_pixels=6299: raise it" in capsys.readouterr().err
    assert run("compress", model, photos / "a.png", "-o", tmp_path, "--max-pixels", 6300) == 0
    for name, path in ((model, tmp_path / "a.bif"), ("jpeg", photos / "b.jpg")):
        assert run("decompress", name, path, "-o", tmp_path / "p", "--max-pixels", 1000) == 2
        assert "pixels, more than the limit of 1000" in capsys.readouterr().err
    assert DEFAULT == bitstream.MAX_PIXELS


def test_background(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "a.png")
    for colour, expected in (("white", 255), ("#000000", 0)):
        out = tmp_path / colour.strip("#")
        assert run("compress", "identity", tmp_path / "a.png", "-o", out, "--background", colour) == 0
        assert (out / "a.bif").read_bytes()[-768:] == bytes([expected] * 768)


def test_interrupts_leave_whole_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    done = []

    def work(index: int) -> str:
        if index == 1:
            raise KeyboardInterrupt
        done.append(index)
        return str(index)

    with pytest.raises(KeyboardInterrupt):
        batch.run([Path(str(i)) for i in range(50)], work, workers=1)
    out, err = capsys.readouterr()
    assert "stopped: finishing the files at work" in err
    assert done[0] == 0
    # Every file that was finished has its line, and the count knows it.
    assert out.split() == [str(index) for index in done]
    assert f"{len(done)} done; {50 - len(done)} not begun" in err


def test_unexpected_errors_of_a_file_are_named(capsys: pytest.CaptureFixture) -> None:
    count = batch.run([Path("a"), Path("b")], lambda index: str(1 // index), workers=1)
    assert (count.done, count.failed, count.status) == (1, 1, 2)
    out, err = capsys.readouterr()
    assert out == "1\n"
    assert err == "a: error: ZeroDivisionError: integer division or modulo by zero\n"


def test_help_does_not_wait_for_torch() -> None:
    script = """
import sys, codec
try:
    codec.main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for word in ("compress", "decompress", "analyze", "info", "Exit status"):
        assert word in shown.stdout


def test_every_standard_codec_is_named_where_a_model_is_missing(capsys: pytest.CaptureFixture) -> None:
    run("compress", "nothing", "a.png", "-o", "o")
    err = capsys.readouterr().err
    for path in CONFIGS.glob("codec/*.yaml"):
        target = component("codec", path.stem)["_target_"]
        assert (path.stem in err) == (".standard." in target or ".identity." in target), path.stem
