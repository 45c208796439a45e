"""Imports obey the layout's directions: arrows point at what may be imported."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "pictures": {"torch", "numpy", "PIL", "pillow_heif", "av", "pictures"},
    "models": {
        "torch",
        "torchvision",
        "timm",
        "compressai",
        "numpy",
        "PIL",
        "av",
        "imageio_ffmpeg",
        "pillow_jxl",
        "yaml",
        "onnxscript",
        "onnxruntime",
        "onnx",
        "onnx2torch",
        "cv2",
        "google",  # protobuf, whose errors onnx raises
        "numba",
        "scipy",
        "huggingface_hub",
        "safetensors",
        "pictures",
        "models",
    },
    "losses": {"torch", "torchmetrics", "pictures", "models", "losses"},
    "tasks": {"torch", "torchmetrics", "numpy", "PIL", "pictures", "models", "losses", "tasks"},
    "datamodules": {"torch", "torchvision", "lightning", "numpy", "PIL", "tqdm", "pictures", "datamodules"},
    "evaluation": {
        "torch",
        "torchmetrics",
        "numpy",
        "matplotlib",
        "PIL",
        "jinja2",
        "markupsafe",
        "plotly",
        "tqdm",
        "yaml",
        "pictures",
        "models",
        "losses",
        "datamodules",
        "tasks",
        "evaluation",
    },
    "files": {
        "torch",
        "tqdm",
        "yaml",
        "pictures",
        "models",
        "tasks",
        "files",
    },
    "lightning_modules": {
        "torch",
        "lightning",
        "pictures",
        "models",
        "tasks",
        "losses",
        "evaluation",
        "lightning_modules",
    },
    "callbacks": {
        "torch",
        "lightning",
        "numpy",
        "matplotlib",
        "PIL",
        "tqdm",
        "wandb",
        "pictures",
        "models",
        "evaluation",
        "callbacks",
    },
}
ENTRIES = {"train.py", "evaluate.py", "export.py", "codec.py"}


def imported(path: Path) -> set[str]:
    """Dotted names of all modules a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    wrong = []
    for path in files(package):
        for name in imported(path):
            top = name.partition(".")[0]
            if top not in ALLOWED[package] and top not in sys.stdlib_module_names:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_only_entry_scripts_import_hydra() -> None:
    scripts = [p for package in ALLOWED for p in files(package)] + list(ROOT.glob("*.py"))
    importers = {
        p.name for p in scripts if any(n.partition(".")[0] in ("hydra", "omegaconf") for n in imported(p))
    }
    assert importers <= ENTRIES


def test_callbacks_know_no_concrete_system() -> None:
    for path in files("callbacks"):
        assert not any(
            name.startswith(("lightning_modules", "tasks", "models.codecs")) for name in imported(path)
        ), path


def test_evaluation_and_models_know_no_trainer() -> None:
    for package in ("models", "losses", "tasks", "evaluation"):
        for path in files(package):
            assert "lightning" not in {n.partition(".")[0] for n in imported(path)}, path
