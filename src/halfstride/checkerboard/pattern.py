"""Measure whether there is a periodic pattern in a signal, and how strong it is, at a stated rate of false alarms.

A pattern of period `s` (one per axis) puts energy on the *harmonics* of `s`, the frequencies `a / s` with
`a = 1 .. s-1` along each axis, and nowhere else, if it is *additive*: the same in every signal. A *multiplicative* one
grows with the content, as a grid inside the strokes of digits on a black background does; it is at other places in
each signal, and has energy beside the harmonics too. Where a signal's local mean is `m`, phase `r` deviates by

    additive[r] + multiplicative[r] * (m - mean of m)

and each of the two is tested for. The content of images, sounds and feature maps has energy at the harmonics as well,
but as much beside a harmonic as on it. So each harmonic is compared with its own neighbourhood:

1. The local mean is the moving average over one period, applied twice, which removes all harmonics. The rest of the
   signal is the detail.
2. The detail is averaged over the batch: an additive pattern is the same in all signals and remains; content averages
   out. For a multiplicative pattern the detail is divided by the content, at each position by least squares over the
   batch (`local_content`), which makes the pattern additive.
3. The average is shifted in frequency, so that the harmonic becomes a constant, and projected onto the first sine
   tapers (`harmonic_test`). The pattern is the part that has the coefficients of a constant; the rest is the energy of
   the neighbourhood. Where it differs by direction, as beside straight edges, the largest direction counts. The tapers
   vanish towards the borders, where zero padding changes the output.
4. The ratio of the two has an F distribution where there is no pattern. The ratios of all harmonics, transformed to the
   chi-squared scale by their likelihood, are summed: one test with (number of phases - 1) degrees of freedom.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfstride.checkerboard.harmonic_test import Lines, harmonics, lines_in, probabilities, view_of
from halfstride.checkerboard.local_content import averages, extended, local_mean
from halfstride.checkerboard.periodic_content import content_period
from halfstride.checkerboard.thresholds import EVIDENCE, STRENGTH

_SEARCHED = range(2, 9)
PERIODS = 4  # the fewest along an axis that can be measured
_MOST_EVIDENCE = 300.0  # the smallest float64 is 1e-308
_TESTS = 2  # additive and multiplicative
FEW = 4  # signals: in fewer, a few straight edges that happen to lie on the grid can be all the content


class TooSmallError(ValueError):
    """A signal has fewer than four periods along an axis: a pattern cannot be told from the content."""


@dataclass(frozen=True)
class Part:
    """The additive or the multiplicative part of a pattern."""

    strength: float
    """Root mean square of this part, over all channels, in units of the signal's standard deviation."""
    evidence: float
    """`-log10` of the probability that a signal without any pattern gives as much, corrected for the number of channels
    and for the two parts tested for; half of it for a multiplicative part in fewer than four signals."""
    channel: int
    """The channel with the strongest evidence."""
    phases: Tensor
    """The value of each phase, (channels, *period), counted from the signal's first position, whether `found` or not.
    Additive: the phase's deviation, in the signal's units. Multiplicative: the phase's gain less 1; its
    deviation is that times the local mean less the overall mean."""
    content_period: int | None = None
    """A longer period of the content that explains this part, so that it does not count as found; None where there is
    none or where that was not asked."""
    is_broad: bool = False
    """Whether the periods beside this one have nearly as much, as content has that is of no period; then it does not
    count as found."""

    @property
    def found(self) -> bool:
        """Whether evidence and strength both reach their thresholds, and content does not explain it."""
        explained = self.is_broad or self.content_period is not None
        return self.evidence >= EVIDENCE and self.strength >= STRENGTH and not explained

    @property
    def brightest(self) -> tuple[int, ...]:
        """The phase with the largest value, in the channel with the strongest evidence."""
        phases = self.phases[self.channel]
        return tuple(int(i) for i in torch.unravel_index(phases.argmax(), phases.shape))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the phases, as plain numbers and lists."""
        names = ("strength", "evidence", "found", "channel", "content_period", "is_broad")
        numbers = {name: getattr(self, name) for name in names}
        return numbers | {"brightest_phase": self.brightest}


@dataclass(frozen=True)
class Pattern:
    """The pattern of one period that was measured in a batch of signals."""

    period: tuple[int, ...]
    """Positions after which the pattern repeats, along each axis."""
    additive: Part
    """The part that is the same everywhere in every signal."""
    multiplicative: Part
    """The part that grows with the content."""
    mean: Tensor
    """The mean of the local mean, (channels,), at which the multiplicative part is 0."""

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that count as found, by their names; where none does, the one with more evidence."""
        both = {"additive": self.additive, "multiplicative": self.multiplicative}
        surer = max(both, key=lambda name: both[name].evidence)
        return {name: part for name, part in both.items() if part.found} or {surer: both[surer]}

    @property
    def found(self) -> bool:
        """Whether one of the parts counts as found."""
        return self.additive.found or self.multiplicative.found

    @property
    def content_period(self) -> int | None:
        """The period of the content that explains what is not counted as found; None where it was judged."""
        explained = (self.additive.content_period, self.multiplicative.content_period)
        return None if self.found else next((period for period in explained if period), None)

    @property
    def is_broad(self) -> bool:
        """Whether it is not counted as found because the periods beside it have nearly as much."""
        return self.multiplicative.is_broad and not self.found

    @property
    def strength(self) -> float:
        """Root mean square of the `parts` taken together, in units of the signal's standard deviation."""
        return math.hypot(*(part.strength for part in self.parts.values()))

    @property
    def evidence(self) -> float:
        """The evidence of the part with more of it."""
        return max(part.evidence for part in self.parts.values())

    @property
    def brightest(self) -> tuple[int, ...]:
        """The brightest phase of the part with more evidence."""
        return max(self.parts.values(), key=lambda part: part.evidence).brightest

    @property
    def shares(self) -> str:
        """The strengths of the `parts` as text."""
        return " and ".join(f"{part.strength:.1%} {name}" for name, part in self.parts.items())

    def within(self, signals: Tensor) -> Tensor:
        """The `parts` as they are in these signals, (batch, channels, *size), whether they count as found or not.

        A multiplicative part is returned with the additive one, which is what it is where the content is at its mean.
        """
        alone = torch.zeros_like(signals, dtype=torch.float64)
        for part in [self.additive, self.multiplicative][: 1 + ("multiplicative" in self.parts)]:
            phases = part.phases.to(alone)
            for axis, size in enumerate(signals.shape[2:], start=1):
                phases = phases.index_select(axis, torch.arange(size, device=alone.device) % phases.shape[axis])
            if part is self.multiplicative:
                local = local_mean(extended(signals.to(alone), [s - 1 for s in self.period]), self.period)
                phases = phases * (local - self.mean.to(alone).reshape(-1, *(1,) * len(self.period)))
            alone += phases
        return alone

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists."""
        numbers = {name: getattr(self, name) for name in ("period", "strength", "evidence", "found")}
        parts = {"additive": self.additive.to_dict(), "multiplicative": self.multiplicative.to_dict()}
        kinds = list(self.parts) if self.found else []
        return numbers | {"kinds": kinds, "brightest_phase": self.brightest} | parts

    def __str__(self) -> str:
        period = "×".join(map(str, self.period))
        return f"period {period}, {self.shares} of the standard deviation, evidence {self.evidence:.1f}"


def measure(
    signals: Tensor,
    period: Sequence[int],
    *,
    without: Sequence[Sequence[int]] = (),
    beside_content: bool = False,
) -> Pattern:
    """Measure the pattern of one period in a batch of signals.

    Args:
        signals: (batch, channels, *size), real and finite, with as many spatial axes as `period` has.
        period: positions after which a pattern repeats, along each axis, 1 or more; usually a layer's stride.
        without: periods whose harmonics are left out, so that a pattern of period 2 does not count as one of period 4.
        beside_content: whether the content may repeat by itself, at a multiple of `period` above eight positions, as a
            mosaic of tiles does: then what is found must stand out against it (`Part.content_period`).

    Raises:
        TooSmallError: (a `ValueError`) where an axis has fewer than four periods.
        ValueError: where shapes don't fit, or a value is not finite.

    Example:
        >>> noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> measure(noise, (2, 2)).found
        False
        >>> noise[..., ::2, 1::2] += 1
        >>> pattern = measure(noise, (2, 2))
        >>> pattern.found, pattern.brightest, list(pattern.parts)
        (True, (0, 1), ['additive'])
        >>> disc = (torch.linspace(-1, 1, 64).square() + torch.linspace(-1, 1, 64).square()[:, None] < 0.5).double()
        >>> disc[::2, 1::2] *= 1.1
        >>> measure(disc[None, None], (2, 2)).brightest
        (0, 1)
    """
    period = tuple(period)
    axes = len(period)
    if signals.dim() != axes + 2 or not signals.numel():
        raise ValueError(
            f"`signals` (of shape {tuple(signals.shape)}) must have {axes + 2} dimensions, (batch, channels, *size), "
            f"none of them empty."
        )
    for size, s in zip(signals.shape[2:], period, strict=True):
        if size < PERIODS * s:
            raise TooSmallError(
                f"`signals` (of size {'×'.join(map(str, signals.shape[2:]))}) have fewer than {PERIODS} periods of "
                f"{'×'.join(map(str, period))}: take an input that gives a larger output."
            )
    signals = signals.detach()
    average = signals.mean(0, dtype=torch.float64)
    if not average.isfinite().all():
        raise ValueError(
            "`signals` hold values that are not finite (NaN or infinity): nothing can be measured in them."
        )
    wanted = harmonics(period, without).to(average.device)
    if not wanted.any():
        raise ValueError(f"`period` (={period}) has no harmonics of its own: use one of at least 2 along some axis.")

    views = [view_of(size - 2 * (s - 1), s) for size, s in zip(signals.shape[2:], period, strict=True)]
    weight = functools.reduce(lambda outer, axis: outer.unsqueeze(-1) * axis, [axis.weight for axis in views])
    content = averages(signals, period, weight.to(average.device))
    # Rounding errors of float32 must not count as content to compare with.
    least = float((1e-7 * average.abs().max()).square()) + torch.finfo(torch.float64).tiny
    variance = float(signals.movedim(1, 0).flatten(1).double().var(1, correction=0).sum()) or math.inf
    additive = _part(lines_in(content.detail, views, least), wanted, 1 / variance)
    product, envelope, beside, unsure = content.in_proportion(least)
    lines = lines_in(product, views, unsure, envelope, beside)
    multiplicative = _part(lines, wanted, content.variance / variance)
    if len(signals) < FEW:
        multiplicative = replace(multiplicative, evidence=multiplicative.evidence / 2)
    if beside_content:
        additive, multiplicative = (
            replace(part, content_period=content_period(field, period, wanted)) if part.found else part
            for part, field in ((additive, content.detail), (multiplicative, product))
        )
    return Pattern(period, additive, multiplicative, content.mean.cpu())


def searched(signals: Tensor) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """The periods from 2 to 8 that signals hold four of, each with those whose harmonics are left out: its divisors."""
    axes = signals.dim() - 2
    for period in _SEARCHED:
        if min(signals.shape[2:]) >= PERIODS * period:
            yield (period,) * axes, [(d,) * axes for d in range(2, period) if period % d == 0]


def _part(lines: Lines, wanted: Tensor, scale: Tensor | float) -> Part:
    """The pattern at the wanted harmonics; its power is multiplied by `scale`, for each channel (c,) or all."""
    chance = probabilities(lines, wanted)
    channel = int(chance.argmin())
    corrected = (chance[channel] * len(chance) * _TESTS).clamp(10.0**-_MOST_EVIDENCE, 1.0)
    power = ((lines.amplitude.abs().square() - lines.noise).clamp_min(0)[:, wanted].sum(1) * scale).sum()
    amplitude = torch.where(wanted, lines.amplitude, 0)
    phases = torch.fft.ifftn(amplitude, dim=tuple(range(1, amplitude.dim())), norm="forward").real
    return Part(float(power.sqrt()), float(-corrected.log10()) + 0.0, channel, phases.cpu())  # no -0.0, to be printed
