"""The export command: what it writes, what it refuses, heads from other runs, CompressAI's own checkpoints, ONNX."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from unittest import mock

import compressai.models  # noqa: F401  fills the registry
import onnx
import onnxruntime
import pytest
import torch
import yaml
from compressai.models import MeanScaleHyperprior as CompressAIMeanScale
from compressai.registry import MODELS
from compressai.zoo import load_state_dict
from huggingface_hub import ModelCard
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import export
from evaluation.results import git_commit
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.outputs import CodecOutput, LatentSpec
from models.pretrained import Pretrained, from_pretrained, load, save_pretrained
from models.pretrained import onnx as onnx_export
from models.pretrained.merge_heads import codecs_differ
from models.pretrained.onnx import export_onnx
from tests.conftest import tiny_codec
from tests.tiny_run import train_small

LAST = Path("stages", "03-joint", "checkpoints", "last.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def other_head(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains one more head on the frozen codec of ``run``; its codec is that of ``run``."""
    return train_small(
        tmp_path_factory.mktemp("other") / "run",
        "schedule=heads",
        f"schedule.heads.init_from={{codec: '{run / LAST}'}}",
        "~tasks.identity",
        "~tasks.parsing",
        "~task_weights.identity",
        "~task_weights.parsing",
        "+tasks.expression={_target_: tasks.classification.Classification, _partial_: true, _convert_: all, "
        "reads: y_hat, target: class, head: {_target_: models.heads.classifier.FeatureClassifier, _partial_: true, "
        "features: {_target_: models.heads.features.TimmFeatures, _partial_: true, backbone: test_efficientnet}}}",
        "+task_weights.expression=1.0",
        "~baselines.jpeg",
        lengths=("schedule.heads.num_batches=2",),
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def command(*arguments: str) -> tuple[int, str, str]:
    """``python export.py ARGUMENTS`` in this process: status, stdout, stderr."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["export.py", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            export.command()
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def files(model: Pretrained, x: Tensor) -> list[bytes]:
    return [model.codec.serialise(b) for b in model.codec.compress(x)]


# -- the command ---------------------------------------------------------------------------------------------------


def test_a_run_becomes_a_folder(run: Path, tmp_path: Path, images: Tensor) -> None:
    out = tmp_path / "models" / "lmbda=0.01"  # as sweeps name their points
    status, stdout, stderr = command(f"run={run}", f"out={out}", "onnx=false", "license=cc-by-4.0")
    assert (status, stdout.strip()) == (0, str(out))
    assert stderr == "(no compressai.pth.tar: CompressAI has no such architecture)\n"  # three stages
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.yaml", "README.md"}
    model = from_pretrained(out)
    assert files(model, images) == files(load(run), images)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["exported"] == {"git_commit": git_commit()}
    assert config["format_version"] == 1
    assert set(config["tasks"]) == {"identity", "parsing"}
    named = [
        line.split(": ")[1] for line in (out / "config.yaml").read_text().splitlines() if "_target_:" in line
    ]
    assert named
    assert all(name.startswith(("models.", "tasks.")) for name in named)
    # Again into the same folder: an earlier export.
    assert command(f"run={run}", f"out={out}", "onnx=false", "dtype=fp16")[0] == 0
    assert (
        files(from_pretrained(out), images)[0][:9] == files(model, images)[0][:9]
    )  # magic, version, model id


def test_the_card_is_one_for_the_hub_and_its_figures_are_the_run_s(run: Path, tmp_path: Path) -> None:
    assert (
        command(f"checkpoint={run / LAST}", f"out={tmp_path / 'm'}", "onnx=false", "license=apache-2.0")[0]
        == 0
    )
    text = (tmp_path / "m" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert "image-compression" in card.data.tags
    summary = json.loads((run / "summary.json").read_text())
    measured = {row["codec"]: row for row in summary["test"]["rows"]}
    rows = [line for line in text.splitlines() if line.startswith(("| quickstart", "| jpeg"))]
    assert len(rows) == 2
    for line, row in zip(rows, (measured["joint"], measured["jpeg"]), strict=True):
        numbers = [
            row["bpp"],
            row["bpp_payload"],
            row["psnr"],
            row["tasks"]["identity/top1"],
            row["tasks"]["parsing/miou"],
        ]
        assert all(f"{value:.4g}" in line for value in numbers)
    assert "pretrain` | " not in text  # other stages' figures are of other weights
    assert "None were measured" not in text
    assert "models.codecs.hyperprior.MeanScaleHyperprior" in text
    assert "datamodules.portraits.Portraits" in text


def test_the_card_s_own_lines_run(run: Path, tmp_path: Path, images: Tensor) -> None:
    assert command(f"run={run}", f"out={tmp_path / 'm'}", "onnx=false")[0] == 0
    text = (tmp_path / "m" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1].replace('"FOLDER"', repr(str(tmp_path / "m")))
    names: dict[str, object] = {"images": images}
    exec(code, names)
    assert names["output"].x_hat.shape == images.shape
    assert names["predictions"].shape == (2, 40)


def test_figures_are_never_invented(run: Path, tmp_path: Path) -> None:
    """The best checkpoint of a stage was never tested: it has none. A results.json brings its own."""
    best = run / "stages" / "03-joint" / "checkpoints" / "best.ckpt"
    assert command(f"checkpoint={best}", f"out={tmp_path / 'a'}", "onnx=false")[0] == 0
    assert "None were measured for these weights" in (tmp_path / "a" / "README.md").read_text()
    row = {
        "codec": "mine",
        "rate": None,
        "bpp": 0.1234,
        "psnr": 31.5,
        "tasks": {"parsing/miou": 0.625},
        "command": "x",
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"dataset": "kodak", "split": "test", "num_images": 24, "rows": [row]}))
    assert command(f"checkpoint={best}", f"out={tmp_path / 'b'}", "onnx=false", f"results={results}")[0] == 0
    assert (
        "| mine |  | kodak test | 0.1234 |  | 31.5 |  | 0.625 |" in (tmp_path / "b" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out={tmp}/x"], "give one of run=RUN_DIR and checkpoint=FILE"),
        (["run={run}", "checkpoint={run}", "out={tmp}/x"], "give one of run=RUN_DIR and checkpoint=FILE"),
        (["run={run}"], "give out=DIR, the model folder to write"),
        (
            ["run={run}", "out={tmp}/x", "onx=false"],
            "'onx=false' is no option; give key=value with one of run, ",
        ),
        (["run={run}", "out={tmp}/x", "onnx"], "'onnx' is no option; give key=value"),
        (["run={run}", "out={tmp}/x", "onnx=perhaps"], "onnx=perhaps must be true or false"),
        (["run={run}", "out={tmp}/x", "foreign=3"], "foreign=3 must be true or false"),
        (["run={run}", "out={tmp}/x", "tasks=[{run}]"], "must be a list of RUN:head"),
        (["run={run}", "out={tmp}/x", "tasks=[", "onnx=false"], "error: "),
        (["run={run}", "out={tmp}/x", "dtype=int8", "onnx=false"], "dtype='int8' must be 'fp32' or 'fp16'"),
        (["run={tmp}/none", "out={tmp}/x"], "run={tmp}/none is no folder"),
        (
            ["checkpoint={tmp}", "out={tmp}/x"],
            "checkpoint={tmp} is no file; for a run folder give run=RUN_DIR",
        ),
        (
            ["run={tmp}/empty", "out={tmp}/x"],
            "neither a run folder (config.yaml, stages/) nor an exported model",
        ),
        (["run={run}", "out={run}"], "holds something that is no earlier export"),
        (["run={run}", "out={tmp}/file/x"], "cannot be written"),
        (
            ["run={run}", "out={tmp}/x", "onnx=false", "results={tmp}/file"],
            "is no results.json of evaluate.py",
        ),
        (
            ["run={run}", "out={tmp}/x", "onnx=false", "tasks=['{run}:nothing']"],
            "has no trained tasks ['nothing']",
        ),
        (
            ["run={run}", "out={tmp}/x", "onnx=false", "tasks=['{run}:parsing']"],
            "there already is a task 'parsing'",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    status, stdout, stderr = command(*(a.format(run=run, tmp=tmp_path) for a in arguments))
    assert status == 2
    assert stdout == ""
    assert stderr.startswith("export.py: error: ")
    assert stderr.count("\n") == 1
    assert message.format(run=run, tmp=tmp_path) in stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_late_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with mock.patch.object(onnx_export, "export_onnx", side_effect=ValueError("g_a.onnx differs")):
        status, _, stderr = command(f"run={run}", f"out={tmp_path / 'x'}")
    assert (status, stderr) == (2, "export.py: error: g_a.onnx differs\n")
    assert not list(tmp_path.iterdir())


def test_help_lists_the_options() -> None:
    status, stdout, _ = command("--help")
    assert status == 0
    assert "dtype: fp32" in stdout


# -- heads from other runs -----------------------------------------------------------------------------------------


def test_a_head_of_another_run_joins_where_the_codec_is_the_same(
    run: Path, other_head: Path, tmp_path: Path, images: Tensor
) -> None:
    out = tmp_path / "m"
    arguments = (
        f"run={run}",
        f"out={out}",
        "onnx=false",
        "foreign=false",
        f"tasks=['{other_head}:expression']",
    )
    assert command(*arguments) == (0, f"{out}\n", "")
    model = from_pretrained(out)
    assert set(model.tasks) == {"identity", "parsing", "expression"}
    output = model.codec.decompress(model.codec.compress(images))
    theirs = load(other_head).tasks["expression"]
    assert torch.equal(model.tasks["expression"].predict(output), theirs.predict(output))
    assert model.tasks["expression"].label.names == theirs.label.names
    assert model.config["training"]["heads"]["expression"]["stages"].keys() == {"heads"}
    row = model.config["results"][-1]
    assert {key.partition("/")[0] for key in row["tasks"]} == {"expression"}


def test_a_head_for_another_codec_is_refused(run: Path, other_head: Path, tmp_path: Path) -> None:
    content = torch.load(other_head / "stages" / "01-heads" / "checkpoints" / "last.ckpt", weights_only=True)
    parts = {
        "codec.g_s.0.bias": "decoder",
        "codec.g_a.0.bias": "encoder",
        "codec.latent_codec.h_s.0.bias": "entropy side",
    }
    for key, part in parts.items():
        state = {**content["state_dict"], key: content["state_dict"][key] + 1e-4}
        torch.save({**content, "state_dict": state}, tmp_path / "x.ckpt")
        status, _, stderr = command(
            f"run={run}", f"out={tmp_path / 'm'}", f"tasks=['{tmp_path / 'x.ckpt'}:expression']"
        )
        assert status == 2
        assert f"trained on another codec than {run / LAST}: {part} differ in 1 weight (" in stderr
    assert not (tmp_path / "m").exists()


def test_where_codecs_differ_is_named() -> None:
    torch.manual_seed(3)
    one = MeanScaleHyperprior(4, 6, num_stages=2)
    assert codecs_differ(one, one) == ""
    assert codecs_differ(one, tiny_codec("jpeg")) == "MeanScaleHyperprior and JPEG"
    assert codecs_differ(one, MeanScaleHyperprior(4, 6, num_stages=2)).startswith(
        "encoder and decoder and entropy side differ"
    )


# -- CompressAI ----------------------------------------------------------------------------------------------------

ARCHITECTURES = {
    "mbt2018-mean": {"N": 8, "M": 12},
    "elic2022-official": {"N": 8, "M": 12, "groups": [4, 8]},
    "bmshj2018-factorized": {"N": 8, "M": 12},
    "cheng2020-anchor": {"N": 8},
}


def settled(module: nn.Module) -> None:
    """Weights as after some training: quantiles that are not where they began, scales that vary."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        if name.endswith("quantiles"):
            parameter.data[:, 0, 1] += torch.rand(len(parameter), generator=generator) - 0.5
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.rand(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_compressai_loads_what_is_written_for_it(name: str, tmp_path: Path, images: Tensor) -> None:
    codec = CompressAICodec(name, ARCHITECTURES[name])
    settled(codec)
    codec.eval()
    files_before = [codec.serialise(b) for b in codec.compress(images)]
    ((file, state),) = codec.foreign_weights().items()
    torch.save(state, tmp_path / file)
    state = load_state_dict(torch.load(tmp_path / file, weights_only=True))
    if name in ("mbt2018-mean", "bmshj2018-factorized", "cheng2020-anchor"):
        theirs = MODELS[name].from_state_dict(state)
    else:
        # CompressAI's own from_state_dict knows the official numbers of groups alone.
        theirs = MODELS[name](**ARCHITECTURES[name])
        theirs.load_state_dict(state)
    theirs.eval()
    with torch.no_grad():
        expected, actual = codec.model(images), theirs(images)
    assert torch.equal(actual["x_hat"], expected["x_hat"])
    for key, likelihood in actual["likelihoods"].items():
        assert torch.equal(likelihood, expected["likelihoods"][key]), key
    theirs.update(force=True)
    if name != "cheng2020-anchor":  # minutes of serial coding
        with torch.no_grad():
            coded = theirs.compress(images[:1])
            decoded = theirs.decompress(coded["strings"], coded["shape"])["x_hat"]
        torch.testing.assert_close(
            decoded,
            actual["x_hat"][:1].clamp(0, 1),
            rtol=0,
            atol=1e-4,
        )
    assert [codec.serialise(b) for b in codec.compress(images)] == files_before


def test_our_own_mean_scale_codec_is_compressai_s_mbt2018_mean(images: Tensor) -> None:
    codec = MeanScaleHyperprior(8, 12)
    settled(codec)
    codec.eval()
    (state,) = codec.foreign_weights().values()
    theirs = CompressAIMeanScale.from_state_dict(state).eval()
    y = codec.g_a(images)
    torch.testing.assert_close(theirs.g_a(images), y)
    actual, ours = theirs(images), codec(images)
    torch.testing.assert_close(actual["x_hat"].clamp(0, 1), ours.x_hat, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual["likelihoods"]["z"], ours.likelihoods["z"], rtol=1e-4, atol=1e-6)
    bits = [
        -sum(p.log2().flatten(1).sum(1) for p in o.values())
        for o in (actual["likelihoods"], ours.likelihoods)
    ]
    # Ours are of scales rounded to the coder's table, theirs of exact ones.
    torch.testing.assert_close(*bits, rtol=2e-3, atol=2)
    assert MeanScaleHyperprior(8, 12, num_stages=3).foreign_weights() == {}


def test_the_folder_holds_compressai_s_checkpoint_where_the_architecture_is_its_own(
    tmp_path: Path, images: Tensor
) -> None:
    codec = MeanScaleHyperprior(8, 12).eval()
    node = {"_target_": "models.codecs.hyperprior.MeanScaleHyperprior", "width": 8, "latent_channels": 12}
    model = Pretrained(codec, {}, {"name": "x", "codec": node, "tasks": {}}, tmp_path)
    save_pretrained(model, tmp_path / "m")
    state = torch.load(tmp_path / "m" / "compressai.pth.tar", weights_only=True)
    theirs = CompressAIMeanScale.from_state_dict(state).eval()
    torch.testing.assert_close(theirs(images)["x_hat"].clamp(0, 1), codec(images).x_hat, rtol=0, atol=1e-5)


def test_a_compressai_checkpoint_can_be_imported(tmp_path: Path, images: Tensor) -> None:
    theirs = MODELS["mbt2018-mean"](N=8, M=12)
    settled(theirs)
    theirs.eval()
    theirs.update()
    plain = theirs.state_dict()
    old = {f"module.{key}": value for key, value in plain.items()}
    for number, content in enumerate((plain, {"state_dict": plain, "epoch": 3}, {"network": old})):
        path = tmp_path / f"{number}.pth.tar"
        torch.save(content, path)
        codec = CompressAICodec("mbt2018-mean", {"N": 8, "M": 12}, weights=path).eval()
        assert torch.equal(codec.model(images)["x_hat"], theirs(images)["x_hat"])
        for key, likelihood in theirs(images)["likelihoods"].items():
            assert torch.equal(codec.model(images)["likelihoods"][key], likelihood)
        output = codec.decompress(codec.compress(images))
        torch.testing.assert_close(output.x_hat, theirs(images)["x_hat"].clamp(0, 1), rtol=0, atol=1e-3)


def test_compressai_checkpoints_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save(MODELS["mbt2018-mean"](N=8, M=12).state_dict(), path)
    cases = {
        r"do not fit: .*of another shape; check `architecture` and `arguments`": (
            "mbt2018-mean",
            {"N": 8, "M": 16},
        ),
        r"do not fit: .*missing; check": ("cheng2020-anchor", {"N": 8}),
        r"do not fit: .*unknown here; check": ("bmshj2018-factorized", {"N": 8, "M": 12}),
    }
    for message, (name, arguments) in cases.items():
        with pytest.raises(ValueError, match=message):
            CompressAICodec(name, arguments, weights=path)
    with pytest.raises(ValueError, match="weights: there is no checkpoint nothing"):
        CompressAICodec("mbt2018-mean", {"N": 8, "M": 12}, weights="nothing")
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is no checkpoint that can be loaded safely"):
        CompressAICodec("mbt2018-mean", {"N": 8, "M": 12}, weights=path)


# -- ONNX ----------------------------------------------------------------------------------------------------------


class OneLayer(Codec):
    """The smallest codec with a transform: y = g_a(x), x_hat = g_s(y)."""

    stride = 8

    def __init__(self):
        super().__init__()
        self.g_a, self.g_s = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
        self.latents = {"y_hat": LatentSpec("map", 4, "base", stride=8)}

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        y = self.g_a(x)
        return CodecOutput(
            tuple(x.shape[-2:]), x_hat=self.g_s(y), bits={"base": y.sum((1, 2, 3))}, latents={"y_hat": y}
        )


class Undecided(nn.Module):
    """What it computes depends on values: no graph can hold that."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


def test_a_file_that_computes_something_else_is_told(tmp_path: Path) -> None:
    codec = OneLayer().eval()
    part = next(onnx_export._transforms(codec))
    onnx_export._write(part, tmp_path / "g_a.onnx")
    onnx_export._strip(tmp_path / "g_a.onnx")
    assert onnx_export._deviation(part, tmp_path / "g_a.onnx") < 1e-6
    part.module.weight.data[0] *= 1.01
    with pytest.raises(
        ValueError, match=r"g_a.onnx differs from PyTorch by .* of the largest value on inputs \(2, 3,"
    ):
        onnx_export._deviation(part, tmp_path / "g_a.onnx")
    part.module = nn.Sequential(part.module, nn.AvgPool2d(2))
    with pytest.raises(ValueError, match=r"g_a.onnx gives \(2, 4, .* where PyTorch gives \(2, 4, "):
        onnx_export._deviation(part, tmp_path / "g_a.onnx")
    # No trace of this machine.
    assert b".py" not in (tmp_path / "g_a.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in (tmp_path / "g_a.onnx").read_bytes()


def test_networks_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    codec = OneLayer().eval()
    codec.g_s = nn.Sequential(codec.g_s, Undecided())
    with pytest.raises(
        ValueError, match=r"g_s cannot be written as ONNX .*leave the files out with onnx=false"
    ) as told:
        export_onnx(codec, {}, tmp_path)
    assert "\n" not in str(told.value)


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with (
        mock.patch.dict(sys.modules, {"onnxscript": None}),
        pytest.raises(
            ImportError, match="ONNX files need onnxscript: pip install onnx onnxscript onnxruntime, or"
        ),
    ):
        export_onnx(OneLayer().eval(), {}, tmp_path)


@pytest.mark.slow
def test_onnx_files_do_what_pytorch_does_at_other_sizes(run: Path, tmp_path: Path) -> None:
    """The whole command, then a check that shares nothing with its own: other sizes, from picture to prediction."""
    out = tmp_path / "m"
    assert command(f"run={run}", f"out={out}", "dtype=fp16")[0] == 0
    names = {"g_a", "g_s", "h_a", "h_s", "task_identity", "task_parsing"}
    assert {path.name for path in (out / "onnx").iterdir()} == {f"{name}.onnx" for name in names}
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["onnx"].keys() == {f"{name}.onnx" for name in names}
    assert all(about["deviation"] <= 1e-4 for about in config["onnx"].values())
    sessions = {name: onnxruntime.InferenceSession(str(out / "onnx" / f"{name}.onnx")) for name in names}
    model = from_pretrained(out)
    for batch, height, width in ((1, 96, 160), (5, 224, 64)):
        x = torch.rand(batch, 3, height, width)
        output = model.codec(x)
        y = model.codec.g_a(x)
        (actual,) = sessions["g_a"].run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), y, rtol=1e-4, atol=1e-5)
        y_hat = output.latents["y_hat"]
        (actual,) = sessions["g_s"].run(None, {"x": y_hat.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual).clamp(0, 1), output.x_hat, rtol=1e-4, atol=1e-5)
        (actual,) = sessions["task_identity"].run(None, {"pixels": output.x_hat.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(actual), model.tasks["identity"].predict(output), rtol=1e-3, atol=1e-4
        )
        for size in ((height, width), (height - 7, width - 13)):
            output.size = size
            feed = {"y_hat": y_hat.numpy(), "size": torch.tensor(size).numpy()}
            (actual,) = sessions["task_parsing"].run(None, feed)
            assert actual.shape == (batch, 17, *size)
            torch.testing.assert_close(
                torch.from_numpy(actual), model.tasks["parsing"].predict(output), rtol=1e-3, atol=1e-4
            )
    # The exported model replaced by one without ONNX leaves no stale files.
    assert command(f"run={run}", f"out={out}", "onnx=false")[0] == 0
    assert not (out / "onnx").exists()
    assert "onnx" not in yaml.safe_load((out / "config.yaml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["compressai_elic", "compressai_mbt2018_mean", "mean_scale", "two_layers", "jpeg"]
)
def test_transforms_of_other_codecs(name: str, tmp_path: Path) -> None:
    codec = tiny_codec(name).eval()
    record = export_onnx(codec, {}, tmp_path)
    expected = (
        {f"{part}.onnx" for part in ("g_a", "g_s", "h_a", "h_s")}
        if "_" in name and name != "two_layers"
        else set()
    )
    assert record.keys() == expected
    for file, about in record.items():
        assert about["inputs"]["x"][0] == about["inputs"]["x"][2] == about["inputs"]["x"][3] == "?"
        onnx.checker.check_model(str(tmp_path / file))


@pytest.mark.slow
def test_same_padding_of_a_free_size_is_written_as_one_operator(tmp_path):
    """Strides and kernels whose padding is even, odd and none, at sides that leave every remainder."""
    layers = (
        {"kernel_size": 5, "stride": 2},
        {"kernel_size": 3, "stride": 2, "bias": False},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 5, "stride": 4, "groups": 3},
    )
    net = nn.Sequential(*(Conv2dSame(3, 3, **layer) for layer in layers)).eval()
    cases = [(torch.rand(1, 3, 96 - cut, 120 + cut),) for cut in range(5)]
    with torch.no_grad():
        expected = [net(*case) for case in cases]
        part = onnx_export.Part("net", net, ("x",), cases)
        onnx_export._write(part, tmp_path / "net.onnx")
        assert onnx_export._deviation(part, tmp_path / "net.onnx") < 1e-6
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for (x,), output in zip(cases, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), output)
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "net.onnx")).graph.node]
    assert kinds == ["Conv"] * len(layers)
