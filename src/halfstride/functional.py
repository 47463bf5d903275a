"""Stateless operators, with the signatures of `torch.nn.functional` and what those refuse.

One operator, three ways to write its kernel:

- `conv_transpose1d/2d/3d`: the transposed convolution, also called deconvolution, up-convolution or fractionally
  strided convolution;
- `resize_conv1d/2d/3d`: nearest-neighbour upsampling, then a convolution of stride 1 (Odena et al., 2016);
- `subpixel_conv1d/2d/3d`: a convolution to `out_channels * prod(scale_factor)` channels, then a pixel shuffle
  (Shi et al., 2016).

**Padding** is, in all of them, an int, one int per axis, one pair `(before, after)` per axis, "same" or "valid".
With "same" the output has `input * stride` positions, whatever the kernel.

**padding_mode** says how the *input* is padded: "zeros", "reflect", "replicate" or "circular".
The output of a transposed convolution covers the same positions in every mode, computed from the padded input. So a
constant input gives a constant output in every mode but "zeros"; a resize-convolution and the transposed convolution
with its folded kernel agree in "zeros", "replicate" and "circular"; and "circular" with `input * stride` outputs is the
adjoint of the circular strided convolution. (The adjoints of "reflect" and "replicate" would add what falls outside
onto the border, which brightens it.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halfstride._core import algorithms, compiled, planner
from halfstride._core.case import CASES, Case, Form
from halfstride._core.common import in_torchs_format, is_channels_last, wants_gradients
from halfstride._support.arguments import Padding, Sizes
from halfstride._support.torch_private import is_captured, is_jit_traced, is_transformed
from halfstride._support.weight_cache import cached

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = [
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "resize_conv1d",
    "resize_conv2d",
    "resize_conv3d",
    "subpixel_conv1d",
    "subpixel_conv2d",
    "subpixel_conv3d",
]


# Transposed convolution -----------------------------------------------------------------------------------------------


def conv_transpose1d(
    input: Shaped[Tensor, "*batch in_channels length"],
    weight: Shaped[Tensor, "in_channels out_channels_per_group taps"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_length"]:
    """A transposed convolution of a signal; arguments as in `conv_transpose2d`, tuples with one entry.

    Example:
        >>> x, w = torch.tensor([[[1., 2.]]]), torch.tensor([[[1., 10., 100.]]])
        >>> conv_transpose1d(x, w, stride=2)
        tensor([[[  1.,  10., 102.,  20., 200.]]])
        >>> conv_transpose1d(x, w, stride=2, padding="same")
        tensor([[[  1.,  10., 102.,  20.]]])
    """
    geometry = stride, padding, output_padding, groups, dilation, output_size, padding_mode
    return upsample("transposed", 1, input, weight, bias, geometry, algorithm)


def conv_transpose2d(
    input: Shaped[Tensor, "*batch in_channels height width"],
    weight: Shaped[Tensor, "in_channels out_channels_per_group kernel_height kernel_width"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_height output_width"]:
    """A transposed convolution of an image: each input value times the kernel, added at steps of the stride.

    Args:
        input: (batch, in_channels, height, width), or without the batch; floating point or complex.
        weight: (in_channels, out_channels / groups, *kernel_size), of the same type.
        bias: (out_channels,), added to every output position.
        stride: output positions from one input's kernel to the next, 1 or more.
        padding: positions cut from the full output, 0 or more: the padding of the convolution that this one undoes. An
            int, an int per axis, a pair (before, after) per axis, "valid" (0), or "same": `input * stride` positions
            remain, cut as TensorFlow does it, the odd position at the end.
        output_padding: positions added at the end, less than stride or dilation.
        groups: blocks of channels that do not see each other.
        dilation: output positions from one tap to the next, 1 or more.
        output_size: the size to restore, an int or one per axis, instead of output_padding.
        padding_mode: how the input is padded: "zeros", "reflect", "replicate" or "circular".
        algorithm: "auto", or a name in `halfstride.explain`'s table; all give the same result up to rounding.

    Shape:
        Per axis `(n - 1) * stride - before - after + dilation * (k - 1) + output_padding + 1`.

    Raises:
        ValueError: where an argument is out of range, shapes or types do not fit, `output_size` cannot be reached, or
            the chosen algorithm cannot do the case.

    Reference:
        Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (arXiv:1603.07285), relationship 14.

    Example:
        >>> x, w = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
        >>> conv_transpose2d(x, w, stride=2)[0, 0]
        tensor([[1., 1., 2., 1., 1.],
                [1., 1., 2., 1., 1.],
                [2., 2., 4., 2., 2.],
                [1., 1., 2., 1., 1.],
                [1., 1., 2., 1., 1.]])
        >>> conv_transpose2d(x, w, stride=2, padding=1, output_size=(3, 4)).shape
        torch.Size([1, 1, 3, 4])
    """
    geometry = stride, padding, output_padding, groups, dilation, output_size, padding_mode
    return upsample("transposed", 2, input, weight, bias, geometry, algorithm)


def conv_transpose3d(
    input: Shaped[Tensor, "*batch in_channels depth height width"],
    weight: Shaped[Tensor, "in_channels out_channels_per_group kernel_depth kernel_height kernel_width"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_depth output_height output_width"]:
    """A transposed convolution of a volume; arguments as in `conv_transpose2d`, tuples with three entries.

    Example:
        >>> conv_transpose3d(torch.ones(1, 4, 2, 3, 4), torch.ones(4, 2, 3, 3, 3), stride=2, padding="same").shape
        torch.Size([1, 2, 4, 6, 8])
    """
    geometry = stride, padding, output_padding, groups, dilation, output_size, padding_mode
    return upsample("transposed", 3, input, weight, bias, geometry, algorithm)


# Resize-convolution ---------------------------------------------------------------------------------------------------


def resize_conv1d(
    input: Shaped[Tensor, "*batch in_channels length"],
    weight: Shaped[Tensor, "out_channels in_channels_per_group taps"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_length"]:
    """A resize-convolution of a signal; arguments as in `resize_conv2d`, tuples with one entry.

    Example:
        >>> x, w = torch.tensor([[[1., 2.]]]), torch.tensor([[[1., 10., 100.]]])
        >>> resize_conv1d(x, w)
        tensor([[[110., 211., 221.,  22.]]])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("resize", 1, input, weight, bias, geometry, algorithm)


def resize_conv2d(
    input: Shaped[Tensor, "*batch in_channels height width"],
    weight: Shaped[Tensor, "out_channels in_channels_per_group kernel_height kernel_width"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_height output_width"]:
    """A resize-convolution of an image: nearest-neighbour upsampling, then a convolution of stride 1.

    Equal to `F.conv2d(F.interpolate(input, scale_factor=scale_factor, mode="nearest"), weight, bias, ...)` with the
    given padding of the upsampled image. It cannot make a checkerboard: every phase sums all taps.

    Args:
        input: (batch, in_channels, height, width), or without the batch; floating point or complex.
        weight: (out_channels, in_channels / groups, *kernel_size), of the same type.
        bias: (out_channels,), added to every output position.
        scale_factor: how often each position is repeated, an int of 1 or more, or one per axis.
        padding: positions added to the upsampled image, or cut where negative. An int, an int per axis, a pair
            (before, after) per axis, "valid" (0), or "same": `input * scale_factor` positions come out, the odd
            position of an even kernel being added at the end, as torch's convolutions do it.
        dilation: upsampled positions from one tap to the next, 1 or more.
        groups: blocks of channels that do not see each other.
        output_size: the size wanted, an int or one per axis; the padding at the end grows or shrinks by less than
            `scale_factor` for it.
        padding_mode: how the upsampled image is padded: "zeros", "reflect", "replicate", "circular".
        algorithm: "auto", or a name in `halfstride.explain`'s table; all give the same result up to rounding.

    Shape:
        Per axis `n * scale_factor + before + after - dilation * (k - 1)`.

    Raises:
        ValueError: where an argument is out of range, shapes or types do not fit, `output_size` cannot be reached, or
            the chosen algorithm cannot do the case.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016).

    Example:
        >>> x, w = torch.tensor([[[[1., 2.]]]]), torch.tensor([[[[1., 10., 100.]]]])
        >>> resize_conv2d(x, w, scale_factor=(1, 2))
        tensor([[[[110., 211., 221.,  22.]]]])
        >>> resize_conv2d(x, w, scale_factor=(1, 2), padding_mode="replicate")
        tensor([[[[111., 211., 221., 222.]]]])
        >>> resize_conv2d(x, w, scale_factor=(1, 2), output_size=(1, 3))
        tensor([[[[110., 211., 221.]]]])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("resize", 2, input, weight, bias, geometry, algorithm)


def resize_conv3d(
    input: Shaped[Tensor, "*batch in_channels depth height width"],
    weight: Shaped[Tensor, "out_channels in_channels_per_group kernel_depth kernel_height kernel_width"],
    bias: Shaped[Tensor, " out_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_depth output_height output_width"]:
    """A resize-convolution of a volume; arguments as in `resize_conv2d`, tuples with three entries.

    Example:
        >>> resize_conv3d(torch.ones(1, 4, 2, 3, 4), torch.ones(2, 4, 3, 3, 3), scale_factor=(1, 2, 2)).shape
        torch.Size([1, 2, 2, 6, 8])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("resize", 3, input, weight, bias, geometry, algorithm)


# Sub-pixel convolution ------------------------------------------------------------------------------------------------


def subpixel_conv1d(
    input: Shaped[Tensor, "*batch in_channels length"],
    weight: Shaped[Tensor, "phase_channels in_channels_per_group taps"],
    bias: Shaped[Tensor, " phase_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_length"]:
    """A sub-pixel convolution of a signal; arguments as in `subpixel_conv2d`, tuples with one entry.

    Example:
        >>> x, w = torch.tensor([[[1., 2.]]]), torch.tensor([[[1.]], [[10.]]])
        >>> subpixel_conv1d(x, w)
        tensor([[[ 1., 10.,  2., 20.]]])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("subpixel", 1, input, weight, bias, geometry, algorithm)


def subpixel_conv2d(
    input: Shaped[Tensor, "*batch in_channels height width"],
    weight: Shaped[Tensor, "phase_channels in_channels_per_group kernel_height kernel_width"],
    bias: Shaped[Tensor, " phase_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_height output_width"]:
    """A sub-pixel convolution of an image: a convolution whose output channels are the phases, then a pixel shuffle.

    Equal to `F.pixel_shuffle(F.conv2d(input, weight, bias, ...), scale_factor)` with the given padding of the input.
    Phase `(a, b)` of output channel `c` is channel `(c * s + a) * s + b` of the convolution: the order of
    `torch.nn.PixelShuffle`.

    Args:
        input: (batch, in_channels, height, width), or without the batch; floating point or complex.
        weight: (out_channels * prod(scale_factor), in_channels / groups, *kernel_size), of the same type.
        bias: (out_channels * prod(scale_factor),).
        scale_factor: phases along each axis, an int of 1 or more, or one per axis.
        padding: positions added to the input, or cut where negative. An int, an int per axis, a pair (before, after)
            per axis, "valid" (0), or "same": `input * scale_factor` positions come out, the odd position of an even
            kernel being added at the end, as torch's convolutions do it.
        dilation: input positions from one tap to the next, 1 or more.
        groups: blocks of channels that do not see each other; they divide out_channels too.
        output_size: the size wanted, an int or one per axis; less than `scale_factor` is cut from the end for it.
        padding_mode: how the input is padded: "zeros", "reflect", "replicate" or "circular".
        algorithm: "auto", or a name in `halfstride.explain`'s table; all give the same result up to rounding.

    Shape:
        Per axis `(n + before + after - dilation * (k - 1)) * scale_factor`.

    Raises:
        ValueError: where an argument is out of range, shapes or types do not fit, `output_size` cannot be reached, or
            the chosen algorithm cannot do the case.

    Reference:
        Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
        Neural Network", CVPR 2016 (arXiv:1609.05158), equation 4.

    Example:
        >>> x, w = torch.tensor([[[[1., 2.]]]]), torch.tensor([1., 2., 3., 4.]).reshape(4, 1, 1, 1)
        >>> subpixel_conv2d(x, w)[0, 0]
        tensor([[1., 2., 2., 4.],
                [3., 4., 6., 8.]])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("subpixel", 2, input, weight, bias, geometry, algorithm)


def subpixel_conv3d(
    input: Shaped[Tensor, "*batch in_channels depth height width"],
    weight: Shaped[Tensor, "phase_channels in_channels_per_group kernel_depth kernel_height kernel_width"],
    bias: Shaped[Tensor, " phase_channels"] | None = None,
    scale_factor: Sizes = 2,
    padding: Padding = "same",
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    output_size: Sizes | None = None,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
) -> Shaped[Tensor, "*batch out_channels output_depth output_height output_width"]:
    """A sub-pixel convolution of a volume; arguments as in `subpixel_conv2d`, tuples with three entries.

    Example:
        >>> subpixel_conv3d(torch.ones(1, 4, 2, 3, 4), torch.ones(16, 4, 3, 3, 3)).shape
        torch.Size([1, 2, 4, 6, 8])
    """
    geometry = scale_factor, padding, dilation, groups, output_size, padding_mode
    return upsample("subpixel", 3, input, weight, bias, geometry, algorithm)


# All forms and dimensions ---------------------------------------------------------------------------------------------


def upsample(
    form: Form,
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[Any, ...],
    algorithm: str = "auto",
    *,
    first: int | None = None,
) -> Tensor:
    """An operator of any form and dimension.

    Args:
        geometry: the arguments of the function above after `bias` and before `algorithm`, all of them.
        first: where the input has only some of the input channels of the weight, as a part of a concatenation has: the
            first of them.
    """
    _check_tensors(input, weight, bias)
    captured = is_captured()
    shape: Sequence[int] = input.shape
    if captured and is_jit_traced():  # where sizes are tensors
        shape = tuple(map(int, shape))
    kernel = weight if first is None else compiled.part(weight, first, shape[-axes - 1])
    unbatched = input.dim() == axes + 1
    images = input.unsqueeze(0) if unbatched else input
    cast = autocast_type(input)
    tensors = input.device.type, cast or input.dtype, wants_gradients(input, weight), is_channels_last(images)
    case, chosen = plan(form, axes, shape, kernel.shape, geometry, algorithm, *tensors)
    channels = case.out_channels * (math.prod(case.stride) if case.form == "subpixel" else 1)
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"`bias` (of shape {tuple(bias.shape)}) must have shape {(channels,)}, one for each channel.")
    if captured and algorithm == "auto" and compiled.is_one_operator(case, chosen, input, weight, bias):
        output = compiled.resize_conv(case, images, weight, bias, first)
    else:
        output = _compute(case, chosen, images, kernel, bias, cast)
        if axes == 2 and not captured and not is_transformed():
            output = in_torchs_format(output, images, kernel)
    return output.squeeze(0) if unbatched else output


torch.fx.wrap("upsample")  # so that torch.fx.symbolic_trace keeps it as one call


@cached
def plan(
    form: Form,
    axes: int,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    geometry: tuple[Any, ...],
    algorithm: str,
    device: str,
    dtype: torch.dtype,
    training: bool,
    channels_last: bool,
) -> tuple[Case, str]:
    """The case of a call, and the algorithm for it."""
    case = CASES[form](axes, input_shape, weight_shape, *geometry)
    return case, planner.choose(case, algorithm, device, dtype, training=training, channels_last=channels_last)


def _compute(
    case: Case, algorithm: str, input: Tensor, weight: Tensor, bias: Tensor | None, cast: torch.dtype | None
) -> Tensor:
    """The output by an algorithm; `cast` is what `autocast_type` says of the input."""
    compute: Callable[..., Tensor] = algorithms.ALGORITHMS[algorithm].compute
    if cast is not None:
        # The input takes autocast's type, and with it the output; kernels are formed from the weight as it is.
        with torch.autocast(input.device.type, enabled=False):
            return compute(case, input.to(cast), weight, None if bias is None else bias.to(cast))
    if input.dtype != weight.dtype or (bias is not None and input.dtype != bias.dtype):
        types = ", ".join(str(t.dtype) for t in (input, weight, bias) if t is not None)
        raise ValueError(
            f"`input`, `weight` and `bias` (of {types}) must have the same type: convert them with `.to(...)`, or use "
            f"torch.autocast."
        )
    return compute(case, input, weight, bias)


def autocast_type(input: Tensor) -> torch.dtype | None:
    """The type that torch.autocast gives to an input; None where it leaves it alone, as it does with float64."""
    device = input.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    narrow = input.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return torch.get_autocast_dtype(device) if narrow else None


def _check_tensors(input: Any, weight: Any, bias: Any) -> None:
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` must be a torch.Tensor, not {type(tensor).__name__}.")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ValueError(
                f"`{name}` (of {tensor.dtype}) must be floating point or complex: convert it with `.float()`."
            )
