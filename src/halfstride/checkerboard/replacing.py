"""What a cure puts in the place of one upsampling layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halfstride import kernels
from halfstride import layers as halfstride_layers
from halfstride._support.arguments import Pairs, read_padding
from halfstride.checkerboard.find_layers import UpsamplingCall
from halfstride.checkerboard.fitting import Free

Method = Literal["equalize", "resize", "smooth"]

_TRANSPOSED = (halfstride_layers.ConvTranspose1d, halfstride_layers.ConvTranspose2d, halfstride_layers.ConvTranspose3d)
_RESIZE = (halfstride_layers.ResizeConv1d, halfstride_layers.ResizeConv2d, halfstride_layers.ResizeConv3d)


@dataclass(frozen=True)
class Replacement:
    """A layer with equal phase gains."""

    layer: Any
    """The given layer itself with new weights, or another."""
    free: dict[str, Free] = field(default_factory=dict)
    """What may be fitted, by the names of the layer's parameters: phase gains stay equal."""
    phases: int = 1
    """How many entries of the bias one output channel has."""


@torch.no_grad()
def replacement(call: UpsamplingCall, method: Method) -> Replacement:
    """What to put in the place of one layer.

    Raises:
        ValueError: where this method has nothing for this layer; the message says why.
    """
    owner: Any = call.owner
    is_module = isinstance(owner, nn.modules.conv._ConvNd | halfstride_layers._SubpixelConv)
    if not is_module or "weight" not in {*owner._parameters, *getattr(owner, "parametrizations", ())}:
        raise ValueError("its weight is no parameter of a layer of torch.nn or halfstride.")
    layer: Any = parametrize.type_before_parametrizations(owner)
    is_changed = "forward" in vars(owner) or not layer.forward.__module__.startswith(("torch.nn.", "halfstride."))
    if parametrize.is_parametrized(owner):
        owner = _plain(owner)
    if method == "equalize":
        return _equalized(owner, call)
    if is_changed or owner._forward_hooks or owner._forward_pre_hooks:
        raise ValueError('it has hooks, or a `forward` of its own, that would be lost: use method="equalize".')
    if call.kind == "sub-pixel":
        raise ValueError('a sub-pixel convolution keeps its form: use method="equalize".')
    if isinstance(owner, halfstride_layers._ConvTranspose) and owner.padding_mode != "zeros":
        raise ValueError(f'padding_mode={owner.padding_mode!r} is kept by method="equalize" only.')
    return _resized(owner) if method == "resize" else _smoothed(owner)


def _plain(owner: nn.Module) -> nn.Module:
    """The layer without parametrisations, with the weight that it has now.

    `torch.nn.utils.parametrize.remove_parametrizations` would change the layer's class, which a deep copy shares with
    the original.
    """
    base: Any = parametrize.type_before_parametrizations(owner)
    plain: nn.Module = base.__new__(base)
    plain.__dict__ = {**vars(owner), "_modules": {}, "_parameters": dict(owner._parameters)}
    for name in owner.parametrizations:  # type: ignore[union-attr]  # a ModuleDict, in every parametrised module
        weight = getattr(owner, str(name))
        plain._parameters[str(name)] = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    return plain


def _equalized(owner: Any, call: UpsamplingCall) -> Replacement:
    """The layer with the nearest weights whose phase gains are equal."""
    phases = math.prod(call.stride) if call.kind == "sub-pixel" else 1

    def even(weight: Tensor) -> Tensor:
        if call.kind == "transposed":
            return kernels.even_from_transposed(weight, call.stride, call.dilation, call.groups)
        taps = weight.reshape(-1, phases, weight.shape[1], weight[0, 0].numel())
        gains = taps.sum(-1, keepdim=True)
        return (taps + (gains.mean(1, keepdim=True) - gains) / taps.shape[-1]).reshape(weight.shape)

    def shared(bias: Tensor) -> Tensor:
        """The nearest bias that all phases of a channel share."""
        return bias.reshape(-1, phases).mean(1).repeat_interleave(phases)

    forms = {"weight": even} if owner.bias is None else {"weight": even, "bias": shared}
    for name, form in forms.items():
        getattr(owner, name).copy_(form(getattr(owner, name)))
    return Replacement(owner, {name: Free(getattr(owner, name), form) for name, form in forms.items()}, phases)


def _resized(owner: Any) -> Replacement:
    """The nearest resize-convolution."""
    if max(owner.dilation) > 1:
        raise ValueError('a dilated kernel is no resize-convolution: use method="equalize".')
    weight = kernels.resize_from_transposed(owner.weight, owner.stride, owner.groups)
    axes = zip(_cropping(owner), owner.output_padding, owner.kernel_size, owner.stride, strict=True)
    padding = tuple((k - s - before, k - s - after + extra) for (before, after), extra, k, s in axes)
    return Replacement(_built(_RESIZE[len(padding) - 1], owner, weight, (owner.stride, padding)))


def _smoothed(owner: Any) -> Replacement:
    """The layer with a moving average of one stride behind it, folded into its kernel."""
    sharp = kernels.widened(owner.weight.detach())
    padding, output_padding = [], []
    axes = zip(_cropping(owner), owner.dilation, owner.stride, owner.output_padding, strict=True)
    for axis, ((before, after), d, s, extra) in enumerate(axes, start=2):
        sharp = kernels.spread(sharp, axis, d)
        output_padding.append(min(extra, s - 1))  # it must be less than the stride: the rest is cropped less
        after += s // 2 - (extra - output_padding[-1])
        if after < 0:
            raise ValueError(
                f'output_padding={extra} is more than a kernel that large can have: use method="equalize".'
            )
        padding.append((before + (s - 1) // 2, after))  # a stride of 2 moves the image by half a position

    def smooth(weight: Tensor) -> Tensor:
        for axis, s in enumerate(owner.stride, start=2):
            sides = (0, 0) * (weight.dim() - 1 - axis) + (s - 1, s - 1)
            weight = F.pad(weight, sides).unfold(axis, s, 1).mean(-1)
        return weight

    sizes = (owner.stride, tuple(padding), tuple(output_padding))
    layer = _built(_TRANSPOSED[len(padding) - 1], owner, smooth(sharp), sizes)
    free = {name: Free(parameter) for name, parameter in layer.named_parameters()}
    return Replacement(layer, free | {"weight": Free(sharp, smooth)})


def _cropping(owner: Any) -> Pairs:
    """A transposed convolution's padding as (before, after) pairs; "same" crops to input size times stride."""
    axes = zip(owner.kernel_size, owner.stride, owner.dilation, strict=True)
    excess = [max(d * (k - 1) + 1 - s, 0) for k, s, d in axes]
    return read_padding(owner.padding, len(excess)) or tuple((total // 2, total - total // 2) for total in excess)


def _built(kind: Any, owner: Any, weight: Tensor, sizes: tuple[Any, ...]) -> Any:
    """A layer of another class or size, with this weight and the owner's bias."""
    options = {"groups": owner.groups, "bias": owner.bias is not None}
    layer = kind(owner.in_channels, owner.out_channels, tuple(weight.shape[2:]), *sizes, **options)
    layer.to(owner.weight).train(owner.training)
    layer.weight.copy_(weight)
    layer.weight.requires_grad_(owner.weight.requires_grad)
    if owner.bias is not None:
        layer.bias.copy_(owner.bias)
        layer.bias.requires_grad_(owner.bias.requires_grad)
    return layer
