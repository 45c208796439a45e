"""Verification: how well cosines tell pictures of one person from pictures of two.

Every metric keeps all embeddings and compares each with each: n pictures take n^2 numbers of memory.
"""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Verification(Metric):
    """Embeddings of length 1 and whose they are.

    A picture is never compared with itself, also where a resample holds it several times; it then counts as often in
    its pairs with others.

    Args:
        missing: the person of pictures without a label.
    """

    full_state_update = False

    def __init__(self, missing: int = -1):
        super().__init__()
        self.missing = missing
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("pictures", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            embeddings: (B, D), of length 1.
            target: int64 (B, 2), person and picture, a number of its own for each.
        """
        self.embeddings.append(embeddings.float())
        self.pictures.append(target)

    def compared(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines (N, N) of labelled pictures, whether both are of one person, and whether both are one picture."""
        embeddings, pictures = dim_zero_cat(self.embeddings), dim_zero_cat(self.pictures)
        labelled = pictures[:, 0] != self.missing
        embeddings, people, keys = embeddings[labelled], pictures[labelled, 0], pictures[labelled, 1]
        return embeddings @ embeddings.T, people[:, None] == people, keys[:, None] == keys

    def curve(self) -> tuple[Tensor, Tensor]:
        """Shares of impostors and of genuine pairs that pass, from no pair to all, each (T + 1,) for T thresholds.

        A pair passes where its cosine reaches the threshold; NaN where there is no such pair.
        """
        cosines, same, identical = self.compared()
        pairs = (~identical).triu(1)
        scores, order = cosines[pairs].sort(descending=True)
        genuine = same[pairs][order].double()
        last = torch.ones_like(genuine, dtype=torch.bool)
        last[:-1] = scores[1:] < scores[:-1]  # equal cosines pass together
        hits, alarms = genuine.cumsum(0)[last], (1 - genuine).cumsum(0)[last]
        start = hits.new_zeros(1)
        return torch.cat((start, alarms)) / (1 - genuine).sum(), torch.cat((start, hits)) / genuine.sum()


class EqualErrorRate(Verification):
    """The error where as large a share of impostors passes as of genuine pairs is refused; NaN without either."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """In [0, 1]; between two thresholds on the straight line."""
        passed, accepted = self.curve()
        refused = 1 - accepted
        # The first threshold where as many pass; the one before it, where fewer do. From no pair to all there is one.
        after = (passed >= refused).int().argmax()
        before = (after - 1).clamp(min=0)
        low, high = refused[before] - passed[before], refused[after] - passed[after]
        share = low / (low - high)
        return passed[before] + share * (passed[after] - passed[before])


class TrueAcceptRate(Verification):
    """The share of genuine pairs that pass where at most ``far`` of the impostors do; NaN without either.

    Args:
        missing: see ``Verification``.
        far: in (0, 1).
    """

    higher_is_better = True

    def __init__(self, missing: int = -1, *, far: float = 0.01):
        super().__init__(missing)
        self.far = far

    def compute(self) -> Tensor:
        """In [0, 1]."""
        passed, accepted = self.curve()
        allowed = accepted[passed <= self.far]
        return allowed[-1] if len(allowed) else accepted.new_tensor(torch.nan)


class RankOne(Verification):
    """Of the pictures whose person has another one, the share whose most similar other picture is of that person."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """In [0, 1]; NaN where nobody has two pictures."""
        cosines, same, identical = self.compared()
        probes = (same & ~identical).any(1)
        nearest = cosines.masked_fill(identical, -torch.inf)[probes]
        if not len(nearest):
            return cosines.new_tensor(torch.nan)
        return same[probes].gather(1, nearest.argmax(1, keepdim=True)).double().mean()
