"""The model card: README.md of an exported model, with the front matter that the Hugging Face hub reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from torch import nn

from models.codecs.base import Codec
from models.counted import counted

TAGS = ("image-compression", "learned-image-compression", "coding-for-machines", "bifocal")


def model_card(config: Mapping[str, Any], codec: Codec, tasks: Mapping[str, nn.Module]) -> str:
    """Markdown that says what a model is, how to use it, how it was trained, and what was measured of it.

    Args:
        config: of the exported model. Figures come from its ``results`` alone; where there are none, it says so.
        codec: the loaded codec.
        tasks: {name: loaded task}.
    """
    front = {"license": config["license"], "library_name": "bifocal", "tags": list(TAGS)}
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {config.get('name')}",
        _summary(config, codec, tasks),
        _usage(config, codec, tasks),
        _architecture(config, codec, tasks),
        _training(config),
        _results(config),
        *([_onnx(config["onnx"])] if config.get("onnx") else []),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(config: Mapping[str, Any], codec: Codec, tasks: Mapping[str, nn.Module]) -> str:
    readers = (
        "one bitstream for people, who look at the decoded picture, and for machines: "
        + "; ".join(f"`{name}` reads {' and '.join(task.reads)}" for name, task in tasks.items())
        if tasks
        else "no task heads"
    )
    return f"An image codec ({_class(config['codec'])}) trained with Bifocal; {readers}."


def _usage(config: Mapping[str, Any], codec: Codec, tasks: Mapping[str, nn.Module]) -> str:
    lines = [
        "from models.pretrained import from_pretrained",
        'model = from_pretrained("FOLDER")  # or a hub id; images: float (B, 3, H, W), RGB in [0, 1]',
        "files = [model.codec.serialise(b) for b in model.codec.compress(images)]",
        "output = model.codec.decompress([model.codec.parse(data) for data in files])  # output.x_hat",
        *(f'predictions = model.tasks["{name}"].predict(output)' for name in list(tasks)[:1]),
    ]
    commands = [
        "python codec.py compress FOLDER IMAGE... -o DIR",
        f"python codec.py decompress FOLDER DIR/*{codec.file_suffix} -o DIR",
        *([f"python codec.py analyze FOLDER DIR/*{codec.file_suffix}"] if tasks else []),
    ]
    others = [
        f"\n\n`{name}` holds the codec's weights in fp32 for the library it is named after."
        for name in config["weights"].get("foreign", ())
    ]
    return (
        "## Use\n\nIn a checkout of Bifocal, without any network and without its training part:\n\n"
        f"```python\n{chr(10).join(lines)}\n```\n\n```sh\n{chr(10).join(commands)}\n```{''.join(others)}"
    )


def _architecture(config: Mapping[str, Any], codec: Codec, tasks: Mapping[str, nn.Module]) -> str:
    latents = [
        f"| `{name}` | {spec.kind} | {spec.channels} | {spec.stride or spec.length or ''} | {spec.layer} |"
        for name, spec in codec.latents.items()
    ]
    lines = ["## Architecture", "", f"- codec: `{config['codec']['_target_']}`{_arguments(config['codec'])}"]
    lines += [
        f"- task `{name}`: `{node['_target_']}` on {' and '.join(tasks[name].reads)}, "
        f"{_outputs(config, name, tasks[name])}, {_count(tasks[name]):,} parameters"
        for name, node in config["tasks"].items()
    ]
    lines += [
        f"- {_count(codec):,} parameters in the codec; weights stored in {config['weights']['dtype']}"
        + (", the entropy side in fp32" if config["weights"]["dtype"] == "fp16" else ""),
        f"- layers of the bitstream: {', '.join(layer.name for layer in codec.layers)}",
        f"- model id (in the header of every file): `{config['model_id']}`",
    ]
    if latents:
        lines += [
            "",
            "| latent | kind | channels | stride or length | layer |",
            "|---|---|---|---|---|",
            *latents,
        ]
    return "\n".join(lines)


def _training(config: Mapping[str, Any]) -> str:
    facts = config.get("training") or {}
    data = facts.get("data") or {}
    lines = ["## Training", ""]
    if data:
        lines.append(f"- data: `{data.get('class')}`{_arguments(data)}")
    lines.append(f"- lmbda {_scalar(config.get('lmbda'))}, seed {config.get('seed')}")
    if facts.get("git_commit"):
        lines.append(f"- code: git commit `{facts['git_commit']}`")
    lines.append(f"- checkpoint: {facts.get('checkpoint')}")
    lines += [f"- stage `{name}`: {_stage(stage)}" for name, stage in (facts.get("stages") or {}).items()]
    for name, other in (facts.get("heads") or {}).items():
        lines.append(f"- head `{name}` was trained on this codec in another run: {other.get('checkpoint')}")
    return "\n".join(lines)


def _stage(stage: Mapping[str, Any]) -> str:
    parts = [counted(stage.get("num_batches"), "batch")]
    for update in (stage.get("updates") or {}).values():
        objective = update.get("objective") or {}
        terms = [
            *(["rate"] if "rate" in objective else []),
            *(_distortion(objective, name) for name in objective.get("distortion") or {}),
            *(f"{_scalar(weight)} {task}" for task, weight in (objective.get("tasks") or {}).items()),
        ]
        optimiser = update.get("optimiser") or {}
        parts.append(
            f"{', '.join(update.get('trainable') or [])} trained for {' + '.join(terms) or 'its objective'}, "
            f"{_class(optimiser, 'class')} at {optimiser.get('lr')}"
        )
    return "; ".join(parts)


def _distortion(objective: Mapping[str, Any], name: str) -> str:
    weight = (objective.get("distortion_weights") or {}).get(name)
    lmbda = _scalar(objective.get("lmbda"))
    return f"{lmbda} {name}" if weight is None else f"{lmbda} x {_scalar(weight)} {name}"


def _scalar(value: Any) -> str:
    """A number, or a schedule by its name and what it is made with."""
    if not isinstance(value, Mapping):
        return str(value)
    return _class(value, "class" if "class" in value else "_target_") + _arguments(value)


def _results(config: Mapping[str, Any]) -> str:
    rows: Sequence[Mapping[str, Any]] = config.get("results") or []
    if not rows:
        return "## Results\n\nNone were measured for these weights."
    metrics = sorted({key for row in rows for key in row.get("tasks", {}) if not key.endswith("/bpp")})
    head = ["codec", "rate", "data", "bpp", "payload bpp", "PSNR", "MS-SSIM", *metrics]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        data = " ".join(str(row[key]) for key in ("dataset", "split") if row.get(key))
        cells = [row.get("codec"), _number(row.get("rate")), data]
        cells += [_number(row.get(key)) for key in ("bpp", "bpp_payload", "psnr", "ms_ssim")]
        cells += [_number(row.get("tasks", {}).get(metric)) for metric in metrics]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    note = (
        "Measured by the project itself on files that were written, read and decoded. bpp counts whole files; payload "
        "bpp leaves out their headers: of a .bif file all but the strings, of other formats a flat grey picture's file."
    )
    if config["weights"]["dtype"] == "fp16":
        note += " The figures are of the fp32 weights."
    return "\n".join(["## Results", "", note, "", *lines])


def _onnx(files: Mapping[str, Any]) -> str:
    lines = ["| file | inputs | largest deviation from PyTorch |", "|---|---|---|"]
    for name, about in files.items():
        inputs = ", ".join(f"{key} ({', '.join(map(str, shape))})" for key, shape in about["inputs"].items())
        lines.append(f"| `onnx/{name}` | {inputs} | {about['deviation']:.1e} |")
    text = (
        "Networks in fp32, for other runtimes; `?` is any size, `size` the image's (height, width). Each was run with "
        "onnxruntime at several sizes and held against PyTorch; deviations are shares of the output's largest value. "
        "Real coding runs `h_s` in float64: `h_s.onnx` is for inspection, not for reading files."
    )
    return "\n".join(["## ONNX", "", text, "", *lines])


def _arguments(node: Mapping[str, Any]) -> str:
    given = {key: value for key, value in node.items() if not key.startswith("_") and key != "class"}
    return f" ({', '.join(f'{key}={value}' for key, value in given.items())})" if given else ""


def _class(node: Mapping[str, Any], key: str = "_target_") -> str:
    return str(node.get(key)).rpartition(".")[2]


def _outputs(config: Mapping[str, Any], name: str, task: nn.Module) -> str:
    names = config["labels"].get(name, {}).get("names", ())
    named = f" ({', '.join(map(str, names[:12]))}{', ...' if len(names) > 12 else ''})" if names else ""
    return f"{counted(task.num_outputs, 'output')}{named}"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
