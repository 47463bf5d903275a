# mypy: disable-error-code="no-untyped-call"
"""Transposed convolutions to at most four output channels, by a loop of `halfstride-kernels`.

Loops over channels, which all other algorithms are made of, leave most of a vector unused where there are few. Here a
vector holds neighbouring positions: each phase of the outputs is a sum over its taps of shifted rows times one number.
A resize-convolution is computed by its transposed twin.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from halfstride._core.algorithms import scatter, volumes
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
    window,
)
from halfstride._support import fused_kernels
from halfstride._support.weight_cache import cached
from halfstride.kernels import widened

_MOST = 4
"""Output channels."""


def unsupported_reason(case: Case) -> str | None:
    """The reason why the loop cannot compute a case; None where it can."""
    if fused_kernels.OPERATORS is None:
        return "halfstride-kernels is not installed"
    if case.out_channels > _MOST or case.groups > 1:
        return f"halfstride-kernels has a loop for at most {_MOST} output channels and one group"
    if case.form == "transposed" and max(case.dilation) > 1:
        return "halfstride-kernels has no loop for dilated transposed convolutions"
    return unsupported_by_phases(case)


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    macs = math.prod(twin.input_size) * math.prod(twin.kernel_size) * case.channel_pairs
    return Cost(macs, 2 * case.input_numel + 3 * case.output_numel, 1)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not fused_kernels.takes(input, weight, bias):
        return scatter.compute(case, input, weight, bias)
    x = widened(input)  # half types are summed in float32 and rounded once
    twin, margin = as_transposed(case)
    kernel = transposed_weight(case, weight, x.dtype)
    bias = None if bias is None else typed(bias, x.dtype)
    output: Tensor = apply_function(_Output, pad_input(case, x, margin), kernel, bias, twin)
    return as_channels_last(typed(output, input.dtype), like=input)


class _Output(torch.autograd.Function):
    """(batch, out, *output_size) of a transposed case."""

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, bias: Tensor | None, case: Case) -> Tensor:
        last = is_channels_last(x)
        rows = x.movedim(1, -1) if last else x.contiguous()
        bias = None if bias is None else bias.contiguous()
        output: Tensor = fused_kernels.OPERATORS.few_outputs(rows, kernel.contiguous(), bias, _sizes(case), last)
        return output.movedim(-1, 1) if last else output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, kernel, _, ctx.case = inputs
        ctx.save_for_backward(x, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        case, (to_x, to_kernel, to_bias, _) = ctx.case, ctx.needs_input_grad
        whole = window(gradient, [-p for p in case.padding], case.full_size)  # before padding cut it
        geometry = list(case.stride), [0] * case.axes, list(case.dilation)
        x, kernel = ctx.saved_tensors
        both = volumes.gradients(whole, x, kernel, geometry, to_x, to_kernel)
        return *both, gradient.sum([0, *range(2, gradient.dim())]) if to_bias else None, None


@cached
def _sizes(case: Case) -> Tensor:
    """Output size, stride and padding of each axis."""
    return torch.tensor(list(zip(case.output_size, case.stride, case.padding, strict=True)))
