"""Matrix products, by what multiplies fastest on a processor.

`torch.mm` is MKL's, which on processors of AMD uses half of AVX-512: 110 billion products a second on two cores, where
oneDNN, which computes torch's convolutions, reaches 250; on a processor of Intel with AVX-512 they reach 89 and 104. A
convolution of one tap is a matrix product, and can be added to what is there already.

With AVX2 alone, and on AMD's fourth generation, whose AVX-512 is two halves of AVX2, both reach 92. There MKL is the
faster one in all else: convolutions take longer to call, bring kernels into an order of their own, and sum up weights'
gradients at two thirds of MKL's rate.

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

__all__ = ["Kernel", "add_crossed", "capability", "multiplied", "onednn_takes", "times", "torch_goes_without"]

_LEAST = 2**22
"""Products from which on a convolution is faster, whose call takes longer;"""
_LEAST_OF_HALVES = 2**25
"""and where AVX-512 gains nothing, and only kernels that are in oneDNN's order make it faster."""

_ORDERS = 4
"""Orders of a kernel that are kept: for the rows of a block of work, of the last, and of their borders."""

_SHORT, _SMALL = 3, 20480
"""Taps along one of the last two axes, and numbers of one image, up to which torch transposes without oneDNN."""

_ONE_TAP = ([0, 0], [1, 1], [1, 1], 1)
"""Padding, stride, dilation and groups."""


def capability() -> str:
    """Which of the processors that were measured this one is like: "avx2" or "avx512"."""
    return "avx512" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "avx2"


@lru_cache(maxsize=1)
def _is_wide() -> bool:
    """Whether the processor multiplies more with AVX-512 than with AVX2: of AMD's those that know AVX-VNNI too."""
    knows = cpu_features()
    return capability() == "avx512" and (not knows.get("sse4a") or bool(knows.get("avx_vnni")))


def onednn_takes(*tensors: Tensor) -> bool:
    """Whether oneDNN's own operators take these tensors; they know nothing of gradients, transforms and tracing."""
    return bool(
        _convolved_by_onednn(*tensors)
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not is_transformed()
        and not is_traced()
        and has_onednn_operators()
    )


def torch_goes_without(case: Case) -> bool:
    """Whether `F.conv_transpose` computes a transposed case without oneDNN.

    As torch's `ConvParams::use_mkldnn` says, to which a signal is an image of one row, and which overlooks the last
    axis of a volume.
    """
    short = case.axes == 1 or min(case.kernel_size[-2:]) <= _SHORT
    numbers = case.in_channels * math.prod(case.input_size[:2])
    return case.batch == case.groups == 1 and short and numbers <= _SMALL


class Kernel:
    """A kernel (out, in) that multiplies rows again and again, kept in the order in which oneDNN reads it.

    Which order that is depends on how many rows there are, and another one can be five times slower.
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


def times(rows: Tensor, kernel: Tensor | Kernel, summand: Tensor | None = None, *, into: bool = False) -> Tensor:
    """(rows, out): rows (rows, in) times a kernel (out, in), added to a summand (out,) or (rows, out); `into` it where
    nobody needs it any more."""
    added = summand if summand is not None and summand.dim() > 1 else None
    if not _pays(len(rows) * kernel.numel(), rows, packed=isinstance(kernel, Kernel) and added is None):
        if summand is None:
            return rows @ kernel.t()
        return summand.addmm_(rows, kernel.t()) if into else torch.addmm(summand, rows, kernel.t())
    x = _as_image(rows)
    weight = kernel.weight(rows) if isinstance(kernel, Kernel) else kernel[:, :, None, None]
    if added is None:
        return _as_rows(onednn_conv(x, weight, summand, _ONE_TAP))
    output = onednn_add_conv(_as_image(added), x, weight, _ONE_TAP, in_place=into)
    return added if into else _as_rows(output)


def add_crossed(one: Tensor, other: Tensor, target: Tensor) -> None:
    """Add to (out, in) the products of (rows, out) and (rows, in), summed over rows, as a weight's gradient is."""
    if not _pays(one.numel() * other.shape[1], one, other):
        target.addmm_(one.t(), other)
        return
    weight = other.new_empty(one.shape[1], other.shape[1], 1, 1)  # nothing is read of it but its shape
    padding, stride, dilation, groups = _ONE_TAP
    geometry = stride, padding, dilation, groups
    gradient = convolution_gradients(_as_image(one), _as_image(other), weight, geometry, of_weight=True)
    target.add_(gradient[:, :, 0, 0])


def multiplied(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """(rows, out): rows (rows, in) times a kernel (out, in), and a bias (out,) added, in torch's own operators."""
    count = rows.shape[0]
    few = isinstance(count, int) and count * kernel.numel() < _LEAST  # a symbol should not be asked how large it is
    slower = not is_compiling() and not _is_wide()
    if few or slower or not _convolved_by_onednn(rows, kernel):
        return F.linear(rows, kernel, bias)
    return _as_rows(F.conv2d(_as_image(rows), kernel[:, :, None, None], bias))


def _pays(products: int, *tensors: Tensor, packed: bool = False) -> bool:
    """Whether a convolution is faster, of a kernel that is `packed`, in oneDNN's order."""
    if products < _LEAST or not onednn_takes(*tensors):
        return False
    return _is_wide() or (packed and products >= _LEAST_OF_HALVES)


def _as_image(rows: Tensor) -> Tensor:
    """(1, channels, 1, rows), with the channels last in memory."""
    return rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)


def _as_rows(image: Tensor) -> Tensor:
    return image[0, :, 0].t()


def _convolved_by_onednn(*tensors: Tensor) -> bool:
    """Whether torch's convolutions of such tensors are oneDNN's."""
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors):
        return False
    if is_compiling():  # compilers cannot read the settings, and their convolutions follow them anyway
        return True
    return is_onednn_enabled()
