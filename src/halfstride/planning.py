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
    ("forward", "contiguous", "transposed", 2, "native"): Costs(11.7, 9.57, 0.0, 527.0, 293.0, 340.0),
    ("forward", "contiguous", "transposed", 2, "scatter"): Costs(13.5, 0.0, 0.0, 189.0, 25.3, 262.0),
    ("forward", "contiguous", "resize", 2, "native"): Costs(10.6, 12.8, 0.0, 334.0, 93.6, 609.0),
    ("forward", "contiguous", "resize", 2, "scatter"): Costs(13.6, 0.0, 0.0, 312.0, 1760.0, 317.0),
    ("forward", "contiguous", "resize", 2, "folded"): Costs(10.1, 7.14, 1.67, 898.0, 1970.0, 399.0),
    ("forward", "contiguous", "resize", 2, "differences"): Costs(8.52, 0.0, 2.62, 366.0, 1140.0, 1030.0),
    ("forward", "channels last", "transposed", 2, "native"): Costs(10.7, 9.51, 0.0, 27.4, 339.0, 258.0),
    ("forward", "channels last", "transposed", 2, "scatter"): Costs(9.04, 0.0, 0.617, 264.0, 392.0, 286.0),
    ("forward", "channels last", "resize", 2, "native"): Costs(9.53, 5.82, 0.591, 80.7, 437.0, 261.0),
    ("forward", "channels last", "resize", 2, "scatter"): Costs(8.2, 0.0, 1.29, 323.0, 4960.0, 331.0),
    ("forward", "channels last", "resize", 2, "folded"): Costs(9.74, 7.87, 0.0, 197.0, 5730.0, 277.0),
    ("forward", "channels last", "resize", 2, "differences"): Costs(8.4, 0.0, 0.773, 234.0, 972.0, 1100.0),
    ("forward", "contiguous", "transposed", 1, "native"): Costs(8.2, 0.0, 4.6, 120.0, 735.0, 772.0),
    ("forward", "contiguous", "transposed", 1, "scatter"): Costs(13.3, 0.0, 0.0, 117.0, 0.0, 205.0),
    ("forward", "contiguous", "resize", 1, "native"): Costs(10.4, 0.0, 1.26, 126.0, 0.0, 694.0),
    ("forward", "contiguous", "resize", 1, "scatter"): Costs(11.0, 0.0, 0.0, 200.0, 1810.0, 184.0),
    ("forward", "contiguous", "resize", 1, "folded"): Costs(10.7, 0.0, 3.8, 500.0, 0.0, 391.0),
    ("forward", "contiguous", "resize", 1, "differences"): Costs(11.5, 0.0, 3.74, 195.0, 0.0, 821.0),
    ("forward", "contiguous", "transposed", 3, "native"): Costs(11.6, 0.0, 0.0, 764.0, 0.0, 672.0),
    ("forward", "contiguous", "transposed", 3, "scatter"): Costs(13.4, 0.0, 0.0, 278.0, 192.0, 248.0),
    ("forward", "contiguous", "resize", 3, "native"): Costs(8.2, 0.0, 0.0, 1140.0, 0.0, 2710.0),
    ("forward", "contiguous", "resize", 3, "scatter"): Costs(15.0, 0.0, 0.0, 326.0, 373.0, 601.0),
    ("forward", "contiguous", "resize", 3, "folded"): Costs(10.2, 0.0, 0.0, 866.0, 1960.0, 1270.0),
    ("forward", "contiguous", "resize", 3, "differences"): Costs(8.2, 0.0, 0.0, 480.0, 2710.0, 1700.0),
    ("forward", "channels last", "transposed", 3, "native"): Costs(8.2, 0.0, 4.4, 395.0, 0.0, 675.0),
    ("forward", "channels last", "transposed", 3, "scatter"): Costs(8.2, 0.0, 0.0, 247.0, 924.0, 314.0),
    ("forward", "channels last", "resize", 3, "native"): Costs(8.2, 0.0, 0.144, 51.1, 0.0, 2660.0),
    ("forward", "channels last", "resize", 3, "scatter"): Costs(8.2, 0.0, 0.0, 405.0, 6390.0, 828.0),
    ("forward", "channels last", "resize", 3, "folded"): Costs(8.2, 0.0, 0.0, 523.0, 6870.0, 1330.0),
    ("forward", "channels last", "resize", 3, "differences"): Costs(8.2, 0.0, 0.0, 402.0, 1290.0, 1760.0),
    ("training", "contiguous", "transposed", 2, "native"): Costs(36.6, 12.7, 0.442, 867.0, 883.0, 907.0),
    ("training", "contiguous", "transposed", 2, "scatter"): Costs(39.6, 0.0, 0.0, 526.0, 0.0, 745.0),
    ("training", "contiguous", "resize", 2, "native"): Costs(35.4, 22.8, 0.192, 818.0, 908.0, 1350.0),
    ("training", "contiguous", "resize", 2, "scatter"): Costs(41.7, 0.0, 0.0, 826.0, 6560.0, 1120.0),
    ("training", "contiguous", "resize", 2, "folded"): Costs(32.9, 5.94, 4.21, 1940.0, 7530.0, 1220.0),
    ("training", "contiguous", "resize", 2, "differences"): Costs(27.6, 0.0, 8.09, 1250.0, 5570.0, 3120.0),
    ("training", "channels last", "transposed", 2, "native"): Costs(39.2, 8.2, 6.97, 311.0, 651.0, 711.0),
    ("training", "channels last", "transposed", 2, "scatter"): Costs(28.5, 0.0, 0.733, 791.0, 1170.0, 813.0),
    ("training", "channels last", "resize", 2, "native"): Costs(33.0, 7.61, 14.2, 751.0, 0.0, 546.0),
    ("training", "channels last", "resize", 2, "scatter"): Costs(28.2, 0.0, 1.32, 900.0, 11800.0, 1090.0),
    ("training", "channels last", "resize", 2, "folded"): Costs(35.7, 5.88, 10.3, 768.0, 16400.0, 1010.0),
    ("training", "channels last", "resize", 2, "differences"): Costs(28.8, 0.0, 0.0, 811.0, 3700.0, 3300.0),
    ("training", "contiguous", "transposed", 1, "native"): Costs(28.2, 0.0, 1.89, 1080.0, 2980.0, 1230.0),
    ("training", "contiguous", "transposed", 1, "scatter"): Costs(38.3, 0.0, 0.0, 486.0, 0.0, 509.0),
    ("training", "contiguous", "resize", 1, "native"): Costs(35.3, 0.0, 0.397, 544.0, 387.0, 1690.0),
    ("training", "contiguous", "resize", 1, "scatter"): Costs(35.1, 0.0, 0.0, 582.0, 8770.0, 717.0),
    ("training", "contiguous", "resize", 1, "folded"): Costs(39.3, 0.0, 1.18, 578.0, 7490.0, 1270.0),
    ("training", "contiguous", "resize", 1, "differences"): Costs(34.9, 0.0, 8.49, 699.0, 522.0, 2360.0),
    ("training", "contiguous", "transposed", 3, "native"): Costs(27.6, 0.0, 19.5, 1780.0, 0.0, 863.0),
    ("training", "contiguous", "transposed", 3, "scatter"): Costs(27.6, 0.0, 12.9, 707.0, 0.0, 639.0),
    ("training", "contiguous", "resize", 3, "native"): Costs(27.6, 0.0, 0.0, 7080.0, 0.0, 9270.0),
    ("training", "contiguous", "resize", 3, "scatter"): Costs(42.7, 0.0, 0.0, 821.0, 2280.0, 1940.0),
    ("training", "contiguous", "resize", 3, "folded"): Costs(36.4, 0.0, 0.0, 5380.0, 5750.0, 1890.0),
    ("training", "contiguous", "resize", 3, "differences"): Costs(34.6, 0.0, 0.0, 1500.0, 3840.0, 6650.0),
    ("training", "channels last", "transposed", 3, "native"): Costs(27.6, 0.0, 28.8, 941.0, 0.0, 1070.0),
    ("training", "channels last", "transposed", 3, "scatter"): Costs(34.3, 0.0, 0.0, 716.0, 0.0, 707.0),
    ("training", "channels last", "resize", 3, "native"): Costs(29.2, 0.0, 0.0, 2740.0, 0.0, 4160.0),
    ("training", "channels last", "resize", 3, "scatter"): Costs(27.6, 0.0, 0.0, 1130.0, 12500.0, 2320.0),
    ("training", "channels last", "resize", 3, "folded"): Costs(34.0, 0.0, 7.6, 1650.0, 15500.0, 2370.0),
    ("training", "channels last", "resize", 3, "differences"): Costs(27.6, 0.0, 0.0, 1310.0, 3710.0, 6430.0),
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
