"""Where a model upsamples: its layers, and the functions that it calls in `forward`, found by running it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from halfstride import kernels, layers
from halfstride._support.torch_private import version_of

__all__ = ["Downsampling", "Site", "could_upsample", "run", "watch"]

_TRANSPOSED = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}
_TRANSPOSED |= {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_SHUFFLES = {F.pixel_shuffle, torch.pixel_shuffle}
_OURS = (layers._ConvTranspose, layers._ResizeConv, layers._SubpixelConv)
_UPSAMPLING = (nn.modules.conv._ConvTransposeNd, nn.PixelShuffle, nn.Upsample, *_OURS)


@dataclass(frozen=True)
class Site:
    """One place of a model that upsamples, as one call was seen."""

    name: str
    """The module's name; for a function called in some module's `forward`, that module's name and the function's."""
    kind: str
    """"transposed", "resize", "sub-pixel" or "interpolate" (without a convolution that belongs to it)."""
    kernel_size: tuple[int, ...]
    """As it is written in the layer; empty where there is no kernel."""
    stride: tuple[int, ...]
    """Or scale factor; `(1, 1)` and the like where the scale is no integer."""
    dilation: tuple[int, ...]
    """Of `kernel`; 1 for a sub-pixel convolution, in whose `kernel` the dilation is spread out."""
    groups: int
    kernel: Tensor | None
    """The kernel of the transposed convolution that this is, (in, out / groups, *taps), where it is known."""
    bias: Tensor | None
    """Of each phase, (out, *stride), for sub-pixel convolutions; elsewhere all phases share one, and it is None."""
    input_mean: Tensor | None
    """What each channel (in,) of the convolution's input is on average, over batch and positions."""
    owner: nn.Module | None
    """The module that holds the weight."""


class Downsampling(NamedTuple):
    """A strided convolution: its gradient is a transposed convolution, and can be as uneven."""

    name: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def could_upsample(model: nn.Module) -> list[str]:
    """The names of all modules that are there to upsample."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _UPSAMPLING) and max(_tuple(getattr(module, "stride", 2), 1)) > 1
    ]


def run(model: nn.Module, example_inputs: Any) -> Any:
    """What the model returns for a tensor, a tuple of positional arguments or a dict of named ones."""
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    return model(*example_inputs) if isinstance(example_inputs, tuple | list) else model(example_inputs)


@contextmanager
def watch(
    model: nn.Module, upsampled: Callable[[Site, Tensor], None], downsampled: Callable[[Downsampling], None]
) -> Iterator[None]:
    """Report every upsampling, with its output, and every strided convolution of a model that runs inside the block."""
    watcher = _Watcher(upsampled, downsampled)
    handles: list[Any] = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(watcher.entering(name)))
            handles.append(module.register_forward_hook(watcher.left, always_call=True))
        with watcher:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Watcher(TorchFunctionMode):
    """Sees every call to a function of torch, and knows from hooks which module it is made in."""

    def __init__(self, upsampled: Callable[[Site, Tensor], None], downsampled: Callable[[Downsampling], None]) -> None:
        super().__init__()
        self._upsampled, self._downsampled = upsampled, downsampled
        self._inside: list[tuple[str, nn.Module]] = []
        self._calls: dict[str, int] = {}

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._inside.append((name, module))

        return enter

    def left(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name, _ = self._inside[-1]
        if isinstance(module, _OURS) and isinstance(output, Tensor):
            site = _site_of_ours(name, module, inputs[0])
            if max(site.stride) > 1:
                self._upsampled(site, output)
        self._inside.pop()  # not before: what is computed here is no part of the model

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._in_ours() or not isinstance(output, Tensor):
            return output  # a layer of ours is one thing, however it is computed
        if func in _TRANSPOSED:
            self._transposed(_TRANSPOSED[func], output, args, kwargs)
        elif func in _CONVOLUTIONS:
            self._convolved(_CONVOLUTIONS[func], output, args, kwargs)
        elif func in _SHUFFLES:
            self._shuffled(output, args, kwargs)
        elif func is F.interpolate:
            self._interpolated(output, args, kwargs)
        return output

    def _in_ours(self) -> bool:
        return any(isinstance(module, _OURS) for _, module in self._inside)

    def _name(self, function: str) -> str:
        """The innermost module's name, and the function's unless calling it is all that this module does."""
        name, module = self._inside[-1] if self._inside else ("", None)
        if isinstance(module, _UPSAMPLING):
            return name
        name = f"{name}.{function}()" if name else f"{function}()"
        self._calls[name] = self._calls.get(name, 0) + 1
        return name if self._calls[name] == 1 else f"{name} #{self._calls[name]}"

    def _transposed(self, axes: int, output: Tensor, args: Any, kwargs: Any) -> None:
        names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        given = dict(zip(names, args, strict=False)) | kwargs
        weight, stride = given["weight"], _tuple(given.get("stride", 1), axes)
        if max(stride) > 1:
            dilation = _tuple(given.get("dilation", 1), axes)
            name, groups = self._name(f"conv_transpose{axes}d"), given.get("groups", 1)
            owner = self._inside[-1][1] if self._inside else None
            kernel_size, mean = tuple(weight.shape[2:]), _channel_means(given["input"], axes)
            site = Site(name, "transposed", kernel_size, stride, dilation, groups, weight, None, mean, owner)
            self._upsampled(site, output)

    def _convolved(self, axes: int, output: Tensor, args: Any, kwargs: Any) -> None:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, args, strict=False)) | kwargs
        weight, stride = given["weight"], _tuple(given.get("stride", 1), axes)
        dilation = _tuple(given.get("dilation", 1), axes)
        name, owner = self._inside[-1] if self._inside else ("", None)
        if max(stride) > 1:
            self._downsampled(Downsampling(name or f"conv{axes}d()", tuple(weight.shape[2:]), stride, dilation))
        # Should a pixel shuffle come next, this is its convolution.
        output._made_by_convolution = (given, owner, version_of(output))  # type: ignore[attr-defined]

    def _shuffled(self, output: Tensor, args: Any, kwargs: Any) -> None:
        given = dict(zip(("input", "upscale_factor"), args, strict=False)) | kwargs
        scale = (int(given["upscale_factor"]),) * 2
        name = self._name("pixel_shuffle")
        made, owner, version = getattr(given["input"], "_made_by_convolution", (None, None, 0))
        if made is None or version != version_of(given["input"]):
            self._upsampled(Site(name, "sub-pixel", (), scale, (1, 1), 1, None, None, None, None), output)
        else:
            dilation = _tuple(made.get("dilation", 1), 2)
            arguments = (made["input"], made["weight"], made.get("bias"), scale, dilation, made.get("groups", 1))
            self._upsampled(_subpixel_site(name, owner, *arguments), output)

    def _interpolated(self, output: Tensor, args: Any, kwargs: Any) -> None:
        source = args[0] if args else kwargs["input"]
        sizes = list(zip(source.shape[2:], output.shape[2:], strict=True))
        if all(after <= before for before, after in sizes):
            return
        whole = all(after % before == 0 for before, after in sizes)
        scale = tuple(after // before for before, after in sizes) if whole else (1,) * len(sizes)
        site = Site(self._name("interpolate"), "interpolate", (), scale, (1,) * len(sizes), 1, None, None, None, None)
        self._upsampled(site, output)


def _site_of_ours(name: str, layer: Any, input: Tensor) -> Site:
    dilation, groups = layer.dilation, layer.groups
    if isinstance(layer, layers._SubpixelConv):
        return _subpixel_site(name, layer, input, layer.weight, layer.bias, layer.scale_factor, dilation, groups)
    if isinstance(layer, layers._ResizeConv):
        return Site(name, "resize", layer.kernel_size, layer.scale_factor, dilation, groups, None, None, None, layer)
    mean, weight = _channel_means(input, len(layer.stride)), layer.weight.detach()
    return Site(name, "transposed", layer.kernel_size, layer.stride, dilation, groups, weight, None, mean, layer)


def _subpixel_site(
    name: str,
    owner: nn.Module | None,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Site:
    kernel = kernels.transposed_from_subpixel(weight.detach(), scale, dilation, groups)
    by_phase = None if bias is None else bias.detach().reshape(-1, *scale)
    mean = _channel_means(input, len(scale))
    undilated = (1,) * len(scale)  # the kernel has the dilation spread out in it
    return Site(name, "sub-pixel", tuple(weight.shape[2:]), scale, undilated, groups, kernel, by_phase, mean, owner)


def _channel_means(input: Tensor, axes: int) -> Tensor:
    return input.detach().movedim(-axes - 1, 0).flatten(1).double().mean(1)


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))
