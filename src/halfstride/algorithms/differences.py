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

The operator is linear in input and in weight, and its gradients have its structure: `_Output`, `_InputGradient` and
`_WeightGradient` are the one trilinear form `<y(x, w), g>` without its argument g, x or w. The derivatives of each are
the other two, to any order, and only arguments are ever saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.algorithms.case import Case, Cost, cached
from halfstride.algorithms.common import as_channels_last, margins, obstacle_to_phases, settled, typed
from halfstride.kernels import widened

__all__ = ["Plan", "compute", "cost", "obstacle", "plan"]

Subset = tuple[bool, ...]
"""Of the axes: whether the input is differenced along them."""


def obstacle(case: Case) -> str | None:
    """Why a case cannot be summed by parts."""
    if case.form == "transposed":
        return "summation by parts needs the piecewise constant input of a resize-convolution"
    return obstacle_to_phases(case)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    margin = margins(case)
    x, first = settled(case, input, margin), tuple(-before for before, _ in margin)
    output: Tensor = _Output.apply(x, weight, bias, plan(case, tuple(x.shape[2:]), first))
    return as_channels_last(output, like=input)


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
    def gap_kernels(self) -> list[list[int]]:
        """The kernel of each gap as a sum of taps: all of them for the anchor, those beyond the gap for a jump."""
        k, anchor = self.kernel_size, (self.kernel_size - 1) // 2
        before = [[-1] * gap + [0] * (k - gap) for gap in range(1, anchor + 1)]
        after = [[0] * gap + [1] * (k - gap) for gap in range(anchor + 1, k)]
        return [[1] * k, *before, *after]


@dataclass(frozen=True)
class Plan:
    """All axes of a resize-convolution, summed by parts."""

    axes: tuple[AxisPlan, ...]
    groups: int

    @property
    def sums(self) -> Iterator[tuple[tuple[Any, ...], list[tuple[Subset, tuple[Any, ...]]]]]:
        """For each phase: its place in the output, and the place in the products of every subset that it adds up.

        Output (groups, batch, *output_size, out / groups), products (groups, batch, *positions, *gaps, out / groups).
        """
        for phase in product(*(range(min(axis.stride, axis.output_size)) for axis in self.axes)):
            of_phase = list(zip(phase, self.axes, strict=True))
            sizes = [len(range(r, axis.output_size, axis.stride)) for r, axis in of_phase]
            sources = []
            for terms in product(*(axis.terms[r] for r, axis in of_phase)):
                subset = tuple(gap > 0 for gap, _ in terms)
                positions = [slice(start, start + size) for (_, start), size in zip(terms, sizes, strict=True)]
                sources.append((subset, (..., *positions, *(max(gap - 1, 0) for gap, _ in terms), slice(None))))
            yield (..., *(slice(r, None, axis.stride) for r, axis in of_phase), slice(None)), sources


@cached
def plan(case: Case, input_size: tuple[int, ...], first: tuple[int, ...]) -> Plan:
    """The plan of a case whose input has been continued to `input_size` positions, from position `first` on."""
    axes = []
    for axis, (n, at) in enumerate(zip(input_size, first, strict=True)):
        s = case.stride[axis]
        padding = case.padding[axis] + s * at
        axes.append(_axis_plan(n, case.output_size[axis], case.kernel_size[axis], s, case.dilation[axis], padding))
    return Plan(tuple(axes), case.groups)


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
    return AxisPlan(n, o, k, s, anchors, jumps, tuple(phases))


# The trilinear form, without each of its arguments --------------------------------------------------------------------


class _Output(torch.autograd.Function):
    """(batch, out, *output_size) from input, weight and bias."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        kernels, products = _gap_kernels(widened(weight), plan), {}
        for subset, values in _features(widened(x), plan).items():
            products[subset] = _multiplied(values, kernels[_chosen(subset)], None if any(subset) else bias)
        sizes = [axis.output_size for axis in plan.axes]
        output = kernels.new_empty(x.shape[0], *sizes, plan.groups, weight.shape[0] // plan.groups)
        for place, sources in plan.sums:
            target = output.movedim(-2, 0)[place]
            (subset, source), *others = sources
            target.copy_(products[subset][source])
            for subset, source in others:
                target.add_(products[subset][source])
        return typed(output.flatten(-2).movedim(-1, 1), x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.plan = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (to_x, to_weight, to_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _InputGradient.apply(g, weight.conj(), ctx.plan) if to_x else None,
            _WeightGradient.apply(x.conj(), g, ctx.plan, weight.dtype) if to_weight else None,
            g.sum([0, *range(2, g.dim())]) if to_bias else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return _mapped(_Output, info.batch_size, in_dims, arguments)


class _InputGradient(torch.autograd.Function):
    """(batch, in, *input_size) from the output's gradient and the weight."""

    @staticmethod
    def forward(g: Tensor, weight: Tensor, plan: Plan) -> Tensor:
        kernels, features = _gap_kernels(widened(weight), plan), {}
        for subset, gathered in _gathered(widened(g), plan).items():
            positions = gathered.shape[1 : 2 + len(plan.axes)]
            columns = kernels[_chosen(subset)].flatten(2).transpose(1, 2)
            values = torch.bmm(_as_matrices(gathered, plan), columns).transpose(0, 1)
            features[subset] = values.reshape(*positions, values.shape[1] * values.shape[2])
        return typed(_features_adjoint(features, plan), g.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, weight, ctx.plan = inputs
        ctx.save_for_backward(g, weight)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        (g, weight), (to_g, to_weight, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _Output.apply(x, weight.conj(), None, ctx.plan) if to_g else None,
            _WeightGradient.apply(x, g.conj(), ctx.plan, weight.dtype) if to_weight else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return _mapped(_InputGradient, info.batch_size, in_dims, arguments)


class _WeightGradient(torch.autograd.Function):
    """(out, in / groups, *kernel_size) from input and the output's gradient."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
        features, gathered = _features(widened(x), plan), _gathered(widened(g), plan)
        taps = [axis.kernel_size for axis in plan.axes]
        kernels = widened(x).new_zeros(plan.groups, x.shape[1] // plan.groups, *taps, g.shape[1] // plan.groups)
        for subset, values in features.items():
            part = kernels[_chosen(subset)]
            rows, columns = _by_group(values, plan.groups).transpose(1, 2), _as_matrices(gathered[subset], plan)
            part.copy_(torch.bmm(rows, columns).reshape(part.shape))
        return typed(_gap_kernels_adjoint(kernels, plan), dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, g, ctx.plan, _ = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        (x, g), (to_x, to_g, _, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _InputGradient.apply(g.conj(), weight, ctx.plan) if to_x else None,
            _Output.apply(x.conj(), weight, None, ctx.plan) if to_g else None,
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return _mapped(_WeightGradient, info.batch_size, in_dims, arguments)


def _mapped(
    function: type[torch.autograd.Function], size: int, dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[Tensor, int]:
    """The rule of `torch.func.vmap`: more images where only they are many, else one after the other."""
    only_images = dims[0] is not None and all(dim is None for dim in dims[1:])
    if only_images and function is not _WeightGradient:  # which would add the images up
        images = arguments[0].movedim(dims[0], 0)
        output: Tensor = function.apply(images.flatten(0, 1), *arguments[1:])
        return output.reshape(*images.shape[:2], *output.shape[1:]), 0
    each = [
        function.apply(*(a if dim is None else a.select(dim, i) for a, dim in zip(arguments, dims, strict=True)))
        for i in range(size)
    ]
    return torch.stack(each), 0


# Linear steps and their adjoints --------------------------------------------------------------------------------------


def _features(x: Tensor, plan: Plan) -> dict[Subset, Tensor]:
    """(batch, *positions, in): along each axis the values at the anchors, or the jumps, in all combinations."""
    features: dict[Subset, Tensor] = {(): x.movedim(1, -1)}
    for at, axis in enumerate(plan.axes, start=1):
        features = {
            (*subset, jumps): _jumps(values, at, axis.jumps) if jumps else _window(values, at, axis.anchors)
            for subset, values in features.items()
            for jumps in axis.choices
        }
    return features


def _features_adjoint(features: dict[Subset, Tensor], plan: Plan) -> Tensor:
    for at, axis in reversed(list(enumerate(plan.axes, start=1))):
        whole: dict[Subset, Tensor] = {}
        for (*others, jumps), values in features.items():
            start = axis.jumps.start if jumps else axis.anchors.start
            back = _window(values, at, range(-start, axis.input_size - start))
            if jumps:
                back = back - _window(values, at, range(1 - start, axis.input_size - start + 1))
            subset = tuple(others)
            whole[subset] = whole[subset] + back if subset in whole else back
        features = whole
    return features[()].movedim(-1, 1)


def _window(values: Tensor, axis: int, positions: range) -> Tensor:
    """The values at `positions` along an axis, zeros where there are none. Its adjoint is a window back."""
    before, after = max(-positions.start, 0), max(positions.stop - values.shape[axis], 0)
    if before or after:
        values = F.pad(values, [*(0, 0) * (values.dim() - 1 - axis), before, after])
    return values.narrow(axis, positions.start + before, len(positions))


def _jumps(values: Tensor, axis: int, positions: range) -> Tensor:
    around = _window(values, axis, range(positions.start - 1, positions.stop))
    return around.narrow(axis, 1, len(positions)) - around.narrow(axis, 0, len(positions))


def _gap_kernels(weight: Tensor, plan: Plan) -> Tensor:
    """(groups, in / groups, *gaps, out / groups): along each axis the anchor's kernel first, then the gaps'."""
    for at, axis in enumerate(plan.axes, start=2):
        weight = _along(weight, at, torch.tensor(axis.gap_kernels))
    return weight.reshape(plan.groups, weight.shape[0] // plan.groups, *weight.shape[1:]).movedim(1, -1)


def _gap_kernels_adjoint(kernels: Tensor, plan: Plan) -> Tensor:
    weight = kernels.movedim(-1, 1).flatten(0, 1)
    for at, axis in enumerate(plan.axes, start=2):
        weight = _along(weight, at, torch.tensor(axis.gap_kernels).T)
    return weight


def _along(tensor: Tensor, axis: int, matrix: Tensor) -> Tensor:
    moved: Tensor = torch.tensordot(tensor, matrix.to(tensor), dims=([axis], [1]))
    return moved.movedim(-1, axis)


def _multiplied(values: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """(groups, batch, *positions, *gaps, out / groups), one matrix product for each group."""
    groups = kernels.shape[0]
    rows, columns = _by_group(values, groups), kernels.flatten(2)
    if bias is None:
        product = torch.bmm(rows, columns)
    else:
        product = torch.baddbmm(typed(bias, rows.dtype).reshape(groups, 1, -1), rows, columns)
    return product.reshape(groups, *values.shape[:-1], *kernels.shape[2:])


def _gathered(g: Tensor, plan: Plan) -> dict[Subset, Tensor]:
    """What the products' gradients are: for each, the sum of the output's at the places that it was added to."""
    parts = g.movedim(1, -1)
    parts = parts.reshape(*parts.shape[:-1], plan.groups, parts.shape[-1] // plan.groups).movedim(-2, 0)
    gathered = {}
    for subset in product(*(axis.choices for axis in plan.axes)):
        of_axes = list(zip(subset, plan.axes, strict=True))
        positions = [len(axis.jumps if jumps else axis.anchors) for jumps, axis in of_axes]
        gaps = [axis.kernel_size - 1 if jumps else 1 for jumps, axis in of_axes]
        gathered[subset] = g.new_zeros(plan.groups, g.shape[0], *positions, *gaps, parts.shape[-1])
    for place, sources in plan.sums:
        for subset, source in sources:
            gathered[subset][source].add_(parts[place])
    return gathered


def _chosen(subset: Subset) -> tuple[slice, ...]:
    """The place of a subset's kernels among all of them."""
    return (slice(None), slice(None), *(slice(1, None) if jumps else slice(0, 1) for jumps in subset), slice(None))


def _by_group(values: Tensor, groups: int) -> Tensor:
    """(groups, batch·positions, in / groups) from (batch, *positions, in)."""
    rows = values.flatten(0, -2)
    return rows.reshape(rows.shape[0], groups, rows.shape[1] // groups).transpose(0, 1)


def _as_matrices(products: Tensor, plan: Plan) -> Tensor:
    """(groups, batch·positions, gaps·out / groups) from (groups, batch, *positions, *gaps, out / groups)."""
    axes = len(plan.axes)
    return products.flatten(2 + axes).flatten(1, 1 + axes)
