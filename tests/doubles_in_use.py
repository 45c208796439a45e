"""What tests/test_doubles.py runs in its copy of the project: doubles evaluated, exported, and used on files."""

import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import compose
from PIL import Image

import codec as codec_command
import evaluate
import export
from models.pretrained import load
from models.threads import threads
from tests.conftest import compose_config
from train import build

RUNS = Path("runs/cpu")
CODING = ("double_adversarial", "double_any_rate", "double_filtered", "double_open_tasks", "double_tokens")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two smooth pictures of different size."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, (height, width) in {"a": (40, 56), "b": (33, 32)}.items():
        y, x = np.mgrid[:height, :width]
        levels = np.stack([4 * x, 5 * y, 2 * (x + y)], -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{name}.png")
    return folder


def exported(name: str, folder: Path) -> Path:
    options = export.read_options([f"run={RUNS / name}", f"out={folder / name}", "onnx=false"])
    return export.export(options)


def lines(captured: str) -> list[dict]:
    return [json.loads(line) for line in captured.splitlines() if line.startswith("{")]


def test_in_use_one_report_of_all_that_code(tmp_path: Path) -> None:
    runs = ", ".join(f"{{{name}: {RUNS / name}}}" for name in CODING)
    cfg = compose(
        "evaluate",
        overrides=[
            f"codecs=[{runs}, {{originals: identity}}]", "data=portraits", "data={size: 32, num_test: 4}",
            f"out={tmp_path}", f"cache={tmp_path / 'cache'}", "bootstrap=20", "timed_images=1", "gallery=1",
            "complexity=false",
        ],
    )  # fmt: skip
    results = evaluate.run(cfg, "python evaluate.py ...")
    rows = {name: [row for row in results["rows"] if row["codec"] == name] for name in (*CODING, "originals")}
    assert {name: len(found) for name, found in rows.items()} == {
        "double_adversarial": 1, "double_any_rate": 2, "double_filtered": 2, "double_open_tasks": 1, "double_tokens": 1,
        "originals": 1,
    }  # fmt: skip
    assert [row["rate"] for row in rows["double_any_rate"]] == [4, 16]
    slow, fast = rows["double_any_rate"]
    assert slow["bpp"] < fast["bpp"]
    assert rows["double_filtered"][0]["bpp"] < rows["double_filtered"][1]["bpp"]
    assert list(rows["double_tokens"][0]["bpp_by_layer"]) == ["basic", "middle", "enhanced"]
    tasks = rows["double_open_tasks"][0]["tasks"]
    assert 0 <= tasks["spots/found"] <= 1
    assert tasks["imitation/mse"] > 0
    # The run's own test, on the same four portraits and one more, used the very same teacher.
    assert rows["originals"][0]["uncompressed"]
    assert (tmp_path / "report.html").is_file()


def test_in_use_a_filtered_codec_writes_plain_files(tmp_path: Path, pictures: Path) -> None:
    model = exported("double_filtered", tmp_path)
    out = tmp_path / "files"
    assert codec_command.main(["compress", str(model), str(pictures), "-o", str(out), "--rate", "60"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.jpg"]
    with Image.open(out / "a.jpg") as opened:
        assert (opened.format, opened.size) == ("JPEG", (56, 40))
    assert codec_command.main(["decompress", str(model), str(out), "-o", str(tmp_path / "back")]) == 0
    assert np.array_equal(
        np.asarray(Image.open(out / "a.jpg")), np.asarray(Image.open(tmp_path / "back/a.png"))
    )


def test_in_use_a_continuous_rate_is_searched(tmp_path: Path, pictures: Path) -> None:
    model = exported("double_any_rate", tmp_path)
    codec = load(model).codec
    sizes = []
    for rate in ("4", "7.5", "16"):
        out = tmp_path / rate
        arguments = ["compress", str(model), str(pictures / "a.png"), "-o", str(out), "--rate", rate]
        assert codec_command.main(arguments) == 0
        data = (out / "a.bif").read_bytes()
        assert codec.parse(data).rate == pytest.approx(float(rate))
        sizes.append(len(data))
    assert sizes == sorted(sizes)


def test_in_use_layers_decode_alone_whatever_the_threads(tmp_path: Path, pictures: Path) -> None:
    model = exported("double_tokens", tmp_path)
    out = tmp_path / "files"
    assert codec_command.main(["compress", str(model), str(pictures), "-o", str(out)]) == 0
    codec = load(model).codec
    for file in sorted(out.iterdir()):
        whole = codec.parse(file.read_bytes())
        decodes = []
        for count in (1, 2):
            with threads(count):
                decodes.append(
                    {upto: codec.decompress([whole], upto) for upto in ("basic", "middle", "enhanced")}
                )
        for upto, decoded in decodes[0].items():
            again = decodes[1][upto]
            assert (
                list(decoded.latents)
                == list(again.latents)
                == [*("basic", "middle", "enhanced")][: len(decoded.bits)]
            )
            for name, latent in decoded.latents.items():
                assert torch.equal(latent, again.latents[name])
                assert torch.equal(latent, decodes[0]["enhanced"].latents[name])
        # A file that ends after its first layer is a picture of that layer.
        length = len(file.read_bytes()) - len(whole.strings["middle"]) - len(whole.strings["enhanced"])
        cut = tmp_path / "cut" / file.name
        cut.parent.mkdir(exist_ok=True)
        cut.write_bytes(file.read_bytes()[:length])
        for source, upto in ((cut, []), (file, ["--upto", "basic"])):
            target = tmp_path / f"{file.stem}-{len(upto)}"
            arguments = ["decompress", str(model), str(source), "-o", str(target), *upto]
            assert codec_command.main(arguments) == 0
        a, b = (np.asarray(Image.open(tmp_path / f"{file.stem}-{n}" / f"{file.stem}.png")) for n in (0, 2))
        assert np.array_equal(a, b)


def test_in_use_analyze_tells_what_any_task_says(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported("double_open_tasks", tmp_path)
    out = tmp_path / "files"
    assert codec_command.main(["compress", str(model), str(pictures), "-o", str(out)]) == 0
    capsys.readouterr()
    assert codec_command.main(["analyze", str(model), str(out)]) == 0
    for line in lines(capsys.readouterr().out):
        assert isinstance(line["tasks"]["spots"]["spots"], list)
        assert len(line["tasks"]["imitation"]["prediction"]) == 6
    # The teacher stays behind: predictions need none, judging does.
    task = load(model).tasks["imitation"]
    assert task.teacher is None
    assert "teacher" in task.misfit({})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["experiment=double_generator", "schedule.paint.trains=networks.painter.begin"],
            r"trains=networks.painter.begin cannot be trained by itself.*networks.painter",
        ),
        (
            ["experiment=double_generator", "schedule.paint.trains=networks.nobody"],
            r"'networks.nobody' is no module",
        ),
        (
            ["experiment=double_generator",
             "+schedule.paint.updates.main.objective.rate={_target_: losses.rate.Rate}"],
            r"rate reads \['bits'\], which networks.painter does not give",
        ),
        (
            ["experiment=double_filtered",
             "+schedule.proxy.updates.main.objective.terms={strength: {_target_: losses.strength.Strength}}"],
            r"stage 'proxy'.*term/strength reads \['extras.filtered'\], which codec.proxy does not give",
        ),
        (
            ["experiment=double_adversarial",
             "schedule.adversarial.updates.critic.trainable=[networks.critic, codec.g_s]"],
            r"the updates 'codec' and 'critic' train the same weights.*shares",
        ),
        (
            ["experiment=double_adversarial", "schedule.rate_distortion.updates.main.trainable=[networks.critic]"],
            r"stage 'rate_distortion'.*(frozen|gradient)",
        ),
        (
            ["experiment=double_adversarial", "~schedule.adversarial.updates.critic"],
            r"term/fooling uses networks.critic, which nothing trained before",
        ),
        (
            ["experiment=double_adversarial", "schedule.adversarial.updates.critic.every=0"],
            r"every=0 must be at least 1",
        ),
        (
            ["experiment=double_generator", "+schedule.paint.updates.main.every=2"],
            r"update 'main' is alone: every=2",
        ),
        (
            ["experiment=double_adversarial", "+trainer.accumulate_grad_batches=2"],
            r"accumulate_grad_batches.*decided by stages",
        ),
        (
            ["experiment=double_filtered", "~schedule.proxy"],
            r"stage 'filter': codec.proxy is frozen, and nothing trained it before",
        ),
        (
            ["experiment=double_filtered", "schedule.filter.updates.main.objective.rate=null"],
            r"stage 'filter'.*bits would be free.*free=true",
        ),
        (
            ["experiment=double_filtered",
             "+schedule.filter.updates.main.objective.terms.psnr={_target_: losses.strength.Strength}"],
            r"two values would be logged as 'psnr'",
        ),
        (
            ["experiment=double_generator", "+schedule.paint.monitor=psrn"],
            r"monitor='psrn' is not measured in this stage; there are .*'psnr'",
        ),
        (
            ["experiment=double_generator", "+networks.train=${networks.painter}"],
            r"networks: \['train'\] cannot be names",
        ),
        (["experiment=double_any_rate", "codec=mean_scale_tiny"], r"depends on the rate.*only one rate"),
    ],
)  # fmt: skip
def test_in_use_mistakes_are_told_before_training(overrides: list[str], message: str, tmp_path: Path) -> None:
    with mock.patch.dict(os.environ), pytest.raises(Exception, match=message):
        build(compose_config(*overrides), tmp_path)
