"""Other inference engines beside our accelerated transforms: a part of the record ``speed``."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.entropy_coder import in_turn
from models.transforms.fast import speed_up


def engines(network: nn.Module, x: Tensor, folder: Path, *, repeats: int = 7) -> dict[str, float]:
    """Median seconds of a transform in float32 on torch's number of threads, all in turn.

    Args:
        network: g_a or g_s, in evaluation mode.
        x: its input.
        folder: for an ONNX file.
        repeats: of each.

    Returns:
        {engine: seconds}: ``ours``, ``onnxruntime``, ``torch.compile``, and ``openvino`` where it is installed.
    """
    path, num_threads = folder / "network.onnx", torch.get_num_threads()
    ours, compiled = copy.deepcopy(network), copy.deepcopy(network)
    speed_up(ours)
    compiled.to(memory_format=torch.channels_last).compile()
    in_order = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(x),
        "onnxruntime": lambda: session.run(None, {name: x.numpy()}),
        "torch.compile": lambda: compiled(in_order),
    }
    try:
        import openvino
    except ImportError:
        pass
    else:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        calls["openvino"] = lambda: request.infer({0: x.numpy()})
    with torch.no_grad():
        return in_turn(calls, repeats)
