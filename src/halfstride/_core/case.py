"""A `Case`: one upsampling operator with all its sizes, as every algorithm takes it.

`transposed_case`, `resize_case` and `subpixel_case` make a `Case` from shapes and the arguments of the public
functions. Whatever is wrong with sizes is found here, before any arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from halfstride._support.arguments import (
    Padding,
    Pairs,
    Sizes,
    check_channels,
    read_groups,
    read_padding,
    read_padding_mode,
    read_scale_factor,
    read_shapes,
    read_sizes,
)

Form = Literal["transposed", "resize", "subpixel"]


class Case(NamedTuple):
    """An upsampling operator on one input shape. With `s = stride`, `d = dilation`, `p = padding`, per axis:

        transposed    y[j]       = Σ W[t] x[i]                           over all i, t with s·i + d·t = j + p
        resize        y[j]       = Σ w[t] x[floor((j + d·t - p) / s)]    over all t
        subpixel      y[s·q + r] = Σ w[r][t] x[q + d·t - p]              over all t

    where `x` is padded in `padding_mode`. `padding` is that at the start; that at the end follows from `output_size`.
    """

    form: Form
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    padding_mode: str
    groups: int
    batch: int
    in_channels: int
    out_channels: int

    @property
    def axes(self) -> int:
        return len(self.kernel_size)

    @property
    def input_numel(self) -> int:
        return self.batch * self.in_channels * math.prod(self.input_size)

    @property
    def output_numel(self) -> int:
        return self.batch * self.out_channels * math.prod(self.output_size)

    @property
    def channel_pairs(self) -> int:
        """Pairs of an input channel and an output channel that sees it, in all images."""
        return self.batch * self.in_channels * self.out_channels // self.groups

    @property
    def span(self) -> tuple[int, ...]:
        """Positions from the first tap to the last, `d(k-1)`."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def overlaps(self) -> bool:
        """Whether the kernels of neighbouring inputs meet along some axis, without dilation."""
        return any(k > s for k, s in zip(self.kernel_size, self.stride, strict=True))

    @property
    def full_size(self) -> tuple[int, ...]:
        """The output of a transposed convolution before padding cuts it, `s(n-1) + d(k-1) + 1`."""
        return tuple(s * (n - 1) + span + 1 for n, s, span in zip(self.input_size, self.stride, self.span, strict=True))

    @property
    def reach(self) -> Pairs:
        """The first and the last position of `x` that the output may see, per axis: below 0 or above n-1 in padding."""
        reach = []
        for o, s, p, span in zip(self.output_size, self.stride, self.padding, self.span, strict=True):
            if self.form == "transposed":
                reach.append((-((span - p) // s), (p + o - 1) // s))
            elif self.form == "resize":
                reach.append((-p // s, (o - 1 + span - p) // s))
            else:
                reach.append((-p, (o - 1) // s + span - p))
        return tuple(reach)

    @property
    def border(self) -> Pairs:
        """Positions that the output may see before and after the input, per axis; negative ones it does not see."""
        return tuple((-first, last - n + 1) for (first, last), n in zip(self.reach, self.input_size, strict=True))

    @property
    def upsampled_border(self) -> Pairs:
        """Of a resize-convolution, the padding of the upsampled input before and after it, per axis."""
        axes = zip(self.input_size, self.output_size, self.stride, self.padding, self.span, strict=True)
        return tuple((p, o + span - p - n * s) for n, o, s, p, span in axes)


class Cost(NamedTuple):
    """What an algorithm computes for a case, forward."""

    macs: int
    """Multiply-accumulates of two scalars."""
    traffic: int
    """Elements read and written, every intermediate tensor once each way, kernels not counted."""
    calls: int
    """Calls of operators."""


# From arguments to a case ---------------------------------------------------------------------------------------------


def transposed_case(
    axes: int,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
) -> Case:
    """The case of a transposed convolution; arguments as those of `functional.conv_transpose2d`."""
    strides = read_sizes("stride", stride, axes, 1)
    extra = read_sizes("output_padding", output_padding, axes, 0)
    if any(extra) and (output_size is not None or padding == "same"):
        raise ValueError(
            f"`output_padding` (={output_padding}) goes with neither output_size nor padding='same': "
            f"drop it and give output_size alone."
        )
    shapes = axes, input_shape, weight_shape
    return _case("transposed", *shapes, strides, padding, dilation, groups, output_size, padding_mode, extra)


def _convolution_case(
    form: Form,
    axes: int,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
) -> Case:
    """The case of a resize- or sub-pixel convolution; arguments as those of `functional.resize_conv2d`."""
    scales = read_scale_factor(scale_factor, axes)
    shapes = axes, input_shape, weight_shape
    return _case(form, *shapes, scales, padding, dilation, groups, output_size, padding_mode)


resize_case = partial(_convolution_case, "resize")
subpixel_case = partial(_convolution_case, "subpixel")
CASES: dict[str, Callable[..., Case]] = {
    "transposed": transposed_case, "resize": resize_case, "subpixel": subpixel_case
}  # fmt: skip
"""The function that makes a case, by form."""


def _case(
    form: Form,
    axes: int,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    strides: tuple[int, ...],
    padding: Padding,
    dilation: Sizes,
    groups: int,
    output_size: Sizes | None,
    padding_mode: str,
    output_padding: tuple[int, ...] | None = None,
) -> Case:
    batch, in_channels, input_size, kernel_size = read_shapes(axes, input_shape, weight_shape)
    dilations = read_sizes("dilation", dilation, axes, 1)
    groups, out_channels = _channels(form, in_channels, weight_shape, strides, groups)
    pairs: Sequence[tuple[int, int] | None] | None = read_padding(padding, axes)
    if pairs is None:
        pairs = (None,) * axes if form == "transposed" else _same(kernel_size, dilations)
    sizes = (None,) * axes if output_size is None else read_sizes("output_size", output_size, axes, 1)
    by_axis = zip(input_size, kernel_size, strides, dilations, pairs, output_padding or (0,) * axes, sizes, strict=True)
    starts, outputs = zip(*(_AXES[form](*axis) for axis in by_axis), strict=True)
    mode = read_padding_mode(padding_mode)
    channels = batch, in_channels, out_channels
    case = Case(form, input_size, outputs, kernel_size, strides, dilations, starts, mode, groups, *channels)
    if form == "resize":
        upsampled = [n * s for n, s in zip(input_size, strides, strict=True)]
        _check_border(mode, case.upsampled_border, upsampled, "upsampled input")
    else:
        _check_border(mode, case.border, input_size, "input")
    return case


def _channels(
    form: Form, in_channels: int, weight_shape: Sequence[int], strides: Sequence[int], groups: Any
) -> tuple[int, int]:
    """The groups and the output channels."""
    if form == "transposed":
        groups = read_groups(groups, ("input", in_channels))
        check_channels(in_channels, weight_shape[0], weight_shape)
        return groups, weight_shape[1] * groups
    phases = math.prod(strides) if form == "subpixel" else 1
    if weight_shape[0] % phases:
        raise ValueError(
            f"`weight` (of shape {tuple(weight_shape)}) must have a multiple of {phases} output channels, one for each "
            f"phase of scale_factor={strides}: {weight_shape[0]} is none."
        )
    out_channels = weight_shape[0] // phases
    groups = read_groups(groups, ("input", in_channels), ("output", out_channels))
    check_channels(in_channels, weight_shape[1] * groups, weight_shape)
    return groups, out_channels


# One axis at a time: the padding at the start and the output size -----------------------------------------------------


def _transposed_axis(
    input_size: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    padding: tuple[int, int] | None,
    output_padding: int,
    output_size: int | None,
) -> tuple[int, int]:
    """Of a transposed convolution; `padding=None` stands for "same"."""
    full = (input_size - 1) * stride + dilation * (kernel_size - 1) + 1
    if padding is None:
        # TensorFlow's SAME: the strided convolution of which this one is the adjoint pads its `size` positions just
        # enough for `input_size` outputs, an odd position at the end.
        largest = input_size * stride
        size = largest if output_size is None else output_size
        _check_reachable(size, largest - stride + 1, largest, input_size, stride=stride, padding="same")
        return max(full - size, 0) // 2, size
    before, after = padding
    if min(before, after) < 0:
        raise ValueError(
            f"`padding` (={padding}) of a transposed convolution is what is cut from its output and must not be "
            f"negative: for a longer output use output_padding or output_size."
        )
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"`output_padding` (={output_padding}) must be smaller than stride (={stride}) or dilation (={dilation})."
        )
    smallest = full - before - after
    if output_size is None:
        if smallest + output_padding < 1:
            raise ValueError(
                f"`padding` (={_shown(padding)}) leaves nothing of the full output of {full}: "
                f"use at most {full + output_padding - 1} at both ends together."
            )
        return before, smallest + output_padding
    geometry = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if dilation != 1:
        geometry["dilation"] = dilation
    _check_reachable(output_size, smallest, smallest + max(stride, dilation) - 1, input_size, **geometry)
    return before, output_size


def _convolution_axis(
    form: Form,
    input_size: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    _: int,
    output_size: int | None,
) -> tuple[int, int]:
    """Of a resize-convolution, which convolves the upsampled input, or a sub-pixel convolution."""
    if form == "resize":
        default = _conv_size(input_size * stride, kernel_size, dilation, *padding, "upsampled input")
        largest = default + stride - 1
    else:
        default = largest = stride * _conv_size(input_size, kernel_size, dilation, *padding, "input")
    size = default if output_size is None else output_size
    _check_reachable(size, default - stride + 1, largest, input_size, scale_factor=stride, padding=padding)
    return padding[0], size


_AXES: dict[str, Callable[..., tuple[int, int]]] = {
    "transposed": _transposed_axis,
    "resize": partial(_convolution_axis, "resize"),
    "subpixel": partial(_convolution_axis, "subpixel"),
}


def _conv_size(size: int, kernel_size: int, dilation: int, before: int, after: int, what: str) -> int:
    """The output size of a convolution of stride 1 with its own padding at each end."""
    if size + min(before, 0) + min(after, 0) < 1:
        raise ValueError(f"`padding` (={(before, after)}) cuts away all of the {what} (of size {size}): cut less.")
    span = dilation * (kernel_size - 1) + 1
    padded = size + before + after
    if padded < span:
        raise ValueError(
            f"`kernel_size` (={kernel_size}, spanning {span} with dilation {dilation}) is larger than the padded "
            f"{what} (={padded}): use a smaller kernel or {span - padded} more padding."
        )
    return padded - span + 1


def _same(kernel_size: Sequence[int], dilation: Sequence[int]) -> Pairs:
    """The padding with which a convolution of stride 1 keeps its size; where it is odd, the end gets one more."""
    total = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((both // 2, both - both // 2) for both in total)


def _check_reachable(size: int, smallest: int, largest: int, input_size: int, **geometry: Any) -> None:
    """Check that an output size lies between the smallest and the largest that a geometry has for an input size."""
    smallest = max(smallest, 1)
    if smallest <= size <= largest:
        return
    choice = f"choose {smallest}" + (f" to {largest}" if largest > smallest else "")
    way_out = "use less padding" if largest < smallest else choice
    described = ", ".join(f"{name}={_shown(value)!r}" for name, value in geometry.items())
    raise ValueError(
        f"`output_size` (={size}) cannot be reached from input size {input_size} with {described}: {way_out}."
    )


def _shown(value: Any) -> Any:
    """An argument as it was probably written: one number for a pair of equal ones."""
    return value[0] if isinstance(value, tuple) and value[0] == value[1] else value


def _check_border(mode: str, pairs: Sequence[tuple[int, int]], sizes: Sequence[int], what: str) -> None:
    """Check that there are enough positions to pad with: n - 1 for "reflect", n for "circular"."""
    for pair, n in zip(pairs, sizes, strict=True):
        most = n - 1 if mode == "reflect" else n
        if mode in ("reflect", "circular") and max(pair) > most:
            raise ValueError(
                f"`padding_mode` (={mode!r}) can continue an {what} of {n} positions by at most {most} at each end, "
                f"not by {max(pair)}: use less padding, a smaller kernel or padding_mode='replicate'."
            )
