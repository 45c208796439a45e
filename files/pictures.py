"""Picture files as people have them, as RGB in [0, 1]; and pictures as PNG."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from models.bitstream import MAX_PIXELS, MAX_SIDE

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

# What Pillow and its plugins raise on damaged files besides OSError.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, RuntimeError, struct.error)


class PictureError(ValueError):
    """A file that cannot be read as a picture."""


def read_picture(
    path: Path, *, background: tuple[float, float, float] = WHITE, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Decode any picture file that Pillow knows, and HEIC where pillow-heif is installed.

    Grey and palettes become RGB; CMYK and colours with an ICC profile become sRGB; transparent pixels are laid on the
    background; the picture is turned as its EXIF orientation says. 16-bit grey, and 16-bit colour in PNG and TIFF, keep
    their depth, unless a profile must be applied: that happens in 8 bits. Of several frames or pages, the first counts.

    Args:
        path: the file.
        background: RGB in [0, 1], behind transparent pixels.
        max_pixels: width x height that is accepted.

    Returns:
        float32 (1, 3, H, W), RGB in [0, 1].

    Raises:
        PictureError: no picture, a damaged or too large one, floating-point pixels, or a format that lacks its library.
        OSError: the file is not there or cannot be read.
    """
    data = path.read_bytes()
    if not data:
        raise PictureError("the file is empty")
    try:
        with _open(data) as image:
            _check_size(image.size, max_pixels)
            pixels, alpha = _pixels(image, data)
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
    if alpha is not None:
        pixels = pixels * alpha + np.float32(background) * (1 - alpha)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].contiguous()


def to_png(picture: Tensor) -> bytes:
    """An 8-bit RGB PNG of one picture (1, 3, H, W) in [0, 1]."""
    levels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(file, "PNG")
    return file.getvalue()


def to_palette_png(classes: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG whose pixel values are class indices, shown in colours.

    Args:
        classes: uint8 (H, W).
        colours: uint8 (classes, 3).
    """
    image = Image.fromarray(classes, "L")
    image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _open(data: bytes) -> Image.Image:
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        try:
            import pillow_heif
        except ImportError as error:
            raise PictureError("HEIC needs pillow-heif: pip install pillow-heif") from error
        return pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
    return Image.open(io.BytesIO(data))


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise PictureError(f"{width} x {height} pixels: each side must lie in 1..{MAX_SIDE}")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} pixels are more than the limit of {max_pixels} (--max-pixels)"
        )


def _pixels(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 (H, W, 3) in [0, 1], upright, and the opacity (H, W, 1) where some pixel is not opaque."""
    profile = _foreign_profile(image)
    if profile is None and (deep := _deep_colour(image, data)) is not None:
        return deep
    image = ImageOps.exif_transpose(image)
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
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return pixels, None if alpha is None or alpha.min() == 1 else alpha


def _deep_colour(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None] | None:
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
