"""Gradients by part of the objective: right, and training does not notice that they are looked at."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from callbacks.gradients_of_tasks import GradientsOfTasks, compared, gradients
from losses.objective import Objective
from losses.rate import Rate
from models.outputs import CodecOutput
from models.pretrained.checkpoint import safely_loaded
from tests.tiny_run import train_small

ON = ("+callbacks.gradients_of_tasks={_target_: callbacks.gradients_of_tasks.GradientsOfTasks, every: 2}",)
DISTURBED = (
    # A backbone's own batch norm would count a batch that is only looked at, and dropout would draw.
    "tasks.identity.head.norm=own",
    "+tasks.identity.head.backbone_args.drop_rate=0.2",
)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["quickstart", "quickstart_side_by_side"])
def test_training_is_bit_equal_with_and_without(tmp_path: Path, schedule: str) -> None:
    on = train_small(tmp_path / "on", *DISTURBED, f"schedule={schedule}", *ON)
    off = train_small(tmp_path / "off", *DISTURBED, f"schedule={schedule}")
    for a in sorted(on.glob("stages/*/checkpoints/last.ckpt")):
        weights, others = (safely_loaded(p)["state_dict"] for p in (a, off / a.relative_to(on)))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights)
    values = [row for row in rows(on) if any(k.startswith("gradients/") and v for k, v in row.items())]
    assert len(values) == 3  # one in pretrain, none in heads, two in joint
    prefix = "gradients/codec/" if schedule.endswith("side_by_side") else "gradients/"
    assert float(values[-1][f"{prefix}rate/norm"]) > 0
    assert -1 <= float(values[-1][f"{prefix}rate~distortion/mse/cosine"]) <= 1
    if schedule == "quickstart":
        assert float(values[-1]["gradients/task/parsing/norm"]) > 0
    else:
        assert float(values[-1]["gradients/tasks/task/parsing/norm"]) >= 0


def test_norms_and_cosines_by_hand() -> None:
    found = compared(
        {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([-4.0, 3.0]), "c": torch.tensor([-6.0, -8.0])}
        | {"none": torch.zeros(2)}
    )
    norms = {"a/norm": 5.0, "b/norm": 5.0, "c/norm": 10.0, "none/norm": 0.0}
    expected = norms | {"a~b/cosine": 0.0, "a~c/cosine": -1.0, "b~c/cosine": 0.0}
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[key], expected[key], abs_tol=1e-6) for key in found)


def test_each_part_has_its_weight_and_together_they_are_the_loss() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(1))]
    parts = {"rate": (weights[0] ** 2).sum(), "task/a": weights[0].prod() * weights[1][0]}
    objective = Objective(rate=Rate(), tasks={"a": 0.5})
    system = SimpleNamespace(
        answered=lambda *_: (CodecOutput((8, 8)), parts),
        updates={"main": SimpleNamespace(objective=objective)},
        stage=SimpleNamespace(num_batches=10),
    )
    found = gradients(system, "main", {}, 0, weights)
    assert found["rate"].tolist() == [2.0, 4.0, 0.0]
    assert found["task/a"].tolist() == [1.0, 0.5, 1.0]


def test_the_interval_is_checked() -> None:
    with pytest.raises(ValueError, match="every=0 must be at least 1"):
        GradientsOfTasks(every=0)
