"""A dry run: what a stage will ask of its networks, asked once of real samples before anything trains."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.seed import isolate_rng

from evaluation.measures import Measures
from lightning_modules.parts import Parts, modules_of
from lightning_modules.stages import Stage
from losses.objective import value_of
from losses.term import Term
from models.entropy.noise import sample_keys
from models.modes import evaluating
from models.outputs import CodecOutput

PICTURES = {"train": "training pictures", "val": "validation pictures", "test": "test pictures"}


@dataclass
class _Seen:
    """What a subject answered to an example of a split, and the tasks that have read it."""

    subject: str
    pictures: str
    batch: Mapping[str, Any]
    output: CodecOutput | None = None
    asked: set[str] = field(default_factory=set)

    @contextmanager
    def by(self, who: str, remedy: str) -> Iterator[None]:
        """Networks of all kinds run inside, and raise anything: it becomes one line, who failed on what."""
        height, width = self.batch["image"].shape[-2:]
        try:
            yield
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"{who} fails on {self.pictures} of {width}x{height} pixels ({reason}); {remedy}"
            ) from error


class DryRun:
    """Subjects, heads and terms at the sizes that the data have: networks made for one size fail at others.

    In evaluation mode and without gradients: weights, statistics and random states stay as they are. What several
    stages share runs once. Of whole images (no ``eval_size``) one size is seen.

    Args:
        system: all parts, on the CPU.
    """

    def __init__(self, system: Parts):
        self.system = system
        self._seen: dict[tuple[str, int, str], _Seen | None] = {}

    def check(
        self, stage: Stage, ready: Collection[str], data: LightningDataModule, tested: LightningDataModule
    ) -> None:
        """One stage's.

        Args:
            stage: whose subject answers.
            ready: tasks that validation and test judge.
            data: that the stage draws from.
            tested: whose test split it is judged on.

        Raises:
            ValueError: the first part that fails: which, on what, why, and what to do.
        """
        subject = self.system.get_submodule(stage.trains)
        trained = {name for update in stage.updates.values() for name in update.objective.tasks}
        judged = {n for n in ready if subject.serves(self.system.tasks[n].reads, self.system.codec)}
        terms = [pair for update in stage.updates.values() for pair in update.objective.named_terms()]
        with isolate_rng(include_cuda=False), evaluating(self.system):
            for source, split, tasks in (
                (data, "train", trained),
                (data, "val", judged),
                (tested, "test", judged),
            ):
                seen = self._look(stage.trains, source, split)
                if seen is None:
                    continue
                for name in sorted(tasks - seen.asked):
                    self._ask(name, seen)
                # Where there are real bytes, the test has no use for the objective.
                for name, term in terms if split != "test" or not subject.codes else ():
                    self._measure(name, term, seen)

    def _look(self, path: str, data: LightningDataModule, split: str) -> _Seen | None:
        key = path, id(data), split
        if key not in self._seen:
            # Two, where the stage draws as many, for terms that compare a batch's samples.
            batch = data.example(split, min(2, data.batch_size) if split == "train" else 1)
            self._seen[key] = None if batch is None else self._answered(path, split, batch)
        return self._seen[key]

    def _answered(self, path: str, split: str, batch: Mapping[str, Any]) -> _Seen:
        subject, seen = self.system.get_submodule(path), _Seen(path, PICTURES[split], batch)
        rate = subject.rate_at(0.5) if split == "train" else None  # as validation and test have it
        with seen.by(f"{path}: it", "choose another, or other sizes of the data"):
            seen.output = subject.answer(batch, rate, sample_keys(0, batch["draw"]))
        return seen

    def _ask(self, name: str, seen: _Seen) -> None:
        """A head's prediction, its criterion and its metrics."""
        task, size = self.system.tasks[name], seen.output.size
        if not task.has_target(seen.batch):
            raise ValueError(
                f"tasks.{name}: the {seen.pictures} lack the label {task.target!r}, which it learns from"
            )
        side = size[0] if size[0] == size[1] else f"[{size[0]},{size[1]}]"
        remedy = (
            f"if its network is made for one size, tell it this one (+tasks.{name}.head.features.backbone_args."
            f"img_size={side} for timm's), or give the data another (data.crop, data.eval_size)"
        )
        with seen.by(f"tasks.{name}: its head", remedy):
            found = task(seen.output, seen.batch)
            decided = task.decide(found.preds, size)
            Measures({name: task}).add_task(name, decided, task.target_of(seen.batch))
        seen.asked.add(name)

    def _measure(self, name: str, term: Term, seen: _Seen) -> None:
        if lacking := sorted(read for read in term.reads if not _holds(seen.output, read)):
            raise ValueError(
                f"its objective's {name} reads {lacking}, which {seen.subject} says it gives, and does not"
            )
        modules = {used: modules_of(self.system, used)[0] for used in term.uses}
        with seen.by(f"its objective's {name}", "choose another term, or other sizes of the data"):
            value_of(term, seen.output, seen.batch, modules)


def _holds(output: CodecOutput, read: str) -> bool:
    """Whether an answer holds what a term names in ``reads``."""
    if read == "bits":
        return bool(output.bits)
    kind, _, name = read.partition(".")
    if kind == "extras":
        return name in output.extras
    if read.startswith("pixels@"):
        return read.removeprefix("pixels@") in output.pixels_by_layer
    return output.x_hat is not None if read == "pixels" else read in output.latents
