"""ONNX files of a codec's transforms and of every task, each held against PyTorch at several sizes.

Legend: B batch, H and W the image's height and width, u the smallest side that the codec codes without padding, 64 or
more.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from models.codecs.base import Codec
from models.outputs import CodecOutput
from models.pretrained.same_padding import traceable, translations

TOLERANCE = 1e-4
"""Largest deviation allowed, as a share of the output's largest magnitude; float32 runtimes differ by about 1e-6."""

OPSET = 18

PROBES = ((2, 2, 3), (1, 1, 1), (3, 3, 2), (1, 2, 4))
"""(B, H / u, W / u) of the images that are tried; the first is the one that the graph is traced with."""


@dataclass
class Part:
    """One network to be written.

    Attributes:
        name: of the file.
        module: in evaluation mode.
        inputs: names of its inputs.
        cases: inputs at the sizes of ``PROBES``; dimensions that differ among them are dynamic in the file.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    cases: list[tuple[Tensor, ...]]


def export_onnx(codec: Codec, tasks: Mapping[str, nn.Module], folder: Path) -> dict[str, dict[str, Any]]:
    """Write ``<transform>.onnx`` and ``task_<name>.onnx`` into a new folder and check each with onnxruntime.

    A task reads what its PyTorch module reads, by the same names; one that reads no pixels also needs ``size``, the
    image's (H, W) as int64. What it gives is ``output``, its raw predictions (``Task.predict``); of a head that returns
    several tensors, ``output_<name>`` or ``output<place>``.

    Args:
        codec: in evaluation mode, on the CPU.
        tasks: {name: Task}, likewise.
        folder: where the files go; made if it is not there.

    Returns:
        {file name: {"inputs": {name: shape, with "?" for dynamic dimensions}, "deviation": worst over all sizes}}.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: a network that cannot be written, or whose file computes something else than PyTorch.
    """
    _check_installed()
    folder.mkdir(parents=True, exist_ok=True)
    record = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for part in (*_transforms(codec), *_tasks(codec, tasks)):
            path = folder / f"{part.name}.onnx"
            _write(part, path)
            _strip(path)
            shapes = zip(part.inputs, part.cases[0], _dynamic(part.cases), strict=True)
            record[path.name] = {
                "inputs": {
                    name: ["?" if i in free else int(side) for i, side in enumerate(tensor.shape)]
                    for name, tensor, free in shapes
                },
                "deviation": float(f"{_deviation(part, path):.1e}"),
            }
    return record


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files need {error.name}: pip install onnx onnxscript onnxruntime, or leave them out with onnx=false"
        ) from error


def _probes(codec: Codec, *, trim: bool) -> Iterator[Tensor]:
    """Images of the sizes that are tried; with ``trim``, of sizes that fit no stride."""
    unit = codec.stride * -(-64 // codec.stride)
    for number, (batch, high, wide) in enumerate(PROBES):
        cut = 3 * number + 1 if trim else 0
        yield torch.rand(batch, 3, high * unit - cut, wide * unit - 2 * cut)


def _transforms(codec: Codec) -> Iterator[Part]:
    # In training a codec runs all of its transforms as they are; in evaluation some run as copies in float64.
    copied = copy.deepcopy(codec).train()
    seen: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in copied.transforms()}
    expected = 0

    def see(name: str):
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if len(seen[name]) < expected:
                seen[name].append(tuple(tensor.detach().clone() for tensor in inputs))

        return hook

    for name, module in copied.transforms().items():
        module.register_forward_pre_hook(see(name))
    for expected, image in enumerate(_probes(codec, trim=False), start=1):  # noqa: B007  the hooks read it
        copied(image)
    for name, module in codec.transforms().items():
        if len(seen[name]) != len(PROBES):
            raise ValueError(f"{name} did not run when the codec did: it cannot be written as ONNX")
        count = len(seen[name][0])
        inputs = ("x",) if count == 1 else tuple(f"x{i}" for i in range(count))
        yield Part(name, copy.deepcopy(module).eval(), inputs, seen[name])


def _tasks(codec: Codec, tasks: Mapping[str, nn.Module]) -> Iterator[Part]:
    outputs = [codec(image) for image in _probes(codec, trim=True)] if tasks else []
    for name, task in tasks.items():
        reader = _Reader(copy.deepcopy(task)).eval()
        inputs = tuple(read.replace("@", "_") for read in task.reads)
        cases = [tuple(output.read(read).detach() for read in task.reads) for output in outputs]
        if not reader.reads_pixels:
            inputs = (*inputs, "size")
            cases = [(*case, torch.tensor(output.size)) for case, output in zip(cases, outputs, strict=True)]
        yield Part(f"task_{name}", reader, inputs, cases)


class _Reader(nn.Module):
    """A task as a function of tensors: what it reads, in order, and where that holds no pixels the image's size."""

    def __init__(self, task: nn.Module):
        super().__init__()
        self.task = task
        self.reads_pixels = "pixels" in task.want

    def forward(self, *inputs: Tensor) -> Any:
        tensors = dict(zip(self.task.reads, inputs, strict=False))
        pixels = {name: tensor for name, tensor in tensors.items() if name.startswith("pixels")}
        size = next(iter(pixels.values())).shape[-2:] if pixels else inputs[-1].tolist()
        output = CodecOutput(
            tuple(size),
            x_hat=pixels.get("pixels"),
            latents={name: tensor for name, tensor in tensors.items() if name not in pixels},
            pixels_by_layer={name.removeprefix("pixels@"): tensor for name, tensor in pixels.items()},
        )
        return self.task.predict(output)


def _dynamic(cases: Sequence[tuple[Tensor, ...]]) -> list[set[int]]:
    """For every input, the dimensions that are not the same in all cases."""
    return [
        {i for i, side in enumerate(first.shape) if any(case[n].shape[i] != side for case in cases)}
        for n, first in enumerate(cases[0])
    ]


def _write(part: Part, path: Path) -> None:
    free = tuple(
        {i: torch.export.Dim.DYNAMIC for i in dimensions} or None for dimensions in _dynamic(part.cases)
    )
    shapes = (free,) if isinstance(part.module, _Reader) else free  # all of its inputs are one argument
    outputs = _outputs(part)
    try:
        with _quiet():
            torch.onnx.export(
                traceable(part.module),
                part.cases[0],
                path,
                dynamo=True,
                input_names=list(part.inputs),
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                custom_translation_table=translations(),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own errors have no common class
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else "")
        raise ValueError(
            f"{part.name} cannot be written as ONNX ({type(error).__name__}: {reason[:200]}): leave the files out "
            "with onnx=false"
        ) from error


def _outputs(part: Part) -> list[str]:
    """Names of the tensors that a network returns, however nested, in their order in the file."""
    names = []
    for path, value in tree_flatten_with_path(part.module(*part.cases[0]))[0]:
        name = "_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        names.append(f"output{name}" if not name or name[0].isdigit() else f"output_{name}")
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{part.name} cannot be written as ONNX (its {names[-1]} is {type(value).__name__}, no tensor): leave "
                "the files out with onnx=false"
            )
    return names


def _strip(path: Path) -> None:
    """Take out what the exporter notes of each operator: stack traces, with the paths of this machine."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    noted = (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for holder in (*noted, *model.functions, *(node for f in model.functions for node in f.node)):
        del holder.metadata_props[:]
    onnx.save(model, str(path))


def _deviation(part: Part, path: Path) -> float:
    """Worst deviation of the file from PyTorch over all cases, as a share of the output's largest magnitude."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for case in part.cases:
        expected = tree_leaves(part.module(*case))
        shapes = " ".join(str(tuple(tensor.shape)) for tensor in case)
        try:
            actual = session.run(None, {name: t.numpy() for name, t in zip(part.inputs, case, strict=True)})
        except Exception as error:  # onnxruntime's errors derive from Exception alone
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path.name} does not run on inputs {shapes}: {reason}") from error
        for ours, theirs in zip(expected, map(torch.from_numpy, actual), strict=True):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"{path.name} gives {tuple(theirs.shape)} where PyTorch gives {tuple(ours.shape)}, on inputs "
                    f"{shapes}: it computes a size from its input that ONNX takes for fixed; export with onnx=false, "
                    "or change that network"
                )
            if not ours.numel():
                continue
            ours, theirs = ours.double(), theirs.double()
            scale = max(ours.abs().max().item(), 1e-12)
            deviation = (ours - theirs).abs().max().item() / scale
            if not deviation <= TOLERANCE:
                raise ValueError(
                    f"{path.name} differs from PyTorch by {deviation:.1e} of the largest value on inputs {shapes}; "
                    f"{TOLERANCE:.0e} is allowed"
                )
            worst = max(worst, deviation)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own workings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
