"""HEVC intra, the codec inside BPG and HEIC, through PyAV and x265."""

import re
from fractions import Fraction
from typing import Any

import numpy as np

from models.bitstream import BitstreamError
from models.codecs.standard import colour, nal
from models.codecs.standard.base import MissingEncoder, StandardCodec, reading

_X265 = {
    "info": "0",
    # As `tune=psnr`: what BPG and the other anchors are judged by.
    "psy-rd": "0",
    "psy-rdoq": "0",
    "aq-mode": "0",
    # One thread, and then no wavefronts, which would only cost entry points.
    "pools": "none",
    "frame-threads": "1",
    "wpp": "0",
    "vui-timing-info": "0",
    # Three bytes, by which other programs show the right colours.
    "range": "full",
    "colorprim": "bt709",
    "transfer": "iec61966-2-1",
    "colormatrix": "smpte170m",
    "log-level": "none",
}

_LONG = 4208
"""Longest side, in blocks of 16, of level 4.1: the highest level that allows such blocks."""
_FORMATS = {8: "yuv444p", 10: "yuv444p10le"}
_DEPTHS = {"yuv444p": 8, "yuvj444p": 8, "yuv444p10le": 10}


class HEVC(StandardCodec):
    """One intra picture, 4:4:4, as a raw stream; ``rate`` is x265's qp, 51..12 (I pictures get it less 3).

    For PSNR of RGB, 10 bit and 4:4:4 need fewer bits than 8 bit and 4:2:0, and chroma wants luma's own QP.

    Args:
        preset: x265's effort, ``"ultrafast"`` to ``"placebo"``.
        depth: bits of a sample, 8 or 10; files of both are read.
    """

    rates = (51.0, 47.0, 42.0, 37.0, 32.0, 27.0, 22.0, 17.0, 12.0)
    file_suffix = ".hevc"

    def __init__(self, *, preset: str = "veryslow", depth: int = 10):
        super().__init__()
        if depth not in (8, 10):
            raise ValueError(f"depth={depth!r} must be 8 or 10")
        self.preset, self.depth = preset, depth

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        self.check_available()
        import av

        # x265 codes a side below 32 in blocks of 16, which no level allows where the other side is long.
        padded, cut = nal.pad(image, least=32 if max(image.shape) > _LONG else 16)
        encoder = av.CodecContext.create("libx265", "w")
        encoder.width, encoder.height, encoder.pix_fmt = (
            padded.shape[1],
            padded.shape[0],
            _FORMATS[self.depth],
        )
        encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
        encoder.options = {"preset": self.preset, "x265-params": _parameters(round(rate))}
        frame = av.VideoFrame(encoder.width, encoder.height, encoder.pix_fmt)
        for plane, samples in zip(frame.planes, colour.to_ycbcr(padded, self.depth), strict=True):
            _samples(plane, samples.dtype)[:, : encoder.width] = samples
        frame.pts = 0
        try:
            stream = b"".join(bytes(packet) for part in (frame, None) for packet in encoder.encode(part))
        except av.error.FFmpegError as error:
            height, width = image.shape[:2]
            raise RuntimeError(f"x265 failed on a picture of {height}x{width} at qp {round(rate)}") from error
        return nal.seal(stream, nal.HEVC, cut)

    def decode(self, data: bytes) -> np.ndarray:
        self.check_available()
        import av

        height, width = self.read_size(data)
        stream, _ = nal.unseal(data, nal.HEVC)
        with reading("HEVC"):
            decoder = av.CodecContext.create("hevc", "r")
            decoder.thread_count = 1
            decoder.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
            frames = [f for part in (av.Packet(stream), None) for f in decoder.decode(part)]
            depth = _DEPTHS.get(frames[0].format.name) if len(frames) == 1 else None
            if depth is None or frames[0].is_corrupt:
                raise BitstreamError("not a HEVC file of one whole 4:4:4 picture of 8 or 10 bits")
            kind = np.uint8 if depth == 8 else np.uint16
            planes = np.stack([_samples(plane, kind)[:height, :width] for plane in frames[0].planes])
        return colour.to_rgb(planes, depth)

    def read_size(self, data: bytes) -> tuple[int, int]:
        return nal.picture_size(data, nal.HEVC)

    def about(self) -> dict[str, Any]:
        pixels = _FORMATS[self.depth]
        command = f"av libx265: pix_fmt={pixels} preset={self.preset} x265-params={_parameters('{rate}')}"
        settings = {"preset": self.preset, "tuning": "psnr", "chroma": f"4:4:4, {self.depth} bit"}
        about = {"command": command, "settings": settings, "colour": colour.DESCRIPTION, "versions": {}}
        try:
            import av
        except ImportError:
            return about
        versions = {"av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}
        return {**about, "versions": versions | {"x265": self._x265_version()}}

    def check_available(self) -> None:
        try:
            import av
        except ImportError:
            raise MissingEncoder("HEVC needs PyAV: pip install av") from None
        if not {"libx265", "hevc"} <= av.codecs_available:
            raise MissingEncoder(
                "HEVC needs a PyAV with libx265, as its wheels have it: pip install --upgrade av"
            )

    def _x265_version(self) -> str:
        """As x265 writes it into a stream where ``info`` lets it: there is no other way to ask."""
        import av

        encoder = av.CodecContext.create("libx265", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "yuv444p", Fraction(1, 25)
        encoder.options = {"preset": "ultrafast", "x265-params": "info=1:pools=none:log-level=none"}
        frame = av.VideoFrame.from_ndarray(np.zeros((3, 16, 16), np.uint8), format="yuv444p")
        stream = b"".join(bytes(packet) for part in (frame, None) for packet in encoder.encode(part))
        found = re.search(rb"x265 \(build \d+\) - ([^\s:]+)", stream)
        return found[1].decode() if found else "unknown"


def _samples(plane: Any, kind: Any) -> np.ndarray:
    """A view of a plane's own memory, (rows, columns and what fills up the line)."""
    return np.frombuffer(plane, kind).reshape(plane.height, -1)


def _parameters(qp: int | str) -> str:
    return ":".join(f"{key}={value}" for key, value in ({"qp": qp} | _X265).items())
