"""Several updates of one stage: against a slow loop written out by hand, and what a stage keeps of them."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from callbacks.training_log import TrainingLog
from datamodules.portraits import Portraits
from lightning_modules.checkpoints import StageCheckpoints
from lightning_modules.compression import CompressionSystem
from lightning_modules.stages import Stage
from lightning_modules.turns import average_gradients, share_buffers
from lightning_modules.updates import Update
from losses.distortion import MSE
from losses.objective import Objective
from losses.rate import Rate
from losses.schedules import Linear
from losses.term import Term
from models.codecs.hyperprior import MeanScaleHyperprior
from models.entropy.noise import sample_keys
from models.outputs import CodecOutput

SEED, NUM_BATCHES = 3, 7


class Fool(Term):
    reads, uses = ("pixels",), ("networks.critic",)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        return -critic(output.x_hat).mean()


class Tell(Term):
    reads, uses = ("pixels",), ("networks.critic",)

    def forward(self, output: CodecOutput, batch: dict, critic: nn.Module) -> Tensor:
        return critic(output.x_hat.detach()).mean() - critic(batch["image"]).mean()


def parts() -> tuple[MeanScaleHyperprior, nn.Module]:
    torch.manual_seed(0)
    return MeanScaleHyperprior(4, 4, num_stages=2), nn.Conv2d(3, 1, 4, stride=4)


def updates(**critic: Any) -> dict[str, Update]:
    codec = Objective(
        rate=Rate(), distortion={"mse": MSE()}, lmbda=0.01, terms={"fool": Fool()}, term_weights={"fool": 0.3}
    )
    return {
        "codec": Update(["codec"], codec, partial(torch.optim.SGD, lr=1e-3), clip=0.5),
        "critic": Update(
            ["networks.critic"],
            Objective(terms={"tell": Tell()}),
            partial(torch.optim.SGD, lr=0.1),
            **{"clip": None, "every": 2, "lr_schedule": Linear(1.0, 0.0), **critic},
        ),
    }


def data(start: int = 0) -> Portraits:
    return Portraits(
        batch_size=2, num_workers=0, size=32, num_train=8, num_val=2, num_test=2, flip=0.0
    ).for_stage(num_batches=NUM_BATCHES, seed=SEED, start=start)


def fit(
    system: CompressionSystem,
    folder: Path,
    *callbacks: Any,
    start: int = 0,
    ckpt_path: Any = None,
    **arguments: Any,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, num_sanity_val_steps=0, use_distributed_sampler=False, inference_mode=False,
        callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **arguments,
    )  # fmt: skip
    system.train()
    trainer.fit(system, datamodule=data(start), ckpt_path=ckpt_path)
    return trainer


def test_turns_are_what_a_loop_by_hand_does(tmp_path: Path) -> None:
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates(), accumulate=2)
    # Validations in the middle of an accumulation change nothing.
    fit(
        CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED),
        tmp_path,
        val_check_interval=1,
    )

    slow_codec, slow_critic = parts()
    quantiles = [p for n, p in slow_codec.named_parameters() if n.endswith(".quantiles")]
    others = [p for n, p in slow_codec.named_parameters() if not n.endswith(".quantiles")]
    pending: dict[str, list[list[Tensor]]] = {"codec": [], "critic": []}
    module, progress = data(), 0.0
    for index, batch in enumerate(module.train_dataloader()):
        x, step = batch["image"].float() / 255, index // 2
        due = index % 2 == 1 or index == NUM_BATCHES - 1
        output = slow_codec(x, keys=sample_keys(SEED, batch["draw"]))
        loss = output.bits["base"].mean() / 32**2 + 0.01 * 255**2 * (output.x_hat - x).square().mean()
        loss = loss - 0.3 * slow_critic(output.x_hat).mean() + slow_codec.auxiliary_loss()
        gradients = torch.autograd.grad(loss / 2, [*others, *quantiles])
        pending["codec"].append(list(gradients))
        if due:
            summed = [sum(parts) for parts in zip(*pending["codec"], strict=True)]
            norm = torch.stack([g.norm() for g in summed[: len(others)]]).norm()
            factor = min(1.0, 0.5 / (norm.item() + 1e-6))
            with torch.no_grad():
                for p, g in zip(others, summed, strict=False):
                    p -= 1e-3 * factor * g
                for p, g in zip(quantiles, summed[len(others) :], strict=True):
                    p -= 1e-3 * g
            pending["codec"].clear()
        if step % 2 == 0:
            # Second in the yaml: it sees the codec's new weights, and noise of its own.
            with torch.no_grad():
                x_hat = slow_codec(x, keys=sample_keys(SEED + (1 << 32), batch["draw"])).x_hat
            loss = slow_critic(x_hat).mean() - slow_critic(x).mean()
            pending["critic"].append(list(torch.autograd.grad(loss / 2, list(slow_critic.parameters()))))
            if due:
                rate = 0.1 * (1 - progress)
                with torch.no_grad():
                    for p, parts_ in zip(
                        slow_critic.parameters(), zip(*pending["critic"], strict=True), strict=True
                    ):
                        p -= rate * sum(parts_)
                pending["critic"].clear()
        # Rates of learning move with the steps, as they do with one update.
        progress = (index + 1) / NUM_BATCHES if due else progress
    for (name, ours), slow in zip(codec.named_parameters(), slow_codec.parameters(), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6, msg=name)
    for ours, slow in zip(critic.parameters(), slow_critic.parameters(), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)
    # Something happened at all.
    assert not torch.equal(critic.weight, parts()[1].weight)


def test_one_update_adds_the_auxiliary_loss_as_several_do(tmp_path: Path) -> None:
    codec, _ = parts()
    objective = Objective(rate=Rate(), distortion={"mse": MSE()}, lmbda=0.01)
    update = Update(["codec"], objective, partial(torch.optim.SGD, lr=1e-3), clip=None, aux_lr=0.01)
    fit(CompressionSystem(codec, {}, Stage(NUM_BATCHES, {"main": update}), seed=SEED), tmp_path)

    slow, _ = parts()
    named = dict(slow.named_parameters())
    rates = {name: 0.01 if name.endswith(".quantiles") else 1e-3 for name in named}
    before = {name: p.detach().clone() for name, p in named.items() if name.endswith(".quantiles")}
    for batch in data().train_dataloader():
        x = batch["image"].float() / 255
        output = slow(x, keys=sample_keys(SEED, batch["draw"]))
        loss = output.bits["base"].mean() / 32**2 + 0.01 * 255**2 * (output.x_hat - x).square().mean()
        gradients = torch.autograd.grad(loss + slow.auxiliary_loss(), list(named.values()))
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                p -= rates[name] * gradient
    for name, ours in codec.named_parameters():
        torch.testing.assert_close(ours, named[name], rtol=1e-4, atol=1e-6, msg=name)
    assert before
    assert not any(torch.equal(named[name], value) for name, value in before.items())


def test_schedules_end_with_the_stage_however_many_batches_a_step_takes(tmp_path: Path) -> None:
    for accumulate in (1, 3):
        codec, _ = parts()
        objective = Objective(rate=Rate(), distortion={"mse": MSE()}, lmbda=0.01)
        update = Update(["codec"], objective, partial(torch.optim.SGD, lr=1.0), lr_schedule=Linear(1.0, 0.0))
        system = CompressionSystem(codec, {}, Stage(NUM_BATCHES, {"main": update}, accumulate=accumulate))
        fit(system, tmp_path, accumulate_grad_batches=accumulate)
        # The last step is taken after the last batch, and the rate behind it is the end of the schedule.
        assert system.optimizers().param_groups[0]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("monitor", "mode", "best"), [("codec/fool", "max", max), ("codec/fool", "min", min), (None, "min", None)]
)
def test_the_best_state_is_what_the_stage_says(
    tmp_path: Path, monitor: str | None, mode: str, best: Any
) -> None:
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates(), num_validations=7, monitor=monitor, monitor_mode=mode)
    system = CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED)
    seen: list[float] = []

    class Watch(TrainingLog):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(float(trainer.callback_metrics["val/codec/fool"]))

    fit(system, tmp_path, Watch(), StageCheckpoints(tmp_path, stage), val_check_interval=1)
    assert len(seen) == NUM_BATCHES
    done = torch.load(tmp_path / "best.ckpt", weights_only=True)["batches_done"]
    assert done == (NUM_BATCHES if best is None else seen.index(best(seen)) + 1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["batches_done"] == NUM_BATCHES


def test_figures_of_an_update_are_means_over_its_own_turns(tmp_path: Path) -> None:
    codec, critic = parts()
    system = CompressionSystem(
        codec, {}, Stage(NUM_BATCHES, updates()), networks={"critic": critic}, seed=SEED
    )
    seen: list[float] = []
    rows: list[dict[str, float]] = []
    losses = system.losses

    def watched(name: str, *rest: Any) -> dict[str, Any]:
        found = losses(name, *rest)
        seen.extend([found["loss"].item()] if name == "critic" else [])
        return found

    system.losses, system.record = watched, rows.append
    fit(system, tmp_path, TrainingLog(every=NUM_BATCHES))
    trained = next(row for row in rows if "train/critic/loss" in row)
    assert len(seen) == 4
    assert trained["train/critic/loss"] == pytest.approx(sum(seen) / 4, rel=1e-5)


def test_scaled_gradients_are_unscaled_once_and_then_clipped(tmp_path: Path) -> None:
    """fp16 on a GPU; here float16's scaler over float32 arithmetic, which a CPU can do."""
    results = []
    for scaled in (False, True):
        codec, critic = parts()
        system = CompressionSystem(
            codec, {}, Stage(NUM_BATCHES, updates()), networks={"critic": critic}, seed=SEED
        )
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        plugin.forward_context = nullcontext
        fit(system, tmp_path, **({"plugins": [plugin]} if scaled else {}))
        results.append([p.detach().clone() for p in (*codec.parameters(), *critic.parameters())])
    for plain, with_scale in zip(*results, strict=True):
        torch.testing.assert_close(plain, with_scale, rtol=1e-5, atol=1e-7)


def in_two_processes(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def reduce(tensor: Tensor, reduce_op: str) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor / 2

    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1), "c": nn.Linear(1, 1), "n": nn.BatchNorm1d(1)}
    )
    # Each rank uses a branch of its own, nobody uses the third.
    net["ab"[rank]](torch.full((4, 1), 1.0 + rank)).sum().backward()
    net["n"](torch.full((4, 1), 10.0 * (rank + 1)))
    average_gradients(trainer, list(net.parameters()))
    share_buffers(trainer, net)
    found = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    torch.save((found, net["n"].running_mean), f"{folder}/{rank}.pt")


def test_ranks_agree_whatever_each_of_them_used(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=in_two_processes, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    (one, mean), (two, same) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if one[name] is not None)
    # Four samples of 1 on the first rank, four of 2 on the second, halved.
    assert (one["a.weight"].item(), one["b.weight"].item()) == (2.0, 4.0)
    assert one["c.weight"] is None
    assert two["c.weight"] is None
    assert torch.equal(mean, same)
    assert mean.item() == pytest.approx(1.0)  # a tenth of rank 0's ten


def test_the_system_s_stop_signal_loses_nothing(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def train(folder: Path, *callbacks: Any, **arguments: Any) -> list[Tensor]:
        codec, critic = parts()
        stage = Stage(NUM_BATCHES, updates(), num_validations=1, checkpoint_every=100)
        system = CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED)
        fit(system, folder, *callbacks, StageCheckpoints(folder, stage), **arguments)
        return [p.detach().clone() for p in (*codec.parameters(), *critic.parameters())]

    whole = train(tmp_path / "whole")
    with pytest.raises(SIGTERMException):
        train(tmp_path / "stopped", Stop())
    last = tmp_path / "stopped" / "last.ckpt"
    assert torch.load(last, weights_only=True)["batches_done"] == 5
    again = train(tmp_path / "stopped", start=5, ckpt_path=last)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_the_best_state_survives_a_kill_after_it_was_found(tmp_path: Path) -> None:
    """``best.ckpt`` has its name before ``last.ckpt``, which says that it was found, is there."""
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates(), num_validations=7, monitor="codec/fool", monitor_mode="max")
    system = CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED)
    order: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        order.append(Path(target).name)
        return replace(self, target)

    with mock.patch.object(Path, "replace", watched):
        fit(system, tmp_path, StageCheckpoints(tmp_path, stage), val_check_interval=1)
    firsts = [order[i - 1] for i, name in enumerate(order) if name == "last.ckpt" and i]
    assert "best.ckpt" in firsts
    assert order[0] == "best.ckpt"
    assert not any(
        a == "last.ckpt" and b == "best.ckpt" and c == "best.ckpt"
        for a, b, c in zip(order, order[1:], order[2:], strict=False)
    )


def test_states_come_at_the_first_step_after_they_are_due(tmp_path: Path) -> None:
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates(), accumulate=3, checkpoint_every=2, num_validations=1)
    system = CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED)
    saved: list[int] = []
    saving = StageCheckpoints(tmp_path, stage)
    saving.on_save_checkpoint = lambda trainer, module, checkpoint: saved.append(module.batches_done)
    fit(system, tmp_path, saving)
    assert saved == [3, 6, 7]


def test_no_number_is_never_the_best(tmp_path: Path) -> None:
    saving = StageCheckpoints(tmp_path, Stage(4, {"codec": updates()["codec"]}))
    found = [
        saving._is_better(SimpleNamespace(callback_metrics={"val/loss": value}))
        for value in (float("nan"), 3.0, float("nan"), 4.0, 3.0, 2.0, float("-inf"))
    ]
    assert found == [False, True, False, False, False, True, False]


def test_an_unknown_monitor_is_told_with_what_there_is(tmp_path: Path) -> None:
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates(), num_validations=7, monitor="fool")
    system = CompressionSystem(codec, {}, stage, networks={"critic": critic}, seed=SEED)
    with pytest.raises(ValueError, match=r"monitor='fool' is not measured.*'codec/fool'"):
        fit(system, tmp_path, StageCheckpoints(tmp_path, stage), val_check_interval=1)


def test_a_checkpoint_of_other_updates_is_refused(tmp_path: Path) -> None:
    codec, critic = parts()
    stage = Stage(NUM_BATCHES, updates())
    fit(
        CompressionSystem(codec, {}, stage, networks={"critic": critic}),
        tmp_path,
        StageCheckpoints(tmp_path, stage),
    )
    codec, critic = parts()
    alone = Stage(NUM_BATCHES, {"codec": updates()["codec"]})
    system = CompressionSystem(codec, {}, alone, networks={"critic": critic})
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match=r"made with the updates \['codec', 'critic'\], and this stage has"):
        trainer.fit(system, datamodule=data(), ckpt_path=tmp_path / "last.ckpt")


def test_updates_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="accumulate=2: updates that share weights"):
        Stage(4, updates(shares=True), accumulate=2)
    with pytest.raises(ValueError, match="every update has `every` above 1"):
        Stage(4, {name: replace(update, every=2) for name, update in updates().items()})
    with pytest.raises(ValueError, match="is alone: every=2"):
        Stage(4, {"critic": updates()["critic"]})
    with pytest.raises(ValueError, match="checkpoint_every=0"):
        Stage(4, updates(), checkpoint_every=0)
