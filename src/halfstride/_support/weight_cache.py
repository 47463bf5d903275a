"""Caches: of what follows from sizes, and of what is computed from a weight that does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from halfstride._support.torch_private import is_captured, is_traced, version_of

Function = TypeVar("Function", bound=Callable[..., Any])


def cached(function: Function) -> Function:
    """Cache the results of a function by its arguments.

    Unhashable arguments, such as lists, are computed every time; so is everything under a tracer, whose sizes may be
    symbols.
    """
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


def is_cacheable(weight: Tensor) -> bool:
    """Whether results computed from a weight are cached: of parameters on a CPU, in inference and without a tracer."""
    in_inference = not torch.is_grad_enabled() and not is_traced()
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and in_inference


def cache_on_weight(weight: Tensor, key: Hashable, make: Callable[[], Derived]) -> Derived:
    """The result of `make()`, which depends on the weight and the key only, cached while the weight is unchanged.

    Changes are detected by the weight's values: `weight.data.lerp_(...)`, as weights are averaged, changes neither the
    parameter object nor its version.
    """
    if not is_cacheable(weight):
        return make()
    cache = _CACHES.get(weight)
    if cache is None or not cache.matches(weight.detach()):
        cache = _CACHES[weight] = _WeightCache(weight.detach())
    if key in cache.derived:
        known: Derived = cache.derived[key]
        return known
    version = version_of(weight)
    made = make()
    # Another thread may have changed the weight meanwhile, and changed it back.
    if version_of(weight) == version and cache.matches(weight.detach()):
        cache.derived[key] = made
    return made


_FEW = 2**15
"""Weights of at most this many elements are compared with a copy, which is faster there than a fingerprint."""


class _WeightCache:
    """Results computed from a weight, by key, and the fingerprint of the weight they were computed from.

    The fingerprint of a large float32 weight is the sum of its rows, each multiplied by a random number over the row's
    largest magnitude, so that rows of small values count as much as others. It reads the weight once, in a tenth of
    the time of a comparison with a copy. Changes below the rounding error of that sum are not seen; they are smaller
    than the rounding error of the layer's output.
    """

    def __init__(self, weight: Tensor) -> None:
        self.derived: dict[Hashable, Any] = {}
        self.shape, self.dtype = weight.shape, weight.dtype
        self.factors: Tensor | None = None
        if weight.dtype == torch.float32 and weight.numel() > _FEW:
            largest = _rows(weight).abs().amax(1).clamp_min(1e-30)  # a row of zeros has the largest factor
            self.factors = _random(len(largest)) / largest
        self.fingerprint = self.compute_fingerprint(weight).clone()

    def matches(self, weight: Tensor) -> bool:
        """Whether the weight has the shape, type and values that the results were computed from."""
        if weight.shape != self.shape or weight.dtype != self.dtype:
            return False
        return torch.equal(self.compute_fingerprint(weight), self.fingerprint)

    def compute_fingerprint(self, weight: Tensor) -> Tensor:
        return weight if self.factors is None else self.factors @ _rows(weight)


_CACHES: MutableMapping[Tensor, _WeightCache] = WeakTensorKeyDictionary()
"""By parameter, for as long as the parameter lives."""


def _rows(weight: Tensor) -> Tensor:
    """A weight as a matrix, in its memory format."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return (weight.movedim(1, -1) if last else weight).flatten(1)


@lru_cache(maxsize=256)
def _random(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))
