"""VOCDetection: pictures with boxes as PASCAL VOC lays them out."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch

from datamodules.base import ImageDataModule, Split
from datamodules.boxed_files import Boxed, BoxedFiles, refuse
from datamodules.files import checked_root, lines_of, place_in_split
from datamodules.samples import Label
from pictures.finding import below, said
from pictures.names import shown

LISTS = "ImageSets/Main"
NUM_FOLDS = 5


@dataclass(kw_only=True, eq=False)
class VOCDetection(ImageDataModule):
    """Pictures with boxes; publishes ``boxes``::

        JPEGImages/NAME.<any image suffix>     the picture
        Annotations/NAME.xml                   its boxes: object/name and object/bndbox/{xmin,ymin,xmax,ymax}
        ImageSets/Main/{train,val,test}.txt    one NAME a line

    Corners are pixels and count from 1, so that the box of a whole picture is 1, 1, width, height. Boxes without area
    are left out and counted (also those whose corners coincide in x or y, one pixel by that rule: they are slips of the
    mouse), and so are objects that are ``difficult``. Where only one of val and test is listed (VOC2012), that one is
    the test split, and a part of train, chosen by name, is held out as val.

    Args:
        root: folder of the data set.
        names: the classes, in the order of their indices.
        difficult: keep the objects that are marked so.
        fold: 0..4: the test split is that fifth of all listed pictures, chosen by name; every tenth of the others is
            val. ``None``: the lists' own splits.
        val_fraction: share of train that is held out as val where there is only one other list.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or an argument is out of its range. Lists that are not there or name what
            is not there, and annotations that cannot be understood, raise when a split is asked for.
    """

    root: str | Path = field(kw_only=False)
    names: Sequence[str]
    difficult: bool = False
    fold: int | None = None
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names is {list(self.names)}, must list each class once")
        if self.fold is not None and self.fold not in range(NUM_FOLDS):
            raise ValueError(f"fold is {self.fold}, must be within 0..{NUM_FOLDS - 1}, or null")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, must be within 0..1, both excluded")
        self.root = checked_root(self.root)
        self.label = Label("boxes", tuple(self.names))

    @property
    def labels(self) -> dict[str, Label]:
        """``boxes``: the classes given."""
        return {"boxes": self.label}

    def source(self, split: Split) -> BoxedFiles:
        """Reads the annotations of a split.

        Raises:
            ValueError: a name without picture or annotation, or annotations that cannot be understood: file and line.
        """
        dropped: Counter[str] = Counter()
        problems: list[str] = []
        files = [
            _boxed(self.root, self._pictures[name], name, self.label, self.difficult, dropped, problems)
            for name in self._shares[split]
        ]
        refuse(problems, "correct the annotations, or `names`, or take the pictures out of the lists")
        return BoxedFiles(self.root, files, self.label, said(self.root / "Annotations", dropped))

    @cached_property
    def _pictures(self) -> dict[str, str]:
        """{name: path of its picture}."""
        folder = self.root / "JPEGImages"
        if not folder.is_dir():
            raise ValueError(
                f"root {str(self.root)!r} has no folder JPEGImages: expected the layout of PASCAL VOC"
            )
        found: dict[str, str] = {}
        problems = []
        for file in below(folder).names:
            name = PurePosixPath(file).with_suffix("").as_posix()
            if found.setdefault(name, f"JPEGImages/{file}") != f"JPEGImages/{file}":
                problems.append(f"{shown(found[name])} and JPEGImages/{shown(file)} share one name")
        refuse(problems, "keep one picture for each annotation")
        return found

    @cached_property
    def _shares(self) -> dict[str, list[str]]:
        """{split: names}."""
        lists = {split: self._listed(split) for split in ("train", "val", "test", "trainval")}
        lists = {split: names for split, names in lists.items() if names is not None}
        if self.fold is not None:
            everything = sorted({name for names in lists.values() for name in names}, key=place_in_split)
            test = everything[self.fold :: NUM_FOLDS]
            rest = [name for place, name in enumerate(everything) if place % NUM_FOLDS != self.fold]
            return {"train": [n for i, n in enumerate(rest) if i % 10], "val": rest[::10], "test": test}
        lists.pop("trainval", None)
        if "train" not in lists or len(lists) < 2:
            raise ValueError(
                f"{str(self.root / LISTS)!r} lists {sorted(lists)}, must have train.txt and at least one of val.txt "
                "and test.txt; or give fold=0..4"
            )
        owners: dict[str, str] = {}
        problems = [
            f"{LISTS}/{split}.txt names {shown(name)!r}, which is in {owners[name]}.txt, too"
            for split, names in lists.items()
            for name in names
            if owners.setdefault(name, split) != split
        ]
        refuse(problems, "keep splits apart")
        if len(lists) == 2:
            (held,) = set(lists) - {"train"}
            train, test = lists["train"], lists[held]
            val = {name for name in train if place_in_split(name) < self.val_fraction}
            return {
                "train": [n for n in train if n not in val],
                "val": [n for n in train if n in val],
                "test": test,
            }
        return lists

    def _listed(self, split: str) -> list[str] | None:
        """The names of a list, in its order; ``None`` without such a list."""
        path = self.root / LISTS / f"{split}.txt"
        if not path.is_file():
            return None
        lines: dict[str, int] = {}
        problems = []
        for number, name in lines_of(path):
            place = f"{LISTS}/{split}.txt line {number} names {shown(name)!r}"
            if name in lines:
                problems.append(f"{place}, as line {lines[name]} does")
            elif name not in self._pictures:
                problems.append(f"{place}, which has no picture in JPEGImages")
            elif not (self.root / "Annotations" / f"{name}.xml").is_file():
                problems.append(f"{place}, which has no file Annotations/{shown(name)}.xml")
            lines.setdefault(name, number)
        refuse(problems, "correct the list, or add the files")
        return list(lines)


def _boxed(
    root: Path,
    picture: str,
    name: str,
    label: Label,
    difficult: bool,
    dropped: Counter[str],
    problems: list[str],
) -> Boxed:
    """One annotation file; adds to ``dropped`` and ``problems``."""
    path = f"Annotations/{name}.xml"
    text = (root / path).read_bytes()
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        problems.append(f"{shown(path)}: damaged: {error}")
        return Boxed(picture, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    boxes, classes = [], []
    for number, thing in enumerate(tree.iter("object")):
        kind = (thing.findtext("name") or "").strip()
        corners = [_number(thing.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        if kind not in label.names:
            problems.append(f"{_place(path, text, number)}: class {kind!r} is none of {list(label.names)}")
        elif not all(map(math.isfinite, corners)):
            problems.append(f"{_place(path, text, number)}: its bndbox has no four numbers")
        elif corners[2] <= corners[0] or corners[3] <= corners[1]:
            dropped["boxes without area"] += 1
        elif (thing.findtext("difficult") or "").strip() == "1" and not difficult:
            dropped["difficult objects"] += 1
        else:
            boxes.append([corners[0] - 1, corners[1] - 1, *corners[2:]])
            classes.append(label.names.index(kind))
    size = tuple(_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    stated = all(map(math.isfinite, size)) and min(size) > 0  # some tools write 0
    return Boxed(
        picture,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        (int(size[0]), int(size[1])) if stated else None,
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _place(path: str, text: bytes, number: int) -> str:
    """File and line of an object."""
    starts = [match.start() for match in re.finditer(rb"<object[\s>]", text)]
    line = text[: starts[number]].count(b"\n") + 1
    return f"{shown(path)} line {line}"
