"""The random numbers that a user's model draws while it is measured."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Draws:
    """The same random numbers in every run of a model, and none of them used up.

    Generators are process-wide: while a model draws nothing, those of other threads are left alone.

    Args:
        tensors: the model's parameters and inputs, which say on which GPUs it draws.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        devices = {tensor.device for tensor in tensors if isinstance(tensor, Tensor)}
        self._gpus = [device for device in devices if device.type == "cuda"]
        self._first: tuple[Any, ...] | None = None
        self._is_known = False

    @property
    def drawn(self) -> bool:
        """Whether the first run drew any."""
        return self._first is not None

    @contextlib.contextmanager
    def same(self) -> Iterator[None]:
        """Run the model inside: it draws what it drew in the first run, and what was there before comes back."""
        if self._is_known and self._first is None:
            yield
            return
        before = self._state()
        if self._first is not None:
            self._restore(self._first)
        try:
            yield
        finally:
            if not self._is_known and self._state() != before:
                self._first = before
            self._is_known = True
            if self._first is not None:
                self._restore(before)

    def _state(self) -> tuple[Any, ...]:
        """The state of all generators that a model is likely to draw from, in a form that can be compared."""
        name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # which models use
        on_gpu = [torch.cuda.get_rng_state(device) for device in self._gpus]
        states = [tuple(state.tolist()) for state in (torch.get_rng_state(), *on_gpu)]
        return random.getstate(), (name, tuple(np.asarray(keys).tolist()), *rest), *states

    def _restore(self, state: tuple[Any, ...]) -> None:
        of_python, of_numpy, *states = state
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        on_cpu, *on_gpu = (torch.tensor(each, dtype=torch.uint8) for each in states)
        torch.set_rng_state(on_cpu)
        for device, each in zip(self._gpus, on_gpu, strict=True):
            torch.cuda.set_rng_state(each, device)
