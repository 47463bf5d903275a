"""Say which calls of a model are computed in another way."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from halfstride.optimizing.lazy import Recipe, is_ordinary, lazy


class Origin(NamedTuple):
    """A kind of upsampling: either all of one kind are deferred, or none."""

    scale: tuple[int, ...]
    channels: int


class Call(NamedTuple):
    """A convolution that could be computed in another way."""

    was: str
    became: str
    algorithms: tuple[str, ...]
    """What the planner chose, for each part of the input; empty where torch's own operator is predicted to be the
    fastest."""
    gradients: bool
    """Whether gradients are wanted."""
    origins: tuple[Hashable, ...]
    """The upsamplings of its input."""
    bytes_saved: int
    """Size of the tensors that need not be written."""


@dataclass
class Rewrites:
    """The calls that are rewritten: here those that `optimize` has kept."""

    origins: set[Hashable] = field(default_factory=set)
    """The upsamplings that are deferred."""
    modes: set[bool] = field(default_factory=set)
    """Whether without (False) and with gradients (True)."""
    leaks_upsampled: bool = False
    """Whether, with gradients recorded, a model returned an upsampled tensor from which it also computed something.
    There is no gradient to that tensor, because the computation went on from the small one."""

    def defer(self, origin: Origin) -> Hashable | None:
        """What to remember of an upsampling that is deferred; None where it is to be computed at once."""
        if self.leaks_upsampled and torch.is_grad_enabled():
            return None
        return origin if origin in self.origins else None

    def accepts(self, call: Call) -> bool:
        return bool(call.algorithms) and call.gradients in self.modes

    def note(self, was: str, reason: str) -> None:
        """Called for an upsampling that cannot be rewritten."""

    def note_attention(self) -> None:
        """Called where multi-head attention is computed."""

    def lazy(self, recipe: Recipe) -> Any:
        """The tensor of a recipe; `NotImplemented` where it cannot be deferred."""
        return lazy(recipe) if all(map(is_ordinary, recipe.pieces)) else NotImplemented


def size_text(value: Any) -> str:
    """Write sizes as people do: 3 for (3, 3), else 3×5."""
    if not isinstance(value, Sequence):
        return str(value)
    each = list(map(str, value))  # sizes may be symbols
    return each[0] if len(set(each)) == 1 else "×".join(each)


def scale_text(scale: Sequence[int]) -> str:
    return f"×{scale[0]}" if len(set(scale)) == 1 else f"×({', '.join(map(str, scale))})"
