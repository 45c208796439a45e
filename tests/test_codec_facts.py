"""What a codec says of itself is true, stays with its files, and is what the rest of the code asks for."""

import ast
import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from evaluation import real_bytes
from evaluation.sources import points_of
from files import model
from models.codecs.base import Codec
from models.codecs.downscaled import Downscaled
from models.codecs.hyperprior import MeanScaleHyperprior
from models.codecs.identity import Identity
from models.codecs.read_through import ReadThrough
from models.codecs.standard.pillow import JPEG, JPEG2000
from models.codecs.target_rate import rate_for_bpp
from models.pretrained import from_pretrained
from models.pretrained.construct import target_of
from tests.conftest import CONFIGS, names_in, tiny_codec
from tests.test_imports import ALLOWED, ROOT, files, imported

# -- model ids: a file of an older version must find the codec it was made with --------------------------------------

IDS = {
    "mean_scale": "60075011",
    "mean_scale_small": "1b16fd93",
    "mean_scale_tiny": "60075011",  # its entropy side has the same shapes as that of `mean_scale`
    "compressai_mbt2018_mean": "492ab47c",
    "compressai_elic": "5c3add03",
    "two_layers": "26496d4e",
}
"""{learned codec: id of its tiny version with patterned weights}, from before codecs named their entropy side."""


def patterned(codec: Codec) -> Codec:
    """In evaluation mode, with multiples of 1/1024 as weights: no generator, and no rounding to differ in."""
    with torch.no_grad():
        for p in codec.parameters():
            p.copy_((torch.arange(p.numel()) * 37 % 101 - 50).reshape(p.shape) / 1024)
    return codec.eval()


def test_the_ids_of_shipped_files_stay() -> None:
    folder = ROOT / "benchmarks" / "weights" / "scenes6_codec"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model_id"] == "2f2064e1"
    assert from_pretrained(folder, tasks=()).codec.model_id().hex() == "2f2064e1"


@pytest.mark.parametrize("name", IDS)
def test_the_ids_of_trained_codecs_stay(name: str) -> None:
    assert patterned(tiny_codec(name)).model_id().hex() == IDS[name]


class Parts(Codec):
    """Two networks, of which the symbols depend on one."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.rest = nn.Linear(2, 3), nn.Linear(2, 3)
        self.partly = nn.Linear(2, 3)  # begins with the name of another


def test_a_codec_that_names_its_entropy_side_hashes_just_that() -> None:
    codec = patterned(Parts())
    everything = codec.model_id()
    codec.entropy = ("part",)
    assert codec.train().eval().model_id() != everything
    weight, bias = codec.part.weight.detach(), codec.part.bias.detach()
    expected = hashlib.blake2b(b"Parts", digest_size=4)
    expected.update(b"part.bias" + bias.numpy().tobytes() + b"part.weight" + weight.numpy().tobytes())
    assert codec.model_id() == expected.digest()
    for name, same in (("rest", True), ("partly", True), ("part", False)):
        with torch.no_grad():
            codec.get_submodule(name).bias.add_(1)
        assert (codec.train().eval().model_id() == expected.digest()) == same, name


# -- facts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names_in("codec"))
def test_a_class_says_what_its_codecs_say(name: str) -> None:
    """So that nobody has to make a codec, with a library that may be missing, to know."""
    codec = tiny_codec(name)
    kind = target_of(yaml.safe_load((CONFIGS / "codec" / f"{name}.yaml").read_text()))
    assert all(getattr(kind, fact) == getattr(codec, fact) for fact in ("learned", "exact", "uncompressed"))
    assert codec.learned == any(True for _ in codec.parameters())
    json.dumps(codec.about(), allow_nan=False)


def test_exact_and_uncompressed_are_true(codec: Codec, images: Tensor) -> None:
    images = (images * 255).round() / 255
    estimate = codec.eval()(images)
    decoded = codec.decompress([codec.parse(codec.serialise(b)) for b in codec.compress(images)])
    if codec.exact:
        assert all(torch.equal(decoded.bits[name], bits) for name, bits in estimate.bits.items())
    if codec.uncompressed:
        assert torch.equal(decoded.x_hat, images)


FACTS = ("rates", "rate_step", "continuous", "exact", "uncompressed", "gives", "file_suffix", "stride")


@pytest.mark.parametrize(
    "inner",
    [JPEG(), JPEG2000(), Identity(), MeanScaleHyperprior(8, 12, num_stages=2)],
    ids=lambda c: type(c).__name__,
)
def test_reading_through_another_codec_changes_no_fact_of_the_files(inner: Codec) -> None:
    both = ReadThrough(inner, tiny_codec("mean_scale_tiny"))
    for fact in FACTS:
        assert getattr(both, fact) == getattr(inner, fact), fact
    assert both.about() == inner.about()
    assert both.learned, "its reader has to be trained"
    assert ReadThrough(inner, Identity()).learned == inner.learned
    inner.continuous = True
    assert ReadThrough(inner, Identity()).rate_at(0.5) == inner.rate_at(0.5)


def test_a_wrapper_lacks_what_its_codecs_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self) -> None:
        raise ImportError("JPEG needs something")

    monkeypatch.setattr(JPEG, "check_available", missing)
    reader = tiny_codec("mean_scale_tiny")
    for wrapper in (
        ReadThrough(JPEG(), reader),
        ReadThrough(Identity(), JPEG()),
        Downscaled(JPEG(), scale=0.5),
    ):
        with pytest.raises(ImportError, match="JPEG needs something"):
            wrapper.check_available()


def test_exact_bits_read_through_are_those_that_forward_counts(images: Tensor) -> None:
    both = ReadThrough(JPEG(), tiny_codec("mean_scale_tiny")).eval()
    coded = real_bytes.code(both, images, 50)
    assert torch.equal(coded.estimated["base"], both(images, 50).bits["base"])
    assert torch.equal(coded.estimated["base"], coded.file_bits)
    target = float(coded.file_bits.mean()) / 70 / 90
    assert rate_for_bpp(both, images, target)[0] == rate_for_bpp(JPEG().eval(), images, target)[0] == 50


def test_down_scaling_keeps_the_ladder_and_wants_a_codec_that_compresses() -> None:
    inner = JPEG2000()
    inner.continuous = True
    scaled = Downscaled(inner, scale=0.5)
    facts = ("rates", "rate_step", "continuous", "exact", "learned", "uncompressed", "file_suffix", "gives")
    assert all(getattr(scaled, fact) == getattr(inner, fact) for fact in facts)
    with pytest.raises(ValueError, match=r"scale=0.5: Identity sends pictures as they are"):
        Downscaled(Identity(), scale=0.5)


def test_a_codec_of_one_rate_is_one_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JPEG, "rates", ())
    points, _, _ = points_of(["jpeg", "identity"], [], labels={}, rates={}, scales=[1, 0.5])
    assert [(point.name, point.rate, point.scale) for point in points] == [
        ("jpeg", None, 1),
        ("identity", None, 1),
    ]
    assert points[0].about == JPEG().about()


def test_what_can_be_opened_by_its_name_is_told_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "mine": "_target_: models.codecs.standard.pillow.JPEG",
        "originals": "_target_: models.codecs.identity.Identity",
        "trained": "{_target_: models.codecs.hyperprior.MeanScaleHyperprior, width: 8, latent_channels: 12}",
        "composed": "defaults: [mine]",
        "broken": "_target_: models.codecs.nothing.Nothing",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(model, "CONFIGS", tmp_path)
    with pytest.raises(ValueError, match=r"and no standard codec \(mine, originals\)"):
        model.open_model("nowhere")
    with pytest.raises(
        ValueError, match="trained is a codec to train and has no weights: .* one of mine, originals"
    ):
        model.open_model("trained")
    assert model.open_model("originals").codec.uncompressed


# -- nobody asks for a class or a name ---------------------------------------------------------------------------------

CLASSES = {"StandardCodec", "Identity"}
MODULES = ("models.codecs.identity", "models.codecs.standard.base")
LABELS = {"datamodules", "benchmarks"}
"""Packages in which a label or a task has the name of that codec."""

PACKAGES = (*sorted(ALLOWED), "launch", "benchmarks")
SOURCES = [
    path
    for path in [*(p for package in PACKAGES for p in files(package)), *ROOT.glob("*.py")]
    if ROOT / "models" / "codecs" not in path.parents
]


def asked_for_class(tree: ast.AST) -> bool:
    """Whether ``isinstance`` or ``issubclass`` is called with one of the classes, alone or in a tuple."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return any(
        getattr(part, "id", getattr(part, "attr", None)) in CLASSES
        for call in calls
        if call.func.id in ("isinstance", "issubclass")
        for part in ast.walk(call.args[1])
    )


def names_identity(tree: ast.AST) -> bool:
    """Whether the literal is anywhere: compared, as a default, in a table."""
    return any(isinstance(n, ast.Constant) and n.value == "identity" for n in ast.walk(tree))


def test_the_search_finds_what_it_looks_for() -> None:
    for code in (
        "isinstance(x, Identity)",
        "isinstance(x, (int, base.StandardCodec))",
        "issubclass(t, Identity)",
    ):
        assert asked_for_class(ast.parse(code)), code
    for code in ("row['codec'] == 'identity'", "def f(bound='identity'): ...", "x in ('jpeg', 'identity')"):
        assert names_identity(ast.parse(code)), code
    assert not asked_for_class(ast.parse("isinstance(x, Codec), print(Identity)"))
    assert len(SOURCES) > 100


def test_codecs_are_asked_for_facts_not_for_class_or_name() -> None:
    wrong = []
    for path in SOURCES:
        tree, place = ast.parse(path.read_text()), path.relative_to(ROOT)
        if asked_for_class(tree):
            wrong.append(f"{place} asks for a codec's class")
        if any(name.startswith(MODULES) for name in imported(path)):
            wrong.append(f"{place} imports the class that it should not ask for")
        if place.parts[0] not in LABELS and names_identity(tree):
            wrong.append(f"{place} knows a codec by its name")
    assert not wrong


def test_the_page_of_the_report_knows_no_codec_by_name() -> None:
    for path in sorted((ROOT / "evaluation" / "report" / "page").glob("*.*")):
        assert not any(f"{quote}identity{quote}" in path.read_text() for quote in "\"'`"), path


def test_scales_may_be_named_for_any_codec() -> None:
    codecs = ["jpeg", {"mine": "benchmarks/weights/scenes6_codec"}]
    points, _, _ = points_of(codecs, [], labels={}, rates={"jpeg": [50]}, scales={"mine": [1, 0.5]})
    found = [(point.name, point.scale, type(point.codec).__name__) for point in points]
    assert found == [("jpeg", 1, "JPEG"), ("mine", 1, "MeanScaleHyperprior"), ("mine", 0.5, "Downscaled")]
    with pytest.raises(ValueError, match=r"scales names \['other'\], which are no codecs of this call"):
        points_of(codecs, [], labels={}, rates={}, scales={"other": [1]})
