"""Standard codecs: real files, sizes from headers, damage, missing libraries, threads, scaling, a target rate."""

import argparse
import builtins
import io
import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.utils.bench import codecs as bench
from PIL import Image, features
from torch import Tensor

from evaluation import real_bytes
from evaluation.measures import psnr
from models.bitstream import BitstreamError
from models.codecs.downscaled import Downscaled
from models.codecs.identity import Identity
from models.codecs.read_through import ReadThrough
from models.codecs.standard import colour, nal, vvc
from models.codecs.standard.base import MissingEncoder, StandardCodec
from models.codecs.standard.hevc import HEVC
from models.codecs.standard.jpegxl import JPEGXL
from models.codecs.standard.pillow import AVIF, JPEG, JPEG2000, WebP
from models.codecs.standard.vvc import VVC
from tests.conftest import component, names_in, tiny_codec
from tests.drawn_pictures import as_tensor, drawn, quality, standard

STANDARD = [name for name in names_in("codec") if ".standard." in component("codec", name)._target_]
PILLOW = ["jpeg", "webp", "jpeg2000", "avif", "avif_fast"]


@pytest.fixture(params=STANDARD)
def codec(request: pytest.FixtureRequest) -> StandardCodec:
    return standard(request.param)


def test_the_list_is_complete() -> None:
    named = {"avif", "hevc", "jpeg", "jpeg2000", "jpegxl", "vvc", "webp"}
    variants = {"avif_fast", "vvc_fast", "jpeg_default", "webp_default"}
    assert named | variants <= set(STANDARD)


def test_more_rate_is_more_bytes_and_a_better_picture(codec: StandardCodec) -> None:
    image = drawn(96, 130)
    files = [codec.encode(image, rate) for rate in codec.rates[1::3]]
    lengths = [len(data) for data in files]
    decoded = [quality(codec.decode(data), image) for data in files]
    assert lengths == sorted(set(lengths))
    assert decoded == sorted(set(decoded))
    # A wrong matrix, range or channel order stays below this at any rate.
    assert decoded[-1] > 35


def test_colours_come_back_as_they_were(codec: StandardCodec) -> None:
    """Flat patches of every primary: a swapped channel, a wrong matrix or range shows at once."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 90, 30]])
    image = np.repeat(np.repeat(colours[None].astype(np.uint8), 64, 0), 64, 1)
    decoded = codec.decode(codec.encode(image, codec.rates[-1])).astype(int)
    middles = decoded[32, 32::64]
    assert abs(middles - colours).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 15), (33, 50), (47, 45)])
def test_every_size_comes_back_from_the_file_alone(codec: StandardCodec, size: tuple[int, int]) -> None:
    image = drawn(*size)
    data = codec.encode(image, codec.rates[-2])
    assert codec.read_size(data) == size
    decoded = codec.decode(data)
    assert (decoded.shape, decoded.dtype) == ((*size, 3), np.uint8)
    # What was padded must be cut on the right side (else 15 dB); chroma at half resolution costs most on few pixels.
    if min(size) > 30:
        assert quality(decoded, image) > 24


def test_the_longest_side_comes_back_and_a_longer_one_is_told(codec: StandardCodec) -> None:
    longest = torch.zeros(1, 3, 1, codec.max_side)
    (bitstream,) = codec.compress(longest, codec.rates[0])
    decoded = codec.decompress([codec.parse(codec.serialise(bitstream))]).x_hat
    assert decoded.shape == longest.shape
    assert decoded.max() < 0.3
    for size in ((1, codec.max_side + 1), (codec.max_side + 1, 1)):
        message = (
            rf"image size {size[1]}x{size[0]} .width x height.: {type(codec).__name__} takes sides of at most"
        )
        with pytest.raises(ValueError, match=message):
            codec.compress(torch.zeros(1, 3, *size), codec.rates[0])


def test_a_downscaled_codec_takes_what_its_small_picture_allows() -> None:
    codec = Downscaled(WebP(), scale=1 / 4).eval()
    assert codec.compress(torch.zeros(1, 3, 4, 20000), 30)[0].size == (4, 20000)
    with pytest.raises(ValueError, match="image size 17500x1 .* WebP takes sides of at most 16383"):
        Downscaled(WebP(), scale=1 / 2).eval().compress(torch.zeros(1, 3, 2, 35000), 30)


def test_what_x265_says_does_not_reach_the_user() -> None:
    with pytest.raises(RuntimeError, match=r"^x265 failed on a picture of 40x56 at qp 30$"):
        HEVC(preset="no such preset").encode(drawn(40, 56), 30)


def test_sizes_are_read_without_decoding(codec: StandardCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(drawn(40, 56), codec.rates[0])

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(type(codec), "decode", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr(vvc, "_run", refuse)
    assert codec.parse(data).size == (40, 56)


def test_bits_of_forward_are_the_file_s(codec: StandardCodec) -> None:
    x = torch.cat([as_tensor(drawn(40, 56, seed)) for seed in (0, 1)])
    rate = codec.rates[1]
    files = [codec.serialise(bitstream) for bitstream in codec.compress(x, rate)]
    assert codec.exact
    assert codec(x, rate).bits["base"].tolist() == [8.0 * len(data) for data in files]


def test_exact_is_what_estimates_are_not() -> None:
    assert Identity().exact
    assert not tiny_codec("mean_scale").exact
    x = as_tensor(drawn(20, 30))
    identity = Identity().eval()
    assert identity(x).bits["base"].item() == 8 * len(identity.compress(x)[0].strings["base"])


def test_threads_change_no_byte_and_no_pixel(codec: StandardCodec) -> None:
    images = [drawn(48, 64, seed) for seed in range(4)] * 2
    rate = codec.rates[len(codec.rates) // 2]

    def trip(image: np.ndarray) -> tuple[bytes, bytes]:
        data = codec.encode(image, rate)
        return data, codec.decode(data).tobytes()

    alone = [trip(image) for image in images[:4]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(trip, images))
    assert together == alone * 2


@pytest.mark.parametrize("name", STANDARD)
def test_about_is_plain_and_names_what_made_the_file(name: str) -> None:
    about = json.loads(json.dumps(standard(name).about()))
    assert set(about) == {"command", "settings", "colour", "versions"}
    assert "{rate}" in about["command"]
    assert set(about["settings"]) == {"preset", "tuning", "chroma"}
    assert all(about["settings"].values())
    assert about["colour"]
    assert about["versions"]
    assert all(isinstance(version, str) and version for version in about["versions"].values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("avif", ("speed 4", "psnr", "4:4:4, 8 bit")),
        ("avif_fast", ("speed 6", "libavif's default", "4:4:4, 8 bit")),
        ("hevc", ("veryslow", "psnr", "4:4:4, 10 bit")),
        ("vvc", ("medium", "psnr, chroma QP -4", "4:2:0, 10 bit")),
        ("vvc_fast", ("fast", "psnr, chroma QP -4", "4:2:0, 10 bit")),
        ("webp_default", ("method 4", "none: libwebp's default, noise shaping 50", "4:2:0, 8 bit")),
    ],
)
def test_plain_names_are_set_for_psnr_and_say_so(name: str, settings: tuple[str, str, str]) -> None:
    assert tuple(tiny_codec(name).about()["settings"].values()) == settings


@pytest.mark.parametrize("name", PILLOW)
def test_the_command_that_is_stored_makes_the_same_file(name: str) -> None:
    codec, image = standard(name), drawn(64, 96)
    command = codec.about()["command"].replace("{rate}", "30").replace("PIL.Image.save", "picture.save")
    file = io.BytesIO()
    eval(command, {"picture": Image.fromarray(image), "file": file})
    assert file.getvalue() == codec.encode(image, 30)


def test_the_vvc_command_that_is_stored_makes_the_same_file(tmp_path: Path) -> None:
    codec, image = standard("vvc"), drawn(64, 96)
    encode, decode = (
        codec.about()["command"].replace("{width}x{height}", "96x64").replace("{rate}", "40").split(" | ")
    )
    program = vvc._program()
    data = subprocess.run([program, *encode.split()[1:]], input=image.tobytes(), capture_output=True).stdout
    file = codec.encode(image, 40)
    # The file ends in a checksum of 8 bytes, which decoders skip.
    assert (data, len(file)) == (file[:-8], len(data) + 8)
    raw = subprocess.run([program, *decode.split()[1:]], input=file, capture_output=True).stdout
    assert raw == codec.decode(file).tobytes()
    assert b"warning" not in data


# -- damage ------------------------------------------------------------------------------------------------------


def test_foreign_and_cut_files_are_told_in_one_line(codec: StandardCodec) -> None:
    data = codec.encode(drawn(48, 64), codec.rates[2])
    rng = random.Random(0)
    cuts = {len(data) - 1, len(data) - 2, len(data) // 2, *rng.sample(range(len(data)), 10)}
    for wrong in (
        b"",
        b"\0" * 60,
        b"GIF89a" + b"hello " * 40,
        rng.randbytes(500),
        *(data[:cut] for cut in cuts),
    ):
        with pytest.raises(BitstreamError) as caught:
            codec.decode(wrong)
        assert len(str(caught.value).splitlines()) == 1
        assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["hevc", "vvc"])
def test_flipped_bits_never_give_another_picture(name: str) -> None:
    """The other formats hold no checksum, and their decoders conceal."""
    codec = standard(name)
    data = codec.encode(drawn(48, 64), 37)
    whole, rng = codec.decode(data), random.Random(1)
    for _ in range(200 if name == "hevc" else 20):
        wrong = bytearray(data)
        wrong[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            assert np.array_equal(codec.decode(bytes(wrong)), whole)
        except BitstreamError:
            continue


def test_flipped_bits_crash_nothing(codec: StandardCodec) -> None:
    data = codec.encode(drawn(48, 64), codec.rates[2])
    rng = random.Random(2)
    for _ in range(10 if isinstance(codec, VVC) else 60):
        wrong = bytearray(data)
        wrong[rng.randrange(min(len(data), 200))] ^= 1 << rng.randrange(8)
        try:
            codec.decompress([codec.parse(bytes(wrong))])
        except BitstreamError:
            continue


def test_a_file_that_decodes_to_another_size_is_told() -> None:
    codec = JPEG().eval()
    small, large = (codec.compress(as_tensor(drawn(*size)), 50)[0] for size in ((16, 16), (16, 24)))
    object.__setattr__(large, "strings", small.strings)
    with pytest.raises(BitstreamError, match="decodes to 16x16 instead of 16x24"):
        codec.decompress([large])


# -- one codec each ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "theirs", "qualities"),
    [("jpeg_default", bench.JPEG, (5, 40, 75, 95)), ("webp_default", bench.WebP, (0, 40, 75, 100))],
)
def test_defaults_agree_with_compressai_s_bench(
    name: str, theirs: type, qualities: tuple, tmp_path: Path
) -> None:
    codec = standard(name)
    tool = theirs(argparse.Namespace())
    for seed, size in enumerate([(70, 90), (128, 200)]):
        image = drawn(*size, seed)
        path = tmp_path / f"{seed}.png"
        Image.fromarray(image).save(path)
        for rate in qualities:
            expected = tool.run(str(path), rate)
            coded = real_bytes.code(codec, as_tensor(image), rate)
            assert coded.file_bits.item() / size[0] / size[1] == pytest.approx(expected["bpp"], abs=1e-12)
            # The tool sums squares in float32.
            assert psnr(coded.output.x_hat, as_tensor(image)).item() == pytest.approx(
                expected["psnr-rgb"], abs=1e-4
            )


@pytest.mark.parametrize("depth", [8, 10])
def test_colour_conversion_is_bt_601_and_comes_back(depth: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    planes = colour.to_ycbcr(image, depth)
    top, middle = 2**depth - 1, 2 ** (depth - 1)
    r, g, b = (image[..., channel].astype(float) for channel in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    for plane, value in zip(planes, (y, (b - y) / 1.772, (r - y) / 1.402), strict=True):
        exact = value * top / 255 + (0 if value is y else middle)
        # Rounding to nearest, and coefficients of 16 bits.
        assert abs(plane - np.clip(exact, 0, top)).max() <= 0.51
    assert abs(colour.to_rgb(planes, depth).astype(int) - image).max() <= (1 if depth == 8 else 0)
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(colour.to_rgb(colour.to_ycbcr(grey, depth), depth), grey)


def test_hevc_of_10_bits_is_finer_and_reads_files_of_8() -> None:
    codec, image = standard("hevc"), drawn(48, 64)
    of_8_bits = HEVC(depth=8).encode(image, 12)
    assert quality(codec.decode(codec.encode(image, 12)), image) > quality(codec.decode(of_8_bits), image)
    assert np.array_equal(codec.decode(of_8_bits), HEVC(depth=8).decode(of_8_bits))


def test_vvc_s_chroma_offset_gives_chroma_the_bits() -> None:
    image = drawn(64, 96)
    codecs = [VVC(preset="faster", chroma_offset=offset) for offset in (0, -6)]
    standard("vvc_fast")
    files = [codec.encode(image, 37) for codec in codecs]
    errors = [
        abs(colour.to_ycbcr(codec.decode(data)).astype(float) - colour.to_ycbcr(image))[1:].mean()
        for codec, data in zip(codecs, files, strict=True)
    ]
    assert len(files[1]) > len(files[0])
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("name", ["hevc", "vvc"])
def test_other_programs_read_raw_streams(name: str, tmp_path: Path) -> None:
    """ffmpeg, which finds the kind of file by itself, sees one picture of the padded size and complains of nothing."""
    codec = standard(name)
    path = tmp_path / f"picture{codec.file_suffix}"
    path.write_bytes(codec.encode(drawn(17, 15), 37))
    program, raw = standard("vvc") and vvc._program(), ["-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"]
    done = subprocess.run([program, "-loglevel", "warning", "-i", str(path), *raw], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == (17 * 16 if name == "hevc" else 18 * 16)


@pytest.mark.parametrize("syntax", [nal.HEVC, nal.VVC], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("cut", [(0, 0), (15, 15), (0, 1), (3, 0), (16, 0), (9000, 127)])
def test_the_last_unit_says_what_to_cut(syntax: nal.Syntax, cut: tuple[int, int]) -> None:
    stream = bytes(range(256)) * 2
    data = nal.seal(stream, syntax, cut)
    assert nal.unseal(data, syntax) == (stream, cut)
    added = data[len(stream) :]
    assert len(added) <= 5 + 3 + 3
    assert b"\0" not in added[5:]


def test_vvc_codes_noise_that_is_larger_than_ffmpeg_s_buffer() -> None:
    codec = standard("vvc")
    image = np.random.default_rng(0).integers(0, 256, (18, 34, 3)).astype(np.uint8)
    data = codec.encode(image, 17)
    assert len(data) > image.shape[0] * image.shape[1]
    assert codec.read_size(data) == (18, 34)
    assert codec.decode(data).shape == image.shape


def test_jpeg_is_what_pillow_writes_and_reads(images: Tensor) -> None:
    codec = JPEG().eval()
    (bitstream, _) = codec.compress(images, 35)
    pixels = (images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=35, optimize=True, subsampling="4:2:0")
    assert codec.serialise(bitstream) == file.getvalue()
    decoded = np.asarray(Image.open(file).convert("RGB"))
    x_hat = codec.decompress([bitstream]).x_hat[0].permute(1, 2, 0).numpy()
    assert np.array_equal((x_hat * 255).round().astype(np.uint8), decoded)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEG(subsampling="4:1:1"), "subsampling='4:1:1' must be"),
        (lambda: WebP(method=7), "method=7 must be"),
        (lambda: AVIF(speed=11), "speed=11 must be"),
        (lambda: AVIF(subsampling="4:0:0"), "subsampling='4:0:0' must be"),
        (lambda: VVC(preset="placebo"), "preset='placebo' must be"),
        # It makes vvenc write a warning into the stream.
        (lambda: VVC(preset="slower"), "preset='slower' must be"),
        (lambda: VVC(chroma_offset=13), "chroma_offset=13 must be"),
        (lambda: HEVC(depth=12), "depth=12 must be"),
        (lambda: JPEGXL(effort=0), "effort=0 must be"),
        (lambda: Downscaled(JPEG(), scale=1), "scale=1 must lie between"),
    ],
)
def test_wrong_arguments_are_told_at_construction(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- libraries that are not there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "package", "remedy"),
    [
        (HEVC, "av", "HEVC needs PyAV: pip install av"),
        (VVC, "imageio_ffmpeg", "VVC needs ffmpeg with libvvenc: pip install --upgrade imageio-ffmpeg"),
        (JPEGXL, "pillow_jxl", "JPEG XL needs its Pillow plugin: pip install pillow-jxl-plugin"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    make: type, package: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    vvc._program.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    codec = make()
    for attempt in (codec.check_available, lambda: codec.encode(drawn(16, 16), 30)):
        with pytest.raises(MissingEncoder, match=remedy):
            attempt()
    assert json.dumps(codec.about())


def test_an_ffmpeg_without_vvenc_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' V....D libx265'\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    vvc._program.cache_clear()
    with pytest.raises(MissingEncoder, match="needs an ffmpeg with libvvenc, and .*ffmpeg has none"):
        VVC().check_available()
    vvc._program.cache_clear()


def test_a_pillow_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(MissingEncoder, match="AVIF needs a Pillow that is built with avif: .*'pillow>=11.3'"):
        AVIF().encode(drawn(16, 16), 50)


def test_tasks_on_latents_read_any_standard_codec() -> None:
    reader = tiny_codec("mean_scale").eval()
    both = ReadThrough(JPEG2000(), reader).eval()
    x = as_tensor(drawn(70, 90))
    decoded = both.decompress([both.parse(both.serialise(b)) for b in both.compress(x, 36)])
    assert decoded.latents["y_hat"].shape == reader(x).latents["y_hat"].shape


def test_jpeg2000_decorrelates_colours() -> None:
    """Three equal channels are one after the colour transform; coded apart they would have a third of the bits each."""
    codec, grey = JPEG2000(), drawn(96, 96)[..., :1].repeat(3, axis=2)
    file = io.BytesIO()
    options = {
        "quality_mode": "rates",
        "quality_layers": [16],
        "irreversible": True,
        "no_jp2": True,
        "mct": 0,
    }
    Image.fromarray(grey).save(file, "JPEG2000", **options)
    assert (
        quality(codec.decode(codec.encode(grey, 16)), grey) > quality(codec.decode(file.getvalue()), grey) + 3
    )
