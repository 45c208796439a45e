"""Several updates of one stage: against a slow loop written out by hand, and what a stage keeps of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from callbacks.training_log import TrainingLog
from datamodules.portraits import Portraits
from lightning_modules.checkpoints import StageCheckpoints
from lightning_modules.compression import CompressionSystem
from lightning_modules.stages import Stage
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


def data() -> Portraits:
    return Portraits(
        batch_size=2, num_workers=0, size=32, num_train=8, num_val=2, num_test=2, flip=0.0
    ).for_stage(num_batches=NUM_BATCHES, seed=SEED)


def fit(system: CompressionSystem, folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, num_sanity_val_steps=0, use_distributed_sampler=False, inference_mode=False,
        callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **arguments,
    )  # fmt: skip
    system.train()
    trainer.fit(system, datamodule=data())
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
    module = data()
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
                rate = 0.1 * (1 - index / NUM_BATCHES)
                with torch.no_grad():
                    for p, parts_ in zip(
                        slow_critic.parameters(), zip(*pending["critic"], strict=True), strict=True
                    ):
                        p -= rate * sum(parts_)
                pending["critic"].clear()
    for (name, ours), slow in zip(codec.named_parameters(), slow_codec.parameters(), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6, msg=name)
    for ours, slow in zip(critic.parameters(), slow_critic.parameters(), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)
    # Something happened at all.
    assert not torch.equal(critic.weight, parts()[1].weight)


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
    with pytest.raises(ValueError, match="is alone: every=2"):
        Stage(4, {"critic": updates()["critic"]})
    with pytest.raises(ValueError, match="checkpoint_every=0"):
        Stage(4, updates(), checkpoint_every=0)
