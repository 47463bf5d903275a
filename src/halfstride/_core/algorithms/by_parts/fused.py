"""Summation by parts by the loops of `halfstride-kernels`, which keep products in registers until they are outputs.

The loops follow `program`s. Tensors are laid out (images, positions, channels), as in `operator`.
"""

from __future__ import annotations

from torch import Tensor

from halfstride._core.algorithms.by_parts import program
from halfstride._core.algorithms.by_parts.steps import sums_of_taps
from halfstride._core.case import Case
from halfstride._support import fused_kernels
from halfstride._support.weight_cache import cache_on_weight, cached
from halfstride.kernels import widened

_LARGEST = 7
"""The largest kernel along an axis: programs grow with its power."""

_LARGEST_WEIGHT = 2**17
"""The most pairs of channels: kernels of more do not stay in a core's cache, and matrix products are faster."""

_MANY_CHANNELS, _MANY_POSITIONS = 64, 16
"""From this many input channels, and positions along an axis, on, every second position is an anchor where it can be:
fewer products, of fewer positions at a time."""


def takes(case: Case, *tensors: Tensor | None) -> bool:
    """Whether the loops can compute a case of one group that is padded with zeros."""
    return fits(case) and fused_kernels.takes(*tensors)


def output(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(images, *output_size, out) from input (images, *input_size, in) and weight (out, in, *kernel_size)."""
    spacing = _spacing(case)
    numbers, signs = program.output_program(case, spacing)
    key = ("by_parts", "fused", case.stride, case.padding, spacing)

    def packed() -> Tensor:
        wide = widened(weight)
        return _packed(sums_of_taps(wide, signs.to(wide.dtype)))

    kernels = cache_on_weight(weight, key, packed)
    bias = None if bias is None else bias.contiguous()
    rows = input.flatten(1, -2)
    result: Tensor = fused_kernels.OPERATORS.run(rows, kernels, bias, numbers, case.out_channels)
    return result.view(case.batch, *case.output_size, case.out_channels)


def input_gradient(case: Case, gradient: Tensor, weight: Tensor) -> Tensor:
    """(images, *input_size, in) from the output's (images, *output_size, out)."""
    kernels = _packed(weight.flatten(2).permute(2, 1, 0))
    rows, numbers = gradient.flatten(1, -2), program.input_gradient_program(case)
    result: Tensor = fused_kernels.OPERATORS.run(rows, kernels, None, numbers, case.in_channels)
    return result.view(case.batch, *case.input_size, case.in_channels)


def weight_gradient(case: Case, gradient: Tensor, input: Tensor) -> Tensor:
    """(out, in, *kernel_size) from the output's gradient and the input."""
    of_input, of_gradient = program.weight_gradient_programs(case)
    parts = fused_kernels.OPERATORS.cross(input.flatten(1, -2), gradient.flatten(1, -2), of_input, of_gradient)
    taps: Tensor = parts.sum(0)[..., : case.out_channels].permute(2, 1, 0)
    return taps.reshape(case.out_channels, case.in_channels, *case.kernel_size)


@cached
def fits(case: Case) -> bool:
    """Whether the loops are there and can compute a case, of tensors that they can take."""
    small = max((*case.kernel_size, *case.stride)) <= _LARGEST
    few = case.in_channels * case.out_channels <= _LARGEST_WEIGHT
    return fused_kernels.OPERATORS is not None and small and few and max(case.dilation) == 1


@cached
def _spacing(case: Case) -> tuple[int, ...]:
    """Input positions from one anchor to the next, by axis."""
    axes = zip(case.input_size, case.kernel_size, case.stride, strict=True)
    many = case.in_channels >= _MANY_CHANNELS
    return tuple(2 if many and n >= _MANY_POSITIONS and k > s else 1 for n, k, s in axes)


def _packed(kernels: Tensor) -> Tensor:
    """(count, out, in) in the order in which the loops read kernels."""
    packed: Tensor = fused_kernels.OPERATORS.pack(kernels.contiguous())
    return packed
