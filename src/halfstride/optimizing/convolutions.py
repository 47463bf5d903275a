"""The calls that upsampling is put off for: convolutions of a lazy tensor, and transposed convolutions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride import functional
from halfstride._core.common import wants_gradients
from halfstride._core.compiled import part
from halfstride.optimizing import signals
from halfstride.optimizing.lazy import Recipe, is_ordinary, recipe_of, suggests_channels_last
from halfstride.optimizing.plan import Site, shown, times

if TYPE_CHECKING:
    from halfstride.optimizing.rewriting import Rewriting

__all__ = ["conv", "conv_transpose"]

_Operators = tuple[Callable[..., Any], ...]  # of one, two and three dimensions
_CONV: _Operators = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: _Operators = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_OUR_CONV_TRANSPOSE: _Operators = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)
_COMMUTED = "1×1 first"
_FAST_RESIZE = ("folded", "by_parts", "scatter")
_FAST_TRANSPOSED = ("phases", "scatter", "native")  # native: faster than torch where its kernel is kept packed
_PADDING_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def conv(
    rewriting: Rewriting,
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
    if func is F.conv1d and (recipe is None or recipe.is_whole):
        pads: Any = padding if isinstance(padding, str) else _of_row(padding, 0)
        return _of_signal(rewriting, F.conv2d, input, weight, bias, _of_row(stride), pads, _of_row(dilation), groups)
    if recipe is None or recipe.is_whole or not _are_understood(axes, input, weight, bias):
        return NotImplemented
    channels = input.dim() - axes - 1  # the dimension
    if not _types_agree(*recipe.pieces, weight, bias) or any(max(scale[: channels + 1]) > 1 for scale in recipe.scales):
        return NotImplemented
    pads = padding if isinstance(padding, str) else _per_axis(padding, axes)
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
    commutes = not joined and set(weight.shape[2:]) == {1} and pads in ((0,) * axes, "valid", "same")

    of_parts = _OfParts(recipe, channels, func, weight, bias, pads, _per_axis(dilation, axes), groups)
    key = (*of_parts.key, *map(suggests_channels_last, recipe.pieces))
    upsampled = [(p, s) for p, s in zip(recipe.pieces, recipe.scales, strict=True) if max(s) > 1]
    numbers = sum(math.prod(map(operator.mul, piece.shape, scale)) for piece, scale in upsampled)
    in_between = ", cat" * joined + ", pad" * bool(recipe.padding)
    kind = f"conv{axes}d {weight.shape[1] * groups}→{weight.shape[0]}"
    return rewriting.run(
        Site(
            key=key,
            positions=upsampled[0][0].numel() // upsampled[0][0].shape[channels],
            was=f"nearest {times(upsampled[0][1][channels + 1 :])}{in_between}, {kind} k{shown(weight.shape[2:])}",
            became=f"{kind} before the upsampling" if commutes else "resize-convolution" + " of the parts" * joined,
            tensors=(*recipe.pieces, *_tensors(weight, bias)),
            gradients=wants_gradients(*recipe.pieces, weight, bias),
            origins=recipe.origins,
            reference=lambda: func(recipe.build(*recipe.pieces), weight, bias, stride, padding, dilation, groups),
            algorithms=(_COMMUTED,) if commutes else _FAST_RESIZE,
            compute=partial(_commuted, rewriting, of_parts) if commutes else of_parts.compute,
            default=_COMMUTED if commutes else None if joined else "auto",
            bytes_saved=(numbers + (input.numel() if in_between else 0)) * input.element_size(),
        )
    )


@dataclass(frozen=True)
class _OfParts:
    """A convolution of stride 1 as the sum of those of its input's parts, each with its own input channels."""

    recipe: Recipe
    channels: int
    """The dimension."""
    conv: Callable[..., Tensor]
    weight: Tensor
    bias: Tensor | None
    padding: Any
    dilation: tuple[int, ...]
    groups: int

    @property
    def key(self) -> tuple[Any, ...]:
        recipe, weight = self.recipe, self.weight
        widths = tuple(piece.shape[self.channels] for piece in recipe.pieces)
        geometry = self.padding, recipe.padding_mode, self.dilation, self.groups
        return (
            recipe.scales,
            widths,
            weight.shape,
            *geometry,
            weight.dtype,
            weight.device.type,
            suggests_channels_last(weight),
        )

    def compute(self, algorithm: str) -> Tensor:
        self.recipe.used = True
        output, first = None, 0
        for piece, scale in zip(self.recipe.pieces, self.recipe.scales, strict=True):
            summand = self._part(piece, scale, first, self.bias if output is None else None, algorithm)
            first += piece.shape[self.channels]
            # In place where no gradients are recorded: another tensor of this size costs more than the sum.
            output = summand if output is None else output + summand if summand.requires_grad else output.add_(summand)
        assert output is not None, "a recipe has pieces"
        return output

    def _part(self, piece: Tensor, scale: tuple[int, ...], first: int, bias: Tensor | None, algorithm: str) -> Tensor:
        joined = len(self.recipe.pieces) > 1
        if max(scale) == 1:
            kernel = part(self.weight, first, piece.shape[self.channels])
            return self.conv(piece, kernel, bias, 1, self.padding, self.dilation, self.groups)
        mode = _PADDING_MODES[self.recipe.padding_mode]
        return functional.upsample(
            "resize",
            self.weight.dim() - 2,
            _formatted_like(piece, self.weight),
            self.weight,
            bias,
            (scale[self.channels + 1 :], self.padding, self.dilation, self.groups, None, mode),
            algorithm,
            first=first if joined else None,
        )


def _commuted(rewriting: Rewriting, of_parts: _OfParts, algorithm: str) -> Tensor:
    """A 1×1 convolution of the small tensor, upsampled when that is needed."""
    recipe, c = of_parts.recipe, of_parts
    recipe.used = True
    small = c.conv(recipe.pieces[0], c.weight, c.bias, 1, 0, 1, c.groups)
    output: Tensor = rewriting.lazy(Recipe((small,), recipe.scales, recipe.axis, origins=recipe.origins))
    return output


def conv_transpose(
    rewriting: Rewriting,
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
    if func is F.conv_transpose1d and rewriting.plan.signals:
        of_row = _of_row(stride), _of_row(padding, 0), _of_row(output_padding, 0), groups, _of_row(dilation)
        output = _of_signal(rewriting, F.conv_transpose2d, input, weight, bias, *of_row)
        if output is not NotImplemented:
            return output
    axes = _CONV_TRANSPOSE.index(func) + 1
    if (
        not _are_understood(axes, input, weight, bias)
        or not is_ordinary(input)
        or not _types_agree(input, weight, bias)
    ):
        return NotImplemented
    strides = _per_axis(stride, axes)
    geometry = strides, _per_axis(padding, axes), _per_axis(output_padding, axes), groups, _per_axis(dilation, axes)

    def compute(algorithm: str) -> Tensor:
        given = _formatted_like(input, weight)
        output: Tensor = _OUR_CONV_TRANSPOSE[axes - 1](given, weight, bias, *geometry, algorithm=algorithm)
        return output

    formats = suggests_channels_last(input), suggests_channels_last(weight)
    size = f"k{shown(weight.shape[2:])} s{shown(strides)}"
    return rewriting.run(
        Site(
            key=(weight.shape, geometry, weight.dtype, weight.device.type, formats),
            positions=input.numel() // input.shape[-axes - 1],
            was=f"conv_transpose{axes}d {weight.shape[0]}→{weight.shape[1] * groups} {size}",
            became="transposed convolution",
            tensors=_tensors(input, weight, bias),
            gradients=wants_gradients(input, weight, bias),
            origins=(),
            reference=lambda: func(input, weight, bias, *geometry),
            algorithms=_FAST_TRANSPOSED,
            compute=compute,
            default=None,
            bytes_saved=0,
        )
    )


def _of_signal(
    rewriting: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *geometry: Any,
) -> Any:
    """In inference, by `func` of an image of one row."""
    if not all(isinstance(tensor, Tensor) for tensor in _tensors(input, weight, bias)):
        return NotImplemented
    if not _types_agree(input, weight, bias) or wants_gradients(input, weight, bias):
        return NotImplemented
    return signals.convolved(rewriting, func, input, weight, bias, *geometry)


def _of_row(value: Any, of_rows: int = 1) -> tuple[int, ...]:
    """What torch takes for one axis, for the two of an image of one row."""
    return of_rows, *_per_axis(value, 1)


def _are_understood(axes: int, input: Any, weight: Any, bias: Any) -> bool:
    """Whether these can be convolved along so many axes: all else is for torch to name what is wrong with it."""
    if not isinstance(input, Tensor) or not all(map(is_ordinary, _tensors(weight, bias))):
        return False
    return weight.dim() == axes + 2 and input.dim() in (axes + 1, axes + 2) and input.numel() > 0


def _formatted_like(input: Tensor, weight: Tensor) -> Tensor:
    """`input` in the memory format that torch gives the output: channels last where input or weight are."""
    if input.dim() == weight.dim() and (suggests_channels_last(input) or suggests_channels_last(weight)):
        order = _CHANNELS_LAST[input.dim()]
        formatted = input.contiguous(memory_format=order)
        # One position alone is in any order, and its strides need not say which one is meant.
        return formatted if suggests_channels_last(formatted) else formatted.clone(memory_format=order)
    return input.contiguous()


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
    """One number per axis, of what torch takes for it: a number, or a sequence with one or with all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * axes if len(values) == 1 else values
