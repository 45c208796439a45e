"""The whole chain of a filter before a standard codec, tiny, on portraits: trained, evaluated, refined on files."""

from pathlib import Path

import pytest
from hydra import compose
from PIL import Image

import codec as codec_command
import evaluate
from lightning_modules.parts import applied
from models.pretrained import load
from tests.conftest import compose_config
from train import build, train

LENGTHS = {"originals": 3, "proxy": 3, "fitting": 3, "warmup": 2, "filter": 4}
TINY = (
    "data={size: 32, batch_size: 4, num_train: 16, num_val: 2, num_test: 2, num_workers: 0}",
    "callbacks={reconstructions: null, latent_statistics: null}",
    "trainer.precision=32-true",
    "codec.filter.widths=[4,6]",
    "codec.proxy={rates: [0, 35], model: {width: 4, latent_channels: 6, num_stages: 2}}",
    "baselines.webp.rates=[10]",
    *(f"schedule.{name}={{num_batches: {length}, num_validations: 1}}" for name, length in LENGTHS.items()),
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "run"
    train(compose_config("experiment=preprocessing_portraits", *TINY), folder)
    return folder


@pytest.mark.slow
def test_the_chain_trains_and_is_refined(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = compose(
        "evaluate",
        overrides=[
            f"codecs=[{{plain: {run_dir}}}, {{refined: {run_dir}}}, webp]", "data=portraits",
            "data={size: 32, num_test: 2}", "refine={refined: {steps: 2, task: identity}}", f"out={tmp_path / 'out'}",
            "rates={webp: [0, 35]}", "bootstrap=5", "timed_images=0", "gallery=0", "complexity=false",
        ],
    )  # fmt: skip
    rows = evaluate.run(cfg, "python evaluate.py ...")["rows"]
    assert [(row["codec"], row["rate"]) for row in rows] == [
        ("plain", 0), ("plain", 35), ("refined", 0), ("refined", 35), ("webp", 0), ("webp", 35),
    ]  # fmt: skip
    assert rows[1]["bpp"] != rows[3]["bpp"]
    # A filter that has hardly begun: about WebP's own files.
    assert rows[1]["bpp"] == pytest.approx(rows[5]["bpp"], rel=0.2)
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 24), "orange").save(picture)
    arguments = ["compress", str(run_dir), str(picture), "-o", str(tmp_path), "--refine", "2"]
    assert codec_command.main(arguments) == 0
    assert "refined for identity by 2 steps: " in capsys.readouterr().err
    with Image.open(tmp_path / "a.webp") as opened:
        assert (opened.format, opened.size) == ("WEBP", (40, 24))
    assert (
        codec_command.main(["compress", str(run_dir), str(picture), "-o", str(tmp_path), "--teacher", "x"])
        == 2
    )
    assert codec_command.main([*arguments, "--teacher", "nobody"]) == 2
    assert "it has ['identity']" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_are_refused_before_training_and_given_back(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="stage 'filter': mode='both' must be one of"):
        build(
            compose_config("experiment=preprocessing_portraits", *TINY, "schedule.filter.settings.mode=both"),
            tmp_path,
        )
    codec = load(run_dir, tasks=()).codec
    with applied(codec, {"mode": "proxy_only"}):
        assert codec.mode == "proxy_only"
    assert codec.mode == "real_forward"
