"""Which layers' patterns a tensor can have, and of which periods: followed from tensor to tensor through a model.

An upsampling of stride `s` can give its output a pattern of period `s`. Later upsampling by `r` makes that `r * s`;
sampling at every `r`-th position, as strided convolutions and poolings do, makes it `s / gcd(s, r)`. What lies between
two calls of known layout is told by the sizes: an enlargement there is upsampling that was not recognised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._support.torch_private import tree_leaves

_INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
_CUTS = {*_INDEXED, torch.cat, torch.concat, torch.concatenate, F.pad, torch.narrow, Tensor.narrow}
_CUTS |= {torch.split, Tensor.split, torch.chunk, Tensor.chunk, torch.roll}
_RESIZED = 1.5  # times larger or smaller is not a border more or less


class Grid(NamedTuple):
    """The positions at which one layer can make a pattern."""

    layer: str | None
    """Its name; None for upsampling that was not recognised."""
    period: tuple[int, ...]
    without: tuple[int, ...]
    """The period of what upsampled after it, whose harmonics are not this layer's."""


class Grids(NamedTuple):
    """All those of a tensor."""

    size: tuple[int, ...]
    """Of the last axes, where it was last known."""
    grids: tuple[Grid, ...]


def grids_of(tensor: Tensor, axes: int) -> tuple[Grid, ...] | None:
    """Those that a tensor (batch, channels, *size) with so many axes can have; None where that was not followed."""
    known: Grids | None = getattr(tensor, "_grids", None)
    if known is None:
        return None
    up, down = [1] * axes, [1] * axes
    for axis in range(-min(len(known.size), axes), 0):
        before, after = known.size[axis], tensor.shape[axis]
        if after >= _RESIZED * before:
            up[axis] = round(after / before)
        elif before >= _RESIZED * after:
            down[axis] = round(before / after)
    return _moved([_along(grid, axes) for grid in known.grids], up, down, None, up)


def mark(
    output: Tensor,
    input: Any,
    axes: int,
    *,
    by: Sequence[int] = (),
    stride: Sequence[int] = (),
    layer: str | None = None,
) -> None:
    """Note the grids of a call of known layout, (batch, channels, *size) with so many axes.

    Args:
        by: how many times larger it makes its input.
        stride: it then takes every so many-th position.
        layer: the layer's name, if `by` can make a pattern.
    """
    ones = [1] * axes
    earlier = (grids_of(input, axes) or ()) if isinstance(input, Tensor) else ()
    grids = _moved(earlier, by or ones, stride or ones, layer, ones if layer is None else by)
    output._grids = Grids(tuple(output.shape[-axes:]), grids)  # type: ignore[attr-defined]


def carry(func: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
    """Note the grids of any other call: those of all its inputs, at the size that these have, or at its own where it
    only cuts, joins or pads them."""
    if func is Tensor.__setitem__:
        output, inputs = args[0], [args[2]]
    else:
        inputs = tree_leaves((args, kwargs))
    known = [each._grids for each in inputs if isinstance(each, Tensor) and hasattr(each, "_grids")]
    if not known:
        return
    axes = max(len(each.size) for each in known)
    cuts = func in _CUTS and not (func in _INDEXED and _skips(args[1]))
    if cuts or len({each.size for each in known}) > 1:  # what was pooled in between
        inputs = [each for each in inputs if isinstance(each, Tensor) and each.dim() == axes + 2]
        grids = [grid for each in inputs for grid in grids_of(each, axes) or ()]
        size = max((tuple(each.shape[2:]) for each in inputs), key=math.prod, default=known[0].size)
    else:
        grids = [_along(grid, axes) for each in known for grid in each.grids]
        size = known[0].size
    for each in tree_leaves(output):
        if isinstance(each, Tensor) and each.is_floating_point():
            now = tuple(each.shape[-axes:]) if cuts and each.dim() > axes else size
            each._grids = Grids(now, tuple(dict.fromkeys(grids)))  # type: ignore[attr-defined]


def _skips(index: Any) -> bool:
    """Whether an index may do other than to cut."""
    parts = index if isinstance(index, tuple) else (index,)
    return not all((isinstance(part, slice) and part.step in (None, 1)) or part is Ellipsis for part in parts)


def _along(grid: Grid, axes: int) -> Grid:
    """The grid along the last so many axes; along others than its own nothing repeats."""
    more = (1,) * (axes - len(grid.period))
    return Grid(grid.layer, (*more, *grid.period)[-axes:], (*more, *grid.without)[-axes:])


def _moved(
    grids: Iterable[Grid], up: Sequence[int], down: Sequence[int], layer: str | None, own: Sequence[int]
) -> tuple[Grid, ...]:
    """The grids after upsampling by `up`, which gives one of period `own` to `layer`, and then sampling at every
    `down`-th position."""
    ones = (1,) * len(up)
    grown = [
        Grid(name, *(tuple(map(math.prod, zip(each, up, strict=True))) for each in periods)) for name, *periods in grids
    ]
    moved = []
    for name, *periods in (*grown, Grid(layer, tuple(own), ones)):
        period, without = (tuple(p // math.gcd(p, d) for p, d in zip(each, down, strict=True)) for each in periods)
        if max(period, default=1) > 1:
            moved.append(Grid(name, period, without if without != period else ones))
    return tuple(dict.fromkeys(moved))
