"""What a cure puts in the place of one upsampling layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halfstride import kernels
from halfstride import layers as halfstride_layers
from halfstride._support.arguments import Pairs, read_padding
from halfstride.checkerboard.fitting import Free
from halfstride.checkerboard.sites import Site

__all__ = ["Method", "Replacement", "replacement"]

Method = Literal["equalize", "resize", "smooth"]

_TRANSPOSED = (halfstride_layers.ConvTranspose1d, halfstride_layers.ConvTranspose2d, halfstride_layers.ConvTranspose3d)
_RESIZE = (halfstride_layers.ResizeConv1d, halfstride_layers.ResizeConv2d, halfstride_layers.ResizeConv3d)


@dataclass(frozen=True)
class Replacement:
    """An even layer, and what may be fitted of it."""

    layer: nn.Module
    """The given layer itself with new weights, or another."""
    free: dict[str, Free]
    """By the names of the layer's parameters; whatever is fitted in their coordinates, the layer stays even."""
    phases: int
    """How many entries of the bias one output channel has."""


def replacement(site: Site, method: Method) -> Replacement:
    """What to put in the place of one layer.

    Raises:
        ValueError: where this method has nothing for this layer; the message says why.
    """
    owner: Any = site.owner
    is_module = isinstance(owner, nn.modules.conv._ConvNd | halfstride_layers._SubpixelConv)
    if not is_module or "weight" not in {*owner._parameters, *getattr(owner, "parametrizations", ())}:
        raise ValueError("its weight is no parameter of a layer of torch.nn or halfstride.")
    is_plain = _runs_as_its_library_says(owner)
    if parametrize.is_parametrized(owner):
        owner = _plain(owner)
    if method == "equalize":
        return _equalized(owner, site)
    if not is_plain:
        raise ValueError('it has hooks, or a `forward` of its own, that would be lost: use method="equalize".')
    if site.kind == "sub-pixel":
        raise ValueError('a sub-pixel convolution keeps its form: use method="equalize".')
    if isinstance(owner, halfstride_layers._ConvTranspose) and owner.padding_mode != "zeros":
        raise ValueError(f'padding_mode={owner.padding_mode!r} is kept by method="equalize" only.')
    return _resized(owner) if method == "resize" else _smoothed(owner)


def _runs_as_its_library_says(owner: nn.Module) -> bool:
    """Whether nobody has changed how a layer runs, so that another may take its place."""
    layer: Any = parametrize.type_before_parametrizations(owner)
    is_own = "forward" in vars(owner) or not layer.forward.__module__.startswith(("torch.nn.", "halfstride."))
    return not (is_own or owner._forward_hooks or owner._forward_pre_hooks)


def _equalized(owner: Any, site: Site) -> Replacement:
    phases = math.prod(site.stride) if site.kind == "sub-pixel" else 1

    def even(weight: Tensor) -> Tensor:
        """The nearest weight with equal phase gains."""
        if site.kind == "transposed":
            return kernels.even_from_transposed(weight, site.stride, site.dilation, site.groups)
        taps = weight.reshape(-1, phases, weight.shape[1], weight[0, 0].numel())
        gains = taps.sum(-1, keepdim=True)
        return (taps + (gains.mean(1, keepdim=True) - gains) / taps.shape[-1]).reshape(weight.shape)

    def shared(bias: Tensor) -> Tensor:
        """The nearest bias that all phases of a channel share."""
        return bias.reshape(-1, phases).mean(1).repeat_interleave(phases)

    forms = {"weight": even} if owner.bias is None else {"weight": even, "bias": shared}
    with torch.no_grad():
        for name, form in forms.items():
            getattr(owner, name).copy_(form(getattr(owner, name)))
    return Replacement(owner, {name: Free(getattr(owner, name), form) for name, form in forms.items()}, phases)


def _plain(owner: nn.Module) -> nn.Module:
    """A layer as it was before its weight was parametrised, with the weight that it has now.

    `torch.nn.utils.parametrize.remove_parametrizations` would change the layer's class, which a deep copy shares with
    the original.
    """
    base: Any = parametrize.type_before_parametrizations(owner)
    plain: nn.Module = base.__new__(base)
    plain.__dict__ = {**vars(owner), "_modules": {}, "_parameters": dict(owner._parameters)}
    for name in owner.parametrizations:  # type: ignore[union-attr]  # a ModuleDict, in every parametrised module
        plain._parameters[str(name)] = nn.Parameter(getattr(owner, str(name)).detach().clone())
    return plain


def _resized(owner: Any) -> Replacement:
    if max(owner.dilation) > 1:
        raise ValueError('a dilated kernel is no resize-convolution: use method="equalize".')
    weight = kernels.resize_from_transposed(owner.weight.detach(), owner.stride, owner.groups)
    padding = []
    for (before, after), extra, k, s in zip(
        _cuts(owner), owner.output_padding, owner.kernel_size, owner.stride, strict=True
    ):
        padding.append((k - s - before, k - s - after + extra))
    layer = _RESIZE[len(padding) - 1](
        owner.in_channels,
        owner.out_channels,
        tuple(weight.shape[2:]),
        owner.stride,
        tuple(padding),
        groups=owner.groups,
        bias=owner.bias is not None,
    )
    return _filled(layer, weight, owner)


def _smoothed(owner: Any) -> Replacement:
    sharp = kernels.widened(owner.weight.detach())
    padding = []
    for axis, ((before, after), d, s, extra) in enumerate(
        zip(_cuts(owner), owner.dilation, owner.stride, owner.output_padding, strict=True), start=2
    ):
        sharp = kernels.spread(sharp, axis, d)
        added = s // 2 - max(extra - (s - 1), 0)  # output_padding must stay under the stride: the rest is cut no more
        if after + added < 0:
            raise ValueError(
                f'output_padding={extra} is more than a kernel that large can have: use method="equalize".'
            )
        padding.append((before + (s - 1) // 2, after + added))  # a stride of 2 moves the picture by half a position

    def smooth(weight: Tensor) -> Tensor:
        """Averaged over as many positions as the stride has, along every axis."""
        for axis, s in enumerate(owner.stride, start=2):
            sides = (0, 0) * (weight.dim() - 1 - axis) + (s - 1, s - 1)
            weight = F.pad(weight, sides).unfold(axis, s, 1).mean(-1)
        return weight

    weight = smooth(sharp)
    layer = _TRANSPOSED[len(padding) - 1](
        owner.in_channels,
        owner.out_channels,
        tuple(weight.shape[2:]),
        owner.stride,
        tuple(padding),
        tuple(min(extra, s - 1) for extra, s in zip(owner.output_padding, owner.stride, strict=True)),
        owner.groups,
        owner.bias is not None,
    )
    filled = _filled(layer, weight, owner)
    return replace(filled, free=filled.free | {"weight": Free(sharp, smooth)})


def _cuts(owner: Any) -> Pairs:
    """A transposed convolution's padding as (before, after) pairs; "same" cuts what is beyond input times stride."""
    axes = zip(owner.kernel_size, owner.stride, owner.dilation, strict=True)
    beyond = [max(d * (k - 1) + 1 - s, 0) for k, s, d in axes]
    return read_padding(owner.padding, len(beyond)) or tuple((total // 2, total - total // 2) for total in beyond)


@torch.no_grad()
def _filled(layer: Any, weight: Tensor, owner: Any) -> Replacement:
    layer.to(owner.weight).train(owner.training)
    layer.weight.copy_(weight)
    if owner.bias is not None:
        layer.bias.copy_(owner.bias)
    return Replacement(layer, {name: Free(parameter) for name, parameter in layer.named_parameters()}, phases=1)
