"""evaluate.py as a user calls it: runs, sweeps, standard codecs, foreign heads, and what goes wrong."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from PIL import Image

import evaluate
from evaluation.sources import points_of
from launch.errors import UserError
from lightning_modules.compression import CompressionSystem
from models.codecs.identity import Identity
from models.codecs.standard.base import MissingEncoder
from models.codecs.standard.pillow import JPEG, WebP
from models.pretrained import load
from tests.tiny_run import train_small

PORTRAITS = ("data=portraits", "data.size=32", "data.num_train=16", "data.num_val=4", "data.num_test=6")
QUICK = ("timed_images=1", "bootstrap=30", "complexity=false", "gallery=0", "workers=2")


def run(out: Path, *overrides: str) -> dict:
    config = compose("evaluate", overrides=[*QUICK, *overrides, f"out={out}"])
    return evaluate.run(config, "python evaluate.py")


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> Path:
    return train_small(tmp_path_factory.mktemp("run") / "a")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "mine"
    for lmbda in (0.002, 0.05):
        train_small(folder / f"lmbda={lmbda}", f"lmbda={lmbda}")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, shape in (("a", (40, 52, 3)), ("b", (33, 47, 3))):
        coarse = generator.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(shape[1::-1], Image.Resampling.BICUBIC)
        image.save(folder / f"{name}.png")
    return folder


def test_a_run_gets_the_figures_of_its_own_test(a_run, tmp_path):
    results = run(
        tmp_path, *PORTRAITS, f"codecs=[{a_run}, jpeg]", "rates={jpeg: [20]}", f"tasks=[{{heads: {a_run}}}]"
    )
    summary = json.loads((a_run / "summary.json").read_text())["test"]["rows"]
    trained, jpeg = summary[-2], summary[-1]
    rows = {(row["codec"], row["task_head"]): row for row in results["rows"]}
    for mine, theirs in ((rows["quickstart", "own"], trained), (rows["jpeg", "heads"], jpeg)):
        for key in ("bpp", "bpp_payload", "psnr", "bpp_estimated"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4), key
        assert mine["tasks"] == pytest.approx(theirs["tasks"], rel=1e-4)
    assert rows["quickstart", "own"]["encode_seconds"] > 0
    assert rows["jpeg", "heads"]["encoder"]["versions"]


def test_what_is_left_out_is_noted(photos, tmp_path):
    notes = run(
        tmp_path / "out", "codecs=[jpeg]", "rates={jpeg: [20]}", f"data.root={photos}", "num_images=8"
    )["notes"]
    assert notes == [
        "intervals are too narrow: they are over 2 images alone",
        "num_images=8, and split test has 2 images: data=test_folder takes a whole folder",
        "MS-SSIM is left out: it has no value for 2 small images, first a.png",
    ]


def test_runs_that_make_no_curve_are_noted(a_run, tmp_path):
    _, _, notes = points_of([str(a_run)], [], labels={}, rates={})
    assert not [note for note in notes if "no curve" in note]
    shutil.copytree(a_run, tmp_path / "mine" / "one")
    shutil.copytree(a_run, tmp_path / "mine" / "other")
    points, _, notes = points_of([str(tmp_path / "mine")], [], labels={}, rates={})
    assert len(points) == 2
    assert [note for note in notes if note.startswith("mine: 2 runs have rate") and "no curve" in note]


@pytest.mark.slow
def test_files_are_those_of_the_contract(a_run, tmp_path, photos):
    command = ("codecs=[webp, jpeg]", "rates={webp: [10, 80], jpeg: [10, 80]}", f"data.root={photos}")
    results = run(tmp_path / "out", *command, "gallery=1", "complexity=true")
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert {"dataset", "split", "num_images", "rows", "environment"} <= results.keys()
    contract = {
        "codec",
        "rate",
        "seed",
        "bpp",
        "bpp_payload",
        "header_bytes",
        "bpp_estimated",
        "bpp_by_layer",
    }
    contract |= {"psnr", "ms_ssim", "tasks", "task_head", "encode_seconds", "decode_seconds", "command"}
    assert all(contract <= row.keys() for row in results["rows"])
    bd = json.loads((out / "bd.json").read_text())
    assert bd["anchor"] == "webp"
    keys = {"codec", "metric", "bd_rate_percent", "ci95", "bd_metric", "overlap", "num_images", "method"}
    assert bd["rows"]
    assert all(keys <= row.keys() for row in bd["rows"])
    with (out / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4
    # The rate of a file on disk, counted by hand.
    image = np.asarray(Image.open(photos / "a.png"))
    (row,) = (r for r in rows if r["image"] == "a.png" and r["codec"] == "webp" and r["rate"] == "10.0")
    assert float(row["bpp"]) == pytest.approx(8 * len(WebP().encode(image, 10)) / (40 * 52))
    page = (out / "report.html").read_text()
    assert "python evaluate.py" in page
    assert (out / "figures" / "rd_psnr.png").stat().st_size > 1000
    (costs,) = (c for c in results["complexity"] if c["codec"] == "jpeg")
    assert costs["peak_memory_mb"] > 0


def test_file_names_are_bytes(tmp_path, capsys):
    """One that is no UTF-8 and one of two lines are images like others; loops of links count nothing twice."""
    folder = tmp_path / os.fsdecode(b"fotos\xe9")
    folder.mkdir()
    for number, name in enumerate((b"caf\xe9.png", b"two\nlines.png", b"bad\xff.png")):
        pixels = np.full((24, 24, 3), 80 * number, np.uint8)
        Image.fromarray(pixels).save(folder / os.fsdecode(name))
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"?")
    (folder / "up").symlink_to(".")
    (folder / "more.jxl").touch()
    config = compose("evaluate", overrides=[*QUICK, "codecs=[jpeg]", "rates={jpeg: [50]}"])
    config.data.root, config.out, config.gallery = str(folder), str(tmp_path / "out"), 2
    results = evaluate.run(config, f"python evaluate.py data.root={folder}")
    assert results["num_images"] == 2
    assert results["dataset"] == r"fotos\xe9"
    assert [entry["image"] for entry in results["excluded_images"]] == [r"bad\xff.png"]
    out, err = capsys.readouterr()
    assert (out + err).encode()
    assert err.count("left out: 1 .jxl, 1 links to what is found already") == 1
    with (tmp_path / "out/per_image.csv").open(encoding="utf-8", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {r"caf\xe9.png", r"two\nlines.png"}
    assert r"caf\\xe9.png" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_a_sweep_is_one_curve(sweep, tmp_path):
    rates = "[5, 20, 50, 80]"
    command = (
        f"codecs=[{sweep}, {{other: {sweep}}}, {{one: jpeg}}, {{two: jpeg}}]",
        f"rates={{one: {rates}, two: {rates}}}",
        "anchors=[mine, one]",
    )
    results = run(tmp_path, *PORTRAITS, *command)
    rows = [row for row in results["rows"] if row["codec"] == "mine"]
    assert [row["rate"] for row in rows] == [0.002, 0.05]
    assert [row["task_head"] for row in rows] == ["own", "own"]
    # Hardly trained, two points may have no common range: a curve with itself is then null, never a made-up number.
    bd = json.loads((tmp_path / "bd.json").read_text())["rows"]
    assert {(row["codec"], row["anchor"]) for row in bd} >= {("other", "mine"), ("two", "one")}
    for row in (r for r in bd if (r["codec"], r["anchor"]) == ("other", "mine")):
        assert (row["bd_rate_percent"] is None) == bool(row["reason"])
        assert (row["bd_rate_percent"] or 0) == pytest.approx(0, abs=1e-6)
    # JPEG has one: with itself it is nothing, and the numbers are there.
    of_jpeg = [r for r in bd if (r["codec"], r["anchor"], r["metric"]) == ("two", "one", "psnr")]
    assert [row["rate_axis"] for row in of_jpeg] == ["bpp", "bpp_payload"]
    for row in of_jpeg:
        assert row["bd_rate_percent"] == pytest.approx(0, abs=1e-6)
        assert row["ci95"] == pytest.approx([0, 0], abs=1e-6)
        assert row["overlap"] == pytest.approx(1)


def test_own_heads_are_left_out_where_the_data_has_no_labels(a_run, tmp_path, photos):
    results = run(tmp_path / "out", f"codecs=[{a_run}]", f"data.root={photos}")
    assert results["rows"][0]["tasks"] == {}
    assert any("'identity' is left out" in note for note in results["notes"])


def test_a_head_of_another_run_judges_every_codec(a_run, sweep, tmp_path):
    other = sweep / "lmbda=0.05"
    results = run(
        tmp_path, *PORTRAITS, f"codecs=[{a_run}, identity]", f"tasks=[{{unseen: '{other}:parsing'}}]"
    )
    by_head = {(row["codec"], row["task_head"]): row for row in results["rows"]}
    assert set(by_head) == {("quickstart", "own"), ("quickstart", "unseen"), ("identity", "unseen")}
    unseen = by_head["quickstart", "unseen"]
    assert {"parsing/miou", "parsing/bpp"} <= unseen["tasks"].keys()
    assert unseen["tasks"]["parsing/bpp"] == pytest.approx(unseen["bpp"])
    assert any(row["codec"] == "quickstart" for row in results["within_one_point"])


def test_uncompressed_pictures_may_have_any_name(a_run, tmp_path):
    """Bound, BD-rates, default anchor and gallery ask the codec, not what the user calls it."""
    found = {}
    for name, entry in (("identity", "identity"), ("originals", "{originals: identity}")):
        command = (
            f"codecs=[{entry}, jpeg, {a_run}]",
            "rates={jpeg: [10, 80]}",
            f"tasks=[{{unseen: '{a_run}:parsing'}}]",
        )
        shared = (f"cache={tmp_path / 'cache'}", "gallery=1")
        results = run(tmp_path / name, *PORTRAITS, *command, *shared)
        assert {row["codec"] for row in results["rows"] if row["uncompressed"]} == {name}
        assert {row["codec"] for row in results["within_one_point"]} == {"jpeg", "quickstart"}
        assert {row["bound"] for row in results["within_one_point"]} > {None}
        bd = json.loads((tmp_path / name / "bd.json").read_text())
        assert bd["anchor"] == "jpeg"
        page = (tmp_path / name / "report.html").read_text()
        gallery = json.loads(page.partition('id="gallery-data">')[2].partition("</script>")[0])
        shown = [view["codec"] for view in gallery[0]["views"]]
        assert shown == ["original", "jpeg", "quickstart"]
        looks = json.loads(page.partition('id="page-data">')[2].partition("</script>")[0])["looks"]
        found[name] = results["within_one_point"], bd, looks.pop(name), looks
    assert found["identity"] == found["originals"]


def test_the_learned_rate_is_that_of_its_files_on_disk(a_run, tmp_path):
    """An independent count: the loaded model, one image, one file, NumPy."""
    results = run(tmp_path, *PORTRAITS, f"codecs=[{a_run}]")
    codec = load(a_run).codec
    data = compose("evaluate", overrides=[*PORTRAITS, "codecs=[]", "out=x"]).data
    source = instantiate(data).split("test")
    bits, quality = [], []
    for index in range(len(source)):
        image = source.read(index)["image"]
        path = tmp_path / "image.bif"
        path.write_bytes(codec.serialise(codec.compress(image[None].float() / 255)[0]))
        decoded = codec.decompress([codec.parse(path.read_bytes())]).x_hat[0]
        decoded = np.round(decoded.numpy() * 255)
        bits.append(8 * path.stat().st_size / (32 * 32))
        quality.append(10 * np.log10(255**2 / np.mean((decoded - image.numpy().astype(float)) ** 2)))
    assert results["rows"][0]["bpp"] == pytest.approx(np.mean(bits), abs=1e-12)
    assert results["rows"][0]["psnr"] == pytest.approx(np.mean(quality), abs=1e-5)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_missing_encoder_skips_its_rows(tmp_path, photos, monkeypatch, capsys):
    def missing(self):
        raise MissingEncoder("WebP needs something: pip install something")

    monkeypatch.setattr(WebP, "check_available", missing)
    command = ("codecs=[webp, jpeg]", "rates={jpeg: [10, 80]}", f"data.root={photos}", "anchors=[webp, jpeg]")
    results = run(tmp_path / "out", *command)
    assert {row["codec"] for row in results["rows"]} == {"jpeg"}
    assert results["skipped"] == [{"codec": "webp", "reason": "WebP needs something: pip install something"}]
    printed = capsys.readouterr()
    assert "skipped: webp: WebP needs something" in printed.err
    assert "2 images, 1 skipped" in printed.out
    assert "WebP needs something" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(UserError, match="no codec can be evaluated: WebP needs something"):
        run(tmp_path / "none", "codecs=[webp]", f"data.root={photos}")


def test_a_corrupt_image_is_named_and_left_out_for_every_codec(tmp_path, photos, capsys):
    whole = (photos / "b.png").read_bytes()
    (photos / "c.png").write_bytes(whole[: len(whole) // 2])
    command = ("codecs=[webp, jpeg]", "rates={webp: [30], jpeg: [30]}", f"data.root={photos}")
    results = run(tmp_path / "out", *command)
    assert results["num_images"] == 2
    assert [row["num_images"] for row in results["rows"]] == [2, 2]
    assert [e["image"] for e in results["excluded_images"]] == ["c.png"]
    assert "excluded: c.png: " in capsys.readouterr().err


def test_an_image_that_one_codec_cannot_code_is_named_and_left_out_for_every_codec(tmp_path, photos, capsys):
    Image.fromarray(np.full((1, 20000, 3), 90, np.uint8)).save(photos / "long.png")
    command = ("codecs=[webp, jpeg, hevc]", "rates={webp: [30, 60], jpeg: [30], hevc: [40]}")
    results = run(tmp_path / "out", *command, f"data.root={photos}")
    assert [row["codec"] for row in results["rows"]] == ["webp", "webp", "jpeg", "hevc"]
    assert [row["num_images"] for row in results["rows"]] == [2, 2, 2, 2]
    assert results["skipped"] == []
    (excluded,) = results["excluded_images"]
    assert excluded["image"] == "long.png"
    assert excluded["reason"].startswith(
        "webp: image size 20000x1 (width x height): WebP takes sides of at most 16383 pixels"
    )
    printed = capsys.readouterr()
    assert "excluded: long.png: webp: image size 20000x1" in printed.err
    assert "2 images, 1 excluded" in printed.out


def test_a_checkpoint_of_another_version_says_so(a_run, tmp_path):
    path = tmp_path / "old.ckpt"
    content = torch.load(a_run / "stages" / "03-joint" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "config"}, path)
    with pytest.raises(UserError, match="is a checkpoint of another project or version"):
        run(tmp_path / "out", *PORTRAITS, f"codecs=[{path}]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["codecs=[]"], "codecs is empty"),
        (["codecs=[jpg]"], "codecs: jpg is no path and no codec of configs/codec; there are .*'jpeg'"),
        (["codecs=[mean_scale]"], "mean_scale is a learned codec, here untrained: give the folder of a run"),
        (["codecs=[jpeg, jpeg]"], "codecs: two are called 'jpeg'"),
        (["codecs=[jpeg]", "rates={jpeg: [101]}"], "rates.jpeg holds \\[101\\], must be within 1..95"),
        (
            ["codecs=[jpeg]", "rates={webp: [10]}"],
            "rates names \\['webp'\\], which are no codecs of this call",
        ),
        (["codecs=[jpeg]", "anchors=[hevc]"], "anchors names \\['hevc'\\]"),
        (["codecs=[jpeg]", "scales=[2]"], "scales holds \\[2\\]"),
        (["codecs=[jpeg]", "bootstrap=0"], "bootstrap=0 must be at least 1"),
        (["codecs=[jpeg]", "metrics=[vmaf]"], "metrics is \\['vmaf'\\]"),
        (["codecs=[jpeg]", "tasks=[nowhere:head]"], "there is no nowhere:head"),
        (["codecs=[jpeg]", "device=tpu"], "device=tpu"),
        (["codecs=[jpeg]", "split=tset"], "split is 'tset'"),
        (["codecs=[{a: jpeg, b: webp}]"], "codecs holds {.*}: each entry must be a name or a path"),
    ],
)
def test_mistakes_are_one_line(overrides, message, tmp_path, photos):
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "out", f"data.root={photos}", *overrides)
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_fit_the_labels(a_run, tmp_path, photos):
    with pytest.raises(UserError, match="cannot be judged on this data set: it needs the label 'identity'"):
        run(tmp_path / "out", "codecs=[jpeg]", f"tasks=[{a_run}:identity]", f"data.root={photos}")
    with pytest.raises(UserError, match=r"learned class of .* the data set has"):
        run(
            tmp_path / "out",
            *PORTRAITS,
            "data.num_identities=3",
            "codecs=[jpeg]",
            f"tasks=[{a_run}:identity]",
        )


def test_an_unfinished_run_is_no_codec_yet(a_run, tmp_path):
    shutil.copytree(a_run, tmp_path / "run")
    for path in (tmp_path / "run").rglob("stage.json"):
        path.unlink()
    with pytest.raises(UserError, match="has no finished stage yet"):
        run(tmp_path / "out", *PORTRAITS, f"codecs=[{tmp_path / 'run'}]")


# -- heads fine-tuned on decodes ---------------------------------------------------------------------------------------


def test_heads_learn_on_all_rates_of_a_standard_codec(tmp_path):
    """One rate a batch, keyed by (seed, step): every rate is met, and any process draws the same."""
    codec = JPEG()
    drawn = [CompressionSystem(codec, {}, seed=3).training_rate(step) for step in range(100)]
    assert drawn == [CompressionSystem(codec, {}, seed=3).training_rate(step) for step in range(100)]
    assert set(drawn) == set(codec.rates)
    assert drawn != [CompressionSystem(codec, {}, seed=4).training_rate(step) for step in range(100)]
    assert CompressionSystem(Identity(), {}).training_rate(0) is None


def test_a_continuous_rate_is_drawn_over_its_whole_range():
    codec = JPEG()
    codec.rates, codec.continuous = (10.0, 50.0), True
    drawn = [CompressionSystem(codec, {}, seed=3).training_rate(step) for step in range(400)]
    assert len(set(drawn)) == 400
    counts, _ = np.histogram(drawn, bins=8, range=(10, 50))
    assert counts.sum() == 400
    # Fifty each, give or take four standard deviations.
    assert counts.min() > 23
    assert counts.max() < 77


def test_a_folder_of_which_nothing_can_be_read(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_text("no picture")
    with pytest.raises(UserError, match="none of 1 image can be read, first: .*a.png: not a picture"):
        run(tmp_path / "out", "codecs=[jpeg]", f"data.root={tmp_path / 'data'}")


def test_what_must_be_given(tmp_path):
    with pytest.raises(UserError, match="codecs is missing: give codecs=VALUE"):
        evaluate.run(compose("evaluate"), "python evaluate.py")
