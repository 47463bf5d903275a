# mypy: disable-error-code="no-untyped-call"
"""A tensor whose upsampling is deferred until its values are needed.

`LazyTensor` is a `torch.Tensor` without memory of its own. Shape, type, device and strides are those of the tensor that
it stands for; an operator that needs the values gets them, made once. Autograd sees an ordinary tensor with an ordinary
history. So a model's own code computes what it always did, and the rules of this package can use the recipe instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride._core.algorithms.nearest import repeated
from halfstride._support.torch_private import (
    disable_torch_dispatch,
    disable_torch_function,
    disable_torch_function_subclass,
    forbid_memory_access,
    is_functional,
    make_wrapper,
    tree_map_only,
)


@dataclass(eq=False)
class Recipe:
    """What a tensor is made of: pieces, repeated along their dimensions, joined along one of them, then padded.

    The pieces are copies, which only recipes share and nothing changes: a change in place of the tensors that they were
    copied from does not reach them.
    """

    pieces: tuple[Tensor, ...]
    scales: tuple[tuple[int, ...], ...]
    """For each piece, how often each position is repeated along each of its dimensions; all 1: the piece as it is."""
    axis: int = 1
    """The dimension along which the pieces are joined."""
    padding: tuple[int, ...] = ()
    """As `F.pad` takes it."""
    padding_mode: str = "constant"
    origins: tuple[Hashable, ...] = ()
    """The upsampling calls that it comes from."""
    used: bool = False
    """Whether a convolution has used the pieces."""
    made: Tensor | None = field(default=None, init=False)
    """The tensor itself, once its values were needed. From then on it may be changed, and the pieces are dropped."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        shapes = [
            [n * s for n, s in zip(piece.shape, scale, strict=True)]
            for piece, scale in zip(self.pieces, self.scales, strict=True)
        ]
        shape = shapes[0]
        shape[self.axis] = sum(other[self.axis] for other in shapes)
        for at, sides in enumerate(zip(self.padding[::2], self.padding[1::2], strict=True), start=1):
            shape[-at] += sum(sides)
        return tuple(shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """As torch's own operators lay their result out: channels last where all pieces are, else contiguous."""
        shape = self.shape
        order = list(range(len(shape)))
        if all(suggests_channels_last(piece) for piece in self.pieces):
            order = [0, *order[2:], 1]
        strides = [0] * len(shape)
        for at, axis in enumerate(order):
            strides[axis] = math.prod(max(shape[other], 1) for other in order[at + 1 :])
        return tuple(strides)

    def build(self, *pieces: Tensor) -> Tensor:
        """The tensor from its pieces, by torch's own operators; autograd passes through."""
        parts = [repeated(piece, scale) for piece, scale in zip(pieces, self.scales, strict=True)]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)
        return F.pad(joined, list(self.padding), self.padding_mode) if self.padding else joined

    def make(self) -> Tensor:
        """The values, as an ordinary tensor without history: the same one at every call."""
        if self.made is None:
            device = self.pieces[0].device.type
            with torch.no_grad(), disable_torch_function(), torch.autocast(device, enabled=False):
                made = self.build(*self.pieces)
                if made is self.pieces[0]:
                    made = made.clone()
                if made.stride() != self.strides:
                    made = torch.empty_strided(self.shape, self.strides, dtype=made.dtype, device=made.device).copy_(
                        made
                    )
            self.made, self.pieces = made, ()
        return self.made


def suggests_channels_last(tensor: Tensor) -> bool:
    """Whether torch's `suggest_memory_format` says channels last of a tensor: by its strides, dense or not."""
    if tensor.dim() not in (4, 5):
        return False
    least = 0
    for axis in (1, *range(tensor.dim() - 1, 1, -1), 0):
        n, stride = tensor.shape[axis], tensor.stride(axis)
        if n == 0 or stride == 0 or stride < least or (axis == 0 and least == tensor.stride(1)):
            return False
        least = stride * n
    return True


def is_ordinary(tensor: Any) -> bool:
    """Whether it is a tensor that our operators know: no subclass, dense, real, with values."""
    if not (type(tensor) in (Tensor, nn.Parameter) or is_functional(tensor)) or tensor.is_meta:
        return False
    return tensor.layout is torch.strided and tensor.is_floating_point()


# The tensor -----------------------------------------------------------------------------------------------------------


class LazyTensor(Tensor):
    """A tensor with a recipe in place of memory. Made by `lazy`."""

    recipe: Recipe
    history: Any

    @staticmethod
    def __new__(cls, recipe: Recipe) -> LazyTensor:
        tensor: LazyTensor = make_wrapper(cls, recipe.shape, recipe.strides, like=recipe.pieces[0])
        forbid_memory_access(tensor)  # a way past all operators raises
        tensor.recipe, tensor.history = recipe, None
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _SET_MEMORY:  # `tensor.data = value`
            tensor, value = args[0], args[1].detach()
            with disable_torch_function_subclass():
                _SET_MEMORY(tensor, LazyTensor(Recipe((value,), ((1,) * value.dim(),))))  # shape and type
            tensor.recipe.made, tensor.recipe.pieces = value, ()
            return None
        if func in _READ_MEMORY:
            args, kwargs = tree_map_only(LazyTensor, plain, (args, kwargs))
        with disable_torch_function_subclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # which the base declares as a static method
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made: dict[int, LazyTensor] = {}

        def values(tensor: LazyTensor) -> Tensor:
            made[id(tensor.recipe.make())] = tensor
            return tensor.recipe.make()

        real_args, real_kwargs = tree_map_only(LazyTensor, values, (args, kwargs or {}))
        result = func(*real_args, **real_kwargs)
        if torch.Tag.inplace_view in func.tags and type(args[0]) is LazyTensor:
            with disable_torch_dispatch():  # unsqueeze_ and its like: what changes is the shape that we show
                func(args[0], *real_args[1:], **real_kwargs)
        # An operator that works in place returns what it was given.
        return tree_map_only(Tensor, lambda tensor: made.get(id(tensor), tensor), result)


_SET_MEMORY = Tensor.data.__set__  # type: ignore[attr-defined]
# fmt: off
_READ_MEMORY = {
    *(getattr(Tensor, name) for name in (
        "__array__", "__deepcopy__", "__dlpack__", "__reduce_ex__", "__repr__", "apply_", "data_ptr", "map_", "numpy",
        "share_memory_", "storage", "tolist", "untyped_storage",
    )),
    Tensor.data.__get__,  # type: ignore[attr-defined]
}
# fmt: on
"""What reads the memory directly, past all operators."""


def lazy(recipe: Recipe) -> Tensor:
    """The tensor of a recipe, with the history that it would have had."""
    if not torch.is_grad_enabled():
        recipe.pieces = tuple(piece.detach() for piece in recipe.pieces)
    if not any(piece.requires_grad for piece in recipe.pieces):
        return LazyTensor(recipe)
    tensor: LazyTensor = _Made.apply(recipe, *recipe.pieces)
    with disable_torch_function_subclass():
        tensor.history = tensor.grad_fn
    return tensor


class _Made(torch.autograd.Function):
    """A lazy tensor from its pieces. It is linear in them, so the gradient needs their shapes alone."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, *pieces: Tensor) -> Tensor:
        ctx.recipe = replace(recipe, pieces=())
        ctx.shapes = [piece.shape for piece in pieces]
        return LazyTensor(recipe)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            pieces = [gradient.new_zeros(shape).requires_grad_() for shape in ctx.shapes]
            made = ctx.recipe.build(*pieces)
        return None, *torch.autograd.grad(made, pieces, gradient, create_graph=gradient.requires_grad)


def recipe_of(tensor: Any) -> Recipe | None:
    """The recipe of a lazy tensor that was not made or changed yet; None for all others."""
    if type(tensor) is not LazyTensor or tensor.recipe.made is not None:
        return None
    # A tensor that an autograd.Function returned, or that requires_grad_ was called on, has another history than its
    # pieces: gradients must pass through the tensor itself.
    with disable_torch_function_subclass():
        same = tensor.grad_fn is tensor.history and tensor.requires_grad == (tensor.history is not None)
    return tensor.recipe if same else None


def plain(tensor: LazyTensor) -> Tensor:
    """An ordinary tensor in the place of a lazy one: the same memory, the same history."""
    result: Tensor = _Plain.apply(tensor)
    return result


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: LazyTensor) -> Tensor:
        made = tensor.recipe.make()
        # A view would keep its base and forbid changes in place; another tensor over the same memory doesn't.
        return made.new_empty(0).set_(made.untyped_storage(), made.storage_offset(), made.shape, made.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient
