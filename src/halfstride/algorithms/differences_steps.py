"""The linear steps of summation by parts, and their adjoints; see `differences`.

    kernels     sums of taps: of all of them, for values, and of those beyond each gap, for jumps
    features    values and jumps of the input
    products    features times kernels, added up to outputs

Tensors are laid out (images, *positions, channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.algorithms.common import store
from halfstride.algorithms.differences_plan import AxisPlan, Plan, Subset

__all__ = [
    "features_adjoint",
    "features_of",
    "gap_kernels",
    "gap_kernels_adjoint",
    "gathered",
    "sum_products",
]

# Kernels --------------------------------------------------------------------------------------------------------------


def gap_kernels(weight: Tensor, plan: Plan) -> dict[Subset, Tensor]:
    """(*gaps, out, in) for each subset: the sums of all taps for anchors, of those beyond the gap for jumps."""
    axes = len(plan.axes)
    kernels: dict[Subset, Tensor] = {(): weight.permute(*range(2, 2 + axes), 0, 1).contiguous()}
    for at, axis in enumerate(plan.axes):
        kernels = {
            (*subset, jumps): _beyond_gaps(taps, at) if jumps else taps.sum(at, keepdim=True)
            for subset, taps in kernels.items()
            for jumps in axis.choices
        }
    return kernels


def gap_kernels_adjoint(kernels: dict[Subset, Tensor], plan: Plan) -> Tensor:
    for at, axis in reversed(list(enumerate(plan.axes))):
        whole = {}
        for (*others, jumps), kernel in kernels.items():
            if not jumps:
                sums = kernels.get((*others, True))
                whole[tuple(others)] = _taps_adjoint(kernel, sums, at, axis.kernel_size)
        kernels = whole
    weight = kernels[()]
    return weight.permute(-2, -1, *range(weight.dim() - 2))


def _beyond_gaps(taps: Tensor, axis: int) -> Tensor:
    """Of k taps the k - 1 sums beyond each gap: minus those before it up to the anchor, plus those after it behind."""
    k = taps.shape[axis]
    anchor = (k - 1) // 2
    sums = taps.new_empty([size - (i == axis) for i, size in enumerate(taps.shape)])
    tap, gap = taps.unbind(axis), sums.unbind(axis)
    for t in range(anchor):
        store(torch.neg, gap[t], tap[t]) if t == 0 else store(torch.sub, gap[t], gap[t - 1], tap[t])
    for t in range(k - 1, anchor, -1):
        gap[t - 1].copy_(tap[t]) if t == k - 1 else store(torch.add, gap[t - 1], gap[t], tap[t])
    return sums


def _taps_adjoint(total: Tensor, sums: Tensor | None, axis: int, k: int) -> Tensor:
    """The k taps, of which the total and the sums beyond the gaps were made: from the anchor outwards."""
    taps = total.new_empty([k if i == axis else size for i, size in enumerate(total.shape)])
    if sums is None:
        return taps.copy_(total)
    tap, gap, anchor = taps.unbind(axis), sums.unbind(axis), (k - 1) // 2
    tap[anchor].copy_(total.select(axis, 0))
    for t in reversed(range(anchor)):
        store(torch.sub, tap[t], tap[t + 1], gap[t])
    for t in range(anchor + 1, k):
        store(torch.add, tap[t], tap[t - 1], gap[t - 1])
    return taps


# Features: values and jumps -------------------------------------------------------------------------------------------


def features_of(values: Tensor, plan: Plan) -> dict[Subset, Tensor]:
    """(images, *positions, in): along each axis the values at the anchors, or the jumps, in all combinations."""
    features: dict[Subset, Tensor] = {(): values}
    for at, axis in enumerate(plan.axes, start=1):
        features = {
            (*subset, jumps): _jumps(whole, at, axis.jumps) if jumps else _window(whole, at, axis.anchors)
            for subset, whole in features.items()
            for jumps in axis.choices
        }
    return features


def features_adjoint(feature: Callable[[Subset], Tensor], plan: Plan) -> Tensor:
    """The sum of what all features say of the values. They are made one after another, and taken apart."""

    def summed(subset: Subset) -> Tensor:
        """Over the axes that `subset` leaves open."""
        if len(subset) == len(plan.axes):
            return feature(subset)
        at, axis = 1 + len(subset), plan.axes[len(subset)]
        back = range(-axis.anchors.start, axis.input_size - axis.anchors.start)
        values = _window(summed((*subset, False)), at, back)
        if True in axis.choices:
            _add_jumps_adjoint(values, at, summed((*subset, True)), axis.jumps)
        return values

    return summed(())


def _window(values: Tensor, axis: int, positions: range) -> Tensor:
    """The values at `positions` along an axis, zeros where there are none. Its adjoint is a window back."""
    before, after = max(-positions.start, 0), max(positions.stop - values.shape[axis], 0)
    if before or after:
        values = F.pad(values, [*(0, 0) * (values.dim() - 1 - axis), before, after])
    return values.narrow(axis, positions.start + before, len(positions))


def _jumps(values: Tensor, axis: int, positions: range) -> Tensor:
    """`values[i] - values[i-1]` for the `positions` i along an axis, with zeros beyond its ends."""
    n = values.shape[axis]
    jumps = values.new_empty([len(positions) if i == axis else size for i, size in enumerate(values.shape)])
    first, last = max(positions.start, 1), min(positions.stop, n)
    if first < last:
        inner = jumps.narrow(axis, first - positions.start, last - first)
        store(torch.sub, inner, values.narrow(axis, first, last - first), values.narrow(axis, first - 1, last - first))
    for i in positions:
        if i <= 0 or i >= n:
            target = jumps.select(axis, i - positions.start)
            if i == 0:
                target.copy_(values.select(axis, 0))
            elif i == n:
                target.copy_(values.select(axis, n - 1)).neg_()
            else:
                target.zero_()
    return jumps


def _add_jumps_adjoint(target: Tensor, axis: int, jumps: Tensor, positions: range) -> None:
    """Each jump `i` is added to position `i` and taken from position `i - 1`."""
    n = target.shape[axis]
    for shift, sign in ((0, 1), (1, -1)):
        first, last = max(positions.start - shift, 0), min(positions.stop - shift, n)
        if first < last:
            source = jumps.narrow(axis, first + shift - positions.start, last - first)
            target.narrow(axis, first, last - first).add_(source, alpha=sign)


# Products: from features to outputs -----------------------------------------------------------------------------------


def sum_products(
    features: dict[Subset, Tensor], kernels: dict[Subset, Tensor], bias: Tensor | None, plan: Plan, output: Tensor
) -> None:
    """Multiply, and sum into (images, *output_size, out). Features are forgotten as soon as they are multiplied."""
    lead, *others = plan.axes

    def multiplied(
        gap: int, gaps: tuple[int, ...], start: int, size: int, summand: Tensor | None, take: bool = False
    ) -> Tensor:
        """The products of one gap per axis, at so many positions of the first axis, added to a summand or, to take its
        place, into it."""
        subset = (gap > 0, *(other > 0 for other in gaps))
        rows = features[subset].narrow(1, start, size)
        kernel = kernels[subset][tuple(max(one - 1, 0) for one in (gap, *gaps))]
        matrices, columns = rows.flatten(1, -2), kernel.t().expand(len(rows), -1, -1)
        if summand is None:
            result = torch.bmm(matrices, columns)
        else:
            summand = summand.expand(*rows.shape[:-1], len(kernel)).flatten(1, -2)
            result = (summand.baddbmm_ if take else summand.baddbmm)(matrices, columns)
        return result.view(*rows.shape[:-1], len(kernel))

    all_gaps = list(product(*(axis.gaps for axis in others)))
    anchors = {gaps: multiplied(0, gaps, 0, len(lead.anchors), None if any(gaps) else bias) for gaps in all_gaps}
    features = {subset: jumps for subset, jumps in features.items() if subset[0]}  # which leaves room for what follows
    for phase in lead.phases:
        (_, start), *jumps = lead.terms[phase]
        along_lead = {}
        for gaps, values in anchors.items():
            summed = values.narrow(1, start, lead.size_of(phase))
            for i, (gap, at) in enumerate(jumps):
                nobody_elses = i > 0 or phase == lead.phases[-1]
                summed = multiplied(gap, gaps, at, lead.size_of(phase), summed, nobody_elses)
            along_lead[gaps] = summed
        for phases in product((phase,), *(axis.phases for axis in others)):
            target = output[_of_phases(phases, plan.axes)]
            summands = []
            for terms in product(((0, 0),), *(axis.terms[r] for r, axis in zip(phases[1:], others, strict=True))):
                values = along_lead[tuple(gap for gap, _ in terms[1:])]
                summands.append(values[_of_terms(terms, target.shape[1:-1])])
            _store_sum(summands, target)


def gathered(gradient: Tensor, plan: Plan, subset: Subset) -> Tensor:
    """(images, *positions, *gaps, out): the output's gradient summed at the places that each product was added to."""
    parts: dict[tuple[int, ...], list[tuple[Place, Tensor]]] = {}
    for phases in product(*(axis.phases for axis in plan.axes)):
        part = gradient[_of_phases(phases, plan.axes)]
        terms_of = [
            [(gap, start) for gap, start in axis.terms[phase] if (gap > 0) == jumps]
            for phase, axis, jumps in zip(phases, plan.axes, subset, strict=True)
        ]
        for terms in product(*terms_of):
            gaps = tuple(max(gap - 1, 0) for gap, _ in terms)
            parts.setdefault(gaps, []).append((_of_terms(terms, part.shape[1:-1]), part))
    result = gradient.new_empty(len(gradient), *plan.positions(subset), *plan.gaps(subset), gradient.shape[-1])
    for gaps in product(*map(range, plan.gaps(subset))):
        target = result[(slice(None),) * (1 + len(gaps)) + gaps]
        _store_placed(parts.get(gaps, []), target)
    return result


Place = tuple[slice | int, ...]
"""An index into (images, *positions, channels)."""


def _of_phases(phases: Sequence[int], axes: Sequence[AxisPlan]) -> Place:
    """Where the outputs of one phase per axis are."""
    return (slice(None), *(slice(r, None, axis.stride) for r, axis in zip(phases, axes, strict=True)))


def _of_terms(terms: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Place:
    """Where the products of one term per axis are that so many outputs of a phase add up."""
    return (slice(None), *(slice(start, start + n) for (_, start), n in zip(terms, sizes, strict=True)))


def _store_sum(summands: Sequence[Tensor], target: Tensor) -> None:
    if len(summands) == 1:
        target.copy_(summands[0])
        return
    store(torch.add, target, summands[0], summands[1])
    for summand in summands[2:]:
        target.add_(summand)


def _store_placed(summands: Sequence[tuple[Place, Tensor]], target: Tensor) -> None:
    """The sum of parts that lie somewhere within the target, and zeros around them."""
    if not summands:
        target.zero_()
        return
    first, around = summands[0][0], target
    for axis, positions in enumerate(first):
        if isinstance(positions, slice) and positions != slice(None):
            around.narrow(axis, 0, positions.start).zero_()
            around.narrow(axis, positions.stop, around.shape[axis] - positions.stop).zero_()
            around = around.narrow(axis, positions.start, positions.stop - positions.start)
    _store_sum([part for place, part in summands if place == first], around)
    for place, part in summands:
        if place != first:
            target[place].add_(part)
