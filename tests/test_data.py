"""Data sets on disk: every layout is read back as written, and bad input says what to do."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from datamodules.base import ImageDataModule, UnreadableSample
from datamodules.celebamask_hq import CelebAMaskHQ
from datamodules.class_folders import ClassFolders
from datamodules.coco_detection import COCODetection
from datamodules.columns import ClassColumn
from datamodules.csv_labels import CSVLabels
from datamodules.files import place_in_split, read_image
from datamodules.image_folder import ImageFolder
from datamodules.samples import Label
from datamodules.segmentation_folders import SegmentationFolders
from datamodules.source import read_checked
from datamodules.torchvision_set import TorchvisionSet
from datamodules.voc_detection import VOCDetection

NAMES = ("sky", "road", "tree")


def pixels(seed, height=24, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def damage(path):
    """Cuts a file off in the middle of its pixels."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_array(image):
    return image.permute(1, 2, 0).numpy()


def stage_batches(module, num_batches=3, seed=5, start=0):
    return list(module.for_stage(num_batches=num_batches, seed=seed, start=start).train_dataloader())


def test_damaged_image_files(tmp_path):
    for number in range(4):
        write(tmp_path / "train" / f"{number}.jpg", pixels(number, 64, 64))
        write(tmp_path / "test" / f"{number}.png", pixels(number, 64, 64))
    damage(tmp_path / "train/1.jpg")
    damage(tmp_path / "test/2.png")
    (tmp_path / "test/3.png").write_text("not an image")
    module = ImageFolder(tmp_path, batch_size=4, crop=32, num_workers=0)
    (batch,) = stage_batches(module, num_batches=1)
    assert len(batch["id"]) == 4
    assert "train/1.jpg" not in batch["id"]
    assert any("1.jpg: damaged picture: image file is truncated" in reason for reason in batch["skipped"])
    batches = list(module.test_dataloader())
    assert [batch.get("id") for batch in batches] == [["test/0.png"], ["test/1.png"], None, None]
    assert "2.png" in batches[2]["skipped"][0]
    assert "3.png: not a picture in a format that is known here" in batches[3]["skipped"][0]
    damaged = module.check(["train", "test"])
    assert [len(damaged["train"]), len(damaged["test"])] == [1, 2]


# Layouts


def test_image_folder_reads_what_was_written(tmp_path):
    arrays = {name: pixels(number) for number, name in enumerate(("b.png", "a.PNG", "deep/er/c.bmp"))}
    for name, array in arrays.items():
        write(tmp_path / "train" / name, array)
    write(tmp_path / "train/.hidden/d.png", pixels(9))
    (tmp_path / "train/notes.txt").write_text("no image")
    source = ImageFolder(tmp_path, batch_size=1).split("train")
    assert [source.name(index) for index in range(len(source))] == [
        "train/a.PNG", "train/b.png", "train/deep/er/c.bmp",
    ]  # fmt: skip
    for index in range(3):
        name = source.name(index).removeprefix("train/")
        np.testing.assert_array_equal(as_array(source.read(index)["image"]), arrays[name])


def test_image_folder_finds_its_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            write(tmp_path / "images" / split / f"{number}.png", pixels(number))
    module = ImageFolder(tmp_path, batch_size=1)
    assert [len(module.split(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert module.split("test").name(0) == "images/test/0.png"
    assert module.labels == {}
    swapped = ImageFolder(tmp_path, batch_size=1, folders={"test": "images/val", "train": "."})
    assert [len(swapped.split(split)) for split in ("train", "test")] == [6, 2]
    assert swapped.split("train").name(0) == "images/test/0.png"


def test_image_folder_shares_out_a_flat_folder_by_name(tmp_path):
    for number in range(60):
        write(tmp_path / f"{number}.png", pixels(number, 4, 4))

    def names(split, fractions):
        source = ImageFolder(tmp_path, batch_size=1, split_fractions=fractions).split(split)
        return {source.name(index) for index in range(len(source))}

    parts = {split: names(split, (0.6, 0.2, 0.2)) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 60
    assert 26 <= len(parts["train"]) <= 46
    assert len(names("test", (0, 0, 1))) == 60
    for number in range(30):
        (tmp_path / f"{number}.png").unlink()
    for split, before in parts.items():
        assert names(split, (0.6, 0.2, 0.2)) < before  # those left keep their split


def test_place_in_split_never_changes():
    # Pinned: another hash would move images from train to test between versions.
    assert place_in_split("a.png") == pytest.approx(0.3164221882215089)
    places = [place_in_split(str(number)) for number in range(4000)]
    assert 0 <= min(places) < 0.01 < 0.99 < max(places) < 1
    assert np.mean(places) == pytest.approx(0.5, abs=0.02)


def test_image_folder_reads_every_mode(tmp_path):
    grey = pixels(0)[..., 0]
    np.testing.assert_array_equal(as_array(read_image(write(tmp_path / "l.png", grey)))[..., 2], grey)
    Image.fromarray(pixels(0)).convert("RGBA").save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "rgba.png")), pixels(0))
    Image.fromarray(pixels(0)).quantize(64).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (3, 24, 32)
    write(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "deep.png"))[..., 1], grey)


def test_exif_orientation_is_obeyed_or_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels(0)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "turned.png")), np.rot90(pixels(0), -1))
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "turned.png", upright=False)), pixels(0))


def write_classes(root, split, counts):
    for name, count in counts.items():
        for number in range(count):
            write(root / split / name / f"{number}.png", pixels([number, len(name)]))


def test_class_folders_read_what_was_written(tmp_path):
    write_classes(tmp_path, "train", {"zebra": 2, "ape": 3})
    write_classes(tmp_path, "val", {"ape": 1})
    write_classes(tmp_path, "test", {"ape": 1, "zebra": 2})
    module = ClassFolders(tmp_path, batch_size=1)
    assert module.labels == {"class": Label("class", ("ape", "zebra"))}
    assert [len(module.split(split)) for split in ("train", "val", "test")] == [5, 1, 3]
    source = module.split("test")
    found = [(source.name(index), source.read(index)["class"].item()) for index in range(3)]
    assert found == [("test/ape/0.png", 0), ("test/zebra/0.png", 1), ("test/zebra/1.png", 1)]
    np.testing.assert_array_equal(as_array(source.read(2)["image"]), pixels([1, 5]))


@pytest.mark.parametrize("other", ["val", "test"])
def test_class_folders_hold_out_a_part_of_train(tmp_path, other):
    write_classes(tmp_path, "train", {"ape": 40, "zebra": 40})
    write_classes(tmp_path, other, {"ape": 1, "zebra": 1})
    module = ClassFolders(tmp_path, batch_size=1, val_fraction=0.25)
    names = {
        split: {module.split(split).name(index) for index in range(len(module.split(split)))}
        for split in ("train", "val", "test")
    }
    assert names["test"] == {f"{other}/ape/0.png", f"{other}/zebra/0.png"}
    assert not names["train"] & names["val"]
    assert len(names["train"] | names["val"]) == 80
    assert 10 <= len(names["val"]) <= 30
    assert all(name.startswith("train/") for name in names["val"])


def write_masks(root, split="train", count=3, ignored=7):
    masks = []
    for number in range(count):
        mask = np.random.default_rng(number).integers(0, 3, (24, 32)).astype(np.uint8)
        mask[0, :5] = ignored
        write(root / split / f"f.{number}.png", pixels(number))
        write(root / f"{split}annot" / f"f.{number}.png", mask)
        masks.append(mask)
    return masks


def segmentation(root, **options):
    return SegmentationFolders(
        root, **{"names": NAMES, "ignore_index": 7, "batch_size": 1, "num_workers": 0} | options
    )


def test_segmentation_folders_read_what_was_written(tmp_path):
    masks = write_masks(tmp_path)
    module = segmentation(tmp_path, mirror=[[0, 2]])
    assert module.labels == {"mask": Label("mask", NAMES, mirror=((0, 2),))}
    source = module.split("train")
    assert [source.name(index) for index in range(len(source))] == [
        "train/f.0.png",
        "train/f.1.png",
        "train/f.2.png",
    ]
    for index, mask in enumerate(masks):
        sample = source.read(index)
        np.testing.assert_array_equal(as_array(sample["image"]), pixels(index))
        assert sample["mask"].dtype == torch.int64
        np.testing.assert_array_equal(sample["mask"].numpy(), np.where(mask == 7, 255, mask))
    palette = Image.fromarray(masks[1], mode="L").convert("P")
    palette.putdata(masks[1].flatten().tolist())
    palette.save(tmp_path / "trainannot/f.1.png")
    np.testing.assert_array_equal(source.read(1)["mask"].numpy(), np.where(masks[1] == 7, 255, masks[1]))


@pytest.mark.parametrize(
    "listing",
    [
        "f.2.png\nf.0.png\n",
        "/SegNet/train/f.2.png /SegNet/trainannot/f.2.png\n\n/SegNet/train/f.0.png other\n",
        "f.2\nf.0",
    ],
)
def test_segmentation_listing_chooses_and_orders(tmp_path, listing):
    write_masks(tmp_path)
    (tmp_path / "trainannot/f.1.png").unlink()
    (tmp_path / "train.txt").write_text(listing)
    source = segmentation(tmp_path).split("train")
    assert [source.name(index) for index in range(len(source))] == ["train/f.2.png", "train/f.0.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_segmentation_listings_as_people_write_them(tmp_path, encoding, end):
    images = ("my photo 1.png", "a b/c.tif", "d.tiff", "Ü.jpg", "photo.2.bmp", "left.png")
    for name in images:
        write(tmp_path / "train" / name, pixels(0))
        write(tmp_path / "trainannot" / Path(name).with_suffix(".png"), np.zeros((24, 32), np.uint8))
    lines = [
        "my photo 1.png",
        "/SegNet/train/a b/c.tif /SegNet/trainannot/a b/c.png",
        "d.tif 3",
        "Ü",
        "",
        "./photo.2\ttrainannot/photo.2.png  ",
    ]
    (tmp_path / "train.txt").write_bytes(end.join(lines).encode(encoding))
    source = segmentation(tmp_path).split("train")
    assert [source.name(index) for index in range(len(source))] == [f"train/{name}" for name in images[:-1]]
    assert all(read_checked(source, index)["mask"].shape == (24, 32) for index in range(len(source)))
    (tmp_path / "train.txt").write_text("my photo 1.png\nmy photo 2.png\n")
    with pytest.raises(ValueError, match=r"train.txt' names 'my photo 2.png', but .* holds no such image"):
        segmentation(tmp_path).split("train")


def test_two_images_of_one_stem_are_never_dropped(tmp_path):
    write_masks(tmp_path)
    Image.fromarray(pixels(0)).save(tmp_path / "train/f.0.jpg")
    problem = r"train' holds f.0.jpg and f.0.png, which would share one mask: keep one of them"
    with pytest.raises(ValueError, match=problem):
        segmentation(tmp_path).split("train")
    (tmp_path / "train.txt").write_text("f.1\nf.0\n")
    with pytest.raises(ValueError, match=problem):
        segmentation(tmp_path).split("train")
    # Where the listing says which, there is nothing to guess.
    (tmp_path / "train.txt").write_text("f.1\nf.0.jpg\n")
    source = segmentation(tmp_path).split("train")
    assert [source.name(index) for index in range(len(source))] == ["train/f.1.png", "train/f.0.jpg"]
    (tmp_path / "train.txt").write_text("f.0.png\nf.0.jpg\n")
    with pytest.raises(ValueError, match=r"f.0.png and f.0.jpg, which would share one mask"):
        segmentation(tmp_path).split("train")


def test_masks_fit_the_stored_pixels_of_turned_photos(tmp_path):
    write_masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(0)).save(tmp_path / "train/f.0.png", exif=exif)
    sample = read_checked(segmentation(tmp_path).split("train"), 0)
    np.testing.assert_array_equal(as_array(sample["image"]), pixels(0))


def test_masks_with_foreign_values_or_another_size(tmp_path):
    write_masks(tmp_path, ignored=9)
    source = segmentation(tmp_path).split("train")
    with pytest.raises(
        UnreadableSample, match=r"f.0.png: mask holds 9, must be within 0..2 .*ignore_index \(=7\)"
    ):
        source.read(0)
    write(tmp_path / "trainannot/f.1.png", np.zeros((24, 30), np.uint8))
    with pytest.raises(UnreadableSample, match=r"train/f.1.png: mask is 30x24 but the image is 32x24"):
        read_checked(source, 1)
    write(tmp_path / "trainannot/f.2.png", pixels(0))
    with pytest.raises(UnreadableSample, match=r"f.2.png: mask is of mode RGB"):
        source.read(2)


def test_check_stops_at_a_wrong_label(tmp_path):
    for split in ("train", "val"):
        write_masks(tmp_path, split)
    assert segmentation(tmp_path, crop=8).check(["train", "val"]) == {"train": [], "val": []}
    write(tmp_path / "valannot/f.1.png", np.full((24, 32), 3, np.uint8))
    with pytest.raises(
        ValueError, match=r"split 'val': .*valannot/f.1.png: mask holds 3.*Correct the labels"
    ):
        segmentation(tmp_path, crop=8).check(["train", "val"])


def test_mixed_sizes_are_found_by_check_and_by_the_batch(tmp_path):
    write(tmp_path / "a.png", pixels(0, 24, 32))
    write(tmp_path / "b.png", pixels(0, 32, 24))
    common = {"batch_size": 2, "num_workers": 0, "folders": {"train": ".", "val": "."}}
    module = ImageFolder(tmp_path, **common)
    with pytest.raises(
        ValueError, match=r"a.png is 32x24 and b.png is 24x32, but batches hold 2 .*: give `crop`"
    ):
        module.check(["train"])
    with pytest.raises(ValueError, match=r"differ in size \(.*32x24.*\): give `crop`"):
        stage_batches(module, num_batches=1)
    assert module.check(["val"]) == {"val": []}  # evaluated one by one
    module = ImageFolder(tmp_path, **common, eval_batch_size=2)
    with pytest.raises(ValueError, match=r"split 'val'.*give `eval_size`, or eval_batch_size=1"):
        module.check(["val"])
    with pytest.raises(ValueError, match="eval_batch_size=1"):
        list(module.val_dataloader())
    assert ImageFolder(tmp_path, **common, crop=16, eval_size=16).check(["train", "val"]) == {
        "train": [],
        "val": [],
    }


KINDS = {
    ImageFolder: {},
    ClassFolders: {},
    SegmentationFolders: {"names": NAMES},
    VOCDetection: {"names": NAMES},
    COCODetection: {"splits": {"train": "train", "test": "val"}},
    CSVLabels: {"columns": {"class": ClassColumn("class")}},
    CelebAMaskHQ: {},
}
"""Data sets on disk, and the arguments that they need besides their root."""


@pytest.mark.parametrize("kind", KINDS)
def test_missing_roots(tmp_path, kind):
    options = {"batch_size": 1} | KINDS[kind]
    with pytest.raises(ValueError, match=r"root is '.*nowhere', which does not exist: give the folder"):
        kind(tmp_path / "nowhere", **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"root is '.*file', which is a file"):
        kind(tmp_path / "file", **options)


def test_image_folder_says_what_is_missing(tmp_path):
    def folder(**options):
        return ImageFolder(tmp_path, batch_size=1, **options)

    with pytest.raises(ValueError, match=r"gives split 'train' none of its images \(found: 0\)"):
        folder().check()
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train' of split 'train' holds no image files"):
        folder().check()
    with pytest.raises(ValueError, match=r"has no split 'val', only \['train'\]"):
        folder().split("val")
    with pytest.raises(ValueError, match=r"folders\['val'\] is '.*nope', must be a folder in the root"):
        folder(folders={"val": "nope"})
    with pytest.raises(ValueError, match=r"folders names \['dev'\], must name some of train, val, test"):
        folder(folders={"dev": "train"})
    for fractions in ((0.5, 0.5), (1.5, -0.5, 0), (0.5, 0.1, 0.1)):
        with pytest.raises(ValueError, match=r"split_fractions is .* with sum 1"):
            folder(split_fractions=fractions)


def test_class_folders_say_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"has the split folders \[\], must have train and at least one"):
        ClassFolders(tmp_path, batch_size=1)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="train' holds no class folders"):
        ClassFolders(tmp_path, batch_size=1)
    write_classes(tmp_path, "train", {"ape": 1})
    write_classes(tmp_path, "val", {"yak": 1})
    with pytest.raises(ValueError, match="holds the class 'yak', which train does not have"):
        ClassFolders(tmp_path, batch_size=1).split("test")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="test' holds no images for split 'test'"):
        ClassFolders(tmp_path, batch_size=1).split("test")
    with pytest.raises(ValueError, match="val_fraction is 0"):
        ClassFolders(tmp_path, batch_size=1, val_fraction=0)


def test_segmentation_folders_say_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' needs the folder '.*train'"):
        segmentation(tmp_path).split("train")
    (tmp_path / "train").mkdir()
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(ValueError, match="split 'train' is empty"):
        segmentation(tmp_path).split("train")
    write(tmp_path / "train/a.webp", pixels(0))
    with pytest.raises(ValueError, match=r"image train/a.webp has no mask trainannot/a.png"):
        segmentation(tmp_path).split("train")
    (tmp_path / "train.txt").write_text("b\n")
    with pytest.raises(ValueError, match=r"train.txt' names 'b', but .* holds no such image"):
        segmentation(tmp_path).split("train")
    with pytest.raises(ValueError, match="ignore_index is 256"):
        segmentation(tmp_path, ignore_index=256)
    with pytest.raises(ValueError, match="names lists 0 classes"):
        segmentation(tmp_path, names=[])
    with pytest.raises(ValueError, match=r"mirror holds \(0, 3\), must be pairs of indices within 0..2"):
        segmentation(tmp_path, mirror=[[0, 3]])


# Links, names, and what is left out


def names_of(source):
    return [source.name(index) for index in range(len(source))]


def test_loops_of_links_count_every_picture_once(tmp_path):
    """And bring no split, and no class, into another."""
    write_classes(tmp_path, "train", {"ape": 2, "zebra": 2})
    write_classes(tmp_path, "test", {"ape": 1, "zebra": 1})
    for folder, target in (("train/ape", "../.."), ("train/ape", ".."), ("train", "."), ("test/zebra", "..")):
        (tmp_path / folder / f"to{target.replace('/', '')}").symlink_to(target)
    train = [f"train/{name}/{number}.png" for name in ("ape", "zebra") for number in range(2)]
    assert names_of(ImageFolder(tmp_path, batch_size=1).split("train")) == train
    (tmp_path / "train/to.").unlink()  # it would be a class
    source = ClassFolders(tmp_path, batch_size=1, val_fraction=0.01).split("train")
    assert names_of(source) == train
    assert source.classes == [0, 0, 1, 1]
    write_masks(tmp_path / "streets")
    (tmp_path / "streets/train/up").symlink_to("..")
    assert len(segmentation(tmp_path / "streets").split("train")) == 3
    flat = ImageFolder(tmp_path / "streets/train", batch_size=1, split_fractions=(0, 0, 1)).split("test")
    assert names_of(flat) == ["f.0.png", "f.1.png", "f.2.png"]


def test_class_folders_may_be_links(tmp_path):
    write_classes(tmp_path, "pool", {"ape": 2, "zebra": 1})
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("ape", "zebra"):
            (tmp_path / split / name).symlink_to(f"../pool/{name}")
    source = ClassFolders(tmp_path, batch_size=1).split("test")
    assert names_of(source) == ["test/ape/0.png", "test/ape/1.png", "test/zebra/0.png"]


def test_names_that_are_no_utf8_are_read_and_shown(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    for folder in ("images", "train/k\udce9y", "test/k\udce9y", "masks/train"):
        write(tmp_path / folder / name, pixels(0))
    write(tmp_path / "masks/trainannot" / name, np.zeros((24, 32), np.uint8))
    (tmp_path / "masks/train.txt").write_bytes(b"caf\xe9\n")
    for module, split, expected in (
        (ImageFolder(tmp_path / "images", batch_size=1, split_fractions=(0, 0, 1)), "test", r"caf\xe9\n.png"),
        (ClassFolders(tmp_path, batch_size=1), "test", r"test/k\xe9y/caf\xe9\n.png"),
    ):
        source = module.split(split)
        assert names_of(source) == [expected]
        np.testing.assert_array_equal(as_array(read_checked(source, 0)["image"]), pixels(0))
    assert module.labels["class"].names == (r"k\xe9y",)
    for folder, suffix in (("train", ".png"), ("trainannot", ".png")):
        file = tmp_path / "masks" / folder / name
        file.rename(file.with_name(os.fsdecode(b"caf\xe9" + suffix.encode())))
    assert names_of(segmentation(tmp_path / "masks").split("train")) == [r"train/caf\xe9.png"]
    (tmp_path / "images" / name).write_bytes(b"?")
    with pytest.raises(UnreadableSample, match=r"images/caf\\xe9\\n.png: not a picture"):
        ImageFolder(tmp_path / "images", batch_size=1, split_fractions=(0, 0, 1)).split("test").read(0)
    assert 0 <= place_in_split(name) < 1


def test_what_is_left_out_is_told_once(tmp_path, capsys):
    for number in range(20):
        write(tmp_path / "flat" / f"{number}.png", pixels(number))
    for name in ("a.jxl", "sub/b.jxl", "c.svg", "notes.txt", ".d.jxl"):
        (tmp_path / "flat" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "flat" / name).touch()
    line = f"{tmp_path / 'flat'}: left out: 2 .jxl, 1 .svg"
    module = ImageFolder(tmp_path / "flat", batch_size=1, split_fractions=(0.5, 0.2, 0.3))
    module.check()
    assert capsys.readouterr().err == f"{line}\n"
    write_classes(tmp_path, "train", {"ape": 1})
    write_classes(tmp_path, "test", {"ape": 1})
    write(tmp_path / "test/stray.png", pixels(0))
    ClassFolders(tmp_path, batch_size=1).split("test")
    assert capsys.readouterr().err == f"{tmp_path / 'test'}: left out: 1 outside the class folders\n"
    # Where nothing else is there, the error says so.
    (tmp_path / "none/train").mkdir(parents=True)
    (tmp_path / "none/train/a.jxl").touch()
    with pytest.raises(ValueError, match=r"holds no image files: put images there. .*left out: 1 .jxl"):
        ImageFolder(tmp_path / "none", batch_size=1).split("train")


# Configs


@pytest.mark.parametrize("kind", [*KINDS, TorchvisionSet])
def test_all_loading_options_of_the_base_are_there(kind):
    own = inspect.signature(kind).parameters
    for name, parameter in inspect.signature(ImageDataModule).parameters.items():
        assert own[name].default == parameter.default, name
        assert own[name].kind == inspect.Parameter.KEYWORD_ONLY, name


@pytest.mark.parametrize(
    "name", ["image_folder", "class_folders", "camvid", "scenes6", "voc_detection", "bccd", "coco"]
)
def test_configs_build(tmp_path, name):
    write_classes(tmp_path, "train", {"ape": 1})
    write_classes(tmp_path, "val", {"ape": 1})
    config = OmegaConf.load(Path(__file__).parent.parent / "configs" / "data" / f"{name}.yaml")
    assert OmegaConf.is_missing(config, "root")
    config.root = str(tmp_path)
    module = instantiate(config)
    assert isinstance(module, ImageDataModule)
    if name == "camvid":
        assert len(module.labels["mask"].names) == 11
        assert module.ignore_index == 11
