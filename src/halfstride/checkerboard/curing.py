"""`cure`: take the checkerboard out of a trained model, without training it again."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride._support.arguments import read_choice, read_int
from halfstride._support.draws import Draws
from halfstride._support.models import evaluating, removing
from halfstride._support.printed import Printed
from halfstride.checkerboard.diagnosis import (
    all_batches,
    as_batch,
    diagnose_with,
    gain_spread,
    main_of,
    rounding_spread,
)
from halfstride.checkerboard.diagnosis_report import Diagnosis, OutputPattern
from halfstride.checkerboard.find_layers import UpsamplingCall, draws_of, run, watch
from halfstride.checkerboard.fitting import Free, fit, weighted_calls
from halfstride.checkerboard.pattern import measure
from halfstride.checkerboard.replacing import Method, Replacement, replacement
from halfstride.checkerboard.thresholds import EQUAL_GAINS, STRENGTH

_ENOUGH = 64  # inputs: after a fit to as many digits others cost 0.1 % more of the error than these
_TRACE = 1.0  # evidence from which on a pattern is fitted away: on more images than these it may count as found


@dataclass(frozen=True)
class CureReport(Printed):
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
    returns no batch of floating point that could be compared, and nothing was fitted. Like the errors it is measured on
    the inputs given, which were fitted: on others it can be larger, by more the fewer they are."""
    error_before: float | None
    """Mean squared error between input and output, where the model gives back the shape that it takes."""
    error_after: float | None
    inputs: Tensor | None
    """The first inputs, for pictures, where `error_before` is not None."""
    examples: int = 0
    """The number of outputs that were compared and, if anything was, fitted."""

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
            which = "the inputs that were fitted" if self.fitted else "these inputs"
            lines.append(f"reconstruction error (MSE) on {which}: {told}")
        return "\n".join([*lines, *self.advice])

    @property
    def advice(self) -> tuple[str, ...]:
        """What to try next, in sentences; none where there is nothing to say."""
        told = []
        if self.fitted and self.examples < _ENOUGH:
            told.append(
                f"Fitted to {self.examples} of a batch: other inputs can cost more than these. Give some hundred, or "
                f"measure the cured model on others."
            )
        if self.method == "smooth":
            return tuple(told)
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
                "The gains are equal, but a nonlinearity makes a pattern of phases that differ in variance: "
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

    In a trained model equal gains remove detail that the layer drew with its phases. So "equalize" and "smooth" then
    fit the changed layers, and the layer with a weight that runs before each of them, to the original's output for the
    example inputs, less the patterns found in it: least squares, in which the gains stay equal. No labels are needed,
    and no inputs but the examples. The report states what it costs. A model that samples draws the same random numbers
    in every run, before and after; the generators and buffers are left as they were. Parameters keep their
    `requires_grad`, and a frozen layer that runs before a changed one is not fitted, unless all of the model is frozen.

    Args:
        model: any module whose uneven layers are modules of their own; weights in `forward` cannot be changed.
        example_inputs: what to run it on, as in `diagnose`; best a batch of what the model is used on. After a fit to
            some hundred images the cure holds for others as well; one is better than none.
        method:
            "equalize": the nearest weights with equal phase gains, then the fit. Shapes and number of parameters stay.
            "smooth": a moving average of one stride behind each transposed convolution, folded into its kernel, then
            the fit. It is the strongest against patterns, and blurs.
            "resize": the nearest resize-convolution in the place of each transposed convolution. Nothing is fitted: it
            is meant for models that are trained further, in which it cannot become uneven again. Used as it is, it
            costs most: 7.5 to 25 % of the error of the autoencoders in docs/notes/doctor.md, with kernels of 3 and 4,
            where the fitted methods cost under 1 %.
        layers: the names of the layers to change, as `diagnose` gives them; by default the uneven ones whose patterns
            come through to the output, which are those that upsample last and those found there.
        steps: iterations of the fit, and about as many again where patterns come back; each takes about as long as
            one training step on all examples. With 0 nothing is fitted. Before the fit the biases of all changed layers
            are set so that the mean output of each stays the same.

    Returns:
        The cured copy, and what it cost. The model itself is not changed.

    Raises:
        ValueError: for another method, a layer that is not there or not uneven, a negative number of steps, or a model
            that cannot be copied, as one that is sharded.

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
    read_choice("method", method, get_args(Method))
    read_int("steps", steps, 0)
    draws = draws_of(model, example_inputs)
    before = diagnose_with(model, example_inputs, draws)
    try:
        cured = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"`model` (a {type(model).__name__}) cannot be copied ({str(error).splitlines()[0]}): cure it before it is "
            f"sharded or wrapped."
        ) from error
    done: dict[str, Replacement] = {}
    left: dict[str, str] = {}
    for call in _calls(cured, example_inputs, draws, _to_change(before, layers)):
        names = [name for name, module in cured.named_modules(remove_duplicate=False) if module is call.owner]
        try:
            if call.owner is not None and (tied := _tied(cured, call.owner)):
                raise ValueError(f"its weights are those of {', '.join(tied)} too: give it its own.")
            new = replacement(call, method)
        except ValueError as reason:
            left[call.name] = str(reason)
            continue
        for name in names:
            if not name:
                cured = new.layer
            elif new.layer is not call.owner:
                cured.set_submodule(name, new.layer)
        done[names[0]] = new
    if before.found and (unseen := _scripted(model)):
        left |= dict.fromkeys(
            unseen, "it is scripted, so that its layers are not seen: cure it before torch.jit.script."
        )
    _keep_means(model, cured, done, example_inputs, draws)
    original = run(model, example_inputs, draws)
    fitted = _fit(cured, done, before, example_inputs, draws, original, steps) if steps else ()
    after = diagnose_with(cured, example_inputs, draws)
    old, new_output = (as_batch(returned, before.layers) for returned in (original, run(cured, example_inputs, draws)))
    costs = _costs(old, new_output, example_inputs)
    examples = 0 if old is None else len(old)
    return cured, CureReport(method, tuple(done), fitted, left, before, after, *costs, examples)


def _to_change(diagnosis: Diagnosis, layers: Sequence[str] | None) -> set[str]:
    uneven = {
        layer.name
        for layer in diagnosis.layers
        if (layer.gain_spread is not None and not layer.has_equal_gains)
        or (layer.made or 0.0) >= STRENGTH
        or (layer.gain_spread is None and layer.verdict == "checkerboard")  # it will be left, and the report says why
    }
    if layers is not None:
        if unknown := [name for name in layers if name not in uneven]:
            raise ValueError(
                f"`layers` (={list(layers)}) names {unknown[0]!r}, but the uneven layers are {sorted(uneven)}: choose "
                f"of those."
            )
        return set(layers)
    return uneven & diagnosis.reaching if diagnosis.output else uneven


def _scripted(model: nn.Module) -> list[str]:
    """The parts that torch.jit made, by name, but not the parts of these."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    return [
        name or "the model"
        for name in names
        if not any(name.startswith(f"{o}." if o else "") for o in names if o != name)
    ]


def _calls(model: nn.Module, example_inputs: Any, draws: Draws, names: set[str]) -> list[UpsamplingCall]:
    """The first call of each layer of these names."""
    calls: dict[str, UpsamplingCall] = {}

    def upsampled(call: UpsamplingCall, output: Tensor) -> None:
        calls.setdefault(call.name, call)

    with watch(model, upsampled):
        run(model, example_inputs, draws)
    return [call for name, call in calls.items() if name in names]


def _tied(model: nn.Module, module: nn.Module) -> list[str]:
    """The other modules that have parameters of this one."""
    own = set(map(id, module.parameters()))
    return [
        name
        for name, other in model.named_modules()
        if other not in set(module.modules()) and own & set(map(id, other.parameters(recurse=False)))
    ]


# Biases ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _keep_means(
    model: nn.Module, cured: nn.Module, done: dict[str, Replacement], example_inputs: Any, draws: Draws
) -> None:
    """Set the biases so that every changed layer's output has the mean that it had, one layer after another."""
    channels = {name: len(new.layer.bias) // new.phases for name, new in done.items() if new.layer.bias is not None}
    for name, mean in _output_means(model, channels, example_inputs, draws).items():
        bias = done[name].layer.bias
        change = mean - _output_means(cured, channels, example_inputs, draws)[name]
        bias += change.to(bias).repeat_interleave(done[name].phases)


def _output_means(model: nn.Module, channels: dict[str, int], example_inputs: Any, draws: Draws) -> dict[str, Tensor]:
    """The mean of each of the layers' output channels, after a shuffle, at their first calls, in the order of these."""
    means: dict[str, Tensor] = {}

    def note(name: str, layer: Any, inputs: Any, output: Tensor) -> None:
        if name not in means:
            by_channel = output.movedim(1 - layer.weight.dim(), 0).flatten(1).double().mean(1)
            means[name] = by_channel.reshape(channels[name], -1).mean(1)

    handles = [model.get_submodule(name).register_forward_hook(partial(note, name)) for name in channels]
    with removing(handles):
        run(model, example_inputs, draws)
    return means


# The fit --------------------------------------------------------------------------------------------------------------


def _fit(
    cured: nn.Module,
    done: dict[str, Replacement],
    before: Diagnosis,
    example_inputs: Any,
    draws: Draws,
    original: Any,
    steps: int,
) -> tuple[str, ...]:
    """Fit the changed layers and those before them; the names of what was fitted."""
    target = as_batch(original, before.layers)
    if target is None or not any(new.free for new in done.values()):
        return ()
    batches = all_batches(original, before.layers)
    parts = [part for part in before.output if part.place == main_of(batches) and part.pattern is not None]
    for pattern in (part.pattern for part in parts if part.pattern is not None and part.pattern.found):
        target = target - pattern.within(target).to(target)
    free: dict[str, Free] = {}
    names: dict[str, None] = {}
    upsampling = {layer.name for layer in before.layers if layer.kind in ("transposed", "sub-pixel")}
    even = [
        call.owner for call in _calls(cured, example_inputs, draws, upsampling) if _is_even(call)
    ]  # and must stay so
    parameters = [parameter for parameter in cured.parameters() if parameter.is_leaf]  # not those of a scripted copy
    required = [parameter for parameter in parameters if parameter.requires_grad]
    earlier: tuple[str, nn.Module] | None = None
    for name, module in weighted_calls(cured, example_inputs, draws):
        if name in done:
            # Of a model that is frozen as a whole, to be used, this says nothing.
            is_frozen = bool(required) and earlier and not any(p.requires_grad for p in earlier[1].parameters())
            is_shared = len(batches) > 1  # by outputs that are not fitted to
            if earlier and not (
                is_shared or is_frozen or earlier[0] in done or earlier[1] in even or _tied(cured, earlier[1])
            ):
                names[earlier[0]] = None
                free |= {f"{earlier[0]}.{key}": Free(value) for key, value in earlier[1].named_parameters()}
            names[name] = None
            free |= {f"{name}.{key}".lstrip("."): part for key, part in done[name].free.items()}
        earlier = (name, module)
    for parameter in parameters:  # so that no intermediate results are kept before the fitted ones
        parameter.requires_grad_(False)
    with evaluating(cured):
        read, unwanted = partial(as_batch, layers=before.layers), partial(_remaining, parts=parts)
        is_fitted = fit(cured, example_inputs, draws, target, free, read, unwanted, steps)
    wanted = set(map(id, required))
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) in wanted)
    return tuple(names) if is_fitted else ()


def _is_even(call: UpsamplingCall) -> bool:
    spread = math.inf if call.kernel is None else gain_spread(call.kernel, call.stride, call.dilation, call.groups)
    return spread <= max(EQUAL_GAINS, rounding_spread(call))


def _remaining(output: Tensor, parts: Sequence[OutputPattern]) -> Tensor | None:
    """The patterns in a fitted output, also those too weak to count as found; None where there is next to none."""
    patterns = [measure(output, part.period, without=part.without) for part in parts]
    seen = [pattern for pattern in patterns if pattern.evidence >= _TRACE and pattern.strength >= STRENGTH / 2]
    return torch.stack([pattern.within(output) for pattern in seen]).sum(0).to(output) if seen else None


# The report -----------------------------------------------------------------------------------------------------------


def _costs(
    old: Tensor | None, new: Tensor | None, example_inputs: Any
) -> tuple[float | None, float | None, float | None, Tensor | None]:
    """The last four fields of the report: the change of the output, the errors before and after, and the inputs."""
    if old is None or new is None:
        return None, None, None, None
    spread = float(old.double().movedim(1, 0).flatten(1).var(1, correction=0).mean().sqrt())
    difference = float((new.double() - old.double()).square().mean().sqrt()) / spread if spread else 0.0
    if not isinstance(example_inputs, Tensor) or example_inputs.shape != old.shape:
        return difference, None, None, None
    before, after = (float(F.mse_loss(output.double(), example_inputs.double())) for output in (old, new))
    return difference, before, after, example_inputs[:16].float().cpu()
