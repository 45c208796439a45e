"""Labels from tables: read as written, shared out, moved along with the picture; bad rows are told by their lines."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.columns import AttributeColumns, ClassColumn, LandmarkColumns, NumberColumn
from datamodules.csv_labels import CSVLabels
from datamodules.portraits import Portraits
from datamodules.source import InvalidLabel
from datamodules.tables import read_table
from tests.conftest import component

HEADER = "file,split,kind,age,hat,beard,x0,y0,x1,y1"
ROWS = ("a.png,train,dog,31,1,0,4,5,9.5,6", "b.png,val,cat,,0,,1,2,,", "c.png,test,,2.4,,1,0,0,3,3")


def write(root, rows=ROWS, header=HEADER, size=(24, 20), files=None):
    (root / "images").mkdir(exist_ok=True)
    for number, name in enumerate(files or [row.split(",")[0] for row in rows]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    lines = ([] if header is None else [header]) + list(rows)
    (root / "index.csv").write_text("\n".join(lines) + "\n")


def columns(**options):
    return {
        "class": ClassColumn("kind"),
        "age": NumberColumn("age", low=0, high=50),
        "attributes": AttributeColumns(["hat", "beard"]),
        "landmarks": LandmarkColumns(2, mirror=[[0, 1]], **options),
    }


def module(root, **options):
    return CSVLabels(root, **{"columns": columns(), "batch_size": 1, "num_workers": 0} | options)


def only(root, split="train", **options):
    return module(root, **options).split(split).read(0)


def test_cells_are_read_and_empty_ones_are_missing(tmp_path):
    write(tmp_path)
    data = module(tmp_path)
    assert data.check() == {"train": [], "val": [], "test": []}
    assert {key: label.kind for key, label in data.labels.items()} == {
        "class": "class", "age": "class", "attributes": "attributes", "landmarks": "landmarks",
    }  # fmt: skip
    assert data.labels["class"].names == ("cat", "dog")
    assert data.labels["age"].names == tuple(map(str, range(51)))
    assert data.labels["landmarks"].mirror == ((0, 1),)
    samples = [data.split(split).read(0) for split in ("train", "val", "test")]
    assert [int(s["class"]) for s in samples] == [1, 0, -1]
    assert [int(s["age"]) for s in samples] == [31, -1, 2]
    assert [s["attributes"].tolist() for s in samples] == [[1, 0], [0, -1], [-1, 1]]
    assert samples[0]["landmarks"].tolist() == [[4, 5], [9.5, 6]]
    assert samples[1]["landmarks"][0].tolist() == [1, 2]
    assert samples[1]["landmarks"][1].isnan().all()
    assert data.split("val").name(0) == "b.png"
    pixels = np.asarray(Image.open(tmp_path / "images/b.png"))
    assert np.array_equal(samples[1]["image"].permute(1, 2, 0).numpy(), pixels)


def test_portraits_written_as_a_table_come_back(tmp_path):
    portraits = Portraits(size=32, num_train=6, num_val=2, num_test=2, num_identities=3, batch_size=2)
    labels = portraits.labels
    points, facts = labels["landmarks"].names, labels["attributes"].names
    (tmp_path / "images").mkdir()
    with open(tmp_path / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        places = [f"{point}_{axis}" for point in points for axis in "xy"]
        writer.writerow(["file", "split", "person", *facts, *places])
        for split in ("train", "val", "test"):
            source = portraits.split(split)
            for index in range(len(source)):
                sample, name = source.read(index), f"{split}-{index}.png"
                Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(tmp_path / "images" / name)
                row = [labels["identity"].names[sample["identity"]], *sample["attributes"].tolist()]
                writer.writerow([name, split, *row, *sample["landmarks"].flatten().tolist()])
    data = module(
        tmp_path,
        columns={
            "identity": ClassColumn("person", names=labels["identity"].names),
            "attributes": AttributeColumns(facts, mirror=labels["attributes"].mirror),
            "landmarks": LandmarkColumns(
                points, x="{}_x", y="{}_y", mirror=labels["landmarks"].mirror, tolerance=None
            ),
        },
    )
    assert data.labels == {key: labels[key] for key in ("identity", "attributes", "landmarks")}
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        source = data.split(split)
        assert len(source) == count
        for index in range(count):
            expected = portraits.split(split).read(index)
            for key, value in source.read(index).items():
                assert torch.equal(value, expected[key]), key


def test_normalised_points_and_points_counted_from_one(tmp_path):
    write(tmp_path, ["a.png,0.5,0.5,0,1"], "file,x0,y0,x1,y1")
    options = {"split_column": None, "split_fractions": (1, 0, 0)}
    shares = only(tmp_path, columns={"landmarks": LandmarkColumns(2, normalised=True)}, **options)
    assert shares["landmarks"].tolist() == [
        [11.5, 9.5],
        [-0.5, 19.5],
    ]  # of 24 x 20: middle, lower left corner
    write(tmp_path, ["a.png,1,1,24,20"], "file,x0,y0,x1,y1")
    ones = only(tmp_path, columns={"landmarks": LandmarkColumns(2, origin=1)}, **options)
    assert ones["landmarks"].tolist() == [[0, 0], [23, 19]]


def test_points_move_along_when_pictures_are_resized(tmp_path):
    write(tmp_path)
    sample = only(tmp_path, resize=40)
    assert sample["image"].shape == (3, 40, 48)
    assert torch.allclose(sample["landmarks"], torch.tensor([[8.5, 10.5], [19.5, 12.5]]))
    assert sample["attributes"].tolist() == [1, 0]


def test_splits_by_file_name_stay_when_rows_go(tmp_path):
    names = [f"{number}.png" for number in range(60)]
    options = {
        "columns": {"class": ClassColumn("kind")}, "split_column": None, "split_fractions": (0.6, 0.2, 0.2),
    }  # fmt: skip
    write(tmp_path, [f"{name},dog" for name in names], "file,kind")
    before = {
        split: set(module(tmp_path, **options).split(split).files) for split in ("train", "val", "test")
    }
    assert sum(map(len, before.values())) == len(set().union(*before.values())) == 60
    write(tmp_path, [f"{name},dog" for name in names[::2]], "file,kind")
    for split, files in before.items():
        assert set(module(tmp_path, **options).split(split).files) == files & set(names[::2])


def test_some_values_of_the_split_column_are_no_split(tmp_path):
    write(tmp_path, [*ROWS, "d.png,seen,cow,3,1,1,0,0,0,0"])
    data = module(tmp_path, unused_splits=["seen"])
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [1, 1, 1]
    assert data.labels["class"].names == ("cat", "cow", "dog")  # of all rows
    with pytest.raises(ValueError, match=r"line 5: split is 'seen', must be one of train, val, test"):
        module(tmp_path)
    merged = module(tmp_path, splits={"train": ["train", "seen"], "test": ["test", "val"]})
    assert len(merged.split("train")) == len(merged.split("test")) == 2
    with pytest.raises(ValueError, match=r"no row is in split 'val'; there are {'train': 2, 'test': 2}"):
        merged.split("val")


def test_names_of_classes_from_a_file_and_by_number(tmp_path):
    write(tmp_path, ["a.png 2", "b.png 0"], header=None, files=["a.png", "b.png"])
    (tmp_path / "classes.txt").write_text("n1 tench\nn2 shark, white\nn3 hen\n\n")
    options = {
        "header": ["file", "class"], "delimiter": None, "split_column": None, "split_fractions": (0, 0, 1),
        "columns": {"class": ClassColumn("class", names_file="classes.txt", cells="index")},
    }  # fmt: skip
    data = module(tmp_path, **options)
    assert data.labels["class"].names == ("n1 tench", "n2 shark, white", "n3 hen")
    assert [int(data.split("test").read(index)["class"]) for index in range(2)] == [2, 0]
    people = ClassColumn("id").bind(read_rows(tmp_path, "id\n10\n9\n\n10\n"), tmp_path)
    assert people[0].names == ("9", "10")
    (tmp_path / "classes.txt").write_text("n1\n\nn3\n")
    with pytest.raises(ValueError, match="classes.txt, line 2: no name"):
        module(tmp_path, **options)


def read_rows(folder, text):
    (folder / "rows.csv").write_text(text)
    return read_table(folder / "rows.csv").rows


MISTAKES = {
    "no number": ("a.png,train,dog,old,1,0,4,5,9,6", r"line 2: age is 'old', must be a number"),
    "not finite": ("a.png,train,dog,1,1,0,4,inf,9,6", r"line 2: y0 is 'inf', must be a number"),
    "out of range": ("a.png,train,dog,51,1,0,4,5,9,6", r"line 2: age is 51, must be within 0..50"),
    "no answer": ("a.png,train,dog,3,maybe,0,4,5,9,6", r"line 2: hat is 'maybe', must be 1 or 0"),
    "half a point": ("a.png,train,dog,3,1,0,4,,9,6", r"line 2: point 0 has one coordinate alone"),
    "unknown split": ("a.png,dev,dog,3,1,0,4,5,9,6", r"line 2: split is 'dev', must be one of train, val"),
    "no file": (",train,dog,3,1,0,4,5,9,6", r"line 2: file is empty"),
    "a cell too few": ("a.png,train,dog,3,1,0,4,5,9", r"line 2: 9 cells, must be 10, one a column"),
}


@pytest.mark.parametrize(("row", "message"), MISTAKES.values(), ids=MISTAKES)
def test_bad_rows_are_told_by_their_line(tmp_path, row, message):
    write(tmp_path, [row, ROWS[1]], files=["a.png", "b.png"])
    with pytest.raises(ValueError, match=rf"index.csv, {message}"):
        module(tmp_path)


def test_many_bad_rows_are_counted(tmp_path):
    write(tmp_path, [f"{number}.png,train,dog,old,1,0,4,5,9,6" for number in range(9)])
    with pytest.raises(ValueError, match=r"line 2: .*; line 3: .*; line 4: .* and 6 more: correct") as error:
        module(tmp_path)
    assert "line 5" not in str(error.value)


def test_files_listed_twice_or_not_there(tmp_path):
    write(tmp_path, [*ROWS, ROWS[0]])
    with pytest.raises(ValueError, match=r"line 5: a.png is in line 2 already"):
        module(tmp_path)
    write(tmp_path)
    (tmp_path / "images/c.png").unlink()
    module(tmp_path).split("train")
    with pytest.raises(ValueError, match=r"index.csv, line 4: .*images/c.png does not exist: add the files"):
        module(tmp_path).split("test")


def test_points_outside_the_picture(tmp_path):
    write(tmp_path, ["a.png,train,dog,3,1,0,-2.8,5,25,6", *ROWS[1:]])
    assert only(tmp_path)["landmarks"][0, 0] == pytest.approx(-2.8)  # within a tenth of 24
    with pytest.raises(
        InvalidLabel, match=r"index.csv, line 2: point 0 lies at \(-2.8, 5.0\), outside the 24x20 .*\(2 of 2"
    ):
        only(tmp_path, columns=columns(tolerance=0))
    with pytest.raises(ValueError, match=r"split 'train': .*line 2: point 0 .*Correct the labels"):
        module(tmp_path, columns=columns(tolerance=0)).check()
    assert only(tmp_path, columns=columns(tolerance=None))["landmarks"][1, 0] == 25


def test_what_does_not_fit_the_table(tmp_path):
    write(tmp_path)
    for options, message in (
        ({"columns": {"class": ClassColumn("sort")}}, r"line 1: no column 'sort'; there are file, split, .*data.col"),
        ({"columns": {"p": LandmarkColumns(68)}}, r"no column 'x2', 'y2', 'x3' and 129 more"),
        ({"file_column": "path"}, r"no column 'path'.*data.file_column"),
        ({"split_column": "part"}, r"no column 'part'.*or null to share files out"),
        ({"index": "list.csv"}, r"list.csv cannot be read: No such file"),
        ({"columns": {}}, "columns is empty"),
        ({"splits": {"dev": ["dev"]}}, "splits names .'dev'."),
        ({"split_fractions": (1, 1, 0)}, "with sum 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            module(tmp_path, **options)
    for make, message in (
        (lambda: ClassColumn("a", names=["b"], names_file="c"), "not both"),
        (lambda: ClassColumn("a", cells="index"), "needs `names`"),
        (lambda: NumberColumn("a", low=0, high=5, step=2), "step=2 must lead from low=0 to high=5"),
        (lambda: LandmarkColumns(2, mirror=[[0, 2]]), r"mirror holds \(0, 2\)"),
        (lambda: LandmarkColumns(2, tolerance=-1), "tolerance=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_mirror_of_68_points_is_an_involution_that_keeps_the_middle():
    pairs = component("data", "ytfaces").columns.landmarks.mirror
    flat = [index for pair in pairs for index in pair]
    assert len(set(flat)) == len(flat) == 58
    # The chin, the ridge of the nose, and the middles of the mouth are their own partners.
    assert set(range(68)) - set(flat) == {8, *range(27, 31), 33, 51, 57, 62, 66}


def test_the_middle_of_a_photo_is_cut_out_pixel_by_pixel(tmp_path):
    write(tmp_path, ["a.png,test,1"], "file,split,class", size=(227, 227))
    (tmp_path / "classes.txt").write_text("tench\nshark\n")
    node = component("data", "imagenet_val")
    assert (node.eval_size, node.eval_crop) == (None, 224)
    data = module(
        tmp_path,
        columns={"class": ClassColumn("class", cells="index", names_file="classes.txt")},
        eval_crop=224,
        eval_batch_size=2,
    )
    (batch,) = data.test_dataloader()
    stored = np.asarray(Image.open(tmp_path / "images/a.png"))[1:225, 1:225]
    assert np.array_equal(batch["image"][0].permute(1, 2, 0).numpy(), stored)
    shared = module(tmp_path, columns=data.columns, eval_crop=0.5, eval_size=32)
    assert next(iter(shared.test_dataloader()))["image"].shape == (1, 3, 32, 32)
    for options, message in (
        ({"eval_crop": 0.5}, "a share: say in eval_size"),
        ({"eval_crop": 1.5}, "whole pixels, or a share"),
        ({"eval_crop": 0}, "eval_crop is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            module(tmp_path, columns=data.columns, **options)


def test_numbers_take_the_nearest_value():
    label, read = NumberColumn("age", low=0, high=100, step=10).bind([], None)
    assert label.names[:3] == ("0", "10", "20")
    assert [int(read({"age": cell})) for cell in ("0", "4.9", "5.1", "104", "-4", "")] == [0, 0, 1, 10, 0, -1]
    assert math.isclose(float(label.names[-1]), 100)
