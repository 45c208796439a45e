"""Data sets of boxes: portraits written out as VOC and COCO lay them out and read back, and bad input."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.base import ImageDataModule
from datamodules.coco_detection import COCODetection
from datamodules.portraits import Portraits
from datamodules.source import InvalidLabel, Source, read_checked
from datamodules.voc_detection import VOCDetection

SIZE = 96
COUNTS = {"train": 12, "val": 3, "test": 4}


@cache
def portraits() -> Portraits:
    counts = {f"num_{split}": count for split, count in COUNTS.items()}
    return Portraits(size=SIZE, **counts, num_identities=4, batch_size=1)


def names() -> Sequence[str]:
    return portraits().labels["boxes"].names


def write_picture(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def stems(split: str) -> list[str]:
    return [f"{split}_{index:03d}" for index in range(COUNTS[split])]


def voc_object(name: str, box: Sequence[float], difficult: int = 0) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True)
    sides = "".join(f"<{key}>{side}</{key}>" for key, side in corners)
    part = "<part><name>nothing</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object>\n<name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{part}\n</object>\n"


def write_voc(root: Path, *, lists: Sequence[str] = ("train", "val", "test")) -> Path:
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    for split in COUNTS:
        source = portraits().split(split)
        for index, name in enumerate(stems(split)):
            sample = source.read(index)
            write_picture(root / f"JPEGImages/{name}.png", sample["image"])
            pairs = zip(sample["box_class"].tolist(), sample["boxes"].tolist(), strict=True)
            things = "".join(voc_object(names()[kind], box) for kind, box in pairs)
            sides = f"<size><width>{SIZE}</width><height>{SIZE}</height></size>"
            (root / f"Annotations/{name}.xml").write_text(f"<annotation>\n{sides}\n{things}</annotation>\n")
        if split in lists:
            (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in stems(split)))
    return root


def coco_content(split: str) -> dict:
    """Ids out of order, and with gaps, as COCO's are."""
    ids = {index: 90 - 3 * index for index in range(len(names()))}
    images, annotations = [], []
    for index, name in enumerate(stems(split)):
        sample = portraits().split(split).read(index)
        images.append({"id": 500 - index, "file_name": f"{name}.png", "width": SIZE, "height": SIZE})
        for kind, (x0, y0, x1, y1) in zip(
            sample["box_class"].tolist(), sample["boxes"].tolist(), strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": ids[kind], "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": 500 - index, **box})
    categories = [{"id": ids[index], "name": name} for index, name in enumerate(names())]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, **changed) -> Path:
    for split in COUNTS:
        for index, name in enumerate(stems(split)):
            write_picture(root / f"{split}/{name}.png", portraits().split(split).read(index)["image"])
        content = changed.get(split) or coco_content(split)
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def voc(root: Path, **options) -> VOCDetection:
    return VOCDetection(root, **{"names": names(), "batch_size": 4, "crop": 32, "num_workers": 0, **options})


def coco(root: Path, **options) -> COCODetection:
    splits = {"splits": {split: split for split in COUNTS}}
    return COCODetection(root, **{"batch_size": 4, "crop": 32, "num_workers": 0, **splits, **options})


def read_all(source: Source) -> dict[str, dict[str, torch.Tensor]]:
    samples = {source.name(index): read_checked(source, index) for index in range(len(source))}
    return {Path(name).stem: sample for name, sample in samples.items()}


@pytest.mark.parametrize(("write", "read"), [(write_voc, voc), (write_coco, coco)])
def test_portraits_are_read_back_as_written(tmp_path, write, read):
    module: ImageDataModule = read(write(tmp_path))
    assert module.check() == {"train": [], "val": [], "test": []}
    published = module.labels["boxes"].names
    assert sorted(published) == sorted(names())
    for split in COUNTS:
        found = read_all(module.split(split))
        assert list(found) == stems(split)
        for index, sample in enumerate(found.values()):
            written = portraits().split(split).read(index)
            assert torch.equal(sample["image"], written["image"])
            torch.testing.assert_close(sample["boxes"], written["boxes"])
            assert [published[i] for i in sample["box_class"]] == [names()[i] for i in written["box_class"]]
    (batch,) = list(module.for_stage(num_batches=1, seed=0).train_dataloader())
    assert batch["image"].shape == (4, 3, 32, 32)
    for boxes in batch["boxes"]:
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.min() >= 0
        assert boxes.max() <= 32


@pytest.mark.parametrize("fold", range(5))
def test_five_folds_share_out_all_pictures_by_name(tmp_path, fold):
    write_voc(tmp_path)
    tests = [set(read_all(voc(tmp_path, fold=k).split("test"))) for k in range(5)]
    everything = {name for split in COUNTS for name in stems(split)}
    assert sum(map(len, tests)) == len(everything)
    assert set().union(*tests) == everything
    assert {len(names) for names in tests} == {3, 4}
    shares = {split: set(read_all(voc(tmp_path, fold=fold).split(split))) for split in COUNTS}
    assert shares["test"] == tests[fold]
    assert shares["train"] | shares["val"] == everything - tests[fold]
    assert shares["val"]
    assert not shares["train"] & shares["val"]
    # Neither the lists' order nor where a picture is listed counts.
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("\n".join(sorted(everything, reverse=True)))
    for split in COUNTS:
        (tmp_path / f"ImageSets/Main/{split}.txt").unlink()
    assert set(read_all(voc(tmp_path, fold=fold).split("test"))) == tests[fold]


def test_without_a_third_split_a_part_of_train_is_held_out(tmp_path):
    (tmp_path / "voc").mkdir()
    modules = [
        voc(write_voc(tmp_path / "voc", lists=("train", "val")), val_fraction=0.4),
        coco(write_coco(tmp_path / "coco"), splits={"train": "train", "test": "val"}, val_fraction=0.4),
    ]
    for module in modules:
        shares = {split: set(read_all(module.split(split))) for split in COUNTS}
        assert shares["test"] == set(stems("val"))
        assert shares["train"] | shares["val"] == set(stems("train"))
        assert not shares["train"] & shares["val"]
        assert min(map(len, shares.values())) > 0


def change_annotation(root: Path, name: str, things: str) -> None:
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>\n{things}</annotation>\n")


def test_voc_boxes_without_area_and_difficult_ones_are_counted(tmp_path, capsys):
    write_voc(tmp_path)
    kind = names()[0]
    boxes = [(4, 4, 20, 20), (5, 5, 5, 20), (5, 20, 9, 12)]
    hard = voc_object(kind, (8, 8, 30, 30), difficult=1)
    change_annotation(tmp_path, "train_000", "".join(voc_object(kind, box) for box in boxes) + hard)
    change_annotation(tmp_path, "train_001", hard)
    found = read_all(voc(tmp_path).split("train"))
    line = f"{tmp_path / 'Annotations'}: left out: 2 boxes without area, 2 difficult objects\n"
    assert capsys.readouterr().err == line
    assert found["train_000"]["boxes"].tolist() == [[4, 4, 20, 20]]
    assert found["train_001"]["boxes"].shape == (0, 4)  # no boxes is not the same as no label
    kept = read_all(voc(tmp_path, difficult=True).split("train"))
    assert [len(kept[f"train_00{i}"]["boxes"]) for i in (0, 1)] == [2, 1]


def test_boxes_are_cut_at_the_border_and_refused_beyond(tmp_path):
    write_voc(tmp_path)
    kind = names()[0]
    change_annotation(tmp_path, "train_000", voc_object(kind, (-1, 40, 20, SIZE + 3)))
    change_annotation(tmp_path, "train_001", voc_object(kind, (100, 100, 110, 110)))
    change_annotation(tmp_path, "train_002", f"<size><width>9</width><height>{SIZE}</height></size>")
    source = voc(tmp_path).split("train")
    assert source.read(0)["boxes"].tolist() == [[0, 40, 20, SIZE]]
    with pytest.raises(
        InvalidLabel, match=r"train_001.png is 96x96, but the box \[100.0, 100.0, 110.0, 110.0\] lies"
    ):
        source.read(1)
    with pytest.raises(InvalidLabel, match="train_002.png is 96x96, but its boxes are for 9x96 pixels"):
        source.read(2)
    with pytest.raises(ValueError, match="split 'train': .*train_001.png is 96x96"):
        voc(tmp_path).check()


def test_voc_says_what_is_wrong(tmp_path):
    write_voc(tmp_path)
    kind, good = names()[0], (4, 4, 20, 20)

    def refused(message: str, split: str = "train", **options) -> None:
        with pytest.raises(ValueError, match=message):
            voc(tmp_path, **options).split(split)

    change_annotation(tmp_path, "test_000", voc_object(kind, good) + voc_object("fcae", good))
    change_annotation(tmp_path, "test_001", "<object><name>x</name></object>\n" * 2)
    refused(
        r"Annotations/test_000.xml line 5: class 'fcae' is none of \['face'.*; Annotations/test_001.xml line 2: class "
        r"'x' .*; Annotations/test_001.xml line 3: .*: correct the annotations",
        "test",
    )
    change_annotation(tmp_path, "test_002", "<object><name>x</name></object>\n" * 7)
    refused(
        "; and 7 more: correct the annotations, or `names`, or take the pictures out of the lists", "test"
    )
    change_annotation(
        tmp_path, "val_000", f"<object><name>{kind}</name><bndbox><xmin>a</xmin></bndbox></object>"
    )
    (tmp_path / "Annotations/val_001.xml").write_text("<annotation>\n<object>")
    refused(
        "val_000.xml line 2: its bndbox has no four numbers; Annotations/val_001.xml: damaged: .* line 2",
        "val",
    )
    (tmp_path / "Annotations/train_003.xml").unlink()
    (tmp_path / "JPEGImages/train_004.png").unlink()
    with (tmp_path / "ImageSets/Main/train.txt").open("a") as file:
        file.write("\n\ntrain_001\n")
    refused(
        "train.txt line 4 names 'train_003', which has no file Annotations/train_003.xml; .*train.txt line 5 names "
        "'train_004', which has no picture in JPEGImages; .* line 15 names 'train_001', as line 2 does: correct"
    )
    (tmp_path / "ImageSets/Main/train.txt").write_text("train_000\ntest_000\n")
    refused("test.txt names 'test_000', which is in train.txt, too: keep splits apart")
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    refused(
        r"lists \['test', 'val'\], must have train.txt and at least one of val.txt and test.txt; or give fold"
    )
    write_picture(tmp_path / "JPEGImages/val_002.jpg", torch.zeros(3, 9, 9, dtype=torch.uint8))
    refused("val_002.jpg and JPEGImages/val_002.png share one name: keep one picture")
    with pytest.raises(ValueError, match="fold is 5, must be within 0..4, or null"):
        voc(tmp_path, fold=5)
    with pytest.raises(ValueError, match=r"names is \['a', 'a'\], must list each class once"):
        voc(tmp_path, names=["a", "a"])


def test_coco_says_what_is_wrong(tmp_path):
    content = coco_content("train")
    images, annotations = content["images"], content["annotations"]
    images.append({**images[0], "file_name": "other.png"})
    images.append({"id": 7, "file_name": "absent.png"})
    for change in ({"id": 0}, {"image_id": 8}, {"category_id": 1}, {"bbox": [1, 2, 3]}):
        annotations.append({**annotations[0], "id": 1000 + len(annotations), **change})
    write_coco(tmp_path, train=content)

    def refused(message: str, split: str = "train", **options) -> None:
        with pytest.raises(ValueError, match=message):
            coco(tmp_path, **options).split(split)

    refused(
        r"instances_train.json': image 500 \(other.png\) is there twice; .*image 7 is train/absent.png, which is no "
        r"file; .*annotation 0 is there twice; and 3 more: correct the file"
    )
    del images[-2:]
    annotations.pop(-4)
    write_coco(tmp_path, train=content)
    refused(
        "annotation .* is of image 8, which is not there; .* is of category 1, which is not there; .* has the bbox "
        r"\[1.0, 2.0, 3.0\], not x, y, width, height: correct"
    )
    other = coco_content("test")
    other["categories"][0]["name"] = "head"
    write_coco(tmp_path, test=other)
    refused("has the categories .*'head'.*: they must be the same", "test")
    other["categories"].append(other["categories"][0])
    write_coco(tmp_path, test=other)
    refused("has the category id 90 twice", "test")
    (tmp_path / "instances_val.json").write_text("{")
    refused("instances_val.json' is no JSON", "val")
    (tmp_path / "instances_val.json").write_text("{}")
    refused(r"lacks \['images', 'annotations', 'categories'\]", "val")
    refused("needs the file .*nowhere_train.json': No such file", annotations="nowhere_{name}.json")
    with pytest.raises(ValueError, match=r"splits names \['train'\], must name train, test"):
        coco(tmp_path, splits={"train": "train"})


def test_coco_crowds_and_boxes_without_area_are_counted(tmp_path, capsys):
    content = coco_content("train")
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 2000, "iscrowd": 1},
        {**first, "id": 2001, "bbox": [3, 3, 0, 5]},
        {**first, "id": 2002, "bbox": [3, 3, 5, -1]},
    ]
    content["images"].append({"id": 1, "file_name": "empty.png"})
    write_picture(tmp_path / "train/empty.png", torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    write_coco(tmp_path, train=content)
    source = coco(tmp_path).split("train")
    assert capsys.readouterr().err.endswith(
        "instances_train.json: left out: 2 boxes without area, 1 crowds\n"
    )
    found = read_all(source)
    assert found["empty"]["boxes"].shape == (0, 4)
    assert len(found["train_000"]["boxes"]) == len(portraits().split("train").read(0)["boxes"])
