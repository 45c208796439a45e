"""VVC intra through the ffmpeg program that the package imageio-ffmpeg carries: vvenc, and ffmpeg's own decoder."""

import functools
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.bitstream import BitstreamError
from models.codecs.standard import nal
from models.codecs.standard.base import MissingEncoder, StandardCodec
from models.counted import counted

_INSTALL = "pip install --upgrade imageio-ffmpeg"
# The filter matters by up to 0.8 dB: both directions are spelled out, none left to ffmpeg's defaults.
_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int"
_QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1", "-filter_threads", "1")
# vvenc prints warnings to the standard output, where the stream goes too; they would be counted as bits.
_WARNING = b"Configuration warning"
_SECONDS = 600
_MAX_CUT = 1 << 13


class VVC(StandardCodec):
    """One intra picture, 4:2:0, 10 bit, as a raw stream; ``rate`` is the qp, 63..17.

    For PSNR of RGB, chroma QPs 4 lower than luma's need fewer bits than 2 or 6 lower, and BT.601 than BT.709. With its
    preset slower, vvenc writes a warning into the stream.

    Args:
        preset: vvenc's effort, ``"faster"``, ``"fast"``, ``"medium"`` or ``"slow"``.
        chroma_offset: added to the qp of Cb and Cr, -12..12. Below zero for PSNR of RGB, where a chroma sample at half
            resolution counts for four pixels.
    """

    rates = (63.0, 57.0, 52.0, 47.0, 42.0, 37.0, 32.0, 27.0, 22.0, 17.0)
    file_suffix = ".vvc"
    max_side = 25328  # of level 6.3, in whole blocks of 8; longer ones are written, but no decoder reads them

    def __init__(self, *, preset: str = "medium", chroma_offset: int = -4):
        super().__init__()
        presets = ("faster", "fast", "medium", "slow")
        if preset not in presets:
            raise ValueError(f"preset={preset!r} must be one of {presets}")
        if chroma_offset not in range(-12, 13):
            raise ValueError(f"chroma_offset={chroma_offset!r} must be one of -12..12")
        self.preset, self.chroma_offset = preset, chroma_offset

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        padded, (rows, columns) = nal.pad(image, multiple=2)
        done = self._coded(padded, rate)
        if done.returncode and (room := padded.shape[0] + 1024) < _MAX_CUT:
            # ffmpeg gives vvenc a buffer of one byte a pixel. Noise in high quality needs more: flat rows make room.
            padded = np.pad(padded, ((0, room), (0, 0), (0, 0)), constant_values=128)
            rows, done = rows + room, self._coded(padded, rate)
        height, width = image.shape[:2]
        if done.returncode or not done.stdout:
            raise RuntimeError(f"vvenc failed on a picture of {height}x{width}: {_reason(done)}")
        if _WARNING in done.stdout:
            raise RuntimeError(
                f"vvenc wrote a warning into the stream, not only the picture: {_WARNING.decode()}"
            )
        return nal.seal(done.stdout, nal.VVC, (rows, columns))

    def decode(self, data: bytes) -> np.ndarray:
        height, width = self.read_size(data)
        stream, (rows, columns) = nal.unseal(data, nal.VVC)
        shape = height + rows, width + columns, 3
        done = _run(self._decoder(), stream)
        # Whatever ffmpeg has to say about a file of ours at this level is damage.
        if done.returncode or done.stderr or len(done.stdout) != np.prod(shape):
            raise BitstreamError(f"not a whole, unharmed VVC file: {_reason(done)}")
        return np.frombuffer(done.stdout, np.uint8).reshape(shape)[:height, :width].copy()

    def read_size(self, data: bytes) -> tuple[int, int]:
        return nal.picture_size(data, nal.VVC)

    def about(self) -> dict[str, Any]:
        encode, decode = self._encoder("{width}x{height}", "{rate}"), self._decoder()
        about = {
            "command": f"ffmpeg {' '.join(encode)} | ffmpeg {' '.join(decode)}",
            "settings": {
                "preset": self.preset,
                "tuning": f"psnr, chroma QP {self.chroma_offset:+d}",
                "chroma": "4:2:0, 10 bit",
            },
            "colour": f"ffmpeg's scale filter, full-range BT.601 YCbCr 4:2:0, 10 bit, {_FLAGS}",
            "versions": {},
        }
        try:
            import imageio_ffmpeg

            versions = {"imageio-ffmpeg": imageio_ffmpeg.__version__}
            return {**about, "versions": versions | {"ffmpeg": imageio_ffmpeg.get_ffmpeg_version()}}
        except (ImportError, RuntimeError):
            return about

    def check_available(self) -> None:
        _program()

    def _coded(self, image: np.ndarray, rate: float) -> subprocess.CompletedProcess[bytes]:
        height, width = image.shape[:2]
        return _run(self._encoder(f"{width}x{height}", round(rate)), image.tobytes())

    def _encoder(self, size: str, qp: int | str) -> list[str]:
        source = f"-f rawvideo -pix_fmt rgb24 -video_size {size} -framerate 1 -i pipe:0 -frames:v 1"
        convert = f"-vf scale=out_color_matrix=smpte170m:out_range=pc:{_FLAGS} -pix_fmt yuv420p10le"
        # Groups of pictures and fast decisions about ALF make no sense for one picture: vvenc would leave them out by
        # itself, with a warning. HRD parameters are 11 bytes for nothing.
        code = f"-c:v libvvenc -preset {self.preset} -qpa 0 -qp {qp} -g 1"
        planes = ("cbqpoffset", "crqpoffset", "cbqpoffsetdualtree", "crqpoffsetdualtree")
        offsets = "".join(f":{name}={self.chroma_offset}" for name in planes)
        private = f"-vvenc-params hrdparameterspresent=0:alfspeed=0{offsets}"
        return [*_QUIET, *f"{source} {convert} {code} {private} -threads 1 -f vvc pipe:1".split()]

    def _decoder(self) -> list[str]:
        convert = f"-vf scale=in_color_matrix=smpte170m:in_range=pc:{_FLAGS} -pix_fmt rgb24"
        return [
            *_QUIET,
            *f"-xerror -err_detect explode -f vvc -i pipe:0 {convert} -f rawvideo pipe:1".split(),
        ]


@functools.cache
def _program() -> str:
    """Path of an ffmpeg that has vvenc."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        path = get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise MissingEncoder(f"VVC needs ffmpeg with libvvenc: {_INSTALL}") from error
    listing = subprocess.run([path, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
    if not re.search(r"\blibvvenc\b", listing):
        raise MissingEncoder(f"VVC needs an ffmpeg with libvvenc, and {path} has none: {_INSTALL}")
    return path


def _run(arguments: Sequence[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([_program(), *arguments], input=data, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise BitstreamError(f"ffmpeg did not finish within {_SECONDS} seconds") from None


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").splitlines() or [""]
    # "[vvc @ 0x55e8f29d5480] reason": the address differs from run to run.
    return (
        re.sub(r"^\[[^]]*\]\s*", "", lines[0]).strip() or f"ffmpeg gave {counted(len(done.stdout), 'byte')}"
    )
