"""Modules over `halfstride.functional`, with parameters, initialisation and `state_dict` as in `torch.nn`.

`ConvTranspose1d/2d/3d` are torch's own, with what those refuse: `padding` as "same", "valid" or (before, after) pairs,
and any `padding_mode`. `ResizeConv1d/2d/3d` have the parameters of `torch.nn.Conv1d/2d/3d`. `SubpixelConv1d/2d/3d`
have those of the convolution in front of a `torch.nn.PixelShuffle`, and start without a checkerboard.

The last argument of every constructor, `algorithm`, says how to compute it; "auto" leaves that to
`halfstride._core.planner`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from halfstride import functional
from halfstride._core import planner
from halfstride._core.case import Form
from halfstride._core.definition import as_torch_modules
from halfstride._support.arguments import (
    Padding,
    Sizes,
    read_groups,
    read_int,
    read_padding,
    read_padding_mode,
    read_scale_factor,
    read_sizes,
)
from halfstride._support.torch_private import ConvTransposeNd

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ResizeConv1d",
    "ResizeConv2d",
    "ResizeConv3d",
    "SubpixelConv1d",
    "SubpixelConv2d",
    "SubpixelConv3d",
]


class _ConvTranspose(ConvTransposeNd):
    """What `ConvTranspose1d/2d/3d` put before torch's class of the same name."""

    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        in_channels = read_int("in_channels", in_channels, 1)
        out_channels = read_int("out_channels", out_channels, 1)
        super().__init__(
            in_channels,
            out_channels,
            read_sizes("kernel_size", kernel_size, self._axes, 1),
            read_sizes("stride", stride, self._axes, 1),
            0,  # what torch's own refuses is set below
            read_sizes("output_padding", output_padding, self._axes, 0),
            read_groups(groups, ("input", in_channels), ("output", out_channels)),
            bias,
            read_sizes("dilation", dilation, self._axes, 1),
            "zeros",
            device,
            dtype,
        )
        self.padding = _read_padding(padding, self._axes)  # type: ignore[assignment]  # pairs, which torch has not
        self.padding_mode = read_padding_mode(padding_mode)  # type: ignore[assignment]  # checked, but a str
        self.algorithm = planner.read_algorithm(algorithm)

    def forward(self, input: Tensor, output_size: Sizes | None = None) -> Tensor:
        """`output_size`: the spatial sizes to restore, or the whole shape; it takes the place of `output_padding`."""
        output_padding = self.output_padding if output_size is None else 0
        size = _spatial(output_size, input, self._axes)
        geometry = self.stride, self.padding, output_padding, self.groups, self.dilation, size, self.padding_mode
        return functional.upsample("transposed", self._axes, input, self.weight, self.bias, geometry, self.algorithm)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script takes in place of the layer."""
        geometry = self.stride, self.padding, self.output_padding, self.groups, self.dilation, None, self.padding_mode
        return as_torch_modules("transposed", self.weight, self.bias, self.in_channels, geometry)

    def extra_repr(self) -> str:
        return str(super().extra_repr()) + _algorithm_repr(self.algorithm)  # type: ignore[no-untyped-call]


class _Upsampling(nn.Module):
    """What resize-convolutions and sub-pixel convolutions have in common: all but the operator and the phases."""

    _form: ClassVar[Form]
    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        scale_factor: Sizes = 2,
        padding: Padding = "same",
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.in_channels = read_int("in_channels", in_channels, 1)
        self.out_channels = read_int("out_channels", out_channels, 1)
        self.kernel_size = read_sizes("kernel_size", kernel_size, self._axes, 1)
        self.scale_factor = read_scale_factor(scale_factor, self._axes)
        self.padding = _read_padding(padding, self._axes)
        self.dilation = read_sizes("dilation", dilation, self._axes, 1)
        self.groups = read_groups(groups, ("input", in_channels), ("output", out_channels))
        self.padding_mode = read_padding_mode(padding_mode)
        self.algorithm = planner.read_algorithm(algorithm)
        channels = out_channels * self._phases()
        shape = (channels, in_channels // self.groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def _phases(self) -> int:
        """How many channels of the weight make one output channel."""
        return 1

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw as `torch.nn.Conv1d/2d/3d` do, one kernel for all phases of an output channel.

        Reference:
            Aitken et al., "Checkerboard artifact free sub-pixel convolution" (arXiv:1707.02937): ICNR, which makes a
            sub-pixel convolution start as a convolution followed by nearest-neighbour upsampling.
        """
        phases = self._phases()
        kernel = self.weight.new_empty(self.out_channels, *self.weight.shape[1:])
        nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        self.weight.copy_(kernel.repeat_interleave(phases, dim=0))
        if self.bias is not None:
            bound = 1 / math.sqrt(kernel[0].numel())
            bias = nn.init.uniform_(self.bias.new_empty(self.out_channels), -bound, bound)
            self.bias.copy_(bias.repeat_interleave(phases))

    def forward(self, input: Tensor, output_size: Sizes | None = None) -> Tensor:
        """Upsample an input; see the class.

        Args:
            input: (N, in_channels, *size), or without N.
            output_size: the spatial sizes wanted, or the whole shape. Of a resize-convolution the padding at the end
                follows from it; of a sub-pixel convolution less than `scale_factor` is cut from the end.
        """
        size = _spatial(output_size, input, self._axes)
        geometry = self.scale_factor, self.padding, self.dilation, self.groups, size, self.padding_mode
        return functional.upsample(self._form, self._axes, input, self.weight, self.bias, geometry, self.algorithm)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script takes in place of the layer."""
        geometry = self.scale_factor, self.padding, self.dilation, self.groups, None, self.padding_mode
        return as_torch_modules(self._form, self.weight, self.bias, self.in_channels, geometry)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", scale_factor={self.scale_factor}, padding={self.padding!r}"
        if any(d != 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text + _algorithm_repr(self.algorithm)


class _ResizeConv(_Upsampling):
    _form = "resize"


class _SubpixelConv(_Upsampling):
    _form = "subpixel"

    def _phases(self) -> int:
        return math.prod(self.scale_factor)


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with more kinds of padding; arguments as in `ConvTranspose2d`.

    Example:
        >>> ConvTranspose1d(4, 2, kernel_size=3, stride=2, padding="same")(torch.ones(1, 4, 7)).shape
        torch.Size([1, 2, 14])
    """

    _axes = 1


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with more kinds of padding; see `halfstride.functional.conv_transpose2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, output_padding, groups, bias, dilation, device, dtype: as in
            torch's, in torch's order.
        padding: positions cut from the full output: an int, an int per axis, a pair (before, after) per axis, "same"
            (`input * stride` positions remain) or "valid".
        padding_mode: how the input is padded: "zeros", "reflect", "replicate" or "circular".
        algorithm: "auto", or a name in `halfstride._core.algorithms.ALGORITHMS`.

    Shape:
        (N, in_channels, H, W), or without N, to (N, out_channels, H_out, W_out); per axis
        `(n - 1) * stride - before - after + dilation * (k - 1) + output_padding + 1`.

    Example:
        >>> up = ConvTranspose2d(4, 2, kernel_size=3, stride=2, padding=1)
        >>> up(torch.ones(1, 4, 7, 7)).shape, up(torch.ones(1, 4, 7, 7), output_size=(13, 14)).shape
        (torch.Size([1, 2, 13, 13]), torch.Size([1, 2, 13, 14]))
        >>> isinstance(up, torch.nn.ConvTranspose2d)
        True
    """

    _axes = 2


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with more kinds of padding; arguments as in `ConvTranspose2d`.

    Example:
        >>> ConvTranspose3d(4, 2, kernel_size=3, stride=2, padding="same")(torch.ones(1, 4, 2, 3, 4)).shape
        torch.Size([1, 2, 4, 6, 8])
    """

    _axes = 3


class ResizeConv1d(_ResizeConv):
    """Nearest-neighbour upsampling and a convolution of stride 1; arguments as in `ResizeConv2d`.

    Example:
        >>> ResizeConv1d(4, 2, kernel_size=3)(torch.ones(1, 4, 7)).shape
        torch.Size([1, 2, 14])
    """

    _axes = 1


class ResizeConv2d(_ResizeConv):
    """Nearest-neighbour upsampling and a convolution of stride 1; see `halfstride.functional.resize_conv2d`.

    Args:
        in_channels, out_channels, kernel_size, dilation, groups, bias, device, dtype: as in `torch.nn.Conv2d`.
        scale_factor: how often each position is repeated, an int of 1 or more, or one per axis.
        padding: positions added to the upsampled image, or cut where negative: an int, an int per axis, a pair
            (before, after) per axis, "same" (`input * scale_factor` positions come out) or "valid".
        padding_mode: how the upsampled image is padded: "zeros", "reflect", "replicate", "circular".
        algorithm: "auto", or a name in `halfstride._core.algorithms.ALGORITHMS`.

    Shape:
        (N, in_channels, H, W), or without N, to (N, out_channels, H_out, W_out); per axis
        `n * scale_factor + before + after - dilation * (k - 1)`.

    Example:
        >>> up = ResizeConv2d(4, 2, kernel_size=3, padding_mode="replicate")
        >>> up
        ResizeConv2d(4, 2, kernel_size=(3, 3), scale_factor=(2, 2), padding='same', padding_mode='replicate')
        >>> up(torch.ones(1, 4, 7, 7)).shape, up(torch.ones(1, 4, 7, 7), output_size=(13, 14)).shape
        (torch.Size([1, 2, 14, 14]), torch.Size([1, 2, 13, 14]))
    """

    _axes = 2


class ResizeConv3d(_ResizeConv):
    """Nearest-neighbour upsampling and a convolution of stride 1; arguments as in `ResizeConv2d`.

    Example:
        >>> ResizeConv3d(4, 2, kernel_size=3, scale_factor=(1, 2, 2))(torch.ones(1, 4, 2, 3, 4)).shape
        torch.Size([1, 2, 2, 6, 8])
    """

    _axes = 3


class SubpixelConv1d(_SubpixelConv):
    """A convolution whose channels are the phases, and a shuffle; arguments as in `SubpixelConv2d`.

    Example:
        >>> SubpixelConv1d(4, 2, kernel_size=3)(torch.ones(1, 4, 7)).shape
        torch.Size([1, 2, 14])
    """

    _axes = 1


class SubpixelConv2d(_SubpixelConv):
    """A convolution whose channels are the phases, and a shuffle; see `halfstride.functional.subpixel_conv2d`.

    Args:
        in_channels, out_channels, kernel_size, dilation, groups, bias, device, dtype: as in `torch.nn.Conv2d`, whose
            weight and bias have `out_channels * prod(scale_factor)` output channels, in `torch.nn.PixelShuffle`'s
            order. All phases of a channel start with the same kernel.
        scale_factor: phases along each axis, an int of 1 or more, or one per axis.
        padding: positions added to the input, or cut where negative: an int, an int per axis, a pair (before, after)
            per axis, "same" (`input * scale_factor` positions come out) or "valid".
        padding_mode: how the input is padded: "zeros", "reflect", "replicate" or "circular".
        algorithm: "auto", or a name in `halfstride._core.algorithms.ALGORITHMS`.

    Shape:
        (N, in_channels, H, W), or without N, to (N, out_channels, H_out, W_out); per axis
        `(n + before + after - dilation * (k - 1)) * scale_factor`.

    Example:
        >>> up = SubpixelConv2d(4, 2, kernel_size=3)
        >>> up.weight.shape, up(torch.ones(1, 4, 7, 7)).shape
        (torch.Size([8, 4, 3, 3]), torch.Size([1, 2, 14, 14]))
    """

    _axes = 2


class SubpixelConv3d(_SubpixelConv):
    """A convolution whose channels are the phases, and a shuffle; arguments as in `SubpixelConv2d`.

    Example:
        >>> SubpixelConv3d(4, 2, kernel_size=3, scale_factor=(1, 2, 2))(torch.ones(1, 4, 2, 3, 4)).shape
        torch.Size([1, 2, 2, 6, 8])
    """

    _axes = 3


def _read_padding(padding: Any, axes: int) -> str | tuple[int, ...] | tuple[tuple[int, int], ...]:
    """Padding as torch's layers keep it, an int per axis, where both ends have the same."""
    pairs = read_padding(padding, axes)
    if pairs is None or isinstance(padding, str):
        return str(padding)
    if all(before == after for before, after in pairs):
        return tuple(before for before, _ in pairs)
    return pairs


def _spatial(output_size: Sizes | None, input: Tensor, axes: int) -> Sizes | None:
    """Without batch and channels, which torch's layers let people give."""
    if isinstance(output_size, Sequence) and len(output_size) == input.dim():
        return output_size[-axes:]
    return output_size


def _algorithm_repr(algorithm: str) -> str:
    return "" if algorithm == "auto" else f", algorithm={algorithm!r}"
