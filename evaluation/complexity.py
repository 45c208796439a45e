"""What a codec and its heads cost: parameters and multiply-accumulates per pixel."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.codecs.base import Codec
from models.outputs import CodecOutput
from tasks.base import Task

HYPER_ANALYSIS = "h_a"
"""Part of ``Codec.encoder``, for it may be fine-tuned with g_a, but it serves the entropy side alone."""

PARTS = ("encoder", "entropy", "decoder")


@torch.no_grad()
def complexity(
    codec: Codec,
    tasks: Mapping[str, Task] | None = None,
    *,
    size: tuple[int, int] = (512, 768),
    rate: float | None = None,
) -> dict[str, Any]:
    """Parameters and multiply-accumulates of a codec's parts and of its heads.

    ======== ==================================================================================================
    encoder  the submodules in ``Codec.encoder`` but h_a: g_a, a filter
    decoder  those in ``Codec.decoder``: g_s, a generator
    entropy  all the rest: h_a, h_s, context networks, entropy models
    ======== ==================================================================================================

    One real pass over one grey picture, on the codec's own device, takes seconds. Encoding an image costs encoder +
    entropy, decoding it at most entropy + decoder. Counted are convolutions (so GDN is), matrix products and attention,
    one multiply-accumulate for each product; biases, activations, norms and range coding are not. A padded picture's
    whole area is computed, and the count is divided by the pixels of the original.

    Args:
        codec: not changed.
        tasks: {name: Task} that read what it decodes; a task counts its head alone, on top of the parts it reads.
        size: (H, W) of the picture.
        rate: see ``Codec.forward``.

    Returns:
        ``{"size": [H, W], "parameters": {...}, "macs_per_pixel": {...}}``, both with ``encoder``, ``entropy``,
        ``decoder``, ``total`` and ``heads`` {task: number}. A codec without parameters (standard codecs, identity) has
        0 parameters and ``None`` for its MACs. Where the parts cannot be told apart (a codec that names neither encoder
        nor decoder, or runs them by other ways than calling the modules), they are ``None`` and the total stands.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if min(size) < 1:
        raise ValueError(f"size={size} must be two positive numbers of pixels")
    codec, tasks = copy.deepcopy(codec).eval(), copy.deepcopy(dict(tasks or {}))
    modules = {
        "encoder": _modules(codec, [n for n in codec.encoder if n.rpartition(".")[2] != HYPER_ANALYSIS]),
        "decoder": _modules(codec, codec.decoder),
    }
    total = _num_parameters([codec])
    parameters: dict[str, Any] = {part: _num_parameters(m) for part, m in modules.items()}
    parameters["entropy"] = total - sum(parameters.values())
    x = torch.full((1, 3, *size), 0.5, device=next(codec.parameters(), torch.zeros(())).device)
    with FlopCounterMode(display=False) as counter, _counted(modules, counter) as flops:
        output = codec(x, rate)
    num_pixels = size[0] * size[1]
    all_flops = counter.get_total_flops()
    if not any(modules.values()) or any(members and not flops[part] for part, members in modules.items()):
        flops = dict.fromkeys(PARTS)
        parameters = dict.fromkeys(PARTS) if total else parameters
    else:
        flops["entropy"] = all_flops - sum(flops.values())
    flops["total"] = all_flops if total else None
    heads = {name: _head_macs(task.eval(), output) / num_pixels for name, task in tasks.items()}
    return {
        "size": list(size),
        "parameters": {part: parameters[part] for part in PARTS}
        | {"total": total, "heads": {name: _num_parameters([task.head]) for name, task in tasks.items()}},
        "macs_per_pixel": {
            key: None if flops[key] is None else flops[key] / 2 / num_pixels for key in (*PARTS, "total")
        }
        | {"heads": heads},
    }


@contextmanager
def _counted(
    modules: Mapping[str, Sequence[nn.Module]], counter: FlopCounterMode
) -> Iterator[dict[str, int]]:
    """FLOPs of each part, while the block runs. By hooks, not by name: entropy networks may run as copies."""
    flops, depth = dict.fromkeys(modules, 0), dict.fromkeys(modules, 0)

    def before(part: str) -> Callable[..., None]:
        def subtract(*_: object) -> None:
            # Of a module inside another of the part, the outer one counts.
            flops[part] -= counter.get_total_flops() if not depth[part] else 0
            depth[part] += 1

        return subtract

    def after(part: str) -> Callable[..., None]:
        def add(*_: object) -> None:
            depth[part] -= 1
            flops[part] += counter.get_total_flops() if not depth[part] else 0

        return add

    handles = []
    for part, members in modules.items():
        for module in members:
            handles += [
                module.register_forward_pre_hook(before(part)),
                module.register_forward_hook(after(part)),
            ]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()


def _head_macs(task: Task, output: CodecOutput) -> float:
    with FlopCounterMode(display=False) as counter:
        task.predict(output)
    return counter.get_total_flops() / 2


def _modules(codec: Codec, names: Sequence[str]) -> list[nn.Module]:
    """Those of the named submodules that this codec has: a wrapper names all that its models may have."""
    known = dict(codec.named_modules())
    return [known[name] for name in names if name in known]


def _num_parameters(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() for p in {id(p): p for m in modules for p in m.parameters()}.values())
