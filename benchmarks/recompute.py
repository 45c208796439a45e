"""Derive the figures of a result record again from its rows: ``python -m benchmarks.recompute NAME``."""

import importlib
import json
import math
import sys
from collections.abc import Mapping

from benchmarks.record import RESULTS

ROUNDING = 1e-9
"""Relative and absolute: libraries of linear algebra round in their own way on each kind of CPU."""


def same(figures: Mapping[str, float | None], stored: Mapping[str, float | None]) -> bool:
    """Whether both hold the same figures, but for rounding."""
    return figures.keys() == stored.keys() and all(
        value == stored[name]
        if value is None or stored[name] is None
        else math.isclose(value, stored[name], rel_tol=ROUNDING, abs_tol=ROUNDING)
        for name, value in figures.items()
    )


def main(name: str) -> int:
    """Print the figures; exit status 1 where they differ from the stored ones."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in RESULTS.glob("*.json"))
        print(f"benchmarks.recompute: error: there is no record {name!r}; there are {known}", file=sys.stderr)
        return 2
    record = json.loads(path.read_text())
    figures = dict(importlib.import_module(f"benchmarks.{name}").figures(record["rows"]))
    print(json.dumps(figures, indent=2))
    if not same(figures, record["figures"]):
        print(f"{path} holds other figures: {record['figures']}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.recompute NAME", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
