"""The definitions: each form in the operators of `torch.nn.functional` that people write it in.

    transposed    conv_transpose; what its symmetric padding cannot cut is cut from the result
    resize        interpolate (nearest), pad, conv
    subpixel      pad, conv, pixel_shuffle

Every other algorithm is measured against this one, and exported models are made of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from halfstride._core.algorithms import packed, volumes
from halfstride._core.algorithms.nearest import repeated
from halfstride._core.case import Case, Cost, Form
from halfstride._core.common import CONVOLUTIONS, as_channels_last, as_transposed, pad, symmetric_crop, typed, window
from halfstride._support.weight_cache import cached
from halfstride.kernels import shuffle

_CONV_TRANSPOSE: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def unsupported_reason(case: Case) -> str | None:
    """None: it computes every case."""
    return None


def cost(case: Case) -> Cost:
    taps = math.prod(case.kernel_size)
    if case.form == "transposed":
        twin, _ = as_transposed(case)
        return Cost(case.channel_pairs * math.prod(twin.input_size) * taps, case.input_numel + case.output_numel, 1)
    upsampled = case.input_numel * math.prod(case.stride)
    if case.form == "resize":
        macs = case.channel_pairs * math.prod(case.output_size) * taps
        return Cost(macs, case.input_numel + 2 * upsampled + case.output_numel, 2)
    phases = math.prod(s * -(-o // s) for o, s in zip(case.output_size, case.stride, strict=True))
    return Cost(case.channel_pairs * phases * taps, case.input_numel + 3 * case.output_numel, 2)


def compute(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = typed(weight, input.dtype)
    if case.form == "transposed":
        twin, margin = as_transposed(case)
        return transposed(twin, pad(input, margin, case.padding_mode), weight, case.form, lambda: weight, bias)
    rest = case.dilation, case.groups, case.padding_mode
    if case.form == "resize":
        return conv(repeated(input, (1, 1, *case.stride)), weight, bias, case.upsampled_border, *rest)
    phases = conv(input, weight, bias, case.border, *rest)
    output = as_channels_last(shuffle(phases, case.stride), like=phases)
    return _cut(output, (0,) * case.axes, case.output_size)


def conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch's convolution of stride 1, padded by (before, after) per axis; negative padding cuts."""
    symmetric = [max(min(pair), 0) if padding_mode == "zeros" else 0 for pair in padding]
    rest = [(before - p, after - p) for (before, after), p in zip(padding, symmetric, strict=True)]
    input = pad(input, rest, padding_mode)
    return CONVOLUTIONS[len(padding) - 1](input, weight, bias, padding=symmetric, dilation=dilation, groups=groups)


def transposed(
    case: Case, input: Tensor, weight: Tensor, form: Form, kernel: Callable[[], Tensor], bias: Tensor | None
) -> Tensor:
    """Compute a case that `as_transposed` made, with torch's transposed convolution or a faster equal of it.

    Args:
        case: the transposed convolution.
        input: of the operator.
        weight: as the caller gave it, in its own form.
        form: that form.
        kernel: makes the full kernel of it; called only where it is needed.
        bias: one number per output channel.
    """
    padding, output_padding, start, reached = cuts(case)
    of_all = bias if reached else None
    if packed.pays(case, input, weight, form, output_padding):
        output = packed.transposed(case, input, weight, form, kernel, of_all, padding, output_padding)
    elif volumes.pays(case, input, made := kernel(), output_padding):
        output = volumes.transposed(case, input, made, of_all, padding, output_padding)
    else:
        output = _CONV_TRANSPOSE[case.axes - 1](
            input, made, of_all, case.stride, padding, output_padding, case.groups, case.dilation
        )
    output = _cut(output, start, case.output_size)
    return output if bias is of_all or bias is None else output + bias.reshape(-1, *(1,) * case.axes)


def is_torchs_own(case: Case, input: Tensor, weight: Tensor) -> bool:
    """Whether a transposed convolution, padded with zeros, would be computed as torch does it, with nothing gained."""
    _, output_padding, *_ = cuts(case)
    images = input if input.dim() > case.axes + 1 else input.unsqueeze(0)
    return not (
        packed.pays(case, images, weight, case.form, output_padding)
        or volumes.pays(case, images, weight, output_padding)
    )


@cached
def cuts(case: Case) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    """torch's padding and output_padding, where the output begins in what they give, and whether it is all there."""
    # It may lack positions that no kernel reaches, which are the bias.
    # On one thread oneDNN writes beyond its memory when it computes the gradient of a volume's kernel, if the padding
    # of the first axis is larger than the stride.
    most = (case.stride[0], *case.padding[1:]) if case.axes == 3 else case.padding
    cuts = [
        symmetric_crop(full, p, o, max(s, d), at_most)
        for full, p, o, s, d, at_most in zip(
            case.full_size, case.padding, case.output_size, case.stride, case.dilation, most, strict=True
        )
    ]
    padding, output_padding = zip(*cuts, strict=True)
    start = tuple(p - cut for p, cut in zip(case.padding, padding, strict=True))
    sizes = zip(case.full_size, padding, output_padding, start, case.output_size, strict=True)
    reached = all(first + o <= full - 2 * p + extra for full, p, extra, first, o in sizes)
    return padding, output_padding, start, reached


def _cut(output: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The window of an output, not as a view into what is cut off."""
    if output.shape[2:] == size and not any(start):
        return output
    cut = window(output, start, size)
    return as_channels_last(cut, like=output)
