"""Fit a few weights of a changed model to what the original gives: least squares, with some weights held to a form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halfstride import kernels
from halfstride.checkerboard.sites import run

__all__ = ["Free", "Ran", "fit", "watch_weights"]

_CHUNK = 64  # examples whose intermediate results are held at once
_HISTORY = 20  # of L-BFGS
_HOPELESS = 1e10  # the loss, which begins at 1, where a step of the line search went to infinity


@dataclass(frozen=True)
class Free:
    """A parameter that may be fitted, and what must stay true of it."""

    start: Tensor
    """Where to begin, in the coordinates that are fitted."""
    form: Callable[[Tensor], Tensor] = lambda value: value
    """From those coordinates to the parameter: linear, and onto what is allowed."""
    unit: float | None = None
    """A change of this size counts as large; by default the root mean square of `start`."""


@dataclass(frozen=True)
class Ran:
    """A module with a weight, as one call was seen."""

    name: str
    module: nn.Module
    size: float | None
    """Root mean square of its output; None where that is no tensor."""


def fit(
    model: nn.Module,
    example_inputs: Any,
    target: Tensor,
    free: Mapping[str, Free],
    read: Callable[[Any], Tensor | None],
    steps: int,
) -> bool:
    """Bring a model's output as near to `target` as its free parameters can, and set them to that.

    The sum of squared differences over all examples is minimised by L-BFGS, each parameter in its own unit. Moving all
    of them by one unit counts as much as leaving one example as wrong as it was at the start, so that few examples
    don't bend the model to themselves.

    Args:
        target: (batch, channels, *size), for all of `example_inputs`.
        free: by the parameters' names in the model.
        read: takes the tensor to compare with `target` from what the model returns.
        steps: iterations, 1 or more; each costs little more than one run forward and back.

    Returns:
        Whether the model was changed: not where no gradient comes through it, or nothing better was found.

    Reference:
        Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming 45
        (1989).
    """
    starts = {name: kernels.widened(part.start.detach()).clone() for name, part in free.items()}
    moves = {name: torch.zeros_like(start, memory_format=torch.contiguous_format) for name, start in starts.items()}
    units = {name: float(starts[name].square().mean().sqrt()) if p.unit is None else p.unit for name, p in free.items()}
    count = sum(move.requires_grad_().numel() for move in moves.values())
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    chunks = list(_chunks(example_inputs, target))
    scale = 1.0  # such that the loss begins at 1

    def parameters() -> dict[str, Tensor]:
        return {
            name: part.form(starts[name] + units[name] * moves[name]).to(dtypes[name]) for name, part in free.items()
        }

    def error(inputs: Any, wanted: Tensor) -> Tensor:
        output = read(torch.func.functional_call(model, parameters(), *_arguments(inputs)))
        assert output is not None  # as the target was
        return (output.double() - wanted).square().sum()

    def loss() -> float:
        """The loss, with its gradients left in the moves."""
        optimizer.zero_grad()
        total = 0.0
        for inputs, wanted in chunks:
            part = error(inputs, wanted) / scale
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        held = torch.stack([move.square().sum() for move in moves.values()]).sum() / (count * len(target))
        held.backward()  # type: ignore[no-untyped-call]
        total += float(held.detach())
        if math.isfinite(total):
            return total
        optimizer.zero_grad(set_to_none=False)
        return _HOPELESS

    with _frozen(model):
        with torch.enable_grad():
            reached = error(*chunks[0]).requires_grad
        with torch.no_grad():
            scale = sum(float(error(*chunk)) for chunk in chunks)
        if not reached or not scale:
            return False
        optimizer = torch.optim.LBFGS(
            list(moves.values()), max_iter=steps, history_size=_HISTORY, line_search_fn="strong_wolfe"
        )
        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            if not sum(float(error(*chunk)) for chunk in chunks) < scale:
                return False
            for name, value in parameters().items():
                model.get_parameter(name).copy_(value)
    return True


def watch_weights(model: nn.Module, example_inputs: Any) -> list[Ran]:
    """Every call of a module that has a weight of its own, in the order in which they began."""
    order: list[str] = []
    sizes: dict[str, float] = {}
    modules = {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList)
        and (parametrize.is_parametrized(module) or any(p.dim() > 1 for p in module.parameters(recurse=False)))
    }

    def entering(name: str) -> Callable[..., None]:
        return lambda module, inputs: order.append(name)

    def left(name: str) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                sizes[name] = float(output.double().square().mean().sqrt())

        return leave

    handles: list[Any] = []
    for name, module in modules.items():
        handles += [module.register_forward_pre_hook(entering(name)), module.register_forward_hook(left(name))]
    try:
        with torch.no_grad():
            run(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [Ran(name, modules[name], sizes.get(name)) for name in order]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of the model asks for gradients, so that none of what comes before the fitted ones is kept."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named ones."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}


def _chunks(example_inputs: Any, target: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """Examples and their targets, a part of a batch at a time where there is one batch to be parted."""
    if isinstance(example_inputs, Tensor) and len(example_inputs) == len(target):
        yield from zip(torch.split(example_inputs, _CHUNK), torch.split(target, _CHUNK), strict=True)
    else:
        yield example_inputs, target
