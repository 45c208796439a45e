"""What people find in the run folder and in the loggers, after real fits of a tiny codec."""

import glob
import json
import struct
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import nn
from wandb.proto import wandb_internal_pb2

from callbacks.csv_logger import RunCSV
from callbacks.ema import EMA, RAW_WEIGHTS
from callbacks.fixed_images import FixedImages
from callbacks.latent_statistics import LatentStatistics, bits_by_channel
from callbacks.non_finite import StopOnNonFinite
from callbacks.pictures import show
from callbacks.reconstructions import Reconstructions
from callbacks.tiles import Row, Tile, fit, grid, heat
from callbacks.training_log import TrainingLog
from callbacks.unreadable_files import UnreadableFiles
from datamodules.base import ImageDataModule
from datamodules.samples import MISSING, Label
from datamodules.source import UnreadableSample
from evaluation.report.bits_map import bits_per_pixel
from lightning_modules.checkpoints import StageCheckpoints
from lightning_modules.compression import CompressionSystem
from lightning_modules.stages import Stage
from lightning_modules.updates import Update
from losses.distortion import MSE
from losses.objective import Objective
from losses.rate import Rate
from losses.term import Term
from models.codecs.hyperprior import MeanScaleHyperprior
from models.codecs.identity import Identity
from models.entropy.tables import is_table
from models.modes import evaluating
from models.outputs import CodecOutput
from pictures.writing import to_uint8
from tasks.classification import Classification

NUM_BATCHES = 6


# -- an honest tiny data set, head and run -------------------------------------------------------------------


class Blobs:
    """Coloured noise, bright in one half, which is the class. Sizes differ; some files are damaged."""

    def __init__(self, split, num, broken=(), unlabelled=()):
        self.labels = {"side": Label("class", ("left", "right"))}
        self.split, self.num, self.broken, self.unlabelled = split, num, set(broken), set(unlabelled)

    def __len__(self):
        return self.num

    def name(self, index):
        return f"{self.split}/{index:02d}.png"

    def read(self, index):
        if index in self.broken:
            raise UnreadableSample(f"{self.name(index)}: truncated")
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "val"))
        height, width = (32, 32) if self.split == "train" else (32 + 3 * index, 40)
        image = torch.randint(0, 120, (3, height, width), generator=generator)
        side = index % 2
        image[:, :, side * width // 2 : (side + 1) * width // 2] += 120
        return {
            "image": image.byte(),
            "side": torch.tensor(MISSING if index in self.unlabelled else side),
        }


class BlobData(ImageDataModule):
    def __init__(self, *, broken_train=(), broken_val=(), num_val=5, unlabelled=(2,)):
        super().__init__(batch_size=4, eval_batch_size=1, num_workers=0, crop=32, min_size=16)
        self.opened = {
            "train": Blobs("train", 24, broken_train),
            "val": Blobs("val", num_val, broken_val, unlabelled),
            "test": Blobs("test", 2),
        }

    def source(self, split):
        return self.opened[split]


class MeanColours(nn.Module):
    """Means of the left and of the right half, then a linear layer."""

    def __init__(self, specs, num_outputs):
        super().__init__()
        (spec,) = specs
        self.linear = nn.Linear(2 * spec.channels, num_outputs)

    def forward(self, x, *, size):
        return self.linear(nn.functional.adaptive_avg_pool2d(x, (1, 2)).flatten(1))


def make_system(
    data,
    *,
    codec=None,
    num_batches=NUM_BATCHES,
    num_validations=2,
    first_step=0,
    reads="y_hat",
    title="1/1 joint",
    distortion=True,
    **more,
):
    torch.manual_seed(0)
    codec = codec or MeanScaleHyperprior(8, 12, num_stages=2)
    tasks = {
        "side": Classification(codec.readable, data.labels, reads=reads, target="side", head=MeanColours)
    }
    objective = Objective(
        rate=Rate(), distortion={"mse": MSE()} if distortion else {}, lmbda=0.01, tasks={"side": 1.0}
    )
    trainable = {"tasks": 1.0} if isinstance(codec, Identity) else {"codec": 1.0, "tasks": 1.0}
    update = Update(trainable, objective, partial(torch.optim.Adam, lr=1e-3))
    stage = Stage(num_batches, {"main": update}, num_validations=num_validations)
    system = CompressionSystem(codec, tasks, stage, ready=tasks, first_step=first_step, **more)
    system.stage_title = title
    return system


def fit_system(system, data, folder, callbacks, *, loggers=(), ckpt_path=None, **trainer_options):
    num_batches = system.stage.num_batches
    options = {
        "val_check_interval": max(1, num_batches // system.stage.num_validations),
        "max_epochs": 1,
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
    }
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=list(loggers),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        inference_mode=False,
        log_every_n_steps=1,
        **(options | trainer_options),
    )
    system.train()
    stage_data = data.for_stage(num_batches=num_batches, seed=3)
    trainer.fit(system, datamodule=stage_data, ckpt_path=ckpt_path)
    return trainer


def about(file):
    return json.loads(Image.open(file).text["bifocal"])


def cut(file, row, tile):
    """The pixels of one tile of a grid."""
    x0, y0, x1, y1 = about(file)["rows"][row]["tiles"][tile]["box"]
    return np.asarray(Image.open(file))[y0:y1, x0:x1]


def wandb_records(folder):
    """What an offline run holds: LevelDB's log format, after a header of 7 bytes."""
    (file,) = glob.glob(f"{folder}/wandb/offline-run-*/*.wandb")
    data, position, whole = Path(file).read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        chunk = data[position + 7 : position + 7 + length]
        position += 7 + length
        whole = chunk if kind in (1, 2) else whole + chunk
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def wandb_history(folder):
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two stages with shared loggers, fresh callbacks for each, as the schedule runs them."""
    folder = tmp_path_factory.mktemp("run")
    data = BlobData()
    loggers = [
        RunCSV(folder / "metrics.csv"),
        TensorBoardLogger(folder, name="tensorboard", version=""),
        WandbLogger(save_dir=folder, project="bifocal", name="test", mode="offline"),
    ]
    codec = MeanScaleHyperprior(8, 12, num_stages=2)
    for number, name in enumerate(("first", "second")):
        system = make_system(
            data, codec=codec, first_step=number * NUM_BATCHES, title=f"{number + 1}/2 {name}"
        )
        callbacks = [
            Reconstructions(num_images=3),
            LatentStatistics(num_images=2),
            TrainingLog(every=2),
            StopOnNonFinite(),
            UnreadableFiles(),
        ]
        fit_system(system, data, folder / "stages" / f"{number + 1:02d}-{name}", callbacks, loggers=loggers)
    for logger in loggers:
        logger.finalize("success")
    wandb.finish()
    # finish() returns before the last records are on disk.
    wandb.teardown()
    return folder, data, system


def files_of(run_folder, kind):
    return sorted((run_folder / kind).glob("*.png"))


# -- reconstructions -----------------------------------------------------------------------------------------


def test_every_validation_of_every_stage_leaves_its_pictures(run):
    names = ["01-first-0000003", "01-first-0000006", "02-second-0000009", "02-second-0000012"]
    for kind in ("reconstructions", "latents"):
        assert [file.stem for file in files_of(run[0], kind)] == names
        assert not list((run[0] / kind).glob("*.tmp"))


def test_the_same_images_are_shown_all_through_the_run(run):
    folder, data, _ = run
    files = files_of(folder, "reconstructions")
    for file in files:
        assert [row["id"] for row in about(file)["rows"]] == ["val/00.png", "val/02.png", "val/04.png"]
    for row, index in enumerate((0, 2, 4)):
        first = cut(files[0], row, "original")
        pixels = data.split("val").read(index)["image"].permute(1, 2, 0).numpy()
        assert np.array_equal(first, np.asarray(fit(pixels, 224)))
        assert all(np.array_equal(first, cut(file, row, "original")) for file in files[1:])
        assert not np.array_equal(cut(files[0], row, "reconstruction"), cut(files[-1], row, "reconstruction"))


def test_captions_tell_real_bytes_of_the_codec_as_it_was(run):
    folder, data, system = run
    rows = about(files_of(folder, "reconstructions")[-1])["rows"]
    codec = system.codec
    codec.train()
    codec.eval()
    for row, index in zip(rows, (0, 2, 4), strict=True):
        x = data.split("val").read(index)["image"][None] / 255
        file = codec.serialise(codec.compress(x)[0])
        x_hat = codec.decompress([codec.parse(file)]).x_hat
        assert row["num_bytes"] == len(file)
        bpp = 8 * len(file) / (x.shape[-2] * x.shape[-1])
        assert row["bpp"] == pytest.approx(bpp)
        assert f"{bpp:.3f} bpp ({len(file)} bytes)" in row["detail"]
        mse = np.mean((to_uint8(x[0]).astype(float) - to_uint8(x_hat[0])) ** 2)
        assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-6)


def test_each_ready_task_says_what_it_saw(run):
    rows = about(files_of(run[0], "reconstructions")[-1])["rows"]
    captions = [row["tiles"]["task: side"]["caption"] for row in rows]
    # Image 2 has no label: the guess alone. The others are left (0, 4).
    assert captions[1] in ("left", "right")
    assert all(caption in ("left", "right (is left)") for caption in (captions[0], captions[2]))


def test_bits_map_sums_to_the_code_length():
    likelihoods = {
        "y": torch.full((1, 3, 5, 4), 0.5),
        "z": torch.full((1, 1, 2, 1), 0.25),
        "w": torch.ones(1, 7),
    }
    bits = bits_per_pixel(CodecOutput(size=(40, 32), likelihoods=likelihoods), stride=8)
    assert bits.shape == (40, 32)
    assert bits.sum() == pytest.approx(3 * 20 * 1 + 2 * 2)
    likelihoods["y"][0, :, 4, 3] = 2.0**-10
    bits = bits_per_pixel(CodecOutput(size=(38, 30), likelihoods=likelihoods), stride=8)
    assert bits.shape == (38, 30)
    assert bits[33, 25] == bits.max() > 2 * bits[0, 0]
    assert bits_per_pixel(CodecOutput(size=(8, 8)), stride=8) is None


class Watch(Callback):
    """Modes and random state before any other callback's on_validation_end, compared after all of them."""

    def __init__(self, when, seen):
        self.when, self.seen = when, seen

    def on_validation_end(self, trainer, pl_module):
        self.seen[self.when] = (
            {name: module.training for name, module in pl_module.named_modules()},
            torch.get_rng_state(),
            np.random.get_state()[1].copy(),
            sum(t.numel() for name, t in pl_module.state_dict().items() if name.endswith("_quantized_cdf")),
        )


@pytest.mark.parametrize("frozen", [False, True])
def test_modes_random_state_and_training_are_left_alone(tmp_path, frozen):
    data = BlobData()

    def weights(callbacks):
        system = make_system(data)
        if frozen:
            for parameter in system.codec.parameters():
                parameter.requires_grad_(False)
            system.codec.eval()
        fit_system(system, data, tmp_path, callbacks)
        return system

    seen = {}
    with_pictures = weights(
        [Watch("before", seen), LatentStatistics(), Reconstructions(num_images=2), Watch("after", seen)]
    )
    assert seen["before"][0] == seen["after"][0]
    assert torch.equal(seen["before"][1], seen["after"][1])
    assert np.array_equal(seen["before"][2], seen["after"][2])
    assert seen["after"][3] == 0
    assert with_pictures.codec.training is not frozen
    plain = weights([]).state_dict()
    for name, tensor in with_pictures.state_dict().items():
        assert torch.equal(tensor, plain[name]), name


def test_borrowed_codec_codes_with_tables_of_its_present_weights():
    torch.manual_seed(0)
    codec = MeanScaleHyperprior(8, 12, num_stages=2)
    x = torch.rand(1, 3, 32, 32)
    codec.eval()
    codec.compress(x)
    # Moved like a validation's end does: modes put back by hand, tables still there.
    with torch.no_grad():
        for parameter in codec.latent_codec.hyper.parameters():
            parameter.add_(0.3)
    with evaluating(codec):
        inside = codec.compress(x)[0].strings
        own = {name: t.clone() for name, t in codec.entropy_side().items()}
    fresh = MeanScaleHyperprior(8, 12, num_stages=2)
    fresh.load_state_dict(codec.state_dict())
    fresh.eval()
    assert fresh.compress(x)[0].strings == inside
    assert all(torch.equal(t, own[name]) for name, t in fresh.entropy_side().items())


class Blind(MeanScaleHyperprior):
    """A codec for machines alone: no picture is decoded."""

    def _forward(self, x, rate, keys):
        output = super()._forward(x, rate, keys)
        if not self.training:
            output.x_hat = None
        return output

    def _decode(self, strings, size, rate, want):
        return super()._decode(strings, size, rate, set(want) - {"pixels"})


def test_codecs_without_picture_or_likelihoods_are_shown_with_what_they_have(tmp_path):
    data = BlobData()
    blind = make_system(
        data, codec=Blind(8, 12, num_stages=2), distortion=False, num_batches=1, num_validations=1
    )
    fit_system(blind, data, tmp_path / "blind", [Reconstructions(num_images=1), LatentStatistics()])
    (file,) = files_of(tmp_path / "blind", "reconstructions")
    assert list(about(file)["rows"][0]["tiles"]) == ["original", "bits", "task: side"]
    assert about(file)["rows"][0]["psnr"] is None

    identity = make_system(data, codec=Identity(), reads="pixels", num_batches=1, num_validations=1)
    fit_system(identity, data, tmp_path / "identity", [Reconstructions(num_images=1), LatentStatistics()])
    (file,) = files_of(tmp_path / "identity", "reconstructions")
    (row,) = about(file)["rows"]
    assert list(row["tiles"]) == ["original", "reconstruction", "error, 5 times", "task: side"]
    assert row["psnr"] == 100
    assert (cut(file, 0, "error, 5 times") == heat(np.zeros((1, 1)), 1.0)).all()
    assert row["bpp"] > 24
    assert not (tmp_path / "identity" / "latents").exists()


def test_estimated_bits_where_real_ones_are_too_dear(tmp_path):
    data = BlobData()
    system = make_system(data, num_batches=1, num_validations=1)
    fit_system(
        system, data, tmp_path, [Reconstructions(num_images=1, real_bytes=False, folder=tmp_path / "out")]
    )
    (row,) = about(*(tmp_path / "out").glob("*.png"))["rows"]
    system.eval()
    x = data.split("val").read(0)["image"][None] / 255
    with torch.no_grad():
        bpp = float(system.codec(x).bits["base"]) / (x.shape[-2] * x.shape[-1])
    assert row["num_bytes"] is None
    assert row["bpp"] == pytest.approx(bpp, rel=1e-5)
    assert "estimated" in row["detail"]


def test_unreadable_images_give_their_place_to_the_next(tmp_path):
    data = BlobData(broken_val=(0, 4), num_val=6)
    fixed = FixedImages(3)

    class Take(Callback):
        def on_validation_end(self, trainer, pl_module):
            self.batches = fixed.load(trainer)

    take = Take()
    fit_system(make_system(data, num_batches=1, num_validations=1), data, tmp_path, [take])
    assert [batch["id"][0] for batch in take.batches] == ["val/01.png", "val/02.png", "val/05.png"]
    assert all(batch["image"].dtype == torch.float32 and batch["image"].max() <= 1 for batch in take.batches)


def test_small_pictures_are_enlarged_in_whole_steps_and_captions_fit():
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    shown = np.asarray(fit(picture, 100))
    assert shown.shape == (96, 96, 3)
    assert np.array_equal(shown[::12, ::12], picture)
    assert fit(np.zeros((900, 300, 3), np.uint8), 300).size == (100, 300)
    long = "many words that a narrow tile cannot hold in one line, and_one_very_long_word_without_any_gap"
    image, where = grid("title", "below", [Row("id", long, [Tile("only", picture, long)] * 2)], side=100)
    x0, y0, x1, y1 = where["rows"][0]["tiles"]["only"]["box"]
    assert np.array_equal(image[y0:y1, x0:x1], np.asarray(fit(picture, 100)))
    # Nothing is written into the right and the lower margin.
    assert (image[:, -10:] == 255).all()
    assert (image[-8:] == 255).all()


# -- latents -------------------------------------------------------------------------------------------------


def test_rates_by_channel_of_maps_vectors_and_tokens():
    p = torch.tensor([0.5, 0.25, 1.0])
    assert bits_by_channel(p[None, :, None, None].expand(1, 3, 2, 5)).mean(1).tolist() == [1, 2, 0]
    assert bits_by_channel(p[None]).mean(1).tolist() == [1, 2, 0]
    assert bits_by_channel(p[None, None].expand(1, 7, 3)).mean(1).tolist() == [1, 2, 0]


def test_dead_channels_are_counted_and_logged(tmp_path):
    data = BlobData()
    system = make_system(data, num_batches=1, num_validations=1)
    # Channels 0-2 of y are constant, so that their symbols are certain.
    with torch.no_grad():
        last = [m for m in system.codec.g_a.modules() if isinstance(m, nn.Conv2d)][-1]
        last.weight[:3] = 0
        last.bias[:3] = 0
        head = [m for m in system.codec.latent_codec.h_s.modules() if isinstance(m, nn.Conv2d)][-1]
        head.weight[:3], head.weight[12:15] = 0, 0
        head.bias[:3], head.bias[12:15] = 0.0, 0.0
        # The others are coded with a scale of about 1, which costs 2 bits a symbol.
        head.weight[3:12], head.bias[3:12] = 0, 1.0
    system.updates["main"].optimiser = partial(torch.optim.SGD, lr=0.0)
    system.updates["main"].aux_lr = 0.0
    csv = RunCSV(tmp_path / "metrics.csv")
    fit_system(system, data, tmp_path, [LatentStatistics()], loggers=[csv])
    (file,) = files_of(tmp_path, "latents")
    facts = about(file)
    assert facts["dead_channels"]["y"] == pytest.approx(3 / 12)
    assert len(facts["bits_per_symbol"]["z"]) == 8
    columns, *rows = [line.split(",") for line in csv.path.read_text().splitlines()]
    column = columns.index("val/latents/y/dead_channels")
    assert [float(row[column]) for row in rows if len(row) > column and row[column]] == [pytest.approx(0.25)]


# -- loggers -------------------------------------------------------------------------------------------------


def test_offline_wandb_holds_pictures_metrics_and_one_continuous_axis(run):
    rows = list(wandb_history(run[0]))
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (2, 2 * NUM_BATCHES)

    def steps_with(key):
        return [row["trainer/global_step"] for row in rows if any(k.startswith(key) for k in row)]

    assert steps_with("val/reconstructions") == steps_with("val/latents/y") == [3, 6, 9, 12]
    assert steps_with("val/side/top1") == [3, 6, 9, 12]
    assert steps_with("train/loss") == [2, 4, 6, 8, 10, 12]
    stored = glob.glob(f"{run[0]}/wandb/offline-run-*/files/media/images/val/reconstructions*.png")
    assert len(stored) == 4
    shown = np.asarray(Image.open(files_of(run[0], "reconstructions")[0]))
    assert any(np.array_equal(np.asarray(Image.open(file).convert("RGB")), shown) for file in stored)


def test_tensorboard_and_csv_hold_them_too(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"val/reconstructions", "val/latents"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Images("val/reconstructions")] == [3, 6, 9, 12]
    assert [event.step for event in events.Scalars("val/side/top1")] == [3, 6, 9, 12]
    text = (run[0] / "metrics.csv").read_text()
    assert "val/latents/y/dead_channels" in text.splitlines()[0]


def test_disabled_wandb_runs_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    data = BlobData()
    logger = WandbLogger(save_dir=tmp_path, project="bifocal")
    system = make_system(data, num_batches=1, num_validations=1)
    fit_system(system, data, tmp_path, [Reconstructions(num_images=1)], loggers=[logger])
    wandb.finish()
    assert len(files_of(tmp_path, "reconstructions")) == 1
    assert not list(tmp_path.rglob("*.wandb"))


def test_wandb_is_told_the_step_of_a_picture(tmp_path):
    told = []

    class Told(WandbLogger):
        def log_image(self, key, images, step=None):
            told.append((key, step, images[0].shape))

    trainer = Trainer(accelerator="cpu", logger=Told(save_dir=tmp_path), enable_checkpointing=False)
    file = show(trainer, "val/some", np.zeros((4, 5, 3), np.uint8), tmp_path, 12)
    assert told == [("val/some", 12, (4, 5, 3))]
    assert file == tmp_path / "val-some-0000012.png"
    assert Image.open(file).size == (5, 4)


def test_only_rank_zero_shows_pictures(tmp_path, monkeypatch):
    data = BlobData()
    system = make_system(data, num_batches=1, num_validations=1)
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda trainer: False))
    fit_system(system, data, tmp_path, [Reconstructions(), LatentStatistics()])
    assert not list(tmp_path.rglob("*.png"))


# -- EMA -----------------------------------------------------------------------------------------------------


class Weights(Callback):
    """Weights by moment: after every training batch, and in every validation, with real sizes at its end."""

    def __init__(self):
        self.trained, self.validated, self.sizes = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.trained.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})

    def on_validation_epoch_start(self, trainer, pl_module):
        self.validated.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})


def expected_averages(start, trained, decay):
    average, averages = {name: p.clone() for name, p in start.items()}, []
    for n, weights in enumerate(trained):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * weights[name] for name in average}
        averages.append(average)
    return averages


def close(a, b):
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


def checkpoints(folder):
    update = Update(["codec"], Objective(rate=Rate()), torch.optim.Adam)
    return StageCheckpoints(folder / "ckpt", Stage(NUM_BATCHES, {"main": update}, num_validations=2))


def test_ema_validates_tests_and_leaves_the_average(tmp_path):
    data = BlobData()
    system = make_system(data)
    start = {name: p.detach().clone() for name, p in system.named_parameters()}
    watch = Weights()
    trainer = fit_system(
        system, data, tmp_path, [Reconstructions(num_images=1), EMA(decay=0.5), watch, checkpoints(tmp_path)]
    )
    averages = expected_averages(start, watch.trained, 0.5)
    assert close(watch.validated[0], averages[2])
    assert not close(watch.validated[0], watch.trained[2])
    left = {name: p.detach() for name, p in system.named_parameters()}
    assert close(left, averages[-1])
    # Training itself never saw the average: it equals a run without the callback.
    plain_watch = Weights()
    fit_system(make_system(data), data, tmp_path / "plain", [plain_watch])
    assert close(watch.trained[-1], plain_watch.trained[-1])
    # The checkpoint: average in state_dict, raw weights beside it.
    saved = torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert close(saved["state_dict"], averages[-1])
    assert close(saved[RAW_WEIGHTS], watch.trained[-1])
    # Pictures and the test are of the average, coded with its own tables.
    (row,) = about(files_of(tmp_path, "reconstructions")[-1])["rows"]
    fresh = MeanScaleHyperprior(8, 12, num_stages=2)
    fresh.load_state_dict(
        {k.removeprefix("codec."): v for k, v in saved["state_dict"].items() if "codec." in k[:6]}
    )
    fresh.train()
    fresh.eval()
    x = data.split("val").read(0)["image"][None] / 255
    file = fresh.serialise(fresh.compress(x)[0])
    assert row["num_bytes"] == len(file)
    system.eval()
    assert system.codec.serialise(system.codec.compress(x)[0]) == file
    trainer.test(system, datamodule=data, verbose=False)
    assert trainer.callback_metrics["test/bpp_real"].isfinite()


def test_real_coding_sees_the_average_whatever_was_coded_before(tmp_path):
    data, x, checked = BlobData(), torch.rand(1, 3, 32, 32), []

    class CodeBefore(Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.codec.compress(x)

        def on_validation_end(self, trainer, pl_module):
            fresh = MeanScaleHyperprior(8, 12, num_stages=2)
            weights = {n: t for n, t in pl_module.codec.state_dict().items() if not is_table(n)}
            fresh.load_state_dict(weights, strict=False)
            fresh.eval()
            assert fresh.compress(x)[0].strings == pl_module.codec.compress(x)[0].strings
            pairs = zip(fresh.entropy_side().items(), pl_module.codec.entropy_side().items(), strict=True)
            assert all(a == b and torch.equal(s, t) for (a, s), (b, t) in pairs)
            checked.append(trainer.global_step)

    system = make_system(data)
    system.updates["main"].optimiser = partial(torch.optim.Adam, lr=0.05)
    fit_system(system, data, tmp_path, [CodeBefore(), EMA(decay=0.9)])
    assert checked == [3, 6]


def test_ema_resumed_equals_uninterrupted(tmp_path):
    data = BlobData()

    def train(folder, epochs, ckpt_path=None, callbacks=()):
        system = make_system(data, num_batches=3, num_validations=1)
        callbacks = [EMA(decay=0.9), watch := Weights(), *callbacks]
        fit_system(system, data, tmp_path / folder, callbacks, max_epochs=epochs, ckpt_path=ckpt_path)
        return dict(system.named_parameters()), watch

    whole, whole_watch = train("whole", 2)
    train("half", 1, callbacks=[checkpoints(tmp_path)])
    file = tmp_path / "ckpt" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    assert state["callbacks"]["EMA"] == {"num_updates": 3, "latest_step": 3}
    resumed, watch = train("resumed", 2, ckpt_path=file)
    assert len(watch.trained) == 3
    assert close(watch.trained[-1], whole_watch.trained[-1])
    assert close(resumed, whole)
    assert not close(resumed, watch.trained[-1])


def test_averaged_checkpoint_is_refused_without_the_callback(tmp_path):
    for callbacks, checkpoint, refused in (
        ([], {}, False),
        ([EMA()], {RAW_WEIGHTS: {}}, False),
        ([StopOnNonFinite()], {RAW_WEIGHTS: {}}, True),
    ):
        system = CompressionSystem(MeanScaleHyperprior(4, 4, num_stages=2), {})
        system._trainer = SimpleNamespace(callbacks=callbacks)
        with pytest.raises(ValueError, match="no EMA callback") if refused else nullcontext():
            system.on_load_checkpoint(checkpoint | {"updates": [], "batches_done": 0})


# -- losses that are no number -------------------------------------------------------------------------------


class Poison(Term):
    """A distortion that turns bad at one batch."""

    def __init__(self, at, value):
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, output, batch):
        error = (output.x_hat - batch["image"]).square().mean()
        if not torch.is_grad_enabled():
            return error
        self.calls += 1
        return error * self.value if self.calls == self.at + 1 else error


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("every", [1, 50])
def test_bad_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, value, every):
    data = BlobData()
    system = make_system(data, first_step=100)
    system.objectives["main"].distortion["poison"] = Poison(at=4, value=value)
    keep = checkpoints(tmp_path)
    with pytest.raises(FloatingPointError) as caught:
        fit_system(system, data, tmp_path, [StopOnNonFinite(every=every), keep])
    message = str(caught.value)
    assert "'distortion/poison' is" in message
    assert "'distortion/mse'" not in message.split(" at batch 4 ")[0]
    assert "at batch 4 of stage '1/1 joint' (step 105 of the run)" in message
    assert "draws [16, 17, 18, 19]" in message
    assert "train/" in message
    files = sorted(file.name for file in (tmp_path / "ckpt").iterdir())
    assert files == ["best.ckpt", "last.ckpt"]
    assert str(tmp_path / "ckpt" / "last.ckpt") in message
    for file in files:
        state = torch.load(tmp_path / "ckpt" / file, weights_only=True)
        assert state["global_step"] == 3
        assert all(t.isfinite().all() for t in state["state_dict"].values() if t.is_floating_point())
        make_system(data).load_state_dict(
            {k: v for k, v in state["state_dict"].items() if "poison" not in k}, strict=True
        )


def test_bad_gradient_is_caught_before_it_is_saved(tmp_path):
    data = BlobData()
    system = make_system(data)

    class Spoil(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                next(pl_module.codec.g_s.parameters()).data.fill_(float("nan"))

    every_batch = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=1)
    with pytest.raises(FloatingPointError, match=r"1 weight not finite .*codec\.g_s"):
        fit_system(system, data, tmp_path, [StopOnNonFinite(), Spoil(), every_batch], limit_val_batches=0)
    (kept,) = (tmp_path / "ckpt").glob("*.ckpt")
    state = torch.load(kept, weights_only=True)
    assert state["global_step"] == 2
    assert all(t.isfinite().all() for t in state["state_dict"].values() if t.is_floating_point())


def test_no_figure_is_measured_after_a_bad_batch(tmp_path):
    data, seen = BlobData(), {}
    system = make_system(data)
    system.objectives["main"].distortion["poison"] = Poison(at=1, value=float("nan"))
    with pytest.raises(FloatingPointError, match="batch 1 "):
        fit_system(system, data, tmp_path, [StopOnNonFinite(every=50), Watch("validated", seen)])
    assert not seen


def test_good_runs_are_not_stopped(run):
    assert len(files_of(run[0], "reconstructions")) == 4
    with pytest.raises(ValueError, match="every=0"):
        StopOnNonFinite(every=0)


# -- unreadable files ----------------------------------------------------------------------------------------


def test_unreadable_files_are_listed_once_and_warned_about(tmp_path):
    data = BlobData(broken_train=(1, 2, 3, 5, 8), broken_val=(0, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("01-a", "02-b"):
            folder = tmp_path / "stages" / name
            fit_system(make_system(data), data, folder, [UnreadableFiles(limit=7)])
    listed = (tmp_path / "unreadable_files.txt").read_text().splitlines()
    broken = [*(f"train/0{i}" for i in (1, 2, 3, 5, 8)), "val/00", "val/03"]
    assert sorted(listed) == [f"{name}.png: truncated" for name in broken]
    said = [str(w.message) for w in caught if "unreadable file" in str(w.message)]
    assert len(said) == 5
    assert len([w for w in caught if "only listed in" in str(w.message)]) == 1


def test_too_many_unreadable_files_end_the_run(tmp_path):
    data = BlobData(broken_train=(1, 2, 3, 5, 8))
    with (
        pytest.warns(UserWarning, match="unreadable file"),
        pytest.raises(ValueError, match="more than limit=2"),
    ):
        fit_system(make_system(data), data, tmp_path, [UnreadableFiles(limit=2)])
