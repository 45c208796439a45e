"""Pictures for the report: an original and its decodes at about the same bits, embedded without loss."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

MAX_SIDE_OF_WEBP = 16383
HEAT = "inferno"


@dataclass(eq=False)
class View:
    """What one codec makes of an image.

    Args:
        codec: what it is called in the rows.
        rate: its native rate value; ``None`` for codecs of one rate.
        bpp: file bits over the pixels of the original.
        psnr: of this picture, in dB.
        picture: the decode, uint8 (H, W, 3), RGB.
        overlays: ``{"<task> (<head>)": (picture, caption)}``, what a task says, drawn on the decode; pictures are
            uint8 (h, w, 3) of the decode's shape.
        bits_map: bits per pixel where they were spent, float (h, w), a whole fraction of the image's size or the size
            itself; ``None`` where the codec cannot tell.
    """

    codec: str
    rate: float | None
    bpp: float
    psnr: float
    picture: np.ndarray
    overlays: Mapping[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    bits_map: np.ndarray | None = None


@dataclass(eq=False)
class GalleryImage:
    """One image of the data set and its decodes.

    Args:
        name: of the file.
        original: uint8 (H, W, 3), RGB.
        views: in the order in which they are shown; at about the same bits.

    Raises:
        ValueError: a decode or an overlay has another shape than the original.
    """

    name: str
    original: np.ndarray
    views: Sequence[View]

    def __post_init__(self) -> None:
        for view in self.views:
            pictures = {"picture": view.picture} | {
                key: picture for key, (picture, _) in view.overlays.items()
            }
            for key, picture in pictures.items():
                if picture.shape != self.original.shape:
                    raise ValueError(
                        f"{self.name}: {key!r} of codec {view.codec!r} is {picture.shape}, the original is "
                        f"{self.original.shape}: give pictures of the original's shape"
                    )


def data_uri(picture: np.ndarray) -> str:
    """A picture as a lossless ``data:`` address: WebP, or PNG where a side is too long for WebP.

    Args:
        picture: uint8 (H, W, 3), RGB.
    """
    image, buffer = Image.fromarray(np.ascontiguousarray(picture)), io.BytesIO()
    if max(image.size) <= MAX_SIDE_OF_WEBP:
        image.save(buffer, "WEBP", lossless=True, quality=75, method=4)
        kind = "webp"
    else:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embed(images: Sequence[GalleryImage]) -> list[dict[str, Any]]:
    """The gallery as plain containers for the page's script.

    Returns:
        For each image ``{"name", "width", "height", "views"}``; the first view is the original. A view has ``"codec"``,
        ``"rate"``, ``"bpp"``, ``"psnr"`` (the last three ``None`` for the original) and ``"layers"``:
        ``{name: {"src", "caption", "top"}}``. A ``src`` of ``None`` is that of ``"picture"``. ``top`` is the value of
        the brightest colour of a bits map, in bits per pixel, the same for all codecs of an image; ``None`` for other
        layers.
    """
    return [_embed_image(image) for image in images]


def heat_stops(count: int = 12) -> list[str]:
    """Colours of the bits maps from 0 to the top as CSS colours, for the scale beside them."""
    return [matplotlib.colors.to_hex(matplotlib.colormaps[HEAT](i / (count - 1))) for i in range(count)]


def _embed_image(image: GalleryImage) -> dict[str, Any]:
    height, width = image.original.shape[:2]
    original = {"picture": _layer(image.original, f"original, {width} × {height} pixels")}
    views: list[dict[str, Any]] = [
        {"codec": "original", "rate": None, "bpp": None, "psnr": None, "layers": original}
    ]
    top = _top([view.bits_map for view in image.views if view.bits_map is not None])
    for view in image.views:
        layers = {"picture": _layer(view.picture, "")}
        for key, (picture, caption) in view.overlays.items():
            layers[key] = _layer(picture, caption)
            if np.array_equal(picture, view.picture):
                # A classifier draws nothing: its caption is all it adds.
                layers[key]["src"] = None
        if view.bits_map is not None:
            layers["bits map"] = _layer(_heat(view.bits_map, top), "where the bits go", top)
        views.append(
            {
                "codec": view.codec,
                "rate": view.rate,
                "bpp": float(view.bpp),
                "psnr": float(view.psnr),
                "layers": layers,
            }
        )
    return {"name": image.name, "width": width, "height": height, "views": views}


def _layer(picture: np.ndarray, caption: str, top: float | None = None) -> dict[str, Any]:
    return {"src": data_uri(picture), "caption": caption, "top": top}


def _top(maps: Sequence[np.ndarray]) -> float:
    # One hot pixel must not blacken the rest of the map.
    return max((float(np.percentile(values, 99.5)) for values in maps), default=1.0) or 1.0


def _heat(values: np.ndarray, top: float) -> np.ndarray:
    colours = matplotlib.colormaps[HEAT](np.clip(values / top, 0, 1))
    return np.round(colours[..., :3] * 255).astype(np.uint8)
