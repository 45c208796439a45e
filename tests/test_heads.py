"""Heads: any timm backbone on pixels, or in the middle on a latent; alignment, weights, errors."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

from models.heads.backbones import create_backbone
from models.heads.classifier import FeatureClassifier, TimmClassifier
from models.heads.features import TimmFeatures
from models.heads.norms import batch_norm_to_group_norm, num_groups
from models.heads.segmenter import FeatureSegmenter
from models.outputs import LatentSpec

PIXELS = LatentSpec("map", 3, "base", stride=1)
SWIN = {"strict_img_size": False}

# Small members of families that timm builds in different ways (NHWC: swin, mambaout; nested: efficientnet,
# mobilenetv3; tuples between stages: dpn).
FAST = [("test_resnet", {}), ("test_convnext", {}), ("test_mambaout", {}), ("test_efficientnet", {})]
SLOW = [
    ("resnet18", {}),
    ("resnest14d", {}),
    ("convnextv2_atto", {}),
    ("regnety_002", {}),
    ("edgenext_xx_small", {}),
    ("swin_tiny_patch4_window7_224", SWIN),
    ("mobilenetv3_small_050", {}),
    ("efficientnet_b0", {}),
    ("fastvit_t8", {}),
    ("hgnetv2_b0", {}),
    ("densenet121", {}),
    ("dpn48b", {}),
    ("pvt_v2_b0", {}),
]
FAMILIES = FAST + [pytest.param(*family, marks=pytest.mark.slow) for family in SLOW]


def latent(stride: int, channels: int = 48) -> LatentSpec:
    return LatentSpec("map", channels, "base", stride=stride)


def codes(stride: int, size: tuple[int, int] = (70, 90), channels: int = 48, batch: int = 2) -> torch.Tensor:
    """A latent of an image of ``size``, padded to whole positions."""
    return torch.randn(batch, channels, -(-size[0] // stride), -(-size[1] // stride))


def assert_every_parameter_learns(module: nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


# ------------------------------------------------------------------------------------------ TimmFeatures


@pytest.mark.parametrize(("backbone", "arguments"), FAMILIES)
@pytest.mark.parametrize("stride", [8, 16])
def test_latent_enters_any_family(backbone, arguments, stride):
    features = TimmFeatures(latent(stride), backbone, backbone_args=arguments)
    y = codes(stride)
    maps = features(y)
    assert features.strides == tuple(s for s in (8, 16, 32) if s >= stride)
    padded_h, padded_w = 96, 96  # 70 x 90 up to whole positions of stride 32
    for feature, channels, s in zip(maps, features.channels, features.strides, strict=True):
        assert feature.shape == (2, channels, padded_h // s, padded_w // s)
    assert_every_parameter_learns(features, sum(feature.mean() for feature in maps))


@pytest.mark.parametrize(("backbone", "arguments"), FAMILIES)
def test_pixels_pass_the_whole_network_as_timm_runs_it(backbone, arguments):
    """Same weights, same maps as timm's own features_only network on normalised pictures."""
    torch.manual_seed(0)
    features = TimmFeatures(PIXELS, backbone, backbone_args=arguments).eval()
    torch.manual_seed(0)
    reference = create_backbone(backbone, arguments={"features_only": True, **arguments}).eval()
    if [p.shape for p in reference.parameters()] == [p.shape for p in features.parameters()]:
        # Families that are built twice have drawn other random numbers.
        for p, q in zip(features.parameters(), reference.parameters(), strict=True):
            q.data.copy_(p.data)
    x = torch.rand(1, 3, 96, 64)
    mean = torch.tensor(reference.pretrained_cfg["mean"]).view(3, 1, 1)
    std = torch.tensor(reference.pretrained_cfg["std"]).view(3, 1, 1)
    with torch.no_grad():
        maps, expected = features(x), reference((x - mean) / std)
    nhwc = getattr(reference, "output_fmt", "NCHW") == "NHWC"
    assert len(maps) == len(expected)
    for feature, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(feature, other.permute(0, 3, 1, 2) if nhwc else other)


def test_entering_keeps_the_weights_behind_the_entry():
    """A latent that is the network's own stride-8 map gives the network's own deeper maps."""
    torch.manual_seed(0)
    whole = TimmFeatures(PIXELS, "test_resnet").eval()
    torch.manual_seed(0)
    cut = TimmFeatures(latent(8, whole.channels[2]), "test_resnet").eval()
    cut.adapter = nn.Identity()
    with torch.no_grad():
        maps = whole(torch.rand(1, 3, 64, 96))
        for feature, expected in zip(cut(maps[2]), maps[2:], strict=True):
            torch.testing.assert_close(feature, expected)


def test_entry_stride_finer_than_the_latent_goes_through_pixel_shuffle():
    features = TimmFeatures(latent(64), "test_convnext", entry_stride=8)
    assert features.strides == (8, 16, 32)
    assert [tuple(f.shape[2:]) for f in features(codes(64))] == [(16, 16), (8, 8), (4, 4)]


def test_max_stride_drops_coarser_levels_and_their_weights():
    features = TimmFeatures(latent(8), "test_resnet", max_stride=16)
    assert features.strides == (8, 16)
    assert_every_parameter_learns(features, sum(f.mean() for f in features(codes(8))))
    assert TimmFeatures(PIXELS, "test_resnet", max_stride=8).strides == (2, 4, 8)


def test_transformer_reads_a_latent_as_an_image():
    arguments = {"patch_size": 1, "img_size": 16, "dynamic_img_size": True}
    features = TimmFeatures(latent(16), "test_vit", as_image=True, backbone_args=arguments)
    assert features.strides == (16, 16, 16)
    maps = features(codes(16))
    assert maps[-1].shape == (2, 64, 5, 6)
    assert_every_parameter_learns(features, sum(f.mean() for f in maps))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (LatentSpec("vector", 64, "base"), {}, "reads maps, not a latent of kind 'vector'"),
        (latent(64), {}, r"stride 64 cannot enter .* set `entry_stride` to one of \[2, 4, 8, 16\]"),
        (latent(16), {"entry_stride": 32}, "cannot enter 'test_resnet' at stride 32"),
        (latent(12), {"entry_stride": 8}, r"one of \[2, 4\]"),
        (PIXELS, {"entry_stride": 8}, "not for pixels"),
        (latent(16), {"max_stride": 16}, "leaves nothing of 'test_resnet' behind stride 16"),
        (PIXELS, {"max_stride": 1}, "leaves nothing"),
        (latent(16), {"norm": "batch"}, "`norm` is 'batch'; it can be 'own', 'frozen' or 'group'"),
        (PIXELS, {"norm": "group", "pretrained": True}, "`norm: group` drops"),
        (PIXELS, {"backbone": "resnet19"}, "timm has no network 'resnet19'; close names:.*resnet18"),
        (latent(16), {"backbone": "test_vit"}, "in one piece.*`as_image: true`"),
        (PIXELS, {"backbone": "test_vit", "max_stride": 16}, "in one piece"),
    ],
)
def test_what_cannot_be_built_says_what_to_do(spec, options, message):
    with pytest.raises(ValueError, match=message):
        TimmFeatures(spec, **{"backbone": "test_resnet", **options})


@pytest.mark.slow
def test_family_that_does_not_keep_exact_strides_is_refused():
    with pytest.raises(ValueError, match="'inception_v3' entered at stride 8 gives maps"):
        TimmFeatures(latent(8), "inception_v3")
    with pytest.raises(ValueError, match=r"does not run when entered at stride 8 .*strict_img_size"):
        TimmFeatures(latent(8), "swin_tiny_patch4_window7_224")


# ---------------------------------------------------------------------------------------------- weights


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    donor = timm.create_model("test_resnet", num_classes=1000)
    file = tmp_path / "donor.pth"
    torch.save(donor.state_dict(), file)
    x = torch.rand(2, 3, 64, 64)

    features = TimmFeatures(PIXELS, "test_resnet", weights=file).eval()
    donor.eval()
    mean, std = features.input.mean, features.input.std
    torch.testing.assert_close(features(x)[-1], donor.forward_features((x - mean) / std))

    classifier = TimmClassifier([PIXELS], 7, backbone="test_resnet", weights=str(file))
    torch.testing.assert_close(classifier.net.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)

    cut = TimmFeatures(latent(8), "test_resnet", weights=file)
    torch.testing.assert_close(cut.stages[0][0][0].conv1.weight, donor.layer3[0].conv1.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(timm.create_model("test_convnext").state_dict(), file)
    with pytest.raises(ValueError, match="does not hold the weights of 'test_resnet': 0 of its"):
        # timm loads features non-strictly and would take a wrong file without a word.
        TimmFeatures(PIXELS, "test_resnet", weights=file)
    with pytest.raises(ValueError, match="does not hold the weights of 'test_efficientnet'"):
        TimmClassifier([PIXELS], 1000, backbone="test_efficientnet", weights=file)
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pth"):
        TimmClassifier([PIXELS], 3, backbone="test_resnet", weights="nowhere.pth")


def test_pretrained_without_network_fails_fast(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.create_connection", _no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="pretrained weights of 'resnet18' are neither in the local cache"):
        TimmClassifier([PIXELS], 3, backbone="resnet18", pretrained=True)


def _no_network(*args, **kwargs):
    raise OSError("no network")


# ------------------------------------------------------------------------------------------------ norms


@pytest.mark.parametrize("channels", [1, 3, 16, 24, 32, 40, 88, 96, 320, 512, 1000])
def test_num_groups(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 8


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_group_norm_makes_results_independent_of_the_batch(backbone):
    features = TimmFeatures(latent(8), backbone, norm="group")  # in training mode
    assert not any(isinstance(m, nn.BatchNorm2d) for m in features.modules())
    y = codes(8, batch=4)
    torch.testing.assert_close(features(y)[-1][:1], features(y[:1])[-1], atol=1e-5, rtol=1e-4)


def test_frozen_batch_norm_stays_as_it_came(tmp_path):
    net = timm.create_model("test_efficientnet")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.weight.data.uniform_(0.5, 2)
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    own, frozen = (
        TimmFeatures(PIXELS, "test_efficientnet", weights=path, norm=norm) for norm in ("own", "frozen")
    )
    x = torch.rand(2, 3, 64, 64)
    # In training mode, too.
    for a, b in zip(own.eval()(x), frozen.train()(x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    shapes = lambda features: [p.shape for p in features.parameters() if p.dim() > 1]  # noqa: E731
    assert shapes(own) == shapes(frozen)
    assert not any("bn" in name for name, _ in frozen.named_parameters())


def test_group_norm_takes_over_scale_and_activation():
    net = timm.create_model("test_efficientnet")
    old = net.bn1
    old.weight.data.fill_(3.0)
    batch_norm_to_group_norm(net)
    x = torch.randn(2, old.num_features, 5, 5)
    groups = num_groups(old.num_features)
    expected = old.act(nn.functional.group_norm(x, groups, torch.full((old.num_features,), 3.0), old.bias))
    torch.testing.assert_close(net.bn1(x), expected)


# ------------------------------------------------------------------------------------------ classifiers


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timm_classifier_normalises_inside(backbone):
    """[0, 1] into the head equals normalised pictures into timm's model."""
    head = TimmClassifier([PIXELS], 5, backbone=backbone).eval()
    model = timm.create_model(backbone, num_classes=5).eval()
    model.load_state_dict(head.net.state_dict())
    cfg = model.pretrained_cfg
    x = torch.rand(2, 3, *cfg["input_size"][1:])
    mean, std = torch.tensor(cfg["mean"]).view(3, 1, 1), torch.tensor(cfg["std"]).view(3, 1, 1)
    torch.testing.assert_close(head(x, size=x.shape[-2:]), model((x - mean) / std))
    assert "normalise.mean" in head.state_dict()


def test_picture_size():
    x = torch.rand(2, 3, 70, 90)
    fixed = TimmClassifier([PIXELS], 5, backbone="test_vit")
    assert fixed.input_size == (160, 160)  # takes one size only
    assert fixed(x, size=(70, 90)).shape == (2, 5)
    free = TimmClassifier([PIXELS], 5, backbone="test_vit", backbone_args={"dynamic_img_size": True})
    assert free.input_size is None
    assert free(x[..., :64, :80], size=(64, 80)).shape == (2, 5)
    assert TimmClassifier([PIXELS], 5, backbone="test_resnet").input_size is None
    small = TimmClassifier([PIXELS], 5, backbone="test_resnet", input_size=48)
    seen = []
    small.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    small(x, size=(70, 90))
    assert seen == [(2, 3, 48, 48)]


def test_feature_classifier_pools_the_picture_and_not_its_padding():
    head = FeatureClassifier([latent(16)], 5, features=partial(TimmFeatures, backbone="test_convnext")).eval()
    seen = {}

    def features(y):
        seen["map"] = torch.randn(2, head.features.channels[-1], 4, 4)
        return [seen["map"]]

    head.features.forward = features
    logits = head(codes(16, (128, 128)), size=(70, 33))  # 3 x 2 of the 4 x 4 positions of stride 32
    torch.testing.assert_close(logits, head.linear(seen["map"][..., :3, :2].mean((2, 3))))


def test_heads_refuse_what_they_cannot_read():
    features = partial(TimmFeatures, backbone="test_convnext")
    with pytest.raises(ValueError, match=r"TimmClassifier reads pixels.*FeatureClassifier"):
        TimmClassifier([latent(16)], 5, backbone="test_resnet")
    with pytest.raises(ValueError, match="reads one map, not 2"):
        FeatureClassifier([latent(16), latent(16)], 5, features=features)
    with pytest.raises(ValueError, match="reads one map, not 2"):
        FeatureSegmenter([PIXELS, latent(16)], 5, features=features)
    with pytest.raises(ValueError, match="`output_stride`=3"):
        FeatureSegmenter([latent(16)], 5, features=features, output_stride=3)


# -------------------------------------------------------------------------------------------- segmenter


@pytest.mark.parametrize("stride", [1, 8, 16])
@pytest.mark.parametrize("output_stride", [1, 4, 16, 64])
def test_segmenter_output_is_the_image_size(stride, output_stride):
    spec = PIXELS if stride == 1 else latent(stride)
    head = FeatureSegmenter(
        [spec],
        6,
        features=partial(TimmFeatures, backbone="test_convnext"),
        width=16,
        output_stride=output_stride,
    )
    logits = head(codes(stride, channels=spec.channels), size=(70, 90))
    assert logits.shape == (2, 6, 70, 90)
    assert_every_parameter_learns(head, logits.square().mean())


class NoFeatures(nn.Module):
    """Stands for a backbone: hands its input on, as the map of the latent's own stride."""

    def __init__(self, spec: LatentSpec):
        super().__init__()
        self.strides, self.channels = (spec.stride,), (spec.channels,)

    def forward(self, y):
        return [y]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (4, 2)])
def test_segmenter_is_aligned_with_the_top_left_corner(row, column):
    """What lies at latent position (row, column) is decided at the pixels that this position covers."""
    head = FeatureSegmenter([latent(16, 1)], 1, features=NoFeatures, width=8, output_stride=16)
    head.lateral[0] = head.merge = head.classifier = nn.Identity()
    y = torch.zeros(1, 1, 5, 6)
    y[0, 0, row, column] = 1.0
    logits = head(y, size=(70, 90))[0, 0]
    assert logits.shape == (70, 90)
    peak = (logits >= logits.max() - 1e-6).nonzero().float()
    # Position i covers pixels 16 i ... 16 i + 15.
    assert (peak // 16).long().unique(dim=0).tolist() == [[row, column]]


def test_segmenter_crops_at_the_right_and_the_bottom():
    """A smaller ``size`` gives the top-left part of the same logits: padding never moves the picture."""
    head = FeatureSegmenter([latent(16)], 3, features=partial(TimmFeatures, backbone="test_convnext")).eval()
    y = codes(16, (96, 96))
    torch.testing.assert_close(head(y, size=(70, 90)), head(y, size=(96, 96))[..., :70, :90])


def test_shifting_the_latent_shifts_the_logits():
    """By whole positions of the coarsest map, away from the borders (layer norm only: nothing global)."""
    torch.manual_seed(0)
    features = partial(TimmFeatures, backbone="test_convnext", max_stride=16)
    head = FeatureSegmenter([latent(8)], 3, features=features, output_stride=8, width=16).eval()
    head.merge[1] = nn.Identity()  # group norm reads the whole map
    head.features.adapter[1] = nn.Identity()
    y = torch.zeros(1, 48, 24, 24)
    y[..., 6:14, 6:14] = torch.randn(1, 48, 8, 8)
    size = (192, 192)
    still, moved = head(y, size=size), head(torch.roll(y, (4, 2), (-2, -1)), size=size)
    # 4 and 2 positions of 8 pixels; what is compared stays clear of the borders.
    torch.testing.assert_close(
        moved[..., 32 + 40 : 32 + 120, 16 + 40 : 16 + 120], still[..., 40:120, 40:120], atol=1e-5, rtol=1e-4
    )
    assert (moved - still).abs().max() > 0.01
