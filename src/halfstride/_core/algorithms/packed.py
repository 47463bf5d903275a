"""torch's transposed convolution in inference, with the kernel packed in oneDNN's order once.

`F.conv_transpose2d` packs the kernel at every call, which takes half of the time or more for 1024 to 512 channels on
4×4 positions. Here the packed kernel of a parameter is cached. To see that the parameter is still the same takes about
as long as packing, so that only very large kernels gain, and those that are compared for another reason or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from halfstride._core.algorithms.products import is_wide, onednn_takes, torch_goes_without
from halfstride._core.case import Case, Form
from halfstride._core.common import is_channels_last
from halfstride._support.torch_private import onednn_conv_transpose, onednn_pack_transposed
from halfstride._support.weight_cache import cache_on_weight, cached, is_cacheable, is_frozen

_LEAST = 2**12
"""Packing pays from this many weights on."""
_LEAST_SMALL = 2**18
"""Where torch does not use oneDNN but one matrix product, packing pays from this many weights on."""
_FEW_POSITIONS = {"transposed": 2**11, "resize": 2**13}
"""Packing pays up to this many input positions of all images, by form: with more, the products take much longer than
packing."""
_LEAST_COMPARED = 2**22
"""Packing a weight that nothing else is cached of pays from this size on, and with wide AVX-512 only."""
_HEAVY = 0.25
"""For contiguous images, whose output must be copied back from channels-last, packing pays from this many weights per
output element on."""


def pays(case: Case, input: Tensor, weight: Tensor, form: Form, output_padding: Sequence[int]) -> bool:
    """Whether a kernel made of this weight of a form can be packed, and should be."""
    return bool(
        _gains(case, form, is_channels_last(input))
        and is_cacheable(weight)
        and (_gains_compared(case, form) or is_frozen(weight))
        and all(extra < s for extra, s in zip(output_padding, case.stride, strict=True))  # oneDNN's limit
        and onednn_takes(input, weight)
    )


@cached
def _gains(case: Case, form: Form, channels_last: bool) -> bool:
    """Whether packing is faster, apart from what it costs to see that the weight is still the same."""
    weights = _weights(case)
    if not case.channel_pairs or weights < _LEAST:
        return False
    if all(s == 1 for s in case.stride):
        return False  # with many images the order that oneDNN chooses by itself is twice as fast
    if case.axes == 3:
        return channels_last  # torch transposes convolutions of volumes without oneDNN
    if weights < _LEAST_SMALL and torch_goes_without(case):
        return False
    in_order = channels_last or weights >= _HEAVY * case.output_numel
    return in_order and case.batch * math.prod(case.input_size) <= _FEW_POSITIONS[form]


@cached
def _gains_compared(case: Case, form: Form) -> bool:
    """Whether packing is still faster where every call compares the weight; a folded kernel's is compared anyway."""
    return form != "transposed" or case.axes == 3 or (_weights(case) >= _LEAST_COMPARED and is_wide())


def _weights(case: Case) -> int:
    return case.in_channels * case.out_channels // case.groups * math.prod(case.kernel_size)


def transposed(
    case: Case,
    input: Tensor,
    weight: Tensor,
    form: Form,
    kernel: Callable[[], Tensor],
    bias: Tensor | None,
    padding: Sequence[int],
    output_padding: Sequence[int],
) -> Tensor:
    """The transposed convolution of an input by `kernel()`, which is made of a weight of this form."""
    signal = case.axes == 1  # to oneDNN an image of one row
    x = input.unsqueeze(2) if signal else input
    sizes = ((padding, 0), (output_padding, 0), (case.stride, 1), (case.dilation, 1))
    geometry = (*([of_row, *size] if signal else list(size) for size, of_row in sizes), case.groups)

    def pack() -> Tensor:
        made = kernel().unsqueeze(2) if signal else kernel()
        return onednn_pack_transposed(made.contiguous(), geometry, x.shape)

    key = ("packed", form, case.kernel_size, padding, output_padding, case.stride, case.dilation, case.groups)
    output = onednn_conv_transpose(x, cache_on_weight(weight, key, pack), bias, geometry)
    output = output if is_channels_last(input) else output.contiguous()
    return output.squeeze(2) if signal else output
