"""Where figures were made: processor, cores, library versions, the commit; nothing that names the machine."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from evaluation.results import git_commit

LIBRARIES = ("torch", "torchmetrics", "timm", "compressai", "numpy", "pillow")


def processor() -> str:
    """The processor's model."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str | int | None]:
    """Everything as plain values."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "git_commit": git_commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
