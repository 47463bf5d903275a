"""Summation by parts by the loops of `halfstride-kernels`, which keep products in registers until they are outputs.

The loops follow `program`s. They take contiguous tensors and channels-last ones as they are.
"""

from __future__ import annotations

from torch import Tensor

from halfstride._core.algorithms.by_parts import program
from halfstride._core.algorithms.by_parts.steps import sums_of_taps
from halfstride._core.case import Case
from halfstride._core.common import is_channels_last, typed
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


def packed_kernels(case: Case, weight: Tensor) -> Tensor:
    """The kernels of all products of the output, as the loops read them."""
    wide, signs = widened(weight), program.output_program(case, _spacing(case)).signs
    return _packed(sums_of_taps(wide, signs.to(wide.dtype)))


def cached_kernels(case: Case, weight: Tensor) -> Tensor:
    """The same, kept with a weight that may be cached."""
    key = ("by_parts", "loops", case.stride, case.padding, _spacing(case))
    return cache_on_weight(weight, key, lambda: packed_kernels(case, weight))


def output(case: Case, input: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """(images, out, *output_size) in the input's type and memory format, from input (images, in, *input_size)."""
    wide, numbers = widened(input), program.output_program(case, _spacing(case)).numbers
    bias = None if bias is None else typed(bias, wide.dtype).contiguous()
    return typed(_run(wide, kernels, bias, numbers, case.out_channels, case.output_size), input.dtype)


def gradients(
    case: Case, gradient: Tensor, input: Tensor | None, weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """To the input, in the gradient's memory format, where the weight is given; to the weight where the input is."""
    of_input = of_weight = None
    if weight is not None:
        kernels = _packed(weight.flatten(2).permute(2, 1, 0))
        numbers = program.input_gradient_program(case)
        of_input = _run(gradient, kernels, None, numbers, case.in_channels, case.input_size)
    if input is not None:
        last = is_channels_last(gradient)
        rows = [_rows(each, last) for each in (input, gradient)]
        parts = fused_kernels.OPERATORS.cross(*rows, *program.weight_gradient_programs(case), last)
        taps: Tensor = parts.sum(0)[..., : case.out_channels].permute(2, 1, 0)
        of_weight = taps.reshape(case.out_channels, case.in_channels, *case.kernel_size)
    return of_input, of_weight


def _run(
    input: Tensor, kernels: Tensor, bias: Tensor | None, numbers: Tensor, channels: int, size: tuple[int, ...]
) -> Tensor:
    last = is_channels_last(input)
    result: Tensor = fused_kernels.OPERATORS.run(_rows(input, last), kernels, bias, numbers, channels, last)
    if last:
        return result.view(len(result), *size, channels).movedim(-1, 1)
    return result.view(len(result), channels, *size)


def _rows(input: Tensor, last: bool) -> Tensor:
    """(images, positions, channels), or (images, channels, positions)."""
    return input.movedim(1, -1).contiguous().flatten(1, -2) if last else input.contiguous().flatten(2)


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
