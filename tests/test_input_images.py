"""Picture files as people have them become RGB in [0, 1], all alike."""

import builtins
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from datamodules.image_folder import ImageFolder
from pictures.reading import UPRIGHT, PictureError, read_levels, read_picture
from pictures.writing import to_palette_png, to_png, to_uint8

SIZE = (20, 14)
"""(width, height)"""


def gradient() -> np.ndarray:
    """uint8 (14, 20, 3), no two corners alike."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    return np.stack([12 * x, 17 * y, 255 - 6 * (x + y)], axis=-1).astype(np.uint8)


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def levels(picture: Tensor) -> np.ndarray:
    """float64 (H, W, 3) in 0..255."""
    assert picture.dtype == torch.float32
    assert picture.shape[:2] == (1, 3)
    assert picture.is_contiguous()
    return picture[0].permute(1, 2, 0).double().numpy() * 255


def png16(channels: np.ndarray) -> bytes:
    """A 16-bit PNG, written from the standard: (H, W, 1..4), any number of channels."""
    height, width, count = channels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".tga", ".webp", ".gif"])
def test_lossless_formats_are_exact(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(gradient() // 51 * 51)
    options = {".webp": {"lossless": True}}.get(suffix, {})
    if suffix == ".gif":
        image = image.quantize(256, dither=Image.Dither.NONE)
    path = saved(tmp_path, f"a{suffix}", image, **options)
    assert np.array_equal(levels(read_picture(path)).round(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".heic", ".jp2"])
def test_lossy_formats_are_close(suffix: str, tmp_path: Path) -> None:
    if suffix == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        heif = pillow_heif.from_pillow(Image.fromarray(gradient()))
        heif.save(tmp_path / "a.heic", quality=95, chroma=444)
        path = tmp_path / "a.heic"
    else:
        options = {".jp2": {}}.get(suffix, {"quality": 95, "subsampling": "4:4:4"})
        path = saved(tmp_path, f"a{suffix}", Image.fromarray(gradient()), **options)
    assert np.abs(levels(read_picture(path)) - gradient()).mean() < 3


def test_heic_without_its_library_names_the_line_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(60))
    original = builtins.__import__

    def without(name: str, *args: object, **named: object) -> object:
        if name == "pillow_heif":
            raise ImportError(name)
        return original(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PictureError, match="HEIC needs pillow-heif: pip install pillow-heif"):
        read_picture(path)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = gradient()[..., 0]
    for image in (Image.fromarray(grey), Image.fromarray(grey > 100)):
        result = levels(read_picture(saved(tmp_path, "a.png", image)))
        expected = np.asarray(image.convert("L"))
        assert np.array_equal(result.round(), np.repeat(expected[..., None], 3, axis=2))


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(gradient()).quantize(16)
    result = levels(read_picture(saved(tmp_path, "a.png", image)))
    assert np.array_equal(result.round(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_sixteen_bit_png_keeps_its_depth(count: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, count))
    if count == 4:
        values[..., 3] = 65535
    (tmp_path / "a.png").write_bytes(png16(values))
    result = levels(read_picture(tmp_path / "a.png"))
    expected = np.broadcast_to(values[..., :3] / 257, (5, 7, 3))
    # Cut to 8 bits, as Pillow reads colour, they would be up to 0.996 off.
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_sixteen_bit_transparency_is_composited(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 4))
    (tmp_path / "a.png").write_bytes(png16(values))
    colour, alpha = values[..., :3] / 257, values[..., 3:] / 65535
    expected = colour * alpha + np.array([255, 0, 0]) * (1 - alpha)
    result = levels(read_picture(tmp_path / "a.png", background=(1, 0, 0)))
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_sixteen_bit_tiff(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    path = saved(tmp_path, "a.tif", Image.fromarray(grey))
    np.testing.assert_allclose(levels(read_picture(path))[..., 1], grey / 257, atol=1e-4)


def test_sixteen_bit_colour_tiff(tmp_path: Path) -> None:
    """Written from the standard: little endian, one strip, RGB of 16 bits."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype("<u2")
    tags = [(256, 3, 1, 7), (257, 3, 1, 5), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 300),
            (274, 3, 1, 1), (277, 3, 1, 3), (278, 3, 1, 5), (279, 4, 1, values.nbytes)]  # fmt: skip
    head = (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHII", *t) for t in tags)
        + bytes(4)
    )
    data = head.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)
    (tmp_path / "a.tif").write_bytes(data.ljust(300, b"\0") + values.tobytes())
    np.testing.assert_allclose(levels(read_picture(tmp_path / "a.tif")), values / 257, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_show_the_background(mode: str, tmp_path: Path) -> None:
    rgba = np.dstack([gradient(), np.full(SIZE[::-1], 255, np.uint8)])
    rgba[:, :5, 3] = 0
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.fromarray((np.arange(14 * 20).reshape(14, 20) % 20 // 5).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
        path = saved(tmp_path, "a.png", image, transparency=0)
    elif mode == "PA":
        path = saved(tmp_path, "a.webp", image, lossless=True)
    else:
        path = saved(tmp_path, "a.png", image.convert(mode))
    for background in ((1.0, 1.0, 1.0), (0.0, 0.2, 0.4)):
        result = levels(read_picture(path, background=background))
        np.testing.assert_allclose(
            result[:, :5], np.broadcast_to(np.array(background) * 255, (14, 5, 3)), atol=1e-4
        )
    opaque = np.asarray(Image.open(path).convert("RGB"))[:, 5:]
    assert np.array_equal(result[:, 5:].round(), opaque)


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.new("RGBA", (3, 3), (200, 100, 0, 51)))
    np.testing.assert_allclose(levels(read_picture(path))[0, 0], [244, 224, 204], atol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "jpg", "16-bit png"])
def test_pictures_are_turned_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    """CIPA DC-008: where the stored row 0 and column 0 belong in the picture."""
    upright = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left",
               5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}  # fmt: skip
    stored = np.zeros((14, 20, 3), np.uint8)
    stored[0], stored[:, 0] = [255, 0, 0], [0, 0, 255]
    stored[0, 0] = 128
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "16-bit png":
        data = png16(stored.astype(np.uint16) * 257)
        payload = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = (
            struct.pack(">I", len(payload))
            + b"eXIf"
            + payload
            + struct.pack(">I", zlib.crc32(b"eXIf" + payload))
        )
        (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
        path = tmp_path / "a.png"
    else:
        options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {}
        path = saved(tmp_path, f"a.{kind}", Image.fromarray(stored), exif=exif, **options)
    result = levels(read_picture(path))
    row_at, column_at = upright[orientation].split()
    edges = {"top": result[0], "bottom": result[-1], "left": result[:, 0], "right": result[:, -1]}
    assert result.shape[:2] == ((14, 20) if row_at in ("top", "bottom") else (20, 14))
    middle = slice(4, -4)
    assert edges[row_at][middle, 0].min() > 150 > 100 > edges[row_at][middle, 2].max(), (
        "the stored first row is red"
    )
    assert edges[column_at][middle, 2].min() > 150 > 100 > edges[column_at][middle, 0].max(), (
        "first column is blue"
    )
    assert set(UPRIGHT) == set(range(2, 9))


def lab_profile() -> bytes:
    """A whole profile, but not for RGB pixels."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def wide_profile() -> bytes:
    """sRGB's own profile with its red and green primaries swapped and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", data[128:132])
    for i in range(count):
        at = 132 + 12 * i
        data[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(
            bytes(data[at : at + 4]), data[at : at + 4]
        )
        if data[at : at + 4] == b"desc":
            start, length = struct.unpack(">II", data[at + 4 : at + 12])
            data[start : start + length] = bytes(data[start : start + length]).replace(
                b"\0s\0R\0G\0B", b"\0o\0t\0h\0r"
            )
    return bytes(data)


def test_profiles_are_converted_to_srgb(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    path = saved(tmp_path, "a.png", image, icc_profile=wide_profile())
    swapped = gradient()[..., [1, 0, 2]]
    assert np.abs(levels(read_picture(path)) - swapped).max() <= 2
    rgba = image.copy()
    rgba.putalpha(255)
    assert (
        np.abs(
            levels(read_picture(saved(tmp_path, "b.png", rgba, icc_profile=wide_profile()))) - swapped
        ).max()
        <= 2
    )


def test_srgb_and_useless_profiles_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile at all", lab_profile()):
        path = saved(tmp_path, "a.png", Image.fromarray(gradient()), icc_profile=profile)
        assert np.array_equal(levels(read_picture(path)).round(), gradient())


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for path in (saved(tmp_path, "a.tif", image), saved(tmp_path, "a.jpg", image, quality=95)):
        red, green, blue = levels(read_picture(path))[4, 4]
        assert red < 10
        assert green > 240
        assert blue > 240


def adobe_like(folder: Path) -> Path:
    return saved(folder, "wide.png", Image.fromarray(gradient()), icc_profile=wide_profile())


def logo(folder: Path) -> Path:
    """Black letters, half their edges transparent; what is behind them is black too, where nobody should see it."""
    rgba = np.zeros((14, 20, 4), np.uint8)
    rgba[4:10, 4:10, 3], rgba[4:10, 10, 3] = 255, 100
    return saved(folder, "logo.png", Image.fromarray(rgba))


def deep(folder: Path, count: int) -> Path:
    values = np.random.default_rng(0).integers(0, 65536, (14, 20, count))
    (folder / f"deep{count}.png").write_bytes(png16(values))
    return folder / f"deep{count}.png"


def test_all_commands_see_the_same_pixels(tmp_path: Path) -> None:
    """What data modules give to training and evaluation is what codec.py codes, in 8 bits."""
    cmyk = saved(tmp_path, "ink.tif", Image.fromarray(gradient()).convert("CMYK"))
    gif = saved(tmp_path, "few.gif", Image.fromarray(gradient()).quantize(16), transparency=3)
    jp2 = saved(tmp_path, "wavelet.jp2", Image.fromarray(gradient()))
    tga = saved(tmp_path, "targa.tga", Image.fromarray(gradient()))
    files = [logo(tmp_path), adobe_like(tmp_path), deep(tmp_path, 1), deep(tmp_path, 3), deep(tmp_path, 4)]
    files += [cmyk, gif, jp2, tga]
    source = ImageFolder(tmp_path, batch_size=1, split_fractions=(0, 0, 1)).split("test")
    assert {source.name(index) for index in range(len(source))} == {path.name for path in files}
    for index in range(len(source)):
        seen = source.read(index)["image"]
        assert seen.dtype == torch.uint8
        expected = read_picture(tmp_path / source.name(index))[0]
        assert torch.equal(seen, (expected * 255).round().byte()), source.name(index)


def test_levels_have_the_right_values(tmp_path: Path) -> None:
    shown = read_levels(logo(tmp_path)).permute(1, 2, 0).numpy()
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[5, 5].tolist() == [0, 0, 0]
    assert shown[5, 10].tolist() == [155, 155, 155]
    values = np.random.default_rng(0).integers(0, 65536, (14, 20, 3))
    wide = read_levels(deep(tmp_path, 3)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(wide, np.round(values / 257))
    grey = read_levels(deep(tmp_path, 1)).permute(1, 2, 0).numpy()
    values = np.random.default_rng(0).integers(0, 65536, (14, 20, 1))
    np.testing.assert_array_equal(grey, np.broadcast_to(np.round(values / 257), (14, 20, 3)))
    swapped = read_levels(adobe_like(tmp_path)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(swapped - gradient()[..., [1, 0, 2]]).max() <= 2


def test_stored_pixels_are_left_as_they_lie_where_labels_are_for_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path, "a.png", Image.fromarray(gradient()), exif=exif)
    assert np.array_equal(levels(read_picture(path, upright=False)).round(), gradient())
    assert np.array_equal(read_levels(path, upright=False).permute(1, 2, 0).numpy(), gradient())
    assert read_levels(path).shape == (3, 20, 14)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a git-LFS pointer in place of the picture: `git lfs pull` fetches it",
        ),
        (b"/annex/objects/SHA256E-s9--0.png\n", "`git annex get` fetches it"),
        (b"hello, world", "not a picture in a format that is known here"),
        (b"BIF1" + bytes(50), "not a picture"),
        (struct.pack(">I", 24) + b"ftypheic" + bytes(60), "damaged picture|HEIC needs"),
    ],
)
def test_what_is_no_picture_is_told_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match=message) as caught:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_cut_pictures_are_told(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = saved(tmp_path, f"a{suffix}", Image.fromarray(noise)).read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / f"a{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(PictureError):
            read_picture(tmp_path / f"a{suffix}")


def test_cut_sixteen_bit_pictures_are_told(tmp_path: Path) -> None:
    data = png16(np.random.default_rng(0).integers(0, 65536, (64, 64, 3)))
    for cut in (len(data) // 2, len(data) - 30):
        (tmp_path / "a.png").write_bytes(data[:cut])
        with pytest.raises(PictureError):
            read_picture(tmp_path / "a.png")


def test_other_numbers_than_8_and_16_bits_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(PictureError, match="floating-point.*convert it to 8 or 16 bits"):
        read_picture(path)
    path = saved(tmp_path, "b.tif", Image.fromarray(np.full((4, 4), 70_000, np.int32)))
    with pytest.raises(PictureError, match="32-bit integers"):
        read_picture(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.new("L", (400, 300)))
    with pytest.raises(PictureError, match="400 x 300 pixels are more than the limit max_pixels=100000"):
        read_picture(path, max_pixels=100_000)
    with pytest.raises(PictureError, match="400 x 300 pixels: each side must lie in 1..399"):
        read_picture(path, max_side=399)
    (tmp_path / "b.png").write_bytes(path.read_bytes()[:60])
    with pytest.raises(PictureError, match="limit max_pixels=100000"):
        read_picture(tmp_path / "b.png", max_pixels=100_000)


def test_pictures_are_written_as_they_were(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(gradient()))
    written = np.asarray(Image.open(io.BytesIO(to_png(to_uint8(read_picture(path)[0])))))
    assert np.array_equal(written, gradient())
    assert np.asarray(
        Image.open(io.BytesIO(to_png(to_uint8(torch.tensor([2.0, -1, 0.5]).reshape(3, 1, 1)))))
    ).tolist() == [[[255, 0, 128]]]


def test_maps_hold_class_indices(tmp_path: Path) -> None:
    classes = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.open(
        io.BytesIO(to_palette_png(classes, np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)))
    )
    assert np.array_equal(np.asarray(image), classes)
    assert image.convert("RGB").getpixel((0, 1)) == (7, 8, 9)
