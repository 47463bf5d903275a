# mypy: disable-error-code="no-untyped-call"
"""Each input value times the kernel, added at steps of the stride.

All the products are one matrix product, (out·taps, in) by (in, positions). What remains is to add each of them to its
output position. Of a kernel's taps, each block of `s` neighbours lands on `s` neighbouring outputs, one of each phase:
so blocks are added whole, phase beside phase, and the phases are interleaved last. A kernel no longer than the stride
is one block, and nothing needs to be added at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from halfstride.algorithms.case import Case, Cost, cached
from halfstride.algorithms.common import (
    as_channels_last,
    as_more_images,
    as_transposed,
    obstacle_to_phases,
    settled,
    transposed_weight,
    typed,
    window,
)
from halfstride.kernels import widened

__all__ = ["compute", "cost", "obstacle"]

obstacle = obstacle_to_phases


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    columns = math.prod(twin.input_size) * math.prod(twin.kernel_size)
    traffic = case.input_numbers + 2 * columns * case.batch * case.out_channels + case.output_numbers
    return Cost(columns * case.channel_pairs, traffic)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    twin, margin = as_transposed(case)
    x, weight = settled(case, input, margin), transposed_weight(case, weight)
    # Half types would lose their few digits in sums of many rounded products: they are rounded once, at the end.
    x, weight = widened(x), widened(weight)
    groups, taps, size = case.groups, weight.shape[2:], x.shape[2:]
    columns = weight.reshape(groups, weight.shape[0] // groups, -1)
    positions = math.prod(size)
    if groups == 1 and x.shape[0] > 1 and positions < columns.shape[-1]:
        # The positions of all images in one product: else the weight's gradient is as large for each of them.
        products = (x.flatten(2).transpose(1, 2) @ columns[0]).transpose(1, 2)
    else:
        columns = columns.transpose(1, 2).expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        products = torch.bmm(columns, x.reshape(len(columns), x.shape[1] // groups, positions))
    output = _added(products.reshape(x.shape[0], case.out_channels, *taps, *size), _plan(twin))
    output = window(output, twin.padding, twin.output_size)
    if bias is not None:
        output = output + bias.reshape(-1, *(1,) * case.axes)
    return as_channels_last(typed(output, input.dtype), like=input)


class _Block(NamedTuple):
    """Along one axis, neighbouring taps that land within one step of the stride."""

    shift: int
    """The step that the product of input position 0 lands in,"""
    taps: slice
    phases: slice
    """and the phase that each of the taps lands on."""


_Place = tuple[slice, ...]
_IMAGES = (slice(None), slice(None))


@dataclass(frozen=True)
class _Plan:
    """What is added to what."""

    taps: tuple[int, ...]
    input_size: tuple[int, ...]
    stride: tuple[int, ...]
    blocks: tuple[tuple[_Block, ...], ...]

    @property
    def steps(self) -> list[int]:
        """How many steps of the stride the whole output has, per axis."""
        return [n + blocks[-1].shift for n, blocks in zip(self.input_size, self.blocks, strict=True)]

    def places(self) -> list[tuple[_Place, _Place]]:
        """For each block per axis where it is among (*taps, *input_size), and where it goes among (*phases, *steps)."""
        places = []
        for blocks in product(*self.blocks):
            moved = [slice(each.shift, each.shift + n) for each, n in zip(blocks, self.input_size, strict=True)]
            source = (*(each.taps for each in blocks), *(slice(None) for _ in moved))
            places.append((source, (*(each.phases for each in blocks), *moved)))
        return places


@cached
def _plan(case: Case) -> _Plan:
    blocks = []
    for k, s, d in zip(case.kernel_size, case.stride, case.dilation, strict=True):
        of_axis = []
        for shift in range(d * (k - 1) // s + 1):
            # The taps that land in this step: those with s·shift <= d·tap < s·(shift + 1).
            first, end = -(-s * shift // d), min(-(-s * (shift + 1) // d), k)
            start = d * first - s * shift
            if first < end:
                of_axis.append(_Block(shift, slice(first, end), slice(start, start + d * (end - first - 1) + 1, d)))
        blocks.append(tuple(of_axis))
    return _Plan(case.kernel_size, case.input_size, case.stride, tuple(blocks))


class _Added(torch.autograd.Function):
    """(batch, out, *taps, *n) to (batch, out, *whole output), which goes on to the end of the last step."""

    @staticmethod
    def forward(products: Tensor, plan: _Plan) -> Tensor:
        axes, places = len(plan.stride), plan.places()
        if len(places) == 1 and plan.taps == plan.stride:
            phases = products
        else:
            phases = products.new_zeros(*products.shape[:2], *plan.stride, *plan.steps)
            for i, (source, target) in enumerate(places):
                place, part = phases[_IMAGES + target], products[_IMAGES + source]
                place.copy_(part) if i == 0 else place.add_(part)
        interleaved = phases.permute(0, 1, *(2 + i + axes * of for i in range(axes) for of in (1, 0)))
        whole = [steps * s for steps, s in zip(plan.steps, plan.stride, strict=True)]
        return interleaved.reshape(*products.shape[:2], *whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.plan = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient, ctx.plan), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], products: Tensor, plan: _Plan) -> tuple[Tensor, int]:
        return as_more_images(_added, products, in_dims[0], plan), 0


class _Gathered(torch.autograd.Function):
    """The adjoint: for each product what is at the place that it was added to."""

    @staticmethod
    def forward(whole: Tensor, plan: _Plan) -> Tensor:
        axes = len(plan.stride)
        steps_and_phases = [n for pair in zip(plan.steps, plan.stride, strict=True) for n in pair]
        split = whole.reshape(*whole.shape[:2], *steps_and_phases)
        phases = split.permute(0, 1, *range(3, 3 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2))
        products = whole.new_empty(*whole.shape[:2], *plan.taps, *plan.input_size)
        for source, target in plan.places():
            products[_IMAGES + source].copy_(phases[_IMAGES + target])
        return products

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.plan = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _added(gradient, ctx.plan), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], whole: Tensor, plan: _Plan) -> tuple[Tensor, int]:
        return as_more_images(_gathered, whole, in_dims[0], plan), 0


class _EagerAdded(_Added):
    """With a derivative in forward mode, which compilers cannot read."""

    @staticmethod
    def jvp(ctx: Any, along: Tensor, _: None) -> Tensor:
        return _added(along, ctx.plan)


class _EagerGathered(_Gathered):
    """With a derivative in forward mode, which compilers cannot read."""

    @staticmethod
    def jvp(ctx: Any, along: Tensor, _: None) -> Tensor:
        return _gathered(along, ctx.plan)


def _added(products: Tensor, plan: _Plan) -> Tensor:
    function = _Added if torch.compiler.is_compiling() else _EagerAdded
    output: Tensor = function.apply(products, plan)
    return output


def _gathered(whole: Tensor, plan: _Plan) -> Tensor:
    function = _Gathered if torch.compiler.is_compiling() else _EagerGathered
    output: Tensor = function.apply(whole, plan)
    return output
