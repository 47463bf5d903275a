"""What is worth remembering: what follows from sizes, and what is made of a weight that does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["cached", "kept", "lasts"]

Function = TypeVar("Function", bound=Callable[..., Any])


def cached(function: Function) -> Function:
    """Remember what a function made of its cases, except under torch.compile, where sizes may be symbols."""
    remembered = lru_cache(maxsize=4096)(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments) if torch.compiler.is_compiling() else remembered(*arguments)

    return cast(Function, call)


Derived = TypeVar("Derived")

_KEPT: MutableMapping[Tensor, tuple[Tensor, dict[Hashable, Any]]] = WeakTensorKeyDictionary()
"""Of each parameter, as long as it lives: its numbers at the time, and what was made of them, by key."""


def lasts(weight: Tensor) -> bool:
    """Whether what is made of a weight may serve again: it is a parameter in inference on a CPU, and nobody traces."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or is_in_torch_dispatch_mode()
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and not torch.is_grad_enabled() and not traced


def kept(weight: Tensor, key: Hashable, make: Callable[[], Derived]) -> Derived:
    """What `make()` makes of a weight, kept from call to call where the weight `lasts`.

    Whether it has changed is told by its numbers, compared with a copy: a parameter can change in ways that leave no
    other trace, as `weight.data.lerp_(...)` does when weights are averaged. Comparing costs a fraction of what folding
    does.
    """
    if not lasts(weight):
        return make()
    numbers, derived = _KEPT.get(weight, (None, {}))
    if numbers is None or numbers.dtype != weight.dtype or not torch.equal(numbers, weight):
        derived = {}
        _KEPT[weight] = weight.detach().clone(), derived
    if key not in derived:
        derived[key] = make()
    result: Derived = derived[key]
    return result
