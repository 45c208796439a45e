"""Points of the record ``scalable_face``: faces through real files, and what judges say of the decodes."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.face_judges import FaceJudges, Seen, nearest, nme
from evaluation.gmsd import gmsd
from evaluation.measures import levels, psnr
from evaluation.real_bytes import grey_bytes
from models.codecs.base import Codec
from models.outputs import Bitstream
from models.pretrained.whole_file import write_whole
from pictures.finding import below
from pictures.reading import read_picture

SIDE = 256
"""Of the pictures that are coded, in pixels."""
Row = dict[str, Any]


@dataclass
class Faces:
    """Test faces as all codecs get them, and what the judges see in them.

    Attributes:
        pictures: (N, 3, SIDE, SIDE) in [0, 1], of 8-bit levels.
        judges: dlib's.
        rectangles: where it finds the face of each.
        seen: what it sees there.
    """

    pictures: Tensor
    judges: FaceJudges
    rectangles: list[tuple[int, int, int, int]]
    seen: list[Seen]

    @property
    def gallery(self) -> np.ndarray:
        """Identities of all originals, (N, 128)."""
        return np.stack([seen.identity for seen in self.seen])


def faces(folder: Path, count: int) -> Faces:
    """The first faces below a folder in which the judges find one, shrunk to ``SIDE``."""
    judges, pictures, rectangles = FaceJudges(), [], []
    for name in below(folder).names:
        picture = read_picture(folder / name)
        small = F.interpolate(picture, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        small = (255 * small).round() / 255
        rectangle = judges.rectangle(as_pixels(small[0]))
        if rectangle is not None:
            pictures.append(small)
            rectangles.append(rectangle)
        if len(pictures) == count:
            break
    seen = [
        judges.look(as_pixels(picture[0]), rectangle)
        for picture, rectangle in zip(pictures, rectangles, strict=True)
    ]
    return Faces(torch.cat(pictures), judges, rectangles, seen)


def as_pixels(picture: Tensor) -> np.ndarray:
    """uint8 (H, W, 3) of a picture (3, H, W) in [0, 1]."""
    return np.ascontiguousarray((255 * picture).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def judged(decoded: Tensor, of: Faces, file_bits: Sequence[float], payload_bits: Sequence[float]) -> Row:
    """A row's numbers, one an image: bits, landmarks, identity, gradients, and PSNR, which carries no claim.

    Args:
        decoded: (n, 3, SIDE, SIDE) in [0, 1], of the first n faces.
        of: all faces: identities are looked for among them.
        file_bits: of each.
        payload_bits: without what the file's format adds.
    """
    gallery = of.gallery
    found: dict[str, list[float]] = {"nme": [], "rank1": [], "identity_distance": []}
    for i, picture in enumerate(decoded):
        seen = of.judges.look(as_pixels(picture), of.rectangles[i])
        found["nme"].append(nme(seen, of.seen[i]))
        found["rank1"].append(float(nearest(seen.identity, gallery) == i))
        found["identity_distance"].append(float(np.linalg.norm(seen.identity - of.seen[i].identity)))
    originals = of.pictures[: len(decoded)]
    found["gmsd"] = gmsd(levels(decoded), levels(originals)).tolist()
    found["psnr"] = psnr(decoded, originals).tolist()
    rounded = {key: [round(value, 4) for value in values] for key, values in found.items()}
    return {"file_bits": list(file_bits), "payload_bits": list(payload_bits), **rounded}


def standard(codec: Codec, rate: float, of: Faces) -> Row:
    """A standard codec's row at one quality; its payload is what its file has over that of a flat grey picture."""
    header = 8 * grey_bytes(codec, (SIDE, SIDE), rate)
    decoded, bits, seconds = [], [], time.perf_counter()
    for picture in of.pictures.split(1):
        data = codec.serialise(codec.compress(picture, rate)[0])
        bits.append(8 * len(data))
        decoded.append(codec.decompress([codec.parse(data)]).x_hat)
    seconds = (time.perf_counter() - seconds) / len(of.pictures)
    return {"seconds": seconds, **judged(torch.cat(decoded), of, bits, [b - header for b in bits])}


def scalable(codec: Codec, files: Sequence[bytes], of: Faces, layers: Sequence[str]) -> Iterator[Row]:
    """Rows of a layered codec: its files cut behind each layer, as anybody would cut them, and decoded.

    Args:
        codec: in evaluation mode; it decodes.
        files: of the first n faces.
        of: all faces.
        layers: behind which they are cut.
    """
    names = [layer.name for layer in codec.layers]
    for last in map(names.index, layers):
        cut = []
        for data in files:
            left_out = list(codec.parse(data).strings.values())[last + 1 :]
            cut.append(data[: len(data) - sum(map(len, left_out))])
        bitstreams = [codec.parse(data) for data in cut]
        parts = [bitstreams[i : i + 10] for i in range(0, len(bitstreams), 10)]
        decoded = [codec.decompress(part, want=("pixels",)).x_hat for part in parts]
        file_bits = [8 * len(data) for data in cut]
        payload = [8 * sum(map(len, bitstream.strings.values())) for bitstream in bitstreams]
        yield {"upto": names[last], **judged(torch.cat(decoded), of, file_bits, payload)}


def files_of(codec: Codec, of: Tensor, batch: int = 1) -> tuple[list[bytes], float]:
    """Files of pictures, and the seconds that each took."""
    start = time.perf_counter()
    files = [codec.serialise(b) for part in of.split(batch) for b in codec.compress(part)]
    return files, (time.perf_counter() - start) / len(of)


def decode_seconds(codec: Codec, data: bytes, side: int, times: int = 3) -> float:
    """Seconds to decode a file at another size: the shortest of so many."""
    bitstream: Bitstream = codec.resized(codec.parse(data), side)
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        codec.decompress([bitstream], want=("pixels",))
        measured.append(time.perf_counter() - start)
    return min(measured)


def remembered(path: Path, rows: Callable[[], Sequence[Mapping[str, Any]]]) -> list[Row]:
    """Rows that an earlier call of the command left in a file, or fresh ones."""
    if not path.is_file():
        write_whole(path, json.dumps(list(rows())))
    return json.loads(path.read_text())
