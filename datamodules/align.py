"""Align faces: pictures turned, scaled and shifted so that eyes, nose and mouth lie where FFHQ has them.

    python -m datamodules.align POINTS.csv -o DIR --size 256

POINTS.csv has a row a face: ``file,x0,y0,...,x4,y4`` in pixels (the middle of the first pixel is 0): the eye on the
left of the picture, the one on its right, the tip of the nose, the left and the right corner of the mouth. With 68
points (x0 .. y67, iBUG's order) these five are taken from them. Files are relative to the table, or to --images.
Further columns are kept. DIR gets a PNG a row and index.csv, the table with the points moved along; to train on it:
data=csv_labels data.root=DIR data.images=.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.columns import LandmarkColumns
from datamodules.files import read_image
from datamodules.source import DataError, UnreadableSample
from datamodules.tables import Mistakes, Row, Table, read_table
from pictures.names import shown
from pictures.writing import to_png

TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Mean eyes, nose and corners of the mouth in FFHQ at 512 px, (5, 2), as face restoration uses them."""
TEMPLATE_SIZE = 512
EYES, NOSE, MOUTH = (slice(36, 42), slice(42, 48)), 30, (48, 54)
"""The five among 68 points in iBUG's order."""
FIVE, ALL = LandmarkColumns(5, tolerance=None), LandmarkColumns(68, tolerance=None)


def five_of(points: np.ndarray) -> np.ndarray:
    """The five points (5, 2) among five or 68."""
    if len(points) == 5:
        return points
    eyes = [points[eye].mean(0) for eye in EYES]
    return np.stack([*eyes, points[NOSE], *points[list(MOUTH)]])


def template(size: int) -> np.ndarray:
    """FFHQ's five points in a picture of ``size`` x ``size``, pixel centres at whole numbers, (5, 2)."""
    return (TEMPLATE + 0.5) * size / TEMPLATE_SIZE - 0.5


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift (2, 3) that bring points closest to others, in the sense of least squares.

    Args:
        source: (P, 2).
        target: (P, 2).

    Raises:
        ValueError: the points of the source, or of the target, coincide.

    Reference: Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991,
    equations 38 to 43.
    """
    centre, aim = source.mean(0), target.mean(0)
    spread = ((source - centre) ** 2).sum(1).mean()
    covariance = (target - aim).T @ (source - centre) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])  # no mirror image
    if spread < 1e-12 or d[0] < 1e-12:
        raise ValueError("its points coincide: give the points of a face")
    rotation, scale = u * signs @ vt, (d * signs).sum() / spread
    return np.column_stack((scale * rotation, aim - scale * rotation @ centre))


def aligned(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """A picture seen through a similarity transform; black where nothing is.

    Args:
        picture: uint8 (H, W, 3).
        matrix: (2, 3), from pixels of the picture to pixels of the result.
        size: side of the result.

    Returns:
        uint8 (size, size, 3): bicubic, and antialiased where the picture shrinks.
    """
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    finer = max(1, min(math.ceil(1 / scale), 8192 // size))
    # Pillow counts from the edges of pixels, at the larger size that is shrunk afterwards.
    edges = finer * np.column_stack((matrix[:, :2], matrix[:, 2] + 0.5 - 0.5 * matrix[:, :2].sum(1)))
    inverse = np.linalg.inv(np.vstack((edges, [0, 0, 1])))[:2]
    seen = Image.fromarray(picture).transform(
        (finer * size, finer * size),
        Image.Transform.AFFINE,
        inverse.flatten().tolist(),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(seen if finer == 1 else seen.resize((size, size), Image.Resampling.BOX))


def read_points(table: Table) -> list[np.ndarray]:
    """All points of each row, (5, 2) or (68, 2).

    Raises:
        DataError: columns are missing, or cells are no numbers: the lines.
    """
    columns = ALL if set(ALL.names) <= set(table.columns) else FIVE
    table.need(["file", *columns.names], "a row needs a file and five points (x0, y0 .. x4, y4), or 68")
    mistakes, found = Mistakes(table.path), list[np.ndarray]()
    names: dict[str, int] = {}
    for row in table.rows:
        try:
            points = columns.read(row.cells).double().numpy()
            if not np.isfinite(points).all():
                raise ValueError("a point is empty: give all of them, or take the row out")
            if (line := names.setdefault(target_name(row), row.line)) != row.line:
                raise ValueError(f"{shown(target_name(row))} would be written for line {line} already")
            similarity(five_of(points), TEMPLATE)
        except ValueError as error:
            mistakes.add(row.line, error)
        else:
            found.append(points)
    mistakes.tell()
    return found


def target_name(row: Row) -> str:
    """Where a row's PNG is written, below DIR: its file's own path, if that leads nowhere else."""
    path = PurePosixPath(row.cells["file"]).with_suffix(".png")
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def align(table: Table, images: Path, folder: Path, size: int, *, upright: bool = False) -> int:
    """Write the aligned pictures of a table and their index.

    Args:
        table: of faces.
        images: folder that its files are relative to.
        folder: to write to.
        size: side of the results, in pixels.
        upright: the points are for pictures turned as their EXIF says, not for the stored pixels.

    Returns:
        How many pictures could not be read: each is said on stderr with its line, and left out.

    Raises:
        DataError: a row of the table is wrong.
    """
    everything, aim, rows = read_points(table), template(size), []
    for row, points in zip(tqdm(table.rows, unit="face"), everything, strict=True):
        matrix = similarity(five_of(points), aim)
        try:
            picture = read_image(images / row.cells["file"], upright=upright).permute(1, 2, 0).numpy()
        except UnreadableSample as error:
            tqdm.write(f"{shown(table.path)}, line {row.line}: {error}", file=sys.stderr)
            continue
        path = folder / target_name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(aligned(picture, matrix, size)))
        moved = (points @ matrix[:, :2].T + matrix[:, 2]).flatten()
        names = (ALL if len(points) == 68 else FIVE).names
        numbers = {name: f"{value:.3f}" for name, value in zip(names, moved, strict=True)}
        rows.append({**row.cells, "file": target_name(row), **numbers})
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "index.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, table.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(table.rows) - len(rows)


def main(arguments: Sequence[str]) -> int:
    """The command: 0, 1 where pictures were left out, 2 where the table is wrong (one line says how)."""
    introduction, _, layout = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.align",
        description=introduction,
        epilog=layout,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("points", type=Path, metavar="POINTS.csv", help="a row a face: file and points")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--size", type=int, default=256, metavar="PX", help="side of the results (default 256)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the files (default: the table's)"
    )
    parser.add_argument(
        "--upright",
        action="store_true",
        help="the points are for pictures turned as their EXIF orientation says",
    )
    options = parser.parse_args(arguments)
    try:
        if not 16 <= options.size <= 4096:
            raise DataError(f"--size is {options.size}, must be within 16..4096")
        images = options.images or options.points.parent
        table = read_table(options.points)
        left_out = align(table, images, options.out, options.size, upright=options.upright)
        total = len(table.rows)
    except (ValueError, OSError) as error:
        print(f"align: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if left_out:
        print(
            f"align: error: {left_out} of {total} pictures cannot be read and are left out", file=sys.stderr
        )
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
