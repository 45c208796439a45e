"""A dry run: what a stage will ask of its networks, asked once of real samples before anything trains."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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

Batch = Mapping[str, Any]

SEEN = {"train": "training pictures", "val": "validation pictures", "test": "test pictures"}


class DryRun:
    """Subjects, heads and terms at the sizes that the data have: networks made for one size fail at others.

    In evaluation mode and without gradients: weights, statistics and random states stay as they are. What several
    stages share runs once. Of whole images (no ``eval_size``) only the first one's size is seen.

    Args:
        system: all parts, on the CPU.
    """

    def __init__(self, system: Parts):
        self.system = system
        self._batches: dict[tuple[int, str], Batch | None] = {}
        self._answers: dict[tuple[str, int, str], CodecOutput] = {}
        self._asked: set[tuple[str, str, tuple[int, int], str]] = set()

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
        with isolate_rng(include_cuda=False), evaluating(self.system):
            for source, split, tasks in (
                (data, "train", trained),
                (data, "val", judged),
                (tested, "test", judged),
            ):
                batch = self._batch(source, split)
                if batch is None:
                    continue
                output = self._answer(stage.trains, source, split, batch)
                for name in sorted(tasks):
                    self._ask(stage.trains, name, output, batch, split)
                for update in stage.updates.values() if split != "test" or not subject.codes else ():
                    for name, term in update.objective.named_terms():
                        self._measure(stage.trains, name, term, output, batch, split)

    def _batch(self, data: LightningDataModule, split: str) -> Batch | None:
        key = id(data), split
        if key not in self._batches:
            # Two, where the stage draws as many, for terms that compare a batch's samples.
            self._batches[key] = data.example(split, min(2, data.batch_size) if split == "train" else 1)
        return self._batches[key]

    def _answer(self, path: str, data: LightningDataModule, split: str, batch: Batch) -> CodecOutput:
        key = path, id(data), split
        if key not in self._answers:
            subject = self.system.get_submodule(path)
            rate = subject.rate_at(0.5) if split == "train" else None
            with _named(
                f"{path}: it", _sizes(batch), split, "choose another codec, or other sizes of the data"
            ):
                self._answers[key] = subject.answer(batch, rate, sample_keys(0, batch["draw"]))
        return self._answers[key]

    def _ask(self, path: str, name: str, output: CodecOutput, batch: Batch, split: str) -> None:
        """A head's prediction, its criterion and its metrics."""
        key = path, name, output.size, split
        if key in self._asked:
            return
        self._asked.add(key)
        task = self.system.tasks[name]
        if not task.has_target(batch):
            raise ValueError(
                f"tasks.{name}: the {SEEN[split]} have no label {task.target!r}, which it learns from"
            )
        height, width = output.size
        size = height if height == width else f"[{height},{width}]"
        remedy = (
            f"if its network is made for one size, tell it this one (+tasks.{name}.head.features.backbone_args."
            f"img_size={size} for timm's), or give the data another (data.crop, data.eval_size)"
        )
        with _named(f"tasks.{name}: its head", _sizes(batch), split, remedy):
            found = task(output, batch)
            decided = task.decide(found.preds, output.size)
            Measures({name: task}).add_task(name, decided, task.target_of(batch))

    def _measure(
        self, path: str, name: str, term: Term, output: CodecOutput, batch: Batch, split: str
    ) -> None:
        if lacking := sorted(read for read in term.reads if not _holds(output, read)):
            raise ValueError(
                f"its objective's {name} reads {lacking}, which {path} says it gives, and does not"
            )
        modules = {used: modules_of(self.system, used)[0] for used in term.uses}
        with _named(f"its objective's {name}", _sizes(batch), split, "choose another term, or another crop"):
            value_of(term, output, batch, modules)


def _holds(output: CodecOutput, read: str) -> bool:
    """Whether an answer holds what a term names in ``reads``."""
    if read == "bits":
        return bool(output.bits)
    if read.startswith("extras."):
        return read.removeprefix("extras.") in output.extras
    if read.startswith("pixels@"):
        return read.removeprefix("pixels@") in output.pixels_by_layer
    return output.x_hat is not None if read == "pixels" else read in output.latents


def _sizes(batch: Batch) -> str:
    return f"{batch['image'].shape[-1]}x{batch['image'].shape[-2]}"


@contextmanager
def _named(who: str, size: str, split: str, remedy: str) -> Iterator[None]:
    """Networks of all kinds run inside, and raise anything: it becomes a line that says which failed on what."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{who} fails on {SEEN[split]} of {size} pixels ({reason}); {remedy}") from error
