"""Rewrite convolutions of upsampled tensors, and transposed convolutions, by the planner's choice."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride import functional
from halfstride._core.algorithms import native
from halfstride._core.case import Case, Form
from halfstride._core.common import wants_gradients
from halfstride._core.compiled import part
from halfstride.optimizing.lazy import Recipe, is_ordinary, recipe_of, suggests_channels_last
from halfstride.optimizing.rewrites import Call, Rewrites, scale_text, size_text

_Operators = tuple[Callable[..., Any], ...]  # for one, two and three dimensions
_CONV: _Operators = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: _Operators = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_ONE_BY_ONE: tuple[str, ...] = ("1×1 first",)
PADDING_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
"""What this package calls the modes of `F.pad`."""


def conv(
    rewrites: Rewrites,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    axes = _CONV.index(func) + 1
    recipe = recipe_of(input)
    if recipe is None or not _are_understood(axes, input, weight, bias):
        return NotImplemented
    channels = input.dim() - axes - 1  # the dimension
    if not _types_agree(*recipe.pieces, weight, bias) or any(max(scale[: channels + 1]) > 1 for scale in recipe.scales):
        return NotImplemented
    pads: Any = padding if isinstance(padding, str) else _per_axis(padding, axes)
    if _per_axis(stride, axes) != (1,) * axes or (not isinstance(pads, str) and min(pads, default=0) < 0):
        return NotImplemented
    if recipe.padding:
        if pads not in ("valid", (0,) * axes):
            return NotImplemented
        sides = [*recipe.padding, *(0,) * (2 * axes - len(recipe.padding))]
        pads = tuple(zip(sides[::2], sides[1::2], strict=True))[::-1]
    joined = len(recipe.pieces) > 1
    if joined and (groups != 1 or recipe.axis != channels or weight.shape[1] != input.shape[channels]):
        return NotImplemented

    kind = f"conv{axes}d {weight.shape[1] * groups}→{weight.shape[0]}"
    geometry, gradients = (pads, _per_axis(dilation, axes), groups), wants_gradients(*recipe.pieces, weight, bias)
    commutes = not joined and set(weight.shape[2:]) == {1} and pads in ((0,) * axes, "valid", "same")
    upsampled = [(p, s) for p, s in zip(recipe.pieces, recipe.scales, strict=True) if max(s) > 1]
    numel = sum(math.prod(map(operator.mul, piece.shape, scale)) for piece, scale in upsampled)
    in_between = ", cat" * joined + ", pad" * bool(recipe.padding)
    call = Call(
        was=f"nearest {scale_text(upsampled[0][1][channels + 1 :])}{in_between}, {kind} k{size_text(weight.shape[2:])}",
        became=f"{kind} before the upsampling" if commutes else "resize-convolution" + " of the parts" * joined,
        algorithms=_ONE_BY_ONE if commutes else _algorithms(recipe, channels, weight, geometry, gradients),
        gradients=gradients,
        origins=recipe.origins,
        bytes_saved=(numel + (input.numel() if in_between else 0)) * input.element_size(),
    )
    if not rewrites.accepts(call):
        return NotImplemented
    if commutes:
        small = func(recipe.pieces[0], weight, bias, 1, 0, 1, groups)
        output = rewrites.lazy(Recipe((small,), recipe.scales, recipe.axis, origins=recipe.origins))
    else:
        output = _sum_of_parts(recipe, channels, func, weight, bias, geometry)
    recipe.used = True
    return output


def _algorithms(
    recipe: Recipe, channels: int, weight: Tensor, geometry: tuple[Any, ...], gradients: bool
) -> tuple[str, ...]:
    """What the planner chooses for the upsampled parts; empty where that is torch's own operators for all."""
    chosen = []
    for piece, scale in zip(recipe.pieces, recipe.scales, strict=True):
        if max(scale) > 1:
            in_channels = weight.shape[1] if len(recipe.pieces) == 1 else piece.shape[channels]
            of_piece = scale[channels + 1 :], *geometry, None, PADDING_MODES[recipe.padding_mode]
            chosen.append(_plan("resize", piece, weight, in_channels, of_piece, gradients)[1])
    return () if set(chosen) == {"native"} else tuple(dict.fromkeys(chosen))


def _plan(
    form: Form, input: Tensor, weight: Tensor, second: int, geometry: tuple[Any, ...], gradients: bool
) -> tuple[Case, str]:
    """The case and the algorithm of a call, with a weight of which the second dimension is `second`."""
    axes = weight.dim() - 2
    shape = weight.shape[0], second, *weight.shape[2:]
    last = _is_channels_last(input, weight) and input.shape[-axes - 1] > 1
    dtype = functional.autocast_type(input) or input.dtype
    return functional.plan(
        form, axes, tuple(input.shape), shape, geometry, "auto", input.device.type, dtype, gradients, last
    )


def _sum_of_parts(
    recipe: Recipe,
    channels: int,
    func: Callable[..., Tensor],
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[Any, ...],
) -> Tensor:
    """A convolution of stride 1 as the sum of those of its input's parts, each with its own input channels."""
    joined, output, first = len(recipe.pieces) > 1, None, 0
    for piece, scale in zip(recipe.pieces, recipe.scales, strict=True):
        own_bias = bias if output is None else None
        if max(scale) == 1:
            kernel = part(weight, first, piece.shape[channels])
            summand = func(piece, kernel, own_bias, 1, *geometry)
        else:
            of_piece = scale[channels + 1 :], *geometry, None, PADDING_MODES[recipe.padding_mode]
            given, at = _formatted_like(piece, weight), first if joined else None
            summand = functional.upsample("resize", weight.dim() - 2, given, weight, own_bias, of_piece, first=at)
        first += piece.shape[channels]
        # In place where no gradients are recorded: another tensor of this size costs more than the sum.
        output = summand if output is None else output + summand if summand.requires_grad else output.add_(summand)
    assert output is not None, "a recipe has pieces"
    return output


def conv_transpose(
    rewrites: Rewrites,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    axes = _CONV_TRANSPOSE.index(func) + 1
    if not _are_understood(axes, input, weight, bias) or not is_ordinary(input):
        return NotImplemented
    if not _types_agree(input, weight, bias):
        return NotImplemented
    strides = _per_axis(stride, axes)
    geometry = strides, _per_axis(padding, axes), _per_axis(output_padding, axes), groups, _per_axis(dilation, axes)
    gradients = wants_gradients(input, weight, bias)
    case, chosen = _plan("transposed", input, weight, weight.shape[1], (*geometry, None, "zeros"), gradients)
    call = Call(
        was=f"conv_transpose{axes}d {weight.shape[0]}→{weight.shape[1] * groups} "
        f"k{size_text(weight.shape[2:])} s{size_text(strides)}",
        became="transposed convolution",
        algorithms=() if chosen == "native" and native.is_torchs_own(case, input, weight) else (chosen,),
        gradients=gradients,
        origins=(),
        bytes_saved=0,
    )
    if not rewrites.accepts(call):
        return NotImplemented
    given = _formatted_like(input, weight)
    return functional.upsample("transposed", axes, given, weight, bias, (*geometry, None, "zeros"))


def _are_understood(axes: int, input: Any, weight: Any, bias: Any) -> bool:
    """Whether these can be convolved along so many axes: all else is left to torch, whose error names what is wrong."""
    if not isinstance(input, Tensor) or not all(map(is_ordinary, _tensors(weight, bias))):
        return False
    return weight.dim() == axes + 2 and input.dim() in (axes + 1, axes + 2) and input.numel() > 0


def _is_channels_last(input: Tensor, weight: Tensor) -> bool:
    """Whether torch gives the output in channels last: where input or weight are."""
    return input.dim() == weight.dim() and (suggests_channels_last(input) or suggests_channels_last(weight))


def _formatted_like(input: Tensor, weight: Tensor) -> Tensor:
    """`input` in the memory format that torch gives the output."""
    if not _is_channels_last(input, weight):
        return input.contiguous()
    order = _CHANNELS_LAST[input.dim()]
    formatted = input.contiguous(memory_format=order)
    # A single position is contiguous in any format, and its strides need not say which one is meant.
    return formatted if suggests_channels_last(formatted) else formatted.clone(memory_format=order)


def _types_agree(*tensors: Tensor | None) -> bool:
    given = _tensors(*tensors)
    device = given[0].device
    if any(tensor.device != device for tensor in given):
        return False
    if torch.is_autocast_enabled(device.type):
        return all(tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) for tensor in given)
    return all(tensor.dtype == given[0].dtype for tensor in given)


def _tensors(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """One number per axis, from what torch takes: a number, or a sequence with one or with all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * axes if len(values) == 1 else values
