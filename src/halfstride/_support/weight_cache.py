"""What is worth remembering: what follows from sizes, and what is made of a weight that does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from halfstride._support.torch_private import is_captured, is_traced, version_of

__all__ = ["cached", "kept", "lasts"]

Function = TypeVar("Function", bound=Callable[..., Any])


def cached(function: Function) -> Function:
    """Remember what a function made of its arguments, except of those that cannot be, such as lists, and where somebody
    traces, for whom sizes may be symbols."""
    remembered = lru_cache(maxsize=4096, typed=True)(function)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if is_captured():
            return function(*arguments, **options)
        try:
            return remembered(*arguments, **options)
        except TypeError:
            return function(*arguments, **options)

    return cast(Function, call)


Derived = TypeVar("Derived")


def lasts(weight: Tensor) -> bool:
    """Whether what is made of a weight may serve again: it is a parameter in inference on a CPU, and nobody traces."""
    in_inference = not torch.is_grad_enabled() and not is_traced()
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and in_inference


def kept(weight: Tensor, key: Hashable, make: Callable[[], Derived]) -> Derived:
    """What `make()` makes of a weight, kept from call to call where the weight `lasts`.

    Whether it has changed is told by its numbers: a parameter can change in ways that leave no other trace, as
    `weight.data.lerp_(...)` does when weights are averaged.
    """
    if not lasts(weight):
        return make()
    keepsake = _KEPT.get(weight)
    if keepsake is None or not keepsake.is_of(weight.detach()):
        keepsake = _KEPT[weight] = _Keepsake(weight.detach())
    if key in keepsake.derived:
        known: Derived = keepsake.derived[key]
        return known
    version = version_of(weight)
    made = make()
    # Another thread may have changed the weight meanwhile, and back.
    if version_of(weight) == version and keepsake.is_of(weight.detach()):
        keepsake.derived[key] = made
    return made


_FEW = 2**15
"""Numbers up to which a copy of a weight is compared faster."""


class _Keepsake:
    """What was made of a weight, by key, and by what the weight is told.

    Of many numbers in float32 that is the sum of all rows, each times a random number over its largest, so that none
    is lost beside greater ones. Reading a weight once on all cores takes a tenth of the time that comparing it with a
    copy takes. A change that is lost in the rounding of such a sum is smaller than the rounding errors of any layer.
    """

    def __init__(self, weight: Tensor) -> None:
        self.derived: dict[Hashable, Any] = {}
        self.shape, self.dtype = weight.shape, weight.dtype
        self.factors: Tensor | None = None
        if weight.dtype == torch.float32 and weight.numel() > _FEW:
            largest = _rows(weight).abs().amax(1).clamp_min(1e-30)  # of a row of zeros any change is seen
            self.factors = _random(len(largest)) / largest
        self.told = self.tell(weight).clone()

    def is_of(self, weight: Tensor) -> bool:
        """Whether a weight is the one that this was made of."""
        if weight.shape != self.shape or weight.dtype != self.dtype:
            return False
        return torch.equal(self.tell(weight), self.told)

    def tell(self, weight: Tensor) -> Tensor:
        return weight if self.factors is None else self.factors @ _rows(weight)


_KEPT: MutableMapping[Tensor, _Keepsake] = WeakTensorKeyDictionary()
"""Of each parameter, as long as it lives."""


def _rows(weight: Tensor) -> Tensor:
    """A weight as a matrix, in the order in which it lies in memory."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return (weight.movedim(1, -1) if last else weight).flatten(1)


@lru_cache(maxsize=256)
def _random(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))
