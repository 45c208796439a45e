"""Picture files as people have them, as RGB: the one reader of all commands."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

WHITE = (1.0, 1.0, 1.0)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What turns pixels (H, W, C) upright, by EXIF orientation (CIPA DC-008, tag 274); 1 is upright."""
ORIENTATION = 274

POINTERS = {
    b"version https://git-lfs.github.com/spec/": "a git-LFS pointer in place of the picture: `git lfs pull` fetches it",
    b"/annex/objects/": "a git-annex pointer in place of the picture: `git annex get` fetches it",
}
"""What stands in a repository where the picture itself has not been fetched: how it begins, and what to do."""

# What Pillow and its plugins raise on damaged files besides OSError.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, RuntimeError, struct.error)


class PictureError(ValueError):
    """A file that cannot be read as a picture; the message does not name it."""


def read_picture(
    path: Path,
    *,
    background: tuple[float, float, float] = WHITE,
    upright: bool = True,
    max_pixels: int | None = None,
    max_side: int | None = None,
) -> Tensor:
    """Decode any picture file that Pillow knows, and HEIC where pillow-heif is installed.

    Grey and palettes become RGB; CMYK and colours with an ICC profile become sRGB; transparent pixels are laid on the
    background. 16-bit grey, and 16-bit colour in PNG and TIFF, keep their depth, unless a profile must be applied: that
    happens in 8 bits. Of several frames or pages, the first counts.

    Args:
        path: the file.
        background: RGB in [0, 1], behind transparent pixels.
        upright: turn the picture as its EXIF orientation says. False where labels are for the stored pixels.
        max_pixels: width x height that is accepted; ``None``: what Pillow accepts.
        max_side: width and height that are accepted.

    Returns:
        float32 (1, 3, H, W), RGB in [0, 1].

    Raises:
        PictureError: no picture, a damaged or too large one, floating-point pixels, or a format that lacks its library.
        OSError: the file is not there or cannot be read.
    """
    pixels = _read(path, background, upright, max_pixels, max_side)
    return torch.from_numpy(np.ascontiguousarray(_floats(pixels))).permute(2, 0, 1)[None].contiguous()


def read_levels(path: Path, *, upright: bool = True) -> Tensor:
    """The picture that ``read_picture`` gives, rounded to 8 bits, without a detour for files that have no more.

    Returns:
        uint8 (3, H, W), RGB.

    Raises:
        PictureError, OSError: as there.
    """
    pixels = _read(path, WHITE, upright, None, None)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels * 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()


def read_indices(path: Path) -> Tensor:
    """Decode a single-channel 8-bit file of class indices: grey, or the indices of a palette.

    Returns:
        uint8 (H, W).

    Raises:
        PictureError: damaged, or an image with colour channels.
        OSError: the file is not there or cannot be read.
    """

    def decode(image: Image.Image, data: bytes) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise PictureError(f"mask is of mode {image.mode}, must be 8-bit grey or palette: class indices")
        return np.array(image)

    return torch.from_numpy(_decoded(path, decode))


def _read(
    path: Path,
    background: tuple[float, float, float],
    upright: bool,
    max_pixels: int | None,
    max_side: int | None,
) -> np.ndarray:
    """(H, W, 3), opaque: uint8 where the file holds no more, else float32 in [0, 1]."""

    def decode(image: Image.Image, data: bytes) -> np.ndarray:
        _check_size(image.size, max_pixels, max_side)
        pixels, alpha = _pixels(image, data, upright)
        return pixels if alpha is None else _floats(pixels) * alpha + np.float32(background) * (1 - alpha)

    return _decoded(path, decode)


def _decoded(path: Path, decode: Callable[[Image.Image, bytes], np.ndarray]) -> np.ndarray:
    """What ``decode`` makes of a file, its troubles in words."""
    data = path.read_bytes()
    if not data:
        raise PictureError("the file is empty")
    for beginning, trouble in POINTERS.items():
        if data.startswith(beginning):
            raise PictureError(trouble)
    try:
        with _open(data) as image:
            return decode(image, data)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a picture in a format that is known here") from None
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(f"the picture is too large: {error}") from error
    except DAMAGE as error:
        raise PictureError(
            f"damaged picture: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def _floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels


def _open(data: bytes) -> Image.Image:
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        try:
            import pillow_heif
        except ImportError as error:
            raise PictureError("HEIC needs pillow-heif: pip install pillow-heif") from error
        return pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
    return Image.open(io.BytesIO(data))


def _check_size(size: tuple[int, int], max_pixels: int | None, max_side: int | None) -> None:
    width, height = size
    if max_side is not None and max(size) > max_side:
        raise PictureError(f"{width} x {height} pixels: each side must lie in 1..{max_side}")
    if max_pixels is not None and width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} pixels are more than the limit max_pixels={max_pixels}: raise it if you trust the file"
        )


def _pixels(image: Image.Image, data: bytes, upright: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3), uint8 or float32 in [0, 1], and the opacity (H, W, 1) where some pixel is not opaque."""
    profile = _foreign_profile(image)
    if profile is None and (deep := _deep_colour(image, data, upright)) is not None:
        return deep
    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode.startswith("F"):
        raise PictureError("its pixels are floating-point numbers: convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32)
        if grey.min() < 0 or grey.max() > 65535:
            raise PictureError("its pixels are 32-bit integers: convert it to 8 or 16 bits")
        if profile is None:
            return np.repeat(grey[..., None] / 65535, 3, axis=2), None
        image = Image.fromarray(np.round(grey / 257).astype(np.uint8))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"), np.float32)[..., None] / 255
        # Of a grey picture with a profile, the profile is for grey.
        image = image.convert("L" if profile is not None and _space(profile) == "GRAY" else "RGB")
    if profile is not None:
        image = _to_srgb(image, profile)
    pixels = np.array(image.convert("RGB"))
    return pixels, None if alpha is None or alpha.min() == 1 else alpha


def _deep_colour(
    image: Image.Image, data: bytes, upright: bool
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Pixels and opacity of a PNG or TIFF with 16-bit colour, which Pillow would cut to 8 bits; else ``None``."""
    reader = {"PNG": "png_pipe", "TIFF": "tiff_pipe"}.get(image.format or "")
    if reader is None or not any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return None
    if image.mode not in ("RGB", "RGBA"):
        return None
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(data), format=reader) as container:
            frame = next(container.decode(video=0))
            if frame.format.name.rstrip("bel") not in ("rgb48", "rgba64"):
                return None
            pixels = frame.to_ndarray().astype(np.float32) / 65535
    except (FFmpegError, StopIteration) as error:
        raise PictureError(f"damaged picture: {error}") from error
    if upright:
        pixels = UPRIGHT.get(image.getexif().get(ORIENTATION, 1), lambda a: a)(pixels)
    return pixels[..., :3], pixels[..., 3:] if pixels.shape[2] == 4 else None


def _foreign_profile(image: Image.Image) -> Any:
    """The ICC profile to convert from; ``None`` where there is none, it is sRGB, or it does not fit the pixels."""
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None  # what browsers do with a damaged profile
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    fitting = "GRAY" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
    return None if "srgb" in name.lower() or _space(profile) != fitting else profile


def _space(profile: Any) -> str:
    return profile.profile.xcolor_space.strip()


def _to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    space = {"GRAY": "L", "CMYK": "CMYK"}.get(_space(profile), "RGB")
    srgb = ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.profileToProfile(
        image.convert(space), profile, srgb, renderingIntent=intent, outputMode="RGB"
    )
