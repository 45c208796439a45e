"""Every yaml composes, binds to its class's arguments, and describes a run that could start."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from tests.conftest import CONFIGS, compose_config

GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def nodes_with_targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from nodes_with_targets(node._get_node(key), f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from nodes_with_targets(node[index], f"{path}[{index}]")


def binding_errors(config: DictConfig) -> list[str]:
    """Keys that no argument takes, and arguments that nothing gives, of every node with a ``_target_``."""
    errors = []
    for path, node in nodes_with_targets(config):
        parameters = inspect.signature(get_object(node._target_)).parameters
        keys = {str(key) for key in node} - HYDRA_KEYS
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = set() if takes_any else keys - set(parameters)
        required = {
            name
            for name, p in parameters.items()
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name != "self"
        }
        missing = set() if node.get("_partial_") else required - keys
        errors += [f"{path} ({node._target_}): unknown {sorted(unknown)}"] if unknown else []
        errors += [f"{path} ({node._target_}): missing {sorted(missing)}"] if missing else []
    return errors


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose_and_bind(name: str) -> None:
    config = compose_config(f"experiment={name}")
    assert config.name == name
    assert not binding_errors(config)
    assert config.schedule
    # Every stage that reads a task weight finds one for every task.
    assert set(config.task_weights) == set(config.tasks)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_sweep_of_lmbda_reaches_every_stage(name: str) -> None:
    config = compose_config(f"experiment={name}", "lmbda=0.123")
    objectives = [update.objective for stage in config.schedule.values() for update in stage.updates.values()]
    for objective in objectives:
        if "lmbda" in objective:
            # A schedule of lmbda multiplies it.
            schedule = (
                objective.lmbda if isinstance(objective.lmbda, DictConfig) else {"lmbda": objective.lmbda}
            )
            assert 0.123 in schedule.values()


@pytest.mark.parametrize("name", [p.stem for p in (CONFIGS / "evaluation").glob("*.yaml")])
def test_evaluations_compose_and_bind(name: str) -> None:
    config = compose("evaluate", overrides=[f"evaluation={name}"])
    assert not binding_errors(config)
    assert config.codecs


WHOLE = ("experiment", "evaluation")
"""Groups whose yamls are more than one component, and have tests of their own."""


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] not in WHOLE], ids=str)
def test_components_compose_and_bind(file: Path) -> None:
    """Each yaml of each group, put in its group's place of the quickstart."""
    group, name = (file.parts[0], file.stem) if len(file.parts) > 1 else (None, None)
    places = {"task": f"+task@tasks.extra={name}", "stage": f"+stage@schedule.extra={name}"}
    places["network"] = f"+network@networks.extra={name}"
    places["objective"] = f"objective@schedule.joint.updates.main.objective={name}"
    places["update"] = f"update@schedule.joint.updates.main={name}"
    overrides = [] if group is None else [places.get(group, f"{group}={name}")]
    config = compose_config(*overrides)
    assert not binding_errors(config)


def test_a_wrong_key_would_be_found() -> None:
    config = compose_config("+codec.widht=3")
    assert binding_errors(config) == [
        "codec (models.codecs.hyperprior.MeanScaleHyperprior): unknown ['widht']"
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_says_what_it_is(file: Path) -> None:
    lines = (CONFIGS / file).read_text().splitlines()
    assert lines[0].startswith("#")
    if file.parts[0] == "experiment":
        assert lines[0] == "# @package _global_"
        assert any(line.startswith("# Run:") and "python train.py" in line for line in lines), (
            "no launch command"
        )


@pytest.mark.parametrize("name", [p.stem for p in (CONFIGS / "schedule").glob("*.yaml")])
def test_schedules_instantiate(name: str) -> None:
    config = compose_config(f"schedule={name}")
    for node in config.schedule.values():
        stage = instantiate(node)
        assert stage.num_batches > 0
        for update in stage.updates.values():
            assert update.lr_schedule(1.0) <= 1
