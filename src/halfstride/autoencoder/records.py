"""Dataclasses and named tuples as JSON, and back with every value checked: files may have been changed by hand."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A value of dataclasses, named tuples, tuples, numbers and text as what `json` writes.

    Fields of dataclasses with the metadata `{"json": False}` are left out.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: to_json(entry) for name, entry in value._asdict().items()}
        return [to_json(entry) for entry in value]
    return value


def from_json(kind: type[T], value: Any, where: str) -> T:
    """The `kind` that `to_json` made `value` from.

    Args:
        kind: a dataclass or named tuple whose fields are those, tuples `tuple[X, ...]`, numbers, text, bool, `Literal`
            or None.
        value: what `json` read.
        where: what to call it in errors.

    Raises:
        ValueError: for a missing or superfluous field, a value of another type, and a number that is not finite.
    """
    return _read(kind, value, where)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return tuple(_read(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise _wrong(where, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _read_fields(kind, value, where)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _wrong(where, value, "a finite number")
        return float(value)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise _wrong(where, value, "an int of at least 0")
    if not isinstance(value, kind):
        raise _wrong(where, value, {str: "text", bool: "true or false"}.get(kind, kind.__name__))
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "an object")
    names = [field.name for field in _fields(kind)] if dataclasses.is_dataclass(kind) else list(kind._fields)
    for name in names:
        if name not in value:
            raise ValueError(f"`{where}` has no `{name}`: restore the file, or evaluate again.")
    if more := sorted(set(value) - set(names)):
        raise ValueError(f"`{where}` has a field `{more[0]}` that it should not have: evaluate again.")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names})


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.metadata.get("json", True)]


def _wrong(where: str, value: Any, expected: str) -> ValueError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ValueError(f"`{where}` (={shown}) must be {expected}: restore the file, or evaluate again.")
