"""Frozen networks: they help to train, and are in no model; tasks that learn from a teacher, with and without it."""

import copy
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor, nn

import export
import tasks as tasks_package
from evaluation.points import weights
from evaluation.sources import points_of
from models.frozen import Frozen
from models.pretrained import from_pretrained, load, save_pretrained
from models.pretrained.merge_heads import add_head
from tests.conftest import component, compose_config, tiny_codec
from tests.tiny_run import SMALL, train_small


class Wobbly(nn.Module):
    """A network that answers otherwise in training: dropout and batch statistics."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        return gain * self.dropout(self.norm(self.conv(x)))


class Holder(nn.Module):
    """Whatever trains beside a frozen network."""

    def __init__(self):
        super().__init__()
        self.own, self.teacher = nn.Conv2d(3, 4, 3), Frozen(Wobbly())


# -- the wrapper ---------------------------------------------------------------------------------------------------


def test_it_is_in_no_list_and_no_state():
    holder = Holder()
    assert {name for name, _ in holder.named_parameters()} == {"own.weight", "own.bias"}
    assert set(holder.state_dict()) == {"own.weight", "own.bias"}
    assert list(holder.teacher.parameters()) == list(holder.teacher.buffers()) == []
    assert not any(p.requires_grad for p in holder.teacher.network.parameters())
    holder.requires_grad_(True)
    assert not any(p.requires_grad for p in holder.teacher.network.parameters())
    other = Holder()
    other.load_state_dict(holder.state_dict())
    assert not torch.equal(other.teacher.network.conv.weight, holder.teacher.network.conv.weight)
    assert "Wobbly" in repr(holder)


def test_it_answers_as_in_evaluation_whatever_is_around_it():
    holder, x = Holder(), torch.rand(2, 3, 8, 8)
    expected = holder.teacher(x)
    holder.train()
    assert torch.equal(holder.teacher(x), expected)
    assert torch.equal(holder.teacher(x, gain=2.0), 2 * expected)
    assert holder.teacher.network.norm.num_batches_tracked == 0


def test_gradients_go_through_it_to_its_input_and_stay_in_none_of_its_weights():
    teacher, x = Frozen(Wobbly), torch.rand(1, 3, 8, 8, requires_grad=True)
    teacher(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.network.parameters())


def test_it_moves_along():
    holder = Holder().to(torch.float64)
    assert holder.teacher(torch.rand(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert {p.dtype for p in holder.half().teacher.network.parameters()} == {torch.float16}
    assert {p.device.type for p in holder.to("meta").teacher.network.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_copies_are_whole_and_their_own(duplicate):
    holder, x = Holder(), torch.rand(1, 3, 8, 8)
    other = duplicate(holder)
    assert torch.equal(other.teacher(x), holder.teacher(x))
    other.double()
    assert holder.teacher(x).dtype == torch.float32
    assert set(other.state_dict()) == {"own.weight", "own.bias"}


def test_it_is_made_of_a_module_or_of_what_makes_one():
    assert isinstance(Frozen(Wobbly).network, Wobbly)
    assert isinstance(Frozen(partial(nn.Conv2d, 3, 4, 3)).network, nn.Conv2d)
    with pytest.raises(ValueError, match="`network` must be a module or make one, not int"):
        Frozen(lambda: 3)


# -- a task that learns from it ------------------------------------------------------------------------------------

DISTILLED = '''
import torch
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection

from tasks.base import Task


class Teacher(nn.Module):
    """Mean colours times weights from a file."""

    def __init__(self, weights=None):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        if weights is not None:
            self.load_state_dict(torch.load(weights, weights_only=True))

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


class Means(nn.Module):
    def __init__(self, specs, num_outputs):
        super().__init__()
        self.linear = nn.Linear(specs[0].channels, num_outputs)

    def forward(self, x, *, size):
        return self.linear(x.mean((2, 3)))


class Distilled(Task):
    monitor = "error"
    num_outputs = 5

    def __init__(self, readable, labels, *, reads, head, teacher):
        super().__init__(readable, labels, reads=reads, head=head)
        self.teacher = teacher

    def target_of(self, batch):
        return self.teacher(batch["image"])

    def criterion(self, preds, target):
        return (preds - target).square().sum(), torch.tensor(float(len(target)))

    def metrics(self):
        return MetricCollection({"error": MeanSquaredError()})
'''


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a codec and a distilled task, with the weights of the teacher in a file of its own."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_distilled.py").write_text(DISTILLED)
    monkeypatch.setattr(tasks_package, "__path__", [*tasks_package.__path__, str(tmp_path / "code")])
    from tasks.toy_distilled import Distilled, Means, Teacher

    torch.manual_seed(0)
    teacher = Teacher()
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    codec = tiny_codec("mean_scale_tiny")
    task = Distilled(codec.readable, {}, reads="y_hat", head=Means, teacher=Frozen(teacher))
    network = {"_target_": "tasks.toy_distilled.Teacher", "weights": str(tmp_path / "teacher.pt")}
    codec_node = {**component("codec", "mean_scale_tiny"), "width": 8, "latent_channels": 12, "num_stages": 3}
    content = {
        "state_dict": {
            f"{part}.{key}": value
            for part, module in (("codec", codec), ("tasks.colours", task))
            for key, value in module.state_dict().items()
        },
        "config": {
            "name": "mine",
            "codec": codec_node,
            "tasks": {
                "colours": {
                    "_target_": "tasks.toy_distilled.Distilled",
                    "_partial_": True,
                    "reads": "y_hat",
                    "head": {"_target_": "tasks.toy_distilled.Means", "_partial_": True},
                    "teacher": {"_target_": "models.frozen.Frozen", "network": network},
                }
            },
        },
        "labels": {},
        "ready": ["colours"],
    }
    path = tmp_path / "mine.ckpt"
    torch.save(content, path)
    return path


def batch() -> dict[str, Any]:
    return {"image": torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))}


def test_a_checkpoint_loads_with_its_teacher(checkpoint: Path):
    model = load(checkpoint)
    task = model.tasks["colours"]
    assert model.config["labels"] == {}
    assert task.left_out == ()
    assert task.has_target(batch())
    assert task.misfit({}) is None
    stored = torch.load(checkpoint.parent / "teacher.pt", weights_only=True)
    assert torch.equal(task.teacher.network.linear.weight, stored["linear.weight"])
    assert not any("teacher" in key for key in task.state_dict())
    # Other targets are another judgement: what was measured before does not count.
    before = weights(task)
    with torch.no_grad():
        task.teacher.network.linear.bias.add_(1)
    assert weights(task) != before


def test_an_export_opens_no_file_of_the_teacher_and_still_predicts(checkpoint: Path, capsys: Any):
    output = load(checkpoint).codec(batch()["image"])
    expected = load(checkpoint).tasks["colours"].predict(output)
    (checkpoint.parent / "teacher.pt").unlink()
    with pytest.raises(ValueError, match=r"mine.ckpt: .*teacher.pt"):
        load(checkpoint)
    out = export.export(
        export.read_options([f"checkpoint={checkpoint}", f"out={checkpoint.parent / 'model'}", "onnx=false"])
    )
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["labels"] == {}
    assert "tasks.toy_distilled.Distilled` on y_hat, 5 outputs, " in (out / "README.md").read_text()
    task = from_pretrained(out).tasks["colours"]
    assert task.teacher is None
    assert task.left_out == ("teacher",)
    assert torch.equal(task.predict(output), expected)
    assert not task.has_target(batch())
    # A stranger's teacher may be anything: it is never looked at.
    config["tasks"]["colours"]["teacher"]["network"] = {"_target_": "os.system", "command": "false"}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert torch.equal(from_pretrained(out).tasks["colours"].predict(output), expected)


def test_evaluation_judges_a_run_and_leaves_out_the_head_of_an_export(checkpoint: Path):
    ways = {"labels": {}, "rates": {}}
    (point,), _, notes = points_of([str(checkpoint)], [], **ways)
    assert [head.name for head in point.heads] == ["colours"]
    assert not notes
    (point,), _, notes = points_of([str(checkpoint)], [], **ways, own_tasks=False)
    assert not point.heads
    assert not notes
    folder = save_pretrained(load(checkpoint), checkpoint.parent / "model")
    (point,), _, notes = points_of([str(folder)], [], **ways)
    assert not point.heads
    reason = "an exported model has no teacher: judge the run it comes from"
    assert notes == [f"mine: its own task 'colours' is left out: {reason}"]
    with pytest.raises(ValueError, match=f"tasks: mine:colours cannot be judged on this data set: {reason}"):
        points_of(["jpeg"], [str(folder)], **ways)


def test_a_label_free_head_joins_another_model(checkpoint: Path):
    one, other = load(checkpoint, tasks=()), load(checkpoint)
    add_head(one, other, "colours")
    assert one.config["labels"] == {}
    folder = save_pretrained(one, checkpoint.parent / "joined")
    described = from_pretrained(folder).tasks["colours"]
    preds = described.predict(one.codec(batch()["image"]))
    json.dumps(described.describe(described.decide(preds, (40, 48))[0]))


def test_a_label_that_should_be_there_is_missed(checkpoint: Path):
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["tasks"]["colours"]["target"] = "class"
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="labels.colours must have `target`, `kind`, `names` and `missing`"):
        load(checkpoint)


@pytest.mark.slow
def test_a_run_with_a_teacher_trains_and_is_judged_again(checkpoint: Path, tmp_path: Path):
    """From the command's config to the loaded run: the same figure as in its summary, and no teacher in its files."""
    node = torch.load(checkpoint, weights_only=True)["config"]["tasks"]["colours"] | {"_convert_": "all"}
    run = train_small(tmp_path / "run", f"+tasks.colours={hydra_text(node)}", "+task_weights.colours=1.0")
    row = next(
        row
        for row in json.loads((run / "summary.json").read_text())["test"]["rows"]
        if row["codec"] == "joint"
    )
    model = load(run)
    task, metrics = model.tasks["colours"], model.tasks["colours"].metrics()
    split = instantiate(compose_config(*SMALL).data).split("test")
    with torch.no_grad():
        for i in range(len(split)):
            image = split.read(i)["image"][None].float() / 255
            output = model.codec.decompress(model.codec.compress(image))
            metrics.update(task.decide(task.predict(output), output.size), task.target_of({"image": image}))
    assert float(metrics.compute()["error"]) == pytest.approx(row["tasks"]["colours/error"], rel=1e-4)
    assert set(model.config["labels"]) == {"identity", "parsing"}
    for path in run.rglob("*.ckpt"):
        assert not [key for key in torch.load(path, weights_only=True)["state_dict"] if "teacher" in key]


def hydra_text(node: Any) -> str:
    """A node as it is written on the command line."""
    if isinstance(node, dict):
        return f"{{{', '.join(f'{key}: {hydra_text(value)}' for key, value in node.items())}}}"
    return f"'{node}'" if isinstance(node, str) else str(node).lower()


def test_a_copy_is_in_evaluation_mode_and_gives_the_same() -> None:
    """Also of networks whose copies begin in training mode, as torch.fx makes them."""
    network = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval())
    frozen = Frozen(network)
    x = torch.rand(2, 3, 8, 8)
    again = copy.deepcopy(frozen)
    assert not any(module.training for module in again.network.modules())
    torch.testing.assert_close(again(x), frozen(x), rtol=0, atol=0)
    assert not any(p.requires_grad for p in again.network.parameters())
