"""A small convolution for each phase, all on the low-resolution grid, interleaved.

An output position only ever meets the taps of its phase, so along an axis `s` short convolutions do the work of a long
one over zeros (transposed) or over repeated values (resize). The taps of a resize-convolution that fall on the same
input position are added beforehand: of 3 taps at scale 2 each phase keeps 2, and an image costs 16 products where the
definition has 36. Ragged phases cost the taps that they have: 3 x 3 at stride 2 is 4 + 2 + 2 + 1, not 4 times 4.

The folding is known (the fused upscaling of StyleGAN; Colbert et al., "An Energy-Efficient Edge Computing Paradigm for
Convolution-Based Image Upsampling", arXiv:2107.07647).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from halfstride._core.algorithms import native
from halfstride._core.case import Case, Cost
from halfstride._core.common import (
    as_channels_last,
    input_padding,
    is_channels_last,
    pad_input,
    typed,
    unsupported_by_phases,
    window,
)
from halfstride._support.weight_cache import cached
from halfstride.kernels import swap_channels, widened

unsupported_reason = unsupported_by_phases


class Phase(NamedTuple):
    """One phase `r` along one axis: output `s·q + r` is the sum over `i` of the input at `q + start + step·i` times the
    sum of the taps in `sums[i]`."""

    start: int
    step: int
    sums: tuple[tuple[int, ...], ...]


@cached
def phases_of(case: Case, axis: int) -> tuple[Phase, ...]:
    """The phases of a transposed or resize-convolution along one axis.

    Taps are numbered in the order in which a convolution meets them: those of a transposed kernel from its last one.
    """
    k, s, d, p = case.kernel_size[axis], case.stride[axis], case.dilation[axis], case.padding[axis]
    offset = p if case.form == "resize" else d * (k - 1) - p
    phases = []
    for r in range(s):
        taps_at: dict[int, tuple[int, ...]] = {}
        for tap in range(k):
            at = r + d * tap - offset
            if case.form == "resize" or at % s == 0:
                taps_at[at // s] = (*taps_at.get(at // s, ()), tap)
        first, last = min(taps_at, default=0), max(taps_at, default=-1)
        step = math.gcd(*(position - first for position in taps_at)) or 1
        phases.append(Phase(first, step, tuple(taps_at.get(at, ()) for at in range(first, last + 1, step))))
    return tuple(phases)


def cost(case: Case) -> Cost:
    distinct = [set(phases_of(case, axis)) for axis in range(case.axes)]
    taps = math.prod(
        -(-o // s) * sum(len(phase.sums) for phase in of_axis)
        for o, s, of_axis in zip(case.output_size, case.stride, distinct, strict=True)
    )
    traffic = math.prod(map(len, distinct)) * case.input_numel + (1 + 2 * case.axes) * case.output_numel
    return Cost(taps * case.channel_pairs, traffic, math.prod(map(len, distinct)) + math.prod(case.stride))


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    plan = [phases_of(case, axis) for axis in range(case.axes)]
    kernel = widened(weight)
    if case.form == "transposed":
        kernel = swap_channels(kernel, case.groups).flip(tuple(range(2, weight.dim())))
    # Equal phases are computed once; a resize kernel smaller than its scale has some.
    folded: dict[tuple[Phase, ...], Tensor] = {(): kernel}
    for axis, phases in enumerate(plan, start=2):
        distinct = dict.fromkeys(phases)
        folded = {(*before, phase): _fold(part, axis, phase) for before, part in folded.items() for phase in distinct}
    margin = input_padding(case)
    x, first = pad_input(case, input, margin), [-before for before, _ in margin]
    convolved = {
        phase: _convolve(case, phase, x, first, typed(part, input.dtype), bias) for phase, part in folded.items()
    }
    return as_channels_last(_interleaved([convolved[phase] for phase in product(*plan)], case), like=input)


def _fold(kernel: Tensor, axis: int, phase: Phase) -> Tensor:
    """The kernel of one phase along an axis: sums of neighbouring taps."""
    parts = [kernel.narrow(axis, min(taps, default=0), len(taps)) for taps in phase.sums]
    sums = [part if part.shape[axis] == 1 else part.sum(axis, keepdim=True) for part in parts]
    return torch.cat(sums, axis) if sums else kernel.narrow(axis, 0, 0)


def _convolve(
    case: Case, phase: Sequence[Phase], x: Tensor, first: Sequence[int], kernel: Tensor, bias: Tensor | None
) -> Tensor:
    """As many positions of one phase as the longest phase has; `first` is the input position that `x` begins with."""
    size = [-(-o // s) for o, s in zip(case.output_size, case.stride, strict=True)]
    if kernel.numel() == 0:  # no input position reaches this phase
        output = x.new_zeros(x.shape[0], case.out_channels, *size)
        return output if bias is None else output + bias.reshape(-1, *(1,) * case.axes)
    starts = [along.start - at for along, at in zip(phase, first, strict=True)]
    ends = [
        start + q + along.step * (len(along.sums) - 1) - n
        for start, q, along, n in zip(starts, size, phase, x.shape[2:], strict=True)
    ]
    # The same padding at both ends is free, and so is the view of what is wanted; a padded copy of the input is not.
    padding = [max(0, -start, end) for start, end in zip(starts, ends, strict=True)]
    output = native.conv(x, kernel, bias, [(p, p) for p in padding], [along.step for along in phase], case.groups)
    return window(output, [start + p for start, p in zip(starts, padding, strict=True)], size)


def _interleaved(parts: list[Tensor], case: Case) -> Tensor:
    """One tensor (batch, channels, *output_size) of all phases, given in order, the last axis changing first."""
    channels_last = is_channels_last(parts[0])
    if channels_last:
        parts = [part.movedim(1, -1) for part in parts]
    first = 1 if channels_last else 2
    for axis in reversed(range(case.axes)):
        s, o, at = case.stride[axis], case.output_size[axis], first + axis
        rows = [torch.stack(parts[i : i + s], at + 1).flatten(at, at + 1) for i in range(0, len(parts), s)]
        parts = [row.narrow(at, 0, o) for row in rows]
    return parts[0].movedim(-1, 1) if channels_last else parts[0]
