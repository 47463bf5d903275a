# mypy: disable-error-code="no-untyped-call"
"""Summation by parts: a resize-convolution from the jumps of its input, for `k` products per axis whatever the scale.

An upsampled signal is piecewise constant. Summed by parts, a kernel meets its value at one tap, the anchor, with the
sum of all taps, and every jump between two taps with the sum of the taps beyond it. With `S = Σ w` and
`δ[i] = x[i] - x[i-1]`, for 3 taps, scale 2 and padding 1:

    y[2i]   = S·x[i] - w[0]·δ[i]
    y[2i+1] = S·x[i] + w[2]·δ[i+1]

Each of the `k - 1` gaps between taps meets a jump in `dilation` neighbouring outputs, always on the same side of their
anchors, and asks for one product. So an input position costs `k` products along an axis, where the phases cost up to
`k + s - 1` and the definition `k·s`. In several dimensions it is the tensor product of the axes: for each subset of
them the input is differenced along those and multiplied by its `(k-1)^|subset|` kernels in one matrix product, and
every output is the sum of a few of the results.

The operator is linear in input and in weight, and its gradients have its structure: all are the one trilinear form
`<y(x, w), g>` without its argument g, x or w. `_Output` is the first, `_Gradients` are the other two, which share what
they gather from g. The derivatives of each are the others, to any order, and only arguments are ever saved.

What is not multiplication costs as much as what is, unless it is kept out of the main memory: tensors are laid out
(images, *positions, channels), so that every product is one of plain matrices and sums up along the first axis while it
multiplies; only the other axes are summed afterwards, straight into the output. Work goes in blocks of images, or of
rows of one, whose intermediate results stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.algorithms.case import Case, Cost, cached
from halfstride.algorithms.common import as_channels_last, margins, obstacle_to_phases, settled, typed
from halfstride.kernels import widened

__all__ = ["Plan", "compute", "cost", "obstacle", "plan"]

Subset = tuple[bool, ...]
"""Of the axes: whether the input is differenced along them."""

_BLOCK = 2**22
"""Numbers of intermediate results in a block: 16 MiB of float32,"""
_ROWS = 2**11
"""and at least so many rows of each matrix, without which products are slow."""


def obstacle(case: Case) -> str | None:
    """Why a case cannot be summed by parts."""
    if case.form == "transposed":
        return "summation by parts needs the piecewise constant input of a resize-convolution"
    return obstacle_to_phases(case)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    margin = margins(case)
    x, first = settled(case, input, margin), tuple(-before for before, _ in margin)
    of_case = plan(case, tuple(x.shape[2:]), first)
    biases = (None,) * case.groups if bias is None else bias.chunk(case.groups)
    groups = zip(x.chunk(case.groups, 1), weight.chunk(case.groups), biases, strict=True)
    outputs = [_output(*group, of_case) for group in groups]
    return as_channels_last(outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), like=input)


def cost(case: Case) -> Cost:
    axes = plan(case, case.input_size, (0,) * case.axes).axes
    jumps = [len(axis.jumps) if True in axis.choices else 0 for axis in axes]
    features = math.prod(len(axis.anchors) + count for axis, count in zip(axes, jumps, strict=True))
    products = math.prod(
        len(axis.anchors) + count * (axis.kernel_size - 1) for axis, count in zip(axes, jumps, strict=True)
    )
    intermediate = case.batch * (features * case.in_channels + products * case.out_channels)
    return Cost(products * case.channel_pairs, case.input_numbers + case.output_numbers + 2 * intermediate)


# The plan: which products make which output ---------------------------------------------------------------------------


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
    def choices(self) -> tuple[bool, ...]:
        return (False, True) if self.kernel_size > 1 and self.jumps else (False,)

    @property
    def phases(self) -> range:
        return range(min(self.stride, self.output_size))

    @property
    def gaps(self) -> range:
        return range(self.kernel_size) if True in self.choices else range(1)

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

    def gaps(self, subset: Subset) -> tuple[int, ...]:
        """How many kernels a subset has, per axis."""
        return tuple(axis.kernel_size - 1 if jumps else 1 for jumps, axis in zip(subset, self.axes, strict=True))

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


def _blocks(plan: Plan, images: int, in_channels: int, out_channels: int) -> list[Block]:
    """Blocks that keep their intermediate results within `_BLOCK` numbers, but make enough `_ROWS`."""
    if torch.compiler.is_compiling():  # a compiler orders the work itself, and may not know the sizes yet
        return [Block((slice(None), slice(None)), (slice(None), slice(None)), plan)]
    positions = [math.prod(plan.positions(subset)) for subset in plan.subsets]
    products = 2 * max(positions) * math.prod([len(axis.gaps) for axis in plan.axes[1:]])
    fitting = _BLOCK / max(sum(positions) * in_channels + products * out_channels, 1)
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


# The trilinear form, without each of its arguments --------------------------------------------------------------------


class _Output(torch.autograd.Function):
    """(batch, out, *output_size) from input, weight and bias."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        kernels = _gap_kernels(widened(weight), plan)
        values = _channels_at_the_end(x)
        bias = None if bias is None else typed(bias, values.dtype)
        output = values.new_empty(len(x), *(axis.output_size for axis in plan.axes), weight.shape[0])
        for block in _blocks(plan, len(x), x.shape[1], weight.shape[0]):
            features = _features(values[block.inputs], block.plan)
            _sum_products(features, kernels, bias, block.plan, output[block.outputs])
        return typed(output.movedim(-1, 1), x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.plan = inputs
        ctx.dtype, ctx.output_shape = weight.dtype, output.shape
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (to_x, to_weight, to_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        of_x, of_weight = _gradients(g, x.conj() if to_weight else None, weight.conj() if to_x else None, ctx)
        return of_x, of_weight, g.sum([0, *range(2, g.dim())]) if to_bias else None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        if in_dims[0] is None or any(dim is not None for dim in in_dims[1:]):
            return torch.stack([_output(*each) for each in _one_by_one(info.batch_size, in_dims, arguments)]), 0
        images = arguments[0].movedim(in_dims[0], 0)  # only they are many: then there are just more of them
        output = _output(images.flatten(0, 1), *arguments[1:])
        return output.reshape(*images.shape[:2], *output.shape[1:]), 0


class _Gradients(torch.autograd.Function):
    """(batch, in, *input_size), where the weight is given, and (out, in, *kernel_size), where the input is."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor | None, weight: Tensor | None, plan: Plan, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        gradient = _channels_at_the_end(g)
        channels = (x if weight is None else weight).shape[1]  # type: ignore[union-attr]
        of_x = of_weight = None
        if weight is not None:
            kernels = _gap_kernels(widened(weight), plan)
            of_x = gradient.new_zeros(len(g), *(axis.input_size for axis in plan.axes), channels)
        if x is not None:
            values = _channels_at_the_end(x)
            sums = {subset: values.new_zeros(*plan.gaps(subset), g.shape[1], channels) for subset in plan.subsets}
        for block in _blocks(plan, len(g), channels, g.shape[1]):
            features = None if x is None else _features(values[block.inputs], block.plan)
            products = {}
            for subset in plan.subsets:
                gathered = _gathered(gradient[block.outputs], block.plan, subset)
                rows = gathered.flatten(0, len(plan.axes)).flatten(1)
                if features is not None:
                    sums[subset].view(-1, channels).addmm_(rows.t(), features[subset].reshape(-1, channels))
                if of_x is not None:
                    back = rows @ kernels[subset].flatten(0, -2)
                    products[subset] = back.view(*gathered.shape[: 1 + len(plan.axes)], -1)
            if of_x is not None:
                of_x[block.inputs] += _features_adjoint(products, block.plan)
        if x is not None:
            of_weight = typed(_gap_kernels_adjoint(sums, plan), dtype)
        return None if of_x is None else typed(of_x.movedim(-1, 1), g.dtype), of_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        g, x, weight, ctx.plan, ctx.dtype = inputs
        ctx.save_for_backward(g, x, weight)
        ctx.save_for_forward(g, x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, into_x: Tensor | None, into_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        (g, x, weight), (to_g, to_x, to_weight, _, _) = ctx.saved_tensors, ctx.needs_input_grad
        of_g = None
        if to_g and into_x is not None:
            of_g = _output(into_x, weight.conj(), None, ctx.plan)
        if to_g and into_weight is not None:
            of_g = _total(of_g, _output(x.conj(), into_weight, None, ctx.plan))
        of_x, of_weight = _gradients(g.conj(), into_x if to_weight else None, into_weight if to_x else None, ctx)
        return of_g, of_x, of_weight, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        each = [_EagerGradients.apply(*one) for one in _one_by_one(info.batch_size, in_dims, arguments)]
        stacked = [None if column[0] is None else torch.stack(column) for column in zip(*each, strict=True)]
        return tuple(stacked), tuple(None if column is None else 0 for column in stacked)


class _EagerOutput(_Output):
    """With a derivative in forward mode, which compilers cannot read."""

    @staticmethod
    def jvp(ctx: Any, along_x: Tensor | None, along_weight: Tensor | None, along_bias: Tensor | None, _: None) -> Any:
        x, weight = ctx.saved_tensors
        of_x = None if along_x is None else _output(along_x, weight, None, ctx.plan)
        of_weight = None if along_weight is None else _output(x, along_weight, None, ctx.plan)
        of_bias = None if along_bias is None else along_bias.reshape(-1, *(1,) * (x.dim() - 2)).expand(ctx.output_shape)
        return _total(_total(of_x, of_weight), of_bias)


class _EagerGradients(_Gradients):
    """With a derivative in forward mode, which compilers cannot read."""

    @staticmethod
    def jvp(ctx: Any, along_g: Tensor | None, along_x: Tensor | None, along_weight: Tensor | None, *_: None) -> Any:
        g, x, weight = ctx.saved_tensors
        of_g = (None, None) if along_g is None else _gradients(along_g, x, weight, ctx)
        return tuple(map(_total, of_g, _gradients(g, along_x, along_weight, ctx)))


def _output(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    function = _Output if torch.compiler.is_compiling() else _EagerOutput
    output: Tensor = function.apply(x, weight, bias, plan)
    return output


def _gradients(g: Tensor, x: Tensor | None, weight: Tensor | None, ctx: Any) -> tuple[Tensor | None, Tensor | None]:
    """To the input where the weight is given, and to the weight where the input is."""
    if x is None and weight is None:
        return None, None
    function = _Gradients if torch.compiler.is_compiling() else _EagerGradients
    of_x, of_weight = function.apply(g, x, weight, ctx.plan, ctx.dtype)
    return of_x, of_weight


def _total(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _one_by_one(size: int, dims: Sequence[int | None], arguments: Sequence[Any]) -> list[list[Any]]:
    """The arguments of each of the calls that `torch.func.vmap` makes into one."""
    return [
        [a if dim is None else a.select(dim, i) for a, dim in zip(arguments, dims, strict=True)] for i in range(size)
    ]


# Kernels --------------------------------------------------------------------------------------------------------------


def _gap_kernels(weight: Tensor, plan: Plan) -> dict[Subset, Tensor]:
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


def _gap_kernels_adjoint(kernels: dict[Subset, Tensor], plan: Plan) -> Tensor:
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
        _store(torch.neg, gap[t], tap[t]) if t == 0 else _store(torch.sub, gap[t], gap[t - 1], tap[t])
    for t in range(k - 1, anchor, -1):
        gap[t - 1].copy_(tap[t]) if t == k - 1 else _store(torch.add, gap[t - 1], gap[t], tap[t])
    return sums


def _taps_adjoint(total: Tensor, sums: Tensor | None, axis: int, k: int) -> Tensor:
    """The k taps, of which the total and the sums beyond the gaps were made: from the anchor outwards."""
    taps = total.new_empty([k if i == axis else size for i, size in enumerate(total.shape)])
    if sums is None:
        return taps.copy_(total)
    tap, gap, anchor = taps.unbind(axis), sums.unbind(axis), (k - 1) // 2
    tap[anchor].copy_(total.select(axis, 0))
    for t in reversed(range(anchor)):
        _store(torch.sub, tap[t], tap[t + 1], gap[t])
    for t in range(anchor + 1, k):
        _store(torch.add, tap[t], tap[t - 1], gap[t - 1])
    return taps


# Features: values and jumps -------------------------------------------------------------------------------------------


def _features(values: Tensor, plan: Plan) -> dict[Subset, Tensor]:
    """(images, *positions, in): along each axis the values at the anchors, or the jumps, in all combinations."""
    features: dict[Subset, Tensor] = {(): values}
    for at, axis in enumerate(plan.axes, start=1):
        features = {
            (*subset, jumps): _jumps(whole, at, axis.jumps) if jumps else _window(whole, at, axis.anchors)
            for subset, whole in features.items()
            for jumps in axis.choices
        }
    return features


def _features_adjoint(features: dict[Subset, Tensor], plan: Plan) -> Tensor:
    """Takes its argument apart."""
    for at, axis in reversed(list(enumerate(plan.axes, start=1))):
        whole: dict[Subset, Tensor] = {}
        for (*others, jumps), values in features.items():
            subset = tuple(others)
            if jumps:
                _add_jumps_adjoint(whole[subset], at, values, axis.jumps)
            else:
                whole[subset] = _window(values, at, range(-axis.anchors.start, axis.input_size - axis.anchors.start))
        features = whole
    return features[()]


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
        _store(torch.sub, inner, values.narrow(axis, first, last - first), values.narrow(axis, first - 1, last - first))
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


def _sum_products(
    features: dict[Subset, Tensor], kernels: dict[Subset, Tensor], bias: Tensor | None, plan: Plan, output: Tensor
) -> None:
    """Multiply, and sum into (images, *output_size, out)."""
    lead, *others = plan.axes

    def multiplied(gap: int, gaps: tuple[int, ...], start: int, size: int, summand: Tensor | None) -> Tensor:
        """The products of one gap per axis, at so many positions of the first axis, added to a summand."""
        subset = (gap > 0, *(other > 0 for other in gaps))
        rows = features[subset].narrow(1, start, size)
        kernel = kernels[subset][tuple(max(one - 1, 0) for one in (gap, *gaps))]
        matrices, columns = rows.flatten(1, -2), kernel.t().expand(len(rows), -1, -1)
        if summand is None:
            result = torch.bmm(matrices, columns)
        else:
            summand = summand.expand(*rows.shape[:-1], len(kernel)).flatten(1, -2)
            result = torch.baddbmm(summand, matrices, columns)
        return result.view(*rows.shape[:-1], len(kernel))

    all_gaps = list(product(*(axis.gaps for axis in others)))
    anchors = {gaps: multiplied(0, gaps, 0, len(lead.anchors), None if any(gaps) else bias) for gaps in all_gaps}
    for phase in lead.phases:
        (_, start), *jumps = lead.terms[phase]
        along_lead = {}
        for gaps, values in anchors.items():
            summed = values.narrow(1, start, lead.size_of(phase))
            for gap, at in jumps:
                summed = multiplied(gap, gaps, at, lead.size_of(phase), summed)
            along_lead[gaps] = summed
        for phases in product((phase,), *(axis.phases for axis in others)):
            target = output[_of_phases(phases, plan.axes)]
            summands = []
            for terms in product(((0, 0),), *(axis.terms[r] for r, axis in zip(phases[1:], others, strict=True))):
                values = along_lead[tuple(gap for gap, _ in terms[1:])]
                summands.append(values[_of_terms(terms, target.shape[1:-1])])
            _store_sum(summands, target)


def _gathered(gradient: Tensor, plan: Plan, subset: Subset) -> Tensor:
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
    gathered = gradient.new_empty(len(gradient), *plan.positions(subset), *plan.gaps(subset), gradient.shape[-1])
    for gaps in product(*map(range, plan.gaps(subset))):
        target = gathered[(slice(None),) * (1 + len(gaps)) + gaps]
        _store_placed(parts.get(gaps, []), target)
    return gathered


Place = tuple[slice | int, ...]
"""An index into (images, *positions, channels)."""


def _of_phases(phases: Sequence[int], axes: Sequence[AxisPlan]) -> Place:
    """Where the outputs of one phase per axis are."""
    return (slice(None), *(slice(r, None, axis.stride) for r, axis in zip(phases, axes, strict=True)))


def _of_terms(terms: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Place:
    """Where the products of one term per axis are that so many outputs of a phase add up."""
    return (slice(None), *(slice(start, start + n) for (_, start), n in zip(terms, sizes, strict=True)))


def _store(operation: Any, target: Tensor, *operands: Tensor) -> None:
    """`target = operation(*operands)` in one pass; compilers, which fuse by themselves, know no `out=` into a view."""
    if torch.compiler.is_compiling():
        target.copy_(operation(*operands))
    else:
        operation(*operands, out=target)


def _store_sum(summands: Sequence[Tensor], target: Tensor) -> None:
    if len(summands) == 1:
        target.copy_(summands[0])
        return
    _store(torch.add, target, summands[0], summands[1])
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


# Layout ---------------------------------------------------------------------------------------------------------------


def _channels_at_the_end(tensor: Tensor) -> Tensor:
    return widened(tensor).movedim(1, -1).contiguous()
