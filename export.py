"""Export a trained model: one folder that loads with models/ and tasks/ alone.

python export.py run=RUN_DIR out=DIR                    model.safetensors, config.yaml, README.md, onnx/*.onnx
python export.py checkpoint=FILE out=DIR onnx=false     one checkpoint, without ONNX
python export.py run=RUN_DIR out=DIR 'tasks=[OTHER_RUN:head]'
                                                        and heads that another run trained on the same codec
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evaluation.results import git_commit
from launch.command import asks_for_help
from launch.errors import fail

# What takes seconds to load is imported where it is used: `--help` waits for none of it.
if TYPE_CHECKING:
    from models.pretrained import Pretrained

CONFIG = Path(__file__).parent / "configs" / "export.yaml"


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Options from ``key=value`` arguments.

    Raises:
        ValueError: a key that is unknown, or a value of the wrong kind.
    """
    defaults = OmegaConf.load(CONFIG)
    OmegaConf.set_struct(defaults, True)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or key not in defaults:
            raise ValueError(f"{argument!r} is no option; give key=value with one of {', '.join(defaults)}")
    options = OmegaConf.to_container(OmegaConf.merge(defaults, OmegaConf.from_dotlist(list(arguments))))
    for key in ("run", "checkpoint", "out", "license", "dtype", "results"):
        # A stamp such as 2025-01-31 is a text here.
        options[key] = options[key] if options[key] is None else str(options[key])
    if (options["run"] is None) == (options["checkpoint"] is None):
        raise ValueError("give one of run=RUN_DIR and checkpoint=FILE")
    if options["out"] is None:
        raise ValueError("give out=DIR, the model folder to write")
    for key in ("onnx", "foreign"):
        if not isinstance(options[key], bool):
            raise ValueError(f"{key}={options[key]} must be true or false")
    if not isinstance(options["tasks"], list) or not all(":" in str(task) for task in options["tasks"]):
        raise ValueError(f"tasks={options['tasks']} must be a list of RUN:head")
    return options


def export(options: dict[str, Any]) -> Path:
    """Write a model folder, whole or not at all, after loading it back and comparing.

    Args:
        options: as in configs/export.yaml.

    Raises:
        ValueError, ImportError, OSError: what is wrong, in one line.
    """
    from models.pretrained.card import model_card
    from models.pretrained.folder import describe, written_whole
    from models.pretrained.model import from_pretrained, write_model
    from models.pretrained.onnx import export_onnx

    out = Path(options["out"])
    with written_whole(out) as folder:
        model = _gather(options)
        write_model(
            model,
            folder,
            dtype=options["dtype"],
            license=options["license"],
            foreign=options["foreign"],
        )
        # What was written is what is checked and drawn as ONNX, not what it was written from.
        written = from_pretrained(folder)
        if written.codec.model_id() != model.codec.model_id():
            raise ValueError(f"{out}: the written model would code other files than {model.source}")
        if options["onnx"]:
            record = export_onnx(written.codec, written.tasks, folder / "onnx")
            config = {**written.config, "onnx": record}
            describe(folder, config=config, card=model_card(config, written.codec, written.tasks))
    return out


def _gather(options: dict[str, Any]) -> "Pretrained":
    from models.pretrained import load
    from models.pretrained.merge_heads import add_head

    if options["run"] is not None and not Path(options["run"]).is_dir():
        raise ValueError(f"run={options['run']} is no folder; for one file give checkpoint=FILE")
    if options["checkpoint"] is not None and not Path(options["checkpoint"]).is_file():
        raise ValueError(f"checkpoint={options['checkpoint']} is no file; for a run folder give run=RUN_DIR")
    # What is frozen is not exported: its files need not be here.
    model = load(options["run"] or options["checkpoint"], frozen=False)
    for task in map(str, options["tasks"]):
        source, _, name = task.rpartition(":")
        add_head(model, load(source, tasks=[name], frozen=False), name)
    if options["results"] is not None:
        model.config["results"] = _rows(Path(options["results"]))
    model.config["exported"] = {"git_commit": git_commit()}
    return model


def _rows(path: Path) -> list[dict[str, Any]]:
    from models.pretrained.training_facts import kept

    try:
        content = json.loads(path.read_text())
        about = {"dataset": content["dataset"], "split": content["split"]}
        return [about | kept(row) for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"results={path} is no results.json of evaluate.py: {error!r}") from error


def command() -> None:
    """``python export.py``: the user's errors become one line and status 2."""
    if asks_for_help(sys.argv[1:]):
        print(f"{__doc__}\n{CONFIG.read_text()}", end="")
        return
    try:
        options = read_options(sys.argv[1:])
        folder = export(options)
        print(folder)
        from models.codecs.compressai_weights import FILE as COMPRESSAI

        if options["foreign"] and not (folder / COMPRESSAI).is_file():
            print(f"(no {COMPRESSAI}: CompressAI has no such architecture)", file=sys.stderr)
    except (ValueError, TypeError, ImportError, OSError, OmegaConfBaseException, YAMLError) as error:
        fail(error, 2)


if __name__ == "__main__":
    command()
