"""The user's errors: one line that names the key, its value and the rule, a status, and no traceback."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.source import DataError
from launch.errors import one_line
from tests.test_train import TINY, Result, checkpoint, command

ON_FOLDERS = (
    "experiment=task_on_originals",
    "tasks.identity.target=class",
    "data=class_folders",
    "data.num_workers=0",
    "data.batch_size=4",
    "data.crop=16",
    "data.eval_size=16",
    "data.scale=null",
    "callbacks.reconstructions=null",
    "callbacks.latent_statistics=null",
    "schedule.heads.num_batches=6",
)
ON_MASKS = (
    "experiment=camvid_joint",
    "codec.width=4",
    "codec.latent_channels=4",
    "data.num_workers=0",
    "data.batch_size=4",
)


def assert_one_line(result: Result, pattern: str, status: int = 2) -> None:
    """Exactly one line on stderr, of the agreed form. The pattern is a regular expression."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("train.py: error: ")]
    assert result.status == status, result.stderr
    assert len(lines) == 1, result.stderr
    assert re.search(pattern, lines[0]), lines[0]
    assert "Traceback" not in result.stderr
    if status == 2:
        # Nothing has begun: no bar, no warning, nothing else to read through.
        assert result.stderr.splitlines() == lines


def picture(path: Path, size: tuple[int, int] = (24, 20), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of pictures, in all three splits."""
    root = tmp_path / "pictures"
    for split in ("train", "val", "test"):
        for number in range(6):
            picture(root / split / f"class_{number % 2}" / f"{number}.png", seed=number)
    return root


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Street scenes, as the SegNet layout has them."""
    root = tmp_path / "streets"
    for split in ("train", "val", "test"):
        for number in range(4):
            picture(root / split / f"{number}.png", (32, 32))
            (root / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 32), number, np.uint8)).save(root / f"{split}annot/{number}.png")
    return root


# -- the configuration -------------------------------------------------------------------------------------------

MISTAKES = {
    # What is refused by Hydra itself.
    "unknown key": (["codec.widht=3"], r"Could not override 'codec\.widht'"),
    "unknown top-level key": (["foo=1"], r"Could not override 'foo'"),
    "unknown experiment": (["experiment=nope"], r"Could not find 'experiment/nope'.*quickstart"),
    "unknown codec": (["codec=nope"], r"Could not find 'codec/nope'.*mean_scale"),
    "no override at all": (["a b"], r"a b"),
    "path that needs quotes": (
        ["resume=multirun/q/lmbda=0.5"],
        r"'resume=multirun/q/lmbda=0\.5' cannot be read .* in quotes .*, as in 'resume=\"multirun/q/lmbda=0\.5\"'",
    ),
    "path in a list that needs quotes": (
        ["+codecs=[multirun/q/lmbda=0.5]"],
        r"'\+codecs=\[multirun/q/lmbda=0\.5\]' cannot be read .*, as in 'codecs=\[\"runs/a=b\", jpeg\]'",
    ),
    # Keys that Hydra lets pass.
    "added key": (["+fo=1"], r"unknown config key 'fo'"),
    "misspelt added key": (["+task_weight={identity: 1}"], r"did you mean 'task_weights'"),
    "unknown argument": (
        ["+codec.widht=3"],
        r"codec\.widht: MeanScaleHyperprior takes no 'widht'; did you mean 'width'\? there are gains, latent_channels",
    ),
    "unknown argument, deep": (
        ["+schedule.joint.updates.main.objective.lambda=3"],
        r"schedule\.joint\.updates\.main\.objective\.lambda: Objective takes no 'lambda'; did you mean 'lmbda'",
    ),
    "unknown argument of a stage's data": (
        ["schedule.heads.data={batch_sise: 3}"],
        r"schedule\.heads\.data\.batch_sise: Portraits takes no 'batch_sise'; did you mean 'batch_size'",
    ),
    "unknown target": (["codec._target_=models.nope.Codec"], r"codec\._target_=models\.nope\.Codec"),
    # Values of a wrong type or range.
    "text for a whole number": (["codec.width=abc"], r"codec\.width is 'abc', must be a whole number"),
    "fraction for a whole number": (
        ["data.batch_size=2.5"],
        r"data\.batch_size is 2\.5, must be a whole number",
    ),
    "truth for a number": (["lmbda=true"], r"lmbda is True, must be a number"),
    "text for a number": (["lmbda=abc"], r"lmbda is 'abc', must be a number"),
    "text for a learning rate": (
        ["schedule.joint.updates.main.optimiser.lr=abc"],
        r"schedule\.joint\.updates\.main\.optimiser\.lr is 'abc', must be a number",
    ),
    "none for a weight": (["task_weights.parsing=null"], r"task_weights\.parsing is None, must be a number"),
    "unknown choice": (["codec.quantise=abc"], r"codec\.quantise is 'abc', must be 'ste' or 'noise'"),
    "number for a mapping": (["tasks=5"], r"tasks is 5, must be a mapping"),
    "mapping for a number": (["seed={a: 1}"], r"seed"),
    "negative seed": (["seed=-1"], r"seed is -1, must be within 0\.\.4294967295"),
    "no channels": (["codec.width=0"], r"codec: width=0 must be at least 1"),
    "no batch size": (["data.batch_size=0"], r"data: batch_size is 0, must be at least 1"),
    "too small pictures": (["data.size=8"], r"data: size is 8, must be within 16\.\.4096"),
    "no interval": (
        ["callbacks.training_log.every=0"],
        r"callbacks\.training_log: every=0 must be at least 1",
    ),
    # Stages.
    "no batches": (["schedule.heads.num_batches=0"], r"schedule\.heads: num_batches=0 must be at least 1"),
    "negative batches": (["schedule.heads.num_batches=-1"], r"schedule\.heads: num_batches=-1 must be"),
    "text for batches": (["schedule.heads.num_batches=many"], r"schedule\.heads\.num_batches is 'many'"),
    "no stages": (
        ["~schedule.pretrain", "~schedule.heads", "~schedule.joint"],
        r"the schedule has no stages",
    ),
    "nothing trains": (
        ["schedule.heads.updates.main.trainable=[]"],
        r"stage 'heads': the stage trains nothing: name at least one part",
    ),
    "wrong part trains": (
        ["schedule.heads.updates.main.trainable=[codec.nope]"],
        r"stage 'heads': part 'codec\.nope' is no module; there are \[.*'tasks\.parsing'",
    ),
    "codec without rate": (
        ["schedule.heads.updates.main.trainable=[codec,tasks]"],
        r"stage 'heads': it trains the codec, but its objective has no rate",
    ),
    "unknown setting": (["schedule.heads.settings={foo: 1}"], r"stage 'heads': settings: .* no 'foo'"),
    # Tasks.
    "objective names an unknown task": (
        ["+task_weights.foo=1"],
        r"stage 'heads': its objective names the tasks \['foo'\]; there are \['identity', 'parsing'\]",
    ),
    "task without a weight": (
        ["~task_weights.parsing"],
        r"stage 'heads': it trains task 'parsing', which has no weight in its objective",
    ),
    "latent that is not there": (
        ["tasks.parsing.reads=nothing"],
        r"tasks\.parsing: task reads 'nothing', which this codec does not have; it has \['pixels'.*'y_hat'\]",
    ),
    "label that is not there": (
        ["tasks.parsing.target=foo"],
        r"tasks\.parsing: task target 'foo' is not a label of this data set; it has \['attributes'",
    ),
    "label of another kind": (
        ["tasks.parsing.target=identity"],
        r"tasks\.parsing: Segmentation needs a label of kind 'mask', but 'identity' is 'class'",
    ),
    # What would only show after hours, when everything has trained.
    "baseline's rate": (["baselines.jpeg.rates=[1000]"], r"baselines\.jpeg: rate=1000 is outside"),
    "baseline without a list": (["baselines.jpeg.rates=5"], r"baselines\.jpeg: .*`rates`, a list"),
    "unknown key of a baseline": (["+baselines.jpeg.rate=5"], r"baselines\.jpeg: has .*'rate'"),
    # Machines and files.
    "uneven shares": (
        ["data.batch_size=5", "trainer=ddp_cpu"],
        r"data\.batch_size=5 must be a multiple of the 2 processes",
    ),
    "unknown precision": (["trainer.precision=abc"], r"trainer\.precision is 'abc', must be .*'bf16-mixed'"),
    "no folder to resume": (["resume=nowhere"], r"resume=nowhere is no run folder: it has no config\.yaml"),
    "no checkpoint": (
        ["schedule.heads.init_from={codec: nowhere.ckpt}"],
        r"stage 'heads': init_from: codec: there is no checkpoint nowhere\.ckpt",
    ),
    "no root": (["data=class_folders"], r"data\.root is missing: give data\.root=VALUE"),
    "root that is not there": (
        ["data=class_folders", "data.root=/nowhere"],
        r"data: root is '/nowhere', which does not exist: give the folder of the data set \(data\.root=DIR\)",
    ),
}


@pytest.mark.parametrize(("overrides", "pattern"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_the_configuration(overrides: list[str], pattern: str, tmp_path: Path) -> None:
    tiny = [text for text in TINY if not text.startswith("data.")] if "data=" in overrides[0] else TINY
    place = [] if overrides[0].startswith("resume") else [f"run_dir={tmp_path / 'run'}"]
    assert_one_line(command(*tiny, *place, *overrides), pattern)
    # A folder without a run would stand in the way of the corrected command.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("experiment", "key"),
    [
        ("preprocessing_jpeg_detection", "tasks.reads.teacher.network.file"),  # which another part reads, too
        ("scalable_face_celebamask", "networks.generator.weights"),
    ],
)
def test_what_an_experiment_leaves_to_its_user(experiment: str, key: str, tmp_path: Path) -> None:
    answer = command(f"experiment={experiment}", "data.root=x", f"run_dir={tmp_path / 'run'}")
    assert_one_line(answer, re.escape(f"{key} is missing: give {key}=VALUE"))


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (
            [],
            r"tasks\.parsing: task reads 'y_hat', which this codec does not have; it has \['pixels'",
        ),
        (
            ["tasks.parsing.reads=pixels", "tasks.parsing.head.features.entry_stride=null"],
            r"stage 'pretrain': part 'codec' has no parameters to train",
        ),
    ],
    ids=["latents", "training"],
)
def test_a_codec_that_cannot_do_it(overrides: list[str], pattern: str, tmp_path: Path) -> None:
    assert_one_line(command("codec=jpeg", f"run_dir={tmp_path / 'run'}", *overrides), pattern)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    assert_one_line(command(*TINY, "trainer=gpu", f"run_dir={tmp_path / 'run'}"), r"trainer: .*gpu")


def test_an_unknown_key_in_an_experiment_file(tmp_path: Path) -> None:
    """A yaml adds keys without asking, unlike the command line."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart, _self_]\nlamda: 0.1\n"
    )
    result = command("--config-dir", str(tmp_path), "experiment=mine", f"run_dir={tmp_path / 'run'}")
    assert_one_line(result, r"unknown config key 'lamda'; did you mean 'lmbda'\? there are baselines")


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"codec.g_a.0.weight": torch.zeros(1), "tasks.x": torch.zeros(2)}}, other)
    foreign = tmp_path / "text.ckpt"
    foreign.write_text("no checkpoint")
    place = f"run_dir={tmp_path / 'run'}"
    for source, pattern in (
        (f"codec: {other}", r"codec: the weights in .*other\.ckpt do not fit: .* and \d+ more missing"),
        (f"codec.g_s: {other}", r"codec\.g_s: .*other\.ckpt holds no weights under 'codec\.g_s\.'"),
        (f"nope: '{other}:tasks'", r"part 'nope' is no module"),
        (f"codec: {foreign}", r"codec: .*text\.ckpt is no checkpoint that can be loaded safely"),
    ):
        result = command(*TINY, place, f"schedule.joint.init_from={{{source}}}")
        assert_one_line(result, rf"stage 'joint': init_from: .*{pattern}|stage 'joint': {pattern}")


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_one_line(command(*TINY, f"run_dir={tmp_path / 'file'}"), r"run_dir=.*file is a file")
    # Stages without a config are of nobody knows what: never to be taken for finished ones.
    (tmp_path / "half/stages/01-pretrain").mkdir(parents=True)
    assert_one_line(command(*TINY, f"run_dir={tmp_path / 'half'}"), r"holds stages .* without config\.yaml")


# -- the data ----------------------------------------------------------------------------------------------------


def test_an_empty_root(tmp_path: Path) -> None:
    place = f"run_dir={tmp_path / 'run'}"
    (tmp_path / "empty").mkdir()
    result = command(*ON_FOLDERS, f"data.root={tmp_path / 'empty'}", place)
    assert_one_line(result, r"data: root .*empty' has the split folders \[\], must have train")
    for split in ("train", "val", "test"):
        (tmp_path / "empty" / split / "class_0").mkdir(parents=True)
    result = command(*ON_FOLDERS, f"data.root={tmp_path / 'empty'}", place)
    assert_one_line(result, r"folder .*train' holds no images for split 'train'")


def break_all(root: Path) -> None:
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(b"no picture")


def shrink_one(root: Path) -> None:
    picture(root / "val/class_0/0.png", (9, 30))


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (break_all, r"split 'train': no sample of 6 can be read, first: /.*/train/class_0/0\.png"),
        (shrink_one, r"split 'val': val/class_0/0\.png is 9x30, shorter than min_size \(=16\): remove"),
    ],
)
def test_pictures_that_cannot_be_used(
    damage: Callable[[Path], None], pattern: str, folders: Path, tmp_path: Path
) -> None:
    damage(folders)
    assert_one_line(
        command(*ON_FOLDERS, f"data.root={folders}", f"run_dir={tmp_path / 'run'}"),
        pattern,
    )


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        (np.zeros((20, 32), np.uint8), r"split 'train': .*: mask is 32x20 but the image is 32x32"),
        (np.full((32, 32), 77, np.uint8), r"split 'train': .*77"),
    ],
    ids=["size", "range"],
)
def test_masks_that_do_not_fit(mask: np.ndarray, pattern: str, masks: Path, tmp_path: Path) -> None:
    Image.fromarray(mask).save(masks / "trainannot/2.png")
    result = command(*ON_MASKS, f"data.root={masks}", f"run_dir={tmp_path / 'run'}")
    assert_one_line(result, pattern)


def test_some_unreadable_files_are_stepped_over_and_listed(folders: Path, tmp_path: Path) -> None:
    """Whatever bytes their names and the folder's are made of; loops of links change nothing."""
    root = folders.rename(tmp_path / os.fsdecode(b"fotos\xe9"))
    (root / "train/class_0/2.png").rename(root / "train/class_0" / os.fsdecode(b"two\n\xe9.png"))
    (root / "train/class_0/0.png").rename(root / "train/class_0" / os.fsdecode(b"good\xe9.png"))
    (root / "train/class_0/up").symlink_to("..")
    (root / "train/class_0/x.jxl").touch()
    for name in (os.fsdecode(b"train/class_0/two\n\xe9.png"), "train/class_1/3.png", "test/class_0/4.png"):
        (root / name).write_bytes((root / name).read_bytes()[:100])
    result = command(*ON_FOLDERS, f'data.root="{root}"', f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.stderr
    assert (result.stdout + result.stderr).encode()
    assert rf"{tmp_path}/fotos\xe9/train: left out: 1 .jxl, 1 links" in result.stderr
    listed = (tmp_path / "run/unreadable_files.txt").read_text().splitlines()
    # Each once, though 6 batches of 4 draw every one of 6 files several times.
    assert sorted(line.split(":")[0].removeprefix(rf"{tmp_path}/fotos\xe9/") for line in listed) == [
        "test/class_0/4.png",
        r"train/class_0/two\n\xe9.png",
        "train/class_1/3.png",
    ]
    # What the run keeps of its config is the folder itself.
    assert OmegaConf.load(tmp_path / "run/config.yaml").data.root == str(root)


def test_too_many_unreadable_files_end_the_run(folders: Path, tmp_path: Path) -> None:
    for name in ("train/class_0/2.png", "train/class_1/3.png"):
        (folders / name).write_bytes(b"")
    limit = "callbacks.unreadable_files.limit=1"
    result = command(*ON_FOLDERS, limit, f"data.root={folders}", f"run_dir={tmp_path / 'run'}")
    assert_one_line(
        result,
        r"2 files cannot be read, more than limit=1\. .*Repair the data set, or raise the limit "
        r"\(callbacks\.unreadable_files\.limit\) What was written before is in .*run\.",
        status=1,
    )
    assert len((tmp_path / "run/unreadable_files.txt").read_text().splitlines()) == 2
    assert (tmp_path / "run/config.yaml").is_file()


class Broken(Dataset):
    """What loading raises where a whole disk is gone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("100 files in a row cannot be read. Repair: the data set.")


def test_errors_of_loading_processes_are_told_without_their_frames() -> None:
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert "Original Traceback" in str(caught.value)  # else this test shows nothing
    assert one_line(caught.value) == "100 files in a row cannot be read. Repair: the data set."


# -- what happens later ------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_good(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Steps so large that the weights overflow after the first batch of the second stage.
    result = command(*TINY, "schedule.heads.updates.main.optimiser.lr=1e38", f"run_dir={run}")
    assert_one_line(result, r"at batch \d of stage '2/3 heads' \(step \d of the run\).* Look at these", 1)
    assert rf"What was written before is in {run}" in result.stderr
    weights = checkpoint(run, "01-pretrain")["state_dict"]
    assert all(bool(value.isfinite().all()) for key, value in weights.items() if "codec" in key)
    assert (run / "stages/01-pretrain/stage.json").is_file()
    assert not (run / "stages/02-heads/stage.json").exists()
    assert not (run / "summary.json").exists()
    assert len((run / "metrics.csv").read_text().splitlines()) > 2
