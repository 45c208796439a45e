"""A differentiable JPEG: the real one's arithmetic, with straight-through rounding and a fitted count of bits."""

import functools
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.block_dct import TO_YCBCR, blocks_of, dct_matrix, plane_of
from models.codecs.proxies import jpeg_bits
from models.codecs.proxies.proxy import Proxy
from models.codecs.standard.pillow import JPEG
from models.entropy.rounding import round_ste
from models.outputs import CodecOutput
from models.padding import crop, pad_to_stride

TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


class DifferentiableJPEG(Proxy):
    r"""DCT, quantisation, and the way back, as libjpeg does it.

    ::

        x ─► YCbCr ─► chroma: means of 2x2 ─► DCT ─► / table ─► Q ─┬─► features ─► bits (jpeg_bits.py)
                                                                   ▼
        x_hat ◄─ RGB ◄─ chroma: triangle filter ◄─ IDCT ◄─ · table

    Q rounds, with a straight-through gradient. Besides coefficients nothing is rounded: 8-bit pictures belong to the
    real codec. It has no weights to train.

    Args:
        codec: the JPEG that it imitates; its quantisation tables are read from a file that it writes.
        rates: see ``Proxy``.

    Raises:
        ValueError: ``codec`` is another one, or does not fit Huffman tables to the picture: bits are counted for that.
    """

    def __init__(self, codec: JPEG, rates: Sequence[float] | None = None):
        if not isinstance(codec, JPEG) or not codec.optimize:
            raise ValueError("codec: DifferentiableJPEG imitates JPEG with optimize=true, and nothing else")
        super().__init__(codec, rates)
        self.factor = 1 if codec.subsampling == "4:4:4" else 2
        self.register_buffer("dct", dct_matrix(), persistent=False)
        self.register_buffer("to_ycbcr", TO_YCBCR, persistent=False)
        self.register_buffer("to_rgb", TO_RGB, persistent=False)
        # Stored: what was trained through one count of bits is refined through the same.
        qualities, weights = jpeg_bits.shipped()
        self.register_buffer("bits_at", qualities)
        self.register_buffer("bit_weights", weights)

    def imitate(self, x: Tensor, rate: float, keys: Tensor | None = None) -> CodecOutput:
        with torch.autocast(x.device.type, enabled=False):
            size = tuple(x.shape[-2:])
            coefficients = self.quantised(x.float(), rate)
            bits = jpeg_bits.features(*coefficients) @ jpeg_bits.at(self.bits_at, self.bit_weights, rate)
            return CodecOutput(
                size, x_hat=self.decoded(coefficients, size, rate), bits={"base": bits}, rate=rate
            )

    def quantised(self, x: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """Rounded coefficients of Y, Cb and Cr: (B, rows, columns, 64) each, frequencies row by row."""
        padded = pad_to_stride(255 * x, 8 * self.factor)
        luma, *chroma = torch.einsum("dc,bchw->dbhw", self.to_ycbcr, padded)
        planes = [luma - 128, *(F.avg_pool2d(plane[:, None], self.factor)[:, 0] for plane in chroma)]
        tables = self._tables(rate, x.device)
        return tuple(
            round_ste(blocks_of(plane) @ self.dct.T / table)
            for plane, table in zip(planes, tables, strict=True)
        )

    def decoded(self, coefficients: Sequence[Tensor], size: tuple[int, int], rate: float) -> Tensor:
        """The picture (B, 3, H, W) of rounded coefficients."""
        tables = self._tables(rate, coefficients[0].device)
        luma, *chroma = (
            plane_of((c * table) @ self.dct) for c, table in zip(coefficients, tables, strict=True)
        )
        small = math.ceil(size[0] / self.factor), math.ceil(size[1] / self.factor)
        planes = [crop((luma + 128).clamp(0, 255), size)]
        for plane in chroma:
            # libjpeg's "fancy" enlargement is the bilinear one; what lies behind the picture's edge takes no part.
            inside = crop(plane.clamp(-128, 127), small)[:, None]
            if self.factor > 1:
                inside = F.interpolate(inside, scale_factor=self.factor, mode="bilinear", align_corners=False)
            planes.append(crop(inside[:, 0], size))
        rgb = torch.einsum("dc,cbhw->bdhw", self.to_rgb, torch.stack(planes))
        return (rgb / 255).clamp(0, 1)

    def _tables(self, rate: float, device: torch.device) -> Sequence[Tensor]:
        luma, chroma = _written_tables(self.codec.subsampling, round(rate))
        with torch.inference_mode(False):
            luma, chroma = (torch.from_numpy(table).to(device) for table in (luma, chroma))
        return luma, chroma, chroma


@functools.cache
def _written_tables(subsampling: str | None, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantisation tables of luma and chroma, 64 numbers each, row by row, from a file that Pillow writes."""
    data = JPEG(subsampling=subsampling).encode(np.zeros((16, 16, 3), np.uint8), quality)
    with Image.open(io.BytesIO(data)) as image:
        tables = image.quantization
    luma, chroma = (np.array(tables[key], np.float32) for key in (0, 1))
    return luma, chroma
