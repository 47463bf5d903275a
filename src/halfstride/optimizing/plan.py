"""Which upsampling is computed in another way: decided once, by `optimize`, and looked up at every call."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Origin", "Plan", "Site", "shown", "times"]


class Origin(NamedTuple):
    """A kind of upsampling call: those of one kind are put off together, or not."""

    scale: tuple[int, ...]
    channels: int


class Site(NamedTuple):
    """A call that could be computed in another way."""

    key: Hashable
    """All that speed depends on, but for the batch and the image size: sites with the same key share decisions."""
    positions: int
    """The size: batch times positions of the low-resolution image."""
    was: str
    became: str
    tensors: tuple[Tensor, ...]
    """Input and weights: what gradients flow to."""
    gradients: bool
    """Whether they do."""
    origins: tuple[Hashable, ...]
    reference: Callable[[], Tensor]
    """The original computation."""
    algorithms: tuple[str, ...]
    compute: Callable[[str], Tensor]
    """The same by one of the algorithms."""
    default: str | None
    """The algorithm where nothing is known about the key; None: the original."""
    bytes_saved: int
    """Size of the tensors that need not be written any more."""


@dataclass
class Plan:
    """Which rewritings pay."""

    algorithms: dict[tuple[Hashable, bool], dict[int, str | None]] = field(default_factory=dict)
    """By key of the site and whether gradients are wanted, then by size; None: the original is fastest."""
    origins: set[Hashable] = field(default_factory=set)
    signals: bool = False
    """Whether the convolutions of signals keep channels together."""
    hands_out: bool = False
    """Whether, with gradients, an upsampled tensor was handed out that something was made of: but of the small one, or
    of another in its place, so that there is no gradient to it."""

    def wants_signals(self) -> bool:
        return self.signals

    def wants(self, origin: Origin) -> Hashable | None:
        """What to remember of an upsampling call that is worth putting off; None for the others."""
        if self.hands_out and torch.is_grad_enabled():
            return None
        return origin if origin in self.origins else None

    def choose(self, site: Site) -> str | None:
        """The algorithm for a site, of the most similar size that was tried; None for the original."""
        tried = self.algorithms.get((site.key, site.gradients))
        if not tried:
            return site.default
        if site.positions in tried:
            return tried[site.positions]
        return tried[min(tried, key=lambda positions: abs(math.log(positions / max(site.positions, 1))))]

    def forget(self, gradients: bool) -> None:
        """Leave everything as it was, with or without gradients."""
        for (_, wanted), tried in self.algorithms.items():
            if wanted == gradients:
                tried.update(dict.fromkeys(tried))

    def note(self, was: str, reason: str) -> None:
        """Told of upsampling that is left as it was."""


def shown(value: Any) -> str:
    """Sizes as people write them: 3 for (3, 3), else 3×5."""
    if not isinstance(value, Sequence):
        return str(value)
    each = list(map(str, value))  # of sizes that are symbols too
    return each[0] if len(set(each)) == 1 else "×".join(each)


def times(scale: Sequence[int]) -> str:
    return f"×{scale[0]}" if len(set(scale)) == 1 else f"×({', '.join(map(str, scale))})"
