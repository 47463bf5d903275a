"""Sizes of convolutions and transposed convolutions, their inverses, and coverage: integers only.

Per axis, with input size `n`, kernel size `k`, stride `s`, padding `p`, dilation `d` and output padding `op`:

    convolution             o = floor((n + 2p - d(k-1) - 1) / s) + 1
    transposed convolution  o = (n-1)s - 2p + d(k-1) + op + 1        (= s(n-1) + k - 2p  where d = 1, op = 0)

Padding enlarges the first and shrinks the second: a transposed convolution's padding is the padding of the convolution
that it undoes. The relationship numbers in the docstrings are those of Dumoulin & Visin, "A guide to convolution
arithmetic for deep learning" (arXiv:1603.07285).

Every size, kernel, stride, padding and dilation may be an int or a tuple with one int per axis; ints are repeated for
every axis. The answer is an int where all arguments are ints, else a tuple.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, overload

__all__ = [
    "ReceptiveField",
    "Solution",
    "Window",
    "conv_input_sizes",
    "conv_size",
    "conv_transpose_size",
    "coverage",
    "is_even",
    "output_padding_for",
    "phase_taps",
    "receptive_field",
    "solve",
]

Ints = int | tuple[int, ...]
T = TypeVar("T")


def conv_size(input_size: Ints, kernel_size: Ints, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Ints:
    """The output size of a convolution or a pooling.

    Args:
        input_size: positions along each axis, 1 or more.
        kernel_size: taps along each axis, 1 or more.
        stride: input positions from one output to the next, 1 or more.
        padding: positions added at *both* ends, 0 or more.
        dilation: input positions from one tap to the next, 1 or more.

    Returns:
        `floor((n + 2p - d(k-1) - 1) / s) + 1` per axis.

    Raises:
        ValueError: where an argument is out of range, or the kernel is larger than the padded input.

    Reference:
        Dumoulin & Visin, relationships 6 (strides) and 15 (dilation).

    Example:
        >>> conv_size(5, kernel_size=3, stride=2)
        2
        >>> conv_size((28, 27), kernel_size=3, stride=2, padding=1)
        (14, 14)
    """
    return _per_axis(
        _conv_size, input_size=input_size, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )


def conv_transpose_size(
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> Ints:
    """The output size of a transposed convolution; more padding makes it smaller.

    Args:
        input_size: positions along each axis, 1 or more.
        kernel_size: taps along each axis, 1 or more.
        stride: output positions from one input's kernel to the next, 1 or more.
        padding: positions cut from *both* ends of the full output, 0 or more.
        output_padding: positions added at the end of the output only, 0 or more and less than stride or dilation.
        dilation: output positions from one tap to the next, 1 or more.

    Returns:
        `(n-1)s - 2p + d(k-1) + op + 1` per axis.

    Raises:
        ValueError: where an argument is out of range, or nothing would be left of the output.

    Reference:
        Dumoulin & Visin, relationship 14.

    Example:
        >>> conv_transpose_size(2, kernel_size=3, stride=2)
        5
        >>> conv_transpose_size(2, kernel_size=3, stride=2, padding=1)
        3
    """
    return _per_axis(
        _conv_transpose_size,
        input_size=input_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
    )


def conv_input_sizes(output_size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> range:
    """All input sizes that a convolution maps to one output size: `stride` of them, or fewer near zero.

    One axis. The transposed convolution of the same kernel, stride and padding restores the smallest; each further one
    takes one more `output_padding`.

    Raises:
        ValueError: where an argument is out of range, or no input of at least one position has this output size.

    Example:
        >>> list(conv_input_sizes(14, kernel_size=3, stride=2, padding=1))
        [27, 28]
    """
    o, k, s, p, d = _checked(
        output_size=output_size, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    smallest = (o - 1) * s - 2 * p + d * (k - 1) + 1
    sizes = range(max(smallest, 1), max(smallest + s, 1))
    if not sizes:
        raise ValueError(
            f"`output_size` (={o}) is reached by no input with kernel_size={k}, stride={s}, padding={p}, dilation={d}: "
            f"use a padding of at most {(smallest + 2 * p + s - 2) // 2}."
        )
    return sizes


def output_padding_for(
    input_size: Ints, output_size: Ints, kernel_size: Ints, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1
) -> Ints:
    """The `output_padding` with which a transposed convolution takes `input_size` to exactly `output_size`.

    Raises:
        ValueError: where no allowed output padding does; the text names the sizes that can be reached.

    Example:
        >>> output_padding_for(14, 28, kernel_size=3, stride=2, padding=1)
        1
        >>> output_padding_for(14, 31, kernel_size=3, stride=2, padding=1)
        Traceback (most recent call last):
        ValueError: `output_size` (=31) cannot be reached from input size 14 with kernel_size=3, stride=2, padding=1: \
choose 27 or 28.
    """
    return _per_axis(
        _output_padding_for,
        input_size=input_size,
        output_size=output_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )


def phase_taps(kernel_size: int, stride: int, dilation: int = 1) -> tuple[tuple[int, ...], ...]:
    """The taps that each phase of a transposed convolution sums: `t` belongs to phase `dilation * t mod stride`.

    One axis; phases are counted on the full output, before padding cuts it.

    Example:
        >>> phase_taps(kernel_size=3, stride=2)
        ((0, 2), (1,))
        >>> phase_taps(kernel_size=4, stride=2)
        ((0, 2), (1, 3))
    """
    k, s, d = _checked(kernel_size=kernel_size, stride=stride, dilation=dilation)
    phases: list[list[int]] = [[] for _ in range(s)]
    for tap in range(k):
        phases[d * tap % s].append(tap)
    return tuple(tuple(taps) for taps in phases)


def is_even(kernel_size: Ints, stride: Ints, dilation: Ints = 1) -> bool:
    """Whether every phase has the same number of taps, so that the overlap itself makes no checkerboard.

    Without dilation: where the kernel is divisible by the stride. It is necessary for evenness, not sufficient: the
    weights of the phases can still differ.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016).

    Example:
        >>> is_even(kernel_size=3, stride=2), is_even(kernel_size=4, stride=2)
        (False, True)
    """

    def one(kernel_size: int, stride: int, dilation: int) -> bool:
        return len({len(taps) for taps in phase_taps(kernel_size, stride, dilation)}) == 1

    answer = _per_axis(one, kernel_size=kernel_size, stride=stride, dilation=dilation)
    return all(answer) if isinstance(answer, tuple) else bool(answer)


def coverage(
    input_size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> tuple[int, ...]:
    """How many kernel taps reach each output position of a transposed convolution.

    One axis; in several dimensions coverage is the outer product of the axes. The same numbers tell how often each
    *input* position of the strided convolution of this geometry is read, and so how unevenly its gradient is spread.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016), where it is called overlap.

    Example:
        >>> coverage(4, kernel_size=3, stride=2)
        (1, 1, 2, 1, 2, 1, 2, 1, 1)
        >>> coverage(4, kernel_size=4, stride=2)
        (1, 1, 2, 2, 2, 2, 2, 2, 1, 1)
    """
    n, k, s, p, op, d = _checked(
        input_size=input_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
    )
    counts = [0] * _conv_transpose_size(n, k, s, p, op, d)
    for i in range(n):
        for tap in range(k):
            position = s * i + d * tap - p
            if 0 <= position < len(counts):
                counts[position] += 1
    return tuple(counts)


class Solution(NamedTuple):
    """One way to get from a size to another, as `solve` lists them."""

    kernel_size: int
    stride: int
    padding: int
    output_padding: int
    even: bool
    """Whether all phases have the same number of taps (of the gradient, for a convolution)."""


def solve(input_size: int, output_size: int, *, limit: int = 8) -> list[Solution]:
    """The layers that take `input_size` to `output_size`: transposed convolutions upwards, convolutions downwards.

    One axis, dilation 1. Kernels no smaller than the stride (a smaller one leaves gaps), padding less than the kernel's
    half or equal to it. Even ones (no checkerboard from overlap) come first, then small kernels, then without
    output padding, then with small padding.

    Args:
        input_size: positions to start from, 1 or more.
        output_size: positions to arrive at, 1 or more.
        limit: how many to list at most, 1 or more.

    Returns:
        At most `limit` solutions; never empty.

    Example:
        >>> for solution in solve(7, 14, limit=3): print(solution)
        Solution(kernel_size=2, stride=2, padding=0, output_padding=0, even=True)
        Solution(kernel_size=4, stride=2, padding=1, output_padding=0, even=True)
        Solution(kernel_size=6, stride=2, padding=2, output_padding=0, even=True)
    """
    n, m, limit = _checked(input_size=input_size, output_size=output_size, limit=limit)
    small, large = min(n, m), max(n, m)
    # A layer of stride s joins small and large where 0 <= large - s(small-1) - (k - 2p) = leftover < s: the leftover is
    # the output padding of a transposed convolution, and what a convolution's floor drops.
    found: list[Solution] = []
    for s in _strides_between(small, large):
        for k in range(s, s + limit * max(2, s) + large - s * small + 1):
            for p in range(k // 2 + 1):
                leftover = large - s * (small - 1) - (k - 2 * p)
                if 0 <= leftover < s and large + 2 * p >= k:
                    found.append(Solution(k, s, p, leftover if m >= n else 0, k % s == 0))
    # Same size, kernel 1 is always found; so is (k, s, p) = (large, large, 0) where small is 1, and s = large // small.
    found.sort(key=lambda way: (not way.even, way.kernel_size, way.output_padding, way.padding, -way.stride))
    return found[:limit]


def _strides_between(small: int, large: int) -> Iterable[int]:
    if small == 1:
        return (large,)
    nearest = large // small
    return [s for s in (nearest, nearest + 1) if s * (small - 1) < large]


@dataclass(frozen=True)
class Window:
    """The geometry of one convolution or pooling along one axis, for `receptive_field`."""

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


class ReceptiveField(NamedTuple):
    """What one output position of a stack sees of its input, along one axis."""

    size: int
    """Input positions seen by one output position."""
    stride: int
    """Input positions from one output position's field to the next one's."""
    start: int
    """First input position that output position 0 sees; negative where padding comes before it."""


def receptive_field(layers: Sequence[Window]) -> ReceptiveField:
    """The receptive field of a stack of convolutions and poolings, first layer first.

    Reference:
        Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill (2019).

    Example:
        >>> receptive_field([Window(3, stride=2, padding=1), Window(3, stride=2, padding=1)])
        ReceptiveField(size=7, stride=4, start=-3)
    """
    size, stride, start = 1, 1, 0
    for layer in layers:
        k, s, p, d = _checked(
            kernel_size=layer.kernel_size, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
        )
        size += d * (k - 1) * stride
        start -= p * stride
        stride *= s
    return ReceptiveField(size, stride, start)


# One axis at a time ---------------------------------------------------------------------------------------------------


def _conv_size(input_size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> int:
    span = dilation * (kernel_size - 1) + 1
    padded = input_size + 2 * padding
    if padded < span:
        raise ValueError(
            f"`kernel_size` (={kernel_size}, spanning {span} with dilation {dilation}) is larger than the padded input "
            f"(={padded}): use a smaller kernel or a padding of at least {-((input_size - span) // 2)}."
        )
    return (padded - span) // stride + 1


def _conv_transpose_size(
    input_size: int, kernel_size: int, stride: int, padding: int, output_padding: int, dilation: int
) -> int:
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"`output_padding` (={output_padding}) must be smaller than stride (={stride}) or dilation (={dilation})."
        )
    full = (input_size - 1) * stride + dilation * (kernel_size - 1) + 1
    size = full - 2 * padding + output_padding
    if size < 1:
        raise ValueError(
            f"`padding` (={padding}) leaves nothing of the full output of {full}: "
            f"use at most {(full + output_padding - 1) // 2}."
        )
    return size


def _output_padding_for(
    input_size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> int:
    smallest = (input_size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + 1
    reachable = [size for size in range(smallest, smallest + max(stride, dilation)) if size >= 1]
    if output_size not in reachable:
        ways = f"{reachable[0]} to {reachable[-1]}" if len(reachable) > 2 else " or ".join(map(str, reachable))
        dilated = f", dilation={dilation}" if dilation != 1 else ""
        way_out = f"choose {ways}" if reachable else "use less padding"
        raise ValueError(
            f"`output_size` (={output_size}) cannot be reached from input size {input_size} with "
            f"kernel_size={kernel_size}, stride={stride}, padding={padding}{dilated}: {way_out}."
        )
    return output_size - smallest


# Arguments ------------------------------------------------------------------------------------------------------------

_MAY_BE_ZERO = {"padding", "output_padding"}


def _checked(**arguments: int) -> tuple[int, ...]:
    """The arguments as plain ints, in order, each within its range."""
    checked = []
    for name, value in arguments.items():
        least = 0 if name in _MAY_BE_ZERO else 1
        try:
            number = operator.index(value)
        except TypeError:
            raise ValueError(f"`{name}` (={value!r}) must be an int of at least {least}.") from None
        if number < least:
            raise ValueError(f"`{name}` (={number}) must be at least {least}.")
        checked.append(number)
    return tuple(checked)


@overload
def _per_axis(formula: Callable[..., bool], **arguments: Ints) -> bool | tuple[bool, ...]: ...
@overload
def _per_axis(formula: Callable[..., int], **arguments: Ints) -> Ints: ...
def _per_axis(formula: Callable[..., int], **arguments: Ints) -> Ints:
    """Apply a one-axis formula to ints, or axis by axis to tuples with ints repeated."""
    lengths = {name: len(value) for name, value in arguments.items() if isinstance(value, tuple | list)}
    if not lengths:
        _checked(**arguments)  # type: ignore[arg-type]
        return formula(**arguments)
    axes = max(lengths.values())
    for name, length in lengths.items():
        if length != axes:
            raise ValueError(f"`{name}` (={arguments[name]}) has {length} axes where another argument has {axes}.")
    columns = {
        name: tuple(value) if isinstance(value, tuple | list) else (value,) * axes for name, value in arguments.items()
    }
    return tuple(_per_axis(formula, **{name: column[axis] for name, column in columns.items()}) for axis in range(axes))  # type: ignore[misc]
