"""The reading of arguments: what people may write, brought to one int, or one pair of ints, per axis.

Every error names the argument and its value, and says what it may be.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

Sizes = int | Sequence[int]
Padding = int | str | Sequence[int | tuple[int, int]]
Pairs = tuple[tuple[int, int], ...]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def read_sizes(name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """An int for every axis, or one int per axis, as one int per axis."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != axes:
            raise ValueError(f"`{name}` (={value!r}) must be one int, or {_count(axes, 'int')} (one per axis).")
        return tuple(read_int(name, entry, least) for entry in value)
    return (read_int(name, value, least),) * axes


def read_int(name: str, value: Any, least: int | None) -> int:
    at_least = "" if least is None else f" of at least {least}"
    # A size traced by torch.compile (SymInt) must stay what it is: `operator.index` would fix it to one value.
    try:
        if isinstance(value, bool):
            raise TypeError
        number: Any = value if isinstance(value, int | torch.SymInt) else operator.index(value)
    except TypeError:
        raise ValueError(f"`{name}` (={value!r}) must be an int{at_least}.") from None
    if least is not None and number < least:
        raise ValueError(f"`{name}` (={number}) must be at least {least}.")
    return number  # type: ignore[no-any-return]


def read_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return `value` where it is one of `choices`, and raise a `ValueError` that lists them where it is not."""
    if value not in choices:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, choices))}.")
    return value


def read_padding(padding: Any, axes: int) -> Pairs | None:
    """Padding as one (before, after) pair per axis; None for "same", which depends on the form."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(
                f"`padding` (={padding!r}) must be 'same', 'valid', an int, an int per axis, "
                f"or a pair (before, after) per axis."
            )
        return None if padding == "same" else ((0, 0),) * axes
    if not isinstance(padding, Sequence):
        return ((read_int("padding", padding, None),) * 2,) * axes
    if len(padding) != axes:
        raise ValueError(
            f"`padding` (={padding!r}) must be one int, or {_count(axes, 'int')} (one per axis), "
            f"or {_count(axes, 'pair')} (before, after)."
        )
    pairs = []
    for entry in padding:
        both = entry if isinstance(entry, Sequence) and not isinstance(entry, str) else (entry, entry)
        if len(both) != 2:
            raise ValueError(f"`padding` (={padding!r}) must have pairs (before, after): {entry!r} is none.")
        pairs.append((read_int("padding", both[0], None), read_int("padding", both[1], None)))
    return tuple(pairs)


def read_padding_mode(padding_mode: Any) -> str:
    return str(read_choice("padding_mode", padding_mode, PADDING_MODES))


def read_scale_factor(scale_factor: Any, axes: int) -> tuple[int, ...]:
    try:
        return read_sizes("scale_factor", scale_factor, axes, 1)
    except ValueError as error:
        raise ValueError(
            f"{error} For a scale that is no integer use torch.nn.functional.interpolate and a convolution."
        ) from None


def read_groups(groups: Any, *channels: tuple[str, int]) -> int:
    number = read_int("groups", groups, 1)
    for side, count in channels:
        if count % number:
            raise ValueError(f"`groups` (={number}) must divide the {count} {side} channels.")
    return number


def read_shapes(
    axes: int, input_shape: Sequence[int], weight_shape: Sequence[int]
) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Batch, input channels, input size and kernel size."""
    if len(input_shape) not in (axes + 1, axes + 2):
        raise ValueError(
            f"`input` (of shape {tuple(input_shape)}) must have {axes + 2} dimensions (batch, channels and "
            f"{_count(axes, 'spatial one')}), or {axes + 1} without a batch."
        )
    if len(weight_shape) != axes + 2:
        raise ValueError(
            f"`weight` (of shape {tuple(weight_shape)}) must have {axes + 2} dimensions: two of channels and "
            f"{_count(axes, 'spatial one')}."
        )
    for name, shape in (("input", input_shape), ("weight", weight_shape)):
        if min(shape[-axes:]) < 1:
            raise ValueError(f"`{name}` (of shape {tuple(shape)}) must have at least one position along each axis.")
    batch = input_shape[0] if len(input_shape) == axes + 2 else 1
    return batch, input_shape[-axes - 1], tuple(input_shape[-axes:]), tuple(weight_shape[-axes:])


def check_channels(in_channels: int, expected: int, weight_shape: Sequence[int]) -> None:
    if in_channels != expected:
        raise ValueError(
            f"`input` has {in_channels} channels where `weight` (of shape {tuple(weight_shape)}) takes {expected}."
        )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
