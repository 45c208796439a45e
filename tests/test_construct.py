"""Nodes become objects of the project's own classes, and of nothing else."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from models.codecs.hyperprior import MeanScaleHyperprior
from models.codecs.standard.pillow import JPEG
from models.pretrained.assemble import StoredLabel, without_beginnings
from models.pretrained.construct import check_targets, construct, targets
from tests.conftest import TASKS, TINY, component, names_in, tiny_codec
from tests.published import without_downloads

LABELS = {
    "class": StoredLabel("class", ("a", "b", "c"), -1),
    "mask": StoredLabel("mask", ("a", "b", "c"), 255),
}


def plain(group: str, name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.merge(component(group, name), TINY.get(name, {})), resolve=True)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", names_in("codec"))
def test_every_shipped_codec_is_built_as_hydra_builds_it(name: str) -> None:
    node = plain("codec", name)
    if OmegaConf.missing_keys(shipped := component("codec", name)):
        # A file of its user's: a network is read from one here, too.
        for path, value in without_downloads(shipped).items():
            OmegaConf.update(shipped, path, value)
        node = OmegaConf.to_container(shipped, resolve=True)
    if not all(target.startswith(("models.", "tasks.")) for _, target in targets(node)):
        pytest.fail(f"configs/codec/{name}.yaml names classes that no exported model may")
    ours, theirs = construct(node), instantiate(OmegaConf.create(node))
    assert type(ours) is type(theirs)
    assert shapes(ours) == shapes(theirs)
    assert (ours.layers, ours.rates, ours.stride) == (theirs.layers, theirs.rates, theirs.stride)
    assert ours.latents == theirs.latents


@pytest.mark.parametrize("name", ["classification_pixels", "classification_latents", "segmentation_latents"])
def test_tasks_are_built_as_hydra_builds_them(name: str) -> None:
    assert name in TASKS
    codec, node = tiny_codec("mean_scale"), plain("task", name)
    torch.manual_seed(0)
    ours = construct(node)(codec.readable, LABELS)
    torch.manual_seed(0)
    theirs = instantiate(OmegaConf.create(node))(codec.readable, LABELS)
    assert type(ours) is type(theirs)
    assert shapes(ours) == shapes(theirs)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def test_lists_values_and_partials() -> None:
    node = [{"_target_": "models.codecs.standard.pillow.JPEG"}, 3, {"a": [1, None]}]
    jpeg, three, mapping = construct(node)
    assert isinstance(jpeg, JPEG)
    assert (three, mapping) == (3, {"a": [1, None]})
    make = construct({"_target_": "models.codecs.hyperprior.MeanScaleHyperprior", "_partial_": True}, 4, 6)
    assert make(num_stages=2).latent_stride == 4
    positional = construct(
        {"_target_": "models.codecs.hyperprior.MeanScaleHyperprior", "num_stages": 1}, 4, 6
    )
    assert isinstance(positional, MeanScaleHyperprior)
    builder = construct(
        {
            "_target_": "models.transforms.convolutional.analysis",
            "width": 4,
            "latent_channels": 6,
            "num_stages": 2,
        }
    )
    assert isinstance(builder, nn.Sequential)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "lightning.Trainer",
        "modelsevil.Codec",
        "models",
        "torch.nn.Linear",
        None,
        3,
        ["models.codecs.identity.Identity"],
    ],
)
def test_targets_outside_are_refused(target: Any) -> None:
    with pytest.raises(
        ValueError, match=r"codec: _target_=.* is not allowed: it may only name things in models and"
    ):
        construct({"_target_": target, "command": "true"}, path="codec")


@pytest.mark.parametrize(
    "target",
    [
        "models.heads.backbones.os.system",  # reached through a module that imports it
        "models.heads.backbones.socket.create_connection",
        "models.codecs.base.torch.load",
        "models.heads.classifier.Any",  # imported there, not defined
        "models.codecs.compressai.MODELS",  # a value
        "models.bitstream.pack",  # a function that makes no module
        "models.pretrained.save_pretrained",
        "models.codecs.identity.Nothing",
        "models.codecs.nothing.Identity",
        "models.codecs",
    ],
)
def test_only_classes_that_the_packages_define_can_be_reached(target: str) -> None:
    with pytest.raises(ValueError, match=f"_target_={target} is no class of this version of the code"):
        construct({"_target_": target})


@pytest.mark.parametrize(
    "target", ["models.codecs.base.Codec.__init__", "models._x.Y", "models..x", "models.a b.C"]
)
def test_private_and_malformed_names_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="is not the dotted name of a public class"):
        construct({"_target_": target})


def test_nothing_is_imported_before_every_name_is_allowed(tmp_path: Path) -> None:
    """The forbidden one lies deep inside, after one that is allowed; neither is imported."""
    (tmp_path / "intruder.py").write_text("raise SystemExit('imported')")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from models.pretrained.construct import construct
node = {{"_target_": "models.codecs.identity.Identity", "x": [{{"y": {{"_target_": "intruder.Thing"}}}}]}}
try:
    construct(node)
except ValueError as error:
    print(error)
print("intruder" in sys.modules, "models.codecs.identity" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    message, loaded = result.stdout.splitlines()
    assert message.startswith("x.0.y: _target_='intruder.Thing' is not allowed")
    assert loaded == "False False"


def test_wrong_arguments_are_one_line() -> None:
    node = {"_target_": "models.codecs.hyperprior.MeanScaleHyperprior", "breadth": 4}
    with pytest.raises(
        ValueError, match=r"codec: models.codecs.*MeanScaleHyperprior: .*unexpected.*'breadth'$"
    ):
        construct(node, path="codec")
    with pytest.raises(ValueError, match=r"CompressAICodec: missing a required argument: 'arguments'$"):
        construct({"_target_": "models.codecs.compressai.CompressAICodec", "architecture": "x"})
    with pytest.raises(ValueError, match="unexpected.*'breadth'"):
        construct({**node, "_partial_": True})
    with pytest.raises(ValueError, match="the key '_args_' is not known here"):
        construct({"_target_": "models.codecs.identity.Identity", "_args_": [1]})
    with pytest.raises(ValueError, match="no `_target_` to give arguments to"):
        construct({"a": 1}, 2)


def test_other_packages_can_be_allowed() -> None:
    node = {"_target_": "losses.distortion.MSE"}
    with pytest.raises(ValueError, match="not allowed"):
        construct(node)
    assert type(construct(node, allowed=("losses.",))).__name__ == "MSE"
    check_targets([node], allowed=("losses.",))


def test_where_weights_began_is_forgotten() -> None:
    node = {
        "_target_": "tasks.x.Y",
        "weights": {"a": 1},
        "head": [{"_target_": "models.x.Z", "pretrained": True, "weights": "/home/me/x.pth", "width": 3}],
        "backbone_args": {"pretrained": True, "checkpoint_path": "/home/me/x.pth", "drop_rate": 0.1},
        "plain": {"weights": 1},
    }
    assert without_beginnings(node) == {
        "_target_": "tasks.x.Y",
        "head": [{"_target_": "models.x.Z", "width": 3}],
        "backbone_args": {"drop_rate": 0.1},
        "plain": {"weights": 1},
    }
