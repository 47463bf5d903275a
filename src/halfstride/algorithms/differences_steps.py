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
from halfstride.algorithms.differences_plan import AxisPlan, Gaps, Plan, Subset

__all__ = ["gap_kernels", "gathered", "sum_products", "summed_taps", "summed_taps_adjoint", "through_features"]

# Kernels --------------------------------------------------------------------------------------------------------------


def summed_taps(weight: Tensor, plan: Plan) -> Tensor:
    """(*taps, out, in): in the place of the anchor the sum of all taps, for values, in that of each other tap the sum
    from there outwards, for the jumps of the gap on its inner side; minus it before the anchor, where a jump is what
    the value still lacks. `gap_kernels` tells them apart."""
    kernels = weight.permute(*range(2, weight.dim()), 0, 1).clone(memory_format=torch.contiguous_format)
    for at, axis in enumerate(plan.axes):
        if not axis.has_jumps:
            kernels = kernels.sum(at, keepdim=True)
            continue
        tap, anchor = kernels.unbind(at), axis.anchor
        for t in range(anchor):
            tap[t].neg_() if t == 0 else store(torch.sub, tap[t], tap[t - 1], tap[t])
        for t in range(axis.kernel_size - 2, anchor, -1):
            tap[t].add_(tap[t + 1])
        if anchor > 0:
            tap[anchor].sub_(tap[anchor - 1])
        if anchor + 1 < axis.kernel_size:
            tap[anchor].add_(tap[anchor + 1])
    return kernels


def gap_kernels(taps: Tensor, plan: Plan) -> dict[Gaps, Tensor]:
    """(out, in) for each gap per axis, in (*taps, out, in)."""
    return {
        gaps: taps[tuple(axis.place(gap) for axis, gap in zip(plan.axes, gaps, strict=True))]
        for gaps in product(*(axis.gaps for axis in plan.axes))
    }


def summed_taps_adjoint(kernels: Tensor, plan: Plan) -> Tensor:
    """(out, in, *taps), in the memory of the kernels."""
    for at, axis in enumerate(plan.axes):
        if not axis.has_jumps:
            kernels = kernels.repeat_interleave(axis.kernel_size, at)
            continue
        tap, anchor = kernels.unbind(at), axis.anchor
        for t in reversed(range(anchor)):  # from the anchor outwards
            store(torch.sub, tap[t], tap[t + 1], tap[t])
        for t in range(anchor + 1, axis.kernel_size):
            tap[t].add_(tap[t - 1])
    return kernels.permute(-2, -1, *range(kernels.dim() - 2))


# Features: values and jumps -------------------------------------------------------------------------------------------


def _features_of(values: Tensor, axes: Sequence[AxisPlan], first: int) -> dict[Subset, Tensor]:
    """(images, *positions, in): along each axis the values at the anchors, or the jumps, in all combinations."""
    features: dict[Subset, Tensor] = {(): values}
    for at, axis in enumerate(axes, start=first):
        features = {
            (*subset, jumps): _jumps(whole, at, axis.jumps) if jumps else _window(whole, at, axis.anchors)
            for subset, whole in features.items()
            for jumps in axis.choices
        }
    return features


def through_features(
    values: Tensor | None, plan: Plan, visit: Callable[[Subset, Tensor | None], Tensor | None]
) -> Tensor | None:
    """Visit each feature of the values, and add up, as values, what is said of them.

    One after another, so that few of them exist at a time. Without values there is only what is said.
    """

    def descend(subset: Subset, whole: Tensor | None) -> Tensor | None:
        if len(subset) == len(plan.axes):
            return visit(subset, whole)
        at, axis = 1 + len(subset), plan.axes[len(subset)]
        total = descend((*subset, False), None if whole is None else _window(whole, at, axis.anchors))
        if total is not None:
            total = _window(total, at, range(-axis.anchors.start, axis.input_size - axis.anchors.start))
        if axis.has_jumps:
            jumps = descend((*subset, True), None if whole is None else _jumps(whole, at, axis.jumps))
            if total is not None and jumps is not None:
                _add_jumps_adjoint(total, at, jumps, axis.jumps)
        return total

    return descend((), values)


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


def sum_products(values: Tensor, kernels: dict[Gaps, Tensor], bias: Tensor | None, plan: Plan, output: Tensor) -> None:
    """Multiply the features of the values, and sum into (images, *output_size, out)."""
    lead, *others = plan.axes

    def multiplied(
        features: dict[Subset, Tensor], gaps: Gaps, start: int, size: int, summand: Tensor | None, take: bool = False
    ) -> Tensor:
        """The products of one gap per axis, at so many positions of the first axis, added to a summand or, to take its
        place, into it."""
        rows = features[tuple(gap > 0 for gap in gaps[1:])].narrow(1, start, size)
        kernel = kernels[gaps]
        matrices, columns = rows.flatten(1, -2), kernel.t().expand(len(rows), -1, -1)
        if summand is None:
            result = torch.bmm(matrices, columns)
        else:
            summand = summand.expand(*rows.shape[:-1], len(kernel)).flatten(1, -2)
            result = (summand.baddbmm_ if take else summand.baddbmm)(matrices, columns)
        return result.view(*rows.shape[:-1], len(kernel))

    all_gaps = list(product(*(axis.gaps for axis in others)))
    features = _features_of(_window(values, 1, lead.anchors), others, first=2)
    anchors = {
        gaps: multiplied(features, (0, *gaps), 0, len(lead.anchors), None if any(gaps) else bias) for gaps in all_gaps
    }
    if lead.has_jumps:
        features = _features_of(_jumps(values, 1, lead.jumps), others, first=2)
    for phase in lead.phases:
        (_, start), *jumps = lead.terms[phase]
        along_lead = {}
        for gaps, products in anchors.items():
            summed = products.narrow(1, start, lead.size_of(phase))
            for i, (gap, at) in enumerate(jumps):
                nobody_elses = i > 0 or phase == lead.phases[-1]
                summed = multiplied(features, (gap, *gaps), at, lead.size_of(phase), summed, nobody_elses)
            along_lead[gaps] = summed
        for phases in product((phase,), *(axis.phases for axis in others)):
            target = output[_of_phases(phases, plan.axes)]
            summands = []
            for terms in product(((0, 0),), *(axis.terms[r] for r, axis in zip(phases[1:], others, strict=True))):
                values_of = along_lead[tuple(gap for gap, _ in terms[1:])]
                summands.append(values_of[_of_terms(terms, target.shape[1:-1])])
            _store_sum(summands, target)


def gathered(gradient: Tensor, plan: Plan, gaps: Gaps) -> Tensor:
    """(images, *positions, out): the output's gradient summed at the places that each product of a gap was added to."""
    parts: list[tuple[Place, Tensor]] = []
    for phases in product(*(axis.phases for axis in plan.axes)):
        part = gradient[_of_phases(phases, plan.axes)]
        terms_of = [
            [term for term in axis.terms[phase] if term[0] == gap]
            for phase, axis, gap in zip(phases, plan.axes, gaps, strict=True)
        ]
        parts += [(_of_terms(terms, part.shape[1:-1]), part) for terms in product(*terms_of)]
    result = gradient.new_empty(len(gradient), *plan.positions(tuple(gap > 0 for gap in gaps)), gradient.shape[-1])
    _store_placed(parts, result)
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
