"""Find where a model upsamples: its layers, and the functions that it calls in `forward`, by running it once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from halfstride import kernels, layers
from halfstride._support.draws import Draws
from halfstride._support.models import arguments_of, evaluating, keeping_buffers, removing
from halfstride._support.torch_private import tree_leaves, uncompiled, version_of
from halfstride.checkerboard import grids

_TRANSPOSED = {getattr(home, f"conv_transpose{axes}d") for home in (F, torch) for axes in (1, 2, 3)}
_CONVOLUTIONS = {getattr(home, f"conv{axes}d") for home in (F, torch) for axes in (1, 2, 3)}
_SHUFFLES = {F.pixel_shuffle, torch.pixel_shuffle}
_WATCHED = {*_TRANSPOSED, *_CONVOLUTIONS, *_SHUFFLES, F.interpolate}
_OURS = (layers._ConvTranspose, layers._ResizeConv, layers._SubpixelConv)
_UPSAMPLING = (nn.modules.conv._ConvTransposeNd, nn.PixelShuffle, nn.Upsample, *_OURS)


@dataclass(frozen=True)
class UpsamplingCall:
    """One call that upsamples, of a layer or of a function."""

    name: str
    """The module's name; for a function called in a module's `forward`, the module's name and the function's."""
    kind: str
    """"transposed", "resize", "sub-pixel", or "interpolate" (without a convolution that belongs to it)."""
    kernel_size: tuple[int, ...]
    """As written in the layer; empty without a kernel."""
    stride: tuple[int, ...]
    """Or scale factor; 1 along every axis where the scale is no integer."""
    dilation: tuple[int, ...]
    """Of `kernel`; 1 for a sub-pixel convolution, whose `kernel` contains the dilation as zeros between its taps."""
    groups: int = 1
    kernel: Tensor | None = None
    """The kernel of the equivalent transposed convolution, (in, out / groups, *taps), where it is known."""
    bias: Tensor | None = None
    """The bias of each phase, (out, *stride), of a sub-pixel convolution; None where all phases share one."""
    input_mean: Tensor | None = None
    """The mean of each input channel, (in,), over batch and positions; known where `kernel` is."""
    owner: nn.Module | None = None
    """The module that holds the weight."""
    eps: float = 0.0
    """Of the type that holds the weight."""
    source: str = ""
    """The convolution before a sub-pixel call, named like this one."""


class StridedConvolution(NamedTuple):
    """A convolution that downsamples: its gradient is a transposed convolution, and can be as uneven."""

    name: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def upsampling_modules(model: nn.Module) -> list[str]:
    """The names of all modules whose class upsamples."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _UPSAMPLING) and max(_per_axis(getattr(module, "stride", 2), 1)) > 1
    ]


def draws_of(model: nn.Module, example_inputs: Any) -> Draws:
    """For runs of a model on these inputs that are to draw the same random numbers."""
    return Draws([*model.parameters(), *tree_leaves(example_inputs)])


@torch.no_grad()
def run(model: nn.Module, example_inputs: Any, draws: Draws) -> Any:
    """What the model returns, in evaluation mode, for a tensor, a tuple of positional or a dict of named arguments."""
    positional, named = arguments_of(example_inputs)
    with evaluating(model), keeping_buffers(model), draws.same(), uncompiled():
        return model(*positional, **named)


@contextmanager
def watch(
    model: nn.Module,
    upsampled: Callable[[UpsamplingCall, Tensor], None],
    downsampled: Callable[[StridedConvolution], None] = lambda layer: None,
    *,
    constant: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    at: Container[str] = (),
) -> Iterator[None]:
    """Report every upsampling call, with its output, and every strided convolution of a model that runs inside.

    The calls named in `at` get what `constant` makes of their first arguments.
    """
    watcher = _Watcher(upsampled, downsampled, constant, at)
    handles: list[Any] = []
    with removing(handles):
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks, and its functions are not seen
                watcher.is_blind = True
                continue
            handles.append(module.register_forward_pre_hook(partial(watcher.enter, name)))
            handles.append(module.register_forward_hook(watcher.leave, always_call=True))
        with watcher:
            yield


class _Watcher(TorchFunctionMode):
    """Sees every call to a function of torch, and knows from hooks in which module it is made."""

    def __init__(
        self,
        upsampled: Callable[[UpsamplingCall, Tensor], None],
        downsampled: Callable[[StridedConvolution], None],
        constant: Callable[[Tensor], Tensor],
        at: Container[str],
    ) -> None:
        super().__init__()
        self._upsampled, self._downsampled, self._constant, self._at = upsampled, downsampled, constant, at
        self._inside: list[tuple[str, nn.Module | None]] = [("", None)]
        self._calls: dict[str, int] = {}
        self._last: Tensor | None = None
        self.is_blind = False
        """Whether a part of the model is not seen: then what comes from nowhere comes from the last call."""

    def enter(self, name: str, module: nn.Module, inputs: Any) -> Any:
        if self.is_blind and not name and inputs and isinstance(inputs[0], Tensor):
            self._last = inputs[0].detach()
            grids.mark(self._last, None, inputs[0].dim() - 2)
        if isinstance(module, _OURS) and name in self._at:
            inputs = (self._constant(inputs[0]), *inputs[1:])
        self._inside.append((name, module))
        return inputs

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name, _ = self._inside[-1]
        if isinstance(module, _OURS) and isinstance(output, Tensor):
            self._enlarged(_call_of_ours(name, module, inputs[0]), inputs[0], output)
        elif not any(hasattr(each, "_grids") for each in tree_leaves(output)):  # made by what no mode of torch sees
            grids.carry(None, (inputs, self._last if len(self._inside) == 2 else None), {}, output)
        self._inside.pop()  # not before: what is computed here is no part of the model

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(module, _OURS) for _, module in self._inside):
            return func(*args, **kwargs)  # a layer of this package is reported as a whole, however it is computed
        if func not in _WATCHED:
            output = func(*args, **kwargs)
            grids.carry(func, args, kwargs, output)
            return output
        name = self._name(func.__name__)
        if name in self._at and args:
            args = (self._constant(args[0]), *args[1:])
        if self.is_blind and self._last is not None and args and not hasattr(args[0], "_grids"):
            args[0]._grids = self._last._grids  # type: ignore[attr-defined]
        output = func(*args, **kwargs)
        if func in _TRANSPOSED:
            given = _given("input weight bias stride padding output_padding groups dilation", args, kwargs)
            self._enlarged(_transposed_call(name, self._inside[-1][1], **given), given["input"], output)
        elif func in _CONVOLUTIONS:
            given = _given("input weight bias stride padding dilation groups", args, kwargs)
            self._convolved(name, output, given)
        elif func in _SHUFFLES:
            self._shuffled(name, output, **_given("input upscale_factor", args, kwargs))
        else:
            self._interpolated(name, output, args[0] if args else kwargs["input"])
        self._last = output
        return output

    def _enlarged(self, call: UpsamplingCall, input: Tensor, output: Tensor) -> None:
        grids.mark(output, input, len(call.stride), by=call.stride, layer=call.name)
        if max(call.stride) > 1:
            self._upsampled(call, output)

    def _name(self, function: str) -> str:
        """The innermost module's name, and the function's unless calling it is all that this module does."""
        name, module = self._inside[-1]
        if isinstance(module, _UPSAMPLING):
            return name
        name = f"{name}.{function}()".lstrip(".")
        self._calls[name] = self._calls.get(name, 0) + 1
        return name if self._calls[name] == 1 else f"{name} #{self._calls[name]}"

    def _convolved(self, call: str, output: Tensor, given: dict[str, Any]) -> None:
        size = tuple(given["weight"].shape[2:])
        stride, dilation = (_per_axis(given.get(key, 1), len(size)) for key in ("stride", "dilation"))
        name, owner = self._inside[-1]
        if max(stride) > 1:
            self._downsampled(StridedConvolution(name or call, size, stride, dilation))
        grids.mark(output, given["input"], len(size), stride=stride)
        # Should a pixel shuffle come next, this is its convolution.
        output._made_by_convolution = (given, owner, call, version_of(output))  # type: ignore[attr-defined]

    def _shuffled(self, name: str, output: Tensor, input: Tensor, upscale_factor: int) -> None:
        scale = (int(upscale_factor),) * 2
        given, owner, convolution, version = getattr(input, "_made_by_convolution", (None, None, "", 0))
        if given is None or version != version_of(input):
            call = UpsamplingCall(name, "sub-pixel", (), scale, (1, 1))
        else:
            call = replace(_subpixel_call(name, owner, scale, **given), source=convolution)
        self._enlarged(call, input, output)

    def _interpolated(self, name: str, output: Tensor, input: Tensor) -> None:
        scales = [Fraction(n, m) for n, m in zip(output.shape[2:], input.shape[2:], strict=True)]
        by, stride = ([getattr(scale, part) for scale in scales] for part in ("numerator", "denominator"))
        is_whole = max(stride) == 1
        grids.mark(output, input, len(scales), by=by, stride=stride, layer=name if is_whole else None)
        if max(scales) > 1:
            scale = tuple(by) if is_whole else (1,) * len(by)
            self._upsampled(UpsamplingCall(name, "interpolate", (), scale, (1,) * len(by)), output)


def _call_of_ours(name: str, layer: Any, input: Tensor) -> UpsamplingCall:
    if isinstance(layer, layers._ResizeConv):
        return UpsamplingCall(name, "resize", layer.kernel_size, layer.scale_factor, layer.dilation, owner=layer)
    given = {"weight": layer.weight, "bias": layer.bias, "dilation": layer.dilation, "groups": layer.groups}
    if isinstance(layer, layers._SubpixelConv):
        return _subpixel_call(name, layer, layer.scale_factor, input, **given)
    return _transposed_call(name, layer, input, stride=layer.stride, **given)


def _transposed_call(
    name: str,
    owner: nn.Module | None,
    input: Tensor,
    weight: Tensor,
    *,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    **others: Any,
) -> UpsamplingCall:
    size = tuple(weight.shape[2:])
    mean, (strides, dilations) = _channel_means(input, len(size)), (_per_axis(v, len(size)) for v in (stride, dilation))
    eps = torch.finfo(weight.dtype).eps
    return UpsamplingCall(name, "transposed", size, strides, dilations, groups, weight.detach(), None, mean, owner, eps)


def _subpixel_call(
    name: str,
    owner: nn.Module | None,
    scale: tuple[int, ...],
    input: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    dilation: Any = 1,
    groups: int = 1,
    **others: Any,
) -> UpsamplingCall:
    axes = len(scale)
    kernel = kernels.transposed_from_subpixel(weight.detach(), scale, _per_axis(dilation, axes), groups)
    by_phase = None if bias is None else bias.detach().reshape(-1, *scale)
    size, mean = tuple(weight.shape[2:]), _channel_means(input, axes)
    eps = torch.finfo(weight.dtype).eps
    return UpsamplingCall(name, "sub-pixel", size, scale, (1,) * axes, groups, kernel, by_phase, mean, owner, eps)


def _given(names: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _channel_means(input: Tensor, axes: int) -> Tensor:
    return input.detach().movedim(-axes - 1, 0).flatten(1).double().mean(1)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))
