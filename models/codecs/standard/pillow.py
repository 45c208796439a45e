"""Standard codecs that Pillow carries: JPEG, WebP, JPEG 2000, AVIF."""

import io
from typing import Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

from models.bitstream import BitstreamError
from models.codecs.standard.base import MissingEncoder, StandardCodec, reading


class PillowCodec(StandardCodec):
    """A format that Pillow writes and reads; a subclass names it and says which arguments ``Image.save`` gets.

    Attributes:
        format: Pillow's name of it.
        feature: Pillow's name of the library that it needs.
        oldest: the first Pillow whose wheels carry that library.
    """

    format: ClassVar[str]
    feature: ClassVar[str]
    oldest: ClassVar[str] = "10.3"
    colour: ClassVar[str] = "inside the library: full-range BT.601 YCbCr"

    def arguments(self, rate: float | str, size: tuple[int, int]) -> dict[str, Any]:
        """Return the arguments of ``Image.save`` for a picture of (H, W)."""
        raise NotImplementedError

    def settings(self) -> dict[str, str]:
        """As ``about`` gives them: preset, tuning and chroma in words."""
        raise NotImplementedError

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        self.check_available()
        rate = rate if self.rate_step is None else round(rate)
        file = io.BytesIO()
        Image.fromarray(image).save(file, self.format, **self.arguments(rate, image.shape[:2]))
        return file.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        self.check_available()
        with reading(self.format), self._open(data) as image:
            return np.array(image.convert("RGB"))

    def read_size(self, data: bytes) -> tuple[int, int]:
        self.check_available()
        with reading(self.format), self._open(data) as image:
            return image.height, image.width

    def about(self) -> dict[str, Any]:
        arguments = ", ".join(
            f"{key}={value!r}" for key, value in self.arguments("{rate}", (512, 768)).items()
        )
        call = f"PIL.Image.save(file, {self.format!r}, {arguments})".replace("'{rate}'", "{rate}")
        versions = {"pillow": pillow_version}
        if features.check(self.feature):
            versions |= self._library_version()
        return {"command": call, "settings": self.settings(), "colour": self.colour, "versions": versions}

    def check_available(self) -> None:
        if not features.check(self.feature):
            raise MissingEncoder(
                f"{self.format} needs a Pillow that is built with {self.feature}: "
                f"pip install --upgrade 'pillow>={self.oldest}'"
            )

    def _library_version(self) -> dict[str, str]:
        return {self.feature: str(features.version(self.feature))}

    def _open(self, data: bytes) -> Image.Image:
        try:
            return Image.open(io.BytesIO(data), formats=(self.format,))
        except UnidentifiedImageError:
            raise BitstreamError(f"not a {self.format} file: its first bytes are others") from None


class JPEG(PillowCodec):
    """JPEG through libjpeg-turbo; ``rate`` is the quality, 1..95.

    For PSNR, 4:2:0 needs fewer bits than 4:4:4. Flat quantisation tables would need fewer still: the standard's are
    kept, for what everybody calls JPEG has them.

    Args:
        subsampling: of chroma, ``"4:2:0"`` or ``"4:4:4"``; ``None`` leaves it to Pillow.
        optimize: fit the Huffman tables to the picture.
    """

    rates = (1.0, 5.0, 10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 95.0)
    file_suffix = ".jpg"
    max_side = 65500  # libjpeg's, below the 65535 of the format
    format, feature = "JPEG", "jpg"

    def __init__(self, *, subsampling: str | None = "4:2:0", optimize: bool = True):
        super().__init__()
        if subsampling not in ("4:2:0", "4:4:4", None):
            raise ValueError(f"subsampling={subsampling!r} must be '4:2:0', '4:4:4' or None")
        self.subsampling, self.optimize = subsampling, optimize

    def arguments(self, rate: float | str, size: tuple[int, int]) -> dict[str, Any]:
        chroma = {} if self.subsampling is None else {"subsampling": self.subsampling}
        return {"quality": rate, **chroma, **({"optimize": True} if self.optimize else {})}

    def settings(self) -> dict[str, str]:
        tables = "Huffman tables of the picture" if self.optimize else "Huffman tables of the standard"
        tuning = "none: quantisation tables of the standard"
        return {"preset": tables, "tuning": tuning, "chroma": f"{self.subsampling or '4:2:0'}, 8 bit"}

    def _library_version(self) -> dict[str, str]:
        return {"libjpeg-turbo": str(features.version_feature("libjpeg_turbo"))}


class WebP(PillowCodec):
    """Lossy WebP through libwebp, 4:2:0; ``rate`` is the quality, 0..100.

    Pillow has no way to turn off libwebp's noise shaping, or to choose sharper chroma; its default preset is
    the best of libwebp's for PSNR.

    Args:
        method: effort, 0 (fast) to 6 (small); ``None`` leaves it to Pillow.
    """

    rates = (0.0, 5.0, 10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 95.0, 100.0)
    file_suffix = ".webp"
    max_side = 16383  # 14 bits
    format, feature = "WEBP", "webp"
    colour = "inside the library: limited-range BT.601 YCbCr"

    def __init__(self, *, method: int | None = 6):
        super().__init__()
        if method not in (None, *range(7)):
            raise ValueError(f"method={method!r} must be one of 0..6, or None")
        self.method = method

    def arguments(self, rate: float | str, size: tuple[int, int]) -> dict[str, Any]:
        return {"quality": rate, **({} if self.method is None else {"method": self.method})}

    def settings(self) -> dict[str, str]:
        method = 4 if self.method is None else self.method
        tuning = "none: libwebp's default, noise shaping 50"
        return {"preset": f"method {method}", "tuning": tuning, "chroma": "4:2:0, 8 bit"}


class JPEG2000(PillowCodec):
    """JPEG 2000 through OpenJPEG: 9/7 wavelet, a bare codestream; ``rate`` is the compression ratio that it aims at.

    OpenJPEG can aim at a PSNR instead; hard images then take most of the bits, and the curve of a set's means is worse.
    It weighs nothing by visibility. Six resolutions and blocks of 64x64 are its best for PSNR: on five Kodak images,
    other numbers cost 0.3 to 0.9 %, blocks of 32x32 2.4 %.
    """

    rates = (320.0, 200.0, 120.0, 80.0, 48.0, 32.0, 24.0, 16.0, 12.0, 8.0, 5.0)
    rate_step = None
    # The JP2 boxes around a codestream are 85 bytes and tell nothing more about an sRGB picture.
    file_suffix = ".j2k"
    format, feature = "JPEG2000", "jpg_2000"
    colour = "inside the library: irreversible colour transform (full-range BT.601 YCbCr), 4:4:4"

    def arguments(self, rate: float | str, size: tuple[int, int]) -> dict[str, Any]:
        return {
            "no_jp2": True,
            "irreversible": True,
            "mct": 1,  # without it R, G and B are coded apart, at twice the bits
            "quality_mode": "rates",
            "quality_layers": [rate],
            # Halving stops at one pixel; more resolutions than that are an error.
            "num_resolutions": min(6, min(size).bit_length()),
        }

    def settings(self) -> dict[str, str]:
        return {"preset": "6 resolutions, blocks of 64x64", "tuning": "psnr", "chroma": "4:4:4, 8 bit"}

    def _library_version(self) -> dict[str, str]:
        return {"openjpeg": str(features.version(self.feature))}


class AVIF(PillowCodec):
    """AVIF through libavif and its AV1 encoder; ``rate`` is the quality, 0..95.

    For PSNR, ``tune="psnr"``, 4:4:4 and a lower speed each need fewer bits than libavif's own tuning, 4:2:0 and a
    higher one.

    One thread: with two or more, libaom codes rows in parallel and writes other files.

    Args:
        subsampling: of chroma, ``"4:4:4"``, ``"4:2:2"`` or ``"4:2:0"``.
        speed: 0 (small) to 10 (fast).
        tune: what libaom optimises, for example ``"psnr"`` or ``"ssim"``; ``None`` leaves it to libavif.
    """

    rates = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0)
    file_suffix = ".avif"
    max_side = 32768  # longer ones are written, but libavif does not read them
    format, feature = "AVIF", "avif"
    oldest = "11.3"

    def __init__(self, *, subsampling: str = "4:4:4", speed: int = 4, tune: str | None = "psnr"):
        super().__init__()
        if subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
            raise ValueError(f"subsampling={subsampling!r} must be '4:4:4', '4:2:2' or '4:2:0'")
        if speed not in range(11):
            raise ValueError(f"speed={speed!r} must be one of 0..10")
        self.subsampling, self.speed, self.tune = subsampling, speed, tune

    def arguments(self, rate: float | str, size: tuple[int, int]) -> dict[str, Any]:
        options = {"quality": rate, "subsampling": self.subsampling, "speed": self.speed, "max_threads": 1}
        return options if self.tune is None else {**options, "advanced": {"tune": self.tune}}

    def settings(self) -> dict[str, str]:
        tuning = self.tune or "libavif's default"
        return {"preset": f"speed {self.speed}", "tuning": tuning, "chroma": f"{self.subsampling}, 8 bit"}

    def _library_version(self) -> dict[str, str]:
        from PIL import _avif

        return {"libavif": str(features.version(self.feature)), "AV1": _avif.codec_versions()}
