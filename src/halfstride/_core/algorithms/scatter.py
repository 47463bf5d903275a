# mypy: disable-error-code="no-untyped-call"
"""Each input value times the kernel, added at steps of the stride.

All the products are one matrix product of the kernel, (out·taps, in), and the input's values, (in, positions). What
remains is to add each of them to its output. The products of one tap land `s` outputs apart, so that one operation adds
all of them where they belong; those that come first are stored, together with the bias. Every product is read once, and
nothing is made in between. Where there are few products for few output channels, a call for each tap takes longer than
adding them: then torch's `fold` adds all of them in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._core.algorithms import expressions
from halfstride._core.algorithms.products import Kernel, multiplied, times
from halfstride._core.case import Case, Cost
from halfstride._core.common import (
    apply_function,
    as_channels_last,
    as_transposed,
    is_channels_last,
    pad_input,
    transposed_weight,
    typed,
    unsupported_by_phases,
)
from halfstride._support.torch_private import is_compiling, is_transformed
from halfstride._support.weight_cache import cache_on_weight, cached, is_cacheable
from halfstride.kernels import widened

unsupported_reason = unsupported_by_phases

_COLUMNS = 8
"""In inference the columns of a product are padded to a multiple of this: 9 take up to 4 times as long as 16."""

_MANY = 256
"""From this many output channels times taps on, one image is multiplied as kernel @ image instead of image @ kernel."""

_FEW, _FEW_OUTPUTS = 2**16, 4
"""Up to this many products and output channels `fold` is faster, which adds products one by one."""

_RUN = 8
"""From this stride on, taps that land on neighbouring outputs are added together; at smaller strides one by one."""


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    columns = math.prod(twin.input_size) * math.prod(twin.kernel_size)
    traffic = case.input_numel + 2 * columns * case.batch * case.out_channels + case.output_numel
    return Cost(columns * case.channel_pairs, traffic, 1 + math.prod(map(len, _runs_of_axes(twin))))


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    twin, margin = as_transposed(case)
    # Half types are summed in float32 and rounded once.
    x = widened(pad_input(case, input, margin))
    bias = None if bias is None else typed(bias, x.dtype)
    kernel = partial(transposed_weight, case, weight, x.dtype)
    if is_small(case) and not (is_compiling() or is_transformed()):
        if case.batch == case.groups == 1:
            products = torch.mm(kernel().flatten(1).t(), x.flatten(2)[0])
        else:
            products = _products(case, x, weight, kernel)
        output = _folded(products, bias, twin)
        return as_channels_last(typed(output, input.dtype), like=input)
    # With one output channel both memory formats are the same, and contiguous positions are added faster.
    if (is_channels_last(x) or _is_heavy(case)) and case.groups == 1 and case.out_channels > 1:
        if _are_tiles(case):
            products = _products_channels_last(case, x, weight, kernel, bias, as_image=True)
            # One copy puts (batch, out, *taps, *positions) in their places, channels last.
            turns = [dim for axis in range(2, 2 + case.axes) for dim in (case.axes + axis, axis)]
            output = products.permute(0, *turns, 1).reshape(case.batch, *case.output_size, case.out_channels)
            return as_channels_last(typed(output.movedim(-1, 1), input.dtype), like=input)
        products = _products_channels_last(case, x, weight, kernel)
    else:
        products = _products(case, x, weight, kernel)
    return as_channels_last(typed(_added(products, bias, twin), input.dtype), like=input)


@cached
def is_small(case: Case) -> bool:
    """Whether there are few products, which `fold` adds: not of volumes, nor where it would find another input size."""
    twin, _ = as_transposed(case)
    products = case.batch * case.out_channels * math.prod(twin.kernel_size) * math.prod(twin.input_size)
    axes = zip(twin.input_size, twin.output_size, twin.stride, twin.padding, twin.span, strict=True)
    fits = all(p >= 0 and n == (o + 2 * p - span - 1) // s + 1 for n, o, s, p, span in axes)
    return fits and case.axes <= 2 and 0 < products <= _FEW and case.out_channels <= _FEW_OUTPUTS


def _folded(products: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    """(batch, out, *output_size) from products (batch, out, *taps, *positions) of a transposed case."""
    line = (1,) * (2 - case.axes)  # `fold` knows planes only
    output = F.fold(
        products.reshape(case.batch, -1, math.prod(case.input_size)),
        output_size=line + case.output_size,
        kernel_size=line + case.kernel_size,
        dilation=line + case.dilation,
        padding=(0,) * len(line) + case.padding,
        stride=line + case.stride,
    )
    if case.axes == 1:
        output = output.squeeze(2)
    return output if bias is None else output + bias.view(-1, *(1,) * case.axes)


def _is_heavy(case: Case) -> bool:
    """Whether a kernel outweighs input and output: then channels-last is faster, with the copies to and from it."""
    if torch.is_grad_enabled() or is_compiling():
        return False
    columns = case.out_channels * math.prod(as_transposed(case)[0].kernel_size)
    return columns >= _MANY and 0 < case.input_numel + case.output_numel <= case.in_channels * columns


def _are_tiles(case: Case) -> bool:
    """Whether kernels lie side by side (kernel_size == stride, no padding, no dilation), and one copy of the products
    is faster."""
    full = tuple(n * s for n, s in zip(case.input_size, case.stride, strict=True))
    touching = case.kernel_size == case.stride and max(case.dilation) == 1
    side_by_side = touching and not any(case.padding) and case.output_size == full
    # A compiler fuses everything after the products in any case.
    faster = (case.axes == 2 or not torch.is_grad_enabled()) and not is_compiling()
    return case.form == "transposed" and case.padding_mode == "zeros" and side_by_side and faster


def _products(case: Case, x: Tensor, weight: Tensor, kernel: Callable[[], Tensor]) -> Tensor:
    """(batch, out, *taps, *positions), by the kernel of a transposed convolution, which is made of a weight."""
    taps, groups = as_transposed(case)[0].kernel_size, case.groups
    positions, channels = math.prod(x.shape[2:]), case.out_channels * math.prod(taps)
    if x.shape[0] == groups == 1 and channels >= _MANY and is_cacheable(weight):
        rows = cache_on_weight(weight, _key(case, "rows"), lambda: kernel().flatten(1).t().contiguous())
        products = times(rows, x.flatten(2)[0].t())
    elif x.shape[0] > groups == 1 and positions < channels:
        # The positions of all images in one product: else the weight's gradient is as large for each of them.
        products = (x.flatten(2).transpose(1, 2) @ kernel().flatten(1)).transpose(1, 2)
    else:
        columns = kernel().reshape(groups, x.shape[1] // groups, -1).transpose(1, 2)
        columns = columns.expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        products = torch.bmm(columns, x.reshape(len(columns), x.shape[1] // groups, positions))
    return products.reshape(x.shape[0], case.out_channels, *taps, *x.shape[2:])


def _products_channels_last(
    case: Case,
    x: Tensor,
    weight: Tensor,
    kernel: Callable[[], Tensor],
    bias: Tensor | None = None,
    *,
    as_image: bool = False,
) -> Tensor:
    """The same with channels last, plus a bias; `as_image` in training, where gradients of images are faster (2-D)."""
    taps, axes = as_transposed(case)[0].kernel_size, case.axes
    rows, wanted = x.movedim(1, -1).flatten(0, -2), case.out_channels * math.prod(taps)
    bias = None if bias is None else bias.repeat(math.prod(taps))

    def columns() -> Tensor:
        each = kernel().movedim(1, -1).flatten(1)
        return F.pad(each, (0, -wanted % _COLUMNS)) if wanted % _COLUMNS and not torch.is_grad_enabled() else each

    if torch.is_grad_enabled():
        if as_image:
            products = F.conv2d(x, columns().t()[:, :, None, None], bias).movedim(1, -1).flatten(0, -2)
        else:
            products = F.linear(rows, columns().t(), bias)
    else:
        bias = None if bias is None else F.pad(bias, (0, -wanted % _COLUMNS))
        if is_cacheable(weight):
            packed = cache_on_weight(weight, _key(case, "columns"), lambda: Kernel(columns().t().contiguous()))
            products = times(rows, packed, bias)
        else:
            products = multiplied(rows, columns().t(), bias)
    products = products.narrow(1, 0, wanted).view(x.shape[0], *x.shape[2:], *taps, case.out_channels)
    return products.permute(0, -1, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))


def _key(case: Case, name: str) -> tuple[Hashable, ...]:
    return "scatter", name, case.form, case.stride, case.dilation


class _Run(NamedTuple):
    """Along one axis, taps that land next to each other, and the input positions whose products land in the output."""

    taps: range
    inputs: range
    start: int
    """Where the first tap of the first of these positions lands; each next position lands a stride further."""


@dataclass(frozen=True, eq=False)
class _ScatterPlan:
    """Which products are added to which outputs."""

    output_size: tuple[int, ...]
    stride: tuple[int, ...]
    first: tuple[tuple[_Run, ...], ...]
    """Runs of all axes that together land on each output exactly once; none where there are no such."""
    others: tuple[tuple[_Run, ...], ...]
    """All other runs."""
    complete: bool
    """Whether every product lands somewhere in the output."""

    def pairs(self, products: Tensor, output: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What runs add and what they add it to, both (batch, out, *inputs, *taps): the first ones, then the others."""
        first, begin = products.storage_offset(), output.storage_offset()
        for size, source, source_start, target, target_start in _places(
            self, output.shape[:2], products.stride(), output.stride()
        ):
            yield (
                products.as_strided(size, source, first + source_start),
                output.as_strided(size, target, begin + target_start),
            )


_Numbers = tuple[int, ...]


@cached
def _places(
    plan: _ScatterPlan, outer: _Numbers, products: _Numbers, output: _Numbers
) -> list[tuple[_Numbers, _Numbers, int, _Numbers, int]]:
    """For `_ScatterPlan.pairs`: sizes, and strides and start within the products and within the output."""
    axes = len(plan.stride)
    of_taps, of_inputs, of_outputs = products[2 : 2 + axes], products[2 + axes :], output[2:]
    source = (*products[:2], *of_inputs, *of_taps)
    target = (*output[:2], *(s * each for s, each in zip(plan.stride, of_outputs, strict=True)), *of_outputs)
    places = []
    for runs in plan.first + plan.others:
        size = (*outer, *(len(run.inputs) for run in runs), *(len(run.taps) for run in runs))
        source_start = sum(run.taps.start * each for run, each in zip(runs, of_taps, strict=True))
        source_start += sum(run.inputs.start * each for run, each in zip(runs, of_inputs, strict=True))
        target_start = sum(run.start * each for run, each in zip(runs, of_outputs, strict=True))
        places.append((size, source, source_start, target, target_start))
    return places


@cached
def _plan(case: Case) -> _ScatterPlan:
    runs = _runs_of_axes(case)
    first = tuple(product(*map(_covering, runs, case.output_size, case.stride)))
    others = tuple(each for each in product(*runs) if each not in first)
    landing = [sum(len(run.taps) * len(run.inputs) for run in of_axis) for of_axis in runs]
    complete = landing == [k * n for k, n in zip(case.kernel_size, case.input_size, strict=True)]
    return _ScatterPlan(case.output_size, case.stride, first, others, complete)


def _runs_of_axes(case: Case) -> list[list[_Run]]:
    sizes = (case.kernel_size, case.input_size, case.output_size, case.stride, case.dilation, case.padding)
    return [_runs(*axis) for axis in zip(*sizes, strict=True)]


def _covering(runs: list[_Run], output_size: int, stride: int) -> list[_Run]:
    """Runs that land on each output exactly once; none where there are no such."""
    phases: set[int] = set()
    covering = []
    for run in runs:
        its_phases = {(run.start + i) % stride for i in range(len(run.taps))}
        outputs = sum(len(range(phase, output_size, stride)) for phase in its_phases)
        if len(run.inputs) * len(run.taps) == outputs and not its_phases & phases:
            phases |= its_phases
            covering.append(run)
    return covering if len(phases) == min(stride, output_size) else []


def _runs(k: int, n: int, o: int, s: int, d: int, p: int) -> list[_Run]:
    together = s >= _RUN and d == 1
    runs, tap = [], 0
    while tap < k:
        shift, phase = divmod(d * tap - p, s)  # position i lands on output s·(i + shift) + phase
        taps = range(tap, min(tap + s - phase, k) if together else tap + 1)
        whole = (o - phase - len(taps)) // s + 1  # steps of the output which all of these taps fit into
        first, end = max(0, -shift), min(n, whole - shift)
        if first < end:
            runs.append(_Run(taps, range(first, end), s * (first + shift) + phase))
        fitting = o - phase - s * whole  # taps that fit into the step after those, which the output's end cuts
        if fitting > 0 and 0 <= whole - shift < n:
            runs.append(_Run(taps[:fitting], range(whole - shift, whole - shift + 1), s * whole + phase))
        tap = taps.stop
    return runs


class _Added(torch.autograd.Function):
    """(batch, out, *output_size) from products (batch, out, *taps, *input_size), with the same order in memory."""

    @staticmethod
    def forward(products: Tensor, bias: Tensor | None, case: Case) -> Tensor:
        if is_compiling():
            return expressions.added(products, bias, case)
        plan = _plan(case)
        if products.stride(1) == 1:
            output = products.new_empty(products.shape[0], *plan.output_size, products.shape[1]).movedim(-1, 1)
        else:
            output = products.new_empty(*products.shape[:2], *plan.output_size)
        if not plan.first:
            output.zero_() if bias is None else output.movedim(1, -1).copy_(bias)
        elif bias is not None:
            bias = bias.view(-1, *(1,) * 2 * case.axes)
        for i, (source, target) in enumerate(plan.pairs(products, output)):
            if i >= len(plan.first):
                target.add_(source)
            elif bias is None:
                target.copy_(source)
            else:
                torch.add(source, bias, out=target)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        products, _, ctx.case = inputs
        ctx.last = products.stride(1) == 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        to_products, to_bias, _ = ctx.needs_input_grad
        of_products = _gathered(gradient, ctx.case, ctx.last) if to_products else None
        return of_products, gradient.sum([0, *range(2, gradient.dim())]) if to_bias else None, None


class _Gathered(torch.autograd.Function):
    """The adjoint: for each product what is at the place that it was added to."""

    @staticmethod
    def forward(output: Tensor, case: Case, last: bool) -> Tensor:
        if is_compiling():
            return expressions.gathered(output, case, last)
        plan = _plan(case)
        axes, (batch, channels) = case.axes, output.shape[:2]
        if last:
            products = output.new_empty(batch, *case.input_size, *case.kernel_size, channels)
            products = products.permute(0, -1, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))
        else:
            products = output.new_empty(batch, channels, *case.kernel_size, *case.input_size)
        if not plan.complete:
            products.zero_()
        for source, target in plan.pairs(products, output):
            source.copy_(target)
        return products

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.case, ctx.last = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _added(gradient, None, ctx.case), None, None


def _added(products: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    if is_transformed():  # transforms know torch's own operators, out of place
        return expressions.added(products, bias, case)
    output: Tensor = apply_function(_Added, products, bias, case)
    return output


def _gathered(output: Tensor, case: Case, last: bool) -> Tensor:
    if is_transformed():
        return expressions.gathered(output, case, last)
    products: Tensor = apply_function(_Gathered, output, case, last)
    return products
