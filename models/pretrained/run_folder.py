"""The run folder: what train.py leaves, and where. All who write or read one ask here.

::

    config.yaml                           resolved: written first
    metrics.csv                           every value of the run
    reconstructions/  latents/            pictures of every validation
    unreadable_files.txt                  what loading stepped over
    stages/<NN>-<name>/checkpoints/       last.ckpt, to go on from, and best.ckpt
    stages/<NN>-<name>/stage.json         once the stage is finished
    summary.json                          once all are
"""

from dataclasses import dataclass
from pathlib import Path

STAGES, LAST, BEST = "stages", "last.ckpt", "best.ckpt"


@dataclass(frozen=True)
class StageFolder:
    """What one stage leaves.

    Args:
        path: ``RUN/stages/<NN>-<name>``.
    """

    path: Path

    @classmethod
    def of(cls, path: Path) -> "StageFolder | None":
        """The stage that a folder is of, or that a checkpoint lies in; ``None`` outside a run folder."""
        # Absolute, for a path may begin inside the run folder.
        folders = (path.absolute(), *path.absolute().parents[:2])
        return next((cls(folder) for folder in folders if _is_stage(folder)), None)

    @property
    def run(self) -> "RunFolder":
        return RunFolder(self.path.parent.parent)

    @property
    def name(self) -> str:
        """``<NN>-<name>``, which sorts by stage."""
        return self.path.name

    @property
    def number(self) -> int:
        """1 for the first stage."""
        return int(self.path.name.partition("-")[0])

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The state to go on from; of a finished stage, its result."""
        return self.checkpoints / LAST

    @property
    def record(self) -> Path:
        """Figures of the finished stage, JSON."""
        return self.path / "stage.json"

    @property
    def finished(self) -> bool:
        return self.record.is_file()


@dataclass(frozen=True)
class RunFolder:
    """What one run leaves.

    Args:
        path: of the folder, which need not be there yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def reconstructions(self) -> Path:
        return self.path / "reconstructions"

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    @property
    def unreadable_files(self) -> Path:
        return self.path / "unreadable_files.txt"

    @property
    def holds_stages(self) -> bool:
        return (self.path / STAGES).is_dir()

    @property
    def is_run(self) -> bool:
        """Whether train.py wrote it, and has begun to train."""
        return self.config.is_file() and self.holds_stages

    @property
    def finished(self) -> bool:
        return self.summary.is_file()

    def stage(self, number: int, name: str) -> StageFolder:
        """Return the folder of a stage by its number (1, 2, ...) and name, whether it is there or not."""
        return StageFolder(self.path / STAGES / f"{number:02d}-{name}")

    @property
    def stages(self) -> list[StageFolder]:
        """Those that are there, in order."""
        found = (self.path / STAGES).iterdir() if self.holds_stages else ()
        stages = (StageFolder(folder) for folder in found if folder.is_dir() and _is_stage(folder))
        return sorted(stages, key=lambda stage: stage.number)

    @classmethod
    def finished_below(cls, folder: Path) -> list["RunFolder"]:
        """All finished runs in a folder and its folders, by path."""
        found = (cls(path.parent) for path in folder.rglob("summary.json"))
        return sorted((run for run in found if run.is_run), key=lambda run: run.path)

    def result(self) -> Path:
        """The checkpoint that the run stands for: the last one of its last finished stage.

        Raises:
            ValueError: no stage is finished.
        """
        if finished := [stage for stage in self.stages if stage.finished]:
            return finished[-1].last
        begun = [stage.last for stage in self.stages if stage.last.is_file()]
        remedy = f"let it go on with resume={self.path}" + (f", or give {begun[-1]} itself" if begun else "")
        raise ValueError(f"{self.path} has no finished stage yet: {remedy}")


def _is_stage(folder: Path) -> bool:
    return folder.parent.name == STAGES and folder.name.partition("-")[0].isdigit()
