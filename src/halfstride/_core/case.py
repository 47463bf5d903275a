"""One upsampling operator with all its sizes settled: what every algorithm is given, and how arguments become it.

`transposed_case`, `resize_case` and `subpixel_case` make a `Case` from shapes and the arguments of the public
functions. Whatever is wrong with sizes is found here, before any arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from halfstride._support.arguments import (
    Padding,
    Pairs,
    Sizes,
    check_channels,
    read_groups,
    read_output_size,
    read_padding,
    read_padding_mode,
    read_scale_factor,
    read_shapes,
    read_sizes,
)
from halfstride._support.weight_cache import cached

__all__ = ["Case", "Cost", "Form", "resize_case", "subpixel_case", "transposed_case"]

Form = Literal["transposed", "resize", "subpixel"]


class Case(NamedTuple):
    """An upsampling operator on one input shape. With `s = stride`, `d = dilation`, `p = padding`, per axis:

        transposed    y[j]       = Σ W[t] x[i]                           over all i, t with s·i + d·t = j + p
        resize        y[j]       = Σ w[t] x[floor((j + d·t - p) / s)]    over all t
        subpixel      y[s·q + r] = Σ w[r][t] x[q + d·t - p]              over all t

    where `x` goes on beyond its borders as `padding_mode` says. Only the padding at the start is kept: how far it goes
    at the end follows from `output_size`.
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
    def input_numbers(self) -> int:
        return self.batch * self.in_channels * math.prod(self.input_size)

    @property
    def output_numbers(self) -> int:
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


class Cost(NamedTuple):
    """What an algorithm would do for a case, forwards."""

    products: int
    """Multiplications of two numbers."""
    traffic: int
    """Numbers read and written, every tensor in between once each way; not those of the kernel."""
    calls: int
    """Calls of operators that compute something."""


# From arguments to a case ---------------------------------------------------------------------------------------------


@cached
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
    batch, in_channels, input_size, kernel_size = read_shapes(axes, input_shape, weight_shape)
    strides = read_sizes("stride", stride, axes, 1)
    dilations = read_sizes("dilation", dilation, axes, 1)
    extra = read_sizes("output_padding", output_padding, axes, 0)
    sizes = read_output_size(output_size, axes)
    pairs = read_padding(padding, axes)
    groups = read_groups(groups, ("input", in_channels))
    check_channels(in_channels, weight_shape[0], weight_shape)
    if any(extra) and (sizes[0] is not None or pairs is None):
        raise ValueError(
            f"`output_padding` (={output_padding}) goes with neither output_size nor padding='same': "
            f"drop it and give output_size alone."
        )
    settled = [
        _transposed_axis(*axis)
        for axis in zip(input_size, kernel_size, strides, dilations, pairs or (None,) * axes, extra, sizes, strict=True)
    ]
    case = Case(
        "transposed",
        input_size,
        tuple(size for _, size in settled),
        kernel_size,
        strides,
        dilations,
        tuple(before for before, _ in settled),
        read_padding_mode(padding_mode),
        groups,
        batch,
        in_channels,
        weight_shape[1] * groups,
    )
    if padding_mode != "zeros":
        beyond = tuple(
            (max(-first, 0), max(last - n + 1, 0)) for (first, last), n in zip(case.reach, input_size, strict=True)
        )
        _check_reach(padding_mode, beyond, input_size, "input")
    return case


@cached
def resize_case(
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
    """The case of a resize-convolution; arguments as those of `functional.resize_conv2d`."""
    batch, in_channels, input_size, kernel_size = read_shapes(axes, input_shape, weight_shape)
    scales = read_scale_factor(scale_factor, axes)
    dilations = read_sizes("dilation", dilation, axes, 1)
    sizes = read_output_size(output_size, axes)
    groups = read_groups(groups, ("input", in_channels), ("output", weight_shape[0]))
    check_channels(in_channels, weight_shape[1] * groups, weight_shape)
    upsampled = tuple(n * s for n, s in zip(input_size, scales, strict=True))
    settled = []
    for axis, (before, after) in enumerate(read_padding(padding, axes) or _same(kernel_size, dilations)):
        n, u, s = input_size[axis], upsampled[axis], scales[axis]
        default = _conv_size(u, kernel_size[axis], dilations[axis], before, after, "upsampled input")
        wanted = sizes[axis]
        size = default if wanted is None else wanted
        _check_reachable(size, default - s + 1, default + s - 1, n, scale_factor=s, padding=(before, after))
        settled.append((before, after + size - default, size))
    case = Case(
        "resize",
        input_size,
        tuple(size for _, _, size in settled),
        kernel_size,
        scales,
        dilations,
        tuple(before for before, _, _ in settled),
        read_padding_mode(padding_mode),
        groups,
        batch,
        in_channels,
        weight_shape[0],
    )
    _check_reach(padding_mode, [(before, after) for before, after, _ in settled], upsampled, "upsampled input")
    return case


@cached
def subpixel_case(
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
    """The case of a sub-pixel convolution; arguments as those of `functional.subpixel_conv2d`."""
    batch, in_channels, input_size, kernel_size = read_shapes(axes, input_shape, weight_shape)
    scales = read_scale_factor(scale_factor, axes)
    dilations = read_sizes("dilation", dilation, axes, 1)
    sizes = read_output_size(output_size, axes)
    phases = math.prod(scales)
    if weight_shape[0] % phases:
        raise ValueError(
            f"`weight` (of shape {tuple(weight_shape)}) must have a multiple of {phases} output channels, one for each "
            f"phase of scale_factor={scales}: {weight_shape[0]} is none."
        )
    out_channels = weight_shape[0] // phases
    groups = read_groups(groups, ("input", in_channels), ("output", out_channels))
    check_channels(in_channels, weight_shape[1] * groups, weight_shape)
    pairs = read_padding(padding, axes) or _same(kernel_size, dilations)
    restored = []
    for axis, (before, after) in enumerate(pairs):
        n, s = input_size[axis], scales[axis]
        default = s * _conv_size(n, kernel_size[axis], dilations[axis], before, after, "input")
        wanted = sizes[axis]
        size = default if wanted is None else wanted
        _check_reachable(size, default - s + 1, default, n, scale_factor=s, padding=(before, after))
        restored.append(size)
    _check_reach(padding_mode, pairs, input_size, "input")
    return Case(
        "subpixel",
        input_size,
        tuple(restored),
        kernel_size,
        scales,
        dilations,
        tuple(before for before, _ in pairs),
        read_padding_mode(padding_mode),
        groups,
        batch,
        in_channels,
        out_channels,
    )


# One axis at a time ---------------------------------------------------------------------------------------------------


def _transposed_axis(
    n: int, k: int, s: int, d: int, padding: tuple[int, int] | None, output_padding: int, wanted: int | None
) -> tuple[int, int]:
    """The padding at the start and the output size of a transposed convolution; `padding=None` stands for "same"."""
    full = (n - 1) * s + d * (k - 1) + 1
    if padding is None:
        # The strided convolution that this one undoes pads its `size` positions just enough for all n of its outputs,
        # an odd one at the end: TensorFlow's SAME.
        size = n * s if wanted is None else wanted
        _check_reachable(size, (n - 1) * s + 1, n * s, n, stride=s, padding="same")
        return max(full - size, 0) // 2, size
    before, after = padding
    if min(before, after) < 0:
        raise ValueError(
            f"`padding` (={padding}) of a transposed convolution is what is cut from its output and must not be "
            f"negative: for a longer output use output_padding or output_size."
        )
    if output_padding >= max(s, d):
        raise ValueError(f"`output_padding` (={output_padding}) must be smaller than stride (={s}) or dilation (={d}).")
    smallest = full - before - after
    if wanted is None and smallest + output_padding < 1:
        raise ValueError(
            f"`padding` (={_shown(padding)}) leaves nothing of the full output of {full}: "
            f"use at most {full + output_padding - 1} at both ends together."
        )
    if wanted is None:
        return before, smallest + output_padding
    dilated = {"dilation": d} if d != 1 else {}
    largest = smallest + max(s, d) - 1
    _check_reachable(wanted, smallest, largest, n, kernel_size=k, stride=s, padding=padding, **dilated)
    return before, wanted


def _conv_size(n: int, k: int, d: int, before: int, after: int, what: str) -> int:
    """The output size of a convolution of stride 1 with its own padding at each end."""
    if n + min(before, 0) + min(after, 0) < 1:
        raise ValueError(f"`padding` (={(before, after)}) cuts away all of the {what} (of size {n}): cut less.")
    span = d * (k - 1) + 1
    padded = n + before + after
    if padded < span:
        raise ValueError(
            f"`kernel_size` (={k}, spanning {span} with dilation {d}) is larger than the padded {what} (={padded}): "
            f"use a smaller kernel or {span - padded} more padding."
        )
    return padded - span + 1


def _same(kernel_size: Sequence[int], dilation: Sequence[int]) -> Pairs:
    """The padding with which a convolution of stride 1 keeps its size; where it is odd, the end gets one more."""
    total = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((both // 2, both - both // 2) for both in total)


def _check_reachable(size: int, smallest: int, largest: int, n: int, **geometry: Any) -> None:
    """An output size must lie between the smallest and the largest that a geometry has for input size n."""
    smallest = max(smallest, 1)
    if smallest <= size <= largest:
        return
    if largest < smallest:
        way_out = "use less padding"
    elif largest < smallest + 2:
        way_out = f"choose {smallest}" + (f" or {largest}" if largest > smallest else "")
    else:
        way_out = f"choose {smallest} to {largest}"
    described = ", ".join(f"{name}={_shown(value)!r}" for name, value in geometry.items())
    raise ValueError(f"`output_size` (={size}) cannot be reached from input size {n} with {described}: {way_out}.")


def _shown(value: Any) -> Any:
    """An argument as it was probably written: one number for a pair of equal ones."""
    return value[0] if isinstance(value, tuple) and value[0] == value[1] else value


def _check_reach(mode: str, pairs: Sequence[tuple[int, int]], sizes: Sequence[int], what: str) -> None:
    """Reflection needs another position for each that it adds, wrapping round needs the position itself."""
    for pair, n in zip(pairs, sizes, strict=True):
        most = n - 1 if mode == "reflect" else n
        if mode in ("reflect", "circular") and max(pair) > most:
            raise ValueError(
                f"`padding_mode` (={mode!r}) can continue an {what} of {n} positions by at most {most} at each end, "
                f"not by {max(pair)}: use less padding, a smaller kernel or padding_mode='replicate'."
            )
