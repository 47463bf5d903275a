"""Which products of a resize-convolution, summed by parts, make which output; see `differences`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch

from halfstride.algorithms.case import Case
from halfstride.caching import cached

__all__ = ["AxisPlan", "Block", "Gaps", "Plan", "Subset", "blocks", "plan"]

Subset = tuple[bool, ...]
"""Of the axes: whether the input is differenced along them."""

Gaps = tuple[int, ...]
"""Of the axes: which gap between taps, counted from 1, or 0 for the anchor."""


_BLOCK = 2**22
"""Numbers of intermediate results in a block: 16 MiB of float32, half of them backwards, where memory is short,"""
_ROWS = 2**11
"""and at least so many rows of each matrix, without which products are slow."""


@dataclass(frozen=True)
class AxisPlan:
    """One axis of a resize-convolution, summed by parts."""

    input_size: int
    output_size: int
    kernel_size: int
    stride: int
    dilation: int
    padding: int
    anchors: range
    """The input positions whose values are needed,"""
    jumps: range
    """and those whose jumps `x[i] - x[i-1]` are."""
    terms: tuple[tuple[tuple[int, int], ...], ...]
    """Of each phase the pairs (gap, start): output `q` adds product `q + start` of that gap. Gap 0 is the anchor."""

    @property
    def anchor(self) -> int:
        """The tap at which the kernel meets the value itself."""
        return (self.kernel_size - 1) // 2

    @property
    def has_jumps(self) -> bool:
        return self.kernel_size > 1 and bool(self.jumps)

    @property
    def choices(self) -> tuple[bool, ...]:
        return (False, True) if self.has_jumps else (False,)

    @property
    def phases(self) -> range:
        return range(min(self.stride, self.output_size))

    @property
    def gaps(self) -> range:
        return range(self.kernel_size if self.has_jumps else 1)

    def place(self, gap: int) -> int:
        """Of the taps whose sum belongs to a gap, the one next to it; of all taps the anchor."""
        if not self.has_jumps:
            return 0
        return self.anchor if gap == 0 else gap - 1 if gap <= self.anchor else gap

    def size_of(self, phase: int) -> int:
        return len(range(phase, self.output_size, self.stride))

    def part(self, outputs: range) -> tuple[range, AxisPlan]:
        """The inputs that these outputs, from a multiple of the stride on, are made of, and the plan that does it."""
        k, s, d, padding = self.kernel_size, self.stride, self.dilation, self.padding - outputs.start
        seen = _axis_plan(self.input_size, len(outputs), k, s, d, padding)
        first, last = min(seen.anchors.start, seen.jumps.start - 1), max(seen.anchors.stop, seen.jumps.stop) - 1
        first, last = (min(max(at, 0), self.input_size - 1) for at in (first, last))
        plan = _axis_plan(last + 1 - first, len(outputs), k, s, d, padding + s * first)
        return range(first, last + 1), plan


@dataclass(frozen=True)
class Plan:
    """All axes of a resize-convolution, summed by parts."""

    axes: tuple[AxisPlan, ...]

    @property
    def subsets(self) -> list[Subset]:
        return list(product(*(axis.choices for axis in self.axes)))

    def gaps(self, subset: Subset) -> list[Gaps]:
        """The gaps that are multiplied with a subset's jumps, and anchors."""
        return list(
            product(*(axis.gaps[1:] if jumps else axis.gaps[:1] for jumps, axis in zip(subset, self.axes, strict=True)))
        )

    def positions(self, subset: Subset) -> tuple[int, ...]:
        return tuple(len(axis.jumps if jumps else axis.anchors) for jumps, axis in zip(subset, self.axes, strict=True))


@cached
def plan(case: Case, input_size: tuple[int, ...], first: tuple[int, ...]) -> Plan:
    """The plan of a case whose input has been continued to `input_size` positions, from position `first` on."""
    axes = []
    for axis, (n, at) in enumerate(zip(input_size, first, strict=True)):
        s = case.stride[axis]
        padding = case.padding[axis] + s * at
        axes.append(_axis_plan(n, case.output_size[axis], case.kernel_size[axis], s, case.dilation[axis], padding))
    return Plan(tuple(axes))


def _axis_plan(n: int, o: int, k: int, s: int, d: int, p: int) -> AxisPlan:
    span, anchor = d * (k - 1), d * ((k - 1) // 2)  # upsampled positions from the first tap to the last, to the anchor
    anchors = range((anchor - p) // s, (o - 1 + anchor - p) // s + 1)
    jumps = range(-p // s + 1, (o - 1 + span - p) // s + 1)
    phases = []
    for r in range(s):
        terms = [(0, (r + anchor - p) // s - anchors.start)]
        for i in range((r - p) // s + 1, (r + span - p) // s + 1):
            gap = -((r - p - s * i) // d)  # so many taps t have r + d·t - p < s·i: they lie before jump i
            terms.append((gap, i - jumps.start))
        phases.append(tuple(terms))
    return AxisPlan(n, o, k, s, d, p, anchors, jumps, tuple(phases))


class Block(NamedTuple):
    """A part of the work: rows of the output of some images, and the rows of the input that they are made of."""

    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]
    plan: Plan


def blocks(plan: Plan, images: int, in_channels: int, out_channels: int, *, backward: bool = False) -> list[Block]:
    """Blocks that keep their intermediate results within `_BLOCK` numbers, but make enough `_ROWS`."""
    if torch.compiler.is_compiling():  # a compiler orders the work itself, and may not know the sizes yet
        return [Block((slice(None), slice(None)), (slice(None), slice(None)), plan)]
    positions = [math.prod(plan.positions(subset)) for subset in plan.subsets]
    products = 2 * max(positions) * math.prod([len(axis.gaps) for axis in plan.axes[1:]])
    numbers = sum(positions) * in_channels + products * out_channels
    fitting = (_BLOCK / 2 if backward else _BLOCK) / max(numbers, 1)
    step = math.ceil(max(fitting - 1, _ROWS / positions[0]))
    lead = plan.axes[0]
    height = lead.output_size
    if step == 1 and fitting < 1:
        rows = len(lead.anchors) * max(fitting, _ROWS / positions[0])
        count = max(round(len(lead.anchors) / rows), 1)
        height = lead.stride * -(-lead.output_size // (lead.stride * count))
    parts = []
    for start in range(0, lead.output_size, height):
        outputs = range(start, min(start + height, lead.output_size))
        inputs, part = lead.part(outputs)
        parts.append((_slice(inputs), _slice(outputs), Plan((part, *plan.axes[1:]))))
    return [
        Block((some, inputs), (some, outputs), part)
        for some in (slice(start, start + step) for start in range(0, images, step))
        for inputs, outputs, part in parts
    ]


def _slice(positions: range) -> slice:
    return slice(positions.start, positions.stop)
