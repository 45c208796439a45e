"""Aligned faces: the transform against an independent solution, the pictures against where points should lie."""

import csv

import numpy as np
import pytest
from PIL import Image

from datamodules import align
from datamodules.align import aligned, five_of, main, similarity, template


def solved(source, target):
    """The same least squares as linear equations in a, b, tx, ty: x' = a x - b y + tx, y' = b x + a y + ty."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


@pytest.mark.parametrize("seed", range(5))
def test_similarity_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(5, 2)) * 40 + 100
    angle, scale = rng.uniform(-3, 3), rng.uniform(0.2, 3)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    exact = source @ turn.T + rng.normal(size=2) * 50
    np.testing.assert_allclose(similarity(source, exact)[:, :2], turn, atol=1e-9)
    noisy = exact + rng.normal(size=(5, 2)) * 3
    np.testing.assert_allclose(similarity(source, noisy), solved(source, noisy), atol=1e-8)


def test_a_mirrored_face_is_never_mirrored_back():
    source = template(128)
    matrix = similarity(source * [-1, 1], source)
    assert np.linalg.det(matrix[:, :2]) > 0
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), source)


def test_five_points_of_68():
    points = np.random.default_rng(0).normal(size=(68, 2))
    five = five_of(points)
    np.testing.assert_allclose(five[0], sum(points[36:42]) / 6)
    np.testing.assert_allclose(five[1], sum(points[42:48]) / 6)
    np.testing.assert_array_equal(five[2:], points[[30, 48, 54]])


def dots(points, side):
    """A white spot at every point."""
    ys, xs = np.mgrid[:side, :side]
    spots = sum(np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * (side / 60) ** 2)) for x, y in points)
    return np.repeat(np.round(255 * spots.clip(0, 1)).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize(("side", "size"), [(600, 64), (120, 128), (256, 256)])
def test_points_of_the_picture_arrive_at_the_template(side, size):
    angle = 0.4
    turn = side / size * 0.6 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    aim = template(size)
    source = (aim - size / 2) @ turn.T + side / 2
    result = aligned(dots(source, side), similarity(source, aim), size)[..., 0].astype(float)
    reach = round(size / 16)
    for x, y in aim:
        left, top = round(x) - reach, round(y) - reach
        part = result[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        centre = [(part.sum(axis) * np.arange(2 * reach + 1)).sum() / part.sum() for axis in (0, 1)]
        np.testing.assert_allclose([left + centre[0], top + centre[1]], [x, y], atol=0.15)


def test_a_picture_in_place_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(aligned(picture, still, 64), picture)


def write_faces(root, points, names, extra=""):
    header = ["file", "identity", *(f"{axis}{i}" for i in range(len(points[0])) for axis in "xy")]
    with open(root / "points.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number, (name, face) in enumerate(zip(names, points, strict=True)):
            writer.writerow([name, f"p{number}", *np.asarray(face).flatten().tolist()])
        file.write(extra)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dots(points[0][:5], 100)).save(root / name)


@pytest.mark.parametrize("count", [5, 68])
def test_the_command_writes_pictures_and_a_table(tmp_path, count, capsys):
    rng = np.random.default_rng(0)
    faces = [rng.uniform(10, 90, (count, 2)) for _ in range(2)]
    write_faces(tmp_path, faces, ["a.jpg", "deep/b.png"])
    out = tmp_path / "out"
    assert main([str(tmp_path / "points.csv"), "-o", str(out), "--size", "64"]) == 0
    with open(out / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["identity"]) for row in rows] == [("a.png", "p0"), ("deep/b.png", "p1")]
    for row, face in zip(rows, faces, strict=True):
        matrix = solved(five_of(face), template(64))
        moved = [[float(row[f"{axis}{i}"]) for axis in "xy"] for i in range(count)]
        np.testing.assert_allclose(moved, face @ matrix[:, :2].T + matrix[:, 2], atol=2e-3)
        with Image.open(out / row["file"]) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (64, 64), "RGB")
            expected = aligned(np.asarray(Image.open(tmp_path / "a.jpg")), matrix, 64)
    assert expected.shape == (64, 64, 3)
    assert "error" not in capsys.readouterr().err


def test_mistakes_are_told_by_their_line(tmp_path, capsys):
    face = template(100)
    command = [str(tmp_path / "points.csv"), "-o", str(tmp_path / "out")]
    for extra, message in (
        ("c.png,p,1,2,3,4,five,6,7,8,9,10\n", r"points.csv, line 3: x2 is 'five', must be a number"),
        ("c.png,p,1,2,3,4,,,7,8,9,10\n", "line 3: a point is empty"),
        ("c.png,p,1,2,1,2,1,2,1,2,1,2\n", "line 3: its points coincide"),
        ("a.jpg,p,1,2,3,4,5,6,7,8,9,10\n", "line 3: a.png would be written for line 2 already"),
        ("c.png,p,1,2\n", "line 3: 4 cells, must be 12"),
    ):
        write_faces(tmp_path, [face], ["a.jpg"], extra)
        assert main(command) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    write_faces(tmp_path, [face], ["a.jpg"], "c.png,p,1,2,3,4,5,6,7,8,9,10\n")
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "line 3: " in err
    assert "c.png: No such file" in err
    assert "1 of 2 pictures cannot be read" in err
    assert (tmp_path / "out/a.png").is_file()
    assert main([*command, "--size", "4"]) == 2
    (tmp_path / "points.csv").write_text("file,x0,y0\na.jpg,1,2\n")
    assert main(command) == 2
    assert "no column 'x1', 'y1', 'x2'" in capsys.readouterr().err


def test_where_files_from_elsewhere_go():
    def name(file):
        return align.target_name(align.Row(2, {"file": file}))

    assert [name(f) for f in ("a/b.jpg", "/far/b.jpg", "../b.jpg")] == ["a/b.png", "b.png", "b.png"]
