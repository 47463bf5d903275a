"""Which products of a resize-convolution, summed by parts, make which output; see `by_parts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from halfstride._core.algorithms.products import capability
from halfstride._core.case import Case
from halfstride._support.torch_private import is_compiling
from halfstride._support.weight_cache import cached

Component = tuple[int, ...]
"""By axis: 0 for the values at the anchors, or the class of jumps, counted from 1."""

Gaps = tuple[int, ...]
"""By axis: 0 for the anchor, or the gap between two taps of a class of jumps, counted from 1."""


_BLOCK = 2**23
"""Most elements of intermediate results in a block (32 MiB of float32); a quarter of it in training."""
_ROWS = 2**11
"""Fewest rows of a block's matrices, even beyond `_BLOCK`: products of fewer are slow."""

_FURTHEST = 4
"""Most positions from one anchor to the next: further apart they save next to nothing."""
_ANCHORS = 2**8
"""Anchors are set apart only where at least this many remain in all images."""
_MACS_PER_MATRIX = {"avx2": 2**24, "avx512": 2**25}
"""The cost of one more matrix product, in MACs, measured on AMD's third and fourth generation."""
_ROWS_PER_KERNEL = 96
"""The cost of forming one more kernel, in rows multiplied by it, where kernels are not cached."""


class Landing(NamedTuple):
    """Products of a gap that are added to neighbouring outputs of a phase."""

    phase: int
    start: int
    """Which product the first of the phase adds."""
    size: int


@dataclass(frozen=True, eq=False)  # compared by identity, which is fast: plans are cached by case
class AxisPlan:
    """One axis of a resize-convolution, summed by parts."""

    input_size: int
    output_size: int
    kernel_size: int
    stride: int
    dilation: int
    padding: int
    period: int
    """Positions from one anchor to the next."""
    lattices: tuple[range, ...]
    """The input positions of each component: the anchors, then each class of jumps `x[i] - x[i-1]`: those into an
    anchor, those into the position after it, and so on."""
    before: tuple[int, ...]
    """The number of gaps of each class whose jumps lie before the anchor; they are the first ones."""
    terms: tuple[tuple[tuple[int, int], ...], ...]
    """By phase, pairs (gap, start): output `q` adds product `q + start` of that gap. Gap 0 is the anchor."""

    @property
    def step(self) -> int:
        """Outputs from one of a phase to the next."""
        return self.stride * self.period

    @property
    def has_jumps(self) -> bool:
        return self.kernel_size > 1 and any(self.lattices[1:])

    @property
    def components(self) -> tuple[int, ...]:
        """0 for the values at the anchors, and the classes of jumps, counted from 1."""
        return tuple(i for i, positions in enumerate(self.lattices) if i == 0 or (self.has_jumps and positions))

    @property
    def phases(self) -> range:
        return range(min(self.step, self.output_size))

    @property
    def gaps(self) -> range:
        """One for the anchor, then `k - 1` for each class of jumps."""
        return range(1 + self.period * (self.kernel_size - 1) if self.has_jumps else 1)

    def gaps_of(self, component: int) -> range:
        """The gaps that are multiplied with a component."""
        count = self.kernel_size - 1
        return range(1) if component == 0 else range(1 + (component - 1) * count, 1 + component * count)

    def component_of(self, gap: int) -> int:
        return 0 if gap == 0 else 1 + (gap - 1) // (self.kernel_size - 1)

    @property
    def signs(self) -> list[list[int]]:
        """(gaps, taps): each gap's kernel as a sum of taps. An anchor's is the sum of all of them; that of a gap is the
        sum of those beyond it, for jumps that come after the anchor, and minus the sum of those before it for other
        jumps, which are what the value still lacks."""
        k, signs = self.kernel_size, [[1] * self.kernel_size]
        for before in self.before if self.has_jumps else ():
            signs += [[-1] * gap + [0] * (k - gap) for gap in range(1, before + 1)]
            signs += [[0] * gap + [1] * (k - gap) for gap in range(before + 1, k)]
        return signs

    def size_of(self, phase: int) -> int:
        return len(range(phase, self.output_size, self.step))

    def part(self, outputs: range) -> tuple[range, AxisPlan]:
        """The inputs that these outputs, from a multiple of the step on, are made of, and the plan that does it."""
        k, s, d, padding = self.kernel_size, self.stride, self.dilation, self.padding - outputs.start
        span = d * (k - 1)
        ends = (-padding // s, (len(outputs) - 1 + span - padding) // s)  # what the first and the last of them see
        first, last = (min(max(at, 0), self.input_size - 1) for at in ends)
        plan = _axis_plan(last + 1 - first, len(outputs), k, s, d, padding + s * first, self.period)
        return range(first, last + 1), plan


@dataclass(frozen=True, eq=False)
class PartsPlan:
    """All axes of a resize-convolution, summed by parts."""

    axes: tuple[AxisPlan, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(self.gaps)

    @property
    def gaps(self) -> dict[Component, list[Gaps]]:
        """Of each component, the gaps that are multiplied with it."""
        return _gaps(self)

    @property
    def others(self) -> PartsPlan:
        """Of all axes but the first."""
        return _others(self)

    def positions(self, component: Component) -> tuple[int, ...]:
        return tuple(len(axis.lattices[each]) for axis, each in zip(self.axes, component, strict=True))

    @property
    def anchors(self) -> int:
        return math.prod(len(axis.lattices[0]) for axis in self.axes)

    @property
    def macs(self) -> int:
        """Of one image, for each input channel and output channel."""
        return sum(math.prod(self.positions(component)) * len(self.gaps[component]) for component in self.components)

    @property
    def kernels(self) -> int:
        return math.prod(len(axis.gaps) for axis in self.axes)

    @property
    def matrices(self) -> int:
        """Matrix products of a block, forwards: one for each gap of the first axis and each component of the others."""
        return len(self.axes[0].gaps) * math.prod(len(axis.components) for axis in self.axes[1:])

    @property
    def sums(self) -> int:
        """Tensors that are added up for the output of a block, forwards: the first axis is summed by the products."""
        return len(self.axes[0].phases) * math.prod(sum(map(len, axis.terms)) for axis in self.axes[1:])


# Properties that are asked repeatedly; cached by functions, since compilers cannot trace `cached_property`.


@cached
def landings(axis: AxisPlan, gap: int) -> tuple[Landing, ...]:
    """Where the products of a gap land."""
    return tuple(
        Landing(phase, start, axis.size_of(phase))
        for phase in axis.phases
        for of, start in axis.terms[phase]
        if of == gap
    )


@cached
def _gaps(plan: PartsPlan) -> dict[Component, list[Gaps]]:
    return {
        component: list(product(*(axis.gaps_of(each) for axis, each in zip(plan.axes, component, strict=True))))
        for component in product(*(axis.components for axis in plan.axes))
    }


@cached
def _others(plan: PartsPlan) -> PartsPlan:
    return PartsPlan(plan.axes[1:])


@cached
def plan(case: Case, *, kernels_last: bool = False) -> PartsPlan:
    """The plan of a case of one group that is padded with zeros.

    Args:
        kernels_last: whether kernels are cached from call to call, so that their number does not matter.
    """

    def cost(plan: PartsPlan) -> float:
        """In MACs."""
        kernels = 0 if kernels_last else plan.kernels * case.channel_pairs / max(case.batch, 1)
        macs = plan.macs * case.channel_pairs + _ROWS_PER_KERNEL * kernels
        return macs + _MACS_PER_MATRIX[capability()] * plan.matrices

    close, furthest = (1,) * case.axes, furthest_periods(case)
    if is_compiling() or furthest == close:  # under a compiler sizes may be symbols
        return with_periods(case, close)
    # Blocks go along the first axis: with its anchors apart, fewer intermediate results exist at a time.
    choices = [(*furthest[:axes], *close[axes:]) for axes in reversed(range(case.axes + 1))]
    plans = [with_periods(case, periods) for periods in choices]
    enough = [each for each in plans if case.batch * each.anchors >= _ANCHORS]
    return min(enough, key=cost, default=plans[-1])


def furthest_periods(case: Case) -> tuple[int, ...]:
    """How far apart anchors may be along each axis: every output sees one, if there is one among as many positions as
    each of them sees at the least."""
    return tuple(
        min(1 + (k - 1) // s, _FURTHEST) if d == 1 else 1
        for k, s, d in zip(case.kernel_size, case.stride, case.dilation, strict=True)
    )


def with_periods(case: Case, periods: Sequence[int]) -> PartsPlan:
    """The plan with anchors so far apart along each axis."""
    sizes = case.input_size, case.output_size, case.kernel_size, case.stride, case.dilation, case.padding
    return PartsPlan(tuple(map(_axis_plan, *sizes, periods)))


def _axis_plan(n: int, o: int, k: int, s: int, d: int, p: int, m: int) -> AxisPlan:
    """An axis of input size n, output size o, kernel size k, stride s, dilation d, padding p and period m."""
    span, middle = d * (k - 1), d * ((k - 1) // 2)  # upsampled positions from the first tap to the last, to the middle
    first = (middle - p) // s  # what the first output sees at its middle tap is an anchor

    def anchor(output: int) -> int:
        """What an output sees at its middle tap, or the anchor before that, or, where it does not see that, after."""
        at = (output + middle - p) // s
        at -= (at - first) % m
        return at if at >= (output - p) // s else at + m

    anchors = range(first, anchor(o - 1) + 1, m)
    jumps = range(-p // s + 1, (o - 1 + span - p) // s + 1)
    classes = [range(jumps.start + (first + c - jumps.start) % m, jumps.stop, m) for c in range(m)]
    phases = []
    for r in range(s * m):
        terms = [(0, (anchor(r) - anchors.start) // m)]
        for i in range((r - p) // s + 1, (r + span - p) // s + 1):
            gap = -((r - p - s * i) // d)  # so many taps t have r + d·t - p < s·i: they lie before jump i
            c = (i - first) % m
            terms.append((gap + c * (k - 1), (i - classes[c].start) // m))
        phases.append(tuple(terms))
    before = [sum(first + c <= anchor(s * (first + c) + p - d * gap) for gap in range(1, k)) for c in range(m)]
    return AxisPlan(n, o, k, s, d, p, m, (anchors, *classes), tuple(before), tuple(phases))


class Block(NamedTuple):
    """A part of the work: rows of the output of some images, and the rows of the input that they are made of."""

    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]
    plan: PartsPlan


@cached
def blocks(plan: PartsPlan, images: int, in_channels: int, out_channels: int, *, training: bool) -> list[Block]:
    """Blocks of at most `_BLOCK` elements of intermediate results, but of at least `_ROWS` rows."""
    if is_compiling():  # a compiler schedules the work itself, and sizes may be symbols
        return [Block((slice(None), slice(None)), (slice(None), slice(None)), plan)]
    positions = [math.prod(plan.positions(component)) for component in plan.components]
    products = 2 * max(positions) * math.prod([len(axis.gaps) for axis in plan.axes[1:]])
    numbers = sum(positions) * in_channels + products * out_channels
    fitting = (_BLOCK / 4 if training else _BLOCK) / max(numbers, 1)
    step = math.ceil(max(fitting - 1, _ROWS / positions[0]))
    lead = plan.axes[0]
    height = lead.output_size
    if step == 1 and fitting < 1:
        rows = len(lead.lattices[0]) * max(fitting, _ROWS / positions[0])
        count = max(round(len(lead.lattices[0]) / rows), 1)
        height = lead.step * -(-lead.output_size // (lead.step * count))
    parts = []
    for start in range(0, lead.output_size, height):
        outputs = range(start, min(start + height, lead.output_size))
        inputs, part = lead.part(outputs)
        parts.append((_slice(inputs), _slice(outputs), PartsPlan((part, *plan.axes[1:]))))
    return [
        Block((some, inputs), (some, outputs), part)
        for some in (slice(start, start + step) for start in range(0, images, step))
        for inputs, outputs, part in parts
    ]


def _slice(positions: range) -> slice:
    return slice(positions.start, positions.stop)
