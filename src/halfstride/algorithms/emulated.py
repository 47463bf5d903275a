"""Zeros between the inputs, a border of zeros, and one convolution with the kernel turned round.

The textbook's picture of the transposed convolution (Dumoulin & Visin, chapter 4): it multiplies mostly zeros, `s` per
axis for each product that counts.
"""

from __future__ import annotations

from torch import Tensor

from halfstride.algorithms.borders import as_transposed, obstacle_to_phases
from halfstride.algorithms.case import Case
from halfstride.algorithms.native import conv
from halfstride.kernels import spread, swap_channels

__all__ = ["compute", "obstacle"]

obstacle = obstacle_to_phases


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    case, input, weight = as_transposed(case, input, weight)
    for axis, s in enumerate(case.stride, start=2):
        input = spread(input, axis, s)
    turned = swap_channels(weight, case.groups).flip(tuple(range(2, weight.dim())))
    padding = [
        (span - p, o + p - n)
        for n, o, p, span in zip(input.shape[2:], case.output_size, case.padding, case.span, strict=True)
    ]
    return conv(input, turned, bias, padding, case.dilation, case.groups)
