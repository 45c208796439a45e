"""Run folders: whose they are, and whether a config is the one they were made with."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def point_name(overrides: str) -> str:
    name = overrides.replace("/", "_")
    if len(name.encode()) <= 200:
        return name
    # File systems stop at 255 bytes.
    return f"{name[:150]}...{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def check_run_dir(cfg: DictConfig, run_dir: Path) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"run_dir={run_dir} is a file: give a folder")
    if (run_dir / "config.yaml").is_file():
        if changed := differences(OmegaConf.load(run_dir / "config.yaml"), cfg, run_dir):
            raise ValueError(
                f"{run_dir} holds another run, which differs in {changed}: give another run_dir, "
                "or remove that one"
            )
    elif (run_dir / "stages").exists():
        raise ValueError(f"run_dir={run_dir} holds stages of a run without config.yaml: give another run_dir")


def differences(saved: DictConfig, cfg: DictConfig, run_dir: Path) -> str:
    """Where two configs differ, apart from where the run lies."""
    # ${run_dir} is resolved in what was saved, and a run folder may have been moved since.
    old = dict(_leaves(moved(OmegaConf.to_container(saved), str(saved.run_dir), str(run_dir))))
    named = OmegaConf.merge(cfg, {"run_dir": str(run_dir)})
    new = dict(_leaves(OmegaConf.to_container(named, resolve=True)))
    none = "nothing"  # of a key that only one side has
    changed = [
        f"{key} ({old.get(key, none)} there, {new.get(key, none)} here)"
        # What was given, such as lmbda, comes before the places it was copied to.
        for key in sorted(dict.fromkeys((*old, *new)), key=lambda key: key.count("."))
        if key not in ("run_dir", "resume") and old.get(key, none) != new.get(key, none)
    ]
    return ", ".join(changed[:5]) + (f" and {len(changed) - 5} more keys" if len(changed) > 5 else "")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def moved(node: Any, old: str, new: str) -> Any:
    """Plain containers with every path below ``old`` put below ``new``."""
    if isinstance(node, dict):
        return {key: moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + os.sep)):
        return new + node[len(old) :]
    return node
