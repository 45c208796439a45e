"""Which samples make up which batch: keyed by (seed, draw), whatever the ranks, workers and restarts."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(draw, index): number of the draw in the stage, and the sample that was drawn."""


class KeyedBatches(Sampler[list[Key]]):
    """Training batches: draw k is sample permutation(seed, k // n)[k % n] of the n samples.

    Draws are numbered through the whole stage, k = batch * batch_size + position. Each rank takes a
    contiguous slice of every global batch, so batch t taken over all ranks is the same for every number of
    ranks, and starting at batch ``start`` gives what an uninterrupted run would have given from there. Every
    n draws see each sample once; a batch may cross from one permutation into the next, none is ever shorter.

    Args:
        num_samples: n, size of the data set.
        batch_size: samples in a global batch, over all ranks.
        num_batches: global batches in the whole stage, those before ``start`` included.
        seed: at least 0.
        start: first batch to draw: how many a killed run has already trained on.
        rank: of this process.
        world_size: number of processes; must divide ``batch_size``.

    Raises:
        ValueError: an argument out of its range, or ``batch_size`` not divisible by ``world_size``.

    Example:
        >>> list(KeyedBatches(num_samples=3, batch_size=2, num_batches=3, seed=0))
        [[(0, 2), (1, 0)], [(2, 1), (3, 2)], [(4, 0), (5, 1)]]
    """

    def __init__(
        self,
        *,
        num_samples: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}, must be at least 1: the data set is empty")
        if seed < 0:
            raise ValueError(f"seed is {seed}, must be at least 0")
        if not 0 <= start <= num_batches:
            raise ValueError(f"start is {start}, must be within 0..num_batches (={num_batches})")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size (={batch_size}) counts over all processes and must be a positive multiple of "
                f"their number (={world_size}): choose a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, must be within 0..{world_size - 1}")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Batches in the whole stage, those before ``start`` included.

        A resumed trainer goes on counting at ``start`` and stops at this length: if it were what is still to
        come, the stage would silently end too early.
        """
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields this rank's share of each global batch."""
        local = self.batch_size // self.world_size
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for batch in range(self.start, self.num_batches):
            first = batch * self.batch_size + self.rank * local
            keys = []
            for draw in range(first, first + local):
                # Draws only ever grow, so one permutation at a time is enough.
                if draw // self.num_samples != epoch:
                    epoch = draw // self.num_samples
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
                keys.append((draw, int(order[draw % self.num_samples])))
            yield keys


class ShardedBatches(Sampler[list[Key]]):
    """Evaluation batches: every sample exactly once over all ranks, rank r taking r, r + world_size, ...

    Nothing is padded or repeated (a repeated sample would bias every average), so ranks may differ by one
    batch.

    Args:
        num_samples: size of the data set.
        batch_size: samples in a batch of one rank; the last may be smaller.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, *, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of this rank."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields batches in order; the draw is the index."""
        for first in range(0, len(self.indices), self.batch_size):
            yield [(index, index) for index in self.indices[first : first + self.batch_size]]


def seed_of_draw(seed: int, draw: int) -> int:
    """A well mixed 64-bit seed for everything random about one draw.

    SeedSequence hashes its entropy, so neighbouring draws and seeds get unrelated states (``seed + draw``
    would make draw 1 of seed 0 equal draw 0 of seed 1).
    """
    state = np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0]
    return int(state) & torch.iinfo(torch.int64).max
