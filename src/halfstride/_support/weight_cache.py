"""Caches: of what follows from sizes, and of what is computed from a weight that does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, MutableMapping
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
    symbols. `forget` makes it compute all again.
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

    call.forget = remembered.cache_clear  # type: ignore[attr-defined]
    return cast(Function, call)


def forget(function: Any) -> None:
    """Drop all results of a `cached` function."""
    function.forget()


Derived = TypeVar("Derived")


def is_cacheable(weight: Tensor) -> bool:
    """Whether results computed from a weight are cached: of parameters on a CPU, in inference and without a tracer."""
    in_inference = not torch.is_grad_enabled() and not is_traced()
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and in_inference


def cache_on_weight(weight: Tensor, key: Hashable, make: Callable[[], Derived]) -> Derived:
    """The result of `make()`, which depends on the weight and the key only, cached while the weight is unchanged.

    Changes are detected by the weight's values: `weight.data.lerp_(...)`, as weights are averaged, changes neither the
    parameter object nor its version. Of a weight that `freeze` was told of, by its version only.
    """
    if not is_cacheable(weight):
        return make()
    cache = _CACHES.get(weight)
    if cache is None or not cache.matches(weight):
        cache = _CACHES[weight] = _WeightCache(weight)
    if key in cache.derived:
        known: Derived = cache.derived[key]
        return known
    version = version_of(weight)
    made = make()
    # Another thread may have changed the weight meanwhile, and changed it back.
    if version_of(weight) == version and cache.matches(weight):
        cache.derived[key] = made
    return made


def freeze(model: nn.Module) -> nn.Module:
    """Promise that a model's weights change in recorded ways only, so that inference need not look at their values.

    What halfstride computes from a weight (folded and packed kernels) is cached, and the cache is used as long as the
    weight has the same values. Comparing them reads the weight in each call, which small inputs notice. After `freeze`
    only the weight's version is compared, which `load_state_dict`, optimizers and every change in place raise; so do
    `model.to(...)` and a new `weight.data`, since the weight then lies elsewhere. Changes *through* `weight.data` or
    `weight.detach()`, such as `weight.data.mul_(2)`, go unnoticed: do not make them.

    Args:
        model: any module; its parameters of now are frozen, those that it gets later are not.

    Returns:
        The same model.

    Raises:
        TypeError: where `model` is no module.

    Example:
        >>> decoder = freeze(nn.Sequential(nn.ConvTranspose2d(8, 3, 4, 2, 1)).eval())
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, not {type(model).__name__}.")
    for parameter in model.parameters():
        _FROZEN[parameter] = None
    return model


def thaw(weights: Iterable[Tensor]) -> None:
    """Compare the values of these weights again."""
    for weight in weights:
        _FROZEN.pop(weight, None)


def is_frozen(weight: Tensor) -> bool:
    """Whether `freeze` was told of a weight."""
    return weight in _FROZEN


def frozen(model: nn.Module) -> list[Tensor]:
    """The parameters of a model that `freeze` was told of."""
    return [parameter for parameter in model.parameters() if is_frozen(parameter)]


_FEW = 2**17
"""Weights of at most this many elements are compared with a copy, which is faster there than a fingerprint."""

_WIDTHS, _CHUNK = (4093, 4091), 2**23


class _WeightCache:
    """Results computed from a weight, by key, and the values of the weight they were computed from.

    Of a small weight these are kept as a copy, of a larger one as a fingerprint: its bits are written in rows of 4093
    integers, and again in rows of 4091, and the sums of the columns are kept. A change of one value changes one sum of
    each. An exchange of two values changes them too, since two places of a chunk share a column in one width at most:
    `_CHUNK < 4093 * 4091`, both primes. It reads the weight twice, in less than half the time of a random product.
    """

    def __init__(self, weight: Tensor) -> None:
        self.derived: dict[Hashable, Any] = {}
        self.shape, self.stride, self.dtype = weight.shape, weight.stride(), weight.dtype
        self.version, self.place = version_of(weight), weight.data_ptr()
        self.fingerprint = _fingerprint(weight.detach()).clone()

    def matches(self, weight: Tensor) -> bool:
        """Whether the weight has the shape, type, strides and values that the results were computed from."""
        if weight.shape != self.shape or weight.stride() != self.stride or weight.dtype != self.dtype:
            return False
        if is_frozen(weight) and self.version is not None:
            return version_of(weight) == self.version and weight.data_ptr() == self.place
        return torch.equal(_fingerprint(weight.detach()), self.fingerprint)


_CACHES: MutableMapping[Tensor, _WeightCache] = WeakTensorKeyDictionary()
"""By parameter, for as long as the parameter lives."""

_FROZEN: MutableMapping[Tensor, None] = WeakTensorKeyDictionary()
"""The parameters that `freeze` was told of."""


def _fingerprint(weight: Tensor) -> Tensor:
    """Numbers that change with every value of a weight; the weight itself where it is small."""
    if weight.numel() <= _FEW:
        return weight
    bits = _bits(weight)
    sums = []
    for chunk in torch.split(bits, _CHUNK):
        for width in _WIDTHS:
            rows = len(chunk) // width
            # Sums that exceed 32 bits wrap around, and still differ where one value does.
            sums.append(chunk[: rows * width].view(rows, width).sum(0, dtype=torch.int32))
        sums.append(chunk[-max(_WIDTHS) :].int())  # more than what the last rows lack
    return torch.cat(sums)


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's bits as a vector of integers, in its memory format."""
    tensor = tensor.resolve_conj().resolve_neg()
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    vector = (tensor.movedim(1, -1) if last else tensor).reshape(-1)
    return vector.view({1: torch.int8, 2: torch.int16}.get(tensor.dtype.itemsize, torch.int32))
