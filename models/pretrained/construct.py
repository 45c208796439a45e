"""Objects from plain config nodes, without Hydra, and only of the project's own kinds.

A node is what a yaml holds: ``{"_target_": "models.codecs.identity.Identity", argument: value, ...}``, nested at will.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

ALLOWED = ("models.", "tasks.")
"""What the ``_target_`` of a node may begin with."""

IGNORED = ("_convert_",)
"""Keys that only Hydra needs: values are plain here already."""


def construct(node: Any, *args: Any, allowed: Collection[str] = ALLOWED, path: str = "") -> Any:
    """Build what a node describes, inner nodes first.

    Nodes may come from strangers. So a target must be a public class (or a function that returns a module) which one
    of the allowed packages itself defines: nothing that a module there merely imports, such as ``os.system``, can be
    reached, and nothing is imported before its name is allowed.

    Args:
        node: a mapping with ``_target_`` and, optionally, ``_partial_``; or a list or mapping of nodes; or a value,
            which is returned as it is.
        args: positional arguments of the outermost target.
        allowed: what a target may begin with, each with its final dot.
        path: where the node lies in its config, for messages.

    Returns:
        The object; with ``_partial_: true``, a callable that takes the remaining arguments.

    Raises:
        ValueError: a target that is not allowed or does not exist, or arguments it does not take.

    Example:
        >>> construct({"_target_": "models.codecs.standard.pillow.JPEG", "subsampling": "4:4:4"}).subsampling
        '4:4:4'
    """
    if isinstance(node, Mapping) and "_target_" in node:
        return _call(node, args, allowed, path)
    if args:
        raise ValueError(f"{_at(path)}there is no `_target_` to give arguments to")
    if isinstance(node, Mapping):
        return {key: construct(value, allowed=allowed, path=_below(path, key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [construct(value, allowed=allowed, path=_below(path, i)) for i, value in enumerate(node)]
    return node


def targets(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """(path, target) of every node inside, outermost first."""
    if isinstance(node, Mapping):
        own = [(path, node["_target_"])] if "_target_" in node else []
        return own + [found for key, value in node.items() for found in targets(value, _below(path, key))]
    if isinstance(node, (list, tuple)):
        return [found for i, value in enumerate(node) for found in targets(value, _below(path, i))]
    return []


def check_targets(node: Any, *, allowed: Collection[str] = ALLOWED, path: str = "") -> None:
    """Refuse a node any part of which names something outside the allowed packages; imports nothing.

    Raises:
        ValueError: with the first such target.
    """
    for where, target in targets(node, path):
        if not isinstance(target, str) or not target.startswith(tuple(allowed)):
            raise ValueError(
                f"{_at(where)}_target_={target!r} is not allowed: it may only name things in "
                f"{' and '.join(name.rstrip('.') for name in allowed)}"
            )
        if not all(part.isidentifier() and not part.startswith("_") for part in target.split(".")):
            raise ValueError(f"{_at(where)}_target_={target!r} is not the dotted name of a public class")


def target_of(node: Mapping[str, Any], *, allowed: Collection[str] = ALLOWED, path: str = "") -> Callable:
    """The class, or the function that returns a module, which a node names.

    Raises:
        ValueError: not allowed, or there is no such thing.
    """
    name = node["_target_"]
    check_targets({"_target_": name}, allowed=allowed, path=path)
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{_at(path)}{name} needs a package that is not installed: {error.name}"
            ) from error
        module = None
    found = getattr(module, attribute, None)
    if not _is_own(found, allowed):
        raise ValueError(
            f"{_at(path)}_target_={name} is no class of this version of the code: use the version that made the model"
        )
    return found


def _is_own(found: Any, allowed: Collection[str]) -> bool:
    if not getattr(found, "__module__", "").startswith(tuple(allowed)):
        return False
    if inspect.isclass(found):
        return True
    made = inspect.signature(found).return_annotation if inspect.isfunction(found) else None
    return inspect.isclass(made) and issubclass(made, nn.Module)


def _call(node: Mapping[str, Any], args: tuple, allowed: Collection[str], path: str) -> Any:
    check_targets(node, allowed=allowed, path=path)
    target = target_of(node, allowed=allowed, path=path)
    rest = {key: value for key, value in node.items() if key not in ("_target_", "_partial_", *IGNORED)}
    if special := [key for key in rest if not isinstance(key, str) or key.startswith("_")]:
        raise ValueError(f"{_at(path)}{node['_target_']}: the key {special[0]!r} is not known here")
    named = {key: construct(value, allowed=allowed, path=_below(path, key)) for key, value in rest.items()}
    late = bool(node.get("_partial_", False))
    signature = inspect.signature(target)
    try:
        (signature.bind_partial if late else signature.bind)(*args, **named)
    except TypeError as error:
        raise ValueError(f"{_at(path)}{node['_target_']}: {error}") from error
    return partial(target, *args, **named) if late else target(*args, **named)


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(path: str) -> str:
    return f"{path}: " if path else ""
