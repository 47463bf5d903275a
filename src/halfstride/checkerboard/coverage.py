"""How many kernel taps reach each phase, by geometry alone, through one layer and through a stack of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from halfstride import geometry


class UnevenKernelWarning(UserWarning):
    """A layer's kernel is not divisible by its stride, so that its phases sum different numbers of taps."""


def phase_counts(kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """How many taps each phase of a transposed convolution sums, (*stride).

    Example:
        >>> phase_counts((3, 3), (2, 2), (1, 1))
        tensor([[4, 2],
                [2, 1]])
    """
    sizes = zip(kernel_size, stride, dilation, strict=True)
    axes = [[len(taps) for taps in geometry.phase_taps(*axis)] for axis in sizes]
    counts = [math.prod(taps) for taps in product(*axes)]
    return torch.tensor(counts, device="cpu").reshape(tuple(stride))  # also inside a context of device "meta"


def stack_coverage(input_size: int, layers: Sequence[geometry.Window]) -> tuple[int, ...]:
    """How many paths lead to each output position of a stack of transposed convolutions, first layer first.

    One axis; in several dimensions it is the outer product of the axes. The unevenness of stacked layers
    multiplies: patterns of several periods, one on top of the other.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016): stacks of deconvolutions.

    Example:
        >>> stack_coverage(3, [geometry.Window(3, stride=2), geometry.Window(3, stride=2)])
        (1, 1, 2, 1, 3, 2, 3, 1, 3, 2, 3, 1, 2, 1, 1)
    """
    paths = np.ones(input_size, dtype=int)
    for layer in layers:
        k, s, p, d = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        size = geometry.conv_transpose_size(len(paths), k, s, p, 0, d)
        with_zeros, taps = np.zeros(s * (len(paths) - 1) + 1, dtype=int), np.zeros(d * (k - 1) + 1, dtype=int)
        with_zeros[::s], taps[::d] = paths, 1
        paths = np.convolve(with_zeros, taps)[p:][:size]
    return tuple(paths.tolist())


def even_kernel(kernel_size: int, stride: int) -> int:
    """The smallest kernel of at least `kernel_size` that the stride divides.

    Example:
        >>> even_kernel(3, 2)
        4
    """
    return -(-kernel_size // stride) * stride


def warn_if_uneven(
    layer: str, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *, stacklevel: int
) -> None:
    """Warn where a transposed convolution's phases sum different numbers of taps, and say which kernel would not.

    Args:
        layer: what to call the layer in the text.
        stacklevel: as in `warnings.warn`, for the caller: 1 is the line that called this function.
    """
    if geometry.is_even(tuple(kernel_size), tuple(stride), tuple(dilation)):
        return
    counts = phase_counts(kernel_size, stride, dilation)
    better = tuple(even_kernel(k, s) for k, s in zip(kernel_size, stride, strict=True))
    warnings.warn(
        f"{layer} has kernel_size={_short(kernel_size)} with stride={_short(stride)}: its output positions sum "
        f"{int(counts.min())} to {int(counts.max())} taps, which makes a checkerboard. "
        f'kernel_size={_short(better)} would not, nor would upsampling="resize".',
        UnevenKernelWarning,
        stacklevel=stacklevel + 1,
    )


def _short(sizes: Sequence[int]) -> str:
    """One number where all axes have the same."""
    return str(sizes[0]) if len(set(sizes)) == 1 else str(tuple(sizes))
