"""What is worth remembering: what follows from sizes, and what is made of a weight that does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["cached", "is_captured", "is_traced", "kept", "lasts"]

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

_KEPT: MutableMapping[Tensor, tuple[Tensor, dict[Hashable, Any]]] = WeakTensorKeyDictionary()
"""Of each parameter, as long as it lives: what it was told by at the time, and what was made of it, by key."""


def lasts(weight: Tensor) -> bool:
    """Whether what is made of a weight may serve again: it is a parameter in inference on a CPU, and nobody traces."""
    in_inference = not torch.is_grad_enabled() and not is_traced()
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and in_inference


def is_traced() -> bool:
    """Whether somebody reads along who makes a program of what is done, or counts it."""
    return is_captured() or is_in_torch_dispatch_mode()


def is_captured() -> bool:
    """Whether a program is made of what is done, by a compiler, an exporter or `torch.jit.trace`."""
    return is_compiling() or torch._C._get_tracing_state() is not None


def kept(weight: Tensor, key: Hashable, make: Callable[[], Derived]) -> Derived:
    """What `make()` makes of a weight, kept from call to call where the weight `lasts`.

    Whether it has changed is told by its numbers: a parameter can change in ways that leave no other trace, as
    `weight.data.lerp_(...)` does when weights are averaged.
    """
    if not lasts(weight):
        return make()
    told = _told_by(weight)
    before, derived = _KEPT.get(weight, (None, {}))
    if before is None or before.shape != told.shape or before.dtype != told.dtype or not torch.equal(before, told):
        derived = {}
        _KEPT[weight] = told.clone(), derived
    if key not in derived:
        derived[key] = make()
    result: Derived = derived[key]
    return result


_FEW = 2**15
"""Numbers up to which a copy of a weight is compared faster."""


def _told_by(weight: Tensor) -> Tensor:
    """Numbers by which a weight is told from what it was: of many in float32 the sum of all rows, each times a random
    number.

    Reading the weight once on all cores takes a tenth of the time that comparing it with a copy takes. A change that is
    lost in the rounding of such a sum is smaller than the rounding errors of any layer.
    """
    weight = weight.detach()
    if weight.dtype != torch.float32 or weight.numel() <= _FEW:
        return weight
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    rows = (weight.movedim(1, -1) if last else weight).flatten(1)
    return _vector(rows.shape[0]) @ rows


@lru_cache(maxsize=256)
def _vector(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))
