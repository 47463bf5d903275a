"""Zeros between the inputs, a border of zeros, and one convolution with the kernel turned round.

The textbook's picture of the transposed convolution (Dumoulin & Visin, chapter 4): it multiplies mostly zeros, `s` per
axis for each product that counts.
"""

from __future__ import annotations

import math

from torch import Tensor

from halfstride._core.algorithms.native import conv
from halfstride._core.case import Case, Cost
from halfstride._core.common import (
    as_channels_last,
    as_transposed,
    pad_input,
    transposed_weight,
    unsupported_by_phases,
)
from halfstride.kernels import spread, swap_channels

unsupported_reason = unsupported_by_phases


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    macs = math.prod(twin.kernel_size) * math.prod(case.output_size) * case.channel_pairs
    stuffed = (
        case.batch * case.in_channels * math.prod(o + span for o, span in zip(case.output_size, twin.span, strict=True))
    )
    return Cost(macs, case.input_numel + 2 * stuffed + case.output_numel, case.axes + 1)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    twin, margin = as_transposed(case)
    x = pad_input(case, input, margin)
    for axis, s in enumerate(case.stride, start=2):
        x = spread(x, axis, s)
    turned = swap_channels(transposed_weight(case, weight, x.dtype), case.groups).flip(tuple(range(2, weight.dim())))
    padding = [
        (span - p, o + p - n)
        for n, o, p, span in zip(x.shape[2:], case.output_size, twin.padding, twin.span, strict=True)
    ]
    return as_channels_last(conv(x, turned, bias, padding, twin.dilation, case.groups), like=input)
