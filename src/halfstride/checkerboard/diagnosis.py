"""`diagnose` a model and `diagnose_image`: is there a checkerboard, how strong is it, and which layer makes it?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halfstride import geometry, kernels
from halfstride.checkerboard.coverage import even_kernel, phase_counts
from halfstride.checkerboard.pattern import EVIDENCE, STRENGTH, Pattern, TooSmallError, measure
from halfstride.checkerboard.sites import Downsampling, Site, could_upsample, run, watch

__all__ = ["Diagnosis", "ImageDiagnosis", "LayerReport", "OutputPattern", "diagnose", "diagnose_image", "gain_spread"]

EVEN = 1e-3
"""Phase gains that differ by less than this share of their mean count as equal."""
_KEPT = 16  # outputs kept for pictures
_IMAGE_PERIODS = range(2, 9)


@dataclass(frozen=True)
class LayerReport:
    """What is known of one upsampling layer."""

    name: str
    kind: str
    """"transposed", "resize", "sub-pixel", or "interpolate": upsampling without a kernel of its own."""
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    """Or scale factor; 1 along every axis where the scale is no integer."""
    output_size: tuple[int, ...]
    taps: tuple[int, int] | None
    """Fewest and most kernel taps that an output position sums; None without a kernel."""
    gain_spread: float | None
    """`gain_spread` of its weights; None where they are not known."""
    gains: Tensor | None
    """Each phase's gain along the mean gain, (*stride): 1 for all phases of an even layer."""
    made: float | None
    """Strength of the pattern that its weights make of its average input, in units of its output's standard deviation;
    computed, not measured: no chance is in it. None where the weights are not known."""
    pattern: Pattern | None
    """What was measured in its output at its own stride."""
    refusal: str = ""
    """Why nothing was measured."""

    @property
    def verdict(self) -> str:
        """One of "checkerboard", "weights uneven", "even" and "not judged"."""
        if (self.pattern is not None and self.pattern.found) or (self.made or 0.0) >= STRENGTH:
            return "checkerboard"
        if self.gain_spread is not None and self.gain_spread > EVEN:
            return "weights uneven"
        return "even" if self.pattern is not None or self.gain_spread is not None else "not judged"

    @property
    def advice(self) -> str:
        """What to do, in a sentence; empty where there is nothing to do."""
        if self.verdict == "even":
            return ""
        if self.verdict == "not judged":
            return self.refusal
        seen = "" if self.verdict == "checkerboard" else "these inputs make no pattern, but others can: "
        if self.kind == "sub-pixel":
            return f"{seen}its phases have weights of their own: cure it, or start from ICNR (halfstride.SubpixelConv)."
        if self.taps is not None and self.taps[0] != self.taps[1]:
            better = _sizes([even_kernel(k, s) for k, s in zip(self.kernel_size, self.stride, strict=True)])
            return f"{seen}the stride does not divide the kernel: cure it, or train with kernel {better} or a resize."
        if self.kind == "transposed":
            return f"{seen}the overlap is even, the weights are not: cure it, or train with a resize-convolution."
        return f"{seen}this layer has even phases: look at what its input carries."


@dataclass(frozen=True)
class OutputPattern:
    """A pattern in the model's output, and the layers that make patterns of this period."""

    period: tuple[int, ...]
    layers: tuple[str, ...]
    direct: bool
    """Whether these layers upsample last: nothing after them changes the period of their patterns."""
    pattern: Pattern | None
    refusal: str = ""
    """Why nothing was measured."""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; print it for a table."""

    layers: tuple[LayerReport, ...]
    output: tuple[OutputPattern, ...]
    """The patterns in the model's output, one for each period that a layer could give it."""
    unreached: tuple[str, ...]
    """Upsampling modules that the example inputs never came to."""
    uneven_gradients: tuple[str, ...]
    """Strided convolutions whose stride does not divide the kernel."""
    samples: Tensor | None
    """The first outputs (n, channels, *size), for pictures; None where the model returns no such tensor."""

    @property
    def found(self) -> bool:
        """Whether there is a checkerboard in the model's output, or right before it in a layer that upsamples last.

        Patterns that stay inside do not count: trained models use the differences between phases to paint detail, and
        later layers undo what is no detail.
        """
        return bool(self.blamed) or self.visible

    @property
    def visible(self) -> bool:
        """Whether a pattern was measured in the model's output itself."""
        return any(part.pattern is not None and part.pattern.found for part in self.output)

    @property
    def blamed(self) -> tuple[str, ...]:
        """The layers that make the checkerboard found in, or right before, the output."""
        made = [layer.name for layer in self.layers if layer.verdict == "checkerboard"]
        if not self.output:
            return tuple(made)
        seen = [part for part in self.output if part.direct or (part.pattern is not None and part.pattern.found)]
        return tuple(name for name in made if any(name in part.layers for part in seen))

    @property
    def strength(self) -> float:
        """The patterns found in the model's output taken together, in units of its standard deviation."""
        found = [part.pattern for part in self.output if part.pattern is not None and part.pattern.found]
        return math.sqrt(sum(pattern.strength**2 for pattern in found))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain numbers, texts and lists."""
        layers = []
        for layer in self.layers:
            row = {name: getattr(layer, name) for name in ("name", "kind", "kernel_size", "stride", "output_size")}
            row |= {"taps": layer.taps, "gain_spread": layer.gain_spread, "made": layer.made, "verdict": layer.verdict}
            row |= {"advice": layer.advice, "measured": _pattern_dict(layer.pattern)}
            layers.append(row)
        return {
            "found": self.found,
            "visible": self.visible,
            "blamed": self.blamed,
            "strength_in_output": self.strength,
            "layers": layers,
            "output": [
                {
                    "period": part.period,
                    "layers": part.layers,
                    "measured": _pattern_dict(part.pattern),
                    "refusal": part.refusal,
                }
                for part in self.output
            ],
            "unreached": self.unreached,
            "uneven_gradients": self.uneven_gradients,
            "thresholds": {"evidence": EVIDENCE, "strength": STRENGTH, "gain_spread": EVEN},
        }

    def __str__(self) -> str:
        if not self.layers:
            return "This model has no upsampling layer that these inputs reach: there is nothing to judge."
        rows = [("layer", "kind", "kernel/stride", "taps", "gain spread", "makes", "measured", "verdict")]
        for layer in self.layers:
            kernel = _sizes(layer.kernel_size) if layer.kernel_size else "-"
            taps = "-" if layer.taps is None else " to ".join(map(str, sorted(set(layer.taps))))
            spread = "-" if layer.gain_spread is None else f"{layer.gain_spread:.2g}"
            made = "-" if layer.made is None else f"{layer.made:.1%}"
            measured = "-" if layer.pattern is None else _measured(layer.pattern)
            shape = f"{kernel}/{_sizes(layer.stride)}"
            rows.append((layer.name, layer.kind, shape, taps, spread, made, measured, layer.verdict))
        lines = [*_table(rows), "", "patterns in percent of the output's standard deviation"]
        for part in self.output:
            told = part.refusal if part.pattern is None else _measured(part.pattern)
            lines.append(f"in the model's output, period {_sizes(part.period)} ({', '.join(part.layers)}): {told}")
        advice: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.advice:
                advice.setdefault(layer.advice, []).append(layer.name)
        lines += [f"{', '.join(names)}: {text}" for text, names in advice.items()]
        if self.unreached:
            lines.append(f"never reached by these inputs: {', '.join(self.unreached)}")
        if self.uneven_gradients:
            names = ", ".join(self.uneven_gradients)
            lines.append(f"uneven on the way back (kernel not divisible by the stride, gradients checkered): {names}")
        names = ", ".join(self.blamed)
        if self.visible:
            lines.append(f"Checkerboard found in the output; made by {names or 'none of these layers directly'}.")
        elif self.found:
            lines.append(f"Checkerboard found in {names}; none was measured in the model's output itself.")
        else:
            lines.append("No checkerboard found in the output.")
        return "\n".join(lines)


def diagnose(model: nn.Module, example_inputs: Any) -> Diagnosis:
    """Look for checkerboards in a model, trained or not, and name the layers that make them.

    The model runs once, in evaluation mode and without gradients, and is left as it was. Of every upsampling
    (transposed convolutions, resize-convolutions, pixel shuffles and interpolations, as modules or as functions called
    in `forward`) three things are told: the *geometry*, whether all output positions sum equally many taps; the
    *weights*, how far the phases' gains are from each other, and what pattern they make of the layer's average input;
    and the *data*, whether a pattern of the layer's own stride can be measured in its output. A pattern that comes in
    with the layer's input has another period there, so that no layer is blamed for what was made before it.

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
    layers: dict[str, LayerReport] = {}
    gradients: list[str] = []

    def upsampled(site: Site, output: Tensor) -> None:
        report = _judge(site, output)
        # A module that runs several times is as bad as its worst run.
        if site.name not in layers or _evidence(report.pattern) > _evidence(layers[site.name].pattern):
            layers[site.name] = report

    def downsampled(layer: Downsampling) -> None:
        overlaps = all(k >= s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        if overlaps and not geometry.is_even(*layer[1:]) and layer.name not in gradients:
            gradients.append(layer.name)

    with evaluating(model), torch.no_grad(), watch(model, upsampled, downsampled):
        returned = run(model, example_inputs)
    reports = tuple(layers.values())
    output = _as_batch(returned, reports)
    reached = {name.split(".conv_transpose")[0] for name in layers}
    return Diagnosis(
        layers=reports,
        output=() if output is None else _in_output(output, reports),
        unreached=tuple(name for name in could_upsample(model) if name not in reached),
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and back to its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _judge(site: Site, output: Tensor) -> LayerReport:
    batch = output if output.dim() == len(site.stride) + 2 else output.unsqueeze(0)
    taps = gains = made = None
    spread = 0.0 if site.kind in ("resize", "interpolate") and max(site.stride) > 1 else None
    if site.kernel is not None:
        spread = gain_spread(site.kernel, site.stride, site.dilation, site.groups)
        gains, made = _made(site, batch)
    if site.kind == "transposed":
        counts = phase_counts(site.kernel_size, site.stride, site.dilation)
        taps = (int(counts.min()), int(counts.max()))
    elif site.kernel_size:
        taps = (math.prod(site.kernel_size),) * 2
    size = tuple(batch.shape[2:])
    report = LayerReport(site.name, site.kind, site.kernel_size, site.stride, size, taps, spread, gains, made, None)
    if max(site.stride) == 1:
        return replace(report, refusal="its scale is no integer, so that it has no phases.")
    try:
        return replace(report, pattern=measure(batch, site.stride))
    except TooSmallError:
        return replace(report, refusal=f"its output of {_sizes(size)} has fewer than four periods: give larger inputs.")
    except ValueError as error:
        raise ValueError(f"layer {site.name!r}: {error}") from error


def _made(site: Site, output: Tensor) -> tuple[Tensor, float]:
    """Each phase's gain along the mean gain, and the strength of the pattern that the average input makes."""
    assert site.kernel is not None
    assert site.input_mean is not None
    axes = len(site.stride)
    gains = kernels.phase_gains(site.kernel.detach().double(), site.stride, site.dilation, site.groups)
    mean = gains.flatten(0, axes - 1).mean(0)
    along = (gains * mean).sum((-2, -1)) / mean.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    inputs = site.input_mean.to(gains).reshape(site.groups, -1)
    answers = torch.einsum(
        "...goi,gi->...go", gains.reshape(*gains.shape[:-2], site.groups, -1, gains.shape[-1]), inputs
    ).flatten(-2)
    if site.bias is not None:
        answers = answers + site.bias.movedim(0, -1).to(answers)
    answers = answers.flatten(0, axes - 1)
    pattern = (answers - answers.mean(0)).square().sum(1).mean()
    variance = output.detach().double().movedim(1, 0).flatten(1).var(1, correction=0).sum()
    return along.cpu(), float((pattern / variance).sqrt()) if variance > 0 else 0.0


def _in_output(output: Tensor, layers: Sequence[LayerReport]) -> tuple[OutputPattern, ...]:
    """Each layer's pattern has, after the layers that follow, a period and harmonics of its own."""
    axes = output.dim() - 2
    families: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for place, layer in enumerate(layers):
        if len(layer.stride) != axes or max(layer.stride) == 1:
            continue
        after, size = (1,) * axes, layer.output_size
        for later in layers[place + 1 :]:
            if len(later.stride) == axes and all(n > m for n, m in zip(later.output_size, size, strict=True)):
                after = tuple(a * s for a, s in zip(after, later.stride, strict=True))
                size = later.output_size
        period = tuple(a * s for a, s in zip(after, layer.stride, strict=True))
        families.setdefault((period, after), []).append(layer.name)
    found = []
    for (period, after), names in families.items():
        try:
            pattern, refusal = measure(output, period, without=[after]), ""
        except TooSmallError:
            pattern, refusal = None, f"not judged, fewer than four periods in {_sizes(tuple(output.shape[2:]))}"
        except ValueError as error:
            raise ValueError(f"the model's output: {error}") from error
        found.append(OutputPattern(period, tuple(names), max(after) == 1, pattern, refusal))
    return tuple(found)


def _as_batch(returned: Any, layers: Sequence[LayerReport]) -> Tensor | None:
    """The first tensor in what a model returns that has a batch, channels and as many axes as its last upsampling."""
    if not layers:
        return None
    axes = len(layers[-1].stride)
    if isinstance(returned, Tensor):
        if not returned.is_floating_point():
            return None
        if axes == 1 and returned.dim() in (1, 2):  # sound without a dimension for channels
            return returned.reshape(-1, 1, returned.shape[-1])
        return returned if returned.dim() == axes + 2 else None
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        return next((batch for part in returned if (batch := _as_batch(part, layers)) is not None), None)
    return _as_batch(list(vars(returned).values()), layers) if hasattr(returned, "__dict__") else None


# Images ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageDiagnosis:
    """What `diagnose_image` found; print it for a summary."""

    patterns: tuple[Pattern, ...]
    """One measurement for each period from 2 to 8 that the image is large enough for; a period's own harmonics only."""
    samples: Tensor
    """What was looked at, (n, channels, height, width)."""

    @property
    def found(self) -> bool:
        return any(pattern.found for pattern in self.patterns)

    @property
    def period(self) -> int | None:
        """The period of all that was found together."""
        periods = [pattern.period[0] for pattern in self.patterns if pattern.found]
        return math.lcm(*periods) if periods else None

    @property
    def strength(self) -> float:
        """Of all patterns found together, in units of the image's standard deviation."""
        return math.sqrt(sum(pattern.strength**2 for pattern in self.patterns if pattern.found))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain numbers and lists."""
        return {
            "found": self.found,
            "period": self.period,
            "strength": self.strength,
            "measured": [_pattern_dict(pattern) for pattern in self.patterns],
            "thresholds": {"evidence": EVIDENCE, "strength": STRENGTH},
        }

    def __str__(self) -> str:
        rows = [("period", "strength", "evidence", "")]
        for pattern in self.patterns:
            told = f"found, brightest at row, column {pattern.brightest}" if pattern.found else ""
            rows.append((_sizes(pattern.period), f"{pattern.strength:.2%}", f"{pattern.evidence:.1f}", told))
        last = f"Pattern found: period {self.period}, {self.strength:.1%} of the standard deviation."
        if self.found and self.period == 8:
            last += " (JPEG's blocks have this period as well.)"
        return "\n".join([*_table(rows), "", last if self.found else "No periodic pattern found."])


def diagnose_image(image: Tensor | np.ndarray) -> ImageDiagnosis:
    """Look for a periodic pattern, of a period from 2 to 8 pixels, in one image or in a batch of them.

    Args:
        image: (height, width), (channels, height, width), (height, width, 1 to 4 channels) or (batch, channels, height,
            width), of any real type and range. All images of a batch must share the pattern, as those of one generator
            do.

    Raises:
        ValueError: for another shape, for values that are not finite, and where the image has fewer than eight pixels
            along an axis.

    Example:
        >>> image = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
        >>> diagnose_image(image).found
        False
        >>> image[::4, ::4] += 1
        >>> diagnose_image(image).period
        4
    """
    batch = _image_batch(torch.as_tensor(image))
    patterns = []
    for period in _IMAGE_PERIODS:
        if min(batch.shape[2:]) >= 4 * period:
            divisors = [(d, d) for d in range(2, period) if period % d == 0]
            patterns.append(measure(batch, (period, period), without=divisors))
    if not patterns:
        raise ValueError(
            f"`image` (of {_sizes(tuple(batch.shape[2:]))}) is too small: four periods of 2 take 8 pixels along each "
            f"axis."
        )
    return ImageDiagnosis(tuple(patterns), batch)


def _image_batch(image: Tensor) -> Tensor:
    if image.is_complex() or image.dim() not in (2, 3, 4) or not image.numel():
        raise ValueError(
            f"`image` (of shape {tuple(image.shape)} and {image.dtype}) must be (height, width), (channels, height, "
            f"width), (height, width, channels) or (batch, channels, height, width), of real numbers."
        )
    if image.dim() == 3 and image.shape[-1] <= 4 < image.shape[0]:
        image = image.movedim(-1, 0)
    if not image.is_floating_point():
        image = image.float()
    return image.reshape(-1, *((1, *image.shape) if image.dim() == 2 else image.shape[-3:]))


# Text -----------------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _measured(pattern: Pattern) -> str:
    if not pattern.found:
        return f"none (evidence {pattern.evidence:.1f})"
    return f"{pattern.strength:.1%} of the std (evidence {pattern.evidence:.1f})"


def _pattern_dict(pattern: Pattern | None) -> dict[str, Any] | None:
    if pattern is None:
        return None
    return {
        "period": pattern.period,
        "strength": pattern.strength,
        "evidence": pattern.evidence,
        "found": pattern.found,
        "channel": pattern.channel,
        "brightest_phase": pattern.brightest,
    }


def _evidence(pattern: Pattern | None) -> float:
    return -1.0 if pattern is None else pattern.evidence


def _sizes(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "×".join(map(str, sizes))
