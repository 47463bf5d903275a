"""Shared by several algorithms: padding, memory format, and the transposed twin of a resize-convolution.

The transposed twin of a resize-convolution is the transposed convolution that computes the same.

All tensors are batched, (batch, channels, *spatial).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from halfstride import kernels
from halfstride._core.case import Case
from halfstride._support.arguments import Pairs
from halfstride._support.torch_private import is_compiling, record_function
from halfstride._support.weight_cache import cache_on_weight, cached

CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
"""torch's, by axes less one."""


def pad(input: Tensor, padding: Sequence[tuple[int, int]], mode: str = "zeros") -> Tensor:
    """`input` padded by (before, after) positions per axis in a padding mode; negative padding crops."""
    if not any(map(any, padding)):
        return input
    flat = [max(side, 0) for pair in reversed(padding) for side in pair]
    if any(flat):
        padded = F.pad(input, flat, mode="constant" if mode == "zeros" else mode)
        # torch's circular padding, unlike its other modes, does not preserve the memory format.
        input = as_channels_last(padded, like=input) if mode == "circular" else padded
    # Crop last: what is reflected at one end may come from what is cropped at the other.
    for axis, (before, after) in enumerate(padding, start=2):
        if before < 0 or after < 0:
            start, end = max(-before, 0), max(-after, 0)
            input = input.narrow(axis, start, input.shape[axis] - start - end)
    return input


def window(output: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """`size` positions of `output` from `start` on, per axis; zeros beyond its ends."""
    length = output.shape[2:]
    return pad(output, [(-b, b + o - n) for b, o, n in zip(start, size, length, strict=True)])


def symmetric_crop(full: int, start: int, size: int, limit: int, most: int) -> tuple[int, int]:
    """The (padding, output_padding) of torch's transposed convolution for `size` positions of `full` from `start` on.

    padding <= most and output_padding < limit. Where these allow no exact crop, the output has positions too many, for
    `window` to crop: the wanted ones begin at `start - padding`.
    """
    end = full - start - size  # positions to crop at the end, or to add where negative
    if 0 <= start - end < limit and start <= most:
        return start, start - end
    return min(start, max(end, 0), most), min(max(-end, 0), limit - 1)


def is_channels_last(input: Tensor) -> bool:
    """Whether an image or a volume is in channels-last format.

    Judged by strides, since `is_contiguous(memory_format=...)` does not work under `torch.func.vmap`. A tensor with one
    position counts as contiguous unless its strides say otherwise.
    """
    return input.dim() > 3 and 1 < input.shape[1] <= input.stride(-1) and input.stride(1) == 1


def suggests_channels_last(image: Tensor) -> bool:
    """Whether torch's operators on images take a tensor for channels-last; by its strides, even of a single channel."""
    batch, channels, height, width = image.stride()
    sizes = image.shape
    least = 0
    for size, stride in ((sizes[1], channels), (sizes[3], width), (sizes[2], height)):
        if size == 0 or stride < least:
            return False
        least = stride * size if size > 1 else stride
    return sizes[0] > 0 and batch >= least != channels


def in_torchs_format(output: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """An image as torch's convolutions would return it: channels-last where input or weight are."""
    all_contiguous = input.is_contiguous() and weight.is_contiguous() and output.is_contiguous()
    if all_contiguous and min(input.shape[1], weight.shape[1]) > 1:  # of one channel both formats are contiguous
        return output
    last = suggests_channels_last(input) or suggests_channels_last(weight)
    if last == suggests_channels_last(output):
        return output
    if not last:
        return output.contiguous()
    rows = output.movedim(1, -1)
    return rows.flatten().view(rows.shape).movedim(-1, 1)  # with the strides of its shape, even of a single channel


def as_channels_last(output: Tensor, like: Tensor) -> Tensor:
    """`output` in channels-last format where `like` is, else contiguous."""
    if is_channels_last(like):
        return output.movedim(1, -1).contiguous().movedim(-1, 1)
    return output.contiguous()


def typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in a dtype, without an operator in exported graphs where it already has it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def apply_function(function: type[Function], *arguments: Any) -> Any:
    """The result of an autograd function, by `forward` alone where no gradients are recorded.

    Outside of transforms of torch.func only.
    """
    if not torch.is_grad_enabled():
        return function.forward(*arguments)
    if is_compiling():
        return function.apply(*arguments)  # type: ignore[no-untyped-call]
    return record_function(function, *arguments)


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether gradients are recorded for one of the tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def store(operation: Any, target: Tensor, *operands: Tensor) -> None:
    """`target = operation(*operands)` in one pass; compilers fuse the copy, and cannot read `out=` into a view."""
    if is_compiling():
        target.copy_(operation(*operands))
    else:
        operation(*operands, out=target)


def low_resolution_mode(case: Case) -> str | None:
    """The mode of padding the *input* of a resize-convolution that pads its upsampled input by `padding_mode`.

    "replicate" and "circular" are the same before and after upsampling. "reflect" is not, except that its first `s - 1`
    positions are copies of the border. None where no mode does it.
    """
    if case.form != "resize" or case.padding_mode != "reflect":
        return case.padding_mode
    furthest = map(max, case.upsampled_border)
    if all(beyond < s or beyond <= 0 for beyond, s in zip(furthest, case.stride, strict=True)):
        return "replicate"
    if all(s == 1 for s in case.stride):
        return "reflect"
    return None


def unsupported_by_phases(case: Case) -> str | None:
    """The reason why a case cannot be computed at low resolution; None where it can."""
    if case.form == "subpixel":
        return "a sub-pixel convolution is made of its phases already, which 'native' computes once each"
    if low_resolution_mode(case) is None:
        return (
            "padding_mode='reflect' by scale_factor positions or more mirrors what upsampling made, and has no "
            "counterpart before it"
        )
    return None


def input_padding(case: Case, *, even_zeros: bool = False) -> Pairs:
    """The padding of the input, per axis, that leaves only zeros beyond it.

    None where the padding mode is "zeros", which every operator pads with by itself, unless `even_zeros`.
    """
    if case.padding_mode == "zeros" and not even_zeros:
        return ((0, 0),) * case.axes
    return tuple((max(before, 0), max(after, 0)) for before, after in case.border)


def pad_input(case: Case, input: Tensor, padding: Pairs) -> Tensor:
    """The input padded in the mode of the case."""
    if not any(map(any, padding)):
        return input
    mode = low_resolution_mode(case)
    assert mode is not None, "see unsupported_by_phases"
    return pad(input, padding, mode)


def after_padding(case: Case, padding: Pairs) -> Case:
    """The case of an input that has been padded so far that only zeros lie beyond."""
    sign = 1 if case.form == "transposed" else -1  # of a transposed convolution the padding is cut from the output
    axes = zip(case.padding, case.stride, padding, strict=True)
    return case._replace(
        input_size=tuple(n + sum(pair) for n, pair in zip(case.input_size, padding, strict=True)),
        padding=tuple(p + sign * s * before for p, s, (before, _) in axes),
        padding_mode="zeros",
    )


@cached
def as_transposed(case: Case) -> tuple[Case, Pairs]:
    """A transposed or resize-convolution as a transposed one padded with zeros, and the padding of its input."""
    twin = case._replace(form="transposed")
    if case.form == "resize":
        twin = twin._replace(
            kernel_size=tuple(span + s for span, s in zip(case.span, case.stride, strict=True)),
            dilation=(1,) * case.axes,
            padding=tuple(span - p for span, p in zip(case.span, case.padding, strict=True)),
        )
    padding = input_padding(case, even_zeros=min(twin.padding) < 0)
    return after_padding(twin, padding), padding


def transposed_weight(case: Case, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernel of the case's transposed twin, in a dtype that is no narrower than the weight's."""
    if case.form == "transposed":
        return typed(weight, dtype)

    def folded() -> Tensor:
        wide = kernels.widened(weight)  # sums of taps are rounded once
        return typed(kernels.transposed_from_resize(wide, case.stride, case.dilation, case.groups), dtype)

    return cache_on_weight(weight, (case.stride, case.dilation, case.groups, dtype), folded)
