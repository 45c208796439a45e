"""What stands in for published networks in tests: random weights, and small ONNX files written on the spot."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.heads.fastestdet import FastestDetDecode

NUM_CLASSES = 80


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, tuple[int, ...]] | None = None,
    *,
    x: Sequence[int | str] = (1, 3, 64, 64),
) -> Path:
    """A network of these nodes from ``x`` to ``y``, with random weights of these shapes."""
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)
        for name, shape in (weights or {}).items()
    }
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"side{i}" for i in range(len(x))])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def write_detector(path: Path, x: Sequence[int | str] = (1, 3, 64, 64)) -> Path:
    """Pictures to a map of FastestDet's outputs, stride 16."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["maps"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Relu", ["maps"], ["seen"]),
        helper.make_node("Conv", ["seen", "b"], ["objects"]),
        helper.make_node("Sigmoid", ["objects"], ["objectness"]),
        helper.make_node("Conv", ["seen", "c"], ["boxes"]),
        helper.make_node("Conv", ["seen", "d"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["classes"], axis=1),
        helper.make_node("Concat", ["objectness", "boxes", "classes"], ["y"], axis=1),
    ]
    shapes = {"a": (8, 3, 16, 16), "b": (1, 8, 1, 1), "c": (4, 8, 1, 1), "d": (NUM_CLASSES, 8, 1, 1)}
    return write_onnx(path, nodes, shapes, x=x)


@cache
def tiny_detector() -> Path:
    """A file for the whole session; a skip where onnx2torch is not installed."""
    pytest.importorskip("onnx2torch", reason="the extra `pretrained` is not installed: make pretrained")
    return write_detector(Path(tempfile.mkdtemp()) / "detector.onnx")


class Candidates(nn.Module):
    """Pictures to candidates, as FastestDet's decode gives them; for this no package is needed."""

    def __init__(self):
        super().__init__()
        self.maps, self.decode = nn.Conv2d(3, 5 + NUM_CLASSES, 16, stride=16), FastestDetDecode()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raw = self.maps(F.interpolate(x, (64, 64)))
        objects, boxes, classes = raw.split([1, 4, NUM_CLASSES], 1)
        return self.decode(torch.cat((objects.sigmoid(), boxes, classes.softmax(1)), 1), tuple(x.shape[-2:]))


def tiny_candidates(**_: Any) -> Candidates:
    """Whatever file is named, random weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Candidates()


def without_downloads(node: DictConfig, path: str = "") -> dict[str, Any]:
    """{path in a yaml: value} that puts random weights in place of packages, and a tiny detector in that of files."""
    found: dict[str, Any] = {}
    for key in node:
        below = f"{path}.{key}" if path else str(key)
        if key == "file" and OmegaConf.is_missing(node, key):
            found[below] = str(tiny_detector())
        elif OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        elif key == "weights" and str(node[key]).startswith("package:"):
            found[below] = None
        elif isinstance(node[key], DictConfig):
            found |= without_downloads(node[key], below)
    return found
