"""What becomes of the calls of torch functions that upsample, or that are given a lazy tensor.

A rule gets `Rewrites`, the function and its arguments, and returns the result, or `NotImplemented` where it does not
understand the call: torch then computes it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._core.algorithms.nearest import why_inexact
from halfstride._support.torch_private import builtin_pad
from halfstride.optimizing.convolutions import PADDING_MODES, conv, conv_transpose
from halfstride.optimizing.lazy import LazyTensor, Recipe, plain, recipe_of, suggests_channels_last
from halfstride.optimizing.rewrites import Origin, Rewrites, scale_text, size_text


class UsedBefore(RuntimeError):  # noqa: N818
    """A gradient was asked for that an optimised model cannot give."""


# Upsampling -----------------------------------------------------------------------------------------------------------


def _interpolate(
    rewrites: Rewrites,
    func: Any,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if not isinstance(input, Tensor) or align_corners is not None or antialias:
        return NotImplemented
    scale = _integer_scale(tuple(input.shape[2:]), size, scale_factor)
    given = f"×{size_text(scale_factor)}" if size is None else f"to {size_text(size)}"
    was = f"{mode} {scale_text(scale) if scale else given}"
    if mode not in ("nearest", "nearest-exact"):
        rewrites.note(was, "not nearest-neighbour")
    elif scale is None:
        rewrites.note(was, "no integer scale")
    elif why := why_inexact(mode, input.shape[2:], scale):
        rewrites.note(was, why)
    else:
        return _repeat(rewrites, input, (1, 1, *scale))
    return NotImplemented


def _integer_scale(input_size: tuple[int, ...], size: Any, scale_factor: Any) -> tuple[int, ...] | None:
    if (size is None) == (scale_factor is None) or not 1 <= len(input_size) <= 3:
        return None
    given = size if scale_factor is None else scale_factor
    per_axis = tuple(given) if isinstance(given, Sequence) else (given,) * len(input_size)
    if len(per_axis) != len(input_size):
        return None
    if scale_factor is None:
        per_axis = tuple(_quotient(value, n) for value, n in zip(per_axis, input_size, strict=True))
    if not all(isinstance(value, int | float) for value in per_axis):
        return None
    return tuple(int(s) for s in per_axis) if all(s >= 1 and s % 1 == 0 for s in per_axis) else None


def _quotient(size: Any, n: Any) -> int:
    """How many times n a size is; 0 where it is no multiple, or not known to be one while sizes are symbols."""
    if isinstance(size, int) and isinstance(n, int):
        return size // n if n and size % n == 0 else 0
    if not all(isinstance(value, int | torch.SymInt) for value in (size, n)):
        return 0

    def known(value: int | torch.SymInt) -> int | None:
        return value if isinstance(value, int) else value.node.maybe_as_int()

    times_n = known(size // n)
    return times_n if times_n is not None and known(size - times_n * n) == 0 else 0


def _repeat_interleave(
    rewrites: Rewrites, func: Any, input: Tensor, repeats: Any = None, dim: Any = None, *, output_size: Any = None
) -> Any:
    if not (type(repeats) is int and type(dim) is int and isinstance(input, Tensor) and repeats > 0):
        return NotImplemented
    if not (-input.dim() <= dim < input.dim() and output_size in (None, input.shape[dim] * repeats)):
        return NotImplemented
    scale = tuple(repeats if axis == dim % input.dim() else 1 for axis in range(input.dim()))
    return _repeat(rewrites, input, scale, torch.contiguous_format)


def _repeat(
    rewrites: Rewrites, input: Tensor, scale: tuple[int, ...], order: torch.memory_format = torch.preserve_format
) -> Any:
    """An upsampling, with the order in memory that torch's own has: the input's, or always contiguous."""
    if all(s == 1 for s in scale) or input.numel() == 0 or input.dim() < 2:
        return NotImplemented
    origin = rewrites.defer(Origin(tuple(s for s in scale if s > 1), input.shape[1]))
    if origin is None:
        return NotImplemented
    recipe = recipe_of(input) or Recipe((input.clone(memory_format=order),), ((1,) * input.dim(),))
    if recipe.padding:
        return NotImplemented
    if len(recipe.pieces) > 1 and scale[recipe.axis] > 1:
        return NotImplemented
    pieces = recipe.pieces
    if order is torch.contiguous_format:
        pieces = tuple(map(_in_order, pieces))
    scales = tuple(tuple(map(operator.mul, old, scale)) for old in recipe.scales)
    return rewrites.lazy(Recipe(pieces, scales, recipe.axis, origins=(*recipe.origins, origin)))


def _reshape(rewrites: Rewrites, func: Any, input: Tensor, *shape: Any, **names: Any) -> Any:
    """Repetition written as `x[..., None].expand(..., s).reshape(...)`: the repeated dimension joins the one before."""
    if names or type(input) is LazyTensor or not isinstance(input, Tensor) or 0 not in input.stride():
        return NotImplemented
    wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    old, strides = list(input.shape), input.stride()
    if 0 in old or not all(type(n) is int for n in wanted):
        return NotImplemented
    new = [input.numel() // -math.prod(wanted) if n == -1 else n for n in wanted]
    scale: list[int] = []
    small, at = input, 0
    for n in new:
        # Each dimension of the result is one of the input's, followed by the repetition that joins it, if any.
        s = old[at + 1] if at + 1 < len(old) and strides[at + 1] == 0 and old[at + 1] > 1 else 1
        if at >= len(old) or (strides[at] == 0 and old[at] > 1) or n != old[at] * s:
            return NotImplemented
        if s > 1 and old[at] == 1:  # a view, as torch makes it
            return NotImplemented
        small = small.select(len(scale) + 1, 0) if s > 1 else small
        scale.append(s)
        at += 2 if s > 1 else 1
    return _repeat(rewrites, small, tuple(scale), torch.contiguous_format) if at == len(old) else NotImplemented


def _note(rewrites: Rewrites, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Nothing is rewritten, but the report tells of it."""
    if func is F.multi_head_attention_forward:
        rewrites.note_attention()
    else:
        rewrites.note("pixel shuffle", "multiplies no copies")
    return NotImplemented


# What commutes with upsampling ----------------------------------------------------------------------------------------


def _pointwise(rewrites: Rewrites, func: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of each position alone that returns new memory."""
    if LazyTensor not in map(type, args) or any(isinstance(value, Tensor) for value in kwargs.values()):
        return NotImplemented  # no argument is lazy, or there is an `out`, or an operand given by name
    if kwargs.get("inplace") or any(argument is True for argument in args):  # by position
        if func not in _WITH_FLAG:
            return NotImplemented
        args = tuple(False if argument is True else argument for argument in args)
        return _in_place(rewrites, func, *args, **{**kwargs, **dict.fromkeys(kwargs.keys() & {"inplace"}, False)})
    recipes = [recipe_of(argument) for argument in args]
    recipe = next((recipe for recipe in recipes if recipe is not None), None)
    if recipe is None or recipe.padding:
        return NotImplemented
    for argument, other in zip(args, recipes, strict=True):
        if isinstance(argument, Tensor) and not (_same(recipe, other) if other else _is_constant(argument, recipe)):
            return NotImplemented
    pieces = [
        func(
            *(argument if other is None else other.pieces[i] for argument, other in zip(args, recipes, strict=True)),
            **kwargs,
        )
        for i in range(len(recipe.pieces))
    ]
    return _with_pieces(rewrites, pieces, *(other for other in recipes if other))


def _in_place(rewrites: Rewrites, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The same in the memory of the first tensor, in inference: its recipe gets other pieces."""
    recipe = recipe_of(input)
    if recipe is None or any(isinstance(value, Tensor) and value.requires_grad for value in (input, *args)):
        return NotImplemented
    result = _pointwise(rewrites, _IN_PLACE.get(func, func), input, *args, **kwargs)
    made_of = recipe_of(result)
    if made_of is None or result.shape != input.shape or result.dtype != input.dtype:
        return NotImplemented
    recipe.pieces, recipe.origins = made_of.pieces, made_of.origins
    return input


def _prelu(rewrites: Rewrites, func: Any, input: Tensor, weight: Tensor) -> Any:
    """One slope for all, or one for each channel: then the small tensor must have as many channels."""
    recipe = recipe_of(input)
    if recipe is None or recipe.padding or type(weight) is LazyTensor:
        return NotImplemented
    if weight.numel() != 1 and (len(recipe.pieces) > 1 or recipe.scales[0][min(1, input.dim() - 1)] > 1):
        return NotImplemented
    return _with_pieces(rewrites, [func(piece, weight) for piece in recipe.pieces], recipe)


def _same(recipe: Recipe, other: Recipe) -> bool:
    """Whether two tensors are made in the same way, position by position."""
    if recipe.scales != other.scales or recipe.axis != other.axis or other.padding:
        return False
    return all(a.shape == b.shape for a, b in zip(recipe.pieces, other.pieces, strict=True))


def _is_constant(argument: Tensor, recipe: Recipe) -> bool:
    """Whether a tensor is the same at all copies of a position, and on all pieces."""
    if type(argument) is LazyTensor:
        return False
    axes = len(recipe.scales[0])
    for axis, n in enumerate(argument.shape, start=axes - argument.dim()):
        varies = axis >= 0 and (
            any(scale[axis] > 1 for scale in recipe.scales) or (axis == recipe.axis and len(recipe.pieces) > 1)
        )
        if varies and n != 1:
            return False
    return argument.dim() <= axes


def _in_order(piece: Tensor) -> Tensor:
    """A piece that is contiguous, also by its strides, which for a single position may say channels last."""
    return piece.clone(memory_format=torch.contiguous_format) if suggests_channels_last(piece) else piece.contiguous()


def _with_pieces(rewrites: Rewrites, pieces: Sequence[Any], *recipes: Recipe) -> Any:
    recipe, *others = recipes
    scales, axes = recipe.scales, len(recipe.scales[0])
    if not all(isinstance(piece, Tensor) and piece.dim() == axes for piece in pieces):
        return NotImplemented
    origins = recipe.origins + tuple(origin for other in others for origin in other.origins)
    return rewrites.lazy(
        Recipe(tuple(pieces), scales, recipe.axis, recipe.padding, recipe.padding_mode, tuple(dict.fromkeys(origins)))
    )


def _cast(rewrites: Rewrites, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    recipe = recipe_of(input)
    if recipe is None or {"memory_format", "copy"} & kwargs.keys() or any(isinstance(a, Tensor | bool) for a in args):
        return NotImplemented
    pieces = [func(piece, *args, **kwargs) for piece in recipe.pieces]
    if all(new is old for new, old in zip(pieces, recipe.pieces, strict=True)):
        return input
    return _with_pieces(rewrites, pieces, recipe)


def _watch(rewrites: Rewrites, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """A gradient to this very tensor is wanted: it becomes an ordinary one."""
    recipe = recipe_of(input)
    if recipe is not None and recipe.used:
        raise UsedBefore(
            f"`{func.__name__}` of an upsampled tensor that a convolution has used already gets no gradient: call it "
            f"before, or call `undo()` of halfstride.optimize's report."
        )
    if recipe is not None:
        recipe.make()
    return NotImplemented


def _set_data(rewrites: Rewrites, func: Any, tensor: Tensor, value: Any) -> Any:
    """`tensor.data = value`, for which torch asks a lazy tensor but not a lazy value."""
    return func(tensor, plain(value)) if type(value) is LazyTensor else NotImplemented


def _contiguous(
    rewrites: Rewrites, func: Any, input: Tensor, memory_format: torch.memory_format = torch.contiguous_format
) -> Any:
    if recipe_of(input) is None or not input.is_contiguous(memory_format=memory_format):
        return NotImplemented
    return input


def _dropout(
    rewrites: Rewrites, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    return input if recipe_of(input) is not None and not training and 0 <= p <= 1 else NotImplemented


def _normalise(rewrites: Rewrites, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Normalisation: repeated values have the mean and the variance of the values."""
    recipe = recipe_of(input)
    if func is F.batch_norm and kwargs.get("training", args[4] if len(args) > 4 else False):
        return NotImplemented  # the running variance counts the positions
    if recipe is None or len(recipe.pieces) > 1 or recipe.padding or recipe.scales[0][:2] != (1, 1):
        return NotImplemented
    return _with_pieces(rewrites, [func(recipe.pieces[0], *args, **kwargs)], recipe)


def _cat(rewrites: Rewrites, func: Any, tensors: Any, dim: Any = 0, *, axis: Any = None, out: Any = None) -> Any:
    dim = dim if axis is None else axis
    if out is not None or not isinstance(tensors, Sequence) or not any(map(recipe_of, tensors)):
        return NotImplemented
    axes = tensors[0].dim()
    if type(dim) is not int or not -axes <= dim < axes:
        return NotImplemented
    dim %= axes
    pieces: list[Tensor] = []
    scales: list[tuple[int, ...]] = []
    origins: list[Hashable] = []
    for tensor in tensors:
        recipe = recipe_of(tensor) or Recipe((tensor.clone(),), ((1,) * tensor.dim(),), dim)
        others = [n for at, n in enumerate(tensor.shape) if at != dim]
        if tensor.dim() != axes or others != [n for at, n in enumerate(tensors[0].shape) if at != dim]:
            return NotImplemented
        if recipe.padding or tensor.dtype != tensors[0].dtype or tensor.device != tensors[0].device:
            return NotImplemented
        if (len(recipe.pieces) > 1 and recipe.axis != dim) or any(scale[dim] > 1 for scale in recipe.scales):
            return NotImplemented
        pieces += recipe.pieces
        scales += recipe.scales
        origins += recipe.origins
    return rewrites.lazy(Recipe(tuple(pieces), tuple(scales), dim, origins=tuple(dict.fromkeys(origins))))


def _pad(
    rewrites: Rewrites, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> Any:
    recipe = recipe_of(input)
    if recipe is None or recipe.padding or len(recipe.pieces) > 1 or value or mode not in PADDING_MODES:
        return NotImplemented
    if not isinstance(pad, Sequence) or not all(type(side) is int for side in pad):
        return NotImplemented
    all_sides = 2 * (input.dim() - 2)
    if len(pad) % 2 or len(pad) > all_sides or (mode != "constant" and len(pad) < all_sides):
        return NotImplemented
    sides = list(zip(pad[::2], pad[1::2], strict=True))
    limit = {"constant": math.inf, "reflect": -1, "circular": 0, "replicate": math.inf}[mode]
    for at, (before, after) in enumerate(sides, start=1):
        n = input.shape[-at]
        if min(before, after) < 0 or max(before, after) > n + limit:
            return NotImplemented
    pieces = recipe.pieces
    if mode == "circular":  # the one that forgets the order in memory
        pieces = tuple(map(_in_order, pieces))
    padding, mode = (tuple(pad), mode) if any(pad) else ((), "constant")
    return rewrites.lazy(Recipe(pieces, recipe.scales, recipe.axis, padding, mode, recipe.origins))


# The rules ------------------------------------------------------------------------------------------------------------

# fmt: off
_POINTWISE = (
    "abs", "add", "celu", "clamp", "clamp_max", "clamp_min", "clip", "clone", "cos", "div", "divide", "elu", "erf",
    "exp", "expm1", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "lerp", "log",
    "log1p", "logsigmoid", "maximum", "minimum", "mish", "mul", "multiply", "nan_to_num", "neg", "negative", "pow",
    "reciprocal", "relu", "relu6", "rsqrt", "rsub", "selu", "sigmoid", "silu", "sin", "softplus",
    "softshrink", "softsign", "sqrt", "square", "sub", "subtract", "tanh", "tanhshrink", "threshold", "true_divide",
    "where", "__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__rsub__", "__truediv__", "__rtruediv__",
    "__rdiv__", "__pow__", "__neg__",
)
_WITH_FLAG = {getattr(F, name) for name in (
    "celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "selu", "silu",
    "threshold",
)}
"""Those that take `inplace`."""
_IN_PLACE = {
    **{getattr(Tensor, f"{name}_"): getattr(Tensor, name)
       for name in ("add", "clamp", "div", "mul", "relu", "sigmoid", "sub", "tanh")},
    Tensor.__iadd__: Tensor.__add__,
    Tensor.__isub__: Tensor.__sub__,
    Tensor.__imul__: Tensor.__mul__,
    Tensor.__itruediv__: Tensor.__truediv__,
}
# fmt: on
"""Methods that work in place, with those that do not."""
_CAST = ("bfloat16", "double", "float", "half", "to", "type")

RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(owner, name): _pointwise for owner in (torch, Tensor, F) for name in _POINTWISE if hasattr(owner, name)},
    **dict.fromkeys(_IN_PLACE, _in_place),
    **{getattr(Tensor, name): _cast for name in _CAST},
    Tensor.contiguous: _contiguous,
    **dict.fromkeys((Tensor.register_hook, Tensor.requires_grad_, Tensor.retain_grad), _watch),
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
    F.interpolate: _interpolate,
    **dict.fromkeys((torch.repeat_interleave, Tensor.repeat_interleave), _repeat_interleave),
    **dict.fromkeys((torch.reshape, Tensor.reshape), _reshape),
    **dict.fromkeys((F.pixel_shuffle, F.multi_head_attention_forward), _note),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    **dict.fromkeys((F.pad, builtin_pad()), _pad),  # the second as Dynamo reads it
    **dict.fromkeys((F.batch_norm, F.group_norm), _normalise),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), _dropout),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), conv),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), conv_transpose),
}
"""The rule for each torch function."""
