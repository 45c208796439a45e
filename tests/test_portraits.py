"""The drawn data set: the same everywhere, and labels that say what the pictures show."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from datamodules.drawing import draw
from datamodules.drawing.head import BOXES, PARTS, POINTS
from datamodules.drawing.parameters import ATTRIBUTES, EXPRESSIONS, SCENES, appearance_parameters
from datamodules.portraits import Portraits
from datamodules.samples import IGNORE, MISSING
from datamodules.source import read_checked
from datamodules.transforms import View

ROOT = Path(__file__).parents[1]
SIZE = 128  # where even the narrowest eye is some pixels high


@pytest.fixture(scope="module")
def drawings() -> list[dict[str, np.ndarray]]:
    return [draw(index, size=SIZE) for index in range(64)]


@pytest.fixture(scope="module")
def small() -> Portraits:
    return Portraits(num_train=24, num_val=8, num_test=8, num_identities=8, batch_size=8, num_workers=0)


def has(drawing: dict[str, np.ndarray], attribute: str) -> bool:
    return bool(drawing["attributes"][ATTRIBUTES.index(attribute)])


def part(drawing: dict[str, np.ndarray], name: str) -> np.ndarray:
    return drawing["mask"] == PARTS.index(name)


def point(drawing: dict[str, np.ndarray], name: str) -> np.ndarray:
    return drawing["landmarks"][POINTS.index(name)]


def boxes(drawing: dict[str, np.ndarray], name: str) -> np.ndarray:
    return drawing["boxes"][drawing["box_class"] == BOXES.index(name)]


DIGEST = """
import hashlib
from datamodules.drawing import draw
drawing = draw({index}, size=64, seed={seed})
digest = hashlib.sha256(b"".join(drawing[key].tobytes() for key in sorted(drawing))).hexdigest()
"""


def digest(index: int, seed: int = 0) -> str:
    names: dict[str, str] = {}
    exec(DIGEST.format(index=index, seed=seed), names)
    return names["digest"]


def test_an_index_gives_the_same_bytes_in_another_process():
    code = DIGEST.format(index=7, seed=0) + "import sys; print(digest, 'torch' in sys.modules)"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # Drawing needs NumPy alone, so whoever wants portraits elsewhere waits for no torch.
    assert other.stdout.split() == [digest(7), "False"]
    assert len({digest(7), digest(8), digest(7, seed=1)}) == 3


@pytest.mark.parametrize(("large", "small"), [(256, 64), (96, 32)])
def test_a_small_drawing_is_a_large_one_scaled_down(large: int, small: int):
    errors = []
    for index in range(12):
        big, little = draw(index, size=large), draw(index, size=small)
        factor = large // small
        scaled = avg_pool2d(torch.from_numpy(big["image"])[None].float(), factor)[0].numpy()
        errors.append(np.abs(scaled - little["image"]).mean())
        assert (big["mask"][factor // 2 :: factor, factor // 2 :: factor] == little["mask"]).mean() > 0.95
        np.testing.assert_allclose((big["landmarks"] + 0.5) / factor - 0.5, little["landmarks"], atol=1e-3)
    # Another picture differs by some 60; what is left is detail that the small one cannot show.
    assert np.mean(errors) < 6


def test_landmarks_lie_in_the_parts_they_name(drawings):
    for drawing in drawings:
        for name in ("left_eye", "right_eye"):
            x, y = np.round(point(drawing, name)).astype(int)
            assert part(drawing, name)[y, x]
        x, y = np.round(point(drawing, "nose_tip")).astype(int)
        assert part(drawing, "nose")[y, x]
        x, y = np.round((point(drawing, "mouth_top") + point(drawing, "mouth_bottom")) / 2).astype(int)
        assert part(drawing, "mouth")[y, x]
        xs = np.nonzero(part(drawing, "mouth"))[1]
        assert abs(xs.min() - point(drawing, "mouth_left")[0]) < 6
        assert abs(xs.max() - point(drawing, "mouth_right")[0]) < 6
        xs = np.nonzero(part(drawing, "left_brow"))[1]
        ends = [point(drawing, "left_brow_outer"), point(drawing, "left_brow_inner")]
        # Glasses and hair may hide some of the brow, but never make it longer.
        assert xs.min() > min(end[0] for end in ends) - 3
        assert xs.max() < max(end[0] for end in ends) + 3


def test_boxes_enclose_the_parts_they_name(drawings):
    for drawing in drawings:
        for name, parts in {
            "face": ("skin", "nose", "beard", "left_eye", "right_eye", "mouth"),
            "mouth": ("mouth",),
            "hat": ("hat",),
            "glasses": ("glasses",),
            "eye": ("left_eye", "right_eye"),
        }.items():
            inside = np.zeros((SIZE, SIZE), bool)
            for x0, y0, x1, y1 in boxes(drawing, name).astype(int):
                assert 0 <= x0 < x1 <= SIZE
                assert 0 <= y0 < y1 <= SIZE
                inside[y0:y1, x0:x1] = True
            for each in parts:
                # Hair of the temples may reach out of the face; nothing of the parts themselves may.
                assert not (part(drawing, each) & ~inside).any(), (name, each)
        assert len(boxes(drawing, "face")) == 1
        assert len(boxes(drawing, "eye")) == 2
        # Tight: where the mouth is not hidden, its box is no larger than its pixels.
        (x0, y0, x1, y1) = boxes(drawing, "mouth")[0]
        rows, columns = (np.flatnonzero(part(drawing, "mouth").any(axis)) for axis in (1, 0))
        assert (x0, y0, x1, y1) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_attributes_are_visible(drawings):
    for drawing in drawings:
        for attribute in ("glasses", "hat", "beard", "earrings"):
            assert part(drawing, attribute).any() == has(drawing, attribute), attribute
        assert len(boxes(drawing, "glasses")) == has(drawing, "glasses")
        assert len(boxes(drawing, "hat")) == has(drawing, "hat")
        corners = (point(drawing, "mouth_left") + point(drawing, "mouth_right")) / 2
        lips = (point(drawing, "mouth_top") + point(drawing, "mouth_bottom")) / 2
        down = point(drawing, "chin") - point(drawing, "nose_tip")
        assert ((corners - lips) @ down < 0) == has(drawing, "smiling")
    long, short = (
        np.mean([part(d, "hair").sum() for d in drawings if has(d, "long_hair") == wanted])
        for wanted in (True, False)
    )
    assert long > 1.3 * short


def gaze(image: np.ndarray, mask: np.ndarray, centres: np.ndarray) -> float:
    """How far the dark pixels of both eyes are to the right of their centres, in pixels."""
    offsets = []
    for name, centre in zip(("left_eye", "right_eye"), centres, strict=True):
        ys, xs = np.nonzero(mask == PARTS.index(name))
        dark = 255.0 - image[:, ys, xs].mean(0)
        dark = np.maximum(dark - np.median(dark), 0)
        offsets.append((dark * xs).sum() / max(dark.sum(), 1e-6) - centre[0])
    return float(np.mean(offsets))


@pytest.mark.parametrize("flip", [False, True])
def test_left_and_right_stay_those_of_the_picture_when_it_is_mirrored(small: Portraits, flip: bool):
    source = small.split("train")
    labels, view = small.labels, View(0, 0, 128, 128, (128, 128), flip=flip)
    pairs = [(left, left.replace("left", "right")) for left in PARTS if "left" in left]
    assert {label.mirror != () for key, label in labels.items() if key in ("mask", "landmarks")} == {True}
    agree = []
    for index in range(len(source)):
        drawing = draw(source.indices[index], size=128, num_identities=8)
        sample = {key: torch.from_numpy(np.array(value)) for key, value in drawing.items()}
        sample["mask"] = sample["mask"].long()
        seen = {key: value.numpy() for key, value in view(sample, labels).items()}
        for left, right in pairs:
            places = [np.nonzero(seen["mask"] == PARTS.index(name))[1] for name in (left, right)]
            if all(len(place) for place in places):
                assert places[0].mean() < places[1].mean(), left
        for left in [name for name in POINTS if "left" in name]:
            assert point(seen, left)[0] < point(seen, left.replace("left", "right"))[0], left
        for name in ("left_eye", "right_eye"):
            x, y = np.round(point(seen, name)).astype(int)
            assert seen["mask"][y, x] == PARTS.index(name)
        centres = [point(seen, "left_eye"), point(seen, "right_eye")]
        if has(seen, "looking_left") or has(seen, "looking_right"):
            assert not (has(seen, "looking_left") and has(seen, "looking_right"))
            agree.append((gaze(seen["image"], seen["mask"], centres) < 0) == has(seen, "looking_left"))
    # Reflections on lenses may mislead this simple measure now and then.
    assert len(agree) > 10
    assert np.mean(agree) > 0.85


def test_classes_and_identities_are_balanced_in_every_split():
    for start in (0, 320_000_000):
        looks = [appearance_parameters(start + index, seed=0, num_identities=40)[0] for index in range(400)]
        assert np.bincount([look.expression for look in looks]).tolist() == [50] * len(EXPRESSIONS)
        assert np.bincount([look.identity for look in looks]).tolist() == [10] * 40
        shares = np.mean([look.attributes for look in looks], 0)
        assert (shares > 0.2).all()
        assert (shares < 0.6).all()
        assert {look.scene for look in looks} == set(SCENES)
        # Nothing but the small cues may give the class away: attributes other than the smile do not.
        smiles = np.array([look.attributes for look in looks if look.expression < 4]).mean(0)
        assert np.abs(np.delete(smiles - shares, ATTRIBUTES.index("smiling"))).max() < 0.12


def test_every_kind_of_label_is_there_and_valid(small: Portraits):
    assert {label.kind for label in small.labels.values()} == {
        "class",
        "mask",
        "attributes",
        "landmarks",
        "boxes",
    }
    source = small.split("train")
    for index in range(len(source)):
        sample = read_checked(source, index)
        assert set(sample) == {*small.labels, "image", "box_class"}
        assert not any(value.isnan().any() for value in sample.values() if value.is_floating_point())
    # What a reader does to a sample stays with that reader.
    source.read(0)["image"].zero_()
    source.read(0)["mask"].zero_()
    assert source.read(0)["image"].any()
    assert source.read(0)["mask"].any()


def test_splits_are_disjoint_and_do_not_depend_on_their_sizes(small: Portraits):
    splits = [small.split(name) for name in ("train", "val", "test")]
    ranges = [set(split.indices) for split in splits]
    assert not ranges[0] & ranges[1]
    assert not ranges[1] & ranges[2]
    assert not ranges[0] & ranges[2]
    names = [split.name(index) for split in splits for index in range(len(split))]
    assert len(set(names)) == len(names) == 40
    people = [{int(split.read(index)["identity"]) for index in range(len(split))} for split in splits]
    assert people[0] == people[1] == people[2] == set(range(8))
    more = Portraits(num_train=2, num_val=1, num_test=2, num_identities=8, batch_size=2).split("test")
    assert torch.equal(more.read(1)["image"], splits[2].read(1)["image"])


@pytest.fixture
def surviving_sigterm() -> Iterator[None]:
    """As in a process in which Lightning has trained: children that inherit this cannot be ended by SIGTERM."""
    usual = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("surviving_sigterm")
def test_many_portraits_are_drawn_by_several_processes_in_order(monkeypatch):
    module = Portraits(num_train=40, num_identities=8, batch_size=8)
    alone = module.source("train")
    monkeypatch.setattr("datamodules.portraits._WORTH_A_POOL", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    together = module.source("train")
    for index in range(40):
        assert torch.equal(alone.read(index)["image"], together.read(index)["image"])
        assert torch.equal(alone.read(index)["landmarks"], together.read(index)["landmarks"])


def test_missing_withholds_labels_from_a_fixed_part_of_train():
    options = {"size": 32, "num_train": 40, "num_val": 8, "num_test": 8, "batch_size": 8}
    shares = {"mask": 0.5, "boxes": 0.4, "class": 0.3, "attributes": 0.2, "landmarks": 0.6}
    partial, again, full = (
        Portraits(**options, missing=missing).split("train") for missing in (shares, shares, None)
    )
    lacking = dict.fromkeys(shares, 0)
    for index in range(40):
        sample, complete = read_checked(partial, index), full.read(index)
        lacks = {
            "mask": bool((sample["mask"] == IGNORE).all()),
            "boxes": bool(sample["boxes"].isnan().all()),
            "class": int(sample["class"]) == MISSING,
            "attributes": bool((sample["attributes"] == MISSING).all()),
            "landmarks": bool(sample["landmarks"].isnan().all()),
        }
        for key, gone in lacks.items():
            lacking[key] += gone
            assert gone or torch.equal(sample[key], complete[key])
            torch.testing.assert_close(sample[key], again.read(index)[key], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(sample["image"], complete["image"])
        assert torch.equal(sample["identity"], complete["identity"])
    for key, share in shares.items():
        assert abs(lacking[key] / 40 - share) < 0.25, key
    val = Portraits(**options, missing={"mask": 1.0}).split("val")
    assert not any((val.read(index)["mask"] == IGNORE).any() for index in range(8))


def test_batches_hold_the_drawings(small: Portraits):
    batch = next(iter(small.val_dataloader()))
    assert batch["image"].shape == (8, 3, 64, 64)
    assert torch.equal(batch["image"][3], small.split("val").read(3)["image"])
    batch = next(iter(small.for_stage(num_batches=2, seed=0).train_dataloader()))
    assert batch["image"].shape == (8, 3, 64, 64)
    assert len(batch["boxes"]) == 8
    assert small.check() == {"train": [], "val": [], "test": []}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "size is 8"),
        ({"num_train": 0}, "num_train is 0"),
        ({"num_identities": 0}, "num_identities is 0"),
        ({"missing": {"masks": 0.5}}, "missing names 'masks'.*mask"),
        ({"missing": {"mask": 1.5}}, "is 1.5, must be within 0..1"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Portraits(batch_size=4, **wrong)
