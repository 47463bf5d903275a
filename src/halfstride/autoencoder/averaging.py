"""An exponential moving average of a model's weights, which often reconstructs better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The exponential moving average of a model's parameters over the optimiser's steps.

    After step `t` (from 1) the average moves by `1 - min(decay, t / (t + 9))` towards the weights, so that the initial
    weights are soon forgotten: a short run's average is over about the last tenth of its steps, a long run's over
    about the last `1 / (1 - decay)` steps. Buffers are copied, not averaged.

    Args:
        model: the model to follow, on its device; only `applied` changes its parameters.
        decay: the highest share of the old average that a step keeps, from 0 to below 1.

    Raises:
        ValueError: where `decay` is out of range.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> average = WeightAverage(model)
        >>> average.update()  # after each step of the optimiser
        >>> with average.applied():
        ...     output = model(torch.zeros(1, 3))  # of the averaged weights
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` (={decay}) must be at least 0 and below 1.")
        self.decay = decay
        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=self._move)
        self._average.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The averaged copy, to be read only."""
        return self._average.module

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average: call it after each step of the optimiser."""
        self._average.update_parameters(self._model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights inside the block; afterwards it has its own again, to the bit.

        Tensors stay where they are and exchange their numbers, so optimisers, compiled models and wrappers that hold
        them see them too. Do not train inside the block.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """The averaged tensors and the number of steps, for a checkpoint from which the average goes on exactly."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._average.load_state_dict(state)

    @torch.no_grad()
    def _exchange(self) -> None:
        averaged = [*self.model.parameters(), *self.model.buffers()]
        for mine, other in zip([*self._model.parameters(), *self._model.buffers()], averaged, strict=True):
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)

    def _move(self, averages: PARAM_LIST, weights: PARAM_LIST, _: Tensor | int) -> None:
        # Torch copies in the first step; here the count is of the steps before this one, 1 or more. It is read from
        # the CPU: the argument lies on the weights' device, and reading it would make a GPU wait.
        steps = int(self._average.n_averaged)
        move = get_ema_multi_avg_fn(min(self.decay, (steps + 1) / (steps + 10)))  # type: ignore[no-untyped-call]
        move(averages, weights, steps)
