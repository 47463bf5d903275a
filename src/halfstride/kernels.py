"""One operator, three ways to write its kernel, and the ways between them.

Along each axis, with stride (or scale factor) `s`:

    transposed    W[t], t = 0..k-1         any kernel
    resize        w[t], t = 0..k-1         W = reversed(w) * ones(s), of k + s - 1 taps
    subpixel      w[r][t], t = 0..m-1      W[s·(m-1-t) + r] = w[r][t], of m·s taps

The resize kernels are a subspace of the transposed ones: those whose polynomial vanishes at the `s`-th roots of unity
other than 1, so that every phase has the same gain. That is why a resize-convolution makes no checkerboard.

The layouts are torch's:

    transposed    (in, out / groups, *kernel_size)
    resize        (out, in / groups, *kernel_size)
    subpixel      (out · prod(s), in / groups, *kernel_size), channel c·prod(s) + r as in `torch.nn.PixelShuffle`

Every function here is linear in the weight and differentiable. Sums of float16 and bfloat16 weights are formed in
float32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride import geometry
from halfstride._support.arguments import Sizes, read_int, read_sizes
from halfstride._support.torch_private import is_captured
from halfstride._support.weight_cache import cached

__all__ = [
    "even_from_transposed",
    "phase_gains",
    "phases",
    "resize_from_transposed",
    "shuffle",
    "spread",
    "subpixel_from_transposed",
    "swap_channels",
    "transposed_from_resize",
    "transposed_from_subpixel",
    "unshuffle",
    "widened",
]


# Between the ways to write a kernel -----------------------------------------------------------------------------------


def transposed_from_resize(weight: Tensor, scale_factor: Sizes = 2, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """The transposed kernel of a resize-convolution, of `dilation * (k - 1) + scale_factor` taps.

    A resize-convolution padded by (before, after) is the transposed convolution with this kernel, stride `scale_factor`
    and padding (span - before, span - after), where `span = dilation * (k - 1)`; with zeros, replicate or circular
    padding.

    Example:
        >>> transposed_from_resize(torch.tensor([[[1., 2., 4.]]]), scale_factor=2)
        tensor([[[4., 6., 3., 1.]]])
    """
    axes = _axes(weight)
    scales = read_sizes("scale_factor", scale_factor, axes, 1)
    dilations = read_sizes("dilation", dilation, axes, 1)
    full = swap_channels(widened(weight), groups)
    boxes = full.new_tensor(_boxes(tuple(weight.shape[2:]), scales, dilations))
    size = [d * (taps - 1) + s for taps, s, d in zip(weight.shape[2:], scales, dilations, strict=True)]
    folded = full.reshape(-1, len(boxes)) @ boxes  # one product, in both directions, of what lies together in memory
    return folded.reshape(*full.shape[:2], *size).to(weight.dtype)


@cached
def _boxes(taps: tuple[int, ...], scales: tuple[int, ...], dilations: tuple[int, ...]) -> list[list[float]]:
    """Which taps of a transposed kernel each tap of a resize kernel is added to: zeros and ones."""
    along_axes = [
        [[float(0 <= at - d * tap < s) for at in range(d * (k - 1) + s)] for tap in reversed(range(k))]
        for k, s, d in zip(taps, scales, dilations, strict=True)
    ]
    # Of all axes it is the Kronecker product of theirs.
    return [[math.prod(cells) for cells in product(*rows)] for rows in product(*along_axes)]


def resize_from_transposed(weight: Tensor, scale_factor: Sizes = 2, groups: int = 1) -> Tensor:
    """The resize kernel of `k - scale_factor + 1` taps whose transposed kernel is nearest to `weight`.

    It undoes `transposed_from_resize`. For any other kernel it is the least-squares solution: of all
    resize-convolutions the one whose transposed kernel differs least from the given one.

    Raises:
        ValueError: where the kernel has fewer taps than `scale_factor`.

    Example:
        >>> resize_from_transposed(torch.tensor([[[4., 6., 3., 1.]]]), scale_factor=2).round(decimals=4)
        tensor([[[1., 2., 4.]]])
    """
    scales = read_sizes("scale_factor", scale_factor, _axes(weight), 1)
    kernel = widened(swap_channels(weight, groups))
    for axis, s in enumerate(scales, start=2):
        taps = kernel.shape[axis]
        if taps < s:
            raise ValueError(
                f"`weight` (of kernel size {tuple(weight.shape[2:])}) has fewer taps than scale_factor (={s}), "
                f"which no resize-convolution has: pad it with zeros to {s} taps or more."
            )
        # Column t: the transposed kernel of the unit kernel at t. In several dimensions the pseudo-inverse of the
        # tensor product is the tensor product of the pseudo-inverses.
        units = torch.eye(taps - s + 1, dtype=torch.float64).unsqueeze(1)
        inverse = torch.linalg.pinv(transposed_from_resize(units, s).squeeze(0).T)
        kernel = torch.tensordot(kernel, inverse.to(kernel), dims=([axis], [1])).movedim(-1, axis)
    return kernel.to(weight.dtype)


def transposed_from_subpixel(weight: Tensor, scale_factor: Sizes = 2, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """The transposed kernel of a sub-pixel convolution, of `(dilation * (m - 1) + 1) * scale_factor` taps.

    A sub-pixel convolution padded by (before, after) is the transposed convolution with this kernel, stride
    `scale_factor` and padding `scale_factor` times (span - before, span - after), where `span = dilation * (m - 1)`.

    Example:
        >>> transposed_from_subpixel(torch.tensor([[[1., 2.]], [[10., 20.]]]), scale_factor=2)
        tensor([[[ 2., 20.,  1., 10.]]])
    """
    axes = _axes(weight)
    full = weight
    for axis, d in enumerate(read_sizes("dilation", dilation, axes, 1), start=2):
        full = spread(full.flip(axis), axis, d)
    full = shuffle(full.transpose(0, 1), read_sizes("scale_factor", scale_factor, axes, 1)).transpose(0, 1)
    return swap_channels(full, groups)


def subpixel_from_transposed(weight: Tensor, stride: Sizes = 2, groups: int = 1) -> Tensor:
    """The sub-pixel kernel of `ceil(k / stride)` taps of a transposed convolution; missing taps are zeros.

    It undoes `transposed_from_subpixel`, which says how the paddings correspond.

    Example:
        >>> subpixel_from_transposed(torch.tensor([[[1., 2., 3.]]]), stride=2)
        tensor([[[3., 1.]],
        <BLANKLINE>
                [[0., 2.]]])
    """
    strides = read_sizes("stride", stride, _axes(weight), 1)
    full = swap_channels(weight, groups)
    missing = [-k % s for k, s in zip(full.shape[2:], strides, strict=True)]
    full = F.pad(full, [side for extra in reversed(missing) for side in (0, extra)])
    return unshuffle(full.transpose(0, 1), strides).transpose(0, 1).flip(tuple(range(2, full.dim())))


# Phases ---------------------------------------------------------------------------------------------------------------


def phases(weight: Tensor, stride: Sizes = 2, dilation: Sizes = 1, groups: int = 1) -> dict[tuple[int, ...], Tensor]:
    """The convolution kernel (out, in / groups, *taps) of each phase of a transposed convolution.

    The output positions with remainders `r`, counted on the full output, are a convolution of stride 1 (and dilation
    `dilation / gcd(stride, dilation)`) of the input with kernel `r`. A phase without taps has an empty kernel.

    Example:
        >>> phases(torch.tensor([[[1., 2., 3.]]]), stride=2)
        {(0,): tensor([[[3., 1.]]]), (1,): tensor([[[2.]]])}
    """
    kernel = swap_channels(weight, groups)
    kernels = {}
    for phase, taps in _taps_by_phase(weight, stride, dilation).items():
        part = kernel
        for axis, chosen in enumerate(taps, start=2):
            part = part.index_select(axis, torch.tensor(chosen[::-1], dtype=torch.int64, device=weight.device))
        kernels[phase] = part
    return kernels


def phase_gains(weight: Tensor, stride: Sizes = 2, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """The sum of each phase's taps, (*stride, out, in / groups): each phase's answer to a constant input.

    A transposed convolution makes no checkerboard from a constant input exactly where all its phases have one gain.

    Example:
        >>> phase_gains(torch.tensor([[[1., 2., 3.]]]), stride=2)
        tensor([[[4.]],
        <BLANKLINE>
                [[2.]]])
    """
    kernels = phases(widened(weight), stride, dilation, groups)
    gains = torch.stack([kernel.flatten(2).sum(-1) for kernel in kernels.values()])
    return gains.reshape(*read_sizes("stride", stride, _axes(weight), 1), *gains.shape[1:]).to(weight.dtype)


def even_from_transposed(weight: Tensor, stride: Sizes = 2, dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """The kernel with equal phase gains that is nearest to `weight`, in the layout of `weight`.

    Least squares: every tap of a phase takes an equal share of what its phase lacks, and the common gain is the mean of
    the phases' gains, each weighted by one over its number of taps.

    Raises:
        ValueError: where a phase has no taps, and so no gain but zero.

    Example:
        >>> even_from_transposed(torch.tensor([[[1., 2., 3.]]]), stride=2)
        tensor([[[0.3333, 2.6667, 2.3333]]])
    """
    axes = _axes(weight)
    strides = read_sizes("stride", stride, axes, 1)
    dilations = read_sizes("dilation", dilation, axes, 1)
    counts = [math.prod(map(len, taps)) for taps in _taps_by_phase(weight, strides, dilations).values()]
    if 0 in counts:
        raise ValueError(
            f"`weight` (of kernel size {tuple(weight.shape[2:])}) leaves phases without taps at stride={strides}, "
            f"dilation={dilations}, so that their gain is always 0: use a kernel of at least the stride."
        )
    gains = phase_gains(widened(weight), strides, dilations, groups)
    taps = torch.tensor(counts, device=weight.device).reshape(*strides, 1, 1)
    every_phase = tuple(range(axes))
    common = (gains / taps).sum(every_phase) / (1 / taps).sum(every_phase)
    share = (common - gains) / taps
    for axis, (k, s, d) in enumerate(zip(weight.shape[2:], strides, dilations, strict=True)):
        share = share.index_select(axis, torch.tensor([d * t % s for t in range(k)], device=weight.device))
    share = share.movedim((-2, -1), (0, 1))
    return (widened(weight) + swap_channels(share, groups)).to(weight.dtype)


# Steps ----------------------------------------------------------------------------------------------------------------


def swap_channels(weight: Tensor, groups: int = 1) -> Tensor:
    """(in, out / groups, ...) from (out, in / groups, ...), and the other way round.

    Example:
        >>> swap_channels(torch.zeros(4, 3, 5), groups=2).shape
        torch.Size([6, 2, 5])
    """
    groups = read_int("groups", groups, 1)
    if groups == 1:
        return weight.transpose(0, 1)
    if weight.shape[0] % groups:
        raise ValueError(f"`groups` (={groups}) must divide the first dimension of `weight` (={weight.shape[0]}).")
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def spread(tensor: Tensor, axis: int, step: int) -> Tensor:
    """`tensor` with `step - 1` zeros between its positions along an axis.

    Example:
        >>> spread(torch.tensor([1., 2., 3.]), axis=0, step=2)
        tensor([1., 0., 2., 0., 3.])
    """
    if step == 1:
        return tensor
    length = tensor.shape[axis]
    after = tensor.dim() - 1 - axis
    padded = F.pad(tensor.unsqueeze(axis + 1), (0, 0) * after + (0, step - 1))
    return padded.flatten(axis, axis + 1).narrow(axis, 0, (length - 1) * step + 1)


def shuffle(phases: Tensor, scale: Sequence[int]) -> Tensor:
    """(batch, c·prod(scale), *n) to (batch, c, *(n·scale)), channel `c·prod(scale) + r` to phase `r`.

    `torch.nn.PixelShuffle` in 1, 2 or 3 dimensions, with a scale of its own for each axis; channels-last stays so.
    """
    axes = len(scale)
    if axes == 2 and scale[0] == scale[1] and (is_captured() or len(phases)):  # of no image torch's has no gradient
        return F.pixel_shuffle(phases, scale[0])
    batch, channels, *size = phases.shape
    out_channels = channels // math.prod(scale)
    order = [axis for pair in zip(range(2 + axes, 2 + 2 * axes), range(2, 2 + axes), strict=True) for axis in pair]
    by_phase = phases.reshape(batch, out_channels, *scale, *size).permute(0, 1, *order)
    return by_phase.reshape(batch, out_channels, *(n * s for n, s in zip(size, scale, strict=True)))


def unshuffle(tensor: Tensor, scale: Sequence[int]) -> Tensor:
    """What `shuffle` did, undone."""
    axes = len(scale)
    batch, channels, *size = tensor.shape
    coarse = [n // s for n, s in zip(size, scale, strict=True)]
    split = tensor.reshape(batch, channels, *(side for pair in zip(coarse, scale, strict=True) for side in pair))
    order = [*range(3, 3 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2)]
    return split.permute(0, 1, *order).reshape(batch, channels * math.prod(scale), *coarse)


def widened(weight: Tensor) -> Tensor:
    """In float32 where the type is narrower: sums are to be rounded once."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _taps_by_phase(
    weight: Tensor, stride: Sizes, dilation: Sizes
) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The taps along each axis of every phase, phases in order, the last axis changing first."""
    axes = _axes(weight)
    strides = read_sizes("stride", stride, axes, 1)
    dilations = read_sizes("dilation", dilation, axes, 1)
    by_axis = [geometry.phase_taps(k, s, d) for k, s, d in zip(weight.shape[2:], strides, dilations, strict=True)]
    return dict(zip(product(*map(range, strides)), product(*by_axis), strict=True))


def _axes(weight: Tensor) -> int:
    if not 3 <= weight.dim() <= 5:
        raise ValueError(
            f"`weight` (of shape {tuple(weight.shape)}) must have 3, 4 or 5 dimensions: two of channels and 1 to 3 "
            f"spatial ones."
        )
    return weight.dim() - 2
