"""The model that is optimised, on its example inputs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halfstride._support.torch_private import tree_leaves, tree_map
from halfstride.optimizing import measuring
from halfstride.optimizing.forwards import is_watched
from halfstride.optimizing.rewriting import fields_of

__all__ = ["Run"]


class Run:
    """The model on its example inputs, forwards, or forwards and backwards."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model = model
        self.args, self.kwargs = _arguments(example_inputs)
        tensors = self.tensors = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        parameters = list(model.parameters())
        self.wanted = [tensor for tensor in (*parameters, *tensors) if tensor.requires_grad]
        self.device = next((tensor.device for tensor in (*parameters, *tensors)), torch.device("cpu"))
        self.gradients = torch.is_grad_enabled() and bool(self.wanted) and not is_watched(model)

    def gives_tensors(self) -> bool:
        """Whether the output has tensors that can be found and compared; `ValueError` where the model raises."""
        try:
            output, _ = self(False)
        except Exception as error:
            raise ValueError(
                f"`model` ({type(self.model).__name__}) raises {type(error).__name__} on the example inputs "
                f"{_described(self.args, self.kwargs)}: {error}"
            ) from error
        return any(isinstance(leaf, Tensor) for leaf in tree_leaves(output))

    def __call__(self, gradients: bool) -> tuple[Any, tuple[Tensor | None, ...]]:
        """The output, and where they are asked for the gradients of a random sum of it."""
        for seed in (torch.manual_seed, random.seed, np.random.seed):  # each run draws what the others draw
            seed(0)
        if not gradients:
            with torch.no_grad():
                return _opened(self.model(*self.args, **self.kwargs)), ()
        output = _opened(self.model(*self.args, **self.kwargs))
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        cotangents = [torch.randn(leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in leaves]
        return output, torch.autograd.grad(leaves, self.wanted, cotangents, allow_unused=True) if leaves else ()

    def differences(self, actual: Any, expected: Any) -> tuple[float, float]:
        """Of the outputs, and of the gradients: these measured by the largest of all, because that of a bias in front
        of a normalisation is nothing but rounding.
        """
        outputs, gradients = measuring.difference(actual[0], expected[0]), (actual[1], expected[1])
        return outputs, measuring.difference(*gradients, each=False, strides=False)

    def tolerance(self, outcome: Any) -> float:
        return max(
            measuring.TOLERANCE.get(leaf.dtype, 0.0) for leaf in tree_leaves(outcome) if isinstance(leaf, Tensor)
        )


def _opened(output: Any) -> Any:
    """The output, with dicts in the place of dataclasses that torch's trees do not know."""
    return tree_map(lambda leaf: {name: _opened(value) for name, value in fields_of(leaf).items()} or leaf, output)


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}


def _described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [*(("", value) for value in args), *((f"{name}=", value) for name, value in kwargs.items())]
    return (
        "("
        + ", ".join(
            f"{name}{'×'.join(map(str, value.shape)) or 'a number'}"
            if isinstance(value, Tensor)
            else f"{name}{value!r}"
            for name, value in named
        )
        + ")"
    )
