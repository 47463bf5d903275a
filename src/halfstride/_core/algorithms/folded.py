"""The kernel of a resize-convolution folded into a transposed one, for torch's own transposed convolution.

The taps that meet copies of one input value are added before they are multiplied: of 3 taps at scale 2 each phase keeps
2, so that an image costs 16 products per input position where the definition has 36. They are those of "phases"; torch
computes all of them in one operator, and interleaves them as it writes.

The folding is known; see `halfstride._core.algorithms.phases`.
"""

from __future__ import annotations

import math

from torch import Tensor

from halfstride._core.algorithms import native
from halfstride._core.case import Case, Cost
from halfstride._core.common import as_transposed, pad_input, transposed_weight, typed, unsupported_by_phases
from halfstride.kernels import widened


def unsupported_reason(case: Case) -> str | None:
    """The reason why there is nothing to fold; None where there is."""
    if case.form == "transposed":
        return "a transposed convolution is what a resize kernel is folded into"
    return unsupported_by_phases(case)


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    macs = case.channel_pairs * math.prod(twin.input_size) * math.prod(twin.kernel_size)
    return Cost(macs, case.input_numel + case.output_numel, 1)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    twin, margin = as_transposed(case)
    x = pad_input(case, input, margin)
    if x.device.type == "cpu":  # where torch rounds every product of half types before it adds them up
        x = widened(x)
    bias = None if bias is None else typed(bias, x.dtype)

    def kernel() -> Tensor:
        return transposed_weight(case, weight, x.dtype)

    return typed(native.transposed(twin, x, weight, case.form, kernel, bias), input.dtype)
