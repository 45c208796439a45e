"""Faces read from a map and a vector, without a picture: the record ``layered_generative``.

python -m benchmarks.layered_generative SET=DIR... DIR      writes benchmarks/results/layered_generative.json

The last folder gets the runs and what was measured; killed, the same command goes on. Of each set: the analysis on
originals by the same encoders with nothing quantised, the codec trained for pictures with the analysis on its frozen
streams (separate) and for both (joint), one stream instead of two, VVC and HEVC of pictures at full size and shrunk
whose decodes are read by the analysis of originals and by one that was tuned on them, and results that are predicted
at the encoder and sent alone. All of it through real files. Then what the analysis costs from files and behind a
decode, and whether a later task changes a file. Needs the extra ``pretrained``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.face_points import remembered
from benchmarks.layered_figures import figures
from benchmarks.layered_points import (
    FeatureJudge,
    Row,
    analysis_costs,
    as_pixels,
    coded,
    decisions,
    decoded,
    keep_decodes,
    looks,
    reading,
)
from benchmarks.layered_runs import Trained
from benchmarks.layered_sets import SETS, FaceSet, Opponent, Pictures, pictures
from benchmarks.predict_and_transmit import transmitted
from benchmarks.record import ROOT, as_called, parser, write
from models.codecs.base import Codec
from models.codecs.downscaled import Downscaled
from models.pretrained import load

VALIDATED = 32
"""Decodes that this tuning is validated on."""


def ours(of: FaceSet, run: Path, seen: Pictures, judge: FeatureJudge) -> list[Row]:
    """The row of a learned codec and of the tasks that it was trained with."""
    model = load(run)
    files, payload = coded(model.codec, None, seen.images)
    outputs = decoded(model.codec, files)
    own = reading(of, model.tasks, decisions(outputs, model.tasks), seen)
    bits = {"file_bits": [8 * len(data) for data in files], "payload_bits": payload}
    return [{**bits, "readings": {"own": own}, **looks(outputs, seen, judge)}]


def standard(opponent: Opponent) -> Codec:
    """The codec of an opponent."""
    codec = instantiate(OmegaConf.load(ROOT / "configs" / "codec" / f"{opponent.codec}.yaml"))
    return (codec if opponent.scale == 1 else Downscaled(codec, scale=opponent.scale)).eval()


def opposed(trained: Trained, opponent: Opponent, seen: Pictures, judge: FeatureJudge) -> list[Row]:
    """The row of a standard codec, read by heads of originals and by those that were tuned on its decodes."""
    of, rgb = trained.of, trained.rgb
    folder = trained.root / f"decodes-{opponent}"
    splits = {"test": seen}
    if opponent.tuned_on:
        splits |= {
            "train": pictures(rgb, "train").some(opponent.tuned_on),
            "val": pictures(rgb, "val").some(VALIDATED),
        }
    columns = [name for name in seen.cells[0] if name not in ("file", "split")]
    (bits,) = remembered(
        trained.root / f"decodes-{opponent}.json",
        lambda: [keep_decodes(folder, standard(opponent), opponent.rate, splits, columns)],
    )
    heads = {"originals": load(rgb).tasks}
    if opponent.tuned_on:
        heads["decodes"] = load(trained.tuned(opponent, folder)).tasks
    outputs = as_pixels(pictures(rgb, "test", root=folder).images)
    readings = {name: reading(of, tasks, decisions(outputs, tasks), seen) for name, tasks in heads.items()}
    file_bits, payload_bits = bits["test"]
    return [
        {
            "file_bits": file_bits, "payload_bits": payload_bits, "scale": opponent.scale, "qp": opponent.rate,
            "tuned_on": opponent.tuned_on, "readings": readings, **looks(outputs, seen, judge),
        }
    ]  # fmt: skip


def bound(of: FaceSet, rgb: Path, seen: Pictures) -> list[Row]:
    """The row of the analysis on originals."""
    tasks, bits = load(rgb).tasks, [24.0 * seen.images[0, 0].numel()] * len(seen)
    own = reading(of, tasks, decisions(as_pixels(seen.images), tasks), seen)
    return [{"file_bits": bits, "payload_bits": bits, "readings": {"originals": own}}]


def attached(before: Path, after: Path, seen: Pictures) -> list[Row]:
    """How many files of a codec are the same, byte for byte, once a task was attached to it.

    Raises:
        RuntimeError: one is not.
    """
    old, new = (coded(load(run).codec, None, seen.images)[0] for run in (before, after))
    same = sum(a == b for a, b in zip(old, new, strict=True))
    if same != len(old):
        raise RuntimeError(f"a task that was attached later changed {len(old) - same} of {len(old)} files")
    return [{"files": len(old), "identical": same}]


def costs(joint: Path, rgb: Path, seen: Pictures) -> list[Row]:
    """What the analysis costs."""
    model = load(joint)
    return [analysis_costs(model.codec, model.tasks, load(rgb).tasks, seen)]


def rows_of(name: str, trained: Trained, judge: FeatureJudge) -> list[Row]:
    """All rows of one set."""
    of, rgb, root = trained.of, trained.rgb, trained.root
    seen = pictures(rgb, "test")
    rows = [
        {
            "kind": "images",
            "set": name,
            "people": [cells[of.people] for cells in seen.cells] if of.people else None,
        }
    ]

    def points(codec: str, rate: str | None, path: str, measure: Callable[[], list[Row]]) -> None:
        about = {"kind": "point", "set": name, "codec": codec, "rate": rate}
        rows.extend({**about, **row} for row in remembered(root / f"point-{path}.json", measure))

    def own(codec: str, rate: str) -> list[Row]:
        return ours(of, getattr(trained, codec)(rate), seen, judge)

    points("rgb", None, "rgb", lambda: bound(of, rgb, seen))
    points("predict_and_transmit", None, "sent", lambda: transmitted(of, rgb, seen))
    for codec, rates in {"joint": of.rates, "separate": [trained.first], "single": [trained.first]}.items():
        for rate in rates:
            points(codec, rate, f"{codec}-{rate}", partial(own, codec, rate))
    for one in of.opponents:
        points(one.codec, None, str(one), partial(opposed, trained, one, seen, judge))
    for kind, measure in (
        ("attached", lambda: attached(trained.codec(trained.first), trained.separate(trained.first), seen)),
        ("costs", lambda: costs(trained.joint(trained.first), rgb, seen.some(50))),
    ):
        rows.extend({"kind": kind, "set": name, **row} for row in remembered(root / f"{kind}.json", measure))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the record."""
    reader = parser("layered_generative", __doc__)
    reader.add_argument("faces", metavar="SET=DIR", nargs="+", help=f"of {', '.join(SETS)}: its folder")
    reader.add_argument("out", metavar="DIR", type=Path, help="folder of the runs and what was measured")
    options = reader.parse_args(arguments)
    folders = dict(pair.partition("=")[::2] for pair in options.faces)
    if unknown := set(folders) - set(SETS):
        reader.error(f"there is no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    torch.set_num_threads(1)
    judge, rows, trained = FeatureJudge(), [], {}
    for name, folder in folders.items():
        out = options.out.absolute() / name
        of = SETS[name]
        trained[name] = Trained(of, out, Path(folder).absolute(), options.set, trained.get(of.after))
        rows += rows_of(name, trained[name], judge)
    sets = " ".join(f"{name}=DIR" for name in folders)
    command = as_called("layered_generative", f"{sets} DIR", options.set)
    print(write("layered_generative", commands=[command], rows=rows, figures=figures, notes=NOTES))


NOTES = (
    "First results: one seed, trainings of minutes on one core, and a decoder that is far from converged. All "
    "pictures are of 128 pixels and of the test split, settings were chosen on the validation split. file_bits "
    "are those of whole files; payload_bits are the strings of ours, and for VVC and HEVC what a file has over "
    "that of a flat grey picture. NME is in percent of the diagonal of the box around an image's points, age_mae "
    "in bins of ten years, gender the share that is told right. A gap is positive where the first is better; _low "
    "and _high are the ends of its 95 % interval, a paired bootstrap over images, for ytfaces over people. rgb is "
    "the same encoders and analysis with nothing quantised, of the same pretrained network; it has seen more "
    "pictures than the tasks of joint (ytfaces 12,000 against 6,400, utkface 6,400 against 4,800, and an encoder "
    "for each task), but joint had a stage for pictures before. joint and separate go on from the same codec for "
    "the same number of batches; single_stream has no style and no AdaIN, and otherwise the same training. 003 is "
    "the rate that was sought, 0.03 bpp of payload; found were 0.016 to 0.038 (payload_bits): single_stream "
    "spends more than joint, 17 % on ytfaces and 6 % on utkface, and on utkface separate half of joint. Nothing "
    "here says that the style is worth its bits. VVC and HEVC stand against a point of ours with 0.9 to 2 times "
    "its payload and no smaller files; best_standard is the one that reads best on the test pictures themselves, "
    "which favours it. Heads of decodes went on from those of originals; for VVC on few pictures (tuned_on), for "
    "its encoder takes a third of a second a face. In files, VVC and HEVC do not reach 0.03 bpp at this size: "
    "their headers alone are 0.05. predict_and_transmit has ideal code lengths and no file, and gives neither a "
    "picture nor another task. features is the distance of features of EfficientNet-Lite1; the encoders began as "
    "its relative Lite0, though no term compared features, so it carries no claim; GMSD, which perceptual_ is, is "
    "learned by nobody. On utkface the codec for pictures leaves the pretrained network alone: trained for "
    "pixels, it had forgotten age (1.41 bins off on the validation split, with task weights of 0.1 and 0.2, and "
    "1.47 with five times those). At 0.075 bpp (pretrain from this codec, 300 batches at 0.08) the search for the "
    "rate failed in such a short training: bits stayed at 0.048, lmbda rose a hundredfold and drowned the task, "
    "3.60 % on the validation split against 2.85 % here; that rate is left out. Not run: VVC on utkface, the "
    "critic's stages, celebamask and its parsing, more seeds, a single stream that is blind to the tasks, other "
    "rates."
)

if __name__ == "__main__":
    main()
