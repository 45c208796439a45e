"""A config held against the code: missing, unknown and mistyped values, before anything is made of them."""

import difflib
import inspect
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

MAPPINGS = (Mapping, dict)


def check_components(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Find missing, unknown and mistyped values.

    Every component's keys and plain values are held against the signature of its ``_target_``.

    Args:
        config: plain containers, interpolations resolved.
        known: {top-level key: its type}.

    Raises:
        ValueError: the first such key in full, its value and what is allowed.
    """
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"unknown config key {str(key)!r}; {_instead(str(key), known)}")
        _check_value(key, value, known[key])
    for key, node in config.items():
        _check_node(key, node)


def _check_node(path: str, node: Any) -> None:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        if value == "???":
            raise ValueError(f"{path}.{key} is missing: give {path}.{key}=VALUE")
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        _check_call(path, node)
    for key, value in children:
        _check_node(f"{path}.{key}", value)


def _check_call(path: str, node: dict[str, Any]) -> None:
    try:
        target = pkgutil.resolve_name(node["_target_"])
        parameters = inspect.signature(target).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}._target_={node['_target_']} cannot be used: {error}") from error
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, AttributeError):  # names that exist for type checkers alone
        hints = {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        if key in parameters:
            _check_value(f"{path}.{key}", value, hints.get(key, Any))
        elif not open_ended:
            raise ValueError(f"{path}.{key}: {target.__name__} takes no {key!r}; {_instead(key, parameters)}")


def _instead(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are {', '.join(sorted(known))}"


def _check_value(path: str, value: Any, hint: Any) -> None:
    inner = typing.get_args(hint)
    if isinstance(value, dict) and "_target_" not in value and typing.get_origin(hint) in MAPPINGS:
        for key, child in value.items():
            _check_value(f"{path}.{key}", child, inner[1])
    elif not _fits(value, hint):
        raise ValueError(f"{path} is {value!r}, must be {_describe(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a yaml can be of a type; objects that are still to be made always can."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    if hint is Any or value == "???":
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    kind = origin or hint
    if isinstance(value, dict):
        if not inspect.isclass(kind) or not issubclass(kind, Mapping):
            # The stage's data is what differs from the run's; a path or a number is no mapping.
            return kind not in (int, float, bool, str, Path, type(None)) and not _is_sequence(kind)
        return len(inner) < 2 or all(_fits(child, inner[1]) for child in value.values())
    if isinstance(value, list):
        every = inner[:1] if inner else (Any,)
        return _is_sequence(kind) and all(_fits(child, every[0]) for child in value)
    if value is None:
        return hint is type(None)
    plain = {float: (int, float), int: (int,), str: (str,), Path: (str,), bool: (bool,)}
    return not (isinstance(value, bool) and kind is not bool) and isinstance(value, plain.get(kind, ()))


def _is_sequence(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Sequence) and kind is not str


def _describe(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(option) for option in inner))
    if origin is Literal:
        return " or ".join(repr(option) for option in inner)
    kind = origin or hint
    words = {
        float: "a number",
        int: "a whole number",
        str: "a text",
        Path: "a path",
        bool: "true or false",
        type(None): "null",
    }
    if kind in words:
        return words[kind]
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping" + (f" of names to {_describe(inner[1])}" if len(inner) == 2 else "")
    if _is_sequence(kind):
        return "a list" + (f" with {_describe(inner[0])} in each place" if inner else "")
    return f"a {getattr(kind, '__name__', kind)} (a node with its _target_)"
