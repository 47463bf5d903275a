"""The linear steps of summation by parts, and their adjoints; see `by_parts`.

    kernels     sums of taps: of all of them, for values, and of those beyond each gap, for jumps
    components    values and jumps of the input
    products    components times kernels, added up to outputs

Tensors are laid out (images, *positions, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from halfstride._core.algorithms.by_parts.plan import AxisPlan, Component, Gaps, PartsPlan, landings
from halfstride._core.algorithms.products import Kernel, times
from halfstride._core.common import store
from halfstride._support.weight_cache import cached

Kernels = Mapping[tuple[int, Component], Tensor | Kernel]
"""(gaps·out, in) for a gap of the first axis and a component of the others, of all gaps of the latter together."""

# Kernels --------------------------------------------------------------------------------------------------------------


def signs_of_taps(plan: PartsPlan, components: Sequence[Component], like: Tensor) -> Tensor:
    """(gaps, taps), component by component: 1 or -1 where the kernel of a gap has a tap, else 0."""
    return torch.tensor(_signs(plan, tuple(components)), dtype=like.dtype, device=like.device)


@cached
def _signs(plan: PartsPlan, components: tuple[Component, ...]) -> list[list[int]]:
    of_axes = [axis.signs for axis in plan.axes]
    return [
        [math.prod(of_each) for of_each in product(*(signs[gap] for signs, gap in zip(of_axes, gaps, strict=True)))]
        for component in components
        for gaps in plan.gaps[component]
    ]


def sums_of_taps(weight: Tensor, signs: Tensor) -> Tensor:
    """(gaps, out, in): the kernels of all gaps."""
    return (signs @ weight.flatten(2).movedim(-1, 0).flatten(1)).view(-1, *weight.shape[:2])


def add_sums_of_taps_adjoint(taps: Tensor, kernels: Tensor, signs: Tensor) -> None:
    """Add to (taps, out, in) what (gaps, out, in) make of it."""
    taps.flatten(1).addmm_(signs.t(), kernels.flatten(1))


def of_components(kernels: Tensor, plan: PartsPlan, components: Sequence[Component]) -> dict[Component, Tensor]:
    """(gaps·out, in) of each of these components, in the memory of (gaps, out, in) of all of them."""
    counts = [len(plan.gaps[component]) for component in components]
    return {of: each.flatten(0, 1) for of, each in zip(components, torch.split(kernels, counts), strict=True)}


def of_lead_gaps(kernels: dict[Component, Tensor], plan: PartsPlan) -> dict[tuple[int, Component], Tensor]:
    """(gaps·out, in) of each gap of the first axis and each component of the others, as views."""
    lead, parts = plan.axes[0], {}
    for (first, *others), kernel in kernels.items():
        gaps = lead.gaps_of(first)
        parts.update({(gap, tuple(others)): part for gap, part in zip(gaps, kernel.chunk(len(gaps)), strict=True)})
    return parts


Visitor = Callable[[Component, Tensor | None, Tensor], Tensor | None]
"""Of a component, its values, and the sums of the gradient that belong to it: what the values' gradient is."""

# Features: values and jumps -------------------------------------------------------------------------------------------


def _components_of(values: Tensor, axes: Sequence[AxisPlan], first: int) -> dict[Component, Tensor]:
    """(images, *positions, in): along each axis the values at the anchors, or jumps of a class, in all combinations."""
    components: dict[Component, Tensor] = {(): values}
    for at, axis in enumerate(axes, start=first):
        components = {
            (*component, each): _along(whole, at, axis, each)
            for component, whole in components.items()
            for each in axis.components
        }
    return components


def _along(values: Tensor, at: int, axis: AxisPlan, component: int) -> Tensor:
    return (_jumps if component else _window)(values, at, axis.lattices[component])


def through_components(
    values: Tensor | None,
    gradient: Tensor,
    plan: PartsPlan,
    lead: int,
    visit: Visitor,
    total: Tensor | None,
) -> None:
    """Visit each component of the values that is `lead` along the first axis; add what the visitor returns.

    One after another, so that few of them exist at a time. The visitor sees (images, *positions, gaps·out) of the
    output's gradient, summed at the places that each product was added to.
    """
    _descend((lead,), values, [gradient], plan, visit, total)


# Not nested in the function above: a recursive closure is a reference cycle, and would keep tensors alive until the
# next garbage collection.
def _descend(
    chosen: Component,
    whole: Tensor | None,
    gradients: list[Tensor],
    plan: PartsPlan,
    visit: Visitor,
    total: Tensor | None,
) -> None:
    """Go through an axis: `chosen` is the component so far, and ends with the one along this axis."""
    at, each = len(chosen), chosen[-1]
    axis = plan.axes[at - 1]
    of_whole = None if whole is None else _along(whole, at, axis, each)
    of_gradients = _gathered(gradients, at, axis, each, last=at == len(plan.axes))
    if at == len(plan.axes):
        part = visit(chosen, of_whole, of_gradients[0])
    else:
        size = len(axis.lattices[each])
        part = None if total is None else total.new_zeros(*total.shape[:at], size, *total.shape[at + 1 :])
        for following in plan.axes[at].components:
            _descend((*chosen, following), of_whole, of_gradients, plan, visit, part)
    if part is not None and total is not None:  # of jumps also take it from the positions before
        for shift, sign in ((0, 1), (-1, -1)) if each > 0 else ((0, 1),):
            for source, target in _meeting(part, total, at, axis.lattices[each], shift):
                target.add_(source, alpha=sign)


def _gathered(gradients: list[Tensor], at: int, axis: AxisPlan, component: int, *, last: bool) -> list[Tensor]:
    """Per gradient and gap, the sum of what its product was added to; of the `last` axis as one tensor."""
    gaps, one = axis.gaps_of(component), gradients[0]
    if not last:
        return [_gathered_along(each, at, axis, gap) for each in gradients for gap in gaps]
    rows = one.new_empty(*one.shape[:at], len(axis.lattices[component]), len(gradients) * len(gaps), one.shape[-1])
    for (each, gap), target in zip(product(gradients, gaps), rows.unbind(-2), strict=True):
        _gathered_along(each, at, axis, gap, target)
    return [rows.flatten(-2)]


def _gathered_along(gradient: Tensor, at: int, axis: AxisPlan, gap: int, target: Tensor | None = None) -> Tensor:
    """Into a target, or in the memory of the gradient where it lies there already."""
    size, places = len(axis.lattices[axis.component_of(gap)]), landings(axis, gap)
    if target is None:
        if len(places) == 1 and places[0].size == size:
            return gradient[_along_axis(at, slice(places[0].phase, None, axis.step))]
        target = gradient.new_empty(*gradient.shape[:at], size, *gradient.shape[at + 1 :])
    if not places:
        return target.zero_()
    _, first, length = places[0]
    for start, rest in ((0, first), (first + length, size - first - length)):
        if rest:
            target.narrow(at, start, rest).zero_()
    together, others = [], []
    for landing in places:
        part = gradient[_along_axis(at, slice(landing.phase, None, axis.step))]
        if landing[1:] == (first, length):
            together.append(part)
        else:
            others.append((landing, part))
    _store_sum(together, target.narrow(at, first, length))
    for landing, part in others:
        target.narrow(at, landing.start, landing.size).add_(part)
    return target


def _along_axis(axis: int, positions: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, positions)


def _window(values: Tensor, axis: int, positions: range) -> Tensor:
    """The values at `positions` along an axis, zeros where there are none; in their memory where there are all."""
    n = values.shape[axis]
    if positions.start >= 0 and positions[-1] < n:
        return values[_along_axis(axis, slice(positions.start, positions[-1] + 1, positions.step))]
    window = values.new_empty(*values.shape[:axis], len(positions), *values.shape[axis + 1 :])
    for part, source in _meeting(window, values, axis, positions):
        part.copy_(source)
    for at in _beyond(positions, 0, n - 1):
        window.select(axis, at).zero_()
    return window


def _jumps(values: Tensor, axis: int, positions: range) -> Tensor:
    """`values[i] - values[i-1]` for the `positions` i along an axis, with zeros beyond its ends."""
    n = values.shape[axis]
    jumps = values.new_empty(*values.shape[:axis], len(positions), *values.shape[axis + 1 :])
    before = range(positions.start - 1, positions.stop - 1, positions.step)
    if n > 1:
        of_one = _meeting(jumps, values.narrow(axis, 1, n - 1), axis, before)
        of_other = _meeting(jumps, values.narrow(axis, 0, n - 1), axis, before)
        for (part, one), (_, other) in zip(of_one, of_other, strict=True):
            store(torch.sub, part, one, other)
    for at in _beyond(positions, 1, n - 1):
        target = jumps.select(axis, at)
        if positions[at] == 0:
            target.copy_(values.select(axis, 0))
        elif positions[at] == n:
            store(torch.neg, target, values.select(axis, n - 1))
        else:
            target.zero_()
    return jumps


def _meeting(part: Tensor, values: Tensor, axis: int, positions: range, shift: int = 0) -> list[tuple[Tensor, Tensor]]:
    """What lies at the same position, or `shift` further, of a part with these positions and of values, if anything."""
    meeting = _overlap(positions, shift, values.shape[axis])
    if meeting is None:
        return []
    of_part, of_values = meeting
    return [(part[_along_axis(axis, of_part)], values[_along_axis(axis, of_values)])]


@cached
def _overlap(positions: range, shift: int, n: int) -> tuple[slice, slice] | None:
    """Which of the positions, shifted, lie within `n`, and where; None where none does."""
    step, start = positions.step, positions.start + shift
    first = max(-(start // step), 0)
    last = min((n - 1 - start) // step, len(positions) - 1)
    if first > last:
        return None
    return slice(first, last + 1), slice(start + step * first, start + step * last + 1, step)


@cached
def _beyond(positions: range, first: int, last: int) -> list[int]:
    """Which of the positions do not lie between these two."""
    return [at for at, i in enumerate(positions) if not first <= i <= last]


# Products: from components to outputs ---------------------------------------------------------------------------------


def sum_products(values: Tensor, kernels: Kernels, bias: Tensor | None, plan: PartsPlan, output: Tensor) -> None:
    """Multiply the components of the values, and sum into (images, *output_size, out)."""
    lead, others = plan.axes[0], plan.others
    # With the first axis in front, what is at some of its positions lies together, of all images.
    values, output = values.transpose(0, 1).contiguous(), output.transpose(0, 1)

    def multiplied(
        components: dict[Component, Tensor],
        gap: int,
        component: Component,
        start: int,
        summand: Tensor | None,
        in_place: bool = False,
    ) -> Tensor:
        """(positions, images, *positions of the others, gaps·out): the products of a gap of the first axis and all gaps
        of others, added to a summand, or in place of it."""
        rows = components[component]
        if summand is not None and summand.dim() > 1:
            rows = rows.narrow(0, start, len(summand))
            summand = summand.flatten(0, -2)
        result = times(rows.flatten(0, -2), kernels[gap, component], summand, in_place=in_place)
        return result.view(*rows.shape[:-1], result.shape[-1])

    of_lead = {each: _components_of(_along(values, 0, lead, each), others.axes, first=2) for each in lead.components}
    anchors = {each: multiplied(of_lead[0], 0, each, 0, None if any(each) else bias) for each in others.components}
    del of_lead[0]
    for phase in lead.phases:
        (_, start), *jumps = lead.terms[phase]
        along_lead: dict[Gaps, Tensor] = {}
        for component, products in anchors.items():
            summed = products.narrow(0, start, lead.size_of(phase))
            for i, (gap, at) in enumerate(jumps):
                can_overwrite = i > 0 or phase == lead.phases[-1]
                summed = multiplied(of_lead[lead.component_of(gap)], gap, component, at, summed, can_overwrite)
            along_lead.update(zip(others.gaps[component], torch.split(summed, output.shape[-1], -1), strict=True))
        for phases in product((phase,), *(axis.phases for axis in others.axes)):
            along, *across = (slice(r, None, axis.step) for r, axis in zip(phases, plan.axes, strict=True))
            place = along, slice(None), *across
            target = output[place]
            summands = []
            for terms in product(*(axis.terms[r] for r, axis in zip(phases[1:], others.axes, strict=True))):
                added = (slice(start, start + n) for (_, start), n in zip(terms, target.shape[2:-1], strict=True))
                place = slice(None), slice(None), *added
                summands.append(along_lead[tuple(gap for gap, _ in terms)][place])
            _store_sum(summands, target)


def _store_sum(summands: Sequence[Tensor], target: Tensor) -> None:
    if len(summands) == 1:
        target.copy_(summands[0])
        return
    store(torch.add, target, summands[0], summands[1])
    for summand in summands[2:]:
        target.add_(summand)
