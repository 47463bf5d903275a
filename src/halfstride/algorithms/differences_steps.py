"""The linear steps of summation by parts, and their adjoints; see `differences`.

    kernels     sums of taps: of all of them, for values, and of those beyond each gap, for jumps
    features    values and jumps of the input
    products    features times kernels, added up to outputs

Tensors are laid out (images, *positions, channels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.algorithms.common import store
from halfstride.algorithms.differences_plan import AxisPlan, Gaps, Plan, Subset
from halfstride.algorithms.products import Kernel, times

__all__ = [
    "Kernels",
    "gap_kernels",
    "gathered",
    "subset_of",
    "sum_products",
    "summed_taps",
    "summed_taps_adjoint",
    "through_features",
    "together",
]

Kernels = Mapping[tuple[int, Subset], Tensor | Kernel]
"""(gaps·out, in) for a gap of the first axis and a subset of the others, of all gaps of the latter together."""

Group = TypeVar("Group")

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


def together(of_gaps: dict[Gaps, Tensor], group: Callable[[Gaps], Group], dim: int) -> dict[Group, Tensor]:
    """The kernels of each group of gaps next to each other along a dimension, for one product."""
    groups: dict[Group, list[Tensor]] = {}
    for gaps, kernel in of_gaps.items():
        groups.setdefault(group(gaps), []).append(kernel)
    return {of: torch.cat(kernels, dim) if len(kernels) > 1 else kernels[0] for of, kernels in groups.items()}


def subset_of(gaps: Gaps) -> Subset:
    """The axes along which the features of such gaps are differenced."""
    return tuple(gap > 0 for gap in gaps)


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


def sum_products(values: Tensor, kernels: Kernels, bias: Tensor | None, plan: Plan, output: Tensor) -> None:
    """Multiply the features of the values, and sum into (images, *output_size, out)."""
    lead, others = plan.axes[0], Plan(plan.axes[1:])
    # With the first axis in front, what is at some of its positions lies together, of all images.
    values, output = values.transpose(0, 1).contiguous(), output.transpose(0, 1)

    def multiplied(
        features: dict[Subset, Tensor], gap: int, subset: Subset, start: int, summand: Tensor | None, into: bool = False
    ) -> Tensor:
        """(positions, images, *positions of the others, gaps·out): the products of a gap of the first axis and all gaps
        of others, added to a summand, or `into` it."""
        rows = features[subset]
        if summand is not None and summand.dim() > 1:
            rows = rows.narrow(0, start, len(summand))
            summand = summand.flatten(0, -2)
        result = times(rows.flatten(0, -2), kernels[gap, subset], summand, into=into)
        return result.view(*rows.shape[:-1], result.shape[-1])

    features = _features_of(_window(values, 0, lead.anchors), others.axes, first=2)
    anchors = {subset: multiplied(features, 0, subset, 0, None if any(subset) else bias) for subset in others.subsets}
    if lead.has_jumps:
        features = _features_of(_jumps(values, 0, lead.jumps), others.axes, first=2)
    for phase in lead.phases:
        (_, start), *jumps = lead.terms[phase]
        along_lead: dict[Gaps, Tensor] = {}
        for subset, products in anchors.items():
            summed = products.narrow(0, start, lead.size_of(phase))
            for i, (gap, at) in enumerate(jumps):
                nobody_elses = i > 0 or phase == lead.phases[-1]
                summed = multiplied(features, gap, subset, at, summed, nobody_elses)
            along_lead.update(zip(others.gaps(subset), torch.split(summed, output.shape[-1], -1), strict=True))
        for phases in product((phase,), *(axis.phases for axis in others.axes)):
            _, along, *across = _of_phases(phases, plan.axes)
            place = (along, slice(None), *across)
            target = output[place]
            summands = []
            for terms in product(*(axis.terms[r] for r, axis in zip(phases[1:], others.axes, strict=True))):
                place = (slice(None), *_of_terms(terms, target.shape[2:-1]))
                summands.append(along_lead[tuple(gap for gap, _ in terms)][place])
            _store_sum(summands, target)


def gathered(gradient: Tensor, plan: Plan, subset: Subset) -> Tensor:
    """(images, *positions, gaps·out): for all gaps of a subset, the output's gradient summed at the places that each
    product was added to."""
    gaps_of, positions = plan.gaps(subset), plan.positions(subset)
    result = gradient.new_empty(len(gradient), *positions, len(gaps_of), gradient.shape[-1])
    for gaps, target in zip(gaps_of, result.unbind(-2), strict=True):
        parts: list[tuple[Place, Tensor]] = []
        for phases in product(*(axis.phases for axis in plan.axes)):
            part = gradient[_of_phases(phases, plan.axes)]
            terms_of = [
                [term for term in axis.terms[phase] if term[0] == gap]
                for phase, axis, gap in zip(phases, plan.axes, gaps, strict=True)
            ]
            parts += [(_of_terms(terms, part.shape[1:-1]), part) for terms in product(*terms_of)]
        _store_placed(parts, target)
    return result.flatten(-2)


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
