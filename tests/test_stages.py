"""Frozen means frozen; stages train what they name, from where they are told, and resume at their borders."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.compression import CompressionSystem
from lightning_modules.experiment import Experiment
from lightning_modules.init_from import load_into
from lightning_modules.parts import fingerprint, freeze_all_but, frozen_state, set_modes
from lightning_modules.schedule import run
from lightning_modules.stages import Stage
from lightning_modules.updates import Update
from losses.distortion import MSE
from losses.objective import Objective
from losses.rate import Rate
from models.outputs import CodecOutput
from tasks.base import TaskOutput
from tests.conftest import compose_config, tiny_codec
from train import build, train

TINY = (
    "data.num_train=32",
    "data.num_val=6",
    "data.num_test=5",
    "data.batch_size=4",
    "data.num_workers=0",
    "codec.width=8",
    "codec.latent_channels=8",
    "~baselines.jpeg",
    "callbacks.reconstructions=null",
    "callbacks.latent_statistics=null",
)
NO_TASKS = ("~tasks.identity", "~tasks.parsing", "~task_weights.identity", "~task_weights.parsing")
SHORT = tuple(f"schedule.{stage}.num_batches=4" for stage in ("pretrain", "heads", "joint"))


class Parts(nn.Module):
    """The shape of a system: a codec and tasks with dropout and batch norm."""

    def __init__(self):
        super().__init__()
        self.codec = tiny_codec("mean_scale_tiny")
        head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
        self.tasks = nn.ModuleDict({"a": head, "b": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("part", "prefixes"),
    [
        ("codec.encoder", ("codec.g_a.", "codec.latent_codec.h_a.")),
        ("codec.decoder", ("codec.g_s.",)),
        ("codec", ("codec.",)),
        ("codec.latent_codec.h_s", ("codec.latent_codec.h_s.",)),
        ("tasks.a", ("tasks.a.",)),
        ("tasks", ("tasks.",)),
    ],
)
def test_only_what_is_named_trains(part: str, prefixes: tuple[str, ...]) -> None:
    parts = Parts()
    trainable = freeze_all_but(parts, [part])
    for name, parameter in parts.named_parameters():
        assert parameter.requires_grad == name.startswith(prefixes), name
        assert (parameter in trainable) == name.startswith(prefixes), name


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ValueError, match=r"part 'codec.g_x' is no module; there are .*codec.g_a"):
        freeze_all_but(Parts(), ["codec.g_x"])
    with pytest.raises(ValueError, match="trains nothing"):
        freeze_all_but(Parts(), [])
    with pytest.raises(ValueError, match="no parameters"):
        freeze_all_but(Parts(), ["tasks.a.2"])


def test_frozen_batch_norm_and_dropout_stand_still() -> None:
    parts = Parts()
    freeze_all_but(parts, ["codec.encoder"])
    set_modes(parts.tasks, True)
    set_modes(parts.codec, True)
    before = fingerprint(frozen_state(parts))
    assert any("running_mean" in name for name in before)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(parts.tasks["a"](x), parts.tasks["a"](x))
    assert fingerprint(frozen_state(parts)) == before
    # The codec itself trains: noise in its rate, although its prior is frozen.
    assert parts.codec.training
    assert not parts.codec.g_s.training
    x = torch.rand(1, 3, 64, 64)
    a, b = (parts.codec(x).bits["base"] for _ in range(2))
    assert not torch.equal(a, b)


def test_the_fingerprint_sees_any_move() -> None:
    parts = Parts()
    freeze_all_but(parts, ["codec"])
    before = fingerprint(frozen_state(parts))
    parts.tasks["a"][1].running_var.add_(1e-6)
    after = fingerprint(frozen_state(parts))
    assert [name for name in before if before[name] != after[name]] == ["tasks.a.1.running_var"]


def test_load_into_takes_a_prefix_and_tells_what_does_not_fit(tmp_path: Path) -> None:
    source, target = Parts(), Parts()
    nn.init.constant_(source.tasks["b"].weight, 7.0)
    torch.save({"state_dict": {f"old.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "a.ckpt")
    load_into(target, "tasks.b", f"{tmp_path}/a.ckpt:old.tasks.b")
    assert (target.tasks["b"].weight == 7).all()
    with pytest.raises(ValueError, match="holds no weights under 'tasks.b.'"):
        load_into(target, "tasks.b", f"{tmp_path}/a.ckpt")
    with pytest.raises(ValueError, match="do not fit"):
        load_into(target, "tasks.b", f"{tmp_path}/a.ckpt:old.tasks.a")
    with pytest.raises(ValueError, match="no checkpoint"):
        load_into(target, "tasks.b", f"{tmp_path}/b.ckpt")


@pytest.mark.parametrize(
    ("batches", "asked", "every"), [(1000, 4, 250), (11, 4, 11), (9, 4, 3), (2, 4, 1), (10, 4, 5)]
)
def test_the_last_validation_sees_the_final_weights(batches: int, asked: int, every: int) -> None:
    objective = Objective(rate=Rate(), distortion={"mse": MSE()})
    update = Update(["codec"], objective, torch.optim.Adam)
    stage = Stage(batches, {"main": update}, num_validations=asked)
    assert stage.validate_every == every
    assert batches % stage.validate_every == 0


def test_quantiles_have_their_own_group_and_are_not_clipped() -> None:
    objective = Objective(rate=Rate(), distortion={"mse": MSE()})
    adam, scales = partial(torch.optim.Adam, lr=0.1), {"codec": 0.5, "codec.g_s": 2.0}
    update = Update(["codec"], objective, adam, lr_scales=scales, aux_lr=0.02, clip=1.0)
    codec = tiny_codec("mean_scale_tiny")
    system = CompressionSystem(codec, {}, Stage(10, {"main": update}))
    optimiser = system.configure_optimizers()["optimizer"]
    main, g_s, aux = optimiser.param_groups
    assert [p.shape[-1] for p in aux["params"]] == [3]
    assert [group["initial_lr"] for group in (main, g_s, aux)] == [0.05, 0.2, 0.02]
    assert {id(p) for p in g_s["params"]} == {id(p) for p in codec.g_s.parameters()}
    assert len(main["params"]) + len(g_s["params"]) + 1 == len(list(codec.parameters()))
    for parameter in codec.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    update.clip_gradients(optimiser)
    assert (aux["params"][0].grad == 10).all()
    norm = torch.stack([p.grad.norm() for p in (*main["params"], *g_s["params"])]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-3)


def test_one_optimiser_equals_the_usual_two(images: torch.Tensor) -> None:
    """The rate-distortion loss gives quantiles no gradient, and the auxiliary loss gives it to them alone."""
    codec = tiny_codec("mean_scale_tiny")
    output = codec(images)
    loss = output.bits["base"].mean() / 6300 + (output.x_hat - images).square().mean()
    quantiles = codec.latent_codec.hyper.entropy_bottleneck.quantiles
    loss.backward()
    assert quantiles.grad is None or not quantiles.grad.any()
    codec.zero_grad(set_to_none=True)
    codec.auxiliary_loss().backward()
    assert [n for n, p in codec.named_parameters() if p.grad is not None and p.grad.any()] == [
        "latent_codec.hyper.entropy_bottleneck.quantiles"
    ]


def test_ready_tasks_are_those_that_were_trained() -> None:
    experiment = build(compose_config(*TINY), Path("unused"))
    assert [experiment.ready_tasks(n) for n in range(3)] == [
        set(),
        {"identity", "parsing"},
        {"identity", "parsing"},
    ]
    frozen = build(compose_config(*TINY, "schedule.heads.updates.main.trainable=[tasks.parsing]",
                                  "schedule.heads.updates.main.objective.tasks={parsing: 1.0}",
                                  "schedule.joint.updates.main.trainable=[codec]"), Path("unused"))  # fmt: skip
    # Nobody ever trains `identity`: it came trained, and is judged from the beginning.
    assert [frozen.ready_tasks(n) for n in range(3)] == [
        {"identity"},
        {"identity", "parsing"},
        {"identity", "parsing"},
    ]


def test_partial_labels_on_two_ranks_give_the_gradient_of_one() -> None:
    """Means are over what counts on all ranks, not means of means."""

    class Trainer:
        world_size = 2

        class strategy:
            @staticmethod
            def reduce(counts: torch.Tensor, reduce_op: str) -> torch.Tensor:
                assert reduce_op == "sum"
                return torch.tensor([4.0])  # 1 on this rank, 3 on the other

    system = CompressionSystem(tiny_codec("identity"), {})
    system._trainer = None
    object.__setattr__(system, "_trainer", Trainer())
    output = TaskOutput(torch.tensor(6.0), torch.tensor(1.0), torch.zeros(2))
    # DDP averages gradients of both ranks: (2 * 6 / 4 + 2 * rest / 4) / 2 = (6 + rest) / 4.
    assert system._mean_losses({"t": output})["t"].item() == pytest.approx(3.0)


@pytest.mark.parametrize("schedule", ["encoder_only", "decoder_only"])
def test_fine_tuning_one_side_keeps_the_other(schedule: str, tmp_path: Path) -> None:
    config = compose_config(
        *TINY, *NO_TASKS, "schedule=rate_distortion", "schedule.rate_distortion.num_batches=3"
    )
    before = train(config, tmp_path / "a")
    assert before["stages"][0]["metrics"]["val/bpp"] > 0
    # The codec alone, and nothing beside it.
    assert [(row["codec"], row["tasks"]) for row in before["test"]["rows"]] == [("rate_distortion", {})]
    last = tmp_path / "a" / "stages" / "01-rate_distortion" / "checkpoints" / "last.ckpt"
    config = compose_config(
        *TINY, *NO_TASKS, f"schedule={schedule}", f"schedule.{schedule}.num_batches=3",
        f"+schedule.{schedule}.init_from.codec={last}",
    )  # fmt: skip
    train(config, tmp_path / "b")
    old = torch.load(last, weights_only=True)["state_dict"]
    new = torch.load(
        tmp_path / "b" / "stages" / f"01-{schedule}" / "checkpoints" / "last.ckpt", weights_only=True
    )
    moved = {name for name, value in new["state_dict"].items() if not torch.equal(value, old[name])}
    allowed = {"encoder_only": ("codec.g_a.", "codec.latent_codec.h_a."), "decoder_only": ("codec.g_s.",)}[
        schedule
    ]
    assert moved
    assert all(name.startswith(allowed) for name in moved)


def test_a_run_goes_on_from_its_last_state_not_from_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after batch 4 of 6: the best state, of the validation after batch 3, is one batch older than the last."""
    stage = "schedule.rate_distortion"
    lengths = (f"{stage}.num_batches=6", f"{stage}.num_validations=2", f"+{stage}.checkpoint_every=1")
    config = compose_config(*TINY, *NO_TASKS, "schedule=rate_distortion", *lengths)
    train(config, tmp_path / "whole")
    step = CompressionSystem.training_step

    def die(system: CompressionSystem, batch: dict, batch_idx: int) -> dict:
        if batch_idx == 4:
            raise RuntimeError("the plug is pulled")
        return step(system, batch, batch_idx)

    monkeypatch.setattr(CompressionSystem, "training_step", die)
    with pytest.raises(RuntimeError, match="the plug is pulled"):
        train(config, tmp_path / "killed")
    monkeypatch.undo()
    files = Path("stages", "01-rate_distortion", "checkpoints")
    best, last = (
        torch.load(tmp_path / "killed" / files / name, weights_only=True)["batches_done"]
        for name in ("best.ckpt", "last.ckpt")
    )
    assert (best, last) == (3, 4)
    train(config, tmp_path / "killed")
    whole, again = (
        torch.load(tmp_path / run / files / "last.ckpt", weights_only=True) for run in ("whole", "killed")
    )
    assert whole["state_dict"].keys() == again["state_dict"].keys()
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_settings_hold_for_their_stage_alone(tmp_path: Path) -> None:
    config = compose_config(*TINY, *SHORT, "+schedule.pretrain.settings.quantise=noise")
    experiment = build(config, tmp_path)
    assert isinstance(experiment, Experiment)
    seen: list[str] = []
    original = experiment.codec._forward

    def spy(*args: object) -> CodecOutput:
        seen.append(experiment.codec.quantise)
        return original(*args)

    experiment.codec._forward = spy
    run(experiment, tmp_path)
    assert seen[0] == "noise"
    assert seen[-1] == "ste"
    assert experiment.codec.quantise == "ste"
    with pytest.raises(ValueError, match="stage 'pretrain': settings: this codec has no 'quantize'"):
        build(compose_config(*TINY, "+schedule.pretrain.settings.quantize=noise"), tmp_path / "x")


def test_a_frozen_weight_that_moves_ends_the_run(tmp_path: Path) -> None:
    experiment = build(compose_config(*TINY, *SHORT), tmp_path)

    def disturb(*_: object) -> None:
        next(experiment.codec.g_s.parameters()).data.add_(1e-3)

    experiment.tasks["parsing"].register_forward_hook(disturb)
    with pytest.raises(RuntimeError, match=r"stage 'heads' moved frozen weights: \['codec.g_s"):
        run(experiment, tmp_path)


def test_the_loss_does_not_depend_on_the_scale_of_class_weights() -> None:
    class Trainer:
        world_size = 1

    system = CompressionSystem(tiny_codec("identity"), {})
    object.__setattr__(system, "_trainer", Trainer())
    for scale in (1.0, 0.01):
        output = TaskOutput(torch.tensor(6.0 * scale), torch.tensor(4.0 * scale), torch.zeros(4))
        assert system._mean_losses({"t": output})["t"].item() == pytest.approx(1.5)
    nothing = TaskOutput(torch.tensor(0.0), torch.tensor(0.0), torch.zeros(4))
    assert system._mean_losses({"t": nothing})["t"].item() == 0


def test_a_part_of_a_codec_that_has_coded_takes_new_weights(tmp_path: Path) -> None:
    source, target = Parts(), Parts()
    for parameter in source.codec.parameters():
        parameter.data.mul_(1.3)
    x = torch.rand(1, 3, 32, 32)
    for parts in (source, target):
        parts.codec.eval().compress(x)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.ckpt")
    for part in ("codec.latent_codec", "codec.g_a", "codec.g_s"):
        load_into(target, part, f"{tmp_path}/a.ckpt")
    source.codec.eval(), target.codec.eval()
    assert torch.equal(source.codec(x).bits["base"], target.codec(x).bits["base"])
    files = [parts.codec.serialise(parts.codec.compress(x)[0]) for parts in (source, target)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule=heads"], "the codec is frozen, and nothing trained it before"),
        (["+schedule.pretrain.updates.main.objective.tasks={identity: 0.3}"], "train only in a later stage"),
        (["schedule.pretrain.updates.main.optimiser.lr=-1"], "optimiser: Invalid learning rate"),
        (["lmbda=-1"], "lmbda=-1.* is negative"),
        (["+trainer.max_epochs=3"], "'max_epochs'.* are decided by stages"),
        (["trainer=ddp_cpu", "data.num_val=1"], "split 'val' has 1 image for 2 processes"),
    ],
)
def test_what_would_fail_late_is_found_early(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        build(compose_config(*TINY, *overrides), tmp_path)
