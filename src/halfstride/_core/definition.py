"""A layer as torch's own modules, for `torch.jit.script`, which reads code and knows no other operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from halfstride._core.algorithms import native
from halfstride._core.case import CASES, Case, Form

__all__ = ["as_torch_modules"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PADDING: dict[str, tuple[Any, Any, Any]] = {
    "zeros": (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
_SIZE = 2**20  # of an input for which no padding is too much: what is added or cut does not depend on it


def as_torch_modules(
    form: Form, weight: Tensor, bias: Tensor | None, in_channels: int, geometry: tuple[Any, ...]
) -> nn.Module:
    """The operator in modules of torch.nn, which hold the same weight and bias.

    Args:
        form: of the operator.
        weight: its weight.
        bias: its bias.
        in_channels: of its input.
        geometry: as for `functional.upsample`.

    Raises:
        ValueError: where torch has no modules for it.
    """
    axes = weight.dim() - 2
    case = CASES[form](axes, (1, in_channels, *(_SIZE,) * axes), tuple(weight.shape), *geometry)
    if form == "transposed":
        return _transposed(case, weight, bias)
    convolution = _holding(_CONVOLUTIONS[axes - 1], case, weight, bias, channels=weight.shape[0])
    if form == "resize":
        upsampling = nn.Upsample(scale_factor=tuple(map(float, case.stride)))
        return _sequence(upsampling, *_padding(case, case.upsampled_border), convolution)
    if max(case.stride) == 1:
        return _sequence(*_padding(case, case.border), convolution)
    if axes != 2 or case.stride[0] != case.stride[1]:
        raise ValueError(
            f"`scale_factor` (={case.stride}) of a sub-pixel convolution has no counterpart in torch.nn, whose "
            f"PixelShuffle enlarges both axes of an image alike: use torch.compile or torch.export instead."
        )
    return _sequence(*_padding(case, case.border), convolution, nn.PixelShuffle(case.stride[0]))


def _transposed(case: Case, weight: Tensor, bias: Tensor | None) -> nn.Module:
    if case.padding_mode != "zeros":
        raise ValueError(
            f"`padding_mode` (={case.padding_mode!r}) of a transposed convolution has no counterpart in torch.nn: use "
            f"torch.compile or torch.export instead."
        )
    padding, output_padding, start, _ = native.cuts(case)
    convolution = _holding(
        _TRANSPOSED[case.axes - 1],
        case,
        weight,
        bias,
        channels=case.out_channels,
        stride=case.stride,
        padding=padding,
        output_padding=output_padding,
    )
    # What one padding at both ends leaves too much, at the start and at the end.
    axes = zip(case.full_size, padding, output_padding, start, case.output_size, strict=True)
    rest = [(-first, o + first - (full - 2 * p + extra)) for full, p, extra, first, o in axes]
    return _sequence(convolution, *_padding(case, rest))


def _holding(kind: Any, case: Case, weight: Tensor, bias: Tensor | None, *, channels: int, **options: Any) -> nn.Module:
    layer: Any = kind(
        case.in_channels,
        channels,
        case.kernel_size,
        dilation=case.dilation,
        groups=case.groups,
        bias=bias is not None,
        device="meta",
        **options,
    )
    layer.weight, layer.bias = weight, bias
    made: nn.Module = layer
    return made


def _padding(case: Case, pairs: Sequence[tuple[int, int]]) -> list[nn.Module]:
    if not any(map(any, pairs)):
        return []
    module: nn.Module = _PADDING[case.padding_mode][case.axes - 1](tuple(n for pair in reversed(pairs) for n in pair))
    return [module]


def _sequence(*modules: nn.Module) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
