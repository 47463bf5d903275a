# mypy: disable-error-code="no-untyped-call"
"""torch's transposed convolution of volumes, as what it is: the gradient of a convolution.

`F.conv_transpose3d` does without oneDNN where there is one volume, a short kernel and not too many numbers, and takes
two to five times as long then, its gradients too. The gradient of `F.conv3d` is the same sum, and oneDNN computes it.
For contiguous volumes and kernels that do not overlap torch's matrix product is faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halfstride._core.algorithms.products import onednn_takes, torch_goes_without
from halfstride._core.case import Case
from halfstride._core.common import CONVOLUTIONS, as_channels_last, is_channels_last
from halfstride._support.torch_private import convolution_gradients, record_function

_LEAST = 2**24
"""From this many MACs on oneDNN is faster."""


def pays(case: Case, input: Tensor, kernel: Tensor, output_padding: Sequence[int]) -> bool:
    """Whether oneDNN computes a transposed convolution faster than torch without it."""
    return bool(
        case.axes == 3
        and torch_goes_without(case)
        and (is_channels_last(input) or case.overlaps)
        and case.channel_pairs * math.prod(case.input_size) * math.prod(case.kernel_size) >= _LEAST
        and all(extra < s for extra, s in zip(output_padding, case.stride, strict=True))  # else no convolution fits
        and onednn_takes(input, kernel)
    )


def transposed(
    case: Case,
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    output_padding: Sequence[int],
) -> Tensor:
    """The transposed convolution of an input by a kernel (in, out, *kernel_size)."""
    sizes = zip(case.full_size, padding, output_padding, strict=True)
    output_size = [full - 2 * p + extra for full, p, extra in sizes]
    geometry = (list(case.stride), list(padding), list(case.dilation))
    output: Tensor = as_channels_last(record_function(_Transposed, input, kernel, output_size, geometry), like=input)
    return output if bias is None else output + bias.view(-1, 1, 1, 1)


_Geometry = tuple[list[int], list[int], list[int]]
"""Stride, padding and dilation."""


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, kernel: Tensor, output_size: list[int], geometry: _Geometry) -> Tensor:
        order = torch.channels_last_3d if is_channels_last(input) else torch.contiguous_format
        # Only its shape and memory format are read.
        like = torch.empty(1, kernel.shape[1], *output_size, dtype=input.dtype, memory_format=order)
        return convolution_gradients(input, like, kernel, (*geometry, 1), of_weight=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, kernel, _, ctx.geometry = inputs
        ctx.save_for_backward(input, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_input, to_kernel, *_ = ctx.needs_input_grad
        input, kernel = ctx.saved_tensors
        return *gradients(gradient, input, kernel, ctx.geometry, to_input, to_kernel), None, None


def gradients(
    gradient: Tensor, input: Tensor, kernel: Tensor, geometry: _Geometry, to_input: bool, to_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Those of a transposed convolution to its input and its kernel, in operators that have gradients too."""
    of_input = of_kernel = None
    if to_input:
        of_input = CONVOLUTIONS[input.dim() - 3](gradient, kernel, None, *geometry)
    if to_kernel:
        of_kernel = convolution_gradients(input, gradient, kernel, (*geometry, 1), of_weight=True)
    return of_input, of_kernel
