"""Faces in a few hundred bits: the record ``scalable_face``.

python -m benchmarks.scalable_face FACES GENERATOR DIR      writes benchmarks/results/scalable_face.json

FACES is the folder of ``data=celebamask``; GENERATOR the file that ``python -m models.stylegan2.convert_mobile``
writes. An encoder learns on the generator's samples and on faces, then a bottleneck with its entropy model for each of
some lmbdas (experiment=scalable_face_celebamask). The test faces at 256 px go through real files: each layer of ours,
plain and refined at the encoder, VVC and HEVC at full and half size, and the mean face that costs nothing. Judges are
dlib's landmarks and identities, given where the original's face is, and GMSD. Three entropy models are compared on the
same tokens. DIR gets the runs and what was measured; killed, the same command goes on. Needs the extras ``pretrained``
and ``research``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import face_entropy
from benchmarks.face_figures import LIMITS, best, figures
from benchmarks.face_points import (
    SIDE,
    Faces,
    Row,
    decode_seconds,
    faces,
    files_of,
    judged,
    remembered,
    scalable,
    standard,
)
from benchmarks.record import ROOT, as_called, parser, write
from benchmarks.runs import train
from launch.overrides import quoted
from models.codecs.downscaled import Downscaled
from models.codecs.refined import Teacher, refined
from models.feature_maps import feature_distance, unit_features
from models.pretrained import load
from pictures.finding import below
from pictures.reading import read_picture

OPPONENTS = (
    ("vvc", 1.0, 63), ("vvc", 1.0, 57), ("hevc", 0.5, 51), ("vvc", 1.0, 52), ("vvc", 0.5, 57), ("hevc", 1.0, 51),
    ("vvc", 1.0, 47), ("vvc", 1.0, 42), ("hevc", 0.5, 45),
)  # fmt: skip
"""(codec, scale, QP), those that count most first"""
TRAINED_AT = 64
"""Side of the pictures that training compares, and refinement."""


def encoder(root: Path, data: Sequence[str], more: Sequence[str]) -> Path:
    """Train the encoder: on samples, then on faces as well. The run of the second."""
    alone = ["~schedule.bottleneck"]
    train(root / "samples", [*data, *alone, "~schedule.inversion_pictures", "data.batch_size=16", *more], 1)
    run = root / "pictures"
    begins = (
        f"{{codec.inversion: {quoted(root / 'samples')}, codec.synthesis: ':networks.generator.synthesis'}}"
    )
    first = f"schedule.inversion_pictures.init_from={begins}"
    train(run, [*data, *alone, "~schedule.inversion", first, *more], 1)
    return run


def trained(root: Path, begun: Path, lmbda: float, data: Sequence[str], more: Sequence[str]) -> Path:
    """Train bottleneck and entropy model for one lmbda: the run."""
    run = root / f"lmbda-{lmbda:g}"
    begins = f"{{codec.inversion: {quoted(begun)}, codec.synthesis: ':networks.generator.synthesis'}}"
    skipped = ["~schedule.inversion", "~schedule.inversion_pictures"]
    train(run, [*data, *skipped, f"schedule.bottleneck.init_from={begins}", f"lmbda={lmbda}", *more], 1)
    return run


def teacher(begun: Path) -> Teacher:
    """What the encoder's second training compared pictures by, with its weights."""
    objective = OmegaConf.load(begun / "config.yaml").schedule.inversion_pictures.updates.main.objective
    networks = {name: instantiate(objective.terms[name].network) for name in ("whole", "face")}
    weights = objective.term_weights

    def asks(x: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            originals = {name: unit_features(network(x)) for name, network in networks.items()}

        def compare(x_hat: Tensor) -> Tensor:
            found = weights.pixels * 255**2 * (x_hat - x).square().mean((1, 2, 3))
            for name, network in networks.items():
                found = found + weights[name] * feature_distance(
                    unit_features(network(x_hat)), originals[name]
                )
            return found

        return compare

    return asks


def ours(run: Path, of: Faces, lmbda: float) -> list[Row]:
    """Rows of one trained codec, one for each layer, and how long its pictures of 1024 px take."""
    codec = load(run, tasks=()).codec
    files_of(codec, of.pictures[:1])  # the first makes tables
    files, seconds = files_of(codec, of.pictures)
    about = {"kind": "point", "codec": "ours", "rate": lmbda, "scale": 1.0, "refined": 0, "seconds": seconds}
    layers = [layer.name for layer in codec.layers]
    rows = [{**about, **row} for row in scalable(codec, files, of, layers)]
    return [*rows, {"kind": "decode", "side": 1024, "seconds": decode_seconds(codec, files[0], 1024)}]


def ours_refined(
    run: Path, begun: Path, of: Faces, lmbda: float, *, steps: int, weight: float, images: int
) -> list[Row]:
    """Rows of its files with so many ``steps`` of refinement, of so many images."""
    codec = load(run, tasks=()).codec
    coder = refined(codec, steps, teacher(begun), weight=weight, side=TRAINED_AT)
    # The generator alone is quicker for it: entropy models compute in float32 and better, whatever is chosen here.
    with torch.autocast("cpu", torch.bfloat16):
        files, seconds = files_of(coder, of.pictures[:images], batch=10)
    about = {
        "kind": "point", "codec": "ours", "rate": lmbda, "scale": 1.0, "refined": steps, "weight": weight,
        "seconds": seconds,
    }  # fmt: skip
    return [{**about, **row} for row in scalable(codec, files, of, ("basic", "enhanced"))]


def opponent(name: str, scale: float, rate: float, of: Faces) -> list[Row]:
    """The row of VVC or HEVC at one quality, of pictures at full size or shrunk before."""
    codec = instantiate(OmegaConf.load(ROOT / "configs" / "codec" / f"{name}.yaml"))
    codec = (codec if scale == 1 else Downscaled(codec, scale=scale)).eval()
    about = {"kind": "point", "codec": name, "scale": scale, "refined": 0, "rate": rate}
    return [{**about, **standard(codec, rate, of)}]


def average(run: Path, of: Faces) -> list[Row]:
    """The row of the generator's mean face, which is no bits."""
    synthesis = load(run, tasks=()).codec.synthesis
    with torch.no_grad():
        face = synthesis(
            synthesis.w_mean.expand(1, synthesis.num_styles, -1), size=SIDE, noise="fixed"
        ).clamp(0, 1)
    none = [0.0] * len(of.pictures)
    row = judged(face.expand(len(of.pictures), -1, -1, -1), of, none, none)
    return [{"kind": "point", "codec": "average", "rate": 0, "scale": 1.0, "refined": 0, **row}]


def small(folder: Path, count: int | None = None) -> Tensor:
    """Pictures of a folder at the size that the encoder sees, (N, 3, TRAINED_AT, TRAINED_AT)."""
    names = below(folder).names[:count]
    pictures = [read_picture(folder / name) for name in names]
    size = TRAINED_AT, TRAINED_AT
    return torch.cat(
        [F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True) for x in pictures]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the record."""
    reader = parser("scalable_face", __doc__)
    reader.add_argument("faces", metavar="FACES", type=Path, help="folder of data=celebamask")
    reader.add_argument(
        "generator", metavar="GENERATOR", type=Path, help="weights of MobileStyleGAN, .safetensors"
    )
    reader.add_argument("out", metavar="DIR", type=Path, help="folder of the runs and what was measured")
    reader.add_argument("--lmbdas", nargs="+", type=float, default=[40.0], help="of the points (default: 40)")
    reader.add_argument("--images", type=int, default=100, help="of the test (default: 100)")
    reader.add_argument(
        "--refined-images", type=int, default=50, help="of the test of refinement (default: 50)"
    )
    reader.add_argument("--steps", type=int, default=24, help="of refinement (default: 24)")
    reader.add_argument(
        "--weight",
        type=float,
        default=280,
        help="bits that a unit of the training's loss is worth (default: 280)",
    )
    reader.add_argument("--entropy-steps", type=int, default=600, help="of the ablation (default: 600)")
    options = reader.parse_args(arguments)
    folder, generator, root = (path.absolute() for path in (options.faces, options.generator, options.out))
    root.mkdir(parents=True, exist_ok=True)
    of = faces(folder / "test" / "images", options.images)
    rows = []
    for one in OPPONENTS:
        path = root / ("-".join(map(str, one)) + ".json")
        rows += remembered(path, lambda one=one: opponent(*one, of))
    data = [
        "experiment=scalable_face_celebamask", f"data.root={quoted(folder)}",
        f"networks.generator.weights={quoted(generator)}", "+trainer.limit_test_batches=1",
        "~tasks.presence", "~task_weights.presence", "~schedule.heads", "~schedule.joint",
    ]  # fmt: skip
    begun = encoder(root, data, options.set)
    rows += remembered(root / "average.json", lambda: average(begun, of))
    runs = {lmbda: trained(root, begun, lmbda, data, options.set) for lmbda in options.lmbdas}
    for lmbda, run in runs.items():
        rows += remembered(root / f"ours-{lmbda:g}.json", lambda run=run, lmbda=lmbda: ours(run, of, lmbda))
    settings = {"steps": options.steps, "weight": options.weight, "images": options.refined_images}
    for lmbda, run in runs.items():
        path = root / f"ours-{lmbda:g}-refined-{'-'.join(f'{value:g}' for value in settings.values())}.json"
        rows += remembered(path, lambda run=run, lmbda=lmbda: ours_refined(run, begun, of, lmbda, **settings))
    chosen = best([row for row in rows if row["kind"] == "point"], *LIMITS["all_655"], refined=False)
    if chosen is not None:
        run, images = runs[chosen["rate"]], {split: folder / split / "images" for split in ("train", "test")}
        rows += remembered(
            root / "entropy.json",
            lambda: face_entropy.rows(
                run,
                small(images["train"]),
                small(images["test"], options.images),
                steps=options.entropy_steps,
            ),
        )
    notes = (
        "Bits are an image's mean; payload is the layers' strings of ours, for VVC and HEVC what a file has over that "
        "of a flat grey picture. Judges: dlib's 68 landmarks (NME in percent of the distance of the eyes' centres) and "
        "identities (rank-1 among the test faces), both in the rectangle of the original's face, and GMSD; PSNR "
        "carries no claim. Training and refinement compare features of EfficientNet-Lite0, which judges nothing here. "
        "_less_: interval of the paired difference over images, 95 % bootstrap, negative is better for NME and GMSD; "
        "one seed. Refined files are of the first images alone. Entropy models learn on the same tokens, those of "
        "training faces and their mirrored ones; the transformer holds the linear model as a shortcut. The form and "
        "the weight of refinement were chosen by looks at up to ten of the test faces, so refined rows carry no claim; "
        "lmbda by the bits of all test faces. Seconds are of this machine, shared and on one thread. The stages heads "
        "and joint are left out, no task is read from the first "
        "layer, and the generator is compared with the package's own file in the tests alone."
    )
    lengths = (
        f"--lmbdas {' '.join(f'{lmbda:g}' for lmbda in options.lmbdas)} --images {options.images} "
        f"--refined-images {options.refined_images} --steps {options.steps} --weight {options.weight:g} "
        f"--entropy-steps {options.entropy_steps}"
    )
    command = as_called("scalable_face", f"FACES GENERATOR DIR {lengths}", options.set)
    print(write("scalable_face", commands=[command], rows=rows, figures=figures, notes=notes))


if __name__ == "__main__":
    main()
