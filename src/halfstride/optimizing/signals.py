"""Convolutions of signals in inference, with the channels last.

To oneDNN, which computes torch's convolutions on a processor, a signal is an image of one row. Torch keeps a signal's
channels apart, and oneDNN brings them together and back at every call; images can keep theirs together from layer to
layer, in `torch.channels_last`, for which signals have no counterpart. Here a convolution gives a lazy tensor: it shows
the strides that torch's own result has, and is made of one piece whose channels lie together. What acts on each
position alone acts on the piece, and so does the next convolution. Who looks at it in any other way finds what torch
would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.optimizing.lazy import Recipe, is_ordinary, recipe_of

if TYPE_CHECKING:
    from halfstride.optimizing.rewriting import Rewriting

__all__ = ["conv", "conv_transpose"]


def conv(
    rewriting: Rewriting,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """`F.conv1d` as a convolution of an image of one row; `NotImplemented` where that is not wanted or understood."""
    pads = padding if isinstance(padding, str) else _of_row(padding, 0)
    geometry = _of_row(stride), pads, _of_row(dilation), groups
    return _of_image(rewriting, F.conv2d, input, weight, bias, *geometry)


def conv_transpose(
    rewriting: Rewriting,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    """`F.conv_transpose1d` likewise."""
    geometry = _of_row(stride), _of_row(padding, 0), _of_row(output_padding, 0), groups, _of_row(dilation)
    return _of_image(rewriting, F.conv_transpose2d, input, weight, bias, *geometry)


def _of_row(value: Any, of_rows: int = 1) -> tuple[int, int]:
    """What torch takes for one axis, for the two of an image of one row."""
    return of_rows, value[0] if isinstance(value, Sequence) else value


def _of_image(
    rewriting: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *geometry: Any,
) -> Any:
    signal = _signal(rewriting, input, weight, bias)
    if signal is None:
        return NotImplemented
    row = signal.transpose(1, 2).contiguous().transpose(1, 2).unsqueeze(2)  # a view where channels lie together
    try:
        output = func(row, weight.unsqueeze(2), bias, *geometry)
    except RuntimeError:  # which the original words in its own way
        return NotImplemented
    return rewriting.lazy(Recipe((output.squeeze(2),), ((1, 1, 1),)))


def _signal(rewriting: Rewriting, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The input, where its channels should lie together."""
    recipe = recipe_of(input)
    if recipe is not None:
        if not recipe.is_whole:
            return None
        input = recipe.pieces[0]
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if not all(map(is_ordinary, tensors)) or input.dim() != 3 or weight.dim() != 3 or not input.numel():
        return None
    if {(tensor.device.type, tensor.dtype) for tensor in tensors} != {("cpu", input.dtype)}:
        return None
    if torch.is_autocast_enabled("cpu") or (
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    ):
        return None
    return input if rewriting.plan.wants_signals() else None
