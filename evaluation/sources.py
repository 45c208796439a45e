"""What ``evaluate.py`` is told to evaluate, made into points: standard codecs, runs, sweeps, exports, foreign heads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.base import ImageDataModule, Split
from datamodules.loading import EvaluationSamples, collate
from evaluation.points import FROZEN, OWN, Head, Point, weights
from models.codecs.base import Codec
from models.codecs.downscaled import Downscaled
from models.codecs.refined import refined
from models.pretrained import Pretrained, load, split_variant
from models.pretrained.construct import construct
from models.pretrained.folder import WEIGHTS
from models.pretrained.run_folder import RunFolder

CODECS = Path(__file__).parents[1] / "configs" / "codec"
WHOLE = (1.0,)
"""Pictures at their own size."""


class SplitImages:
    """The images of a split, one by one, as evaluation reads them.

    Args:
        data: the data module.
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_images: take that many, evenly spaced; ``None`` for all.
    """

    def __init__(self, data: ImageDataModule, split: Split, num_images: int | None = None):
        self.data = data
        self.source = data.split(split)
        self.samples = EvaluationSamples(self.source, data.eval_view)
        total = len(self.source)
        count = total if num_images is None else min(num_images, total)
        self.indices = [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return what image ``index`` is called; no two are called alike."""
        return self.source.name(self.indices[index])

    def read(self, index: int) -> dict[str, Any]:
        """A batch of that image alone, or ``skipped`` with the reason why it cannot be read."""
        place = self.indices[index]
        return self.data.on_after_batch_transfer(collate([self.samples[place, place]]), 0)


@dataclass
class Skipped:
    """A codec that cannot be evaluated here."""

    codec: str
    reason: str


@dataclass
class _Source:
    """Trained heads under one name, and the codec they were trained with."""

    label: str
    model: Pretrained


def points_of(
    codecs: Sequence[str | Mapping[str, str]],
    tasks: Sequence[str | Mapping[str, str]],
    *,
    frozen: Mapping[str, Mapping[str, Any]] | None = None,
    labels: Mapping[str, Any],
    rates: Mapping[str, Sequence[float]],
    scales: Sequence[float] | Mapping[str, Sequence[float]] = WHOLE,
    own_tasks: bool = True,
    refine: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Point], list[Skipped], list[str]]:
    """Everything that is to be evaluated.

    Args:
        codecs: names of standard codecs (``configs/codec/``), run folders, checkpoints, exported models, or folders
            of runs (a sweep: one curve); ``{name: any of these}`` gives it another name, and ``@NAME`` behind a
            trained one's path takes that set of its adapters.
        tasks: heads that judge every codec: ``RUN:head``, or ``RUN`` for all of a run's; may be named likewise.
        frozen: {name: plain node of a task whose networks are all frozen}: they judge every codec, too, without a run.
        labels: of the data set.
        rates: {codec: rate values instead of its usual ones}.
        scales: of the picture before standard codecs; or {codec: scales} before these, standard or trained.
        own_tasks: judge trained codecs by the heads they were trained with, too.
        refine: {codec: {"steps": number, "task": name of one of its own tasks}}: with that refinement at the encoder.

    Returns:
        Points; codecs whose library is missing; notes on what is left out.

    Raises:
        ValueError: something that cannot be found, loaded, or does not fit the data set.
    """
    notes: list[str] = []
    by_name, standard = (scales, WHOLE) if isinstance(scales, Mapping) else ({}, scales)
    foreign = _foreign_heads(tasks, labels) + _frozen_heads(frozen or {}, labels)
    points: list[Point] = []
    skipped: list[Skipped] = []
    known: set[str] = set()
    for entry in codecs:
        name, source = _named(entry, "codecs")
        config = CODECS / f"{source}.yaml"
        if config.is_file():
            name = name or source
            found = _standard(name, config, foreign, rates.get(name), by_name.get(name, standard))
        else:
            runs = _runs(Path(source))
            models = [load(run, tasks=None if own_tasks or refine else ()) for run in runs]
            name = name or (Path(source).name if len(runs) > 1 else str(models[0].config["name"]))
            found = [
                point
                for model in models
                for point in _learned(
                    name,
                    model,
                    foreign,
                    rates.get(name),
                    by_name.get(name, WHOLE),
                    labels,
                    notes,
                    own_tasks,
                    (refine or {}).get(name),
                )
            ]
        if name in known:
            raise ValueError(
                f"codecs: two are called {name!r}: give one another name, as in {{other: {source}}}"
            )
        known.add(name)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            points += found
            notes += _not_one_curve(name, found)
    for key, named in (("rates", rates), ("refine", refine or {}), ("scales", by_name)):
        if unknown := sorted(set(named) - known):
            raise ValueError(
                f"{key} names {unknown}, which are no codecs of this call; there are {sorted(known)}"
            )
    return points, skipped, list(dict.fromkeys(notes))


def _not_one_curve(name: str, points: Sequence[Point]) -> list[str]:
    """A note where runs under one name share rate and seed: they differ in something else, or are twins."""
    runs = Counter((point.shown_rate, point.seed, point.scale) for point in points if point.codec.learned)
    return [
        f"{name}: {count} runs have rate {rate:g} and seed {seed}: if they differ in more than that, their points are "
        "no curve; give each setting's runs a name of their own"
        for (rate, seed, _), count in runs.items()
        if count > 1 and rate is not None
    ]


def _named(entry: str | Mapping[str, str], where: str) -> tuple[str | None, str]:
    if isinstance(entry, str):
        return None, entry
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, source),) = entry.items()
        return str(name), str(source)
    raise ValueError(f"{where} holds {entry!r}: each entry must be a name or a path, or {{NAME: PATH}}")


def _standard(
    name: str, config: Path, heads: Sequence[Head], rates: Sequence[float] | None, scales: Sequence[float]
) -> list[Point] | Skipped:
    settings = yaml.safe_load(config.read_text())
    # What is composed of other yamls is for training.
    codec: Codec | None = None if "defaults" in settings else construct(settings)
    if codec is None or (codec.learned and not codec.trained):
        raise ValueError(
            f"codecs: {config.stem} is a learned codec, here untrained: give the folder of a run"
        )
    try:
        codec.check_available()
    except ImportError as error:
        return Skipped(name, str(error))
    if not codec.rates:
        return [Point(name, codec.eval(), heads=heads, settings=settings, about=codec.about())]
    points = []
    for scale in scales:
        scaled = _at(codec, scale)
        for rate in _checked_rates(name, codec, rates):
            points.append(
                Point(
                    name,
                    scaled,
                    rate=rate,
                    shown_rate=rate,
                    scale=scale,
                    heads=heads,
                    settings=settings,
                    about=scaled.about(),
                )
            )
    return points


def _learned(
    name: str,
    model: Pretrained,
    foreign: Sequence[Head],
    rates: Sequence[float] | None,
    scales: Sequence[float],
    labels: Mapping[str, Any],
    notes: list[str],
    own_tasks: bool,
    refine: Mapping[str, Any] | None,
) -> list[Point]:
    config, codec = model.config, model.codec
    settings: dict[str, Any] = {"codec": config["codec"]}
    if refine is not None:
        codec, settings["refine"] = _refined(name, model, refine)
    heads = []
    for task_name, task in model.tasks.items() if own_tasks else ():
        if problem := task.misfit(labels):
            notes.append(f"{name}: its own task {task_name!r} is left out: {problem}")
        else:
            heads.append(Head(task_name, OWN, task))
    own = {weights(head.task) for head in heads}
    heads += [head for head in foreign if weights(head.task) not in own]
    values: Sequence[float | None] = _checked_rates(name, codec, rates) if codec.rates else [None]
    lmbda = config.get("lmbda")
    return [
        Point(
            name,
            scaled,
            rate=rate,
            shown_rate=rate
            if rate is not None
            else (float(lmbda) if isinstance(lmbda, int | float) else None),
            scale=scale,
            seed=int(config.get("seed") or 0),
            heads=heads,
            settings=settings,
            about=scaled.about(),
        )
        for scale, scaled in ((scale, _at(codec, scale)) for scale in scales)
        for rate in values
    ]


def _refined(name: str, model: Pretrained, refine: Mapping[str, Any]) -> tuple[Codec, dict[str, Any]]:
    """The codec with refinement at its encoder, and what tells its results from those without."""
    if set(refine) != {"steps", "task"} or refine["task"] not in model.tasks:
        raise ValueError(
            f"refine.{name} is {dict(refine)}, must be {{steps: N, task: one of {sorted(model.tasks)}}}, its own tasks"
        )
    task = model.tasks[refine["task"]]
    codec = refined(model.codec, refine["steps"], task.compared_with)
    return codec, {**refine, "teacher": weights(task)}


def _at(codec: Codec, scale: float) -> Codec:
    return (codec if scale == 1 else Downscaled(codec, scale=scale)).eval()


def _checked_rates(name: str, codec: Codec, rates: Sequence[float] | None) -> list[float]:
    if rates is None:
        return list(codec.rates)
    low, high = min(codec.rates), max(codec.rates)
    if wrong := [rate for rate in rates if not low <= rate <= high]:
        raise ValueError(f"rates.{name} holds {wrong}, must be within {low:g}..{high:g}")
    return [float(rate) for rate in rates]


def _runs(path: Path) -> list[Path]:
    """A run, checkpoint or export itself; or all finished runs below a folder."""
    if not split_variant(path)[0].exists():
        names = sorted(p.stem for p in CODECS.glob("*.yaml"))
        raise ValueError(f"codecs: {path} is no path and no codec of configs/codec; there are {names}")
    if (
        split_variant(path)[1] is not None
        or path.is_file()
        or RunFolder(path).is_run
        or (path / WEIGHTS).is_file()
    ):
        return [path]
    found = [run.path for run in RunFolder.finished_below(path)]
    if not found:
        raise ValueError(f"codecs: {path} holds no finished run: a run folder has config.yaml and stages/")
    return found


def _foreign_heads(entries: Sequence[str | Mapping[str, str]], labels: Mapping[str, Any]) -> list[Head]:
    sources: list[_Source] = []
    heads: list[Head] = []
    for entry in entries:
        label, source = _named(entry, "tasks")
        path, colon, chosen = source.rpartition(":")
        if not colon or not Path(path).exists():
            path, chosen = source, ""
        model = load(path, tasks=[chosen] if chosen else None)
        label = label or str(model.config["name"])
        if label in (OWN, FROZEN):
            raise ValueError(
                f"tasks: {label!r} is kept for heads that come from no other run: call {source} otherwise"
            )
        if any(s.label == label and s.model.source != model.source for s in sources):
            raise ValueError(f"tasks: two runs are called {label!r}: name them, as in {{other: {source}}}")
        sources.append(_Source(label, model))
        if not model.tasks:
            raise ValueError(f"tasks: {path} has no trained heads")
        for name, task in model.tasks.items():
            if problem := task.misfit(labels):
                raise ValueError(f"tasks: {label}:{name} cannot be judged on this data set: {problem}")
            heads.append(Head(name, label, task.eval(), model.codec))
    if len(keys := [(head.source, head.name) for head in heads]) > len(set(keys)):
        raise ValueError(f"tasks names a head twice: {sorted(keys)}")
    return heads


def _frozen_heads(nodes: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Any]) -> list[Head]:
    """Tasks that are made here, of networks that were trained elsewhere: nothing of them comes from a run."""
    heads = []
    for name, node in nodes.items():
        codec = construct(yaml.safe_load((CODECS / "identity.yaml").read_text()))
        try:
            task = construct(node, path=name)(codec.readable, labels).eval()
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            raise ValueError(f"frozen.{name}: {' '.join(str(error).split())}") from error
        if trains := [path for path, _ in task.named_parameters()]:
            raise ValueError(
                f"frozen.{name} has weights that train, first {trains[0]}, and nothing trained them: its networks must "
                "be in models.frozen.Frozen; a trained head is given as tasks=[RUN:head]"
            )
        heads.append(Head(name, FROZEN, task, codec, settings=node))
    return heads
