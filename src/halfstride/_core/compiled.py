"""Custom operators for torch.compile: `torch.ops.halfstride.resize_conv` and `resize_conv_by_parts`.

Traced into its steps, a resize-convolution would form its kernel at every call, and summation by parts would be split
into many small operators. As one operator it is computed as in eager mode. `resize_conv` is for inference: it uses the
algorithm that the planner chooses and caches kernels. `resize_conv_by_parts` is for training, and has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from halfstride._core import planner
from halfstride._core.algorithms import ALGORITHMS, by_parts
from halfstride._core.case import Case
from halfstride._core.common import as_channels_last, is_channels_last, wants_gradients
from halfstride._support.torch_private import is_compiling, is_exporting, is_transformed
from halfstride._support.weight_cache import cache_on_weight, is_cacheable


def is_one_operator(case: Case, algorithm: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a compiler should meet a resize-convolution as one operator, given the algorithm that is planned for it.

    In inference only where that is "folded": what follows the matrix product of "scatter" is one loop when compiled.
    """
    if not is_compiling() or is_exporting() or is_transformed() or case.form != "resize":
        return False
    given = [input, weight] if bias is None else [input, weight, bias]
    if {(tensor.device.type, tensor.dtype) for tensor in given} != {("cpu", input.dtype)}:
        return False
    if torch.is_autocast_enabled("cpu"):  # autocast does not apply to custom operators
        return False
    if wants_gradients(input, weight, bias):
        return input.is_floating_point() and planner.trains_by_parts(case)
    return algorithm == "folded"


def resize_conv(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None, first: int | None) -> Tensor:
    """A resize-convolution as one operator; `first` as in `part`."""
    if wants_gradients(input, weight, bias):
        kernel = part(weight, first, case.in_channels)
        output: Tensor = torch.ops.halfstride.resize_conv_by_parts(input, kernel, bias, *case[2:7])
    else:
        output = torch.ops.halfstride.resize_conv(input, weight, bias, first, *case[2:9])
    return output


def part(weight: Tensor, first: int | None, channels: int) -> Tensor:
    """The kernel of `channels` input channels of a weight, from `first` on; of all where that is None.

    A part of a cacheable weight is a parameter, so that results computed from it can be cached too.
    """
    if first is None:
        return weight
    if not is_cacheable(weight):
        return weight.narrow(1, first, channels)

    return cache_on_weight(
        weight,
        ("part", first, channels),
        lambda: nn.Parameter(weight.narrow(1, first, channels).clone(), requires_grad=False),
    )


_Sizes = list[int]


def _case(input: Tensor, out_channels: int, *geometry: Sequence[int], mode: str = "zeros", groups: int = 1) -> Case:
    batch, in_channels, *input_size = input.shape
    output_size, kernel_size, scale_factor, dilation, padding = map(tuple, geometry)
    sizes = tuple(input_size), output_size, kernel_size, scale_factor, dilation, padding
    return Case("resize", *sizes, mode, groups, batch, in_channels, out_channels)


def _empty_output(input: Tensor, weight: Tensor, output_size: Sequence[int]) -> Tensor:
    return as_channels_last(input.new_empty(input.shape[0], weight.shape[0], *output_size), like=input)


# In inference ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("halfstride::resize_conv", mutates_args=())
def _resize_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int | None,
    output_size: _Sizes,
    kernel_size: _Sizes,
    scale_factor: _Sizes,
    dilation: _Sizes,
    padding: _Sizes,
    padding_mode: str,
    groups: int,
) -> Tensor:
    kernel = part(weight, first, input.shape[1])
    geometry = output_size, kernel_size, scale_factor, dilation, padding
    case = _case(input, weight.shape[0], *geometry, mode=padding_mode, groups=groups)
    algorithm = planner.choose(case, "auto", input.device.type, channels_last=is_channels_last(input))
    return as_channels_last(ALGORITHMS[algorithm].compute(case, input, kernel, bias), like=input)


@_resize_conv.register_fake
def _(input, weight, bias, first, output_size, *_):  # type: ignore[no-untyped-def]
    return _empty_output(input, weight, output_size)


# In training ----------------------------------------------------------------------------------------------------------


@torch.library.custom_op("halfstride::resize_conv_by_parts", mutates_args=())
def _by_parts(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output_size: _Sizes,
    kernel_size: _Sizes,
    scale_factor: _Sizes,
    dilation: _Sizes,
    padding: _Sizes,
) -> Tensor:
    case = _case(input, weight.shape[0], output_size, kernel_size, scale_factor, dilation, padding)
    return as_channels_last(by_parts.compute(case, input, weight.detach(), bias), like=input)


@_by_parts.register_fake
def _(input, weight, bias, output_size, *_):  # type: ignore[no-untyped-def]
    return _empty_output(input, weight, output_size)


@torch.library.custom_op("halfstride::resize_conv_by_parts_gradients", mutates_args=())
def _gradients_by_parts(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    to_input: bool,
    to_weight: bool,
    output_size: _Sizes,
    kernel_size: _Sizes,
    scale_factor: _Sizes,
    dilation: _Sizes,
    padding: _Sizes,
) -> tuple[Tensor, Tensor]:
    """To the input, in the gradient's memory format, and to the weight, with the taps first; empty if not asked for."""
    case = _case(input, weight.shape[0], output_size, kernel_size, scale_factor, dilation, padding)
    of_both = by_parts.gradients(case, gradient, input if to_weight else None, weight if to_input else None)
    of_input, of_weight = (input.new_empty(0) if of_one is None else of_one for of_one in of_both)
    if to_input:
        of_input = as_channels_last(of_input, like=gradient)
    if to_weight:
        of_weight = of_weight.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))
    return of_input, of_weight


@_gradients_by_parts.register_fake
def _(gradient, input, weight, to_input, to_weight, *_):  # type: ignore[no-untyped-def]
    batch, in_channels, *size = input.shape
    out_channels, _, *taps = weight.shape
    of_input = input.new_empty(0)
    if to_input:
        of_input = as_channels_last(input.new_empty(batch, in_channels, *size), like=gradient)
    of_weight = input.new_empty(0)
    if to_weight:
        of_weight = input.new_empty(*taps, out_channels, in_channels).movedim((-2, -1), (0, 1))
    return of_input, of_weight


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (input, weight), (to_input, to_weight, to_bias, *others) = ctx.saved_tensors, ctx.needs_input_grad
    of_input = of_weight = None
    if to_input or to_weight:
        of_input, of_weight = torch.ops.halfstride.resize_conv_by_parts_gradients(
            gradient, input, weight, to_input, to_weight, *ctx.geometry
        )
    of_bias = gradient.sum([0, *range(2, gradient.dim())]) if to_bias else None
    return of_input if to_input else None, of_weight if to_weight else None, of_bias, *(None for _ in others)


_by_parts.register_autograd(_backward, setup_context=_save)
