"""Batches depend on (seed, draw) alone, unreadable samples are stepped over, and labels are checked."""

import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.base import ImageDataModule, UnreadableSample
from datamodules.kept import Kept
from datamodules.loading import TrainingSamples, collate
from datamodules.samples import Label
from datamodules.source import InvalidLabel, read_checked
from datamodules.transforms import RandomView

NAMES = ("sky", "road", "tree")


class Drawn(ImageDataModule):
    """A data set in memory with a label of every kind; indices in ``broken`` cannot be read."""

    num_samples = 10
    broken: frozenset[int] = frozenset()
    size = (24, 32)

    def source(self, split):
        return DrawnSource(self.num_samples, self.broken, self.size)


class DrawnSource:
    def __init__(self, num_samples, broken, size):
        self.num_samples, self.broken, self.size = num_samples, broken, size
        self.labels = {
            "class": Label("class", ("a", "b")),
            "mask": Label("mask", NAMES),
            "attributes": Label("attributes", ("x", "y")),
            "landmarks": Label("landmarks", ("left", "right"), mirror=((0, 1),)),
            "boxes": Label("boxes", ("a", "b")),
        }

    def __len__(self):
        return self.num_samples

    def name(self, index):
        return f"drawn/{index}"

    def read(self, index):
        if index in self.broken:
            raise UnreadableSample(f"drawn/{index}: is broken")
        rng = np.random.default_rng(index)
        corners = torch.from_numpy(rng.uniform(0, 10, (index % 3, 2)).astype(np.float32))
        return {
            "image": torch.from_numpy(rng.integers(0, 256, (3, *self.size), dtype=np.uint8)),
            "class": torch.tensor(index % 2),
            "mask": torch.from_numpy(rng.integers(0, 3, self.size)),
            "attributes": torch.from_numpy(rng.integers(0, 2, 2)),
            "landmarks": torch.from_numpy(rng.uniform(0, 20, (2, 2)).astype(np.float32)),
            "boxes": torch.cat((corners, corners + 9), dim=1),
            "box_class": torch.ones(index % 3, dtype=torch.int64),
        }


AUGMENTED = {"batch_size": 4, "crop": 16, "scale": (0.3, 1), "colour_jitter": 0.5}


def drawn(**options):
    return Drawn(**{"batch_size": 4, "crop": 16, "num_workers": 0} | options)


def stage_batches(module, num_batches=3, seed=5, start=0):
    return list(module.for_stage(num_batches=num_batches, seed=seed, start=start).train_dataloader())


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif value and isinstance(value[0], torch.Tensor):
            assert len(value) == len(other[key])
            assert all(torch.equal(mine, yours) for mine, yours in zip(value, other[key], strict=True)), key
        else:
            assert value == other[key], key


class Ranked:
    """What a datamodule asks of a trainer."""

    class _accelerator_connector:
        use_distributed_sampler = False

    def __init__(self, global_rank, world_size):
        self.global_rank, self.world_size = global_rank, world_size


def on_rank(module, rank, world_size=2):
    module.trainer = Ranked(rank, world_size)
    return module


# Batches


def test_training_batches_hold_what_the_table_says():
    (batch,) = stage_batches(drawn(), num_batches=1)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (4, 3, 16, 16)
    assert batch["class"].shape == (4,)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((4, 16, 16), torch.int64)
    assert batch["attributes"].shape == (4, 2)
    assert batch["landmarks"].shape == (4, 2, 2)
    assert [boxes.shape[1:] for boxes in batch["boxes"]] == [(4,)] * 4
    assert [len(boxes) for boxes in batch["boxes"]] == [len(classes) for classes in batch["box_class"]]
    assert batch["draw"].tolist() == [0, 1, 2, 3]
    assert len(set(batch["id"])) == 4
    assert batch["skipped"] == []


def test_images_become_floats_after_transfer():
    (batch,) = stage_batches(drawn(), num_batches=1)
    after = drawn().on_after_batch_transfer(batch, 0)
    assert after["image"].dtype == torch.float32
    assert torch.equal((after["image"] * 255).round().byte(), batch["image"])
    assert 0.9 < after["image"].max() <= 1
    assert drawn().on_after_batch_transfer({"skipped": ["x"]}, 0) == {"skipped": ["x"]}


def test_workers_do_not_change_batches():
    alone = stage_batches(drawn(**AUGMENTED))
    for workers in (1, 2):
        for batch, other in zip(alone, stage_batches(drawn(**AUGMENTED, num_workers=workers)), strict=True):
            assert_same(batch, other)


def test_ranks_together_load_what_one_process_loads():
    whole = stage_batches(drawn(**AUGMENTED))
    shares = []
    for rank in (0, 1):
        stage = drawn(**AUGMENTED).for_stage(num_batches=3, seed=5)
        shares.append(list(on_rank(stage, rank).train_dataloader()))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch["image"], torch.cat([part["image"] for part in parts]))
        assert torch.equal(batch["landmarks"], torch.cat([part["landmarks"] for part in parts]))
        assert batch["id"] == parts[0]["id"] + parts[1]["id"]


def test_a_stage_goes_on_from_any_batch():
    whole = stage_batches(drawn(**AUGMENTED), num_batches=5)
    for batch, other in zip(
        whole[3:], stage_batches(drawn(**AUGMENTED), num_batches=5, start=3), strict=True
    ):
        assert_same(batch, other)


def test_the_same_sample_is_seen_differently_at_each_draw_and_seed():
    batches = stage_batches(drawn(**AUGMENTED), num_batches=5)
    views = {}
    for batch in batches:
        for name, image in zip(batch["id"], batch["image"], strict=True):
            views.setdefault(name, []).append(image)
    assert all(len(images) == 2 and not torch.equal(*images) for images in views.values())
    module = drawn(**AUGMENTED)
    module.num_samples = 1
    seeds = [stage_batches(module, num_batches=1, seed=seed)[0]["image"] for seed in (5, 6)]
    assert not torch.equal(*seeds)


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    stage_batches(drawn(**AUGMENTED))
    assert torch.equal(torch.rand(3), expected)


def test_stages_are_copies():
    module = drawn()
    first = module.for_stage(num_batches=2, seed=0)
    second = module.for_stage(num_batches=3, seed=1)
    assert (len(first.train_dataloader()), len(second.train_dataloader())) == (2, 3)
    assert first.split("train") is not None
    with pytest.raises(ValueError, match="copy that for_stage"):
        module.train_dataloader()


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_each_sample_once(world_size):
    seen = []
    for rank in range(world_size):
        module = on_rank(drawn(eval_size=12, batch_size=6), rank, world_size)
        for batch in module.val_dataloader():
            assert batch["image"].shape[1:] == (3, 12, 12)
            assert batch["draw"].tolist() == [int(name.split("/")[1]) for name in batch["id"]]
            seen += batch["id"]
    assert sorted(seen) == [f"drawn/{index}" for index in range(10)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"eval_size": 12}, 3),
        ({"eval_size": 12, "eval_batch_size": 5}, 5),
        ({"eval_batch_size": 2}, 2),
    ],
)
def test_size_of_evaluation_batches(options, expected):
    module = on_rank(drawn(batch_size=6, **options), 0)
    assert next(iter(module.test_dataloader()))["image"].shape[0] == expected


def test_several_processes_need_an_even_share_and_our_own_batches():
    stage = drawn(batch_size=5).for_stage(num_batches=1, seed=0)
    with pytest.raises(ValueError, match=r"batch_size \(=5\) .* number \(=2\)"):
        on_rank(stage, 0).train_dataloader()
    stage.trainer._accelerator_connector = type("Meddling", (), {"use_distributed_sampler": True})
    with pytest.raises(ValueError, match="use_distributed_sampler=False"):
        stage.val_dataloader()


class Recorder(LightningModule):
    """Notes what the trainer hands it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.draws, self.validated = [], 0

    def training_step(self, batch, batch_idx):
        assert batch["image"].is_floating_point()
        self.draws += batch["draw"].tolist()
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch["id"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, default_root_dir=folder, **quiet, **options
    )


def test_lightning_trains_the_batches_of_a_stage(tmp_path):
    module = Recorder()
    fit = trainer(tmp_path, enable_checkpointing=False).fit
    fit(module, datamodule=drawn().for_stage(num_batches=3, seed=0))
    assert (module.draws, module.validated) == (list(range(12)), 10)


def test_lightning_resumes_in_the_middle_of_a_stage(tmp_path):
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = trainer(tmp_path, callbacks=[saving], limit_val_batches=0)
    whole.fit(Recorder(), datamodule=drawn().for_stage(num_batches=4, seed=0))
    for done in (1, 2, 3):
        module = Recorder()
        resumed = trainer(tmp_path, enable_checkpointing=False)
        rest = drawn().for_stage(num_batches=4, seed=0, start=done)
        resumed.fit(module, datamodule=rest, ckpt_path=tmp_path / f"step={done}.ckpt")
        assert (module.draws, module.validated) == (list(range(4 * done, 16)), 10)
        assert resumed.global_step == 4


# Files that cannot be read


def with_broken(indices, **options):
    module = drawn(**options)
    module.broken = frozenset(indices)
    return module


def test_training_steps_over_unreadable_samples():
    sound = stage_batches(drawn(), num_batches=5)
    batches = stage_batches(with_broken({2, 3}), num_batches=5)
    skipped = [reason for batch in batches for reason in batch["skipped"]]
    # 20 draws of 10 samples: 2 and 3 twice each, and whoever meets 2 meets 3 on the way to 4.
    assert sorted(skipped) == ["drawn/2: is broken"] * 2 + ["drawn/3: is broken"] * 4
    for before, after in zip(sound, batches, strict=True):
        expected = ["drawn/4" if name in ("drawn/2", "drawn/3") else name for name in before["id"]]
        assert after["id"] == expected
        assert after["image"].shape == before["image"].shape


def test_the_last_sample_is_followed_by_the_first():
    ids = [name for batch in stage_batches(with_broken({9}), num_batches=5) for name in batch["id"]]
    assert (ids.count("drawn/0"), ids.count("drawn/9")) == (4, 0)


def test_training_gives_up_when_nothing_is_readable():
    with pytest.raises(
        UnreadableSample, match=r"10 files in a row cannot be read, the last: drawn/\d: is broken"
    ):
        stage_batches(with_broken(range(10)))


def test_training_gives_up_after_a_hundred_files():
    module = with_broken(range(1, 300))
    module.num_samples = 300
    with pytest.raises(UnreadableSample, match="100 files in a row"):
        stage_batches(module)


def test_evaluation_drops_unreadable_samples():
    batches = list(with_broken({0, 1, 5}, eval_batch_size=2).test_dataloader())
    assert batches[0] == {"skipped": ["drawn/0: is broken", "drawn/1: is broken"]}
    assert batches[2]["id"] == ["drawn/4"]
    assert batches[2]["image"].shape == (1, 3, 24, 32)
    assert batches[2]["skipped"] == ["drawn/5: is broken"]
    assert sum(len(batch.get("id", [])) for batch in batches) == 7


@pytest.mark.parametrize(("split", "size"), [("train", (16, 16)), ("val", (24, 32))])
def test_an_example_is_the_first_sample_that_can_be_read(split, size):
    before = torch.get_rng_state()
    batch = with_broken({0, 1}, crop=16).example(split, 2)
    assert torch.equal(torch.get_rng_state(), before)
    # What training steps over has the next one in its place.
    assert batch["id"] == ["drawn/2"] * 2
    assert batch["image"].shape == (2, 3, *size)
    assert batch["image"].dtype == torch.float32
    assert with_broken(range(10)).example(split) is None


# What check() and the constructors find


def test_check_passes_good_data_and_reads_evenly():
    read = []

    class Noting(DrawnSource):
        def read(self, index):
            read.append(index)
            return super().read(index)

    module = drawn()
    module.source = lambda split: Noting(1000, frozenset({999}), (24, 32))
    assert module.check(["train"]) == {"train": ["drawn/999: is broken"]}
    assert len(read) == len(set(read)) == 64
    assert (read[0], read[-1]) == (0, 999)
    assert max(np.diff(read)) <= 17


def test_check_stops_where_nothing_is_readable():
    with pytest.raises(
        ValueError, match="split 'train': no sample of 10 can be read, first: drawn/0: is broken"
    ):
        with_broken(range(10)).check()


def test_check_finds_small_images():
    module = drawn(min_size=25)
    with pytest.raises(ValueError, match=r"drawn/0 is 32x24, shorter than min_size \(=25\)"):
        module.check()
    assert drawn(min_size=24).check() == {"train": [], "val": [], "test": []}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class", torch.tensor(2), "drawn/1: class holds 2, must be within -1..1"),
        ("class", torch.tensor([1]), r"class has shape \(1,\), must be \(\)"),
        ("class", torch.tensor(0.5), "class is torch.float32, must be int64"),
        ("mask", torch.full((24, 32), -1), "mask holds -1, must be within 0..2"),
        ("mask", torch.full((24, 32), 3), "mask holds 3, must be within 0..2"),
        ("attributes", torch.tensor([0, 2]), "attributes holds 2, must be within -1..1"),
        ("attributes", torch.tensor([0]), r"attributes has shape \(1,\), must be \(2,\) for its 2 names"),
        ("landmarks", torch.zeros(3, 2), r"landmarks has shape \(3, 2\), must be \(2, 2\)"),
        ("boxes", torch.zeros(4), r"boxes has shape \(4,\), must be \(4, 4\)"),
        ("boxes", torch.tensor([[5.0, 0, 5, 5]]), "boxes has a box without width or height"),
        (
            "boxes",
            torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 5]]),
            "box_class must give a class for each of the 2",
        ),
        ("box_class", torch.tensor([2]), "box_class holds 2, must be within -1..1"),
        ("landmarks", None, "landmarks is missing: give its missing value"),
    ],
)
def test_wrong_labels_are_named(key, value, message):
    source = DrawnSource(10, frozenset(), (24, 32))
    read_checked(source, 1)
    sample = {name: tensor for name, tensor in source.read(1).items() if name != key}
    source.read = lambda index: sample if value is None else sample | {key: value}
    with pytest.raises(InvalidLabel, match=message):
        read_checked(source, 1)


def test_missing_labels_pass():
    source = DrawnSource(10, frozenset(), (24, 32))
    missing = {
        "class": torch.tensor(-1),
        "mask": torch.full((24, 32), 255),
        "attributes": torch.tensor([-1, -1]),
        "landmarks": torch.full((2, 2), torch.nan),
        "boxes": torch.full((1, 4), torch.nan),
        "box_class": torch.tensor([-1]),
    }
    sample = source.read(1) | missing
    source.read = lambda index: sample
    assert read_checked(source, 1) is sample


def test_images_of_another_type_are_named():
    source = DrawnSource(10, frozenset(), (24, 32))
    source.read = lambda index: {"image": torch.zeros(1, 8, 8, dtype=torch.uint8)}
    with pytest.raises(UnreadableSample, match=r"drawn/0: image is torch.uint8 \(1, 8, 8\)"):
        read_checked(source, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, must be at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0, must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1, must be at least 0"),
        ({"min_size": 0}, "min_size is 0, must be at least 1"),
        ({"flip": 2}, "flip is 2, a probability"),
        ({"eval_size": -3}, "eval_size is -3"),
    ],
)
def test_impossible_loading_options(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(**options)


def test_unknown_and_empty_splits():
    with pytest.raises(ValueError, match="split is 'dev', must be one of train, val, test"):
        drawn().split("dev")
    module = drawn()
    module.num_samples = 0
    with pytest.raises(ValueError, match="split 'val' of Drawn holds no samples"):
        module.check(["val"])


def test_collate_of_nothing_readable():
    samples = [{"id": "a", "draw": 0, "skipped": ["a: why"]}, {"id": "b", "draw": 1, "skipped": ["b: why"]}]
    assert collate(samples) == {"skipped": ["a: why", "b: why"]}


class Counted(DrawnSource):
    """Counts how often each sample is read."""

    def __init__(self, num_samples, broken, size):
        super().__init__(num_samples, broken, size)
        self.reads = Counter()

    def read(self, index):
        self.reads[index] += 1
        return super().read(index)


def test_small_sets_are_read_once_and_no_view_writes_into_what_is_kept():
    fresh, source = DrawnSource(5, {3}, (24, 32)), Counted(5, {3}, (24, 32))
    view = RandomView(crop=16, scale=(0.3, 1), colour_jitter=0.5)
    plain = TrainingSamples(fresh, view, seed=7)
    kept = TrainingSamples(source, view, seed=7, keep_mb=1)
    for draw in range(12):
        sample, expected = kept[draw, draw % 5], plain[draw, draw % 5]
        assert sample.keys() == expected.keys()
        for key, value in expected.items():
            assert (
                torch.equal(sample[key], value) if isinstance(value, torch.Tensor) else sample[key] == value
            )
    assert source.reads == {0: 1, 1: 1, 2: 1, 4: 1, 3: 2}
    assert set(plain[3, 3]["skipped"]) == set(kept[3, 3]["skipped"]) != set()


def test_what_there_is_no_room_for_is_read_again():
    source = Counted(3, broken=set(), size=(100, 100))
    sizes = sum(value.numel() * value.element_size() for value in source.read(0).values())
    source.reads.clear()
    kept = Kept(source, megabytes=1.5 * sizes / 2**20)
    for _ in range(2):
        for index in range(3):
            kept.read(index)
    assert source.reads == {0: 1, 1: 2, 2: 2}
    for _ in range(2):
        Kept(source, megabytes=0).read(0)
    assert source.reads[0] == 3


@pytest.mark.parametrize(
    ("cores", "devices", "cuda", "workers"),
    [(16, 4, True, 3), (64, 1, True, 8), (2, 2, True, 0), (16, 1, False, 0)],
)
def test_loading_processes_suit_the_machine(cores, devices, cuda, workers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    module = drawn(num_workers=None)
    module.trainer = SimpleNamespace(num_devices=devices)
    assert module._num_workers() == workers
