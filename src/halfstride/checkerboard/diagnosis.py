"""`diagnose` a model: is there a checkerboard, how strong is it, and which layer makes it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from halfstride import geometry, kernels
from halfstride._support.draws import Draws
from halfstride._support.torch_private import tree_leaves
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
from halfstride.checkerboard.pattern import TooSmallError, measure, searched

_KEPT = 16  # outputs kept for pictures
_SOUND = 2  # channels at most


def diagnose(model: nn.Module, example_inputs: Any) -> Diagnosis:
    """Look for checkerboards in a model, trained or not, and name the layers that make them.

    The model runs once, in evaluation mode and without gradients, and is left as it was. The report of every
    upsampling that is recognised (transposed convolutions, resize-convolutions, pixel shuffles and interpolations, as
    modules or as functions called in `forward`) has three parts: the *geometry*, whether all output positions sum
    equally many taps; the *weights*, how far the phase gains are from each other, and what pattern they make of the
    layer's mean input; and the *data*, whether a pattern of the layer's own stride can be measured in its output. A
    pattern in the layer's
    input has another period in its output, so that no layer is blamed for what was made before it. The model's output
    is measured in any case: where no upsampling is recognised, at the periods from 2 to 8.

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
    gradients: list[str] = []

    def evidence(report: LayerReport) -> float:
        return -1.0 if report.pattern is None else report.pattern.evidence

    def upsampled(call: UpsamplingCall, output: Tensor) -> None:
        report = _judge(call, output)
        # Of a module that runs several times the worst run counts.
        layers[call.name] = max(layers.get(call.name, report), report, key=evidence)

    def downsampled(layer: StridedConvolution) -> None:
        overlaps = all(k >= s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        if overlaps and not geometry.is_even(*layer[1:]) and layer.name not in gradients:
            gradients.append(layer.name)

    with watch(model, upsampled, downsampled):
        returned = run(model, example_inputs, draws)
    reports = tuple(layers.values())
    output = as_batch(returned, reports)
    reached = {name.split(".conv_transpose")[0] for name in layers}
    return Diagnosis(
        layers=reports,
        output=() if output is None else in_output(output, reports) or _search(output, example_inputs),
        unreached=tuple(name for name in upsampling_modules(model) if name not in reached),
        uneven_gradients=tuple(gradients),
        samples=None if output is None else output[:_KEPT].float().cpu(),
    )


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


def _judge(call: UpsamplingCall, output: Tensor) -> LayerReport:
    batch = output if output.dim() == len(call.stride) + 2 else output.unsqueeze(0)
    taps = gains = made = None
    spread = 0.0 if call.kind in ("resize", "interpolate") and max(call.stride) > 1 else None
    if call.kernel is not None:
        spread = gain_spread(call.kernel, call.stride, call.dilation, call.groups)
        gains, made = _made(call, call.kernel, batch)
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
    return LayerReport(call.name, call.kind, *sizes, taps, spread, gains, made, pattern, refusal)


def _made(call: UpsamplingCall, kernel: Tensor, output: Tensor) -> tuple[Tensor, float]:
    """Each phase's gain, projected on the mean gain, and the strength of the pattern that the mean input makes."""
    assert call.input_mean is not None  # as the kernel is known
    axes = len(call.stride)
    gains = kernels.phase_gains(kernel.detach().double(), call.stride, call.dilation, call.groups)
    mean = gains.flatten(0, axes - 1).mean(0)
    along = (gains * mean).sum((-2, -1)) / mean.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    inputs = call.input_mean.to(gains).reshape(call.groups, -1)
    by_group = gains.reshape(*gains.shape[:-2], call.groups, -1, gains.shape[-1])
    answers = torch.einsum("...goi,gi->...go", by_group, inputs).flatten(-2)
    if call.bias is not None:
        answers = answers + call.bias.movedim(0, -1).to(answers)
    answers = answers.flatten(0, axes - 1)
    pattern = (answers - answers.mean(0)).square().sum(1).mean()
    variance = output.detach().double().movedim(1, 0).flatten(1).var(1, correction=0).sum()
    return along.cpu(), float((pattern / variance).sqrt()) if variance > 0 else 0.0


def in_output(output: Tensor, layers: Sequence[LayerReport]) -> tuple[OutputPattern, ...]:
    """The patterns in a model's output: each layer's has its own period and harmonics after the layers that follow."""
    axes = output.dim() - 2
    families: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for place, layer in enumerate(layers):
        if len(layer.stride) != axes or max(layer.stride) == 1:
            continue
        after, size = (1,) * axes, layer.output_size
        for later in layers[place + 1 :]:
            if len(later.stride) == axes and _enlarges(later, size):
                after = tuple(a * s for a, s in zip(after, later.stride, strict=True))
                size = later.output_size
        period = tuple(a * s for a, s in zip(after, layer.stride, strict=True))
        families.setdefault((period, after), []).append(layer.name)
    found = []
    for (period, after), names in families.items():
        try:
            pattern, refusal = measure(output, period, without=[after]), ""
        except TooSmallError:
            pattern, refusal = None, f"not judged, fewer than four periods in {joined(tuple(output.shape[2:]))}"
        except ValueError as error:
            raise ValueError(f"the model's output: {error}") from error
        found.append(OutputPattern(period, tuple(names), max(after) == 1, pattern, refusal))
    return tuple(found)


def _search(output: Tensor, example_inputs: Any) -> tuple[OutputPattern, ...]:
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
            found.append(OutputPattern(period, (), True, pattern))
    return tuple(found)


def _enlarges(layer: LayerReport, size: Sequence[int]) -> bool:
    """Whether what has this size is smaller than a layer's output, along the axes that the layer enlarges."""
    by_no_integer = max(layer.stride) == 1
    axes = zip(layer.output_size, size, layer.stride, strict=True)
    return all(n > m for n, m, s in axes if s > 1 or by_no_integer)


def as_batch(returned: Any, layers: Sequence[LayerReport]) -> Tensor | None:
    """The tensor in what a model returns that has a batch, channels and the axes of its last upsampling.

    Without upsampling images, volumes, and sound of one or two channels. Of several the first of the largest, since a
    latent is smaller than what it is decoded to.
    """
    axes = len(layers[-1].stride) if layers else None
    if isinstance(returned, Tensor):
        if not returned.is_floating_point() or not returned.numel():
            return None
        if axes is None:
            is_sound = returned.dim() == 3 and returned.shape[1] <= _SOUND
            return returned if returned.dim() in (4, 5) or is_sound else None
        if axes == 1 and returned.dim() in (1, 2):  # sound without a dimension for channels
            return returned.reshape(-1, 1, returned.shape[-1])
        return returned if returned.dim() == axes + 2 else None
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        batches = [batch for part in returned if (batch := as_batch(part, layers)) is not None]
        return max(batches, key=lambda batch: math.prod(batch.shape[2:]), default=None)
    return as_batch(list(vars(returned).values()), layers) if hasattr(returned, "__dict__") else None
