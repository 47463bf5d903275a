"""Which algorithm for which case, and why.

The rule of "auto", which never asks for anything that an algorithm cannot do:

1. A model that is being exported (`torch.export`, ONNX) is made of torch's own operators: "native".
2. A resize-convolution that enlarges, and whose borders allow it, is computed on the low-resolution grid: "phases". It
   needs the fewest products of the algorithms that do all their work in torch's own convolutions.
3. Everything else is "native": torch's transposed convolution has no zeros to skip, and a sub-pixel convolution is made
   of its phases already.

`explain` shows the candidates with what each would cost.
"""

from __future__ import annotations

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


def choose(case: Case, algorithm: str = "auto") -> str:
    """The name of the algorithm that computes a case: the one asked for, or by the rule above.

    Raises:
        ValueError: where there is no algorithm of that name, or it cannot compute the case.
    """
    return _decide(case, read_algorithm(algorithm), torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export())[0]


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
        >>> plan = explain("resize", (1, 64, 32, 32), (32, 64, 3, 3), scale_factor=2)
        >>> plan.algorithm
        'phases'
        >>> {each.algorithm: each.products // (64 * 32 * 32 * 32) for each in plan.candidates}
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
    return Plan(case, *_decide(case, read_algorithm(algorithm), False), tuple(candidates))


@cached
def _decide(case: Case, algorithm: str, exporting: bool) -> tuple[str, str]:
    """The algorithm and the reason."""
    if algorithm != "auto":
        obstacle = ALGORITHMS[algorithm].obstacle(case)
        if obstacle is not None:
            raise ValueError(f"`algorithm` (={algorithm!r}) cannot compute this case: {obstacle}.")
        return algorithm, "it was asked for"
    if exporting:
        return "native", "an exported model is made of torch's own operators"
    if case.form == "transposed":
        return "native", "torch's transposed convolution multiplies nothing in vain"
    if case.form == "subpixel":
        return "native", "a sub-pixel convolution is made of its phases already"
    if all(s == 1 for s in case.stride):
        return "native", "nothing is enlarged, so this is a convolution"
    obstacle = ALGORITHMS["phases"].obstacle(case)
    if obstacle is not None:
        return "native", obstacle
    return "phases", "the taps that fall on one input position are added before they are multiplied"


def read_algorithm(algorithm: Any) -> str:
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)
