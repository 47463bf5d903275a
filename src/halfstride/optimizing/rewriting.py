"""Upsampling put off until a convolution asks for it: the mode under which a model's own code runs.

While `Rewriting` is active every call of a torch function comes here first. A nearest-neighbour upsampling gives a lazy
tensor; what acts on each position alone (activations, casts, 1×1 convolutions, normalisation in evaluation) acts on the
small tensor; a concatenation is remembered by its parts. A convolution of stride 1 then becomes a resize-convolution,
its kernel split by input channels where there are parts, and a transposed convolution takes a faster algorithm. A
convolution of a signal gives a lazy tensor too, whose channels lie together for the next one (`signals`).
Whatever no rule understands is left to torch, which finds an ordinary tensor. Which rewriting pays is for the `Plan`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from halfstride._support.torch_private import (
    function_modes,
    has_saved_tensor_hooks,
    is_transformed,
    tree_leaves,
    tree_map,
)
from halfstride.optimizing.lazy import LazyTensor, Recipe, is_ordinary, lazy, plain
from halfstride.optimizing.plan import Plan, Site
from halfstride.optimizing.rules import RULES

__all__ = ["Rewriting", "fields_of", "is_active"]


class Rewriting(TorchFunctionMode):
    """The mode. One for each forward pass."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = NotImplemented if _is_recorded() or is_transformed() else self.by_rule(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result

    def by_rule(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """What a rule makes of a call; `NotImplemented` where none understands it."""
        rule = RULES.get(func)
        return NotImplemented if rule is None else rule(self, func, *args, **kwargs)

    def finish(self, output: Any) -> Any:
        """The output, after the mode has been left, with nothing lazy in it."""
        known: dict[int, Tensor] = {}

        def finished(leaf: Any) -> Any:
            if type(leaf) is LazyTensor:
                if torch.is_grad_enabled() and (leaf.recipe.used or leaf.recipe.made is not None):
                    self.plan.hands_out = True
                return known.setdefault(id(leaf), plain(leaf))
            for name, value in fields_of(leaf).items():
                if any(type(part) is LazyTensor or fields_of(part) for part in tree_leaves(value)):
                    object.__setattr__(leaf, name, tree_map(finished, value))
            return leaf

        return tree_map(finished, output)

    def lazy(self, recipe: Recipe) -> Any:
        if not all(is_ordinary(piece) for piece in recipe.pieces):
            return NotImplemented
        return lazy(recipe)

    def run(self, site: Site) -> Any:
        """The result of a site by the algorithm that is planned for it."""
        algorithm = self.plan.choose(site)
        if algorithm is None:
            return NotImplemented
        try:
            return site.compute(algorithm)
        except ValueError:  # a size that this algorithm can't do, or an error that the original words in its own way
            return NotImplemented


def fields_of(leaf: Any) -> dict[str, Any]:
    """What a dataclass holds that torch's trees take for a leaf."""
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return {}
    return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf) if hasattr(leaf, field.name)}


def is_active(plan: Plan) -> bool:
    """Whether a module around this one is being rewritten by the same plan."""
    return any(isinstance(mode, Rewriting) and mode.plan is plan for mode in function_modes())


def _is_recorded() -> bool:
    """Whether somebody keeps account of what is saved for the backward pass, as gradient checkpointing does.

    What it computes again, later and without us, must be the same operators.
    """
    return torch.is_grad_enabled() and has_saved_tensor_hooks()
