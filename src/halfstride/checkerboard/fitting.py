"""Fit a few weights of a changed model to the original's output: least squares, with the weights held to a form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halfstride import kernels
from halfstride._support.draws import Draws
from halfstride._support.models import arguments_of, keeping_buffers, removing
from halfstride._support.torch_private import uncompiled
from halfstride.checkerboard.find_layers import run

_CHUNK = 64  # examples whose intermediate results are held at once
_HISTORY = 20  # of L-BFGS
_DIVERGED = 1e10  # the loss, which begins at 1, where a step of the line search gave infinity
_ROUNDS = 6  # in which the target moves away from what is not wanted and came back
_LEAN = 2.0  # times what came back, of which the model follows a part


@dataclass(frozen=True)
class Free:
    """A parameter that may be fitted, and what must stay true of it."""

    start: Tensor
    """Where to begin, in the coordinates that are fitted."""
    form: Callable[[Tensor], Tensor] = lambda value: value
    """From those coordinates to the parameter: a linear projection onto the allowed values."""


def fit(
    model: nn.Module,
    example_inputs: Any,
    draws: Draws,
    target: Tensor,
    free: Mapping[str, Free],
    read: Callable[[Any], Tensor | None],
    unwanted: Callable[[Tensor], Tensor | None],
    steps: int,
) -> bool:
    """Bring a model's output as near to `target` as its free parameters can, and set them to that.

    L-BFGS minimises the sum of squared differences over all examples. Moving all free parameters by the root mean
    square of the free weights costs as much as leaving one example as wrong as it was at the start, so that a fit to
    few examples changes little.

    A pattern that is small beside all other differences can come back in the least squares solution. Then the target
    moves away from it and the fit goes on, until nothing of it is left or it grows no weaker.

    Args:
        draws: the random numbers of the model, where it draws any.
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
    problem = _LeastSquares(model, example_inputs, draws, free, read, len(target))
    target = target.double()
    problem.scale = wrong = float((problem.outputs() - target).square().sum())
    with torch.enable_grad(), keeping_buffers(model):
        if not wrong or not problem.run(problem.chunks[0][0]).requires_grad:
            return False
    best = problem.values()
    problem.minimise(target, steps)
    outputs = problem.outputs()
    is_better = float((outputs - target).square().sum()) < wrong
    if is_better:
        best, left = problem.values(), unwanted(outputs)
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
            best = problem.values()
    problem.place(best)
    return is_better


class _LeastSquares:
    """A model whose free parameters move, and are held back towards where they began."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        draws: Draws,
        free: Mapping[str, Free],
        read: Callable[[Any], Tensor | None],
        count: int,
    ) -> None:
        self.model, self.draws, self.free, self.read = model, draws, free, read
        self.chunks: list[tuple[Any, slice]] = [(example_inputs, slice(None))]
        """Examples, and which outputs are theirs: a part of the batch at a time where it can be split."""
        # The parts of a batch would draw other numbers than the whole.
        if isinstance(example_inputs, Tensor) and len(example_inputs) == count and not draws.drawn:
            parts = [slice(first, first + _CHUNK) for first in range(0, count, _CHUNK)]
            self.chunks = [(example_inputs[here], here) for here in parts]
        self.scale = 1.0  # the squared error that counts as 1
        self.starts = {name: kernels.widened(part.start.detach()).clone() for name, part in free.items()}
        weights = torch.cat([start.flatten() for start in self.starts.values() if start.dim() > 1])
        self.unit = float(weights.square().mean().sqrt())
        for name in free:
            model.get_parameter(name).requires_grad_(True)
        self.moves = {
            name: torch.zeros_like(start, memory_format=torch.contiguous_format).requires_grad_()
            for name, start in self.starts.items()
        }
        self.held = 1 / (count * sum(move.numel() for move in self.moves.values()))

    def values(self) -> dict[str, Tensor]:
        """What the parameters are where they have moved."""
        return {name: part.form(self.starts[name] + self.unit * self.moves[name]) for name, part in self.free.items()}

    @torch.no_grad()
    def place(self, values: Mapping[str, Tensor]) -> None:
        """Set the model's parameters."""
        for name, value in values.items():
            self.model.get_parameter(name).copy_(value)

    def run(self, inputs: Any) -> Tensor:
        positional, named = arguments_of(inputs)
        with self.draws.same(), uncompiled():
            output = self.read(self.model(*positional, **named))
        assert output is not None  # as the target was
        return output

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The outputs for all examples."""
        self.place(self.values())
        with keeping_buffers(self.model):
            return torch.cat([self.run(inputs) for inputs, _ in self.chunks])

    @torch.enable_grad()
    def minimise(self, target: Tensor, iterations: int) -> None:
        optimizer = torch.optim.LBFGS(
            list(self.moves.values()), max_iter=iterations, history_size=_HISTORY, line_search_fn="strong_wolfe"
        )

        def loss() -> float:
            """The loss, with its gradients left in the moves."""
            optimizer.zero_grad()
            values = self.values()
            self.place(values)
            total = 0.0
            for inputs, here in self.chunks:
                with keeping_buffers(self.model):
                    error = (self.run(inputs).double() - target[here]).square().sum() / self.scale
                    error.backward()  # type: ignore[no-untyped-call]
                total += float(error.detach())
            held = self.held * torch.stack([move.square().sum() for move in self.moves.values()]).sum()
            # The model's own parameters have the gradient, as what runs a part of it again (checkpointing) needs them.
            owned = [(value, self.model.get_parameter(name)) for name, value in values.items()]
            reached = [(value, own.grad.to(value)) for value, own in owned if own.grad is not None]
            for _, own in owned:
                own.grad = None
            torch.autograd.backward([held, *(value for value, _ in reached)], [None, *(grad for _, grad in reached)])
            total += float(held.detach())
            if math.isfinite(total):
                return total
            optimizer.zero_grad(set_to_none=False)
            return _DIVERGED

        optimizer.step(loss)  # type: ignore[no-untyped-call]


def weighted_calls(model: nn.Module, example_inputs: Any, draws: Draws) -> list[tuple[str, nn.Module]]:
    """Every call of a module that has a weight of its own, by name and module, in the order in which they began."""
    calls: list[tuple[str, nn.Module]] = []

    def enter(name: str, module: nn.Module, inputs: Any) -> None:
        calls.append((name, module))

    handles = [
        module.register_forward_pre_hook(partial(enter, name))
        for name, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList | torch.jit.ScriptModule)
        and (parametrize.is_parametrized(module) or any(p.dim() > 1 for p in module.parameters(recurse=False)))
    ]
    with removing(handles):
        run(model, example_inputs, draws)
    return calls
