"""Identity: an embedding in which pictures of one person lie close, judged on people it was not trained on."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import LatentSpec
from tasks.base import LabelLike, Task
from tasks.cross_entropy import cross_entropy_sum
from tasks.verification import EqualErrorRate, RankOne, TrueAcceptRate


class Identity(Task):
    """Trained as a classification of people, judged by cosines; ``preds`` are embeddings (B, D).

    The label names all people of the data set; those that training never shows are nobody's class. What is measured
    needs no class: whether two pictures of one person are more alike than pictures of two.

    A whole network that embeds faces is taken as it is: a head that loads its weights, in a stage that does not train
    the task. The classes are then of no use.

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"class"`` that names people.
        head: see Task; returns embeddings (B, embedding_size), of any length.
        embedding_size: D.
        margin: added to the angle between a picture and its own person in training, in radians; 0: cosine softmax.
        scale: of cosines before the softmax.
        far: share of impostors that may pass, where ``tar`` is read.

    Raises:
        ValueError: see Task; or an argument out of its range.

    Reference: Deng et al., ArcFace, CVPR 2019, https://arxiv.org/abs/1801.07698, equation 3.
    Differs from the paper: behind pi - margin, where the cosine would rise again, it falls on in a straight line.
    """

    kind = "class"
    monitor = "eer"

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
        embedding_size: int = 128,
        margin: float = 0.3,
        scale: float = 32.0,
        far: float = 0.01,
    ):
        if embedding_size < 1 or not 0 <= margin < math.pi / 2 or scale <= 0 or not 0 < far < 1:
            raise ValueError(
                f"embedding_size={embedding_size} and scale={scale} must be positive, margin={margin} within "
                f"0..pi/2, far={far} within 0..1"
            )
        self.embedding_size, self.margin, self.scale, self.far = embedding_size, margin, scale, far
        super().__init__(readable, labels, reads=reads, target=target, head=head)
        self.people = nn.Parameter(torch.randn(len(self.label.names), embedding_size) / embedding_size**0.5)

    @property
    def num_outputs(self) -> int:
        """The embedding's size."""
        return self.embedding_size

    def misfit(self, labels: Mapping[str, LabelLike]) -> str | None:
        """See ``Task``; the people may be others than those it was trained on."""
        if self.target in labels and labels[self.target].kind == self.kind:
            return None
        return super().misfit(labels)

    def target_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Person and picture, int64 (B, 2): pictures are told apart by a hash of their ``id``."""
        people = batch[self.target]
        keys = torch.tensor([_key(name) for name in batch["id"]])
        # In a resample one picture may stand twice, and must not be recognised as another of its person.
        return torch.stack((people, keys.to(people.device, non_blocking=True)), 1)

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy (nats) of scaled cosines with the margin, summed over labelled images, and their number."""
        if preds.shape[1] != self.embedding_size:
            raise ValueError(
                f"the head gives {preds.shape[1]} numbers an image, and embedding_size={self.embedding_size}: give the "
                "head's own number"
            )
        people, missing = target[:, 0], int(self.label.missing)
        with torch.autocast(preds.device.type, enabled=False):
            cosines = F.linear(F.normalize(preds.float()), F.normalize(self.people.float()))
            own = F.one_hot(people.clamp(min=0), len(self.people)).bool()
            logits = self.scale * torch.where(own, with_margin(cosines, self.margin), cosines)
        return cross_entropy_sum(logits, people, missing=missing)

    def decide(self, preds: Tensor, size: tuple[int, int]) -> Tensor:
        """Embeddings of length 1, (B, D)."""
        return F.normalize(preds.float())

    def metrics(self) -> MetricCollection:
        """``eer`` and ``tar`` over pairs of images, ``rank1`` over images, all in [0, 1]: tasks/verification.py."""
        missing = int(self.label.missing)
        return MetricCollection(
            {
                "eer": EqualErrorRate(missing),
                "tar": TrueAcceptRate(missing, far=self.far),
                "rank1": RankOne(missing),
            }
        )

    def describe(self, decided: Tensor) -> dict[str, Any]:
        """``{"embedding": numbers}``: of two pictures, the sum of products is the cosine."""
        return {"embedding": [round(value, 6) for value in decided.tolist()]}


def with_margin(cosines: Tensor, margin: float) -> Tensor:
    """cos(angle + margin) of cos(angle), and beyond pi - margin the straight line cos(angle) - margin sin(margin)."""
    # The root's slope at 1 would be infinite.
    sines = (1 - cosines.square()).clamp(min=1e-6).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), turned, cosines - margin * math.sin(margin))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
