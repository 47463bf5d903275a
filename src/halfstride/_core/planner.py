"""Which algorithm for which case, and why.

The rule of "auto", which never asks for anything that an algorithm cannot do:

1. A model that is being exported (`torch.export`, ONNX) is made of torch's own operators: "native".
2. What enlarges nothing is a convolution, and a sub-pixel convolution is made of its phases already: "native". (On a
   single position a transposed kernel enlarges whatever the stride is, as the first layer of many generators does.)
3. Under a compiler, which makes one loop of all that follows its matrix product, "scatter" on a processor where torch's
   transposed convolution is weak: to few output channels, at large strides of a signal, and in volumes where nothing
   overlaps.
4. Otherwise under a compiler, and where nothing was measured (other devices, and channels in groups), a transposed
   convolution is "native", since torch's skips the zeros, and a resize-convolution is "folded", which saves most of its
   products with one operator of torch; compiled in training on a processor, with many channels, "by_parts" as an
   operator of its own (`trains_by_parts`).
5. Otherwise the one of `ELIGIBLE` whose time is predicted to be shortest, forwards or in training, with the input's
   order in memory. A time is the sum of what an algorithm does, times what it costs (`Costs`): products, numbers moved,
   rows of them, numbers of the kernel, and calls. A layer takes as much more or less than that as the layers did that
   were measured and are like it.

The costs were measured on two cores in float32 by `python -m benchmarks.calibrate`, once with AVX2 and once with
AVX512, and lie in `costs/`; torch says which of them this processor is. Their absolute values do not matter, and their
ratios are alike on processors that are alike. So one processor always chooses alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch

from halfstride._core.algorithms import ALGORITHMS
from halfstride._core.algorithms.products import capability
from halfstride._core.case import CASES, Case, Form
from halfstride._core.common import as_transposed
from halfstride._support.torch_private import is_captured, is_compiling, is_exporting, is_jit_traced
from halfstride._support.weight_cache import cached

__all__ = [
    "Candidate",
    "Costs",
    "Measured",
    "Plan",
    "choose",
    "explain",
    "features",
    "predict",
    "read_algorithm",
    "shape",
    "trains_by_parts",
]


@dataclass(frozen=True)
class Candidate:
    """What one algorithm would do for a case, forwards."""

    algorithm: str
    macs: int | None
    """Multiplications; None where the algorithm cannot do it."""
    bytes: int | None
    """Bytes read and written, every tensor in between once each way, kernels left out."""
    unsupported_reason: str | None
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
    "resize": ("native", "scatter", "folded", "by_parts"),
}
"""The algorithms from which "auto" chooses, by form."""


class Costs(NamedTuple):
    """What an algorithm's work costs, in picoseconds."""

    product: float
    idle_product: float
    """By lanes that have no output channel to work for."""
    product_of_image: float
    """On top of that, for those of one image: where images are what the cores share, one image keeps one busy."""
    number: float
    """Of input, output and all in between, moved once."""
    row: float
    """Of such numbers that lie next to each other: what a loop over them costs to begin."""
    kernel_number: float
    layer: float
    """Of any size, and"""
    call: float
    """of each operator that is called for it."""


class Measured(NamedTuple):
    """What is known of an algorithm, for a form and number of axes, in some circumstances and some order in memory."""

    costs: Costs
    deviations: tuple[tuple[tuple[int, ...], float], ...]
    """Of the layers that were measured their `shape`, and the logarithm of their time over what the costs predict."""


_LANES = 16
"""Output channels that torch's convolutions compute at once."""

_SAVED = 2**13
"""Pairs of channels from which on, where the folded kernel needs twice the products, they are better summed by parts
under a compiler; the fewer where it needs more."""

_NEAR = 0.03
"""Squared octaves within which one layer is as good as another. Beyond, what a layer tells fades with the fourth power
of the distance: of what was tried, this foretold best the layers that were left out."""


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
    if is_captured() and (is_jit_traced() or is_exporting()):
        circumstances = "exporting"
    elif device == "cpu":
        circumstances = "compiled" if is_compiling() else "training" if training else "forward"
    return _decide(case, algorithm, circumstances, channels_last)[0]


def trains_by_parts(case: Case) -> bool:
    """Whether a compiler should leave a resize-convolution as it is in training, to be summed by parts.

    Told by channels and kernel alone: other sizes may be symbols to a compiler.
    """
    if case.form != "resize" or case.groups != 1 or case.padding_mode != "zeros" or max(case.stride) == 1:
        return False
    parts = math.prod(case.kernel_size)
    folded = math.prod([span + s for span, s in zip(case.span, case.stride, strict=True)])
    enough: bool = case.in_channels * case.out_channels * (folded - parts) >= _SAVED * parts
    return enough


def features(case: Case, algorithm: str, *, channels_last: bool) -> tuple[float, ...]:
    """What an algorithm does for a case, in the order of `Costs`."""
    macs, traffic, calls = ALGORITHMS[algorithm].cost(case)
    of_group = case.out_channels // case.groups
    idle = -of_group % _LANES / of_group if algorithm in ("native", "folded") and case.axes == 2 else 0
    kernel = case.in_channels * of_group * math.prod(case.kernel_size)
    rows = traffic / (case.out_channels if channels_last else case.input_size[-1])
    return macs, macs * idle, macs / case.batch, traffic, rows, kernel, 1, calls


def shape(case: Case) -> tuple[int, ...]:
    """What makes a layer like another: batch, channels, positions, taps, stride."""
    size, taps, stride = map(math.prod, (case.input_size, case.kernel_size, case.stride))
    return case.batch, case.in_channels // case.groups, case.out_channels // case.groups, size, taps, stride


def predict(measured: Measured, case: Case, algorithm: str, *, channels_last: bool) -> float:
    """The milliseconds that an algorithm takes for a case: by its costs, and as other layers deviated from them, the
    nearer the more."""
    amounts = features(case, algorithm, channels_last=channels_last)
    time = sum(cost * amount for cost, amount in zip(measured.costs, amounts, strict=True)) / 1e9
    weights = total = 0.0
    mine = [math.log2(max(number, 1)) for number in shape(case)]
    for other, deviation in measured.deviations:
        octaves = math.dist(mine, [math.log2(number) for number in other])
        weight = (octaves**2 + _NEAR) ** -2
        weights += weight
        total += weight * deviation
    return time * math.exp(total / weights if weights else 0.0)


@lru_cache(maxsize=1)
def _measured() -> dict[tuple[str, ...], Measured]:
    """What was measured on a processor like this one, by circumstances, order in memory, form, axes and algorithm."""
    table = json.loads((files("halfstride") / "_core" / "costs" / f"{capability()}.json").read_text())
    return {
        tuple(entry["of"]): Measured(
            Costs(*entry["costs"]), tuple((tuple(shape), deviation) for shape, deviation in entry["deviations"])
        )
        for entry in table
    }


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
        >>> {each.algorithm: each.macs // (8 * 64 * 32 * 32 * 32) for each in plan.candidates}
        {'native': 36, 'scatter': 16, 'emulated': 64, 'folded': 16, 'phases': 16, 'by_parts': 9}
    """
    if form not in CASES:
        raise ValueError(f"`form` (={form!r}) must be one of {', '.join(map(repr, CASES))}.")
    case = CASES[form](len(weight_shape) - 2, input_shape, weight_shape, **geometry)
    candidates = []
    for name, module in ALGORITHMS.items():
        reason = module.unsupported_reason(case)
        cost = None if reason else module.cost(case)
        candidates.append(Candidate(name, cost and cost.macs, cost and cost.traffic * dtype.itemsize, reason))
    circumstances = "training" if training else "forward"
    decision = _decide(case, algorithm, circumstances, channels_last)
    return Plan(case, *decision, tuple(candidates))


@cached
def _decide(case: Case, algorithm: str, circumstances: str, channels_last: bool) -> tuple[str, str]:
    """The algorithm and the reason; circumstances: "forward", "training", "compiled", "exporting" or "unmeasured"."""
    if read_algorithm(algorithm) != "auto":
        reason = ALGORITHMS[algorithm].unsupported_reason(case)
        if reason is not None:
            raise ValueError(f"`algorithm` (={algorithm!r}) cannot compute this case: {reason}.")
        return algorithm, "it was asked for"
    if circumstances == "exporting":
        return "native", "an exported model is made of torch's own operators"
    if case.form == "subpixel":
        return "native", "a sub-pixel convolution is made of its phases already"
    # Not by the largest size: a compiler to which sizes are symbols would remember which one that was.
    if all(s == 1 for s in case.stride) and (case.form == "resize" or any(n > 1 for n in case.input_size)):
        return "native", "nothing is enlarged, so this is a convolution"
    if not case.channel_pairs:
        return "native", "there is nothing to multiply"
    able = [name for name in ELIGIBLE[case.form] if ALGORITHMS[name].unsupported_reason(case) is None]
    if len(able) == 1:
        return "native", "its borders allow no other"
    if circumstances == "compiled" and _is_weak(case):
        return "scatter", "torch's transposed convolution is weak here, and a compiler fuses all but the matrix product"
    if circumstances in ("compiled", "unmeasured") or case.groups > 1:
        if case.form == "transposed":
            return "native", "torch's transposed convolution multiplies nothing in vain"
        return "folded", "the taps that meet copies of one value are added before they are multiplied"
    last = channels_last and case.axes > 1
    order, axes, table = "channels last" if last else "contiguous", f"{case.axes}d", _measured()
    times = {
        name: predict(table[circumstances, order, case.form, axes, name], case, name, channels_last=last)
        for name in able
    }
    fastest, *others = sorted(times, key=times.__getitem__)
    compared = ", ".join(f"{times[name]:.3g} ms as {name!r}" for name in others)
    return fastest, f"predicted to take {times[fastest]:.3g} ms where it was measured, against {compared}"


def _is_weak(case: Case) -> bool:
    """Where torch's transposed convolution takes longer on a processor than a matrix product and a compiled loop."""
    # oneDNN computes that many channels at once, needed or not. Signals are images of one row to it, and volumes torch
    # convolves without it.
    few = case.out_channels // case.groups <= _LANES
    far = case.axes == 1 and case.stride[0] >= 8
    apart = case.axes == 3 and all(span < s for span, s in zip(as_transposed(case)[0].span, case.stride, strict=True))
    return few or far or apart


def read_algorithm(algorithm: Any) -> str:
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)
