"""`cure`: take the checkerboard out of a trained model, without training it again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride._support.arguments import read_int
from halfstride.checkerboard.diagnosis import as_batch, diagnose, evaluating, gain_spread, in_output
from halfstride.checkerboard.fitting import Free, Ran, fit, watch_weights
from halfstride.checkerboard.pattern import STRENGTH
from halfstride.checkerboard.replacing import Method, Replacement, replacement
from halfstride.checkerboard.reports import EVEN, Diagnosis
from halfstride.checkerboard.sites import Site, run, watch

__all__ = ["CureReport", "Method", "cure"]

_TRACE = 1.0  # evidence from which on a pattern is fitted away: on more images than these it may count as found

_DUST = 1e-5  # of phase gains: less is float32's rounding of equal ones


@dataclass(frozen=True)
class CureReport:
    """What `cure` did, and what it cost; print it for a summary."""

    method: str
    changed: tuple[str, ...]
    """The layers that are even now."""
    fitted: tuple[str, ...]
    """The modules whose weights were fitted to the original's output; empty where nothing was fitted."""
    left: dict[str, str]
    """The layers that are as uneven as before, and why."""
    before: Diagnosis
    after: Diagnosis
    difference: float | None
    """Root mean square change of the output, in units of the original output's standard deviation; None where the model
    returns no batch of floating point that could be compared, and nothing was fitted."""
    error_before: float | None
    """Mean squared error between input and output, where the model gives back the shape that it takes."""
    error_after: float | None
    inputs: Tensor | None
    """The first inputs, for pictures, where `error_before` is not None."""

    def __str__(self) -> str:
        lines = [f"method {self.method}: {len(self.changed)} layers changed ({', '.join(self.changed) or 'none'})"]
        lines += [f"left as it is: {name}, {reason}" for name, reason in self.left.items()]
        if self.fitted:
            lines.append(f"fitted to the original's output: {', '.join(self.fitted)}")
        if self.difference is None:
            lines.append("nothing was measured in the output, or fitted to it: it is no batch of floating point")
        else:
            lines += [
                f"pattern in the output: {self.before.strength:.2%} of the standard deviation before, "
                f"{self.after.strength:.2%} after",
                f"the output changed by {self.difference:.2%} of its standard deviation",
            ]
        if self.error_before is not None and self.error_after is not None:
            change = self.error_after / self.error_before - 1 if self.error_before else 0.0
            told = f"{self.error_before:.5f} before, {self.error_after:.5f} after ({change:+.1%})"
            lines.append(f"reconstruction error (MSE) on these inputs: {told}")
        return "\n".join([*lines, *self.advice])

    @property
    def advice(self) -> tuple[str, ...]:
        """What to try next, in sentences; none where there is nothing to say."""
        if self.method == "smooth":
            return ()
        told = []
        small = [
            layer.name
            for layer in self.before.layers
            if layer.name in self.changed
            and layer.kind == "transposed"
            and all(k <= s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        ]
        if small:
            told.append(
                f"{', '.join(small)}: a kernel no larger than the stride has one tap a phase, and equal gains leave "
                'copies of single values. method="smooth" makes the kernel larger.'
            )
        if self.after.visible and not self.after.blamed and not self.left:
            told.append(
                "The gains are equal, but a nonlinearity makes a pattern of phases that differ in how much they vary: "
                'method="smooth" may leave less of it.'
            )
        return tuple(told)


def cure(
    model: nn.Module,
    example_inputs: Any,
    method: Method = "equalize",
    *,
    layers: Sequence[str] | None = None,
    steps: int = 50,
) -> tuple[nn.Module, CureReport]:
    """A copy of a model whose upsampling layers have equal phase gains, so that they make no checkerboard.

    In a trained model equal gains take away detail that the layer painted with its phases. So the changed layers, and
    the layer with a weight that runs before each of them, are fitted to what the original gives for the example inputs,
    less the patterns found in it: least squares, in which the gains stay equal. No labels are needed, and no inputs but
    the examples. The report says what it costs.

    Args:
        model: any module whose uneven layers are modules of their own; weights in `forward` cannot be changed.
        example_inputs: what to run it on, as `diagnose` takes it; best a batch of what the model is used on. Some
            hundred images make the fit hold for others as well; one is better than none.
        method:
            "equalize": begin at the nearest weights with equal phase gains; shapes and number of parameters stay.
            "resize": begin at the nearest resize-convolution in the place of each transposed convolution: fewer
            parameters, and it cannot become uneven again, but it gives up more of the layer than equal gains need.
            "smooth": begin with a moving average of one stride after each transposed convolution, folded into its
            kernel. It is the strongest against patterns, and blurs.
        layers: the names of the layers to change, as `diagnose` gives them; by default the uneven ones whose patterns
            come through to the output, which are those that upsample last and those found there.
        steps: iterations of the fit, and about as many again where patterns come back; each takes about as long as
            one training step on all examples. With 0 nothing is fitted: the weights are those where the method begins,
            and biases keep every changed layer's mean output.

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
    done: dict[str, Replacement] = {}
    left: dict[str, str] = {}
    names: dict[int, list[str]] = {}
    for name, module in cured.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for site in _sites(cured, example_inputs, _to_change(before, layers)):
        try:
            if site.owner is not None and (tied := _tied(cured, site.owner)):
                raise ValueError(f"its weights are those of {', '.join(tied)} too: give it its own.")
            new = replacement(site, method)
        except ValueError as reason:
            left[site.name] = str(reason)
            continue
        first, *aliases = names[id(site.owner)]
        if new.layer is not site.owner:
            for name in (first, *aliases):
                if not name:
                    cured = new.layer
                else:
                    cured.set_submodule(name, new.layer)
        done[first] = new
    _keep_means(model, cured, {name: new.phases for name, new in done.items()}, example_inputs)
    with evaluating(model), torch.no_grad():
        original = run(model, example_inputs)
    fitted = _fit(cured, done, before, example_inputs, original, steps) if steps and done else ()
    after = diagnose(cured, example_inputs)
    with evaluating(cured), torch.no_grad():
        result = run(cured, example_inputs)
    return cured, _report(method, tuple(done), fitted, left, before, after, example_inputs, original, result)


def _to_change(diagnosis: Diagnosis, layers: Sequence[str] | None) -> set[str]:
    uneven = {
        layer.name
        for layer in diagnosis.layers
        if max(layer.gain_spread or 0.0, layer.made or 0.0) > _DUST
        or (layer.gain_spread is None and layer.verdict == "checkerboard")  # which will be left, and told why
    }
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


def _fit(
    cured: nn.Module,
    done: dict[str, Replacement],
    before: Diagnosis,
    example_inputs: Any,
    original: Any,
    steps: int,
) -> tuple[str, ...]:
    """Fit the changed layers and those before them; the names of what was fitted."""
    target = _target(original, before)
    if target is None:
        return ()
    upsampling = {layer.name for layer in before.layers if layer.kind in ("transposed", "sub-pixel")}
    even = [site.owner for site in _sites(cured, example_inputs, upsampling) if _is_even(site)]  # and must stay so
    free: dict[str, Free] = {}
    names: dict[str, None] = {}
    with evaluating(cured):
        earlier: Ran | None = None
        for ran in watch_weights(cured, example_inputs):
            if ran.name in done:
                fits = earlier is not None and earlier.name not in done and earlier.module not in even
                if earlier is not None and fits and not _tied(cured, earlier.module):
                    names[earlier.name] = None
                    free |= _free(earlier, {key: Free(value) for key, value in earlier.module.named_parameters()})
                names[ran.name] = None
                free |= _free(ran, done[ran.name].free)
            earlier = ran
        is_fitted = fit(
            cured,
            example_inputs,
            target,
            free,
            lambda returned: as_batch(returned, before.layers),
            lambda output: _left(output, before),
            steps,
        )
    return tuple(names) if is_fitted else ()


def _free(ran: Ran, parameters: dict[str, Free]) -> dict[str, Free]:
    """By their names in the model. A bias, which may be 0, is measured like a weight: by its share in the output."""
    weights = sum(part.start.numel() for part in parameters.values() if part.start.dim() > 1)

    def measured(part: Free) -> Free:
        if part.start.dim() > 1 or ran.size is None:
            return part
        return replace(part, unit=ran.size / math.sqrt(weights / part.start.numel()))

    return {f"{ran.name}.{key}".lstrip("."): measured(part) for key, part in parameters.items()}


def _tied(model: nn.Module, module: nn.Module) -> list[str]:
    """The other modules that have parameters of this one."""
    own = set(map(id, module.parameters()))
    return [
        name
        for name, other in model.named_modules()
        if other not in set(module.modules()) and own & set(map(id, other.parameters(recurse=False)))
    ]


def _is_even(site: Site) -> bool:
    return site.kernel is not None and gain_spread(site.kernel, site.stride, site.dilation, site.groups) <= EVEN


def _target(original: Any, before: Diagnosis) -> Tensor | None:
    """The original's output without the patterns found in it."""
    output = as_batch(original, before.layers)
    if output is None:
        return None
    for part in before.output:
        if part.pattern is not None and part.pattern.found:
            output = output - part.pattern.within(output).to(output)
    return output


def _left(output: Tensor, before: Diagnosis) -> Tensor | None:
    """The patterns in a fitted output, also those too weak to count as found; None where there is next to none."""
    patterns = [part.pattern for part in in_output(output, before.layers) if part.pattern is not None]
    seen = [pattern for pattern in patterns if pattern.evidence >= _TRACE and pattern.strength >= STRENGTH / 2]
    if not seen:
        return None
    return torch.stack([pattern.within(output) for pattern in seen]).sum(0).to(output)


def _report(
    method: str,
    changed: tuple[str, ...],
    fitted: tuple[str, ...],
    left: dict[str, str],
    before: Diagnosis,
    after: Diagnosis,
    example_inputs: Any,
    original: Any,
    result: Any,
) -> CureReport:
    old, new = as_batch(original, before.layers), as_batch(result, before.layers)
    difference = error_before = error_after = inputs = None
    if old is not None and new is not None:
        spread = float(old.double().movedim(1, 0).flatten(1).var(1, correction=0).mean().sqrt())
        difference = float((new.double() - old.double()).square().mean().sqrt()) / spread if spread else 0.0
        if isinstance(example_inputs, Tensor) and example_inputs.shape == old.shape:
            error_before = float(F.mse_loss(old.double(), example_inputs.double()))
            error_after = float(F.mse_loss(new.double(), example_inputs.double()))
            inputs = example_inputs[:16].float().cpu()
    return CureReport(method, changed, fitted, left, before, after, difference, error_before, error_after, inputs)
