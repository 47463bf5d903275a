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
_ROUNDS = 6  # in which the target leans against what is not wanted and came back
_LEAN = 2.0  # times what came back, of which the model follows a part


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
    unwanted: Callable[[Tensor], Tensor | None],
    steps: int,
) -> bool:
    """Bring a model's output as near to `target` as its free parameters can, and set them to that.

    The sum of squared differences over all examples is minimised by L-BFGS, each parameter in its own unit. Moving all
    of them by one unit counts as much as leaving one example as wrong as it was at the start, so that few examples
    don't bend the model to themselves.

    What is not wanted can be small beside all else that differs, so that least squares let it in. Then the target moves
    away from it, and the fit goes on for some iterations, until nothing of it is left or it becomes no less.

    Args:
        target: (batch, channels, *size), for all of `example_inputs`.
        free: by the parameters' names in the model.
        read: takes the tensor to compare with `target` from what the model returns.
        unwanted: what an output must not have, of the output's shape; None where it has nothing of it.
        steps: iterations, 1 or more; each costs little more than one run forward and back.

    Returns:
        Whether the model was changed: not where no gradient comes through it, or nothing better was found.

    Reference:
        Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming 45
        (1989).
    """
    problem = _LeastSquares(model, example_inputs, free, read, len(target))
    target = target.double()
    with _frozen(model):
        wrong = float((problem.outputs() - target).square().sum())
        if not problem.reached() or not wrong:
            return False
        problem.scale = wrong
        problem.minimise(target, steps)
        outputs = problem.outputs()
        if not float((outputs - target).square().sum()) < wrong:
            return False
        problem.write()
        left = unwanted(outputs)
        for _ in range(_ROUNDS):
            if left is None:
                break
            target = target - _LEAN * left
            problem.minimise(target, math.ceil(steps / _ROUNDS))
            outputs = problem.outputs()
            if not outputs.isfinite().all():
                break
            before, left = left, unwanted(outputs)
            if left is not None and not left.norm() < before.norm():
                break
            problem.write()
    return True


class _LeastSquares:
    """A model whose free parameters move, and how far its outputs are from a target.

    Each parameter moves in its own unit, and is held back by where it began.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        free: Mapping[str, Free],
        read: Callable[[Any], Tensor | None],
        count: int,
    ) -> None:
        self.model, self.free, self.read = model, free, read
        self.chunks = list(_chunks(example_inputs, count))
        self.scale = 1.0
        """The squared error that counts as 1."""
        self.starts = {name: kernels.widened(part.start.detach()).clone() for name, part in free.items()}
        self.units = {
            name: float(start.square().mean().sqrt()) if (unit := free[name].unit) is None else unit
            for name, start in self.starts.items()
        }
        self.moves = {
            name: torch.zeros_like(start, memory_format=torch.contiguous_format).requires_grad_()
            for name, start in self.starts.items()
        }
        self.held = 1 / (count * sum(move.numel() for move in self.moves.values()))

    def parameters(self) -> dict[str, Tensor]:
        return {
            name: part.form(self.starts[name] + self.units[name] * self.moves[name]).to(self.model.get_parameter(name))
            for name, part in self.free.items()
        }

    def run(self, inputs: Any) -> Tensor:
        # None of them is tied to another, but a module may have several names, which torch would mistake for that.
        returned = torch.func.functional_call(self.model, self.parameters(), *_arguments(inputs), tie_weights=False)
        output = self.read(returned)
        assert output is not None  # as the target was
        return output

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Of all examples."""
        return torch.cat([self.run(inputs) for inputs, _ in self.chunks])

    def reached(self) -> bool:
        """Whether gradients come through the model to its free parameters."""
        with torch.enable_grad():
            return self.run(self.chunks[0][0]).requires_grad

    def minimise(self, target: Tensor, iterations: int) -> None:
        optimizer = torch.optim.LBFGS(
            list(self.moves.values()), max_iter=iterations, history_size=_HISTORY, line_search_fn="strong_wolfe"
        )

        def loss() -> float:
            """The loss, with its gradients left in the moves."""
            optimizer.zero_grad()
            total = 0.0
            for inputs, here in self.chunks:
                error = (self.run(inputs).double() - target[here]).square().sum() / self.scale
                error.backward()  # type: ignore[no-untyped-call]
                total += float(error.detach())
            held = self.held * torch.stack([move.square().sum() for move in self.moves.values()]).sum()
            held.backward()  # type: ignore[no-untyped-call]
            total += float(held.detach())
            if math.isfinite(total):
                return total
            optimizer.zero_grad(set_to_none=False)
            return _HOPELESS

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def write(self) -> None:
        """Set the model's parameters to where they have moved."""
        for name, value in self.parameters().items():
            self.model.get_parameter(name).copy_(value)


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


def _chunks(example_inputs: Any, count: int) -> Iterator[tuple[Any, slice]]:
    """Examples and which of `count` outputs are theirs: a part of a batch at a time where there is one to be parted."""
    if isinstance(example_inputs, Tensor) and len(example_inputs) == count:
        for first in range(0, count, _CHUNK):
            here = slice(first, first + _CHUNK)
            yield example_inputs[here], here
    else:
        yield example_inputs, slice(None)
