"""The record ``coding``: deterministic, fast, robust. Beside CompressAI on the same weights, in turn in one process.

python -m benchmarks.coding --photos DIR      writes benchmarks/results/coding.json

DIR holds photos of which at least 12 have one size (Kodak's). The model is the trained codec that ships, or another
mean-scale codec of four stages with a task on latents and one of the same kind on pixels. Run it on a quiet machine.

Sections that are done are kept in runs/coding, by code, machine and settings: after a stop, the same command goes on
with the next one, and ``--only SECTION`` does some of them beforehand. The four stars take longest (torch.compile). The
record's rows of kind 'section' say what each really took.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import determinism, fuzz
from benchmarks.determinism import Way, photos_of, star, ways
from benchmarks.entropy_coder import Row, briefly_trained, coding_of_y, over_ideal
from benchmarks.eval_tool import beside_eval_tool
from benchmarks.record import Figures, Rows, kept, section, write
from benchmarks.whole_codecs import analysing, beside_compressai, bytes_of, overhead
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.compressai_weights import FILE
from models.pretrained import Pretrained, load
from models.threads import threads

NAME = "coding"
CROP = 256
TRAINED = "mbt2018-mean from MODEL"
"""The trained model's weights in CompressAI's architecture: what CompressAI and we are compared on."""


@dataclass(frozen=True)
class Architecture:
    """A model of CompressAI that is measured on weights from a short training.

    Attributes:
        name: CompressAI's.
        arguments: CompressAI's for its higher rates.
        steps: of training; enough for speed, not for figures on bits.
    """

    name: str
    arguments: dict[str, Any]
    steps: int


HYPERPRIOR = Architecture("bmshj2018-hyperprior", {"N": 128, "M": 192}, 300)
SERIAL = Architecture("mbt2018", {"N": 128, "M": 192}, 100)
ELIC = Architecture("elic2022-official", {"N": 192, "M": 320, "groups": [16, 16, 32, 64, 192]}, 60)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        photos: that everything on the trained model is measured on.
        repeats: of each timed call.
        ways: of the star.
        fuzz_files: how many.
        fuzz_seconds: at most.
        threads: of everything but the coding of y and the star.
        steps: of the short trainings at most.
    """

    photos: int
    repeats: int
    ways: Sequence[Way]
    fuzz_files: int
    fuzz_seconds: float
    threads: int
    steps: int = 300


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coding", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder; at least 12 photos of one size")
    parser.add_argument(
        "--model",
        type=Path,
        default=fuzz.SHIPPED,
        help="trained, with tasks on latents and on pixels (default: the one that ships)",
    )
    parser.add_argument("--fuzz-files", type=int, default=100_000, help="mutated (default: 100000)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="at most, for mutated files (default: 60)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of whole codecs and tasks (default: 2)")
    parser.add_argument(
        "--only", nargs="+", metavar="SECTION", help="measure and keep these sections, and write no record"
    )
    parser.add_argument("--trial", action="store_true", help="a little of everything, and write no record")
    options = parser.parse_args(arguments)
    if options.trial:
        effort = Effort(2, 1, ways(compiled=False), 400, 60.0, options.threads, steps=2)
    else:
        effort = Effort(12, 7, ways(), options.fuzz_files, 60 * options.minutes, options.threads)
    sections = sections_of(Subjects(options.photos, options.model, effort))
    if unknown := set(options.only or ()) - set(sections):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: the sections are {', '.join(sections)}")
    rows: list[Row] = []
    for name in options.only or sections:
        found, seconds = section(NAME, name, *sections[name])
        rows += [*found, {"kind": "section", "section": name, "seconds": seconds}]
    if options.only:
        return
    if options.trial:
        print(json.dumps(figures(rows), indent=2))
        return
    names = dict.fromkeys(row["way"] for row in rows if row["kind"] == "star")
    path = write(
        NAME,
        commands=["python -m benchmarks.coding --photos DIR"],
        rows=rows,
        figures=figures,
        notes=f"Ways of the star: {', '.join(names)}. {NOTES}",
    )
    print(path)


NOTES = (
    "DIR: the Kodak images; MODEL: the codec that ships, named in the row of kind 'model'. Figures 'trained_...' are "
    "MODEL's weights in CompressAI's architecture and in ours, median over the photos with the lowest and highest; "
    "'trained_coder_...' the entropy coding of y on one thread, 'trained_..._speedup_fp32' everything from picture to "
    "file and back on as many as the rows say, transforms accelerated. bf16 is ours in bfloat16 against CompressAI in "
    "fp32, for CompressAI has no such mode, and only where the processor has instructions, which the rows name; null "
    "elsewhere. Figures 'briefly_trained_...' are of models trained for 60 to 300 batches on crops of the photos, on "
    "one photo: enough for speed of transforms, not for rates, and what few symbols differ from zero there flatters "
    "the coder. Times: medians, CompressAI's model with the same weights and its own tables in turn. wrong_photos: "
    "photos with any wrong integer, over all codecs and ways of computing (rows of kind 'star', which name what each "
    "way changes; ELIC and the serial context on crops of 256 pixels). bytes_vs_compressai_percent and "
    "over_ideal_percent (beyond 64 bits, MODEL) are the worst of all photos and models. fuzz: rows name codecs, "
    "whether they are trained, pictures, mutations and what came out. analyze_time_ratio: file to the task's result "
    "from latents, over decompress and the same kind of task on pixels, accelerated, which is the harder comparison. "
    "bif_overhead_bytes: a file less its string."
)


class Subjects:
    """What is measured, each made when it is first asked for: sections that are kept need none of it.

    Args:
        photos: folder.
        model: trained, see the head of the file.
        effort: how much.

    Attributes raise ValueError for too few photos, or a model that lacks what is needed.
    """

    def __init__(self, photos: Path, model: Path, effort: Effort):
        self.folder, self.path, self.effort = photos, model, effort
        self._trained: dict[str, CompressAICodec] = {}

    @cached_property
    def model(self) -> Pretrained:
        """The trained model, as it is."""
        return load(self.path)

    @cached_property
    def exported(self) -> CompressAICodec:
        """Its codec as CompressAI's."""
        return for_compressai(self.model.codec)

    @cached_property
    def photos(self) -> list[Tensor]:
        """Whole ones."""
        return photos_of(self.folder, count=self.effort.photos)

    @cached_property
    def crops(self) -> list[Tensor]:
        """Their middles."""
        return photos_of(self.folder, count=self.effort.photos, crop=CROP)

    @cached_property
    def settings(self) -> list[Any]:
        """Tells these subjects from others."""
        effort = self.effort
        given = [effort.photos, effort.repeats, effort.threads, effort.steps]
        return [*map(stamp, (self.folder, self.path)), *given, *(way.name for way in effort.ways)]

    def briefly(self, architecture: Architecture) -> CompressAICodec:
        """A codec with weights from a short training, kept for the next call."""
        if architecture.name not in self._trained:
            weights = kept(NAME, f"weights {architecture.name}", self.settings)
            self._trained[architecture.name] = trained(
                architecture,
                self.folder,
                weights.with_suffix(".safetensors"),
                num_threads=self.effort.threads,
                most_steps=self.effort.steps,
            )
        return self._trained[architecture.name]


def stamp(path: Path) -> tuple[str, int]:
    """A file or folder, and when something in it changed last.

    Raises:
        ValueError: there is nothing.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}: --photos takes a folder of photos, --model a trained model")
    return str(path.resolve()), max(p.stat().st_mtime_ns for p in (path, *path.rglob("*")))


Section = tuple[Callable[[], Iterator[Row]], list[Any]]


def sections_of(subjects: Subjects) -> dict[str, Section]:
    """{name: what measures its rows, and the settings that they depend on}."""
    measured = {
        "model": model_row,
        "coder": coder,
        "whole": whole,
        "bytes": sizes,
        "tool": tool,
        "analyze": analyze,
        "star MODEL": partial(star_of, architecture=None),
        **{f"star {a.name}": partial(star_of, architecture=a) for a in (HYPERPRIOR, ELIC, SERIAL)},
    }
    found: dict[str, Section] = {
        name: (partial(rows, subjects), subjects.settings) for name, rows in measured.items()
    }
    effort = subjects.effort
    files, seconds = -(-effort.fuzz_files // len(fuzz.CODECS)), effort.fuzz_seconds / len(fuzz.CODECS)
    for name in fuzz.CODECS:
        found[f"fuzz {name}"] = partial(fuzzed, name, files, seconds), [files, seconds, stamp(fuzz.SHIPPED)]
    return found


# -- sections ----------------------------------------------------------------------------------------------------------


def model_row(subjects: Subjects) -> Iterator[Row]:
    """What MODEL is."""
    model = subjects.model
    batches = {name: stage["num_batches"] for name, stage in model.config["training"]["stages"].items()}
    yield {
        "kind": "model",
        "name": model.config["name"],
        "model_id": model.codec.model_id().hex(),
        "batches": batches,
    }


def coder(subjects: Subjects) -> Iterator[Row]:
    """The coding of y."""
    repeats = 2 * subjects.effort.repeats
    codec = subjects.briefly(HYPERPRIOR)
    yield {
        "kind": "y",
        "codec": HYPERPRIOR.name,
        "photo": 0,
        **coding_of_y(codec, subjects.photos[0], repeats=repeats),
    }
    for number, photo in enumerate(subjects.photos):
        row = coding_of_y(subjects.exported, photo, repeats=repeats)
        yield {"kind": "y", "codec": TRAINED, "photo": number, **row}


def whole(subjects: Subjects) -> Iterator[Row]:
    """Picture to file and back."""
    repeats, num_threads = subjects.effort.repeats, subjects.effort.threads
    for architecture, turns in ((HYPERPRIOR, repeats), (SERIAL, repeats // 2), (ELIC, repeats // 2)):
        row = beside_compressai(
            subjects.briefly(architecture),
            subjects.photos[0],
            repeats=max(1, turns),
            num_threads=num_threads,
        )
        yield {"kind": "whole", "codec": architecture.name, "photo": 0, **row}
    for number, photo in enumerate(subjects.photos):
        row = beside_compressai(subjects.exported, photo, repeats=repeats, num_threads=num_threads)
        yield {"kind": "whole", "codec": TRAINED, "photo": number, **row}


def sizes(subjects: Subjects) -> Iterator[Row]:
    """Bytes beside CompressAI's and the ideal, and of files."""
    for name, codec in compared(subjects).items():
        for number, photo in enumerate(subjects.photos):
            yield {"kind": "bytes", "codec": name, "photo": number, **bytes_of(codec, photo)}
    for number, photo in enumerate(subjects.photos):
        yield {"kind": "ideal", "codec": TRAINED, "photo": number, **over_ideal(subjects.exported, photo)}
        yield {"kind": "file", "codec": "MODEL", "photo": number, **overhead(subjects.model.codec, photo)}


def tool(subjects: Subjects) -> Iterator[Row]:
    """CompressAI's evaluation tool beside ours."""
    for name, codec in compared(subjects).items():
        with threads(subjects.effort.threads):
            rows = list(beside_eval_tool(codec, subjects.folder))
        yield from ({"kind": "tool", "codec": name, **row} for row in rows)


def compared(subjects: Subjects) -> dict[str, CompressAICodec]:
    """Those of which strings are compared with CompressAI's on all photos."""
    return {HYPERPRIOR.name: subjects.briefly(HYPERPRIOR), TRAINED: subjects.exported}


def analyze(subjects: Subjects) -> Iterator[Row]:
    """A task's result from latents beside one from the decoded picture."""
    effort, tasks = subjects.effort, tasks_of_one_kind(subjects.model)
    for number, photo in enumerate(subjects.photos):
        for accelerated in (False, True):
            row = analysing(
                subjects.model.codec,
                *tasks,
                photo,
                repeats=effort.repeats,
                accelerated=accelerated,
                num_threads=effort.threads,
            )
            yield {"kind": "analyze", "photo": number, "accelerated": accelerated, **row}


def star_of(subjects: Subjects, architecture: Architecture | None) -> Iterator[Row]:
    """The star of an architecture, or of MODEL."""
    if architecture is None:
        name, codec = "MODEL", subjects.model.codec
    else:
        name, codec = architecture.name, subjects.briefly(architecture)
    shown = subjects.crops if architecture in (ELIC, SERIAL) else subjects.photos
    for row in star(lambda: copy.deepcopy(codec), shown, among=subjects.effort.ways, name=name):
        yield {"kind": "star", "size": list(shown[0].shape[-2:]), **row}


def fuzzed(name: str, files: int, seconds: float) -> Iterator[Row]:
    """Mutated files of one codec."""
    yield {"kind": "fuzz", **fuzz.fuzz(name, files=files, seconds=seconds)}


# -- figures -----------------------------------------------------------------------------------------------------------


def figures(rows: Rows) -> Figures:
    """The quoted figures."""

    def of(kind: str, **wanted: Any) -> list[Any]:
        return [
            r for r in rows if r["kind"] == kind and all(r[key] == value for key, value in wanted.items())
        ]

    def speedups(codec: str) -> dict[str, list[float]]:
        """Of each photo; none where the processor has no bf16."""
        found = {
            f"coder_{side}_speedup": [r["speedup"][side] for r in of("y", codec=codec)]
            for side in ("encode", "decode")
        }
        whole = of("whole", codec=codec)
        for precision in ("fp32", "bf16"):
            for side in ("encode", "decode"):
                measured = [r["speedup"][precision][side] for r in whole if precision in r["speedup"]]
                found[f"{side}_speedup_{precision}"] = measured
        return found

    (serial,) = of("whole", codec=SERIAL.name)
    (elic,) = of("whole", codec=ELIC.name)
    trained, brief = speedups(TRAINED), speedups(HYPERPRIOR.name)
    saved = [100 - 100 * r["bytes"]["ours"] / r["bytes"]["compressai"] for r in of("bytes", codec=TRAINED)]
    all_bytes = [r["bytes"] for r in (*of("bytes"), *of("whole"))]
    found: dict[str, float | None] = {}
    for name, values in (*trained.items(), ("bytes_saved_percent", saved)):
        found |= spread(f"trained_{name}", values)
    return {
        **found,
        "trained_photos": len(saved),
        **{f"briefly_trained_{name}": spread(name, values)[name] for name, values in brief.items()},
        "briefly_trained_elic_time_ratio": 1 / elic["speedup"]["fp32"]["both"],
        "briefly_trained_ar_decode_speedup": serial["speedup"]["fp32"]["decode"],
        "bytes_vs_compressai_percent": max(100 * b["ours"] / b["compressai"] - 100 for b in all_bytes),
        "over_ideal_percent": max(row["over_percent"] for row in of("ideal")),
        **determinism.figures(of("star")),
        **fuzz.figures(of("fuzz")),
        **spread("analyze_time_ratio", [row["ratio"] for row in of("analyze", accelerated=True)]),
        "bif_overhead_bytes": max(row["overhead"] for row in of("file")),
        **{
            f"max_{key}_difference_to_compressai": max(
                abs(r["ours"][key] - r["compressai"][key]) for r in of("tool")
            )
            for key in ("psnr", "estimated_bpp", "bpp")
        },
    }


def spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """The median under a name, and the lowest and the highest value; ``None`` where there are none."""
    return {
        name: statistics.median(values) if values else None,
        f"{name}_low": min(values, default=None),
        f"{name}_high": max(values, default=None),
    }


# -- what is measured --------------------------------------------------------------------------------------------------


def trained(
    architecture: Architecture, photos: Path, weights: Path, *, num_threads: int, most_steps: int
) -> CompressAICodec:
    """A codec with weights from a short training on crops of the photos, or from an earlier one.

    Args:
        architecture: which.
        photos: folder.
        weights: file, read where it is there and written where not.
        num_threads: torch's.
        most_steps: train no longer than so many.
    """
    torch.manual_seed(0)
    codec = CompressAICodec(architecture.name, architecture.arguments).eval()
    if weights.is_file():
        codec.load_state_dict(load_file(weights))
        return codec
    with threads(num_threads):
        briefly_trained(codec, photos, steps=min(architecture.steps, most_steps))
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in codec.state_dict().items()}, weights)
    return codec


def for_compressai(codec: Codec) -> CompressAICodec:
    """A trained mean-scale codec as CompressAI's ``mbt2018-mean``, coded by us.

    Raises:
        ValueError: CompressAI has no such architecture.
    """
    state = codec.foreign_weights().get(FILE)
    if state is None:
        raise ValueError(
            f"--model holds a {type(codec).__name__} unknown to CompressAI: give a mean-scale codec of four stages"
        )
    latent_channels, width = state["g_a.6.weight"].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / FILE)
        arguments = {"N": width, "M": latent_channels}
        return CompressAICodec("mbt2018-mean", arguments, weights=Path(folder) / FILE).eval()


def tasks_of_one_kind(model: Pretrained) -> tuple[nn.Module, nn.Module]:
    """Two trained tasks of a model with one target: one reads latents alone, one reads pixels alone.

    Raises:
        ValueError: it has no such pair.
    """
    for on_pixels in model.tasks.values():
        for on_latents in model.tasks.values():
            same = on_latents.target == on_pixels.target and type(on_latents) is type(on_pixels)
            if same and on_pixels.reads == ("pixels",) and set(on_latents.reads) <= set(model.codec.latents):
                return on_latents, on_pixels
    raise ValueError(
        f"--model {model.source} needs two tasks with one target, one on latents and one on pixels; it has "
        f"{ {name: list(task.reads) for name, task in model.tasks.items()} }"
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"benchmarks.coding: error: {error}", file=sys.stderr)
        sys.exit(2)
