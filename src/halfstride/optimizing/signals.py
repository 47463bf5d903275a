"""Convolutions of signals in inference, with the channels last.

To oneDNN, which computes torch's convolutions on a processor, a signal is an image of one row. Torch keeps a signal's
channels apart, and oneDNN brings them together and back at every call; images can keep theirs together from layer to
layer, in `torch.channels_last`, for which signals have no counterpart. Here a convolution gives a lazy tensor: it shows
the strides that torch's own result has, and is made of one piece whose channels lie together. What acts on each
position alone acts on the piece, and so does the next convolution. Who looks at it in any other way finds what torch
would have made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halfstride.optimizing.lazy import Recipe, is_ordinary, recipe_of

if TYPE_CHECKING:
    from halfstride.optimizing.rewriting import Rewriting

__all__ = ["convolved"]


def convolved(
    rewriting: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *geometry: Any,
) -> Any:
    """A signal, convolved in inference by a function of images, whose geometry is given for an image of one row;
    `NotImplemented` where that is not wanted or understood."""
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
    if not weight.is_contiguous():  # in whose order torch would give the result
        return None
    if input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    return input if rewriting.plan.wants_signals() else None
