"""Which algorithm for which case, and why.

The rule of "auto", which never asks for anything that an algorithm cannot do:

1. A model that is being exported (`torch.export`, ONNX) is made of torch's own operators: "native".
2. What enlarges nothing is a convolution, and a sub-pixel convolution is made of its phases already: "native".
3. Under a compiler and on devices where nothing was measured, a transposed convolution is "native", since torch's skips
   the zeros, and a resize-convolution is "folded", which saves most of its products with one operator of torch.
4. Otherwise the one of `ELIGIBLE` whose time is predicted to be shortest, forwards or in training, with the input's
   order in memory. A time is the sum of what an algorithm does, times what it costs (`COSTS`): products, numbers moved,
   numbers of the kernel, and a call.

The costs were measured on two AVX2 cores in float32 by `python -m benchmarks.calibrate`. Their absolute values do not
matter, and their ratios are alike on processors that are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from halfstride.algorithms import ALGORITHMS
from halfstride.algorithms.case import Case, Form, resize_case, subpixel_case, transposed_case
from halfstride.caching import cached

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


ELIGIBLE: dict[str, tuple[str, ...]] = {
    "transposed": ("native", "scatter"),
    "resize": ("native", "scatter", "folded", "differences"),
}
"""The algorithms from which "auto" chooses, by form."""


class Costs(NamedTuple):
    """What an algorithm's work costs, in picoseconds where not said otherwise."""

    product: float
    idle_product: float
    """By lanes that have no output channel to work for."""
    product_of_image: float
    """On top of that, for those of one image: where images are what the cores share, one image keeps one busy."""
    number: float
    """Of input, output and all in between, moved once."""
    kernel_number: float
    call: float
    """In microseconds."""


COSTS: dict[tuple[str, str, str, int, str], Costs] = {
    ("forward", "contiguous", "transposed", 2, "native"): Costs(11.3, 9.97, 0.0, 52.6, 1070.0, 282.0),
    ("forward", "channels last", "transposed", 2, "native"): Costs(11.3, 9.97, 0.0, 52.6, 1070.0, 282.0),
    ("forward", "contiguous", "transposed", 2, "scatter"): Costs(15.0, 0.0, 0.0, 362.0, 599.0, 373.0),
    ("forward", "channels last", "transposed", 2, "scatter"): Costs(15.0, 0.0, 0.0, 362.0, 599.0, 373.0),
    ("forward", "contiguous", "transposed", 1, "native"): Costs(11.3, 0.0, 6.17, 104.0, 164.0, 782.0),
    ("forward", "contiguous", "transposed", 1, "scatter"): Costs(15.8, 0.0, 0.0, 251.0, 190.0, 289.0),
    ("forward", "contiguous", "transposed", 3, "native"): Costs(11.3, 0.0, 3.28, 418.0, 0.0, 678.0),
    ("forward", "channels last", "transposed", 3, "native"): Costs(11.3, 0.0, 3.28, 418.0, 0.0, 678.0),
    ("forward", "contiguous", "transposed", 3, "scatter"): Costs(11.3, 0.0, 7.71, 396.0, 0.0, 627.0),
    ("forward", "channels last", "transposed", 3, "scatter"): Costs(11.3, 0.0, 7.71, 396.0, 0.0, 627.0),
    ("forward", "contiguous", "resize", 2, "native"): Costs(10.5, 6.98, 0.0, 106.0, 900.0, 290.0),
    ("forward", "channels last", "resize", 2, "native"): Costs(10.5, 6.98, 0.0, 106.0, 900.0, 290.0),
    ("forward", "contiguous", "resize", 2, "scatter"): Costs(13.1, 0.0, 0.0, 418.0, 1060.0, 583.0),
    ("forward", "channels last", "resize", 2, "scatter"): Costs(13.1, 0.0, 0.0, 418.0, 1060.0, 583.0),
    ("forward", "contiguous", "resize", 2, "folded"): Costs(10.7, 8.46, 0.0, 210.0, 3230.0, 447.0),
    ("forward", "channels last", "resize", 2, "folded"): Costs(10.7, 8.46, 0.0, 210.0, 3230.0, 447.0),
    ("forward", "contiguous", "resize", 2, "differences"): Costs(9.48, 0.0, 0.0, 312.0, 1480.0, 1350.0),
    ("forward", "channels last", "resize", 2, "differences"): Costs(9.48, 0.0, 0.0, 312.0, 1480.0, 1350.0),
    ("forward", "contiguous", "resize", 1, "native"): Costs(10.6, 0.0, 1.78, 148.0, 0.0, 746.0),
    ("forward", "contiguous", "resize", 1, "scatter"): Costs(9.83, 0.0, 1.95, 289.0, 1150.0, 410.0),
    ("forward", "contiguous", "resize", 1, "folded"): Costs(10.8, 0.0, 4.12, 570.0, 2000.0, 515.0),
    ("forward", "contiguous", "resize", 1, "differences"): Costs(10.5, 0.0, 4.28, 323.0, 43.7, 1010.0),
    ("forward", "contiguous", "resize", 3, "native"): Costs(9.48, 0.0, 0.0, 0.0, 0.0, 2780.0),
    ("forward", "channels last", "resize", 3, "native"): Costs(9.48, 0.0, 0.0, 0.0, 0.0, 2780.0),
    ("forward", "contiguous", "resize", 3, "scatter"): Costs(9.48, 0.0, 2.5, 353.0, 3650.0, 766.0),
    ("forward", "channels last", "resize", 3, "scatter"): Costs(9.48, 0.0, 2.5, 353.0, 3650.0, 766.0),
    ("forward", "contiguous", "resize", 3, "folded"): Costs(9.48, 0.0, 0.0, 411.0, 3020.0, 1520.0),
    ("forward", "channels last", "resize", 3, "folded"): Costs(9.48, 0.0, 0.0, 411.0, 3020.0, 1520.0),
    ("forward", "contiguous", "resize", 3, "differences"): Costs(9.48, 0.0, 0.0, 476.0, 726.0, 2110.0),
    ("forward", "channels last", "resize", 3, "differences"): Costs(9.48, 0.0, 0.0, 476.0, 726.0, 2110.0),
    ("training", "contiguous", "transposed", 2, "native"): Costs(40.6, 9.05, 8.26, 592.0, 1870.0, 834.0),
    ("training", "channels last", "transposed", 2, "native"): Costs(40.6, 9.05, 8.26, 592.0, 1870.0, 834.0),
    ("training", "contiguous", "transposed", 2, "scatter"): Costs(37.3, 0.0, 0.0, 946.0, 2410.0, 914.0),
    ("training", "channels last", "transposed", 2, "scatter"): Costs(37.3, 0.0, 0.0, 946.0, 2410.0, 914.0),
    ("training", "contiguous", "transposed", 1, "native"): Costs(37.3, 0.0, 0.0, 1890.0, 4540.0, 2150.0),
    ("training", "contiguous", "transposed", 1, "scatter"): Costs(38.3, 0.0, 0.0, 1350.0, 2910.0, 1150.0),
    ("training", "contiguous", "transposed", 3, "native"): Costs(37.3, 0.0, 26.2, 1400.0, 0.0, 798.0),
    ("training", "channels last", "transposed", 3, "native"): Costs(37.3, 0.0, 26.2, 1400.0, 0.0, 798.0),
    ("training", "contiguous", "transposed", 3, "scatter"): Costs(37.3, 0.0, 8.73, 1100.0, 0.0, 1080.0),
    ("training", "channels last", "transposed", 3, "scatter"): Costs(37.3, 0.0, 8.73, 1100.0, 0.0, 1080.0),
    ("training", "contiguous", "resize", 2, "native"): Costs(37.6, 8.88, 11.1, 1080.0, 374.0, 580.0),
    ("training", "channels last", "resize", 2, "native"): Costs(37.6, 8.88, 11.1, 1080.0, 374.0, 580.0),
    ("training", "contiguous", "resize", 2, "scatter"): Costs(35.2, 0.0, 0.0, 1110.0, 4180.0, 1410.0),
    ("training", "channels last", "resize", 2, "scatter"): Costs(35.2, 0.0, 0.0, 1110.0, 4180.0, 1410.0),
    ("training", "contiguous", "resize", 2, "folded"): Costs(40.1, 5.74, 15.4, 1190.0, 16100.0, 1060.0),
    ("training", "channels last", "resize", 2, "folded"): Costs(40.1, 5.74, 15.4, 1190.0, 16100.0, 1060.0),
    ("training", "contiguous", "resize", 2, "differences"): Costs(28.7, 0.0, 0.0, 959.0, 4320.0, 3990.0),
    ("training", "channels last", "resize", 2, "differences"): Costs(28.7, 0.0, 0.0, 959.0, 4320.0, 3990.0),
    ("training", "contiguous", "resize", 1, "native"): Costs(36.2, 0.0, 2.45, 431.0, 0.0, 2040.0),
    ("training", "contiguous", "resize", 1, "scatter"): Costs(31.0, 0.0, 4.06, 815.0, 3300.0, 991.0),
    ("training", "contiguous", "resize", 1, "folded"): Costs(40.8, 0.0, 2.72, 1520.0, 7570.0, 1090.0),
    ("training", "contiguous", "resize", 1, "differences"): Costs(33.5, 0.0, 8.11, 884.0, 2640.0, 2370.0),
    ("training", "contiguous", "resize", 3, "native"): Costs(28.8, 0.0, 0.0, 2660.0, 5340.0, 5900.0),
    ("training", "channels last", "resize", 3, "native"): Costs(28.8, 0.0, 0.0, 2660.0, 5340.0, 5900.0),
    ("training", "contiguous", "resize", 3, "scatter"): Costs(28.7, 0.0, 8.0, 886.0, 5610.0, 1910.0),
    ("training", "channels last", "resize", 3, "scatter"): Costs(28.7, 0.0, 8.0, 886.0, 5610.0, 1910.0),
    ("training", "contiguous", "resize", 3, "folded"): Costs(40.6, 0.0, 0.0, 2280.0, 24600.0, 2310.0),
    ("training", "channels last", "resize", 3, "folded"): Costs(40.6, 0.0, 0.0, 2280.0, 24600.0, 2310.0),
    ("training", "contiguous", "resize", 3, "differences"): Costs(28.7, 0.0, 0.0, 1430.0, 4660.0, 7200.0),
    ("training", "channels last", "resize", 3, "differences"): Costs(28.7, 0.0, 0.0, 1430.0, 4660.0, 7200.0),
}
"""By circumstances, order in memory, form, axes and algorithm."""

_LANES = 16
"""Output channels that torch's convolutions compute at once."""


def choose(
    case: Case, algorithm: str = "auto", device: str = "cpu", *, training: bool = False, channels_last: bool = False
) -> str:
    """The name of the algorithm that computes a case: the one asked for, or by the rule above.

    Args:
        case: the operator, with all sizes.
        algorithm: "auto", or a name.
        device: the type of the device that the tensors are on.
        training: whether gradients will be wanted.
        channels_last: whether the input's channels lie next to each other in memory.

    Raises:
        ValueError: where there is no algorithm of that name, or it cannot compute the case.
    """
    circumstances = "unmeasured"
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        circumstances = "exporting"
    elif device == "cpu" and not torch.compiler.is_compiling():
        circumstances = "training" if training else "forward"
    return _decide(case, read_algorithm(algorithm), circumstances, channels_last)[0]


def features(case: Case, algorithm: str) -> tuple[float, ...]:
    """What an algorithm does for a case, in the order of `Costs`."""
    products, traffic = ALGORITHMS[algorithm].cost(case)
    of_group = case.out_channels // case.groups
    idle = -of_group % _LANES / of_group if algorithm in ("native", "folded") and case.axes == 2 else 0
    kernel = case.in_channels * of_group * math.prod(case.kernel_size)
    calls = case.groups if algorithm == "differences" else 1
    return products, products * idle, products / case.batch, traffic, kernel, calls


def milliseconds(costs: Costs, amounts: Sequence[float]) -> float:
    """The time that is predicted for what an algorithm does (`features`)."""
    *picoseconds, microseconds = costs
    *others, calls = amounts
    return (
        sum(cost * amount for cost, amount in zip(picoseconds, others, strict=True)) / 1e9 + microseconds * calls / 1e3
    )


def explain(
    form: Form,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    algorithm: str = "auto",
    dtype: torch.dtype = torch.float32,
    training: bool = False,
    channels_last: bool = False,
    **geometry: Any,
) -> Plan:
    """What `choose` would say about a layer, and the products and bytes of every candidate.

    Args:
        form: "transposed", "resize" or "subpixel".
        input_shape: (batch, in_channels, *size), or without the batch.
        weight_shape: the shape of the weight in torch's layout for this form; see `halfstride.functional`.
        algorithm: "auto", or a name.
        dtype: the type of the numbers, for their bytes.
        training: whether gradients will be wanted.
        channels_last: whether the input's channels lie next to each other in memory.
        geometry: stride or scale_factor, padding, dilation, groups and so on, as in `halfstride.functional`.

    Example:
        >>> plan = explain("resize", (8, 64, 32, 32), (32, 64, 3, 3), scale_factor=2)
        >>> plan.algorithm
        'folded'
        >>> {each.algorithm: each.products // (8 * 64 * 32 * 32 * 32) for each in plan.candidates}
        {'native': 36, 'scatter': 16, 'emulated': 64, 'folded': 16, 'phases': 16, 'differences': 9}
    """
    if form not in _CASES:
        raise ValueError(f"`form` (={form!r}) must be one of {', '.join(map(repr, _CASES))}.")
    case = _CASES[form](len(weight_shape) - 2, input_shape, weight_shape, **geometry)
    candidates = []
    for name, module in ALGORITHMS.items():
        obstacle = module.obstacle(case)
        cost = None if obstacle else module.cost(case)
        candidates.append(Candidate(name, cost and cost.products, cost and cost.traffic * dtype.itemsize, obstacle))
    circumstances = "training" if training else "forward"
    decision = _decide(case, read_algorithm(algorithm), circumstances, channels_last)
    return Plan(case, *decision, tuple(candidates))


@cached
def _decide(case: Case, algorithm: str, circumstances: str, channels_last: bool) -> tuple[str, str]:
    """The algorithm and the reason; circumstances are "forward", "training", "exporting" or "unmeasured"."""
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
    if not case.channel_pairs:
        return "native", "there is nothing to multiply"
    able = [name for name in ELIGIBLE[case.form] if ALGORITHMS[name].obstacle(case) is None]
    if len(able) == 1:
        return "native", "its borders allow no other"
    if circumstances == "unmeasured":
        if case.form == "transposed":
            return "native", "torch's transposed convolution multiplies nothing in vain"
        return "folded", "the taps that meet copies of one value are added before they are multiplied"
    order = "channels last" if channels_last and case.axes > 1 else "contiguous"
    costs = {name: COSTS[circumstances, order, case.form, case.axes, name] for name in able}
    times = {name: milliseconds(of_algorithm, features(case, name)) for name, of_algorithm in costs.items()}
    fastest, *others = sorted(times, key=times.__getitem__)
    compared = ", ".join(f"{times[name]:.3g} ms as {name!r}" for name in others)
    return fastest, f"predicted to take {times[fastest]:.3g} ms where it was measured, against {compared}"


def read_algorithm(algorithm: Any) -> str:
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)
