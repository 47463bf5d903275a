"""Is it the same, and is it faster?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from halfstride._support.torch_private import tree_flatten

__all__ = ["GAIN", "TOLERANCE", "alternating", "difference", "seconds"]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""The largest difference allowed, as a share of the original's largest value: the rounding of sums of thousands."""

GAIN = 0.97
"""What is changed must take less than this share of the original's time: less is noise."""

_ROUNDS = 3, 15
_BUDGET = 0.3  # seconds, for each thing that is compared


def difference(actual: object, expected: object, *, each: bool = True, strides: bool = True) -> float:
    """The largest difference of two trees of tensors, as a share of the expected tensor's largest value.

    Args:
        actual: tensors in any structure of tuples, lists and dicts.
        expected: tensors in the same structure.
        each: whether each tensor's own largest value is the measure, or the largest of all.
        strides: whether they must be the same: code behind an output may rely on them, behind a gradient none can.

    Returns:
        Infinity where structure, shapes, types or strides differ, or a value is not finite.
    """
    (ours, our_tree), (theirs, their_tree) = tree_flatten(actual), tree_flatten(expected)
    if our_tree != their_tree:
        return float("inf")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(b, Tensor)]
    if any(not isinstance(a, Tensor) or _form(a) != _form(b) for a, b in pairs):
        return float("inf")
    if strides and any(_strides(a) != _strides(b) for a, b in pairs):
        return float("inf")
    pairs = [(a.detach(), b.detach()) for a, b in pairs if b.numel()]
    largest = [float(b.abs().max()) for _, b in pairs]
    if not each:
        largest = [max(largest, default=0.0)] * len(largest)
    shares = [0.0]
    for (a, b), most in zip(pairs, largest, strict=True):
        if not torch.equal(a, b):
            share = float((a.double() - b.double()).abs().max()) / most if most else float("inf")
            shares.append(share if share == share else float("inf"))
    return max(shares)


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]  # the others mean nothing


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The time that one call takes."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternating(
    runs: Mapping[str, Callable[[], object]], device: torch.device, budget: float = _BUDGET
) -> dict[str, float]:
    """The shortest time of each, measured in turns: what a busy machine adds is no property of what is measured.

    All have been run before.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    least, most = _ROUNDS
    for finished in range(most):
        if finished >= least and sum(map(sum, times.values())) > budget * len(runs):
            break
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return {name: min(each) for name, each in times.items()}
