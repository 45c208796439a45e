"""OnnxNetwork: any network in an ONNX file as a differentiable module on pictures in [0, 1].

    (B, 3, H, W) RGB in [0, 1] -> input size -> channel order -> input range -> mean, std -> network -> decode

Operators become torch modules by onnx2torch, of the extra ``pretrained``.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from torch import Tensor, fx, nn

from models.git_lfs import refuse_pointer
from models.heads.norms import NormalisePixels

PROBE_SIDE = 64
"""Of the picture that a network of free size is tried with."""

SHAPES = {"Shape", "Size"}
"""Operators that never pass a gradient, and need not."""


class OnnxNetwork(nn.Module):
    """A network out of a file, with what lies between the project's pictures and its own input and output.

    To be wrapped in ``models.frozen.Frozen``: a model cannot be made again without the file.

    Args:
        file: ONNX file with one input, pictures (B, 3, H, W).
        input_range: what black and white are to the network: ``[0, 255]`` of 8-bit pictures.
        mean: subtracted from each channel, in the network's order and range.
        std: divides each channel, likewise.
        channels: its channel order; ``"BGR"`` as OpenCV reads pictures.
        input_size: (H, W) that pictures are resized to (bilinear). Default: what the file declares, or where it leaves
            that open the picture's own.
        antialias: average what a smaller size cannot hold, or skip it, as OpenCV does.
        decode: called as ``decode(raw, size)`` with the raw output (a list of several) and (H, W) of the picture;
            default: the raw output.
        num_outputs: what tasks expect of it: number of classes; default: what they ask for.
        differentiable: refuse a network through which no gradient reaches the picture; ``false`` for a judge alone.

    Raises:
        ImportError: onnx2torch is not installed.
        FileNotFoundError: there is no file.
        ValueError: no ONNX file of such a network; an operator that cannot be converted or differentiated; an argument
            that is out of its range.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        input_range: Sequence[float] = (0.0, 1.0),
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        channels: Literal["RGB", "BGR"] = "RGB",
        input_size: Sequence[int] | None = None,
        antialias: bool = True,
        decode: Callable[[Any, tuple[int, int]], Any] | None = None,
        num_outputs: int | None = None,
        differentiable: bool = True,
    ):
        super().__init__()
        if channels not in ("RGB", "BGR"):
            raise ValueError(f"channels={channels!r} must be 'RGB' or 'BGR'")
        if len(input_range) != 2 or input_range[0] == input_range[1]:
            raise ValueError(f"input_range={list(input_range)} must be two numbers: what black and white are")
        self.file, self.channels, self.antialias, self.decode = Path(file), channels, antialias, decode
        self.net, self.operators, (batch, _, height, width) = _converted(self.file)
        if batch > 1:
            raise ValueError(f"{file} takes {batch} pictures at once, must take one or any number")
        fixed = (height, width) if height and width else None
        self.input_size = fixed if input_size is None else (int(input_size[0]), int(input_size[1]))
        if fixed and self.input_size != fixed:
            raise ValueError(f"input_size={list(input_size)}, and {file} takes {list(fixed)} alone")
        self.one_by_one = batch == 1
        self.low, self.high = input_range
        self.normalise = NormalisePixels(mean, std)
        if num_outputs is not None:
            self.num_outputs = num_outputs
        if differentiable:
            self._check_gradient()

    def forward(self, x: Tensor) -> Any:
        """What ``decode`` makes of the network's output for pictures (B, 3, H, W) in [0, 1]."""
        size = tuple(x.shape[-2:])
        raw = self._run(self._prepared(x))
        return raw if self.decode is None else self.decode(raw, size)

    def _prepared(self, x: Tensor) -> Tensor:
        if self.input_size not in (None, tuple(x.shape[-2:])):
            x = F.interpolate(
                x.float(), self.input_size, mode="bilinear", align_corners=False, antialias=self.antialias
            )
        x = x.flip(1) if self.channels == "BGR" else x
        return self.normalise(self.low + (self.high - self.low) * x)

    def _run(self, x: Tensor) -> Any:
        if not self.one_by_one or len(x) == 1:
            return self.net(x)
        parts = [self.net(picture) for picture in x.split(1)]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _check_gradient(self) -> None:
        side = self.input_size or (PROBE_SIDE, PROBE_SIDE)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, 3, *side, generator=generator).requires_grad_()
        self.eval()
        try:
            with torch.enable_grad():
                raw = self._run(self._prepared(x))
                outputs = [raw] if isinstance(raw, Tensor) else list(raw)
                reached = [part for part in outputs if part.requires_grad]
                gradient = _gradient(reached, [x])[0] if reached else None
        except Exception as error:
            raise ValueError(
                f"{self.file} does not run on a picture of {side}: {' '.join(str(error).split())}"
            ) from error
        if gradient is None or not gradient.isfinite().all() or not gradient.any():
            found = {self.operators.get(name, name) for name in _Stops(self.net).find(self._prepared(x))}
            stops = ", ".join(sorted(found - SHAPES)) or "that is there: it does not depend on the picture"
            raise ValueError(
                f"{self.file} cannot be differentiated: no gradient passes the operator {stops}. Cut the network "
                "before it, or set differentiable=false where it only judges"
            )


def _converted(path: Path) -> tuple[fx.GraphModule, dict[str, str], list[int]]:
    """The network, {name of its module: operator}, and the input's sides, 0 where any will do."""
    try:
        import onnx
        from onnx2torch import convert
        from onnx2torch.node_converters import get_converter
        from onnx2torch.onnx_graph import OnnxGraph
    except ImportError as error:
        raise ImportError(
            f"networks in ONNX files need {error.name}, which is not installed: run `make pretrained`, or `pip install "
            "onnx2torch`"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX file {path}")
    refuse_pointer(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is no valid ONNX file: {' '.join(str(error).split())}") from error
    weights = {initialiser.name for initialiser in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    sides = [side.dim_value for value in inputs for side in value.type.tensor_type.shape.dim]
    if len(inputs) != 1 or len(sides) != 4 or sides[1] not in (0, 3):
        shapes = [[side.dim_value or side.dim_param for side in v.type.tensor_type.shape.dim] for v in inputs]
        raise ValueError(
            f"{path} takes inputs of shapes {shapes}, must take one of [batch, 3, height, width]"
        )
    versions = {entry.domain: entry.version for entry in model.opset_import}

    def missing(node: Any) -> bool:
        try:
            get_converter(node.op_type, versions.get(node.domain, 1), node.domain)
        except NotImplementedError:
            return True
        return False

    if unknown := sorted({node.op_type for node in model.graph.node if missing(node)}):
        raise ValueError(
            f"{path} cannot be converted: onnx2torch has no operator {', '.join(unknown)} of opset {versions.get('')}. "
            "Export it with other operators, or cut the network before them"
        )
    try:
        net = convert(model)
    except (NotImplementedError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be converted: {' '.join(str(error).split())}") from error
    operators = {name: node.operation_type for name, node in OnnxGraph(model.graph).nodes.items()}
    return net.eval(), operators, sides


def _gradient(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of a random combination: plain sums are constant behind a softmax."""
    generator = torch.Generator().manual_seed(0)
    total = sum((part * torch.rand(part.shape, generator=generator)).sum() for part in outputs)
    return list(torch.autograd.grad(total, list(inputs), allow_unused=True))


class _Stops(fx.Interpreter):
    """Runs a network node by node, and keeps the modules behind which no gradient comes back."""

    def find(self, x: Tensor) -> list[str]:
        """Names of these modules, in order."""
        self.stopping: list[str] = []
        with torch.enable_grad():
            self.run(x)
        return self.stopping

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        fresh = [a.detach().requires_grad_() if _is_float(a) else a for a in args]
        result = super().call_module(target, tuple(fresh), kwargs)
        inputs = [a for a, old in zip(fresh, args, strict=True) if _is_float(a) and old.requires_grad]
        outputs = [r for r in (result if isinstance(result, (list, tuple)) else [result]) if _is_float(r)]
        if inputs:
            passed = _gradient(outputs, inputs) if any(o.requires_grad for o in outputs) else []
            if not any(gradient is not None and gradient.any() for gradient in passed):
                self.stopping.append(target)
        return result


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
