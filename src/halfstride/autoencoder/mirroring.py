"""`mirror`: the decoder of a person's own encoder, every layer giving back exactly the size that its twin took."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halfstride import layers
from halfstride._support.arguments import read_choice
from halfstride.autoencoder.blocks import Upsampling
from halfstride.checkerboard.coverage import warn_if_uneven

_Layers = tuple[Callable[..., nn.Module], ...]  # one for each number of dimensions
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLINGS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_CROP: _Layers = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
_TRANSPOSED: _Layers = (layers.ConvTranspose1d, layers.ConvTranspose2d, layers.ConvTranspose3d)
_RESIZE: _Layers = (layers.ResizeConv1d, layers.ResizeConv2d, layers.ResizeConv3d)
_SUBPIXEL: _Layers = (layers.SubpixelConv1d, layers.SubpixelConv2d, layers.SubpixelConv3d)


class MirrorError(ValueError):
    """An encoder has a layer that `mirror` cannot undo; the text names the layer and where it stands."""


def mirror(
    encoder: nn.Sequential, input_size: Sequence[int], *, upsampling: Upsampling = "transposed"
) -> nn.Sequential:
    """Build the decoder that undoes an encoder layer by layer, with exact sizes.

    The decoder runs through the encoder backwards. A convolution of stride `s` becomes an upsampling layer by `s` with
    the channels exchanged, a pooling an upsampling layer with the same channels, `Linear` a `Linear`, `Flatten` an
    `Unflatten`. Norms, activations and dropout that follow a layer in the encoder stand, newly initialised, behind the
    layer of the decoder that produces the same shape. The decoder begins and ends with a layer that has weights (or
    reshapes): what stands before the encoder's first such layer or behind its last has no twin, so that the output is
    not bounded; put your own `nn.Sigmoid()` behind it where you want one.

    Where each output lands follows the encoder's own geometry: the transposed twin is the exact adjoint of its
    convolution, and the other two are centred on the same positions to half a pixel.

    Args:
        encoder: an `nn.Sequential`, nested ones included, of convolutions, max- and average-poolings (1-D to 3-D),
            norms, activations, dropout, `Flatten`, `Linear` and `Identity`, with any stride, padding and dilation. It
            is not changed, and its weights are not copied.
        input_size: shape of one input without the batch, such as `(3, 37, 53)`: channels first.
        upsampling: `"transposed"`, `"resize"` or `"subpixel"`, for the twins of all layers with a stride.

    A transposed twin whose stride does not divide its kernel gets an `UnevenKernelWarning`.

    Returns:
        An `nn.Sequential` of plain layers that takes what the encoder returns and returns the shape `input_size`,
        on the encoder's device and in its dtype. Padding modes are not mirrored: twins pad with zeros.

    Raises:
        MirrorError: (a `ValueError`) for a layer that cannot be mirrored, one without weights yet (lazy), and a
            subclass of `nn.Sequential` with a `forward` of its own.
        ValueError: where the encoder does not take an input of `input_size`.

    Reference:
        Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", relationship 14 and its output
        padding (arXiv:1603.07285).

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 18 * 26, 10))
        >>> decoder = mirror(encoder, (3, 37, 53), upsampling="resize")
        >>> decoder(encoder(torch.rand(2, 3, 37, 53))).shape
        torch.Size([2, 3, 37, 53])
    """
    read_choice("upsampling", upsampling, get_args(Upsampling))
    twins: list[nn.Module] = []
    kept: list[nn.Module] = []  # size-keeping layers that wait for the twin that produces their shape
    like = next(encoder.parameters(), torch.empty(0))
    for step in reversed(_trace(encoder, tuple(input_size))):
        if _keeps_shape(step.layer):
            kept.insert(0, _fresh(step.layer))
            continue
        if twins:
            twins += kept
        kept = []
        twins += _twins(step, upsampling, like)
        if upsampling == "transposed" and isinstance(step.layer, (*_CONVOLUTIONS, *_POOLINGS)):
            axes = _axes(step)
            kernel, stride, dilation = zip(*((axis.kernel, axis.stride, axis.dilation) for axis in axes), strict=True)
            warn_if_uneven(f"the transposed twin of {step}", kernel, stride, dilation, stacklevel=2)
    return nn.Sequential(*twins)


class _Step(NamedTuple):
    """One layer of the encoder as it was met: its name, and the shapes without batch that it took and gave."""

    name: str
    layer: nn.Module
    taken: tuple[int, ...]
    given: tuple[int, ...]

    def __str__(self) -> str:
        return f"layer {self.name!r} ({type(self.layer).__name__}, taking {'×'.join(map(str, self.taken))})"


def _trace(encoder: nn.Module, input_size: tuple[int, ...]) -> list[_Step]:
    """Run the layers one after the other on tensors without data, and note the shapes."""
    if not isinstance(encoder, nn.Sequential):
        raise MirrorError(
            f"`encoder` is a {type(encoder).__name__}: only an nn.Sequential says in which order its layers run; "
            "wrap them in one."
        )
    _refuse_own_forward(encoder, "`encoder`")
    if not input_size or any(not isinstance(size, int) or size < 1 for size in input_size):
        raise ValueError(f"`input_size` (={input_size}) must be the shape of one input, such as (3, 37, 53).")
    steps: list[_Step] = []
    shape = input_size
    for name, layer in _leaves(encoder):
        step = _Step(name, layer, shape, shape)
        if not (_keeps_shape(layer) or isinstance(layer, (*_CONVOLUTIONS, *_POOLINGS, nn.Flatten, nn.Linear))):
            raise MirrorError(
                f"mirror cannot undo {step}: it knows convolutions, max- and average-pooling, norms, activations, "
                "dropout, Flatten, Linear and Identity; build the decoder from there by hand."
            )
        if any(map(is_lazy, (*layer.parameters(), *layer.buffers()))):
            raise MirrorError(f"mirror cannot undo {step}: it has no weights yet; call the encoder on a batch before.")
        on_meta = copy.deepcopy(layer).to("meta").eval()
        dtype = next((parameter.dtype for parameter in on_meta.parameters()), torch.float32)
        try:
            output = on_meta(torch.empty((2, *shape), dtype=dtype, device="meta"))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"`input_size` (={input_size}) does not fit the encoder at {step}: {reason}") from error
        if not isinstance(output, torch.Tensor) or output.shape[0] != 2:
            raise MirrorError(f"mirror cannot undo {step}: it does not return one output for each input of the batch.")
        shape = tuple(output.shape[1:])
        steps.append(step._replace(given=shape))
        if _keeps_shape(layer) and shape != step.taken:
            raise MirrorError(f"mirror cannot undo {step}: it changes the shape to {'×'.join(map(str, shape))}.")
    if all(_keeps_shape(step.layer) for step in steps):
        raise MirrorError("`encoder` has no convolution, pooling, Flatten or Linear: there is nothing to mirror.")
    return steps


def _leaves(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children() would skip a module that stands there twice
        assert child is not None  # an nn.Sequential holds no empty places
        if isinstance(child, nn.Sequential):
            _refuse_own_forward(child, f"layer {prefix + name!r}")
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _refuse_own_forward(module: nn.Sequential, told: str) -> None:
    """A subclass may run its layers in another order, or add to what they return, which a decoder would not undo."""
    changed = [type(module).forward is not nn.Sequential.forward, type(module).__call__ is not nn.Module.__call__]
    if any(changed) or "forward" in vars(module):  # the last where it was replaced in this object alone
        raise MirrorError(
            f"mirror cannot undo {told} ({type(module).__name__}): it has a `forward` of its own; "
            "only a plain nn.Sequential says in which order its layers run."
        )


def _keeps_shape(layer: nn.Module) -> bool:
    """Whether this is a norm, an activation, dropout or nothing at all."""
    module = type(layer).__module__
    if isinstance(layer, nn.MultiheadAttention):  # among the activations, but it takes three inputs
        return False
    return isinstance(layer, nn.Identity) or module in {
        "torch.nn.modules.activation",
        "torch.nn.modules.batchnorm",
        "torch.nn.modules.dropout",
        "torch.nn.modules.instancenorm",
        "torch.nn.modules.normalization",
    }


def _fresh(layer: nn.Module) -> nn.Module:
    """A layer like this one, to be trained, also where this one no longer is."""
    twin: Any = copy.deepcopy(layer).train().requires_grad_()
    if hasattr(twin, "reset_parameters"):
        twin.reset_parameters()
    return twin  # type: ignore[no-any-return]


def _twins(step: _Step, upsampling: Upsampling, like: Tensor) -> list[nn.Module]:
    """What undoes a layer; of its device and type, or `like` a tensor where it has none."""
    layer = step.layer
    parameter = next(layer.parameters(), like)
    factory = {"device": parameter.device, "dtype": parameter.dtype}
    if isinstance(layer, nn.Linear):
        return [nn.Linear(layer.out_features, layer.in_features, bias=layer.bias is not None, **factory)]
    if isinstance(layer, nn.Flatten):
        if layer.start_dim == 0:
            raise MirrorError(f"mirror cannot undo {step}: it flattens the batch as well; use start_dim=1.")
        first = layer.start_dim % (len(step.taken) + 1)
        last = layer.end_dim % (len(step.taken) + 1)
        return [nn.Unflatten(first, step.taken[first - 1 : last])]
    return _upsampling_twins(step, upsampling, factory)


class _Axis(NamedTuple):
    """What one axis of an encoder's convolution or pooling did: the numbers that its twin has to undo."""

    large: int
    small: int
    kernel: int
    stride: int
    before: int  # padding at the start
    dilation: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1)


def _axes(step: _Step) -> list[_Axis]:
    layer = cast(Any, step.layer)
    dims = len(step.taken) - 1

    def per_axis(value: int | Sequence[int]) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * dims if len(values) == 1 else values

    kernel, stride = per_axis(layer.kernel_size), per_axis(layer.stride)
    dilation = per_axis(getattr(layer, "dilation", 1))
    if layer.padding == "valid":
        before = (0,) * dims
    elif layer.padding == "same":
        before = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        before = per_axis(layer.padding)
    return [
        _Axis(*numbers)
        for numbers in zip(step.taken[1:], step.given[1:], kernel, stride, before, dilation, strict=True)
    ]


def _upsampling_twins(step: _Step, upsampling: Upsampling, factory: dict[str, Any]) -> list[nn.Module]:
    layer = cast(Any, step.layer)
    axes = _axes(step)
    if isinstance(layer, _CONVOLUTIONS):
        channels = (layer.out_channels, layer.in_channels)
        options = {"groups": layer.groups, "bias": layer.bias is not None, **factory}
    else:
        channels = (step.given[0], step.taken[0])
        options = factory
    build = {"transposed": _transposed_twin, "resize": _resize_twin, "subpixel": _subpixel_twin}[upsampling]
    return build(channels, axes, options)


def _transposed_twin(channels: tuple[int, int], axes: list[_Axis], options: dict[str, Any]) -> list[nn.Module]:
    """The adjoint of the layer: its full output, cut where the layer's padding began."""
    full = [(axis.small - 1) * axis.stride + axis.reach + 1 for axis in axes]
    missing = [axis.large - (size - 2 * axis.before) for axis, size in zip(axes, full, strict=True)]
    _, _, kernel, stride, before, dilation = zip(*axes, strict=True)
    extra = tuple(max(size, 0) for size in missing)
    sizes = {"stride": stride, "padding": before, "output_padding": extra, "dilation": dilation}
    twin = _TRANSPOSED[len(axes) - 1](*channels, kernel, **sizes, **options)
    # Too large only where the layer padded its end more than its start: padding="same" or ceil_mode.
    return [twin, *_crop([(0, min(size, 0)) for size in missing])]


def _resize_twin(channels: tuple[int, int], axes: list[_Axis], options: dict[str, Any]) -> list[nn.Module]:
    padding = []
    for axis in axes:
        before = axis.reach - axis.before - (axis.stride - 1) // 2
        total = axis.large + axis.reach - axis.stride * axis.small
        padding.append(_within_reach(before, total, axis.reach))
    _, _, kernel, stride, _, dilation = zip(*axes, strict=True)
    sizes = {"scale_factor": stride, "padding": tuple(padding), "dilation": dilation}
    return [_RESIZE[len(axes) - 1](*channels, kernel, **sizes, **options)]


def _subpixel_twin(channels: tuple[int, int], axes: list[_Axis], options: dict[str, Any]) -> list[nn.Module]:
    """A convolution at low resolution whose taps, `stride` positions wide each, span at least the layer's kernel."""
    taps, dilation, padding, crop = [], [], [], []
    for axis in axes:
        dilation.append(axis.dilation if axis.stride == 1 else 1)
        taps.append(
            axis.kernel if axis.stride == 1 else 1 + 2 * max(0, -(-(axis.reach + 1 - axis.stride) // (2 * axis.stride)))
        )
        reach = dilation[-1] * (taps[-1] - 1)
        # How far right of the first input's block its centre has to land; whole blocks are padding, the rest is cut.
        shift = (axis.reach - 2 * axis.before - (axis.stride - 1) + axis.stride * reach) // 2
        before = -(-shift // axis.stride)
        start = axis.stride * before - shift
        blocks = -(-(axis.large + start) // axis.stride)
        padding.append(_within_reach(before, blocks - axis.small + reach, reach))
        crop.append((-start, axis.large + start - axis.stride * blocks))
    scale = tuple(axis.stride for axis in axes)
    sizes = {"scale_factor": scale, "padding": tuple(padding), "dilation": tuple(dilation)}
    return [_SUBPIXEL[len(axes) - 1](*channels, tuple(taps), **sizes, **options), *_crop(crop)]


def _within_reach(before: int, total: int, reach: int) -> tuple[int, int]:
    """Split padding so that no output sees padding alone: neither side larger than the kernel's reach."""
    before = min(max(before, total - reach), reach)
    return before, total - before


def _crop(sides: list[tuple[int, int]]) -> list[nn.Module]:
    """A layer that cuts (negative) positions off each axis's ends; none where there is nothing to cut."""
    if not any(map(any, sides)):
        return []
    return [_CROP[len(sides) - 1](tuple(size for side in reversed(sides) for size in side))]
