"""`cure`: take the checkerboard out of a trained model, without training it again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from halfstride import kernels
from halfstride import layers as halfstride_layers
from halfstride.arguments import Pairs, read_int, read_padding
from halfstride.checkerboard.diagnosis import Diagnosis, _as_batch, diagnose, evaluating
from halfstride.checkerboard.sites import Site, run, watch

__all__ = ["CureReport", "Method", "cure"]

Method = Literal["equalize", "resize", "smooth"]

_TRANSPOSED = (halfstride_layers.ConvTranspose1d, halfstride_layers.ConvTranspose2d, halfstride_layers.ConvTranspose3d)
_RESIZE = (halfstride_layers.ResizeConv1d, halfstride_layers.ResizeConv2d, halfstride_layers.ResizeConv3d)
_RATE, _BATCH = 1e-3, 64  # of Adam, where the cured model is taught to do without the pattern


@dataclass(frozen=True)
class CureReport:
    """What `cure` did, and what it cost; print it for a summary."""

    method: str
    changed: tuple[str, ...]
    """The layers that are even now."""
    left: dict[str, str]
    """The layers that are as uneven as before, and why."""
    before: Diagnosis
    after: Diagnosis
    difference: float
    """Root mean square change of the output, in units of the original output's standard deviation."""
    error_before: float | None
    """Mean squared error between input and output, where the model gives back the shape that it takes."""
    error_after: float | None
    inputs: Tensor | None
    """The first inputs, for pictures, where `error_before` is not None."""

    def __str__(self) -> str:
        lines = [f"method {self.method}: {len(self.changed)} layers changed ({', '.join(self.changed) or 'none'})"]
        lines += [f"left as it is: {name}, {reason}" for name, reason in self.left.items()]
        lines += [
            f"pattern in the output: {self.before.strength:.2%} of the standard deviation before, "
            f"{self.after.strength:.2%} after",
            f"the output changed by {self.difference:.2%} of its standard deviation",
        ]
        if self.error_before is not None and self.error_after is not None:
            change = self.error_after / self.error_before - 1 if self.error_before else 0.0
            told = f"{self.error_before:.5f} before, {self.error_after:.5f} after ({change:+.1%})"
            lines.append(f"reconstruction error (MSE): {told}")
        return "\n".join(lines)


def cure(
    model: nn.Module,
    example_inputs: Any,
    method: Method = "equalize",
    *,
    layers: Sequence[str] | None = None,
    steps: int = 0,
) -> tuple[nn.Module, CureReport]:
    """A copy of a model whose upsampling layers have equal phase gains, so that they make no checkerboard.

    The bias of every changed layer is set so that its output keeps its mean on the example inputs. In a trained model
    equal gains take away detail that the layer painted with its phases, and later layers have to be taught to do
    without: the report says what it costs, and `steps` wins most of it back.

    Args:
        model: any module whose uneven layers are modules of their own; weights in `forward` cannot be changed.
        example_inputs: what to run it on, as `diagnose` takes it; best a batch of what the model is used on.
        method:
            "equalize": the nearest weights with equal phase gains (least squares); shapes and number of parameters
            stay.
            "resize": the nearest resize-convolution in the place of each transposed convolution: fewer parameters, and
            it cannot become uneven again, but it gives up more of the layer than equal gains need.
            "smooth": a moving average of one stride after each transposed convolution, folded into its kernel: it
            blurs, and with a stride of 2 moves the picture by half a position.
        layers: the names of the layers to change, as `diagnose` gives them; by default the uneven ones whose patterns
            come through to the output, which are those that upsample last and those found there.
        steps: after that, so many steps of Adam on the whole model, in batches of 64 of the example inputs, towards
            the original's output without its pattern. Gains stay equal, no images but the inputs are needed.

    Returns:
        The cured copy, and what it cost. The model itself is not changed.

    Raises:
        ValueError: for another method, a layer that is not there or not uneven, or a negative number of steps.

    Reference:
        Sugawara, Shiota & Kiya, "Checkerboard artifacts free convolutional neural networks" (2019); Kinoshita & Kiya,
        "Fixed smooth convolutional layer for avoiding checkerboard artifacts in CNNs" (arXiv:2002.02117), for "smooth".

    Example:
        >>> _ = torch.manual_seed(0)
        >>> up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, kernel_size=3, stride=2))
        >>> even, report = cure(up, torch.randn(8, 4, 16, 16))
        >>> report.before.found, report.after.found
        (True, False)
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` (={method!r}) must be one of {', '.join(map(repr, get_args(Method)))}.")
    read_int("steps", steps, 0)
    before = diagnose(model, example_inputs)
    cured = copy.deepcopy(model)
    changed: dict[str, nn.Module] = {}
    phases: dict[str, int] = {}
    left: dict[str, str] = {}
    names = {id(module): name for name, module in cured.named_modules()}
    for site in _sites(cured, example_inputs, _to_change(before, layers)):
        try:
            layer = _replaced(site, method)
        except ValueError as reason:
            left[site.name] = str(reason)
            continue
        name = names[id(site.owner)]
        if layer is not site.owner:
            if not name:
                cured = layer
            else:
                cured.set_submodule(name, layer)
        changed[name] = layer
        phases[name] = math.prod(site.stride) if site.kind == "sub-pixel" else 1
    _keep_means(model, cured, phases, example_inputs)
    with evaluating(model), torch.no_grad():
        original = run(model, example_inputs)
    if steps and changed:
        target = _target(original, before)
        with evaluating(cured), _gains_kept(cured, list(changed.values()), example_inputs):
            _distil(cured, example_inputs, target, before, steps)
    after = diagnose(cured, example_inputs)
    with evaluating(cured), torch.no_grad():
        result = run(cured, example_inputs)
    return cured, _report(method, tuple(changed), left, before, after, example_inputs, original, result)


def _to_change(diagnosis: Diagnosis, layers: Sequence[str] | None) -> set[str]:
    uneven = {layer.name for layer in diagnosis.layers if layer.gain_spread or layer.made}
    if layers is not None:
        for name in layers:
            if name not in uneven:
                raise ValueError(
                    f"`layers` (={list(layers)}) names {name!r}, but the uneven layers are {sorted(uneven)}: choose of "
                    f"those."
                )
        return set(layers)
    if not diagnosis.output:
        return uneven
    seen = [part for part in diagnosis.output if part.direct or (part.pattern is not None and part.pattern.found)]
    return uneven & {name for part in seen for name in part.layers}


def _sites(model: nn.Module, example_inputs: Any, names: set[str]) -> list[Site]:
    sites: dict[str, Site] = {}

    def upsampled(site: Site, output: Tensor) -> None:
        if site.name in names:
            sites.setdefault(site.name, site)

    with evaluating(model), torch.no_grad(), watch(model, upsampled, lambda layer: None):
        run(model, example_inputs)
    return list(sites.values())


# One layer ------------------------------------------------------------------------------------------------------------


def _replaced(site: Site, method: Method) -> nn.Module:
    """The layer itself with new weights, or another in its place; a `ValueError` says why there is none."""
    owner: Any = site.owner
    is_module = isinstance(owner, nn.modules.conv._ConvNd | halfstride_layers._SubpixelConv)
    if not is_module or "weight" not in {*owner._parameters, *getattr(owner, "parametrizations", ())}:
        raise ValueError("its weight is no parameter of a layer of torch.nn or halfstride.")
    if parametrize.is_parametrized(owner):
        owner = _plain(owner)
    if method == "equalize":
        with torch.no_grad():
            owner.weight.copy_(_even(owner, owner.weight, site))
            if site.kind == "sub-pixel" and owner.bias is not None:
                phases = owner.bias.reshape(-1, site.bias[0].numel())  # type: ignore[index]  # there, as the owner's is
                owner.bias.copy_(phases.mean(1, keepdim=True).expand_as(phases).flatten())
        return owner  # type: ignore[no-any-return]
    if site.kind == "sub-pixel":
        raise ValueError('a sub-pixel convolution keeps its form: use method="equalize".')
    if isinstance(owner, halfstride_layers._ConvTranspose) and owner.padding_mode != "zeros":
        raise ValueError(f'padding_mode={owner.padding_mode!r} is kept by method="equalize" only.')
    return _resized(owner) if method == "resize" else _smoothed(owner)


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


def _even(owner: nn.Module, weight: Tensor, site: Site) -> Tensor:
    """The nearest weight of the same layer with equal phase gains."""
    if site.kind == "transposed":
        return kernels.even_from_transposed(weight, site.stride, site.dilation, site.groups)
    phases = site.stride[0] ** 2 if isinstance(owner, nn.Conv2d) else int(torch.tensor(site.stride).prod())
    taps = weight.reshape(-1, phases, weight.shape[1], weight[0, 0].numel())
    gains = taps.sum(-1, keepdim=True)
    return (taps + (gains.mean(1, keepdim=True) - gains) / taps.shape[-1]).reshape(weight.shape)


def _resized(owner: Any) -> nn.Module:
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


def _smoothed(owner: Any) -> nn.Module:
    weight = kernels.widened(owner.weight.detach())
    padding = []
    for axis, ((before, after), d, s) in enumerate(
        zip(_cuts(owner), owner.dilation, owner.stride, strict=True), start=2
    ):
        weight = kernels.spread(weight, axis, d)
        sides = (0, 0) * (weight.dim() - 1 - axis) + (s - 1, s - 1)
        weight = F.pad(weight, sides).unfold(axis, s, 1).mean(-1)
        padding.append((before + (s - 1) // 2, after + s // 2))  # a stride of 2 moves the picture by half a position
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
    return _filled(layer, weight, owner)


def _cuts(owner: Any) -> Pairs:
    """A transposed convolution's padding as (before, after) pairs; "same" cuts what is beyond input times stride."""
    axes = zip(owner.kernel_size, owner.stride, owner.dilation, strict=True)
    beyond = [max(d * (k - 1) + 1 - s, 0) for k, s, d in axes]
    return read_padding(owner.padding, len(beyond)) or tuple((total // 2, total - total // 2) for total in beyond)


@torch.no_grad()
def _filled(layer: Any, weight: Tensor, owner: Any) -> nn.Module:
    layer.to(owner.weight).train(owner.training)
    layer.weight.copy_(weight)
    if owner.bias is not None:
        layer.bias.copy_(owner.bias)
    return layer  # type: ignore[no-any-return]


# The whole model ------------------------------------------------------------------------------------------------------


def _keep_means(model: nn.Module, cured: nn.Module, phases: dict[str, int], example_inputs: Any) -> None:
    """Set the biases so that every changed layer's output has the mean that it had, layer after layer in one run.

    Args:
        phases: for each layer, by its name, how many entries of its bias one output channel has.
    """
    means: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: Any, output: Tensor) -> None:
            means.setdefault(name, _channel_means(layer, output, phases[name]))

        return hook

    def mend(name: str) -> Callable[..., Tensor]:
        def hook(layer: Any, inputs: Any, output: Tensor) -> Tensor:
            wanted = means.pop(name, None)  # in a layer that runs several times the first run counts
            if wanted is None or layer.bias is None:
                return output
            change = (wanted - _channel_means(layer, output, phases[name])).to(layer.bias)
            layer.bias += change.repeat_interleave(phases[name])
            axes = layer.weight.dim() - 2
            entries = output.shape[-axes - 1] // len(change)
            return output + change.repeat_interleave(entries).reshape(-1, *(1,) * axes)

        return hook

    for which, attach in ((model, note), (cured, mend)):
        handles = [which.get_submodule(name).register_forward_hook(attach(name)) for name in phases]
        try:
            with evaluating(which), torch.no_grad():
                run(which, example_inputs)
        finally:
            for handle in handles:
                handle.remove()


def _channel_means(layer: Any, output: Tensor, phases: int) -> Tensor:
    """The mean of each output channel, whether its phases stand shuffled into place or are channels still."""
    axes = layer.weight.dim() - 2
    means = output.movedim(-axes - 1, 0).flatten(1).double().mean(1)
    is_shuffled = phases == 1 or len(means) != layer.weight.shape[0]
    return means if is_shuffled else means.reshape(-1, phases).mean(1)


def _target(original: Any, before: Diagnosis) -> Tensor:
    """The original's output without the patterns found in it."""
    target = _as_batch(original, before.layers)
    if target is None:
        raise ValueError("`steps` need a model that returns a tensor (batch, channels, *size): leave them out.")
    for part in before.output:
        if part.pattern is not None and part.pattern.found:
            tiles = [n // s + 1 for n, s in zip(target.shape[2:], part.period, strict=True)]
            tiled = part.pattern.phases.repeat(1, *tiles)
            for axis, size in enumerate(target.shape[2:], start=1):
                tiled = tiled.narrow(axis, 0, size)
            target = target - tiled.to(target)
    return target


def _distil(cured: nn.Module, example_inputs: Any, target: Tensor, before: Diagnosis, steps: int) -> None:
    """Teach the cured model to give `target`."""
    parameters = [parameter for parameter in cured.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    # Up from almost nothing and down again: Adam's first steps are as large as its rate, whatever the gradient.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.sin(math.pi * (step + 1) / (steps + 2)))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        inputs, wanted = example_inputs, target
        if isinstance(inputs, Tensor) and len(inputs) == len(target) > _BATCH:
            chosen = torch.randperm(len(target), generator=generator)[:_BATCH].to(target.device)
            inputs, wanted = inputs[chosen], target[chosen]
        output = _as_batch(run(cured, inputs), before.layers)
        assert output is not None  # as the target was
        gradients = torch.autograd.grad(F.mse_loss(output, wanted), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()


class _EvenWeight(nn.Module):
    """A parametrisation: the nearest weight with equal phase gains."""

    def __init__(self, owner: nn.Module, site: Site) -> None:
        super().__init__()
        self._owner, self._site = (owner,), site  # in a tuple, so that the owner is not taken for a submodule

    def forward(self, weight: Tensor) -> Tensor:
        return _even(self._owner[0], weight, self._site)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


@contextmanager
def _gains_kept(cured: nn.Module, changed: Sequence[Any], example_inputs: Any) -> Iterator[None]:
    sites: dict[int, Site] = {}
    with torch.no_grad(), watch(cured, lambda site, output: sites.update({id(site.owner): site}), lambda layer: None):
        run(cured, example_inputs)
    for layer in changed:
        if sites[id(layer)].kind != "resize":
            parametrize.register_parametrization(layer, "weight", _EvenWeight(layer, sites[id(layer)]))
    try:
        yield
    finally:
        for layer in changed:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _report(
    method: str,
    changed: tuple[str, ...],
    left: dict[str, str],
    before: Diagnosis,
    after: Diagnosis,
    example_inputs: Any,
    original: Any,
    result: Any,
) -> CureReport:
    old, new = _as_batch(original, before.layers), _as_batch(result, before.layers)
    difference = 0.0
    error_before = error_after = inputs = None
    if old is not None and new is not None:
        spread = float(old.double().movedim(1, 0).flatten(1).var(1, correction=0).mean().sqrt())
        difference = float((new.double() - old.double()).square().mean().sqrt()) / spread if spread else 0.0
        if isinstance(example_inputs, Tensor) and example_inputs.shape == old.shape:
            error_before = float(F.mse_loss(old.double(), example_inputs.double()))
            error_after = float(F.mse_loss(new.double(), example_inputs.double()))
            inputs = example_inputs[:16].float().cpu()
    return CureReport(method, changed, left, before, after, difference, error_before, error_after, inputs)
