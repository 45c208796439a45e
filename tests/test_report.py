"""The report: what the page holds, that it needs nobody, and that no name can break it."""

import base64
import copy
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.report.figures import decibel, figures_of, file_name
from evaluation.report.gallery import GalleryImage, View, data_uri, embed
from evaluation.report.palette import FIXED, MARKERS, OTHERS, UNCOMPRESSED, dashes, looks
from evaluation.report.plots import draw
from evaluation.report.report import write_report
from evaluation.report.tables import bd_table, bound_table, complexity_table, number, points_table

EVIL = "<script>alert('1')</script>&\"</script>"
HEADS = ("own", "resnet18@originals")


def row(codec: str, rate: float | None, bpp: float, head: str | None, **more: Any) -> dict[str, Any]:
    tasks = {} if head is None else {"class/top1": min(0.9, 0.5 + bpp / 4), "class/bpp": bpp}
    psnr = 30 + 3 * math.log2(bpp)
    values = {"bpp": bpp, "psnr": psnr, "ms_ssim": 0.97, **tasks}
    return {
        "codec": codec, "rate": rate, "seed": 0, "scale": 1, "bpp": bpp, "bpp_payload": bpp - 0.01,
        "header_bytes": 491.52, "bpp_estimated": None, "bpp_by_layer": {"base": bpp - 0.01}, "psnr": psnr,
        "ms_ssim": 0.97, "tasks": tasks, "task_head": head, "encode_seconds": 0.02, "decode_seconds": None,
        "command": "evaluate.py", "num_images": 24, "ci95": {k: [v * 0.9, v * 1.1] for k, v in values.items()},
        "encoder": {
            "command": f"{codec} -q {{rate}}", "settings": {"preset": "slow", "tuning": "psnr"}, "colour": "4:4:4",
            "versions": {"lib": "1.2"},
        },
    } | more  # fmt: skip


def results_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "dataset": "kodak", "split": "test", "num_images": 24, "rows": rows, "skipped": [], "excluded_images": [],
        "environment": {"date": "2026-10-04T14:32", "git_commit": "0123456789abcdef", "torch": "2.15"},
        "complexity": [], "within_one_point": [], "command": "evaluate.py codecs=[jpeg]",
    } | more  # fmt: skip


def bd_row(codec: str, value: float | None, ends: list[float] | None, **more: Any) -> dict[str, Any]:
    return {
        "anchor": "hevc", "codec": codec, "ladder": "plain", "seed": 0, "task_head": None, "metric": "psnr",
        "rate_axis": "bpp", "bd_rate_percent": value, "ci95": ends, "bd_metric": 0.5, "overlap": 0.8,
        "num_images": 24, "method": "pchip", "reason": None,
    } | more  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    rows = [
        row(codec, rate, bpp, head, scale=scale)
        for head in HEADS
        for codec in ("jpeg", "hevc", "mine")
        for rate, bpp, scale in ((10, 0.2, 1), (20, 0.5, 1), (30, 1.0, 1), (10, 0.1, 0.5))
    ]
    rows += [row("originals", None, 24.0, head, uncompressed=True) for head in HEADS]
    macs = {
        "encoder": 1000.0,
        "entropy": 10.0,
        "decoder": 2000.0,
        "total": 3010.0,
        "heads": {"class (own)": 5.0},
    }
    sizes = {
        "encoder": 1000000,
        "entropy": 0,
        "decoder": 2500000,
        "total": 3500000,
        "heads": {"class (own)": 99},
    }
    return results_of(
        rows,
        skipped=[{"codec": "vvc", "reason": "VVC needs imageio-ffmpeg"}],
        excluded_images=[{"image": "bad.png", "reason": "truncated"}],
        complexity=[{"codec": "mine", "parameters": sizes, "macs_per_pixel": macs, "encode_seconds": 1.5}],
        within_one_point=[
            {"codec": "mine", "ladder": "plain", "seed": 0, "task_head": "own", "metric": "class/top1",
             "rate_axis": "bpp", "bound": 0.9, "points": 0.01, "rate": 0.7, "ci95": [0.6, None], "reason": None},
        ],
    )  # fmt: skip


@pytest.fixture
def bd() -> dict[str, Any]:
    rows = [bd_row("jpeg", 150.0, [120.0, 180.0]), bd_row("mine", -1.0, [-3.0, 1.0])]
    rows += [bd_row("jpeg", 140.0, [110.0, 170.0], rate_axis="bpp_payload")]
    return {"anchor": "hevc", "rows": rows, "skipped": []}


@pytest.fixture
def gallery() -> list[GalleryImage]:
    generator = np.random.default_rng(0)
    original, decode, drawn = (generator.integers(0, 256, (24, 32, 3)).astype(np.uint8) for _ in range(3))
    bits = np.full((24, 32), 0.25)
    bits[:12] = 0.5
    overlays = {"parsing (own)": (drawn, "mIoU 0.5"), "class (own)": (decode, "a parrot")}
    mine = View("mine", 0.01, 0.31, 28.5, decode, overlays=overlays, bits_map=bits)
    return [GalleryImage("kodim01.png", original, [mine, View("jpeg", 10, 0.3, 25.0, original)])]


class Page(HTMLParser):
    """Tags with attributes, scripts, and the text of everything else."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.source = path.read_text("utf-8")
        self._script: dict[str, str | None] | None = None
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs)
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[-1] = self._script, self.scripts[-1][1] + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def data(self, name: str) -> Any:
        (found,) = (text for attrs, text in self.scripts if attrs.get("id") == name)
        return json.loads(found)

    @property
    def code(self) -> list[str]:
        return [text for attrs, text in self.scripts if attrs.get("type") != "application/json"]


def page_of(out: Path, results: dict, bd: dict | None = None, gallery: Any = ()) -> Page:
    write_report(out, results, bd or {"anchor": None, "rows": []}, gallery)
    return Page(out / "report.html")


def test_the_page_asks_nobody_for_anything(tmp_path, results, bd, gallery) -> None:
    page = page_of(tmp_path, results, bd, gallery)
    for tag, attrs in page.tags:
        assert "src" not in attrs or attrs["src"].startswith("data:"), (tag, attrs["src"][:80])
        if tag == "link":
            assert attrs["href"] == "data:,"
        assert not any(name.startswith("on") for name in attrs), "inline handlers do not run under the policy"
        assert attrs.get("href", "#").startswith(("#", "data:")) or tag == "a"
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert not any(href.startswith(("http:", "https:", "//")) for href in links)


def test_the_policy_lets_exactly_the_own_scripts_run(tmp_path, results, bd, gallery) -> None:
    page = page_of(tmp_path, results, bd, gallery)
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    present = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.code}
    assert len(page.code) == 5
    assert allowed == present
    assert "unsafe-inline" not in policy[policy.index("script-src") : policy.index("style-src")]


def test_names_from_outside_stay_text(tmp_path, results, bd, gallery) -> None:
    evil = copy.deepcopy(results)
    for entry in evil["rows"]:
        if entry["codec"] == "mine":
            entry["codec"] = EVIL
            entry["task_head"] = EVIL
            entry["tasks"] = {f"{EVIL}/top1": 0.5, f"{EVIL}/bpp": entry["bpp"]}
    evil |= {"dataset": EVIL, "split": EVIL, "command": EVIL, "environment": {EVIL: EVIL, "git_commit": EVIL}}
    evil["skipped"] = [{"codec": EVIL, "reason": EVIL}]
    evil["excluded_images"] = [{"image": EVIL, "reason": EVIL}]
    evil["complexity"][0]["codec"] = evil["within_one_point"][0]["codec"] = EVIL
    bad = {"anchor": EVIL, "rows": [bd_row(EVIL, None, None, anchor=EVIL, reason=EVIL)], "skipped": []}
    gallery[0].name = gallery[0].views[0].codec = EVIL
    page = page_of(tmp_path, evil, bad, gallery)
    assert len(page.scripts) == 9, "five scripts and four blocks of data, none from a name"
    assert not any("alert('1')" in text for text in page.code)
    assert EVIL in page.text
    assert page.data("results-data")["dataset"] == EVIL
    assert page.data("gallery-data")[0]["views"][1]["codec"] == EVIL
    assert EVIL in page.data("page-data")["codecs"]
    assert all(path.parent == tmp_path / "figures" for path in (tmp_path / "figures").rglob("*"))


def test_the_page_holds_the_data_it_was_made_from(tmp_path, results, bd, gallery) -> None:
    page = page_of(tmp_path, results, bd, gallery)
    assert page.data("results-data") == results
    assert page.data("bd-data") == bd
    for words in (
        "1 codec was skipped", "vvc VVC needs imageio-ffmpeg", "1 image is excluded", "bad.png truncated",
        "24 images · 3 codecs · 26 rows", "2026-10-04 14:32", "commit 0123456789", "evaluate.py codecs=[jpeg]",
        "jpeg -q {rate}", "preset slow; tuning psnr", "lib 1.2", "+150.0 %", "[+120.0, +180.0]",
    ):  # fmt: skip
        assert words in page.text, words
    strong = re.findall(r"<strong>([^<]*%)</strong>", page.source)
    assert strong == ["+150.0 %", "+140.0 %"], "an interval around zero decides nothing"


def test_figures_hold_the_rows(results) -> None:
    figures = {figure.key: figure for figure in figures_of(results)}
    assert list(figures) == ["rd_psnr", "rd_ms_ssim", "task_class_top1"]
    lines = {(x.axis, x.codec, x.ladder): x for x in figures["rd_psnr"].lines}
    assert {codec for _, codec, _ in lines} == {"jpeg", "hevc", "mine"}, "no curve for the uncompressed bound"
    plain = lines["bpp", "jpeg", "plain"]
    assert plain.x == (0.2, 0.5, 1.0)
    assert plain.y == tuple(30 + 3 * math.log2(x) for x in plain.x)
    assert plain.intervals[0] == pytest.approx((0.9 * plain.y[0], 1.1 * plain.y[0]))
    assert plain.notes[0] == "rate 10"
    assert lines["bpp_payload", "jpeg", "plain"].x == pytest.approx((0.19, 0.49, 0.99))
    scaled = lines["bpp", "jpeg", "scaled"]
    assert scaled.x == (0.1, 0.2, 0.5, 1.0)
    assert scaled.notes[0] == "rate 10, coded at 0.5 of width and height"
    assert figures["rd_ms_ssim"].lines[0].y[0] == pytest.approx(-10 * math.log10(0.03))
    task = figures["task_class_top1"]
    assert task.heads == list(HEADS)
    assert [(bound.head, bound.value) for bound in task.bounds] == [(head, 0.9) for head in HEADS]


def test_own_heads_take_the_bound_that_was_computed_for_them(results) -> None:
    results["rows"] = [r for r in results["rows"] if r["codec"] != "originals" or r["task_head"] != "own"]
    results["within_one_point"][0]["bound"] = 0.87
    task = figures_of(results)[-1]
    assert {bound.head: bound.value for bound in task.bounds} == {"own": 0.87, HEADS[1]: 0.9}


def test_the_page_knows_the_bound_by_its_rows(tmp_path, results, bd) -> None:
    results["within_one_point"] = []
    named = copy.deepcopy(results)
    for entry in named["rows"]:
        entry["codec"] = "identity" if entry["codec"] == "originals" else entry["codec"]
    assert figures_of(named) == figures_of(results)
    lacks = "add identity to the codecs"
    page = page_of(tmp_path / "a", results, bd)
    assert lacks not in page.text
    assert page.data("page-data")["looks"]["originals"]["light"] == UNCOMPRESSED.light
    # Rows of older versions do not say what they are.
    for entry in named["rows"]:
        entry.pop("uncompressed", None)
    assert lacks in page_of(tmp_path / "b", named, bd).text
    assert "identity" in {line.codec for figure in figures_of(named) for line in figure.lines}


def test_pngs_are_drawn_and_the_same_each_time(tmp_path, results, bd) -> None:
    write_report(tmp_path / "a", results, bd, [])
    write_report(tmp_path / "b", results, bd, [])
    names = {path.name for path in (tmp_path / "a" / "figures").iterdir()}
    assert names == {"rd_psnr.png", "rd_ms_ssim.png", "task_class_top1.png"}
    for name in names:
        first = (tmp_path / "a" / "figures" / name).read_bytes()
        assert first == (tmp_path / "b" / "figures" / name).read_bytes()
        pixels = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
        assert min(pixels.shape[:2]) >= 700
        purple = [int(FIXED["jpeg"].light[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == purple).all(-1).sum() > 300, "JPEG's curve is there, in JPEG's colour"


@pytest.mark.parametrize("name", ["$x_{", "_hidden", "a" * 300, "$", "\\alpha"])
def test_pngs_take_any_name(tmp_path, results, name) -> None:
    def dark_pixels(codec: str) -> int:
        rows = [r | {"codec": codec} for r in results["rows"] if r["codec"] == "mine"]
        (figure, *_) = figures_of(results_of(rows))
        return int((np.asarray(Image.open(io.BytesIO(draw(figure))).convert("L")) < 90).sum())

    assert dark_pixels(name) > dark_pixels(" ") + 20, "the name is in the legend"


@pytest.mark.parametrize("kind", ["no rows", "one point", "hundreds"])
def test_any_number_of_rows(tmp_path, kind) -> None:
    rows = {
        "no rows": [],
        "one point": [row("jpeg", 75, 0.8, None)],
        "hundreds": [row(f"codec {i % 20}", i, 0.1 + i / 500, "own", seed=i % 3) for i in range(300)],
    }[kind]
    page = page_of(tmp_path, results_of(rows))
    assert f"{len(rows)} row" in page.text
    for words in ("There are no BD-rates", "No pictures were kept", "Complexity was not measured"):
        assert words in page.text
    assert ("There are no curves" in page.text) == (not rows)
    assert page.source.count('<th scope="row"') >= len(rows)
    if kind == "hundreds":
        assert "The bound was not measured" in page.text
    else:
        assert "No tasks were evaluated" in page.text or not rows
    if kind == "one point":
        assert all(
            len(line["x"]) == 1 for figure in page.data("page-data")["figures"] for line in figure["lines"]
        )


def test_missing_measures_stay_missing(tmp_path) -> None:
    bare = [
        row("a", 1, 0.5, None, psnr=None, ms_ssim=None, ci95={}, encoder={}),
        row("a", 2, 0.9, None, ci95={}),
    ]
    page = page_of(tmp_path, results_of(bare))
    (line,) = (
        x
        for f in page.data("page-data")["figures"]
        for x in f["lines"]
        if f["key"] == "rd_psnr" and x["axis"] == "bpp"
    )
    assert (line["x"], line["intervals"]) == ([0.9], [None])


def test_bd_cells() -> None:
    rows = [
        bd_row("worse", 100.0, [50.0, 150.0]),
        bd_row("better", -50.0, [-60.0, -40.0]),
        bd_row("unknown", None, None, reason="curves overlap too little"),
        bd_row("zero", -0.01, None),
        bd_row(
            "better", -20.0, [-30.0, 5.0], metric="class/top1", task_head="own", anchor_task_head="resnet"
        ),
    ]
    table = bd_table(rows)
    assert table.columns == (("PSNR", ""), ("class/top1", "by own"))
    assert [record.codec for record in table.records] == ["better", "zero", "worse", "unknown"]
    better, zero, worse, unknown = (record.cells[0] for record in table.records)
    assert (better.text, better.detail, better.strong) == ("−50.0 %", "[−60.0, −40.0]", True)
    assert (zero.text, zero.detail, zero.strong) == ("0.0 %", "no interval", False)
    assert better.strip[1] + worse.strip[1] == pytest.approx(100), (
        "half and twice the bits are equally far from none"
    )
    assert zero.strip[1] == pytest.approx(50, abs=0.1)
    assert (unknown.text, unknown.sort) == ("–", "")
    assert unknown.hover.startswith("curves overlap too little")
    assert table.reasons == (("curves overlap too little", ["unknown · psnr · seed 0"]),)
    undecided = table.records[0].cells[1]
    assert not undecided.strong
    assert "the anchor is read by the heads resnet" in undecided.hover


def test_strips_have_room_for_values_without_intervals() -> None:
    table = bd_table([bd_row("a", -50.0, None), bd_row("b", -20.0, None), bd_row("c", 900.0, None)])
    positions = [record.cells[0].strip[1] for record in table.records]
    assert positions[0] == pytest.approx(25, abs=0.1), (
        "half the bits on a scale that ends at four times as many"
    )
    assert 25 < positions[1] < 50
    assert positions[2] == 100, "farther out is held at the end"


def test_seeds_step_back_behind_their_mean() -> None:
    rows = [bd_row("mine", v, [v - 1, v + 1], seed=s) for s, v in ((0, -9.0), (1, -11.0), ("mean", -10.0))]
    table = bd_table([*rows, bd_row("jpeg", 5.0, [4.0, 6.0])])
    assert [(r.detail, r.secondary) for r in table.records] == [
        ("seed 1", True), ("mean of 2 seeds", False), ("seed 0", True), ("", False),
    ]  # fmt: skip


def test_bound_cells(results) -> None:
    one = results["within_one_point"][0]
    limit = one | {"codec": "a", "rate": 0.1, "ci95": [0.1, 0.2], "reason": "met at the lowest rate measured"}
    never = one | {"codec": "b", "rate": None, "ci95": None, "reason": "its best is not within"}
    table = bound_table([never, one, limit])
    assert table.columns == (("class/top1", "by own, bound 0.9000"),)
    assert [(r.codec, r.cells[0].text, r.cells[0].detail) for r in table.records] == [
        ("a", "≤ 0.100", "[0.100, 0.200]"), ("mine", "0.700", "[0.600, never]"), ("b", "–", ""),
    ]  # fmt: skip
    assert table.reasons[0][0] == "its best is not within"


def test_complexity_leaves_out_what_nobody_measured(results) -> None:
    table = complexity_table(results["complexity"])
    assert [title for title, _ in table.columns] == [
        "encoder",
        "entropy",
        "decoder",
        "total",
        "head class (own)",
        "encode",
    ]
    assert [cell.text for cell in table.records[0].cells] == [
        "1.00",
        "0.01",
        "2.00",
        "3.01",
        "0.01",
        "1.5000",
    ]
    assert [cell.detail for cell in table.records[0].cells][:3] == ["1.00 M", "", "2.50 M"]


def test_points_name_seeds_only_where_there_are_several() -> None:
    rows = [row("jpeg", 10, 0.2, None), row("mine", 1, 0.2, "own"), row("mine", 1, 0.2, "own", seed=1)]
    details = [record.detail for record in points_table(rows).records]
    assert details == ["", "seed 0 · heads: own", "seed 1 · heads: own"]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (-1.25, 1, "−1.2"),
        (1234.5, 0, "1\u202f234"),
        (None, 2, "–"),
        (math.nan, 2, "–"),
        (0.0005, None, "0.0005"),
    ],
)
def test_number(value, digits, text) -> None:
    assert number(value, digits) == text


def test_gallery_is_embedded_without_loss(gallery) -> None:
    (image,) = embed(gallery)
    assert (image["name"], image["width"], image["height"]) == ("kodim01.png", 32, 24)
    assert [view["codec"] for view in image["views"]] == ["original", "mine", "jpeg"]

    def pixels(uri: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))

    original, mine, _ = image["views"]
    assert np.array_equal(pixels(original["layers"]["picture"]["src"]), gallery[0].original)
    assert np.array_equal(pixels(mine["layers"]["picture"]["src"]), gallery[0].views[0].picture)
    assert mine["layers"]["class (own)"] == {"src": None, "caption": "a parrot", "top": None}
    bits = mine["layers"]["bits map"]
    assert bits["top"] == pytest.approx(0.5)
    brightness = pixels(bits["src"]).astype(int).sum(-1)
    assert len(np.unique(brightness)) == 2
    assert brightness[0, 0] > brightness[-1, 0]


def test_pictures_too_long_for_webp_are_png() -> None:
    long = np.zeros((1, 16384, 3), np.uint8)
    assert data_uri(long).startswith("data:image/png;base64,")
    assert data_uri(long[:, 1:]).startswith("data:image/webp;base64,")


def test_gallery_refuses_pictures_of_another_shape() -> None:
    original = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"a.png: 'picture' of codec 'jpeg' is \(4, 5, 3\), the original is \(4, 6, 3\)"
    ):
        GalleryImage("a.png", original, [View("jpeg", 1, 0.1, 20.0, original[:, 1:])])


def test_every_codec_has_a_look_of_its_own() -> None:
    names = ["mine", "jpeg", "yours", *(f"run {i}" for i in range(len(OTHERS) - 2))]
    styles = looks(names)
    assert styles["jpeg"] == FIXED["jpeg"]
    assert len(set(styles.values())) == len(names)
    assert looks(["jpeg", "webp", "mine"])["mine"] == styles["mine"], "the same beside other standard codecs"
    assert {look.marker for look in [*FIXED.values(), *OTHERS, UNCOMPRESSED]} <= MARKERS.keys()


def test_uncompressed_pictures_look_alike_whatever_they_are_called() -> None:
    for name in ("identity", "originals", "jpeg"):
        styles = looks(["mine", name, "yours"], {name})
        assert styles == {"mine": OTHERS[0], name: UNCOMPRESSED, "yours": OTHERS[1]}
    assert looks(["identity"])["identity"] == OTHERS[0], "a name says nothing"


@pytest.mark.parametrize(("paper", "mode"), [("#ffffff", "light"), ("#15171a", "dark")])
def test_colours_stand_out_from_the_paper(paper, mode) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for look in [*FIXED.values(), *OTHERS, UNCOMPRESSED]:
        low, high = sorted([luminance(getattr(look, mode)), luminance(paper)])
        # WCAG 2.2, criterion 1.4.11: graphics need 3 to 1.
        assert (high + 0.05) / (low + 0.05) >= 3, (look, mode)


def test_unseen_heads_are_never_solid() -> None:
    strokes = dashes([None, "a", "own", "b"])
    assert (strokes[None], strokes["own"]) == ("solid", "solid")
    assert len({strokes["a"], strokes["b"], "solid"}) == 3


def test_file_names_are_safe() -> None:
    assert file_name("../a b/<c>") == "a-b-c"
    assert file_name("///") == "unnamed"
    assert decibel(1.0) == 100
