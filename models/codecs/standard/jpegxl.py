"""JPEG XL through libjxl, in the package pillow-jxl-plugin."""

from importlib import metadata
from typing import Any

import numpy as np

from models.bitstream import BitstreamError
from models.codecs.standard.base import MissingEncoder, StandardCodec

# Width over height for the ratios 1..7 of ISO/IEC 18181-1, SizeHeader.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class JPEGXL(StandardCodec):
    """Lossy JPEG XL (VarDCT, XYB) as a bare codestream; ``rate`` is libjxl's quality, 0..95.

    Args:
        effort: 1 (fast) to 10 (small).
    """

    # Between 0 and 20, libjxl begins to code at half resolution, and bits do not fall everywhere.
    rates = (0.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0)
    file_suffix = ".jxl"

    def __init__(self, *, effort: int = 9):
        super().__init__()
        if effort not in range(1, 11):
            raise ValueError(f"effort={effort!r} must be one of 1..10")
        self.effort = effort

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        self.check_available()
        from pillow_jxl import Encoder

        encoder = Encoder("RGB", quality=float(round(rate)), effort=self.effort, num_threads=0)
        height, width = image.shape[:2]
        nothing = {"exif": None, "jumb": None, "xmp": None, "compress": False}
        return encoder(image.tobytes(), width, height, jpeg_encode=False, **nothing)

    def decode(self, data: bytes) -> np.ndarray:
        self.check_available()
        from pillow_jxl import Decoder

        height, width = self.read_size(data)
        try:
            _, info, pixels, _, _ = Decoder(num_threads=0)(data)
        except Exception as error:
            # The message of libjxl's binding is about how to build it.
            raise BitstreamError("not a whole, unharmed JPEG XL file: libjxl cannot decode it") from error
        if info.mode != "RGB" or len(pixels) != height * width * 3:
            raise BitstreamError(f"not a JPEG XL file of one {height}x{width} RGB picture")
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).copy()

    def read_size(self, data: bytes) -> tuple[int, int]:
        if data[:2] != b"\xff\x0a" or len(data) < 12:
            raise BitstreamError("not a JPEG XL codestream: its first bytes are others")
        bits, position = int.from_bytes(data[2:12], "little"), 0

        def take(count: int) -> int:
            nonlocal position
            position += count
            return bits >> position - count & (1 << count) - 1

        def side(small: int) -> int:
            return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

        small = take(1)
        height = side(small)
        ratio = take(3)
        if ratio == 0:
            return height, side(small)
        across, down = _RATIOS[ratio - 1]
        return height, height * across // down

    def about(self) -> dict[str, Any]:
        command = f"pillow_jxl.Encoder('RGB', quality={{rate}}, effort={self.effort}, num_threads=0)"
        tuning = "none: libjxl aims at visibility (Butteraugli)"
        settings = {"preset": f"effort {self.effort}", "tuning": tuning, "chroma": "4:4:4, XYB"}
        colour = "inside libjxl: sRGB to XYB, 4:4:4"
        about = {"command": command, "settings": settings, "colour": colour, "versions": {}}
        try:
            return {**about, "versions": {"pillow-jxl-plugin": metadata.version("pillow-jxl-plugin")}}
        except metadata.PackageNotFoundError:
            return about

    def check_available(self) -> None:
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            raise MissingEncoder("JPEG XL needs its Pillow plugin: pip install pillow-jxl-plugin") from None
