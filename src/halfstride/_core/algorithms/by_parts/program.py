"""Summation by parts as programs for `halfstride-kernels`: integers that its loops over positions follow.

Along one axis of a resize-convolution with scale `s`, each group of `s` outputs has an anchor, an input value that they
all see; where every output sees `m` inputs or more, one anchor serves `m` groups. Output `m·s·i + r - c`, with phases
`r < m·s` and `c` outputs skipped at the start, is

    S·x[m·i + a] + Σ K[g]·δ[m·i + q(r, g)]        over the gaps g between taps where phase r meets a jump δ

In several dimensions it is the tensor product of the axes; products of a value are made once for all its phases. The
gradients need no jumps: both multiply by single taps what is summed over `s` neighbours of the output's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from halfstride._core.case import Case
from halfstride._support.weight_cache import cached

_ZERO, _BIAS, _FIRST = 0, 1, 2  # slots: two that every program has, and the first of its own
_NOTHING = -1  # the kernel of a step that multiplies nothing

_Taps = Sequence[tuple[int, int]]  # (offset, sign)


class _Term(NamedTuple):
    """A product along one axis: of the value at the anchor, or of the jump in a gap between two taps."""

    kind: int  # 0 for the value; jumps from 1 on, by their place between anchors
    offset: int  # in anchors
    phase: int  # of the outputs that it is added to; -1 for the value, where these are all
    signs: tuple[int, ...]  # of the taps whose sum is its kernel


class _Line(NamedTuple):
    """An axis of a resize-convolution: from each anchor to the next, `spacing` inputs and `spacing * scale` outputs."""

    size: int
    output_size: int
    spacing: int
    phases: int
    skipped: int
    anchor: int
    terms: tuple[_Term, ...]  # the value first

    @property
    def positions(self) -> int:
        """Anchors with an output."""
        return (self.output_size - 1 + self.skipped) // self.phases + 1

    def gaps(self, phase: int) -> list[int]:
        return [at for at, term in enumerate(self.terms) if term.phase == phase]

    def axis(self) -> list[int]:
        kinds: list[_Taps] = [[(self.anchor, 1)], *([(at, 1), (at - 1, -1)] for at in range(self.spacing))]
        offsets = [term.offset for term in self.terms]
        return _axis(
            self.size, self.spacing, self.positions, offsets, self.output_size, self.phases, self.skipped, kinds
        )


def _line(size: int, scale: int, output_size: int, taps: int, padding: int, spacing: int) -> _Line:
    phases = scale * spacing
    # Skip as few outputs as it takes for the first and the last phase to see one input both: it will be the anchor.
    for skipped in range(phases):
        before = padding + skipped
        last, first = (phases - 1 - before) // scale, (taps - 1 - before) // scale
        if last <= first:
            break
    else:
        raise ValueError(f"`spacing` (={spacing}) is too far for {taps} taps at scale {scale}.")
    anchor = (last + first) // 2
    terms = [_Term(0, 0, -1, (1,) * taps)]
    for phase in range(phases):
        for gap in range(1, taps):
            position, rest = divmod(phase - before + gap, scale)
            if rest == 0:
                signs = tuple(int(t >= gap) if position > anchor else -int(t < gap) for t in range(taps))
                offset, at = divmod(position, spacing)
                terms.append(_Term(1 + at, offset, phase, signs))
    return _Line(size, output_size, spacing, phases, skipped, anchor, tuple(terms))


class Program(NamedTuple):
    """The integers, and the kernel of each product as signs of the taps: (products, taps)."""

    numbers: Tensor
    signs: Tensor


@cached
def _lines(case: Case, spacing: tuple[int, ...]) -> tuple[_Line, ...]:
    """Depth, height and width."""
    axes = zip(case.input_size, case.stride, case.output_size, case.kernel_size, case.padding, spacing, strict=True)
    missing = (_line(1, 1, 1, 1, 0, 1),) * (3 - case.axes)
    return (*missing, *(_line(*axis) for axis in axes))


@cached
def output_program(case: Case, spacing: tuple[int, ...]) -> Program:
    """The output, from the input.

    Args:
        case: a resize-convolution without dilation, of one group, padded with zeros.
        spacing: input positions from one anchor to the next, by axis; at most as many as every output sees.
    """
    lines = _lines(case, spacing)
    steps = _Steps(lines)
    phases = list(product(*(range(line.phases) for line in lines)))
    steps.emit((), {}, {phase: -1 - at for at, phase in enumerate(phases)}, _BIAS)
    axes = [line.axis() for line in lines]
    return Program(_numbers(axes, steps.slots, len(steps.signs), steps.written), torch.tensor(steps.signs))


@cached
def _taps(case: Case) -> tuple[list[list[int]], list[list[int]]]:
    """The sums of `scale` neighbours of the output's gradient, by axis as kinds, and by tap the kind and the offset."""
    missing = 3 - case.axes
    axes, places = [_axis(1, 1, 1, [0], 1, 1, 0, [[(0, 1)]])] * missing, [[(0, 0)]] * missing
    of_axes = zip(case.input_size, case.stride, case.output_size, case.kernel_size, case.padding, strict=True)
    for n, scale, o, taps, padding in of_axes:
        # Tap t meets input i in the outputs s·i + p - t, ..., s·i + p - t + s - 1.
        of_taps = [divmod(padding - t, scale) for t in range(taps)]
        kinds = [[(phase + at, 1) for at in range(scale)] for phase in range(scale)]
        axes.append(_axis(o, scale, n, [offset for offset, _ in of_taps], n, 1, 0, kinds))
        places.append([(phase, offset) for offset, phase in of_taps])
    return axes, [[number for place in chosen for number in place] for chosen in product(*places)]


@cached
def input_gradient_program(case: Case) -> Tensor:
    """The gradient to the input, from that of the output; a kernel for each tap."""
    axes, places = _taps(case)
    steps = []
    for at, place in enumerate(places):
        steps.append([*place, _FIRST if at else _ZERO, _ZERO, _FIRST if at + 1 < len(places) else -1, at])
    return _numbers(axes, _FIRST + 1, len(places), steps)


@cached
def weight_gradient_programs(case: Case) -> tuple[Tensor, Tensor]:
    """The gradient to the weight, tap by tap: a program for the input, and one for the gradient of the output."""
    axes, places = _taps(case)
    sizes = (*(1,) * (3 - case.axes), *case.input_size)
    values = [_axis(n, 1, n, [0], n, 1, 0, [[(0, 1)]]) for n in sizes]
    rest = [_ZERO, _ZERO, _ZERO, _NOTHING]
    return (
        _numbers(values, _FIRST, 0, [[0, 0, 0, 0, 0, 0, *rest] for _ in places]),
        _numbers(axes, _FIRST, 0, [[*place, *rest] for place in places]),
    )


_Terms = tuple[_Term, ...]
_Slots = dict[tuple[int, ...], int]  # by phases


class _Steps:
    """The steps of an output program: anchors first, which all phases share, then the gaps of each phase."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self.lines = lines
        self.written: list[list[int]] = []
        self.signs: list[list[int]] = []
        self.slots = _FIRST
        self._free: list[int] = []

    def emit(self, chosen: _Terms, added: _Slots, to: _Slots, begin: int) -> None:
        """Write, for the phases of the axes that follow, sums of products of the terms chosen for those before.

        Args:
            chosen: a term for each axis before.
            added: by phases, a slot to add.
            to: by phases, where the sum goes.
            begin: the slot that the first product is added to.
        """
        line = self.lines[len(chosen)]
        if len(chosen) + 1 == len(self.lines):
            self._emit_last(chosen, added, to, begin)
            return
        others = sorted({phases[1:] for phases in to})
        anchors = {phases: self._slot() for phases in others}
        self.emit((*chosen, line.terms[0]), {}, anchors, begin)
        for phase in range(line.phases):
            gaps, summed = line.gaps(phase), anchors
            whole = {of: (phase, *of) for of in others}
            for at, gap in enumerate(gaps):
                direct = at + 1 == len(gaps) and not added
                partial = {of: to[whole[of]] if direct else self._slot() for of in others}
                self.emit((*chosen, line.terms[gap]), summed, partial, _ZERO)
                if summed is not anchors:
                    self._free.extend(summed.values())
                summed = partial
            if not gaps or added:
                for of in others:
                    self._write(None, summed[of], added.get(whole[of], _ZERO), to[whole[of]])
                if summed is not anchors:
                    self._free.extend(summed.values())
        self._free.extend(anchors.values())

    def _emit_last(self, chosen: _Terms, added: _Slots, to: _Slots, begin: int) -> None:
        line, anchor = self.lines[-1], self._slot()
        self._write((*chosen, line.terms[0]), begin, _ZERO, anchor)
        for (phase,), place in to.items():
            *gaps, last = line.gaps(phase) or [0]
            summed = anchor
            for gap in gaps:
                partial = self._slot() if summed == anchor else summed
                self._write((*chosen, line.terms[gap]), summed, _ZERO, partial)
                summed = partial
            terms = (*chosen, line.terms[last]) if last else None  # a phase that meets no jump is its anchor
            self._write(terms, summed, added.get((phase,), _ZERO), place)
            if summed != anchor:
                self._free.append(summed)
        self._free.append(anchor)

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self.slots += 1
        return self.slots - 1

    def _write(self, terms: _Terms | None, begin: int, add: int, to: int) -> None:
        if terms is None:
            where = [number for _ in self.lines for number in (0, 0)]
            self.written.append([*where, begin, add, to, _NOTHING])
            return
        where = [number for term in terms for number in (term.kind, term.offset)]
        self.written.append([*where, begin, add, to, len(self.signs)])
        self.signs.append(_outer(terms))


def _outer(terms: Sequence[_Term]) -> list[int]:
    """The signs of all taps."""
    return [math.prod(signs) for signs in product(*(term.signs for term in terms))]


def _axis(
    size: int,
    stride: int,
    count: int,
    offsets: Sequence[int],
    output_size: int,
    phases: int,
    skipped: int,
    kinds: Sequence[_Taps],
) -> list[int]:
    """An axis as csrc/program.h reads it."""

    def flat() -> Iterator[int]:
        yield from (size, stride, count, min(offsets), max(offsets), output_size, phases, skipped, len(kinds))
        for taps in kinds:
            yield len(taps)
            for tap in taps:
                yield from tap

    return list(flat())


def _numbers(axes: Sequence[list[int]], slots: int, kernels: int, steps: Sequence[list[int]]) -> Tensor:
    written = [number for part in (*axes, [slots, kernels, len(steps)], *steps) for number in part]
    return torch.tensor(written, dtype=torch.int64)
