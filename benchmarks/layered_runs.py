"""The runs of the record ``layered_generative``: asked for, they are trained where they are not yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.layered_sets import FaceSet, Opponent
from benchmarks.runs import train
from launch.overrides import quoted

BEGUN = 300
"""Batches that take a codec to another rate or to other faces."""
DRAWING = {
    "": ["codec.content.g_a.project", "codec.content.latent_codec", "codec.style", "codec.g_s"],
    "_single": ["codec.g_a.project", "codec.latent_codec", "codec.g_s"],
}
"""What a codec hands on to other faces: all but the pretrained network, which learned pixels and forgot the rest."""
TUNING = 200
"""Batches that heads are tuned for on decodes."""


@dataclass
class Trained:
    """The runs of one set.

    Args:
        of: the set.
        root: folder of the runs.
        data: of the set.
        more: overrides of all trainings.
        before: the runs of the set whose codec is where this one begins.
    """

    of: FaceSet
    root: Path
    data: Path
    more: Sequence[str]
    before: "Trained | None" = None

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.first = next(iter(self.of.rates))

    @property
    def rgb(self) -> Path:
        """The analysis on originals."""
        return self._run("rgb", "_rgb", [])

    def codec(self, rate: str, kind: str = "") -> Path:
        """The codec for pictures alone.

        Args:
            rate: one of the set's.
            kind: ``"_single"``: of one stream.
        """
        parts, begun = ["codec"], None
        if self.before is not None:
            parts, begun = DRAWING[kind], self.before.codec(self.before.first, kind)
        elif rate != self.first:
            begun = self.codec(self.first, kind)
        begins = []
        if begun is not None:
            weights = ", ".join(f"{part}: {quoted(begun)}" for part in parts)
            begins = [f"schedule.pretrain.init_from={{{weights}}}", f"schedule.pretrain.num_batches={BEGUN}"]
        return self._run(
            f"codec{kind}-{rate}",
            kind,
            [self._wanted("pretrain", rate), "~schedule.heads", "~schedule.joint", *begins],
        )

    def joint(self, rate: str, kind: str = "") -> Path:
        """The codec and its tasks together, from that codec on."""
        begins = f"schedule.joint.init_from={{codec: {quoted(self.codec(rate, kind))}}}"
        more = [self._wanted("joint", rate), "~schedule.heads", "~schedule.pretrain", begins]
        return self._run(f"joint{kind}-{rate}", kind, more)

    def separate(self, rate: str) -> Path:
        """The tasks on that codec's frozen streams."""
        begins = f"schedule.heads.init_from={{codec: {quoted(self.codec(rate))}}}"
        return self._run(f"separate-{rate}", "", ["~schedule.pretrain", "~schedule.joint", begins])

    def single(self, rate: str) -> Path:
        """One stream, for pictures and then for its tasks as well."""
        return self.joint(rate, "_single")

    def tuned(self, opponent: Opponent, decodes: Path) -> Path:
        """The analysis of originals, tuned on decodes."""
        begins = ", ".join(f"tasks.{task}: {quoted(self.rgb)}" for task in self.of.tasks)
        more = [f"schedule.heads.num_batches={TUNING}", f"schedule.heads.init_from={{{begins}}}"]
        return self._run(f"tuned-{opponent}", "_rgb", more, decodes)

    def _wanted(self, stage: str, rate: str) -> str:
        return f"schedule.{stage}.updates.main.objective.lmbda.bpp={self.of.rates[rate]:g}"

    def _run(self, name: str, kind: str, overrides: Sequence[str], data: Path | None = None) -> Path:
        always = [f"experiment={self.of.experiment}{kind}", f"data.root={quoted(data or self.data)}"]
        train(self.root / name, [*always, "+trainer.limit_test_batches=1", *overrides, *self.more], 1)
        return self.root / name
