"""Standard codecs that Pillow carries."""

import io

import numpy as np
from PIL import Image

from models.codecs.standard.base import StandardCodec


class JPEG(StandardCodec):
    """JPEG through libjpeg: optimised Huffman tables; ``rate`` is the quality, 1..95.

    Args:
        subsampling: of chroma, ``"4:2:0"`` or ``"4:4:4"``.
    """

    rates = (1.0, 5.0, 10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 95.0)
    file_suffix = ".jpg"

    def __init__(self, *, subsampling: str = "4:2:0"):
        super().__init__()
        if subsampling not in ("4:2:0", "4:4:4"):
            raise ValueError(f"subsampling={subsampling!r} must be '4:2:0' or '4:4:4'")
        self.subsampling = subsampling

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        file = io.BytesIO()
        options = {"quality": round(rate), "subsampling": self.subsampling, "optimize": True}
        Image.fromarray(image).save(file, "JPEG", **options)
        return file.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
