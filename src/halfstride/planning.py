"""Which algorithm for which case, and why.

The rule of "auto", which never asks for anything that an algorithm cannot do:

1. A model that is being exported (`torch.export`, ONNX) is made of torch's own operators: "native".
2. What enlarges nothing is a convolution, and a sub-pixel convolution is made of its phases already: "native".
3. A transposed or resize-convolution to few output channels is one matrix product, added up: "scatter". Convolutions
   can't use a processor's width there, and what is added up is small.
4. Any other transposed convolution is "native": torch's has no zeros to skip.
5. Any other resize-convolution is "native" where it is so small that the number of steps decides, not that of products.
6. A larger one, if its borders allow it, is computed on the low-resolution grid: by "differences", or by "phases" where
   it has few channels or several groups, where a compiler fuses the steps, and on devices where nothing was measured.

The numbers in it were measured on two AVX2 cores in float32, forwards and backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from halfstride.algorithms import ALGORITHMS
from halfstride.algorithms.case import Case, Form, cached, resize_case, subpixel_case, transposed_case

__all__ = ["Candidate", "Plan", "choose", "explain", "read_algorithm"]

_CASES: dict[str, Callable[..., Case]] = {
    "transposed": transposed_case,
    "resize": resize_case,
    "subpixel": subpixel_case,
}


@dataclass(frozen=True)
class Candidate:
    """What one algorithm would do for a case, forwards."""

    algorithm: str
    products: int | None
    """Multiplications; None where the algorithm cannot do it."""
    bytes: int | None
    """Bytes read and written, every tensor in between once each way, kernels left out."""
    obstacle: str | None
    """Why the algorithm cannot do it; None where it can."""


@dataclass(frozen=True)
class Plan:
    """The algorithm chosen for a case, the reason, and what there was to choose from."""

    case: Case
    algorithm: str
    reason: str
    candidates: tuple[Candidate, ...]


_FEW_OUTPUTS = 4
"""Output channels up to which "scatter" is faster than torch's convolutions."""
_FEW_CHANNELS = 16
"""Channels below which the matrix products of "differences" are too narrow."""
_LARGE = 2**28
"""Products of the definition from which it pays to avoid some of them,"""
_FEW_POSITIONS = 256
"""unless there are fewer input positions than this, so that preparing the kernels is much of the work."""


def choose(case: Case, algorithm: str = "auto", device: str = "cpu") -> str:
    """The name of the algorithm that computes a case: the one asked for, or by the rule above.

    Args:
        case: the operator, with all sizes.
        algorithm: "auto", or a name.
        device: the type of the device that the tensors are on.

    Raises:
        ValueError: where there is no algorithm of that name, or it cannot compute the case.
    """
    circumstances = "eager" if device == "cpu" else "unmeasured"
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        circumstances = "exporting"
    elif torch.compiler.is_compiling():
        circumstances = "compiling"
    return _decide(case, read_algorithm(algorithm), circumstances)[0]


def explain(
    form: Form,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    algorithm: str = "auto",
    dtype: torch.dtype = torch.float32,
    **geometry: Any,
) -> Plan:
    """What `choose` would say about a layer, and the products and bytes of every candidate.

    Args:
        form: "transposed", "resize" or "subpixel".
        input_shape: (batch, in_channels, *size), or without the batch.
        weight_shape: the shape of the weight in torch's layout for this form; see `halfstride.functional`.
        algorithm: "auto", or a name.
        dtype: the type of the numbers, for their bytes.
        geometry: stride or scale_factor, padding, dilation, groups and so on, as in `halfstride.functional`.

    Example:
        >>> plan = explain("resize", (8, 64, 32, 32), (32, 64, 3, 3), scale_factor=2)
        >>> plan.algorithm
        'differences'
        >>> {each.algorithm: each.products // (8 * 64 * 32 * 32 * 32) for each in plan.candidates}
        {'native': 36, 'scatter': 16, 'emulated': 64, 'phases': 16, 'differences': 9}
    """
    if form not in _CASES:
        raise ValueError(f"`form` (={form!r}) must be one of {', '.join(map(repr, _CASES))}.")
    case = _CASES[form](len(weight_shape) - 2, input_shape, weight_shape, **geometry)
    candidates = []
    for name, module in ALGORITHMS.items():
        obstacle = module.obstacle(case)
        cost = None if obstacle else module.cost(case)
        candidates.append(Candidate(name, cost and cost.products, cost and cost.traffic * dtype.itemsize, obstacle))
    return Plan(case, *_decide(case, read_algorithm(algorithm)), tuple(candidates))


@cached
def _decide(case: Case, algorithm: str, circumstances: str = "eager") -> tuple[str, str]:
    """The algorithm and the reason; circumstances are "eager", "compiling", "exporting" or "unmeasured"."""
    if algorithm != "auto":
        obstacle = ALGORITHMS[algorithm].obstacle(case)
        if obstacle is not None:
            raise ValueError(f"`algorithm` (={algorithm!r}) cannot compute this case: {obstacle}.")
        return algorithm, "it was asked for"
    if circumstances == "exporting":
        return "native", "an exported model is made of torch's own operators"
    if case.form == "subpixel":
        return "native", "a sub-pixel convolution is made of its phases already"
    if all(s == 1 for s in case.stride):
        return "native", "nothing is enlarged, so this is a convolution"
    few_outputs = case.out_channels <= _FEW_OUTPUTS and case.groups == 1
    if circumstances == "eager" and few_outputs and ALGORITHMS["scatter"].obstacle(case) is None:
        return "scatter", "to few output channels one matrix product and adding up is less work than convolutions"
    if case.form == "transposed":
        return "native", "torch's transposed convolution multiplies nothing in vain"
    obstacle = ALGORITHMS["phases"].obstacle(case)
    if obstacle is not None:
        return "native", obstacle
    positions = case.batch * math.prod(case.input_size)
    if circumstances == "eager" and (ALGORITHMS["native"].cost(case).products < _LARGE or positions < _FEW_POSITIONS):
        return "native", "it is so small that the number of steps decides, not that of products"
    if circumstances != "eager" or case.groups > 1 or min(case.in_channels, case.out_channels) < _FEW_CHANNELS:
        return "phases", "the taps that fall on one input position are added before they are multiplied"
    return "differences", "an upsampled image is piecewise constant, so that its kernel meets only the jumps"


def read_algorithm(algorithm: Any) -> str:
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)
