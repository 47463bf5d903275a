"""A resize-convolution that compilers leave as it is: `torch.ops.halfstride.resize_conv`.

Traced into its steps it would lose what it is fast by: the sums of a kernel's taps would be made again at every call,
and the matrix products of summation by parts would come apart. As an operator of its own it is computed as without a
compiler, by the algorithm that `planning` chooses, with all kept that is made of a weight. It knows no gradients: it is
for inference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halfstride import planning
from halfstride.algorithms import ALGORITHMS
from halfstride.algorithms.case import Case
from halfstride.algorithms.common import as_channels_last, is_channels_last, is_transformed
from halfstride.caching import kept, lasts

__all__ = ["part", "resize_conv", "stays_whole"]


def stays_whole(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a compiler should meet a resize-convolution as one operator.

    Not where it would take "scatter": what follows that matrix product is one loop when it is compiled.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting() or is_transformed():
        return False
    given = [input, weight] if bias is None else [input, weight, bias]
    return (
        {(tensor.device.type, tensor.dtype) for tensor in given} == {("cpu", input.dtype)}
        and not torch.is_autocast_enabled("cpu")  # which knows torch's own operators only
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))
        and planning.choose(case) == "folded"
    )


def resize_conv(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None, first: int | None) -> Tensor:
    """A resize-convolution as one operator; `first` as in `part`."""
    batched = input.dim() > case.axes + 1
    images = input if batched else input.unsqueeze(0)
    output: Tensor = torch.ops.halfstride.resize_conv(images, weight, bias, first, *case[2:9])
    return output if batched else output.squeeze(0)


def part(weight: Tensor, first: int | None, channels: int) -> Tensor:
    """The kernel of some of a weight's input channels, from `first` on; of all where that is None.

    Where the weight lasts it does too, so that what is made of it can be kept.
    """
    if first is None:
        return weight
    if not lasts(weight):
        return weight.narrow(1, first, channels)

    def lasting() -> Tensor:
        return nn.Parameter(weight.narrow(1, first, channels).clone(), requires_grad=False)

    return kept(weight, ("part", first, channels), lasting)


_Sizes = list[int]


@torch.library.custom_op("halfstride::resize_conv", mutates_args=())
def _resize_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int | None,
    output_size: _Sizes,
    kernel_size: _Sizes,
    scale_factor: _Sizes,
    dilation: _Sizes,
    padding: _Sizes,
    padding_mode: str,
    groups: int,
) -> Tensor:
    kernel = part(weight, first, input.shape[1])
    batch, in_channels, *input_size = input.shape
    case = Case(
        "resize",
        tuple(input_size),
        tuple(output_size),
        tuple(kernel_size),
        tuple(scale_factor),
        tuple(dilation),
        tuple(padding),
        padding_mode,
        groups,
        batch,
        in_channels,
        weight.shape[0],
    )
    algorithm = planning.choose(case, "auto", input.device.type, channels_last=is_channels_last(input))
    return as_channels_last(ALGORITHMS[algorithm].compute(case, input, kernel, bias), like=input)


@_resize_conv.register_fake
def _(input, weight, bias, first, output_size, *_):  # type: ignore[no-untyped-def]
    return as_channels_last(input.new_empty(input.shape[0], weight.shape[0], *output_size), like=input)
