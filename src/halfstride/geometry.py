"""Sizes of convolutions and transposed convolutions, their inverses, and coverage: integers only.

Per axis, with input size `n`, kernel size `k`, stride `s`, padding `p`, dilation `d` and output padding `op`:

    convolution             o = floor((n + 2p - d(k-1) - 1) / s) + 1
    transposed convolution  o = (n-1)s - 2p + d(k-1) + op + 1        (= s(n-1) + k - 2p  where d = 1, op = 0)
    resize-convolution      o = ns + 2p - d(k-1)                     (s is its scale factor)

Padding enlarges a convolution's output and shrinks a transposed one's: there it is the padding of the convolution that
is undone. The relationship numbers in the docstrings are those of Dumoulin & Visin, "A guide to convolution arithmetic
for deep learning" (arXiv:1603.07285).

Every size, kernel, stride, padding and dilation may be an int or a tuple with one int per axis; ints are repeated for
every axis. The result is an int if all arguments are ints, else a tuple.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    "resize_conv_size",
    "solve",
]

Ints = int | tuple[int, ...]


def conv_size(input_size: Ints, kernel_size: Ints, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Ints:
    """Return the output size of a convolution or a pooling.

    Args:
        input_size: positions along each axis, 1 or more.
        kernel_size: taps along each axis, 1 or more.
        stride: input positions from one output to the next, 1 or more.
        padding: positions added at *both* ends, 0 or more.
        dilation: input positions from one tap to the next, 1 or more.

    Returns:
        `floor((n + 2p - d(k-1) - 1) / s) + 1` per axis.

    Raises:
        ValueError: if an argument is out of range, or the kernel is larger than the padded input.

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
    """Return the output size of a transposed convolution; more padding makes it smaller.

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
        ValueError: if an argument is out of range, or nothing would be left of the output.

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


def resize_conv_size(
    input_size: Ints,
    kernel_size: Ints,
    scale_factor: Ints = 2,
    padding: Ints | Literal["same"] = "same",
    dilation: Ints = 1,
) -> Ints:
    """Return the output size of a resize-convolution: each position is repeated, then convolved with stride 1.

    Args:
        input_size: positions along each axis, 1 or more.
        kernel_size: taps along each axis, 1 or more.
        scale_factor: repetitions of each position, 1 or more.
        padding: positions added at *both* ends of the repeated input, 0 or more; "same" for as many as the kernel
            takes, at both ends together.
        dilation: repeated positions from one tap to the next, 1 or more.

    Returns:
        `ns + 2p - d(k-1)` per axis, `ns` with padding "same".

    Raises:
        ValueError: if an argument is out of range, or the kernel is larger than the padded repeated input.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016).

    Example:
        >>> resize_conv_size(14, kernel_size=3)
        28
        >>> resize_conv_size((7, 5), kernel_size=3, scale_factor=(2, 3), padding=0)
        (12, 13)
    """
    sizes = {
        "input_size": input_size, "kernel_size": kernel_size, "scale_factor": scale_factor, "dilation": dilation
    }  # fmt: skip
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f'`padding` (={padding!r}) must be "same" or an int of at least 0.')
        return _per_axis(lambda n, k, s, d: n * s, **sizes)
    return _per_axis(lambda n, k, s, d, p: _conv_size(n * s, k, 1, p, d), **sizes, padding=padding)


def conv_input_sizes(output_size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> range:
    """Return all input sizes that a convolution maps to one output size: `stride` of them, or fewer near zero.

    One axis. The transposed convolution of the same kernel, stride and padding restores the smallest; each further one
    takes one more `output_padding`.

    Raises:
        ValueError: if an argument is out of range, or no input of at least one position has this output size.

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
        dilated = f", dilation={d}" if d > 1 else ""
        raise ValueError(
            f"`output_size` (={o}) is reached by no input with kernel_size={k}, stride={s}, padding={p}{dilated}: "
            f"use a padding of at most {p + (smallest + s - 2) // 2}."
        )
    return sizes


def output_padding_for(
    input_size: Ints, output_size: Ints, kernel_size: Ints, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1
) -> Ints:
    """Return the `output_padding` with which a transposed convolution maps `input_size` to `output_size`.

    Raises:
        ValueError: if no allowed output padding does; the message names the sizes that can be reached.

    Example:
        >>> output_padding_for(14, 28, kernel_size=3, stride=2, padding=1)
        1
        >>> output_padding_for(14, 31, kernel_size=3, stride=2, padding=1)
        Traceback (most recent call last):
        ValueError: `output_size` (=31) cannot be reached from input size 14 with kernel_size=3, stride=2, padding=1: \
choose 27 to 28.
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
    """Return the taps that each phase of a transposed convolution sums: `t` is in phase `dilation * t mod stride`.

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
    """Return whether all phases have equally many taps along every axis, so that overlap makes no checkerboard.

    Without dilation: where the stride divides the kernel. It is necessary for an even output, not sufficient: the
    weights of the phases can still differ.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016).

    Example:
        >>> is_even(kernel_size=3, stride=2), is_even(kernel_size=4, stride=2)
        (False, True)
    """
    answer = _per_axis(_is_even, kernel_size=kernel_size, stride=stride, dilation=dilation)
    return all(answer) if isinstance(answer, tuple) else bool(answer)


def coverage(
    input_size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> tuple[int, ...]:
    """Return how many kernel taps reach each output position of a transposed convolution.

    One axis; in several dimensions coverage is the outer product of the axes. The convolution with the same kernel,
    stride, padding and dilation (and `output_padding` less than the stride) reads each of its *input* positions equally
    often, so uneven coverage is an uneven gradient there.

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
    """One layer between two sizes, as `solve` lists them; dilation 1."""

    kernel_size: int
    stride: int
    padding: int
    output_padding: int
    """For a transposed convolution; 0 for a convolution."""
    even: bool
    """Whether all phases have equally many taps: of a transposed convolution's output, or a convolution's input."""


_KERNELS_OF_A_KIND = 3


def solve(input_size: int, output_size: int) -> list[Solution]:
    """List layers that map `input_size` to `output_size`: transposed convolutions if it is larger, else convolutions.

    One axis. The stride is the ratio of the two sizes, rounded down and rounded up (1 if one of the sizes is 1; not
    rounded up if the steps would leave the larger size). For each stride the three smallest even kernels (no
    checkerboard from overlap) and the three smallest others that cover every position are listed, with the least output
    padding that fits. The list is sorted by: even first, kernel size, output padding, padding.

    Args:
        input_size: positions to start from, 1 or more, of any magnitude.
        output_size: positions to arrive at, 1 or more, of any magnitude.

    Returns:
        3 to 12 solutions, the first being the one to try first.

    Raises:
        ValueError: if a size is out of range.

    Example:
        >>> for solution in solve(7, 14): print(solution)
        Solution(kernel_size=2, stride=2, padding=0, output_padding=0, even=True)
        Solution(kernel_size=4, stride=2, padding=1, output_padding=0, even=True)
        Solution(kernel_size=6, stride=2, padding=2, output_padding=0, even=True)
        Solution(kernel_size=3, stride=2, padding=1, output_padding=1, even=False)
        Solution(kernel_size=5, stride=2, padding=2, output_padding=1, even=False)
        Solution(kernel_size=7, stride=2, padding=3, output_padding=1, even=False)
    """
    n, m = _checked(input_size=input_size, output_size=output_size)
    small, large = min(n, m), max(n, m)
    found = []
    for s in (1,) if small == 1 else range(large // small, -(-large // small) + 1):
        exact = large - s * (small - 1)  # The kernel that joins the sizes without any padding.
        if exact < 1:
            continue
        narrowest = max(s, exact)
        for k in _narrow_kernels(narrowest, s):
            # Padding cuts two positions at a time, so one may be missing: the output padding of a transposed
            # convolution, and what the floor in a convolution's size takes off.
            missing = (k - exact) % 2
            padding = (k - exact + missing) // 2
            found.append(Solution(k, s, padding, missing if n < m else 0, _is_even(k, s, 1)))
    found.sort(key=lambda way: (not way.even, way.kernel_size, way.output_padding, way.padding))
    return found


def _narrow_kernels(narrowest: int, stride: int) -> list[int]:
    """The smallest even kernels and the smallest others, without searching: sizes may be huge."""
    first = -(-narrowest // stride) * stride
    step = max(stride, 2)  # With stride 1 there is no output padding to make up for a position more or less.
    even = range(first, first + _KERNELS_OF_A_KIND * step, step)
    others = [k for k in range(narrowest, narrowest + 2 * _KERNELS_OF_A_KIND) if k % stride]
    return [*even, *others[:_KERNELS_OF_A_KIND]]


@dataclass(frozen=True)
class Window:
    """The geometry of one convolution or pooling along one axis, for `receptive_field`."""

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


class ReceptiveField(NamedTuple):
    """The input positions that one output position of a stack depends on, along one axis."""

    size: int
    """Input positions that one output position depends on."""
    stride: int
    """Input positions from one output position's field to the next one's."""
    start: int
    """First input position that output position 0 depends on; negative in the padding."""


def receptive_field(layers: Sequence[Window]) -> ReceptiveField:
    """Return the receptive field of a stack of convolutions and poolings, first layer first.

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
        spanning = f", spanning {span} with dilation {dilation}" if dilation > 1 else ""
        raise ValueError(
            f"`kernel_size` (={kernel_size}{spanning}) is larger than the padded input (={padded}): "
            f"use a smaller kernel or a padding of at least {-((input_size - span) // 2)}."
        )
    return (padded - span) // stride + 1


def _conv_transpose_size(
    input_size: int, kernel_size: int, stride: int, padding: int, output_padding: int, dilation: int
) -> int:
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"`output_padding` (={output_padding}) must be less than the stride (={stride}) or the dilation "
            f"(={dilation}): use at most {max(stride, dilation) - 1}."
        )
    full = (input_size - 1) * stride + dilation * (kernel_size - 1) + 1
    size = full - 2 * padding + output_padding
    if size < 1:
        raise ValueError(
            f"`padding` (={padding}) leaves nothing of the full output (={full}): "
            f"use at most {(full + output_padding - 1) // 2}."
        )
    return size


def _output_padding_for(
    input_size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int
) -> int:
    smallest = (input_size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + 1
    largest = smallest + max(stride, dilation) - 1
    if not smallest <= output_size <= largest:
        first = max(smallest, 1)
        way_out = f"choose {first}" + (f" to {largest}" if largest > first else "")
        if largest < 1:
            way_out = f"use a padding of at most {padding + (largest - 1) // 2}"
        dilated = f", dilation={dilation}" if dilation > 1 else ""
        raise ValueError(
            f"`output_size` (={output_size}) cannot be reached from input size {input_size} with "
            f"kernel_size={kernel_size}, stride={stride}, padding={padding}{dilated}: {way_out}."
        )
    return output_size - smallest


def _is_even(kernel_size: int, stride: int, dilation: int) -> bool:
    # Tap t belongs to phase d·t mod s. If d and s have a common divisor, some phases have no taps; otherwise s
    # successive taps fall on all s phases.
    return math.gcd(dilation, stride) == 1 and kernel_size % stride == 0


# Arguments ------------------------------------------------------------------------------------------------------------

_MAY_BE_ZERO = {"padding", "output_padding"}


def _checked(**arguments: object) -> tuple[int, ...]:
    """The arguments as plain ints, in order, each within its range."""
    checked = []
    for name, value in arguments.items():
        least = 0 if name in _MAY_BE_ZERO else 1
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(f"`{name}` (={value!r}) must be an int of at least {least}.") from None
        if number < least:
            raise ValueError(f"`{name}` (={number}) must be at least {least}.")
        checked.append(number)
    return tuple(checked)


def _per_axis(formula: Callable[..., int], **arguments: Ints) -> Ints:
    """Apply a one-axis formula to ints, or axis by axis to tuples with ints repeated."""
    tuples = {name: value for name, value in arguments.items() if isinstance(value, tuple | list)}
    if not tuples:
        return formula(*_checked(**arguments))
    first, *_ = tuples
    axes = len(tuples[first])
    for name, value in tuples.items():
        if len(value) != axes:
            raise ValueError(
                f"`{name}` (={value}) has {len(value)} axes where `{first}` (={tuples[first]}) has {axes}: "
                f"give one int for all axes, or one for each."
            )
    columns = [tuples.get(name, (value,) * axes) for name, value in arguments.items()]
    return tuple(
        formula(*_checked(**dict(zip(arguments, values, strict=True)))) for values in zip(*columns, strict=True)
    )
