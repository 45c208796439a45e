"""Filters in front of standard codecs: filters, proxies, the bridge between real and imitated, terms, refinement."""

import copy
import io
import itertools
import threading
import warnings

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from losses.filter_strength import FilterStrength
from losses.imitation import BitsImitation, PictureImitation
from losses.log_saving import LogSaving
from models.codecs.hyperprior import MeanScaleHyperprior
from models.codecs.preprocessed import Preprocessed
from models.codecs.proxies import jpeg_bits
from models.codecs.proxies.altered import altered
from models.codecs.proxies.bridge import MODES, bridged
from models.codecs.proxies.jpeg import DifferentiableJPEG, _written_tables
from models.codecs.proxies.learned import LearnedProxy
from models.codecs.proxies.real import Coding
from models.codecs.refined import refined
from models.codecs.standard.pillow import JPEG, WebP
from models.entropy.noise import sample_keys
from models.frozen import Frozen
from models.outputs import CodecOutput
from models.preprocessing.amplitudes import OfCandidates, OfClasses
from models.preprocessing.blocks import scaled
from models.preprocessing.gaussian import Gaussian
from models.preprocessing.informed import InformedFilter, Thresholds
from models.preprocessing.informed_blur import InformedBlur
from models.preprocessing.residual import ResidualFilter
from models.preprocessing.sensitivity import Sensitivity
from models.preprocessing.unet import UNetFilter
from tests.conftest import component, tiny_codec

KEYS = sample_keys(0, torch.arange(2))


class Judge(nn.Module):
    """A classifier of three classes that looks at edges and is not sure."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.edges, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 30 * self.last(self.edges(self.norm(x)).square().mean((2, 3)))


def informed(**arguments) -> InformedFilter:
    torch.manual_seed(0)
    return InformedFilter(asked(), **arguments)


def asked(**arguments) -> Sensitivity:
    torch.manual_seed(0)
    return Sensitivity(Frozen(Judge()), **arguments)


torch.manual_seed(0)  # whatever was imported before
FILTERS = [UNetFilter((4, 6)), ResidualFilter(6, 2)]


def jpeg_behind_a_filter(**arguments) -> Preprocessed:
    torch.manual_seed(0)
    return Preprocessed(ResidualFilter(6, 2), DifferentiableJPEG(JPEG(), (10, 40, 80)), **arguments)


def learned(codec=None) -> LearnedProxy:
    torch.manual_seed(0)
    return LearnedProxy(codec or WebP(), MeanScaleHyperprior(4, 6, num_stages=2), (0, 20, 80))


def batch_of(images: Tensor) -> dict:
    return {
        "image": images,
        "draw": torch.arange(len(images)),
        "id": [f"image {i}" for i in range(len(images))],
    }


# -- filters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", FILTERS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_a_filter_begins_as_none_at_any_size_and_rate(made: nn.Module, size: tuple[int, int]) -> None:
    levels = torch.randint(256, (1, 3, *size), generator=torch.Generator().manual_seed(0))
    for level in (0.0, 0.7, 1.0):
        out = made(levels / 255, level)
        assert torch.equal((255 * out).round().long(), levels)


@pytest.mark.parametrize(
    "made", [*FILTERS, informed(), InformedBlur(asked())], ids=lambda f: type(f).__name__
)
def test_a_filter_learns_from_its_first_step_on(made: nn.Module, images: Tensor) -> None:
    made = copy.deepcopy(made)
    made(images, 0.7).square().sum().backward()
    gradients = [p.grad for p in made.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3


@pytest.mark.parametrize("made", FILTERS, ids=lambda f: type(f).__name__)
def test_a_filter_learns_what_each_rate_wants(made: nn.Module, images: Tensor) -> None:
    made, images = copy.deepcopy(made), images[..., :32, :32]
    adam = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(80):
        # To be brighter at the low rate alone.
        loss = sum(
            (made(images, level) - wish * images).square().mean() for level, wish in ((0.0, 1.2), (1.0, 1.0))
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert (made(images, 0.0) - made(images, 1.0)).mean() > 0.02


def test_what_looks_is_held_still_and_thresholds_follow_it(images: Tensor) -> None:
    made = informed().train()
    looking = made.sensitivity.network.network
    assert not looking.norm.training
    before = looking.norm.running_mean.clone()
    made(images, 0.5).square().sum().backward()
    assert torch.equal(looking.norm.running_mean, before)
    assert all(p.grad is None for p in looking.parameters())
    assert all(p.grad.any() for p in made.parameters())
    # Each picture as it would be alone.
    torch.testing.assert_close(made(images, 0.5)[1:2], made(images[1:2], 0.5))


def test_sensitivity_says_what_small_errors_cost(images: Tensor) -> None:
    x, step = images[:2, :, :16, :24], 1e-4
    found = asked(answers=OfClasses(3))(x)
    # So do random sums of them, on average.
    rough = asked(answers=lambda said: OfClasses(3)(said).repeat(1, 30), probes=64)(x)
    torch.testing.assert_close(rough, found, rtol=0.1, atol=0)
    judge = asked().network.network.double()

    def traces(x: Tensor) -> Tensor:
        """Fisher information of one number at a time, and its mean over blocks."""
        share, costs = judge(x).softmax(1), []
        for error in step * torch.eye(x[0].numel()).double().view(-1, *x.shape[1:]):
            slope = (judge(x + error).log_softmax(1) - judge(x - error).log_softmax(1)) / (2 * step)
            costs.append((share * slope.square()).sum(1))
        return nn.functional.avg_pool2d(torch.stack(costs, 1).view_as(x).sum(1), 8)

    x = x.double()
    blocks = traces(x) + traces(x.flip(-1)).flip(-1)
    expected = torch.zeros(2, 2, 3).double()
    for row, column, i, j in itertools.product(range(2), range(3), range(-2, 3), range(-2, 3)):
        expected[:, row, column] += blocks[:, min(max(row + i, 0), 1), min(max(column + j, 0), 2)]
    expected /= expected.mean((1, 2), keepdim=True)
    torch.testing.assert_close(found, expected.float(), rtol=2e-3, atol=0)
    assert (found - 1).abs().max() > 0.05
    for wrong, message in (
        (lambda: OfClasses(0), "likeliest=0 must be at least 1"),
        (lambda: OfCandidates(0), "tolerance=0 must be above 0"),
        (lambda: OfCandidates(sure=2), r"sure=2 must be within 0\.\.1"),
        (lambda: asked(probes=0), "probes=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(ValueError, match="no network to ask"):
        Sensitivity(None)(images)


def test_a_picture_that_is_coded_at_several_rates_is_asked_about_once() -> None:
    sensitivity = asked().eval()
    calls = []
    sensitivity.network.network.register_forward_hook(lambda *_: calls.append(1))
    x, other = torch.rand(2, 1, 3, 16, 24)
    first = sensitivity(x)
    once = len(calls)
    assert once
    assert sensitivity(x.clone()) is first
    assert len(calls) == once
    assert not torch.equal(sensitivity(other), first)
    assert len(calls) == 2 * once
    assert not torch.equal(sensitivity(x + 1e-3), first)
    assert len(calls) == 3 * once
    torch.testing.assert_close(sensitivity.train()(x), first)
    assert len(calls) == 4 * once


def test_slopes_of_amplitudes_say_how_far_a_detector_s_answer_moves() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 5 * 9).double()

    def detector(x: Tensor) -> dict[str, Tensor]:
        raw = layer(x.flatten(1)).view(len(x), 5, 9)
        corners = 10 + raw[..., 1:3], 30 + raw[..., 3:5]
        return {
            "objectness": raw[..., 0].sigmoid(),
            "boxes": torch.cat(corners, -1),
            "classes": raw[..., 5:].softmax(-1),
        }

    x, error = torch.rand(1, 3, 2, 2).double(), 1e-3 * torch.randn(1, 3, 2, 2).double()
    before, after = detector(x), detector(x + error)
    there, moved = before["objectness"], after["objectness"]
    cost = there * (there / moved).log() + (1 - there) * ((1 - there) / (1 - moved)).log()
    cost = cost + there * (before["classes"] * (before["classes"] / after["classes"]).log()).sum(-1)
    sides = (before["boxes"][..., 2:] - before["boxes"][..., :2]).repeat(1, 1, 2)
    off = (after["boxes"] - before["boxes"]) / sides
    cost = cost + there * 0.5 * (off / 0.1).square().sum(-1)

    amplitudes = OfCandidates(0.1)
    slopes = torch.autograd.functional.jacobian(lambda x: amplitudes(detector(x))[0], x, vectorize=True)
    predicted = 0.5 * 4 * (slopes.double() * error).sum((1, 2, 3, 4)).square().sum()
    assert predicted.item() == pytest.approx(cost.sum().item(), rel=0.02)
    found = detector(x) | {"scores": torch.tensor([[0.9, 0.4, 0.01, 0.9, 0.9]])}
    counted = OfCandidates(0.1, sure=0.4)(found).view(5, -1) / amplitudes(found).view(5, -1)
    torch.testing.assert_close(counted.mean(1), torch.tensor([1, 0.5, 0, 1, 1.0]), atol=1e-3, rtol=0)


def test_what_is_dropped_follows_sensitivity_and_the_rate() -> None:
    thresholds = Thresholds(steps=(8.0, 1.0), amount=(0.2, 0.2), power=1.0)
    coefficients = torch.ones(1, 1, 3, 64) * 30.0
    known = torch.tensor([[[0.0, 0.3, 100.0]]])
    few, most = (thresholds(coefficients, known, level) for level in (0.0, 1.0))
    assert torch.equal(few[..., 0], torch.ones(1, 1, 3)), "blocks keep their means"
    # A step of 8 * 11 at the lowest rate, of 11 at the highest: 0.34 and 2.7 steps.
    assert few[0, 0, :, 1].tolist() == pytest.approx([0, 0, 0.12], abs=0.02)
    assert most[0, 0, :, 1].tolist() == pytest.approx([0, 1, 1], abs=1e-3)
    with pytest.raises(ValueError, match=r"amount=\[0, 1\] must be above 0"):
        informed(amount=(0, 1))


def test_a_blur_leaves_what_tells_enough_and_is_a_gaussian_where_nothing_does(images: Tensor) -> None:
    x = images[..., :29, :19]
    assert torch.equal(InformedBlur(asked(), enough=(1e-6, 1.0))(x, 0.0), x)
    made = InformedBlur(asked(), enough=(1e9, 1e9), sigma=(1.0, 4.0))
    for level, sigma in ((0.0, 1.0), (0.5, 2.0), (1.0, 4.0)):
        expected = gaussian_filter(x.double().numpy(), sigma, radius=8, mode="nearest", axes=(2, 3))
        np.testing.assert_allclose(made(x, level).detach().numpy(), expected, atol=1e-5)
    between = InformedBlur(asked(), enough=(1.0, 1.0))(x, 0.0) - x
    known = asked()(x)
    row, column = divmod(int(known[0].argmax()), known.shape[2])
    assert known[0, row, column] > 1.2
    # Weights run from the middle of one block to that of the next.
    assert not between[0, :, 8 * row + 3 : 8 * row + 5, 8 * column + 3 : 8 * column + 5].any()
    assert between.abs().max() > 1e-3
    expected = gaussian_filter(x.double().numpy(), 0.7, radius=8, mode="nearest", axes=(2, 3))
    np.testing.assert_allclose(Gaussian(0.7)(x, 0.3).detach(), expected, atol=1e-5)
    for wrong, message in (
        ({"sigma": (1, 9)}, "sigma=9 must be above 0 and at most 4"),
        ({"enough": (0, 1)}, r"enough=\[0, 1\] and power=\[0.5, 0.5\] must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            InformedBlur(asked(), **wrong)


def test_blocks_that_tell_nothing_become_flat_and_others_stay(images: Tensor) -> None:
    made, x = informed(), images[..., :29, :19]  # blocks that are cut off
    with torch.no_grad():
        made.thresholds.power.zero_()
        made.thresholds.log_amount.fill_(
            -20.0
        )  # half a step, for all: only what the codec would round to nothing
    fine = informed(steps=(1e-6, 1e-6))(x, 0.0)
    assert torch.equal(fine, x)
    gone = made(x, 0.0) - x
    assert gone.abs().max() > 1e-3
    # Chroma stays, and so do the means of whole blocks.
    torch.testing.assert_close(gone - gone[:, :1], torch.zeros_like(gone), rtol=0, atol=1e-6)
    means = nn.functional.avg_pool2d(gone[..., :24, :16], 8)
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-6)


def test_a_picture_is_filtered_alike_where_files_are_coded(images: Tensor) -> None:
    made = informed().eval()
    x = images[..., :29, :19]
    expected = made(x, 0.3)
    with torch.inference_mode():
        torch.testing.assert_close(made(x.clone(), 0.3), expected)


def test_the_published_filter_has_the_published_size() -> None:
    made = UNetFilter()
    scales = sum(p.numel() for name, p in made.named_parameters() if "scales" in name)
    assert round(sum(p.numel() for p in made.parameters()) - scales, -4) == 9_420_000
    assert round(scales, -3) == 39_000


# -- a differentiable JPEG -------------------------------------------------------------------------------------


def reference_table(quality: int) -> np.ndarray:
    """The standard's luminance table at a quality, first row, by libjpeg's formula."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((np.array([16, 11, 10, 16, 24, 40, 51, 61]) * scale + 50) // 100).clip(1, 255)


@pytest.mark.parametrize("quality", [5, 40, 95])
def test_tables_are_those_that_pillow_writes(quality: int) -> None:
    luma, chroma = _written_tables("4:2:0", quality)
    assert np.array_equal(luma[:8], reference_table(quality))
    assert luma.shape == chroma.shape == (64,)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [10, 40, 95])
def test_the_differentiable_jpeg_is_the_real_one(subsampling: str, quality: int, images: Tensor) -> None:
    proxy = DifferentiableJPEG(JPEG(subsampling=subsampling))
    for x in (images, images[..., :33, :17]):
        answer, real = proxy.imitate(x, quality), Coding(proxy.codec, x, quality).result()
        error = (answer.x_hat - real.x_hat).square().mean()
        assert -10 * error.log10() > 37, f"{-10 * error.log10():.1f} dB"
    # Of noise, which is no photo.
    ratio = proxy.imitate(images, quality).bits["base"] / Coding(proxy.codec, images, quality).result().bits
    assert (ratio - 1).abs().max() < (0.15 if quality < 90 else 0.4)


def test_bits_reward_no_shrinking_of_what_is_zero_anyway() -> None:
    coefficients = (
        torch.tensor([0.0, 0.0, 1.0, -1.0, 3.0]).repeat(13)[:64].reshape(1, 1, 1, 64).requires_grad_()
    )
    chroma = torch.zeros(1, 1, 1, 64)
    jpeg_bits.features(coefficients, chroma, chroma)[0, 2:].sum().backward()
    gradient = coefficients.grad.flatten()
    value = coefficients.detach().flatten()
    ac = torch.arange(64) > 0
    assert not gradient[ac & (value == 0)].any()
    assert (gradient[ac & (value != 0)] * value[ac & (value != 0)] > 0).all()


def test_bits_are_fitted_without_negative_weights() -> None:
    rows = torch.rand(40, 10, generator=torch.Generator().manual_seed(0)) + 0.1
    truth = torch.tensor([5.0, 0, 1, 0, 2, 3, 0, 1, 4, 0])
    torch.testing.assert_close(
        jpeg_bits.fitted(list(rows), (rows @ truth).tolist()), truth, atol=1e-3, rtol=0
    )


def test_the_zigzag_is_the_standard_s() -> None:
    assert jpeg_bits.PLACES.reshape(8, 8)[:3, :4].tolist() == [[0, 1, 5, 6], [2, 4, 7, 13], [3, 8, 12, 17]]
    assert jpeg_bits.PLACES[63] == 63


def test_another_codec_s_proxy_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="imitates JPEG with optimize=true"):
        DifferentiableJPEG(WebP())
    with pytest.raises(ValueError, match="fitted to another codec, or to other settings"):
        learned(WebP(method=4)).load_state_dict(learned(WebP(method=6)).state_dict())
    assert DifferentiableJPEG(JPEG(), [18]).level(18) == 0
    with pytest.raises(ValueError, match="from fewest bits to most"):
        LearnedProxy(WebP(), MeanScaleHyperprior(4, 6, num_stages=2), (20, 0))
    with pytest.raises(ValueError, match="from fewest bits to most"):
        DifferentiableJPEG(JPEG(), (10, 100))


# -- a learned proxy -------------------------------------------------------------------------------------------


def test_a_learned_proxy_learns_pictures_and_bits_of_every_rate(images: Tensor) -> None:
    proxy, batch = learned(), batch_of(images)
    picture, bits = PictureImitation(), BitsImitation()
    adam = torch.optim.Adam(proxy.parameters(), lr=5e-3)

    def losses(rate: float) -> tuple[Tensor, Tensor]:
        output = proxy.answer(batch, rate, KEYS)
        return picture(output, batch), bits(output, batch)

    before = [sum(losses(rate)).detach() for rate in proxy.rates]
    for _ in range(40):
        adam.zero_grad()
        total = sum(0.01 * p + b for p, b in map(losses, proxy.rates)) + proxy.auxiliary_loss()
        total.backward()
        adam.step()
    assert all(p.grad is not None for p in proxy.parameters())
    assert all(sum(losses(rate)) < was / 2 for rate, was in zip(proxy.rates, before, strict=True))
    low, high = (proxy.eval().answer(batch, rate, KEYS).bits["base"] for rate in (0, 80))
    assert (low < high).all()


def test_fitting_compares_with_the_codec_on_altered_pictures_in_training_alone(images: Tensor) -> None:
    proxy = learned()
    images = images.repeat(4, 1, 1, 1)
    keys = sample_keys(0, torch.arange(8))
    trained = proxy.answer(batch_of(images), 20, keys).extras["real"]
    plain = proxy.eval().answer(batch_of(images), 20, keys)
    assert torch.equal(plain.extras["real"], proxy.codec.eval()(images, 20).x_hat)
    changed = (trained != plain.extras["real"]).flatten(1).any(1)
    assert 2 <= changed.sum() <= 7


def test_alterations_follow_the_key_alone(images: Tensor) -> None:
    both = altered(images, KEYS)
    torch.testing.assert_close(both[1:], altered(images[1:], KEYS[1:]))
    assert both.min() >= 0
    assert both.max() <= 1


# -- the bridge ------------------------------------------------------------------------------------------------


def test_the_bridge_has_one_s_value_and_the_other_s_gradient() -> None:
    proxy = torch.tensor([3.0, 5.0, 7.0], requires_grad=True)
    real, coded = torch.tensor([1e7 + 1, 0.1, 9.0]), torch.tensor([True, True, False])
    out = bridged(real, proxy.square(), coded)
    assert torch.equal(out.detach(), torch.tensor([1e7 + 1, 0.1, 49.0]))
    out.sum().backward()
    assert torch.equal(proxy.grad, 2 * proxy.detach())


@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_of_every_mode(mode: str, images: Tensor) -> None:
    codec, images = jpeg_behind_a_filter(), 0.1 + 0.8 * images
    codec.mode = mode
    x = images.clone().requires_grad_()
    output = codec(x, 40, keys=KEYS)
    real = codec.codec.eval()(images, 40)
    imitation = codec.proxy.imitate(images, 40)
    value = imitation if mode == "proxy_only" else real
    assert torch.equal(output.x_hat, value.x_hat)
    assert torch.equal(output.bits["base"], value.bits["base"])
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((output.x_hat * weights).sum(), x, retain_graph=True)
    y = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad((codec.proxy.imitate(y, 40).x_hat * weights).sum(), y)
    torch.testing.assert_close(found, weights if mode == "straight_through" else expected)
    assert output.bits["base"].requires_grad == (mode != "straight_through")
    # In evaluation there is nothing but the real codec.
    assert torch.equal(codec.eval()(images, 40).x_hat, real.x_hat)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='both' must be one of"):
        jpeg_behind_a_filter(mode="both")


class Failing(JPEG):
    """Fails on bright pictures, and tells in which threads it works."""

    def __init__(self):
        super().__init__()
        self.threads: set[str] = set()

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        self.threads.add(threading.current_thread().name)
        if image.mean() > 200:
            raise OSError("too bright")
        return super().encode(image, rate)


def test_a_failure_on_one_image_names_it_and_stops_nothing(images: Tensor) -> None:
    images = torch.stack([images[0], torch.ones_like(images[0])])
    codec = Preprocessed(ResidualFilter(6, 2), DifferentiableJPEG(Failing(), (10, 40, 80)))
    with pytest.warns(UserWarning, match=r"Failing at rate 40 fails on image 1 \(OSError: too bright\)"):
        output = codec.answer(batch_of(images), 40, KEYS)
    alone = jpeg_behind_a_filter().answer(batch_of(images[:1]), 40, KEYS[:1])
    assert torch.equal(output.x_hat[:1], alone.x_hat)
    assert torch.equal(output.x_hat[1:], codec.proxy.imitate(images[1:], 40).x_hat)
    assert all(name.startswith("real-codec") for name in codec.codec.threads)
    with pytest.raises(RuntimeError, match="fails on every picture.*too bright"):
        codec.answer(batch_of(torch.ones_like(images)), 40, KEYS)


# -- files, terms, refinement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")])
def test_files_are_plain_ones(name: str, kind: str, images: Tensor) -> None:
    codec = tiny_codec(f"preprocessed_{name}").eval()
    (bitstream, _) = codec.compress(images, codec.rates[1])
    with Image.open(io.BytesIO(codec.serialise(bitstream))) as opened:
        assert (opened.format, opened.size) == (kind, (90, 70))
        pixels = np.asarray(opened.convert("RGB"))
    decoded = codec.decompress([bitstream]).x_hat[0].permute(1, 2, 0)
    assert np.array_equal((255 * decoded).round().numpy().astype(np.uint8), pixels)


def teaching_task() -> nn.Module:
    torch.manual_seed(0)
    network = {"backbone": "test_efficientnet", "backbone_args": {"num_classes": 7}}
    changes = {"num_classes": 7, "head": {"backbone": "test_efficientnet"}, "teacher": {"network": network}}
    task = instantiate(
        OmegaConf.merge(OmegaConf.to_container(component("task", "distillation_pixels")), changes)
    )(jpeg_behind_a_filter().readable, {})
    # One and the same network, with opinions.
    task.head.net = task.teacher.network.net
    task.head.net.get_classifier().weight.data.mul_(20)
    return task.eval().requires_grad_(False)


def test_strength_and_saving_of_a_filter_that_does_nothing(images: Tensor) -> None:
    codec, task, batch = jpeg_behind_a_filter(), teaching_task(), batch_of((255 * images).round() / 255)
    output = codec.answer(batch, 40, KEYS)
    assert FilterStrength()(output, batch) == 0
    saving = LogSaving("reads", slope=0.8)
    assert saving.uses == ("codec", "tasks.reads")
    assert saving(output, batch, codec, task).abs() < 1e-5
    output.bits = {"base": output.bits["base"] / 2}
    assert float(saving(output, batch, codec, task)) == pytest.approx(-np.log(2), abs=1e-5)
    # By another way: a decode as bad as can be told from the task's own criterion.
    output.x_hat = output.x_hat.flip(-1).roll(20, -2)
    found = saving(output, batch, codec, task)
    plain = codec.codec.eval()(batch["image"], 40)
    output.x_hat = output.x_hat.detach()
    far = [
        float(task.criterion(task.head(x[None], size=(70, 90)), task.target_of({"image": y[None]}))[0])
        for picture in (output.x_hat, plain.x_hat)
        for x, y in zip(picture, batch["image"], strict=True)
    ]
    expected = np.mean(
        [np.log((after + 0.05) / (before + 0.05)) for after, before in zip(far[:2], far[2:], strict=True)]
    )
    assert float(found) == pytest.approx(-np.log(2) + expected / 0.8, abs=1e-3)


def test_a_latent_s_task_cannot_teach(images: Tensor) -> None:
    task = teaching_task()
    task.reads = ("y_hat",)
    with pytest.raises(ValueError, match="pixels alone can teach"):
        task.compared_with(images)
    assert task.difference(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_gains_keep_each_block_s_mean(images: Tensor) -> None:
    gains = torch.full((2, 1, 9, 12), 0.5)
    halved = scaled(images, gains)
    torch.testing.assert_close(halved[..., :64, :88].mean((-1, -2)), images[..., :64, :88].mean((-1, -2)))
    torch.testing.assert_close(halved[0, 0, 8:16, :8].std(), images[0, 0, 8:16, :8].std() / 2)
    torch.testing.assert_close(scaled(images, 2 * gains), images)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_refinement_gains_by_its_own_measure_and_keeps_the_files_plain(name: str, images: Tensor) -> None:
    codec = (
        jpeg_behind_a_filter() if name == "jpeg" else Preprocessed(ResidualFilter(6, 2), learned())
    ).eval()
    codec.requires_grad_(False)
    # A teacher that does not mind anything: bits alone count.
    better = refined(codec, 6, lambda x: lambda x_hat: x_hat.flatten(1).mean(1) * 0)
    rate = codec.rates[1]
    with torch.inference_mode():
        changed = better.compress(images, rate)
        alone = better.compress(images[1:], rate)
    assert changed[1].strings == alone[0].strings
    assert len(better.seconds) == 2
    if name == "jpeg":
        plain = codec.compress(images, rate)
        for less, more in zip(changed, plain, strict=True):
            assert len(better.serialise(less)) < 0.8 * len(codec.serialise(more))
    assert torch.equal(better.decompress(changed).x_hat, codec.decompress(changed).x_hat)
    assert torch.equal(better(images, rate).bits["base"], better.decompress(changed).bits["base"])


def test_what_cannot_be_refined_says_so() -> None:
    with pytest.raises(ValueError, match="JPEG knows no refinement"):
        refined(JPEG(), 3, lambda x: lambda x_hat: x_hat)
    with pytest.raises(ValueError, match="steps=0 of refinement must be at least 1"):
        refined(jpeg_behind_a_filter(), 0, lambda x: lambda x_hat: x_hat)


def test_nothing_warns_in_a_plain_step(images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = jpeg_behind_a_filter().answer(batch_of(images), 10, KEYS)
    assert isinstance(output, CodecOutput)
    assert "failed" not in output.extras
