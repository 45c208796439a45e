"""A codec on a smaller picture: sizes, counted bytes, damage."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bitstream import BitstreamError
from models.codecs.base import Codec
from models.codecs.downscaled import Downscaled
from models.codecs.standard.base import levels_of
from models.codecs.standard.hevc import HEVC
from models.codecs.standard.pillow import AVIF, JPEG, JPEG2000, WebP
from tests.conftest import tiny_codec
from tests.drawn_pictures import as_tensor, drawn, quality


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4])
@pytest.mark.parametrize("inner", [JPEG, WebP, HEVC])
@pytest.mark.parametrize("size", [(70, 91), (3, 1), (129, 64)])
def test_downscaled_files_hold_their_size(inner: type, scale: float, size: tuple[int, int]) -> None:
    codec = Downscaled(inner(), scale=scale).eval()
    image = drawn(*size)
    (bitstream,) = codec.compress(as_tensor(image), codec.rates[-2])
    data = codec.serialise(bitstream)
    parsed = codec.parse(data)
    assert parsed.size == size
    decoded = codec.decompress([parsed])
    assert decoded.x_hat.shape == (1, 3, *size)
    # The inner file and 4 bytes, all of them counted.
    small = [max(1, round(side * scale)) for side in size]
    shrunk = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.LANCZOS))
    assert decoded.bits["base"].item() == 8 * (len(inner().encode(shrunk, codec.rates[-2])) + 4)


def _file(codec: Codec, image: np.ndarray, rate: float) -> bytes:
    (bitstream,) = codec.compress(as_tensor(image), rate)
    return codec.serialise(bitstream)


def test_downscaling_goes_on_below_the_lowest_quality() -> None:
    image = drawn(320, 480)
    plain, half = JPEG(), Downscaled(JPEG(), scale=1 / 4).eval()
    lowest, small = plain.encode(image, 1), _file(half, image, 20)
    assert len(small) < len(lowest)
    (decoded,) = levels_of(half.decompress([half.parse(small)]).x_hat)
    assert quality(decoded, image) > quality(plain.decode(lowest), image)


def test_downscaled_files_open_in_other_programs(tmp_path: Path) -> None:
    for inner in (JPEG(), WebP(), JPEG2000(), AVIF()):
        codec = Downscaled(inner, scale=1 / 2).eval()
        path = tmp_path / f"small{codec.file_suffix}"
        path.write_bytes(_file(codec, drawn(64, 96), codec.rates[-2]))
        with Image.open(path) as image:
            shown = np.asarray(image.convert("RGB"))
        small = Image.fromarray(drawn(64, 96)).resize((48, 32), Image.Resampling.LANCZOS)
        assert quality(shown, np.asarray(small)) > 28


def test_downscaled_damage_is_told() -> None:
    codec = Downscaled(JPEG(), scale=1 / 2).eval()
    data = _file(codec, drawn(64, 96), 50)
    other = struct.pack("<HH", 999, 63)
    for wrong, message in (
        (data[:-4] + other, "64x1000 at scale 0.5 is not 32x48"),
        (data[:-1], "is not 32x48"),
        (data[:3], "cut off"),
        (b"\0\0" + data, "first bytes are others"),
    ):
        with pytest.raises(BitstreamError, match=message):
            codec.decompress([codec.parse(wrong)])
    assert "0.5 * width" in codec.about()["command"]
    assert "jpeg" in codec.about()["versions"] or "libjpeg-turbo" in codec.about()["versions"]


@pytest.mark.parametrize("name", ["mean_scale_tiny", "scalable_face_tiny"])
def test_any_codec_codes_a_smaller_picture(name: str) -> None:
    inner = tiny_codec(name).eval()
    codec, image = Downscaled(inner, scale=1 / 2).eval(), drawn(70, 91)
    small = Image.fromarray(image).resize((46, 35), Image.Resampling.LANCZOS)
    data = _file(codec, image, None)
    assert len(data) == len(_file(inner, np.asarray(small), None)) + 4
    parsed = codec.parse(data)
    (decoded,) = levels_of(codec.decompress([parsed]).x_hat)
    (expected,) = levels_of(inner.decompress([inner.parse(data[:-4])]).x_hat)
    assert np.array_equal(decoded, Image.fromarray(expected).resize((91, 70), Image.Resampling.LANCZOS))
    assert codec(as_tensor(image)).x_hat.shape == (1, 3, 70, 91)


def test_a_filter_learns_nothing_new_before_a_smaller_picture() -> None:
    filtered = tiny_codec("preprocessed_jpeg_small").eval()
    codec, image = Downscaled(filtered, scale=1 / 2).eval(), drawn(64, 96)
    assert codec.file_suffix == ".jpg"
    small = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.LANCZOS))
    assert _file(codec, image, 27)[:-4] == _file(filtered, small, 27)
