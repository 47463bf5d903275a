"""Each input value times the kernel, added at steps of the stride.

All the products are one matrix product, (positions, in) by (in, out·taps). What remains is to add each of them to its
output position: col2im, torch's `fold`. Where the kernel is as large as the stride nothing overlaps, and there is no
shorter way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from halfstride.algorithms.case import Case, Cost
from halfstride.algorithms.common import (
    as_channels_last,
    as_transposed,
    even_cut,
    obstacle_to_phases,
    settled,
    transposed_weight,
    typed,
    window,
)
from halfstride.kernels import widened

__all__ = ["compute", "cost", "obstacle"]

obstacle = obstacle_to_phases


def cost(case: Case) -> Cost:
    twin, _ = as_transposed(case)
    columns = math.prod(twin.input_size) * math.prod(twin.kernel_size)
    traffic = case.input_numbers + 2 * columns * case.batch * case.out_channels + case.output_numbers
    return Cost(columns * case.channel_pairs, traffic)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    twin, margin = as_transposed(case)
    x, weight = settled(case, input, margin), transposed_weight(case, weight)
    # Half types would lose their few digits in sums of many rounded products: they are rounded once, at the end.
    x, weight = widened(x), widened(weight)
    groups, taps, size = case.groups, weight.shape[2:], x.shape[2:]
    columns = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
    products = columns @ x.reshape(x.shape[0], groups, x.shape[1] // groups, math.prod(size))
    output = _added(products.reshape(x.shape[0], case.out_channels, *taps, *size), twin)
    if bias is not None:
        output = output + bias.reshape(-1, *(1,) * case.axes)
    return as_channels_last(typed(output, input.dtype), like=input)


def _added(products: Tensor, case: Case) -> Tensor:
    """(batch, out, *taps, *n) to (batch, out, *output_size), by `fold`, which knows images only."""
    geometry = zip(case.full_size, case.padding, case.output_size, case.stride, case.dilation, strict=True)
    axes, rest = [], []
    for full, p, o, s, d in geometry:
        padding, extra = even_cut(full, p, o, s)
        axes.append(_Axis(full - 2 * padding + extra, d, padding, s))
        rest.append(p - padding)
    if case.axes == 1:  # an image of height 1
        output = _fold(products.unsqueeze(2).unsqueeze(4), _Axis(1), axes[0]).squeeze(2)
    elif case.axes == 2:
        output = _fold(products, *axes)
    else:  # every image, then the depth
        images = _fold(products.permute(0, 1, 2, 5, 3, 4, 6, 7).flatten(1, 3), *axes[1:])
        volume = images.reshape(*products.shape[:3], 1, products.shape[5], axes[1].size * axes[2].size)
        output = _fold(volume, axes[0], _Axis(volume.shape[-1])).reshape(*products.shape[:2], *(a.size for a in axes))
    return window(output, rest, case.output_size)


class _Axis(NamedTuple):
    """What `fold` does along one axis; by default, nothing."""

    size: int
    dilation: int = 1
    padding: int = 0
    stride: int = 1


def _fold(products: Tensor, high: _Axis, wide: _Axis) -> Tensor:
    """(batch, out, *two taps, *two n) to (batch, out, *two sizes)."""
    taps = tuple(products.shape[2:4])
    size, dilation, padding, stride = zip(high, wide, strict=True)
    return F.fold(products.flatten(4).flatten(1, 3), size, taps, dilation, padding, stride)
