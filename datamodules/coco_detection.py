"""COCODetection: pictures in a folder and their boxes in one JSON file, as COCO lays them out."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from datamodules.base import ImageDataModule, Split
from datamodules.boxed_files import Boxed, BoxedFiles, refuse
from datamodules.files import checked_root, place_in_split
from datamodules.samples import Label
from pictures.finding import said
from pictures.names import shown


@dataclass(kw_only=True, eq=False)
class COCODetection(ImageDataModule):
    """Pictures with boxes; publishes ``boxes``, classes in the order of their ids::

        instances_<name>.json    images, categories and annotations of one split
        <name>/FILE              its pictures

    Boxes without area are left out and counted, and so are crowds (``iscrowd``): detections in a crowd then count as
    wrong ones, while COCO's own tools leave them out. Where no split is val, a part of train, chosen by name, is held
    out.

    Args:
        root: folder of the data set.
        splits: {train, val, test: name}, val optional; of COCO itself {train: train2017, test: val2017}.
        annotations: path of a split's file; ``{name}`` stands for its name.
        images: folder of a split's pictures, likewise.
        val_fraction: share of train that is held out as val where ``splits`` names none.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or an argument is out of its range. Files that are not there or contradict
            themselves or one another raise when a split, or ``labels``, is asked for.
    """

    root: str | Path = field(kw_only=False)
    splits: Mapping[str, str]
    annotations: str = "instances_{name}.json"
    images: str = "{name}"
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.splits = dict(self.splits)
        if not {"train", "test"} <= set(self.splits) <= {"train", "val", "test"}:
            raise ValueError(f"splits names {sorted(self.splits)}, must name train, test and perhaps val")
        if len(set(self.splits.values())) < len(self.splits):
            raise ValueError(f"splits is {self.splits}: keep them apart")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, must be within 0..1, both excluded")
        self.root = checked_root(self.root)
        self._contents: dict[str, dict[str, Any]] = {}

    @property
    def labels(self) -> dict[str, Label]:
        """``boxes``: the categories of train."""
        return {"boxes": self.label}

    @cached_property
    def label(self) -> Label:
        """The categories of train, in the order of their ids."""
        return Label("boxes", tuple(self._categories("train").values()))

    def source(self, split: Split) -> BoxedFiles:
        """Reads the annotations of a split.

        Raises:
            ValueError: a picture is missing, ids are not unique or lead nowhere, or categories differ from train's.
        """
        held_out = "val" not in self.splits
        given = "train" if split == "val" and held_out else split
        categories = self._categories(given)
        if tuple(categories.values()) != self.label.names:
            raise ValueError(
                f"{self._file(given)!r} has the categories {list(categories.values())}, {self._file('train')!r} "
                f"{list(self.label.names)}: they must be the same, by the order of their ids"
            )
        dropped: Counter[str] = Counter()
        files = self._boxed(given, list(categories), dropped)
        if given == "train" and held_out:
            files = [f for f in files if (place_in_split(f.file) < self.val_fraction) == (split == "val")]
        return BoxedFiles(self.root, files, self.label, said(Path(self._file(given)), dropped))

    def _file(self, split: str) -> str:
        return str(self.root / self.annotations.format(name=self.splits[split]))

    def _content(self, split: str) -> dict[str, Any]:
        if split not in self._contents:
            path = self._file(split)
            try:
                content = json.loads(Path(path).read_bytes())
            except OSError as error:
                raise ValueError(
                    f"split {split!r} needs the file {path!r}: {error.strerror}; check `splits` and `annotations`"
                ) from error
            except ValueError as error:
                raise ValueError(f"{path!r} is no JSON: {error}") from error
            lacking = [k for k in ("images", "annotations", "categories") if k not in content]
            if lacking:
                raise ValueError(f"{path!r} lacks {lacking}: give a file of COCO's instances")
            self._contents[split] = content
        return self._contents[split]

    def _categories(self, split: str) -> dict[int, str]:
        """{id: name}, by id."""
        categories = sorted((int(c["id"]), str(c["name"])) for c in self._content(split)["categories"])
        for what, values in zip(("id", "name"), zip(*categories, strict=True), strict=False):
            problems = [f"{what} {value!r} twice" for value, count in Counter(values).items() if count > 1]
            refuse(
                [f"{self._file(split)!r} has the category {p}" for p in problems], "give each category once"
            )
        if not categories:
            raise ValueError(f"{self._file(split)!r} has no categories: they name the classes")
        return dict(categories)

    def _boxed(self, split: str, ids: list[int], dropped: Counter[str]) -> list[Boxed]:
        """Every picture of a split's file with its boxes, by file name."""
        content, folder = self._content(split), self.images.format(name=self.splits[split])
        numbers = {identity: place for place, identity in enumerate(ids)}
        problems: list[str] = []
        pictures: dict[Any, Mapping[str, Any]] = {}
        names: set[str] = set()
        for picture in content["images"]:
            if picture["id"] in pictures or picture["file_name"] in names:
                problems.append(f"image {picture['id']} ({shown(picture['file_name'])}) is there twice")
            elif not (self.root / folder / picture["file_name"]).is_file():
                problems.append(
                    f"image {picture['id']} is {folder}/{shown(picture['file_name'])}, which is no file"
                )
            pictures[picture["id"]] = picture
            names.add(picture["file_name"])
        boxes: dict[Any, list[tuple[list[float], int]]] = {identity: [] for identity in pictures}
        seen: set[Any] = set()
        for number, annotation in enumerate(content["annotations"]):
            place = f"annotation {annotation.get('id', f'at place {number}')}"
            box = [float(side) for side in annotation.get("bbox", ())]
            if annotation.get("id") in seen:
                problems.append(f"{place} is there twice")
            elif annotation["image_id"] not in boxes:
                problems.append(f"{place} is of image {annotation['image_id']}, which is not there")
            elif annotation["category_id"] not in numbers:
                problems.append(f"{place} is of category {annotation['category_id']}, which is not there")
            elif len(box) != 4 or not all(map(math.isfinite, box)):
                problems.append(f"{place} has the bbox {box}, not x, y, width, height")
            elif annotation.get("iscrowd"):
                dropped["crowds"] += 1
            elif min(box[2:]) <= 0:
                dropped["boxes without area"] += 1
            else:
                corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
                boxes[annotation["image_id"]].append((corners, numbers[annotation["category_id"]]))
            if "id" in annotation:
                seen.add(annotation["id"])
        refuse([f"{self._file(split)!r}: {p}" for p in problems], "correct the file, or add what is missing")
        files = []
        for identity, picture in sorted(pictures.items(), key=lambda pair: pair[1]["file_name"]):
            size = (picture.get("height"), picture.get("width"))
            files.append(
                Boxed(
                    f"{folder}/{picture['file_name']}",
                    torch.tensor([corners for corners, _ in boxes[identity]]).reshape(-1, 4),
                    torch.tensor([number for _, number in boxes[identity]], dtype=torch.int64),
                    size if all(size) else None,
                )
            )
        return files
