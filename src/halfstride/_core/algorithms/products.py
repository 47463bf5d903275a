"""Matrix products by the faster of MKL and oneDNN.

`torch.mm` calls MKL, `F.conv2d` oneDNN; a convolution with one tap is a matrix product. Measured on two cores, in 10⁹
MACs per second: AMD with full AVX-512 110 by MKL and 250 by oneDNN; Intel with AVX-512 89 and 104; AVX2, and AMD's
fourth generation, which splits AVX-512 into halves, 92 by both. In the last case MKL is preferred: convolutions take
longer to call, reorder their kernels, and compute the weight's gradient at two thirds of MKL's rate.

Matrices are named as in a layer: rows are positions, columns are channels, a kernel is (out, in).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride._core.case import Case
from halfstride._support.torch_private import (
    convolution_gradients,
    cpu_features,
    has_onednn_operators,
    is_compiling,
    is_onednn_enabled,
    is_traced,
    is_transformed,
    onednn_add_conv,
    onednn_conv,
    onednn_pack,
)

_LEAST = 2**22
"""oneDNN is used from this many MACs on."""
_LEAST_OF_HALVES = 2**25
"""Without full AVX-512, oneDNN is used from this many MACs on, with packed kernels only."""

_ORDERS = 4
"""Packed forms of one kernel that are cached: blocks of work differ in their rows at the borders."""

_SHORT, _SMALL = 3, 20480
"""torch computes a transposed convolution without oneDNN where a kernel has at most `_SHORT` taps along one of the last
two axes and the image at most `_SMALL` elements."""

_ONE_TAP = ([0, 0], [1, 1], [1, 1], 1)
"""Padding, stride, dilation and groups."""


def capability() -> str:
    """The instruction set that torch uses, of those that were measured: "avx2" or "avx512"."""
    return "avx512" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "avx2"


@lru_cache(maxsize=1)
def is_wide() -> bool:
    """Whether AVX-512 is faster than AVX2: on AMD (known by SSE4a) only where AVX-VNNI exists too."""
    knows = cpu_features()
    return capability() == "avx512" and (not knows.get("sse4a") or bool(knows.get("avx_vnni")))


def onednn_takes(*tensors: Tensor) -> bool:
    """Whether oneDNN's operators can take these tensors; they support neither gradients nor transforms nor tracers."""
    return bool(
        _convolved_by_onednn(*tensors)
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not is_transformed()
        and not is_traced()
        and has_onednn_operators()
    )


def torch_goes_without(case: Case) -> bool:
    """Whether `F.conv_transpose` computes a transposed case without oneDNN.

    The rule of torch's `ConvParams::use_mkldnn`, for which a signal is an image of one row; it ignores the last axis of
    a volume.
    """
    short = case.axes == 1 or min(case.kernel_size[-2:]) <= _SHORT
    numbers = case.in_channels * math.prod(case.input_size[:2])
    return case.batch == case.groups == 1 and short and numbers <= _SMALL


class Kernel:
    """A kernel (out, in) for repeated products, packed in oneDNN's order.

    The order depends on the number of rows; the wrong one can be five times slower.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self._packed: dict[int, Tensor] = {}

    def weight(self, rows: Tensor) -> Tensor:
        """The weight of a convolution of one tap, of an image of these rows."""
        shape = [1, rows.shape[1], 1, rows.shape[0]]
        if len(rows) not in self._packed:
            if len(self._packed) == _ORDERS:
                self._packed.clear()
            self._packed[len(rows)] = onednn_pack(self._matrix[:, :, None, None], _ONE_TAP, shape)
        return self._packed[len(rows)]

    def t(self) -> Tensor:
        return self._matrix.t()

    def numel(self) -> int:
        return self._matrix.numel()


def times(rows: Tensor, kernel: Tensor | Kernel, summand: Tensor | None = None, *, in_place: bool = False) -> Tensor:
    """(rows, out): rows (rows, in) times a kernel (out, in), plus a summand (out,) or (rows, out), which is overwritten
    where `in_place`."""
    added = summand if summand is not None and summand.dim() > 1 else None
    if not _pays(len(rows) * kernel.numel(), rows, packed=isinstance(kernel, Kernel) and added is None):
        if summand is None:
            return rows @ kernel.t()
        return summand.addmm_(rows, kernel.t()) if in_place else torch.addmm(summand, rows, kernel.t())
    x = _as_image(rows)
    weight = kernel.weight(rows) if isinstance(kernel, Kernel) else kernel[:, :, None, None]
    if added is None:
        return _as_rows(onednn_conv(x, weight, summand, _ONE_TAP))
    output = onednn_add_conv(_as_image(added), x, weight, _ONE_TAP, in_place=in_place)
    return added if in_place else _as_rows(output)


def add_crossed(one: Tensor, other: Tensor, target: Tensor) -> None:
    """Add to (out, in) the product of (rows, out) and (rows, in) over rows: the gradient of a weight."""
    if not _pays(one.numel() * other.shape[1], one, other):
        target.addmm_(one.t(), other)
        return
    weight = other.new_empty(one.shape[1], other.shape[1], 1, 1)  # only its shape is read
    padding, stride, dilation, groups = _ONE_TAP
    geometry = stride, padding, dilation, groups
    gradient = convolution_gradients(_as_image(one), _as_image(other), weight, geometry, of_weight=True)
    target.add_(gradient[:, :, 0, 0])


def multiplied(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """(rows, out): rows (rows, in) times a kernel (out, in) plus a bias (out,), by torch's public operators."""
    count = rows.shape[0]
    few = isinstance(count, int) and count * kernel.numel() < _LEAST  # comparing a symbol would fix its value
    slower = not is_compiling() and not is_wide()
    if few or slower or not _convolved_by_onednn(rows, kernel):
        return F.linear(rows, kernel, bias)
    return _as_rows(F.conv2d(_as_image(rows), kernel[:, :, None, None], bias))


def _pays(macs: int, *tensors: Tensor, packed: bool = False) -> bool:
    """Whether oneDNN is faster than MKL; `packed`: the kernel is in oneDNN's order."""
    if macs < _LEAST or not onednn_takes(*tensors):
        return False
    return is_wide() or (packed and macs >= _LEAST_OF_HALVES)


def _as_image(rows: Tensor) -> Tensor:
    """(1, channels, 1, rows), with the channels last in memory."""
    return rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)


def _as_rows(image: Tensor) -> Tensor:
    return image[0, :, 0].t()


def _convolved_by_onednn(*tensors: Tensor) -> bool:
    """Whether torch's convolutions of such tensors are oneDNN's."""
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors):
        return False
    if is_compiling():  # compilers cannot read the settings; their convolutions follow them
        return True
    return is_onednn_enabled()
