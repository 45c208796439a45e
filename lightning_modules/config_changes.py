"""Where two configs differ: whether a run folder, or a checkpoint in it, is what a config asks for."""

from collections.abc import Iterator, Mapping
from typing import Any


def changes(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """{key: (its value before, its value now)} where two configs differ, plain containers with nothing to resolve.

    A key that is null, or an empty mapping, is as good as not there. What was given, such as ``lmbda``, comes before
    the places that it was copied to.
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = sorted(old.keys() | new.keys(), key=lambda key: (key.count("."), key))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path, node
