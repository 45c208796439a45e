"""Taught: tasks that learn from a frozen network's answer on the original, and from no label."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task


class Taught(Task):
    """Base of tasks whose target is what a teacher with classes of its own says of the original.

    Args:
        readable: see Task.
        labels: see Task; none is needed.
        reads: see Task.
        head: see Task; called with ``num_classes``.
        num_classes: of the teacher.
        teacher: takes pictures (B, 3, H, W) in [0, 1], a ``models.frozen.Frozen``; ``None`` in exported models, which
            need it for judging alone.

    Raises:
        ValueError: see Task; or ``num_classes`` is not positive.
    """

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        num_classes: int,
        teacher: nn.Module | None,
    ):
        if num_classes <= 0:
            raise ValueError(f"num_classes={num_classes} must be positive")
        self.num_classes = num_classes
        super().__init__(readable, labels, reads=reads, head=head)
        self.teacher = teacher

    @property
    def num_outputs(self) -> int:
        """The teacher's classes."""
        return self.num_classes
