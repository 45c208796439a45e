"""Batches are keyed by (seed, draw): no rank, number of ranks or restart changes what batch t holds."""

import doctest

import numpy as np
import pytest

from datamodules import sampling
from datamodules.sampling import KeyedBatches, ShardedBatches, seed_of_draw


def batches(**changed):
    return list(KeyedBatches(**{"num_samples": 10, "batch_size": 4, "num_batches": 7, "seed": 3} | changed))


def test_draws_follow_the_permutation_of_their_epoch():
    expected = []
    for draw in range(28):
        order = np.random.default_rng([3, draw // 10]).permutation(10)
        expected.append((draw, int(order[draw % 10])))
    assert [key for batch in batches() for key in batch] == expected
    assert [len(batch) for batch in batches()] == [4] * 7


def test_every_epoch_sees_each_sample_once_in_another_order():
    indices = [index for batch in batches(num_batches=5) for _, index in batch]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10] != indices[10:]


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = batches(num_samples=3, batch_size=8, num_batches=1)
    assert [draw for draw, _ in batch] == list(range(8))
    assert sorted(index for _, index in batch[:3]) == sorted(index for _, index in batch[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_draw_what_one_process_draws(world_size):
    ranks = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert all(len(batch) == 4 // world_size for rank in ranks for batch in rank)
    assert [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)] == batches()


@pytest.mark.parametrize("start", [1, 3, 7])
def test_starting_later_continues_identically(start):
    assert batches(start=start) == batches()[start:]
    assert batches(start=start, rank=1, world_size=2) == batches(rank=1, world_size=2)[start:]


def test_lengths_and_repeats():
    sampler = KeyedBatches(num_samples=10, batch_size=4, num_batches=7, seed=3, start=2)
    assert (len(sampler), len(list(sampler))) == (7, 5)  # a resumed trainer counts up to the whole stage
    assert list(sampler) == list(sampler)  # iterating leaves no state behind


def test_another_seed_draws_another_order():
    assert batches(seed=4) != batches()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 6, "world_size": 4}, r"batch_size \(=6\) .* multiple of their number \(=4\)"),
        ({"batch_size": 0}, r"batch_size \(=0\)"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"seed": -1}, "seed is -1, must be at least 0"),
        ({"start": 8}, r"start is 8, must be within 0..num_batches \(=7\)"),
        ({"rank": 2, "world_size": 2}, r"rank is 2, must be within 0..1"),
    ],
)
def test_impossible_arguments(changed, message):
    with pytest.raises(ValueError, match=message):
        batches(**changed)


@pytest.mark.parametrize("world_size", [1, 2, 3, 12])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_shards_hold_each_sample_once(world_size, batch_size):
    shards = [
        ShardedBatches(num_samples=10, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = [key for shard in shards for batch in shard for key in batch]
    assert sorted(seen) == [(index, index) for index in range(10)]
    for rank, shard in enumerate(shards):
        assert len(list(shard)) == len(shard)
        assert all(len(batch) == batch_size for batch in list(shard)[:-1])
        assert all(index % world_size == rank for batch in shard for _, index in batch)


def test_seeds_of_draws_do_not_collide():
    seeds = {seed_of_draw(seed, draw) for seed in range(50) for draw in range(50)}
    assert len(seeds) == 2500
    assert seed_of_draw(0, 1) != seed_of_draw(1, 0)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_examples_in_the_docstrings():
    result = doctest.testmod(sampling)
    assert (result.failed, result.attempted > 0) == (0, True)
