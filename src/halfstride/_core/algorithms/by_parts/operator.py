# mypy: disable-error-code="no-untyped-call"
"""Summation by parts: a resize-convolution from the jumps of its input, for `k` products per axis whatever the scale.

An upsampled signal is piecewise constant. Summed by parts, a kernel meets its value at one tap, the anchor, with the
sum of all taps, and every jump between two taps with the sum of the taps beyond it. With `S = Σ w` and
`δ[i] = x[i] - x[i-1]`, for 3 taps, scale 2 and padding 1:

    y[2i]   = S·x[i] - w[0]·δ[i]
    y[2i+1] = S·x[i] + w[2]·δ[i+1]

Each of the `k - 1` gaps between taps meets a jump in `dilation` neighbouring outputs, and asks for one product. So an
input position costs `k` products along an axis, where the phases cost up to `k + s - 1` and the definition `k·s`.

What a value is multiplied by is the same for all outputs, and a jump is multiplied anyway. So not every position needs
to be an anchor: where each output sees `m` positions at the least, one in `m` will do, and the others are told from it
by their jumps. That leaves `k - 1 + 1/m` products per position; for 3 taps and scale 2, five for four outputs:

    y[4j-1] = S·x[2j] - (w[0]+w[1])·δ[2j]        y[4j+1] = S·x[2j] + w[2]·δ[2j+1]
    y[4j]   = S·x[2j] - w[0]·δ[2j]               y[4j+2] = S·x[2j] + (w[1]+w[2])·δ[2j+1]

In several dimensions it is the tensor product of the axes: a component of the input is, along each axis, its values at
the anchors, or one class of its jumps, those as far from an anchor. Each component is multiplied by the kernels of its
gaps in matrix products, and every output is the sum of a few of the results.

The operator is linear in input and in weight, and its gradients have its structure: all are the one trilinear form
`<y(x, w), g>` without its argument g, x or w. `_Output` is the first, `_Gradients` are the other two, which share what
they gather from g. The derivatives of each are the others, to any order, and only arguments are ever saved.

Memory traffic would cost as much as the products, so tensors are laid out (images, *positions, channels): every product
is one of plain matrices, and adds to the sum along the first axis while it multiplies. Only the other axes are summed
afterwards, directly into the output. Blocks of images, or of rows of one image, keep intermediate results in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstride._core.algorithms import folded
from halfstride._core.algorithms.by_parts import fused
from halfstride._core.algorithms.by_parts.plan import Component, PartsPlan, blocks, plan
from halfstride._core.algorithms.by_parts.steps import (
    Kernels,
    add_sums_of_taps_adjoint,
    of_components,
    of_lead_gaps,
    signs_of_taps,
    sum_products,
    sums_of_taps,
    through_components,
)
from halfstride._core.algorithms.products import Kernel, add_crossed, times
from halfstride._core.case import Case, Cost
from halfstride._core.common import (
    after_padding,
    apply_function,
    as_channels_last,
    input_padding,
    pad_input,
    typed,
    unsupported_by_phases,
)
from halfstride._support.arguments import Pairs
from halfstride._support.torch_private import is_transformed
from halfstride._support.weight_cache import cache_on_weight, cached, is_cacheable
from halfstride.kernels import widened


def unsupported_reason(case: Case) -> str | None:
    """The reason why a case cannot be summed by parts; None where it can."""
    if case.form == "transposed":
        return "summation by parts needs the piecewise constant input of a resize-convolution"
    return unsupported_by_phases(case)


def is_fused(case: Case) -> bool:
    """Whether the loops of `halfstride-kernels` compute a case, of tensors that they can take."""
    return unsupported_reason(case) is None and case.groups == 1 and fused.fits(case)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = input_padding(case)
    x, of_group = pad_input(case, input, padding), _of_group(case, padding)
    if case.groups > 1:
        biases = (None,) * case.groups if bias is None else bias.chunk(case.groups)
        groups = zip(x.chunk(case.groups, 1), weight.chunk(case.groups), biases, strict=True)
        return as_channels_last(torch.cat([_output(*group, of_group) for group in groups], 1), like=input)
    kernels: Kernels | None = None
    if is_cacheable(weight) and not is_transformed():
        if fused.takes(of_group, x, weight, bias):
            output = fused.output(of_group, x, fused.cached_kernels(of_group, weight), bias)
            return as_channels_last(output, like=input)
        of_case = plan(of_group, kernels_last=True)
        key = ("by_parts", *((axis.components, axis.before) for axis in of_case.axes))
        kernels = cache_on_weight(
            weight, key, lambda: {of: Kernel(each) for of, each in _kernels(weight, of_case).items()}
        )
    return as_channels_last(_output(x, weight, bias, of_group, kernels), like=input)


@cached
def _of_group(case: Case, padding: Pairs) -> Case:
    """The case of one group of channels, after the padding of the input."""
    return after_padding(case, padding)._replace(
        groups=1, in_channels=case.in_channels // case.groups, out_channels=case.out_channels // case.groups
    )


def gradients(
    case: Case, gradient: Tensor, input: Tensor | None, weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """To the input where the weight is given, and to the weight where the input is; of one group, padded with zeros."""
    of_both: tuple[Tensor | None, Tensor | None] = _Gradients.forward(gradient, input, weight, case, gradient.dtype)
    return of_both


def cost(case: Case) -> Cost:
    of_group = _of_group(case, ((0, 0),) * case.axes)
    of_case = plan(of_group, kernels_last=True)  # as in inference
    components = sum(math.prod(of_case.positions(component)) for component in of_case.components)
    intermediate = case.batch * (components * case.in_channels + of_case.macs * case.out_channels)
    traffic = case.input_numel + case.output_numel + 2 * intermediate
    channels = of_group.in_channels, of_group.out_channels
    parts = len(blocks(of_case, case.batch, *channels, training=False)) * case.groups
    return Cost(of_case.macs * case.channel_pairs, traffic, parts * (of_case.matrices + of_case.sums))


# The trilinear form, without each of its arguments --------------------------------------------------------------------


class _Output(torch.autograd.Function):
    """(batch, out, *output_size) from input, weight and bias; the weight's kernels are given where they are cached."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, case: Case, cached_kernels: Kernels | None) -> Tensor:
        # Gradients are off here, so that the kernels of a weight that is trained would be cached as well.
        if cached_kernels is None and fused.takes(case, x, weight, bias):
            return fused.output(case, x, fused.packed_kernels(case, weight), bias)
        values = _channels_at_the_end(x)
        bias = None if bias is None else typed(bias, values.dtype)
        of_case = plan(case, kernels_last=cached_kernels is not None)
        output = values.new_empty(len(x), *case.output_size, weight.shape[0])
        kernels = cached_kernels or _kernels(weight, of_case)
        for block in blocks(of_case, len(x), x.shape[1], weight.shape[0], training=cached_kernels is None):
            sum_products(values[block.inputs], kernels, bias, block.plan, output[block.outputs])
        return typed(output.movedim(-1, 1), x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.case, _ = inputs
        ctx.dtype = weight.dtype
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (to_x, to_weight, to_bias, *_) = ctx.saved_tensors, ctx.needs_input_grad
        of_x, of_weight = _gradients(g, x.conj() if to_weight else None, weight.conj() if to_x else None, ctx)
        return of_x, of_weight, g.sum([0, *range(2, g.dim())]) if to_bias else None, None, None


class _Gradients(torch.autograd.Function):
    """(batch, in, *input_size), where the weight is given, and (out, in, *kernel_size), where the input is."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor | None, weight: Tensor | None, case: Case, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        wide = None if weight is None else widened(weight)
        if fused.takes(case, g, x, weight):
            into_x, into_weight = fused.gradients(case, widened(g), None if x is None else widened(x), wide)
            return (
                None if into_x is None else typed(into_x, g.dtype),
                None if into_weight is None else typed(into_weight, dtype),
            )
        gradient = _channels_at_the_end(g)
        values = None if x is None else _channels_at_the_end(x)
        of_case = plan(case)
        outputs, channels = g.shape[1], (x if weight is None else weight).shape[1]  # type: ignore[union-attr]
        of_x = of_taps = None
        if weight is not None:
            of_x = gradient.new_zeros([len(g), *case.input_size, channels])
        if x is not None:
            of_taps = gradient.new_zeros(math.prod(case.kernel_size), outputs, channels)
        for lead in of_case.axes[0].components:  # the kernels of one of them at a time are much less than those of all
            _add_gradients(gradient, values, wide, of_case, lead, of_x, of_taps)
        of_weight = None
        if of_taps is not None:
            of_weight = typed(of_taps.movedim(0, -1).unflatten(-1, case.kernel_size), dtype)
        return None if of_x is None else typed(of_x.movedim(-1, 1), g.dtype), of_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        g, x, weight, ctx.case, ctx.dtype = inputs
        ctx.save_for_backward(g, x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, into_x: Tensor | None, into_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        (g, x, weight), (to_g, to_x, to_weight, _, _) = ctx.saved_tensors, ctx.needs_input_grad
        of_g = None
        if to_g and into_x is not None:
            of_g = _output(into_x, weight.conj(), None, ctx.case)
        if to_g and into_weight is not None:
            through_weight = _output(x.conj(), into_weight, None, ctx.case)
            of_g = through_weight if of_g is None else of_g + through_weight
        of_x, of_weight = _gradients(g.conj(), into_x if to_weight else None, into_weight if to_x else None, ctx)
        return of_g, of_x, of_weight, None, None


def _output(
    x: Tensor, weight: Tensor, bias: Tensor | None, case: Case, cached_kernels: Kernels | None = None
) -> Tensor:
    if is_transformed():  # transforms know torch's own operators
        return folded.compute(case, x, weight, bias)
    output: Tensor = apply_function(_Output, x, weight, bias, case, cached_kernels)
    return output


def _gradients(g: Tensor, x: Tensor | None, weight: Tensor | None, ctx: Any) -> tuple[Tensor | None, Tensor | None]:
    """To the input where the weight is given, and to the weight where the input is."""
    if x is None and weight is None:
        return None, None
    if not is_transformed():
        of_x, of_weight = apply_function(_Gradients, g, x, weight, ctx.case, ctx.dtype)
        return of_x, of_weight

    def gradient_at(argument: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.func.vjp(output, argument)[1](g)[0]  # type: ignore[no-any-return]

    case, of_x, of_weight = ctx.case, None, None
    if weight is not None:
        zeros = g.new_zeros(case.batch, case.in_channels, *case.input_size)
        of_x = gradient_at(zeros, lambda x: folded.compute(case, x, weight.conj(), None))
    if x is not None:
        zeros = g.new_zeros(case.out_channels, case.in_channels, *case.kernel_size, dtype=ctx.dtype)
        of_weight = gradient_at(zeros, lambda weight: folded.compute(case, x.conj(), weight, None))
    return of_x, of_weight


def _add_gradients(
    gradient: Tensor,
    values: Tensor | None,
    weight: Tensor | None,
    plan: PartsPlan,
    lead: int,
    of_x: Tensor | None,
    of_taps: Tensor | None,
) -> None:
    """Add what the components that are `lead` along the first axis give to the gradients of values and taps."""
    components = [component for component in plan.components if component[0] == lead]
    signs = signs_of_taps(plan, components, gradient)
    kernels: dict[Component, Tensor] = {}
    sums: dict[Component, Tensor] = {}
    if weight is not None:
        kernels = of_components(sums_of_taps(weight, signs), plan, components)
    if of_taps is not None:
        of_kernels = of_taps.new_zeros(len(signs), *of_taps.shape[1:])
        sums = of_components(of_kernels, plan, components)

    images, outputs = gradient.shape[0], gradient.shape[-1]
    channels = (of_taps if of_x is None else of_x).shape[-1]  # type: ignore[union-attr]  # one of them is wanted

    def visit(which: Component, component: Tensor | None, rows: Tensor) -> Tensor | None:
        """The gradient of a component; the gradient of the weight takes its share."""
        flat = rows.flatten(0, -2)
        if component is not None:
            add_crossed(flat, component.flatten(0, -2), sums[which])
        return times(flat, kernels[which].t()).view(*rows.shape[:-1], channels) if kernels else None

    for block in blocks(plan, images, channels, outputs, training=True):
        part = None if values is None else values[block.inputs]
        total = None if of_x is None else of_x[block.inputs]
        through_components(part, gradient[block.outputs], block.plan, lead, visit, total)
    if of_taps is not None:
        add_sums_of_taps_adjoint(of_taps, of_kernels, signs)


def _kernels(weight: Tensor, plan: PartsPlan) -> dict[tuple[int, Component], Tensor]:
    wide = widened(weight)
    kernels = sums_of_taps(wide, signs_of_taps(plan, plan.components, wide))
    return of_lead_gaps(of_components(kernels, plan, plan.components), plan)


def _channels_at_the_end(tensor: Tensor) -> Tensor:
    return widened(tensor).movedim(1, -1).contiguous()
