"""`diagnose` a model: is there a checkerboard, how strong is it, and which layer makes it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from halfstride import geometry, kernels
from halfstride._support.draws import Draws
from halfstride._support.torch_private import tree_leaves, tree_map
from halfstride.checkerboard import grids
from halfstride.checkerboard.coverage import phase_counts
from halfstride.checkerboard.diagnosis_report import Diagnosis, LayerReport, OutputPattern, joined
from halfstride.checkerboard.find_layers import (
    StridedConvolution,
    UpsamplingCall,
    draws_of,
    run,
    upsampling_modules,
    watch,
)
from halfstride.checkerboard.pattern import PERIODS, TooSmallError, measure, searched
from halfstride.checkerboard.thresholds import EQUAL_GAINS

_KEPT = 16  # outputs kept for pictures
_SOUND = 2  # channels at most
_COLOURS = 4  # channels of images at most
_CONSTANTS = 8  # signals of constant content, at least


def diagnose(model: nn.Module, example_inputs: Any) -> Diagnosis:
    """Look for checkerboards in a model, trained or not, and name the layers that make them.

    The model runs in evaluation mode and without gradients, and is left as it was. The report of every upsampling that
    is recognised (transposed convolutions, resize-convolutions, pixel shuffles and interpolations, as modules or as
    functions called in `forward`) has three parts: the *geometry*, whether all output positions sum equally many taps;
    the *weights*, how far the phase gains are from each other, and what pattern they make of the layer's mean input;
    and the *data*, whether a pattern of the layer's own stride can be measured in its output. A pattern in the layer's
    input has another period in its output, so that no layer is blamed for what was made before it. The model's outputs
    are measured in any case: where no upsampling is recognised, at the periods from 2 to 8. Where a pattern is found
    the model runs again on constant content, at most eight times for each: what is gone there is made by content that
    changes from one position to the next, and no checkerboard.

    Args:
        model: any module.
        example_inputs: what to run it on: a tensor, a tuple of positional arguments, or a dict of named ones. The
            larger the batch and the outputs, the weaker the patterns that are found.

    Raises:
        ValueError: where a layer's output is not finite.

    Reference:
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016); Pons et al., "Upsampling
        artifacts in neural audio synthesis" (arXiv:2010.14356), for signals of one dimension.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, kernel_size=3, stride=2))
        >>> diagnosis = diagnose(up, torch.randn(8, 4, 16, 16))
        >>> [(layer.name, layer.taps, layer.verdict) for layer in diagnosis.layers]
        [('1', (1, 4), 'checkerboard')]
    """
    return diagnose_with(model, example_inputs, draws_of(model, example_inputs))


def diagnose_with(model: nn.Module, example_inputs: Any, draws: Draws) -> Diagnosis:
    """What `diagnose` does, for a model that draws these random numbers."""
    layers: dict[str, LayerReport] = {}
    sources: dict[str, str] = {}
    gradients: list[str] = []

    def evidence(report: LayerReport) -> float:
        return -1.0 if report.pattern is None else report.pattern.evidence

    def upsampled(call: UpsamplingCall, output: Tensor) -> None:
        report = _judge(call, output)
        sources[call.name] = call.source or call.name
        # Of a module that runs several times the worst run counts.
        layers[call.name] = max(layers.get(call.name, report), report, key=evidence)

    def downsampled(layer: StridedConvolution) -> None:
        overlaps = all(k >= s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        if overlaps and not geometry.is_even(*layer[1:]) and layer.name not in gradients:
            gradients.append(layer.name)

    with watch(model, upsampled, downsampled):
        returned = run(model, example_inputs, draws)
        batches = all_batches(returned, tuple(layers.values()))
    reports = tuple(layers.values())
    reached = {name.split(".conv_transpose")[0] for name in layers}
    main = main_of(batches)
    output = None if main is None else batches[main]
    parts: list[OutputPattern] = []
    for place, batch in enumerate(batches):
        if place == main or grids.grids_of(batch, batch.dim() - 2):
            of_batch = _in_output(batch) or _search(batch, example_inputs)
            parts += [replace(part, place=place) for part in of_batch]
    leaves = {id(leaf) for leaf in tree_leaves(returned)}
    diagnosis = Diagnosis(
        layers=reports,
        output=tuple(parts),
        unreached=tuple(name for name in upsampling_modules(model) if name not in reached),
        uneven_gradients=tuple(gradients),
        samples=None if output is None else output[:_KEPT].float().cpu(),
        channels_last=output is not None and output.dim() == 4 and id(output) not in leaves,
    )
    for place, part in enumerate(parts):
        if part.pattern is not None and (part.found or not set(part.layers).isdisjoint(diagnosis.blamed)):
            at = [sources[name] for name in part.layers]
            parts[place] = replace(
                part, on_constant=_on_constant(model, example_inputs, draws, diagnosis, part, at, batches)
            )
    return replace(diagnosis, output=tuple(parts))


def gain_spread(kernel: Tensor, stride: Sequence[int], dilation: Sequence[int] = (), groups: int = 1) -> float:
    """How far a transposed convolution's phase gains are from each other: `‖G_r - mean‖ / ‖mean‖`, rms over phases `r`.

    0 where a constant input gives a constant output.

    Example:
        >>> gain_spread(torch.tensor([[[1., 2., 3.]]]), stride=(2,))  # gains 4 and 2
        0.3333333432674408
    """
    gains = kernels.phase_gains(kernel.detach(), stride, dilation or 1, groups).flatten(0, len(stride) - 1)
    mean = gains.mean(0)
    if not mean.any():
        return 0.0 if not gains.any() else math.inf
    return float((gains - mean).flatten(1).norm(dim=1).square().mean().sqrt() / mean.norm())


def rounding_spread(call: UpsamplingCall) -> float:
    """How large the `gain_spread` of equal gains may be by the rounding of the weights: four standard deviations."""
    if call.kernel is None:
        return 0.0
    kernel, phases = kernels.widened(call.kernel), math.prod(call.stride)
    mean = kernels.phase_gains(kernel, call.stride, call.dilation, call.groups).flatten(0, len(call.stride) - 1).mean(0)
    # A value is rounded by up to half a unit, with a third of that as the variance's root.
    rounded = call.eps / math.sqrt(12) * float(kernel.norm()) / math.sqrt(phases)
    return 4 * rounded / max(float(mean.norm()), torch.finfo(torch.float32).tiny)


def _judge(call: UpsamplingCall, output: Tensor) -> LayerReport:
    batch = output if output.dim() == len(call.stride) + 2 else output.unsqueeze(0)
    taps = gains = made = None
    spread = 0.0 if call.kind in ("resize", "interpolate") and max(call.stride) > 1 else None
    if call.kernel is not None:
        spread = gain_spread(call.kernel, call.stride, call.dilation, call.groups)
        gains, made = _made(call, call.kernel, batch, even=spread <= rounding_spread(call))
    if call.kind == "transposed":
        counts = phase_counts(call.kernel_size, call.stride, call.dilation)
        taps = (int(counts.min()), int(counts.max()))
    elif call.kernel_size:
        taps = (math.prod(call.kernel_size),) * 2
    size = tuple(batch.shape[2:])
    pattern, refusal = None, ""
    try:
        if max(call.stride) > 1:
            pattern = measure(batch, call.stride)
        else:
            refusal = "its scale is no integer, so that it has no phases."
    except TooSmallError:
        refusal = f"its output of {joined(size)} has fewer than four periods: give larger inputs."
    except ValueError as error:
        raise ValueError(f"layer {call.name!r}: {error}") from error
    sizes = (call.kernel_size, call.stride, size)
    tolerance = max(EQUAL_GAINS, rounding_spread(call))
    return LayerReport(call.name, call.kind, *sizes, taps, spread, gains, made, pattern, refusal, tolerance)


def _made(call: UpsamplingCall, kernel: Tensor, output: Tensor, *, even: bool) -> tuple[Tensor, float]:
    """Each phase's gain, projected on the mean gain, and the strength of the pattern that the mean input makes."""
    assert call.input_mean is not None  # as the kernel is known
    axes = len(call.stride)
    gains = kernels.phase_gains(kernel.detach().double(), call.stride, call.dilation, call.groups)
    mean = gains.flatten(0, axes - 1).mean(0)
    along = (gains * mean).sum((-2, -1)) / mean.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    inputs = call.input_mean.to(gains).reshape(call.groups, -1)
    if even:  # what is left is the rounding of equal ones
        gains = gains.flatten(0, axes - 1).mean(0).expand_as(gains)
    by_group = gains.reshape(*gains.shape[:-2], call.groups, -1, gains.shape[-1])
    answers = torch.einsum("...goi,gi->...go", by_group, inputs).flatten(-2)
    if call.bias is not None:
        answers = answers + call.bias.movedim(0, -1).to(answers)
    answers = answers.flatten(0, axes - 1)
    pattern = (answers - answers.mean(0)).square().sum(1).mean()
    variance = output.detach().double().movedim(1, 0).flatten(1).var(1, correction=0).sum()
    return along.cpu(), float((pattern / variance).sqrt()) if variance > 0 else 0.0


def _in_output(output: Tensor) -> list[OutputPattern]:
    """The patterns in a model's output, one for each set of harmonics that its layers can have there."""
    families: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str | None]] = {}
    for layer, period, after in grids.grids_of(output, output.dim() - 2) or ():
        families.setdefault((period, after), []).append(layer)
    found = []
    for (period, after), names in families.items():
        try:
            pattern, refusal = measure(output, period, without=[after]), ""
        except TooSmallError:
            pattern, refusal = None, f"not judged, fewer than four periods in {joined(tuple(output.shape[2:]))}"
        except ValueError as error:
            raise ValueError(f"the model's output: {error}") from error
        layers = tuple(name for name in names if name is not None)
        found.append(OutputPattern(period, layers, max(after) == 1, pattern, refusal, without=(after,)))
    return found


def _search(output: Tensor, example_inputs: Any) -> list[OutputPattern]:
    """The patterns of any period from 2 to 8, as of upsampling that was not recognised, less those of the inputs."""
    inputs = [
        leaf
        for leaf in tree_leaves(example_inputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[2:] == output.shape[2:]
    ]
    found = []
    for period, without in searched(output):
        pattern = measure(output, period, without=without)
        of_inputs = (measure(each, period, without=without).strength for each in inputs) if pattern.found else ()
        if any(strength >= pattern.strength / 2 for strength in of_inputs):
            found.append(OutputPattern(period, (), True, None, "the inputs have it already"))
        else:
            found.append(OutputPattern(period, (), True, pattern, without=tuple(without)))
    return found


def _on_constant(
    model: nn.Module,
    example_inputs: Any,
    draws: Draws,
    diagnosis: Diagnosis,
    part: OutputPattern,
    at: Sequence[str],
    batches: Sequence[Tensor],
) -> float | None:
    """The strength of a pattern where the calls named in `at`, or the model if there are none, get constant inputs:
    everywhere what they have at one position, another one in each signal."""
    output = batches[part.place]
    generator = torch.Generator().manual_seed(0)
    made = False

    def constant(tensor: Any) -> Any:
        nonlocal made
        if (
            not isinstance(tensor, Tensor)
            or not tensor.is_floating_point()
            or tensor.dim() < (3 if at else output.dim())
        ):
            return tensor
        made = True
        values = tensor.flatten(2)
        position = torch.randint(values.shape[2], (len(values),), generator=generator).to(values.device)
        chosen = values[torch.arange(len(values)).to(position), :, position]
        return chosen.reshape(*chosen.shape, *(1,) * (tensor.dim() - 2)).expand_as(tensor).contiguous()

    outputs = []
    for _ in range(math.ceil(_CONSTANTS / len(output))):
        inputs = example_inputs if at else tree_map(constant, example_inputs)
        with watch(model, lambda call, output: None, constant=constant, at=at):
            again = all_batches(run(model, inputs, draws), diagnosis.layers)
        if len(again) != len(batches):
            return None
        outputs.append(again[part.place])
    if not made or any(each.shape != output.shape or not each.isfinite().all() for each in outputs):
        return None
    inner = torch.cat(outputs)
    for axis, s in enumerate(part.period, start=2):  # what zero padding changes at the borders is no pattern
        size = inner.shape[axis]
        margin = max(0, min(size // 4, (size - (PERIODS + 2) * s) // 2))
        inner = inner.narrow(axis, margin, size - 2 * margin)
    pattern = measure(inner, part.period, without=part.without)
    spread, usual = (
        each.movedim(1, 0).flatten(1).double().var(1, correction=0).sum().sqrt() for each in (inner, output)
    )
    return math.hypot(pattern.additive.strength, pattern.multiplicative.strength) * float(spread / usual)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor looks like (batch, height, width, channels) of images: at most four channels, at the end."""
    return tensor.dim() == 4 and tensor.shape[-1] <= _COLOURS < min(tensor.shape[1:3]) // 2


def as_batch(returned: Any, layers: Sequence[LayerReport]) -> Tensor | None:
    """Of all batches that a model returns the first of the largest: a latent is smaller than what it is decoded to."""
    batches = all_batches(returned, layers)
    main = main_of(batches)
    return None if main is None else batches[main]


def main_of(batches: Sequence[Tensor]) -> int | None:
    """Which is the first of the largest."""
    sizes = [math.prod(batch.shape[2:]) for batch in batches]
    return sizes.index(max(sizes)) if sizes else None


def all_batches(returned: Any, layers: Sequence[LayerReport]) -> list[Tensor]:
    """The tensors in what a model returns that have a batch, channels and the axes of its last upsampling.

    Without upsampling images, volumes, and sound of one or two channels.
    """
    axes = len(layers[-1].stride) if layers else None
    if isinstance(returned, Tensor):
        if not returned.is_floating_point() or not returned.numel():
            return []
        if is_channels_last(returned) and axes in (None, 2):
            returned = returned.movedim(-1, 1)
        if axes is None:
            is_sound = returned.dim() == 3 and returned.shape[1] <= _SOUND
            return [returned] if returned.dim() in (4, 5) or is_sound else []
        if axes == 1 and returned.dim() in (1, 2):  # sound without a dimension for channels
            return [returned.reshape(-1, 1, returned.shape[-1])]
        return [returned] if returned.dim() == axes + 2 or (axes, returned.dim()) == (2, 5) else []
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        return [batch for part in returned for batch in all_batches(part, layers)]
    return all_batches(list(vars(returned).values()), layers) if hasattr(returned, "__dict__") else []
