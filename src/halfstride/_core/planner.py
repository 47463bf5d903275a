"""Which algorithm computes which case, and why.

What `halfstride.tune` measured on this machine comes first (`tuned`). Then the rules of "auto", in this order. It never
chooses an algorithm that cannot compute the case.

1. While a model is exported (`torch.export`, ONNX): "native", so that the graph holds torch's own operators only.
2. Sub-pixel convolutions, and layers that do not enlarge their input: "native", an ordinary convolution. (An input of
   one position is enlarged by a transposed convolution of any stride: the first layer of many generators.)
3. On devices other than CPUs, and in types other than float32: "native", because nothing was measured there. Except on
   NVIDIA's GPUs: "folded" for half types, images in channels-last format and one group.
4. Under `torch.compile`, and with groups: "native" for transposed convolutions and "folded" for resize-convolutions,
   which saves most of their MACs with one torch operator. Two exceptions under `torch.compile` for a CPU: "scatter"
   where torch's transposed convolution is slow (`_is_slow_in_torch`), because everything after its matrix product is
   fused into one loop (not where sizes may change: to compile that takes seconds); and "by_parts" in training with many
   channels (`trains_by_parts`).
5. Where `halfstride-kernels` is installed: "few_outputs" and "by_parts", except for a few cases (`_fused`).
6. Otherwise the algorithm that is predicted to take least time (`predictions`), torch's own in doubt.

The prediction is linear: how much an algorithm does (`features`) times what that costs (`Costs`). The costs were fitted
to times that `python -m benchmarks.calibrate` measured on two cores in float32, with AVX2 and with AVX-512. Only their
ratios matter, and these are similar on similar processors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch

from halfstride._core import tuned
from halfstride._core.algorithms import ALGORITHMS, by_parts, few_outputs, scatter
from halfstride._core.algorithms.products import capability
from halfstride._core.case import CASES, Case, Form
from halfstride._core.common import as_transposed
from halfstride._support.torch_private import is_captured, is_compiling, is_exporting, is_fixed, is_jit_traced
from halfstride._support.weight_cache import cached


@dataclass(frozen=True)
class Candidate:
    """The work of one algorithm for a case, forward only."""

    algorithm: str
    macs: int | None
    """Multiply-accumulate operations (MACs); None where the algorithm cannot compute the case."""
    bytes: int | None
    """Bytes read and written, intermediate tensors included, kernels not; None where it cannot compute the case."""
    unsupported_reason: str | None
    """Why the algorithm cannot compute the case; None where it can."""


@dataclass(frozen=True)
class Choice:
    """The algorithm chosen for a case, the reason, and all candidates."""

    case: Case
    algorithm: str
    reason: str
    candidates: tuple[Candidate, ...]


ELIGIBLE: dict[str, tuple[str, ...]] = {
    "transposed": ("native", "scatter"),
    "resize": ("native", "scatter", "folded", "by_parts"),
}
"""The algorithms that "auto" chooses from, by form."""


class Costs(NamedTuple):
    """The fitted costs of one algorithm, in picoseconds for each unit of what it does (`features`)."""

    mac: float
    idle_mac: float  # of a vector lane without an output channel
    mac_per_image: float  # in addition to `mac`: cores share the images of a batch, but not a single image
    element: float  # of input, output and intermediate tensors, read or written
    row: float  # of elements that are contiguous in memory: the start of a loop
    weight: float  # an element of the kernel
    layer: float  # a call of the layer, whatever its size
    call: float  # of a torch operator by the layer


_LANES = 16
"""Output channels that oneDNN's 2-D convolutions compute at once."""

_MANY_PAIRS = 2**13
"""In training under a compiler, "by_parts" is faster than "folded" from this product on: pairs of input and output
channels, times the share of MACs that it saves (`trains_by_parts`)."""

_MANY_IMAGES, _FEW_POSITIONS, _LARGE_KERNEL, _MANY_OUTPUTS, _FEW_PRODUCTS = 8, 16, 2**21, 4, 2**13
"""Bounds of the exceptions in `_eligible`: images in a batch, input positions, kernel elements, output channels per
input channel, and products of an input value and a kernel element, summed over input channels."""


_LEAVE = 1.1
"""Torch's own operator is left for another algorithm only where it is predicted to take this many times as long."""

_ENOUGH, _ENOUGH_IN_TRAINING, _FEW_TAPS = 2**6, 2**13, 8
"""Bounds of where `halfstride-kernels` is faster: input positions, of all images in training to few output channels,
and taps along an axis there."""


def choose(
    case: Case,
    algorithm: str = "auto",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    training: bool = False,
    channels_last: bool = False,
) -> str:
    """Return the name of the algorithm that computes a case: the requested one, or by the rules of this module.

    Args:
        case: the operator with all its sizes.
        algorithm: "auto", or the name of an algorithm.
        device: type of the device that the tensors are on.
        dtype: type in which the case is computed.
        training: whether gradients are needed.
        channels_last: whether the input's memory format is channels_last.

    Raises:
        ValueError: if there is no algorithm of that name, or it cannot compute the case.
    """
    if is_captured() and (is_jit_traced() or is_exporting()):
        circumstances = "exporting"
    elif is_compiling():
        circumstances = "compiled" if device == "cpu" else _on(device, dtype)
    else:
        if algorithm == "auto":
            known = tuned.answer(tuned.Question(case, device, dtype, training, channels_last))
            if known in ALGORITHMS and ALGORITHMS[known].unsupported_reason(case) is None:
                return known
        circumstances = _measured_as(device, dtype, training)
    return _decide(case, algorithm, circumstances, channels_last)[0]


def explain(
    form: Form,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    algorithm: str = "auto",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    training: bool = False,
    channels_last: bool = False,
    **geometry: Any,
) -> Choice:
    """Explain which algorithm computes a layer outside of `torch.compile`, and count every candidate's work.

    Args:
        form: "transposed", "resize" or "subpixel".
        input_shape: (batch, in_channels, \\*size), or (in_channels, \\*size).
        weight_shape: shape of the weight as in `halfstride.functional`.
        algorithm: "auto", or the name of an algorithm.
        device: type of the device that the tensors are on.
        dtype: type of the tensors.
        training: whether gradients are needed.
        channels_last: whether the input's memory format is channels_last.
        geometry: stride or scale_factor, padding, dilation, groups and so on, as in `halfstride.functional`.

    Raises:
        ValueError: if an argument is out of range, or the requested algorithm cannot compute the layer.

    Example:
        >>> choice = explain("resize", (8, 512, 32, 32), (512, 512, 3, 3), scale_factor=2)
        >>> choice.algorithm
        'by_parts'
        >>> positions, pairs = 8 * 32 * 32, 512 * 512
        >>> {each.algorithm: each.macs // positions // pairs for each in choice.candidates if each.macs}
        {'native': 36, 'scatter': 16, 'emulated': 64, 'folded': 16, 'phases': 16, 'by_parts': 6}
    """
    if form not in CASES:
        raise ValueError(f"`form` (={form!r}) must be one of {', '.join(map(repr, CASES))}.")
    case = CASES[form](len(weight_shape) - 2, input_shape, weight_shape, **geometry)
    candidates = []
    for name, module in ALGORITHMS.items():
        reason = module.unsupported_reason(case)
        cost = None if reason else module.cost(case)
        candidates.append(Candidate(name, cost and cost.macs, cost and cost.traffic * dtype.itemsize, reason))
    decision = _decide(case, algorithm, _measured_as(device, dtype, training), channels_last)
    return Choice(case, *decision, tuple(candidates))


def read_algorithm(algorithm: Any) -> str:
    """Return `algorithm` if it is "auto" or the name of an algorithm.

    Raises:
        ValueError: if it is neither.
    """
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)


def trains_by_parts(case: Case) -> bool:
    """Return whether, in training, a compiler should keep a resize-convolution as one operator, computed by parts.

    Decided by channels and kernel alone: the other sizes may be symbols under a compiler.
    """
    if case.form != "resize" or case.groups != 1 or case.padding_mode != "zeros" or max(case.stride) == 1:
        return False
    if by_parts.is_fused(case) and _has_enough_channels(case):
        return True
    parts = math.prod(case.kernel_size)
    folded = math.prod([span + s for span, s in zip(case.span, case.stride, strict=True)])
    return bool(case.in_channels * case.out_channels * (folded - parts) >= _MANY_PAIRS * parts)


# Predicted times ------------------------------------------------------------------------------------------------------


def features(case: Case, algorithm: str, *, channels_last: bool) -> tuple[float, ...]:
    """Return how much an algorithm does of everything that has a cost, in the order of `Costs`."""
    macs, traffic, calls = ALGORITHMS[algorithm].cost(case)
    of_group = case.out_channels // case.groups
    idle = -of_group % _LANES / of_group if algorithm in ("native", "folded") and case.axes == 2 else 0
    weights = case.in_channels * of_group * math.prod(case.kernel_size)
    rows = traffic / (case.out_channels if channels_last else case.input_size[-1])
    return macs, macs * idle, macs / case.batch, traffic, rows, weights, 1, calls


def predict(costs: Costs, case: Case, algorithm: str, *, channels_last: bool) -> float:
    """Return the predicted milliseconds of an algorithm for a case."""
    amounts = features(case, algorithm, channels_last=channels_last)
    return sum(cost * amount for cost, amount in zip(costs, amounts, strict=True)) / 1e9


def predictions(case: Case, table: Mapping[str, Costs], circumstances: str, *, channels_last: bool) -> dict[str, float]:
    """Return the predicted milliseconds of every eligible algorithm, the fastest first.

    Args:
        case: the operator with all its sizes.
        table: costs by circumstances, memory format, form, axes and algorithm, as in costs.json.
        circumstances: "forward" or "training".
        channels_last: whether the input's memory format is channels_last; ignored in 1-D, which has no such format.
    """
    channels_last = channels_last and case.axes > 1
    kind = f"{circumstances} {'channels_last' if channels_last else 'contiguous'} {case.form} {case.axes}d"
    times = {
        name: predict(table[f"{kind} {name}"], case, name, channels_last=channels_last)
        for name in _eligible(case, channels_last)
    }
    return dict(sorted(times.items(), key=lambda item: item[1]))


def _eligible(case: Case, channels_last: bool) -> list[str]:
    """Return the algorithms whose predictions are compared: less some exceptions where the linear prediction errs."""
    able = [name for name in ELIGIBLE[case.form] if ALGORITHMS[name].unsupported_reason(case) is None]
    if "scatter" in able and scatter.is_small(case):
        return ["scatter"]  # the costs were fitted to its other way of adding products
    positions = math.prod(case.input_size)
    if case.form == "transposed" and "scatter" in able:
        # The beginning of generators: torch's took up to 2.9 times as long, and was predicted to be faster in half.
        weights = case.in_channels * case.out_channels * math.prod(case.kernel_size)
        if (positions == 1 and case.batch >= _MANY_IMAGES) or (
            positions <= _FEW_POSITIONS and weights >= _LARGE_KERNEL
        ):
            return ["scatter"]
        # A call for each tap took up to twice as long as all of torch's.
        if case.batch * positions * case.out_channels * math.prod(case.kernel_size) <= _FEW_PRODUCTS:
            return ["native"]
    # "scatter" and "by_parts" rearrange a large contiguous output afterwards, which takes longer than predicted.
    if not channels_last and positions > 1 and case.out_channels >= _MANY_OUTPUTS * case.in_channels:
        return [name for name in able if name in ("native", "folded")]
    return able


@lru_cache(maxsize=1)
def _costs() -> dict[str, Costs]:
    """Return the costs fitted on a processor with the same vector instructions as this one."""
    table = json.loads((files("halfstride") / "_core" / "costs.json").read_text())
    return {key: Costs(*costs) for key, costs in table[capability()].items()}


# The decision ---------------------------------------------------------------------------------------------------------


def _measured_as(device: str, dtype: torch.dtype, training: bool) -> str:
    """Return the circumstances outside of compilers and export: "forward", "training", or those of `_on`."""
    if device != "cpu":
        return _on(device, dtype)
    if dtype != torch.float32:
        return "unmeasured"
    return "training" if training else "forward"


def _on(device: str, dtype: torch.dtype) -> str:
    """Return the circumstances on a device other than a processor."""
    # AMD's GPUs call themselves "cuda" too; their transposed convolutions take up to 20 times as long (MIOpen#3952).
    nvidia = device == "cuda" and torch.version.hip is None
    return "tensor cores" if nvidia and dtype in (torch.float16, torch.bfloat16) else "unmeasured"


@cached
def _decide(case: Case, algorithm: str, circumstances: str, channels_last: bool) -> tuple[str, str]:
    """Return the algorithm and the reason; circumstances are those of `choose` and `_measured_as`."""
    if read_algorithm(algorithm) != "auto":
        reason = ALGORITHMS[algorithm].unsupported_reason(case)
        if reason is not None:
            raise ValueError(f"`algorithm` (={algorithm!r}) cannot compute this case: {reason}.")
        return algorithm, "it was asked for"
    if circumstances == "exporting":
        return "native", "an exported model is made of torch's own operators"
    if case.form == "subpixel":
        return "native", "a sub-pixel convolution is made of its phases already"
    # Not by the largest size: where sizes are symbols, a compiler would add a guard on which of them is the largest.
    if all(s == 1 for s in case.stride) and (case.form == "resize" or any(n > 1 for n in case.input_size)):
        return "native", "nothing is enlarged, so this is a convolution"
    if not case.channel_pairs:
        return "native", "there is nothing to multiply"
    if circumstances == "tensor cores" and _folds_on_tensor_cores(case, channels_last):
        return "folded", "it is one transposed convolution with fewer MACs, which tensor cores compute"
    if circumstances in ("unmeasured", "tensor cores"):
        return "native", "nothing was measured on this device in this type"
    if all(ALGORITHMS[name].unsupported_reason(case) is not None for name in ELIGIBLE[case.form] if name != "native"):
        return "native", "no other algorithm can compute this padding"
    if circumstances == "compiled" and _is_slow_in_torch(case) and all(map(is_fixed, case.input_size)):
        return "scatter", "torch's transposed convolution is slow here, and a compiler fuses all but the matrix product"
    if circumstances not in ("forward", "training") or case.groups > 1:
        if case.form == "transposed":
            return "native", "torch's transposed convolution computes no needless MACs"
        return "folded", "it adds the taps that meet copies of one value before it multiplies"
    if name := _fused(case, circumstances == "training"):
        return name, "measured layers of such a shape were fastest by the loops of halfstride-kernels"
    times = predictions(case, _costs(), circumstances, channels_last=channels_last)
    if len(times) == 1:
        return next(iter(times)), "measured layers of such a shape were fastest by it"
    fastest = clearly_fastest(times)
    compared = ", ".join(f"{other:.3g} ms as {name!r}" for name, other in times.items() if name != fastest)
    return fastest, f"predicted to take {times[fastest]:.3g} ms where it was measured, against {compared}"


def clearly_fastest(times: Mapping[str, float]) -> str:
    """Return the algorithm that takes least time; torch's own, "native", where it takes at most 10 % more."""
    fastest = min(times, key=times.__getitem__)
    return "native" if times.get("native", math.inf) <= _LEAVE * times[fastest] else fastest


def _folds_on_tensor_cores(case: Case, channels_last: bool) -> bool:
    return case.form == "resize" and case.axes == 2 and case.groups == 1 and channels_last


def _fused(case: Case, training: bool) -> str | None:
    """Return the algorithm that the loops of `halfstride-kernels` are faster by; None where they are not installed, or
    a case is not of the many for which they are."""
    positions = math.prod(case.input_size)
    if few_outputs.unsupported_reason(case) is None:
        twin, _ = as_transposed(case)
        enough = positions >= _ENOUGH and (not training or case.batch * positions >= _ENOUGH_IN_TRAINING)
        return "few_outputs" if twin.overlaps and enough and max(twin.kernel_size) <= _FEW_TAPS else None
    if case.form != "resize" or not by_parts.is_fused(case):
        return None
    return "by_parts" if case.batch * positions >= _ENOUGH and _has_enough_channels(case) else None


def _has_enough_channels(case: Case) -> bool:
    """Return whether there are enough channels for the loops of `halfstride-kernels` to multiply."""
    return case.in_channels >= _LANES and case.out_channels >= _LANES // 2


def _is_slow_in_torch(case: Case) -> bool:
    """Return whether torch's transposed convolution is slower on a CPU than a matrix product and a compiled loop."""
    # oneDNN computes 16 output channels at once, needed or not. torch computes volumes without oneDNN.
    few = case.out_channels // case.groups <= _LANES
    large_stride = case.axes == 1 and case.stride[0] >= 8
    no_overlap = case.axes == 3 and all(
        span < s for span, s in zip(as_transposed(case)[0].span, case.stride, strict=True)
    )
    return few or large_stride or no_overlap
