"""How a stage's steps are computed: chosen for the machine, right in any order and precision, and told."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from launch import process
from lightning_modules import compute
from lightning_modules.compute import Compute
from lightning_modules.updates import in_one_order
from models.transforms import fast, gdn
from models.transforms.for_training import convolutions_for_training
from models.transforms.gdn import GDN
from tests.tiny_run import train_small

needs_bf16 = pytest.mark.skipif(
    fast.bf16_instructions() is None, reason="this CPU has no bfloat16 instructions"
)


def poison() -> None:
    """Leave NaN in memory that was freed: who reads what he did not write, shows it."""
    junk = [torch.full((n,), torch.nan) for n in (100, 1000, 5000, 20000, 50000, 200000) for _ in range(6)]
    del junk


def gradients(network: nn.Module, x: Tensor, *, bf16: bool) -> list[Tensor]:
    network.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    poison()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = network(x)
    y.float().square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in network.parameters())]


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


SMALL = [
    *(
        (nn.Conv2d, k, s, size)
        for k, s in itertools.product((3, 5), (1, 2))
        for size in ((1, 1), (2, 1), (2, 6))
    ),
    *(
        (nn.ConvTranspose2d, k, s, size)
        for k, s in itertools.product((3, 5), (1, 2))
        for size in ((1, 1), (1, 4))
    ),
]


@needs_bf16
@pytest.mark.parametrize(("kind", "kernel", "stride", "size"), SMALL)
def test_kernels_larger_than_their_map_have_right_gradients(
    kind: type[nn.Module], kernel: int, stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(kind(64, 64, kernel, stride, kernel // 2))
    x = torch.rand(4, 64, *size)
    expected = gradients(network, x, bf16=False)
    with convolutions_for_training(network):
        found = gradients(network, x, bf16=True)
    assert type(network[0]) is kind
    assert all(close(a, b, 0.02) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_strided_1x1_convolutions_survive_channels_last(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 8, 1, stride=2))
    x = torch.rand(2, channels, *size)
    expected = gradients(network, x, bf16=False)
    with convolutions_for_training(network):
        found = gradients(network, x.contiguous(memory_format=torch.channels_last), bf16=False)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))


class ByHand(nn.Module):
    """GDN as its equation stands, in float64."""

    def __init__(self, layer: GDN):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        beta, gamma = self.layer.beta_reparam(self.layer.beta), self.layer.gamma_reparam(self.layer.gamma)
        norm = beta[:, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x**2)
        return x * norm ** (0.5 if self.layer.inverse else -0.5)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 1, 1)])
def test_gdn_s_gradients_are_those_of_its_equation(
    inverse: bool, order: torch.memory_format, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdn, "PIECE", 6 * 4)  # several pieces, the last one shorter
    torch.manual_seed(0)
    layer = GDN(6, inverse=inverse).double()
    layer.gamma.data += 0.3 * torch.rand(6, 6)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=order)
    expected = gradients(ByHand(layer), x, bf16=False)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        layer.to(dtype)
        found = gradients(layer, x.to(dtype), bf16=False)
        assert all(close(a.double(), b, tolerance) for a, b in zip(found, expected, strict=True))
    layer.float()
    found = gradients(layer, x.float(), bf16=True)
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert all(close(a.double(), b, 0.05) for a, b in zip(found, expected, strict=True))


def test_what_gdn_gives_may_be_written_into() -> None:
    layer = GDN(4)
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    y = layer(x)
    y += x
    y.sum().backward()
    assert x.grad is not None


def test_the_hardware_decides_where_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, chosen in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(compute, "multiplies_in_bf16", lambda device, able=able: able)
        assert Compute().precision(None, "cpu") == chosen
        assert Compute().precision("64-true", "cpu") == "64-true"
    with pytest.warns(UserWarning, match="this CPU has no bfloat16 instructions") as told:
        assert Compute().precision("bf16-mixed", "cpu") == "32-true"
    assert len(told) == 1
    assert "\n" not in str(told[0].message)


def stage_of(run: Path) -> dict:
    return json.loads((run / "stages" / "03-joint" / "stage.json").read_text())


@pytest.mark.slow
def test_each_choice_can_be_turned_off_and_is_told(tmp_path: Path) -> None:
    run = train_small(tmp_path / "chosen")
    plain = train_small(tmp_path / "plain", "trainer.precision=32-true", "compute.channels_last=false")
    able = fast.bf16_instructions() is not None
    for folder, precision, order in (
        (run, "bf16-mixed" if able else "32-true", True),
        (plain, "32-true", False),
    ):
        told = stage_of(folder)["compute"]
        assert (told["precision"], told["channels_last"], told["compile"]) == (precision, order, False)
        assert told["threads"] == torch.get_num_threads()
    states = [
        torch.load(r / "stages" / "03-joint" / "checkpoints" / "last.ckpt")["state_dict"]
        for r in (run, plain)
    ]
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert value.is_contiguous(), key
        assert value.dtype == states[1][key].dtype


def test_freed_memory_is_kept_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.keep_freed_memory() == process.give_freed_memory_back()
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("", ""))
    assert not process.keep_freed_memory()


def test_what_the_environment_says_of_waiting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    process.prepare()
    assert process.os.environ["GOMP_SPINCOUNT"] == process.SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    process.prepare()
    assert process.os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_right_whatever_order_gradients_and_states_have(fused: bool) -> None:
    torch.manual_seed(0)
    start, gradients_ = torch.randn(8, 6, 3, 3), torch.randn(3, 8, 6, 3, 3)

    def trained(order: torch.memory_format, mixed: bool) -> Tensor:
        weight = nn.Parameter(start.clone().contiguous(memory_format=order))
        optimiser = torch.optim.Adam([weight], lr=0.1, fused=fused)
        optimiser.register_step_pre_hook(in_one_order)
        for number, gradient in enumerate(gradients_):
            own = torch.channels_last if mixed and number != 1 else torch.contiguous_format
            weight.grad = gradient.contiguous(memory_format=own)
            optimiser.step()
            if mixed:  # as after a checkpoint of a run in the other order
                state = optimiser.state[weight]
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = state[key].contiguous(memory_format=own)
        return weight.detach()

    expected = trained(torch.contiguous_format, mixed=False)
    for order in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(trained(order, mixed=True), expected, atol=1e-6)
