"""CelebAMask-HQ in both layouts and torchvision's sets: portraits written out in them come back."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from torchvision import datasets

from datamodules.celebamask_hq import ATTRIBUTES, IMAGES, MAPPING, MASKS, PARTS, CelebAMaskHQ
from datamodules.portraits import Portraits
from datamodules.segmentation_folders import SegmentationFolders
from datamodules.torchvision_set import TorchvisionSet
from tests.conftest import component


@pytest.fixture(scope="module")
def portraits():
    return Portraits(size=32, num_train=6, num_val=1, num_test=2, batch_size=2)


def picture(sample):
    return Image.fromarray(sample["image"].permute(1, 2, 0).numpy())


def in_folders(root, portraits):
    """DIR/{split}/{images,masks}, at twice the size."""
    for split in ("train", "val", "test"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for index in range(len(portraits.split(split))):
            sample = portraits.split(split).read(index)
            picture(sample).resize((64, 64), 0).save(root / split / "images" / f"{index}.png")
            mask = Image.fromarray(sample["mask"].numpy().astype(np.uint8)).resize((64, 64), 0)
            mask.putpalette(bytes(range(256)) * 3)
            mask.save(root / split / "masks" / f"{index}.png")


def test_masks_say_what_is_there_before_they_are_resized(tmp_path, portraits):
    in_folders(tmp_path, portraits)
    names = list(portraits.labels["mask"].names)
    options = {
        "names": names, "images": "{split}/images", "masks": "{split}/masks", "batch_size": 2,
        "mirror": portraits.labels["mask"].mirror, "presence": names[::-1], "presence_pixels": 9,
    }  # fmt: skip
    data = SegmentationFolders(tmp_path, **options)
    small = SegmentationFolders(tmp_path, **options, resize=8, min_size=8)
    assert data.check() == small.check() == {"train": [], "val": [], "test": []}
    assert data.labels["attributes"].names == tuple(names[::-1])
    flipped = {frozenset(names[i] for i in pair) for pair in data.labels["mask"].mirror}
    assert {frozenset(names[::-1][i] for i in pair) for pair in data.labels["attributes"].mirror} == flipped
    seen = set()
    for index in range(6):
        sample, expected = data.split("train").read(index), portraits.split("train").read(index)
        assert torch.equal(sample["mask"][::2, ::2], expected["mask"])
        stored = sample["mask"].flatten().tolist()
        answers = [int(stored.count(names.index(name)) >= 9) for name in names[::-1]]
        assert sample["attributes"].tolist() == answers
        shrunk = small.split("train").read(index)
        assert shrunk["image"].shape[1:] == shrunk["mask"].shape == (8, 8)
        assert torch.equal(shrunk["attributes"], sample["attributes"])
        seen |= set(answers)
    assert seen == {0, 1}
    assert data.split("test").name(1) == "test/images/1.png"


def test_presence_that_cannot_be(tmp_path):
    for options, message in (
        ({"presence": ["hat", "wig"]}, r"presence names \['wig'\], must be some of"),
        ({"presence_pixels": 0}, "presence_pixels is 0"),
        ({"masks": "annotations"}, "masks is 'annotations', must have {split} in it"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentationFolders(tmp_path, names=["skin", "hat"], batch_size=1, **options)


def as_published(root, portraits, originals):
    """The layout of the authors: pictures at twice the size of the masks, a file a part."""
    facts = portraits.labels["attributes"].names
    (root / IMAGES).mkdir(parents=True)
    lines, mapping, samples = [str(len(originals)), " ".join(facts)], ["idx orig_idx orig_file"], {}
    for number, original in originals.items():
        sample = samples[number] = portraits.split("train").read(len(samples))
        picture(sample).resize((64, 64), 0).save(root / IMAGES / f"{number}.jpg", "PNG")
        folder = root / MASKS / str(number // 2000)
        folder.mkdir(parents=True, exist_ok=True)
        for place, part in enumerate(PARTS, 1):
            there = (sample["mask"].numpy() == place).astype(np.uint8) * 255
            if there.any():
                # As published: RGB. The skin lies under everything else.
                there = np.where(sample["mask"] > 0, 255, 0).astype(np.uint8) if part == "skin" else there
                Image.fromarray(there).convert("RGB").save(folder / f"{number:05d}_{part}.png")
        lines.append(f"{number}.jpg  " + " ".join("1" if a else "-1" for a in sample["attributes"]))
        mapping.append(f"{number:<8}{original - 1:<10}{original:06d}.jpg")
    (root / ATTRIBUTES).write_text("\n".join(lines) + "\n")
    (root / MAPPING).write_text("\n".join(mapping) + "\n")
    return samples


def test_the_published_layout_is_read_as_written(tmp_path, portraits):
    originals = {0: 5, 1: 162770, 2: 162771, 3: 182637, 1999: 182638, 2000: 202599}
    samples = as_published(tmp_path, portraits, originals)
    data = CelebAMaskHQ(tmp_path, batch_size=1, num_workers=0)
    assert data.check() == {"train": [], "val": [], "test": []}
    numbers = {split: data.split(split).numbers for split in ("train", "val", "test")}
    assert numbers == {"train": [0, 1], "val": [2, 3], "test": [1999, 2000]}
    assert data.labels["attributes"].names == portraits.labels["attributes"].names
    assert len(data.labels["mask"].names) == 19
    for split in numbers:
        for index, number in enumerate(numbers[split]):
            sample = data.split(split).read(index)
            assert torch.equal(sample["mask"], samples[number]["mask"])
            assert torch.equal(sample["attributes"], samples[number]["attributes"])
            # Every pixel was doubled: halving them again blurs a little across edges.
            error = (sample["image"].float() - samples[number]["image"].float()).abs().mean()
            assert sample["image"].shape == (3, 32, 32)
            assert error < 12
    assert instantiate(component("data", "celebamask_hq"), root=str(tmp_path)).labels["mask"].mirror


def test_the_published_layout_says_what_is_wrong(tmp_path, portraits):
    with pytest.raises(ValueError, match=rf"{MAPPING} cannot be read"):
        CelebAMaskHQ(tmp_path, batch_size=1)
    as_published(tmp_path, portraits, {0: 5, 1: 6})
    mapping = (tmp_path / MAPPING).read_text()
    (tmp_path / MAPPING).write_text(mapping + "two 7 000008.jpg\n")
    with pytest.raises(ValueError, match=rf"{MAPPING}, line 4: invalid literal"):
        CelebAMaskHQ(tmp_path, batch_size=1)
    (tmp_path / MAPPING).write_text(mapping + "2 7 000008.jpg\n")
    with pytest.raises(ValueError, match=rf"{ATTRIBUTES}: no line for 2.jpg"):
        CelebAMaskHQ(tmp_path, batch_size=1)
    (tmp_path / MAPPING).write_text(mapping)
    facts = (tmp_path / ATTRIBUTES).read_text()
    (tmp_path / ATTRIBUTES).write_text(facts.replace("1.jpg  1", "1.jpg  2").replace("1.jpg  -1", "1.jpg  2"))
    with pytest.raises(ValueError, match=rf"{ATTRIBUTES}, line 4: .* is '2', must be 1 or -1"):
        CelebAMaskHQ(tmp_path, batch_size=1)
    (tmp_path / ATTRIBUTES).write_text(facts)
    (tmp_path / IMAGES / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"names 1, but .*1.jpg does not exist"):
        CelebAMaskHQ(tmp_path, batch_size=1).split("train")


def fake(root, *, download, size=30, random_offset=0):
    """FakeData, which lies on no disk, with torchvision's usual arguments."""
    return datasets.FakeData(size, (3, 16, 20), num_classes=4, random_offset=random_offset)


def test_torchvision_sets(tmp_path):
    options = {"dataset": fake, "splits": {"train": {}, "test": {"size": 5, "random_offset": 100}}}
    data = TorchvisionSet(
        tmp_path, **options, names=["a", "b", "c", "d"], val_fraction=0.3, batch_size=2, num_workers=0
    )
    assert data.check() == {"train": [], "val": [], "test": []}
    names = {
        split: [data.split(split).name(i) for i in range(len(data.split(split)))]
        for split in ("train", "val")
    }
    assert sorted(names["train"] + names["val"]) == [f"train/{number:05d}" for number in range(30)]
    assert len(names["val"]) > 2
    expected, target = fake(tmp_path, download=False, random_offset=100)[3]
    sample = data.split("test").read(3)
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert sample["class"] == int(target)
    with pytest.raises(ValueError, match="FakeData does not name its classes: give data.names"):
        TorchvisionSet(tmp_path, **options, batch_size=2).labels  # noqa: B018
    with pytest.raises(ValueError, match=r"splits names \['train'\], must name train and test"):
        TorchvisionSet(tmp_path, dataset=fake, splits={"train": {}}, batch_size=2)


def test_nothing_is_downloaded_unasked(tmp_path):
    data = instantiate(component("data", "torchvision_set"), root=str(tmp_path))
    with pytest.raises(ValueError, match=r"lacks the data set \(.*\): give data.download=true once"):
        data.split("train")
    assert not list(tmp_path.iterdir())
