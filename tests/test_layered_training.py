"""The whole chain of the layered generative codec, tiny: all stages, export, files cut off, a task attached later."""

import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import codec as codec_command
import export
import train
from models.pretrained import load
from tests.conftest import compose_config
from tests.test_ddp import check_weights

CODEC = (
    "data={size: 32, batch_size: 4, num_train: 16, num_val: 4, num_test: 4, num_workers: 0}",
    "codec={content_channels: 4, style_channels: 4, content_encoder: {width: 4, max_width: 8}}",
    "codec.style_encoder={width: 4, max_width: 8}",
    "codec.synthesis={width: 8, min_width: 4, blocks: 1, mapping_width: 8}",
    "callbacks={reconstructions: null, latent_statistics: null}",
    "trainer.precision=32-true",
)
TINY = (
    "experiment=layered_portraits",
    *CODEC,
    "networks.critic.width=4",
    "+task@tasks.content_attributes=attributes_streams",
    "tasks.content_attributes.reads=[content_hat]",
    "+task_weights.content_attributes=0.1",
    "~baselines.jpeg",
)
LATER = ("experiment=layered_portraits_later", *CODEC, "schedule.heads={num_batches: 2, num_validations: 1}")
STAGES = ("codec", "adversarial", "analysis", "joint")
LENGTHS = tuple(
    f"+schedule.{name}={{num_batches: 2, num_validations: 1, checkpoint_every: 1}}" for name in STAGES
)


def trained(folder: Path, *overrides: str) -> Path:
    with mock.patch.dict(os.environ):
        train.train(compose_config(*overrides), folder)
    return folder


def checkpoint(run: Path, stage: str) -> dict:
    (folder,) = run.glob(f"stages/*-{stage}")
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def changed(run: Path, before: str, after: str) -> set[str]:
    """The parts, to the second dot, whose weights a stage moved."""
    a, b = checkpoint(run, before), checkpoint(run, after)
    return {".".join(k.split(".")[:2]) for k in a if k in b and not torch.equal(a[k], b[k])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("layered") / "run", *TINY, *LENGTHS)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return export.export(export.read_options([f"run={run}", f"out={run.parent / 'model'}", "onnx=false"]))


@pytest.fixture(scope="module")
def files(model: Path) -> Path:
    """A picture's file, and what is left of it without its style."""
    folder = model.parent / "files"
    levels = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    Image.fromarray(levels).save(model.parent / "whole.png")
    assert (
        codec_command.main(["compress", str(model), str(model.parent / "whole.png"), "-o", str(folder)]) == 0
    )
    data = (folder / "whole.bif").read_bytes()
    style = load(model).codec.parse(data).strings["style"]
    (folder / "cut.bif").write_bytes(data[: len(data) - len(style)])
    return folder


@pytest.mark.slow
def test_each_stage_moves_what_it_names_and_the_critic_learns(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == list(STAGES)
    # The adversarial stage leaves the streams as they are: files, latents and what heads learn of them.
    assert changed(run, "codec", "adversarial") == {"codec.g_s", "networks.critic"}
    tasks = {f"tasks.{name}" for name in ("parsing", "attributes", "landmarks", "content_attributes")}
    assert changed(run, "adversarial", "analysis") == tasks
    assert changed(run, "analysis", "joint") == tasks | {
        "codec.content", "codec.style", "codec.g_s", "networks.critic"
    }  # fmt: skip
    metrics = summary["stages"][-1]["metrics"]
    assert {"val/codec/distortion/adversarial", "val/codec/distortion/style", "val/critic/telling"} <= set(
        metrics
    )
    (row,) = [row for row in summary["test"]["rows"] if row["codec"] == "joint"]
    assert set(row["bpp_by_layer"]) == {"content", "style"}
    assert (
        row["tasks"]["content_attributes/bpp"] < row["tasks"]["attributes/bpp"] == pytest.approx(row["bpp"])
    )
    assert row["gmsd"] > 0


@pytest.mark.slow
def test_a_file_without_its_style_is_a_picture_and_tells_what_it_lacks(
    model: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codec_command.main(["decompress", str(model), str(files), "-o", str(tmp_path)]) == 0
    whole, cut = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("whole", "cut"))
    assert whole.shape == cut.shape == (37, 45, 3)
    assert "cut off: without style" in capsys.readouterr().out
    assert codec_command.main(["analyze", str(model), str(files / "whole.bif")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert set(told["tasks"]) == {"parsing", "attributes", "landmarks", "content_attributes"}
    assert set(told["bytes_read"]) == {"content", "style"}
    cut_off = ["analyze", str(model), str(files / "cut.bif")]
    assert codec_command.main(cut_off) != 0
    assert "lacks the layers style, which the tasks read" in capsys.readouterr().out
    assert codec_command.main([*cut_off, "--tasks", "content_attributes"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert list(told["bytes_read"]) == ["content"]
    card = (model / "README.md").read_text()
    assert "layers of the bitstream: content, style" in card
    assert "`parsing` reads content_hat and style_hat" in card


@pytest.mark.slow
def test_a_task_attached_later_leaves_every_file_as_it_is(run: Path, files: Path, tmp_path: Path) -> None:
    later = trained(tmp_path / "later", *LATER, f"schedule.heads.init_from={{codec: {run}}}")
    model = export.export(export.read_options([f"run={later}", f"out={tmp_path / 'model'}", "onnx=false"]))
    pictures = str(files.parent / "whole.png")
    assert codec_command.main(["compress", str(model), pictures, "-o", str(tmp_path / "files")]) == 0
    assert (tmp_path / "files/whole.bif").read_bytes() == (files / "whole.bif").read_bytes()


@pytest.mark.slow
def test_killed_in_the_adversarial_stage_is_as_if_nothing_had_happened(run: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    from lightning_modules import compression

    turns, count = compression.take_turns, []

    def until(*args):
        count.append(None)
        if len(count) == 2:
            raise Killed
        return turns(*args)

    with mock.patch.object(compression, "take_turns", until), pytest.raises(Killed):
        trained(tmp_path / "run", *TINY, *LENGTHS)
    trained(tmp_path / "run", *TINY, *LENGTHS)
    check_weights(run, tmp_path / "run", tolerance=0.0)
