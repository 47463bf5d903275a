"""Run a model on its example inputs, compare what it returns, and time it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halfstride._support.draws import Draws
from halfstride._support.models import arguments_of
from halfstride._support.torch_private import tree_flatten, tree_leaves, tree_map
from halfstride.optimizing.report import Times
from halfstride.optimizing.rewriting import fields_of, is_watched

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""The largest difference allowed for one layer, as a share of the original's largest value: the rounding of sums of
thousands."""

_ROUNDS = 5, 9
_SECONDS = 3.0
"""How often a model is timed: the larger number, unless that takes longer than this."""


class Example:
    """A model on its example inputs, forwards, or forwards and backwards."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model = model
        self.args, self.kwargs = arguments_of(example_inputs)
        self.inputs = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        tensors = [*model.parameters(), *self.inputs]
        self._draws = Draws(tensors)
        self.wanted = [tensor for tensor in tensors if tensor.requires_grad]
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self.gradients = torch.is_grad_enabled() and bool(self.wanted) and not is_watched(model)

    def call(self) -> Any:
        """The model's output, as it is; every call draws the same random numbers."""
        with self._draws.same():
            return self.model(*self.args, **self.kwargs)

    def run(self, gradients: bool = False) -> tuple[Any, tuple[Tensor | None, ...]]:
        """The output, dataclasses as dicts, and where they are asked for the gradients of a random sum of it."""
        with torch.set_grad_enabled(gradients):
            output = _opened(self.call())
        if not gradients:
            return output, ()
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        generators = {leaf.device: torch.Generator(leaf.device).manual_seed(0) for leaf in leaves}
        sums = [
            torch.randn(leaf.shape, dtype=leaf.dtype, device=leaf.device, generator=generators[leaf.device])
            for leaf in leaves
        ]
        return output, torch.autograd.grad(leaves, self.wanted, sums, allow_unused=True) if leaves else ()

    def first_run(self) -> Any:
        """The outcome of the model as it was given; `ValueError` where it raises."""
        try:
            return self.run()
        except Exception as error:
            raise ValueError(
                f"`model` ({type(self.model).__name__}) raises {type(error).__name__} on the example inputs "
                f"{_described(self.args, self.kwargs)}: {error}"
            ) from error

    def times(self, gradients: bool, changed: Callable[[], contextlib.AbstractContextManager[None]]) -> Times:
        """Time the model as it is and changed, in turns; both have been run before."""
        before: list[float] = []
        after: list[float] = []
        least, most = _ROUNDS
        while len(after) < least or (len(after) < most and sum(before) + sum(after) < _SECONDS):
            before.append(self._seconds(gradients))
            with changed():
                after.append(self._seconds(gradients))
        return Times(min(before), min(after))  # other work on the machine only adds to a time

    def _seconds(self, gradients: bool) -> float:
        start = time.perf_counter()
        self.run(gradients)
        if self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(self.device)
        return time.perf_counter() - start

    @contextlib.contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Restore buffers and the example inputs afterwards."""
        buffers = [
            (module, name, buffer)
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not is_lazy(buffer)
        ]
        inputs = [x for x in self.inputs if x.layout is torch.strided and not x.is_meta]
        values = [(tensor, tensor.detach().clone()) for tensor in (*(buffer for _, _, buffer in buffers), *inputs)]
        try:
            yield
        finally:
            for module, name, buffer in buffers:
                module._buffers[name] = buffer
            for tensor, value in values:
                if torch.equal(tensor, value):
                    continue
                same = (tensor == value) | ((tensor != tensor) & (value != value))  # not-a-number among them
                if not same.all():
                    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                        tensor.copy_(value)


def difference(actual: object, expected: object, *, each: bool = True, strides: bool = True) -> float:
    """The largest difference of two trees of tensors, as a share of the expected tensor's largest value.

    Args:
        actual: tensors in any structure of tuples, lists and dicts.
        expected: tensors in the same structure.
        each: whether each tensor is measured by its own largest value, or by the largest of all.
        strides: whether they must be the same: code that uses an output may rely on them.

    Returns:
        Infinity where structure, shapes, types or strides differ, or a value is not finite.
    """
    (ours, our_tree), (theirs, their_tree) = tree_flatten(actual), tree_flatten(expected)
    if our_tree != their_tree:
        return float("inf")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(b, Tensor)]
    for a, b in pairs:
        if not isinstance(a, Tensor) or (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return float("inf")
        if strides and _strides(a) != _strides(b):
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


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]  # the others mean nothing


def _opened(output: Any) -> Any:
    """The output, with dicts in place of dataclasses."""
    return tree_map(lambda leaf: {name: _opened(value) for name, value in fields_of(leaf).items()} or leaf, output)


def _described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return "×".join(map(str, value.shape)) or "a number" if isinstance(value, Tensor) else repr(value)

    return f"({', '.join([*map(text, args), *(f'{name}={text(value)}' for name, value in kwargs.items())])})"
