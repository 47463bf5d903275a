"""Is there a periodic pattern in a signal, and how strong? Measured, with a stated rate of false alarms.

A pattern of period `s` (one per axis) that is added to a signal puts energy on the *harmonics* of `s`, the frequencies
`a / s` with `a = 1 .. s-1` along each axis, and nowhere else. The content of images, sounds and feature maps puts
energy there too, but it does not stop there: next to a harmonic there is as much of it as on it. So each harmonic is
compared with its own neighbourhood:

1. The signals are averaged over the batch. A pattern is the same in all of them and stays; content averages out.
2. The smooth part is taken off: the moving average over one period, applied twice, in which no harmonic is left.
3. The rest is shifted in frequency, so that the harmonic becomes a constant, and projected onto the first sine tapers.
   The pattern is the part that looks like the tapers of a constant; what is left over is the neighbourhood's energy.
   Where it differs by direction, as beside straight edges, the direction with most of it counts. The tapers vanish
   towards the borders, where zero padding leaves marks of its own.
4. The ratio of the two follows an F distribution where there is no pattern. Over all harmonics the ratios, brought to
   the chi-squared scale by their likelihood, are summed: one test with (number of phases - 1) degrees of freedom.

Reference:
    Thomson, "Spectrum estimation and harmonic analysis", Proceedings of the IEEE 70 (1982), section XIII: the harmonic
    F test. Riedel & Sidorenko, "Minimum bias multiple taper spectral estimation" (1995): the sine tapers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EVIDENCE", "STRENGTH", "Pattern", "TooSmallError", "measure"]

EVIDENCE = 3.5
"""A pattern counts as found from this evidence on: a false alarm in one of 3,000 measurements."""
STRENGTH = 0.005
"""... and from this strength on: half a percent of the signal's standard deviation, less than can be seen."""

_PERIODS = 4  # fewer along an axis say nothing about what repeats
_MOST_TAPERS = 32  # per axis
_MOST_EVIDENCE = 300.0  # the smallest float64 is 1e-308


class TooSmallError(ValueError):
    """A signal has fewer than four periods along an axis: what repeats in it cannot be told from what it shows."""


@dataclass(frozen=True)
class Pattern:
    """What was measured of one period in one signal."""

    period: tuple[int, ...]
    """Positions after which the pattern repeats, along each axis."""
    strength: float
    """Root mean square of the pattern, over all channels, in units of the signal's standard deviation."""
    evidence: float
    """How sure: `-log10` of the probability that a signal without any pattern gives as much, corrected for the number
    of channels."""
    channel: int
    """The channel with the strongest evidence."""
    phases: Tensor
    """Mean deviation of each phase, (channels, *period), in the signal's own units, whether it counts as found or not;
    phases are counted from the signal's first position."""

    @property
    def found(self) -> bool:
        """Whether evidence and strength both reach their thresholds."""
        return self.evidence >= EVIDENCE and self.strength >= STRENGTH

    @property
    def brightest(self) -> tuple[int, ...]:
        """The phase that is raised most, in the channel with the strongest evidence."""
        phases = self.phases[self.channel]
        return tuple(int(i) for i in torch.unravel_index(phases.argmax(), phases.shape))

    def __str__(self) -> str:
        period = "×".join(map(str, self.period))
        return f"period {period}, {self.strength:.1%} of the standard deviation, evidence {self.evidence:.1f}"


def measure(signals: Tensor, period: Sequence[int], *, without: Sequence[Sequence[int]] = ()) -> Pattern:
    """Measure the pattern of one period in a batch of signals.

    Args:
        signals: (batch, channels, *size), real and finite, with as many spatial axes as `period` has.
        period: positions after which a pattern repeats, along each axis, 1 or more; usually a layer's stride.
        without: periods whose harmonics are left out, so that a pattern of period 2 does not count as one of period 4.

    Raises:
        TooSmallError: (a `ValueError`) where an axis has fewer than four periods.
        ValueError: where shapes don't fit, or a value is not finite.

    Example:
        >>> noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> measure(noise, (2, 2)).found
        False
        >>> noise[..., ::2, 1::2] += 1
        >>> pattern = measure(noise, (2, 2))
        >>> pattern.found, pattern.brightest
        (True, (0, 1))
    """
    period = tuple(period)
    axes = len(period)
    if signals.dim() != axes + 2 or not signals.numel():
        raise ValueError(
            f"`signals` (of shape {tuple(signals.shape)}) must have {axes + 2} dimensions, (batch, channels, *size), "
            f"none of them empty."
        )
    for size, s in zip(signals.shape[2:], period, strict=True):
        if size < _PERIODS * s:
            raise TooSmallError(
                f"`signals` (of size {'×'.join(map(str, signals.shape[2:]))}) have fewer than {_PERIODS} periods of "
                f"{'×'.join(map(str, period))}: take an input that gives a larger output."
            )
    mean = signals.detach().mean(0, dtype=torch.float64)
    if not mean.isfinite().all():
        raise ValueError(
            "`signals` hold values that are not finite (NaN or infinity): nothing can be measured in them."
        )

    wanted = _harmonics(period, without).to(mean.device)
    if not wanted.any():
        raise ValueError(f"`period` (={period}) has no harmonics of its own: use one of at least 2 along some axis.")
    # Coefficients (channels, k1, a1, k2, a2, ...): taper k of the signal shifted in frequency by the harmonic a / s.
    coefficients = _without_smooth(mean, period).to(torch.complex128)
    constants = []
    for s in period:
        tapers = _sine_tapers(coefficients.shape[1], s).to(coefficients)
        positions = torch.arange(s - 1, s - 1 + tapers.shape[1], device=mean.device)  # on the signal's own grid
        turns = positions.outer(torch.arange(s, device=mean.device)) % s / s
        shift = torch.polar(torch.ones_like(turns, dtype=torch.float64), -2 * math.pi * turns.double())
        basis = tapers.T.unsqueeze(2) * shift.unsqueeze(1)
        coefficients = torch.tensordot(coefficients, basis, dims=([1], [0]))
        constants.append(tapers.sum(1).real)
    coefficients = coefficients.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))
    amplitude, noise, freedom = _split(coefficients, [c / c.norm() for c in constants])

    gain = math.prod(float(c.norm()) for c in constants)
    # What float32 cannot hold is no neighbourhood to compare with.
    noise = noise.clamp_min(float((1e-7 * mean.abs().max()).square()) + torch.finfo(torch.float64).tiny)
    ratio = (amplitude.abs().square() / noise)[:, wanted]
    deviance = (freedom * torch.log1p(ratio / freedom)).sum(1) * ((8 * freedom + 1) / (8 * freedom + 3)) ** 2
    degrees = torch.full_like(deviance, float(wanted.sum()))
    chance = torch.special.gammaincc(degrees / 2, deviance / 2) * len(deviance)
    evidence = -chance.clamp(10.0**-_MOST_EVIDENCE, 1.0).log10() + 0.0  # -0.0 would be printed as such
    channel = int(deviance.argmax())

    power = ((amplitude.abs().square() - noise).clamp_min(0) / gain**2)[:, wanted].sum()
    variance = signals.detach().double().flatten(2).var((0, 2), correction=0).sum()
    lines = torch.where(wanted, amplitude / gain, 0)
    phases = torch.fft.ifftn(lines, dim=tuple(range(1, 1 + axes)), norm="forward").real
    return Pattern(
        period,
        float((power / variance).sqrt()) if variance > 0 else 0.0,
        float(evidence[channel]),
        channel,
        phases.cpu(),
    )


def _without_smooth(mean: Tensor, period: Sequence[int]) -> Tensor:
    """`mean` minus its moving average over one period, taken twice to be centred; `s - 1` shorter at each end."""
    smooth = detail = mean.unsqueeze(1)
    for axis, s in enumerate(period, start=2):
        weight = torch.full((1, 1, s), 1 / s, dtype=mean.dtype, device=mean.device)
        rows = smooth.movedim(axis, -1)
        averaged = F.conv1d(F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), weight), weight)
        smooth = averaged.reshape(*rows.shape[:-1], -1).movedim(-1, axis)
        detail = detail.narrow(axis, s - 1, detail.shape[axis] - 2 * (s - 1))
    return (detail - smooth).squeeze(1)


def _sine_tapers(size: int, s: int) -> Tensor:
    """The first sine tapers, orthonormal, (taper, position): as many as see no further than halfway to the next
    harmonic's neighbourhood, and no more than make the noise well known."""
    count = min(max(2, size // (2 * s) - 1), _MOST_TAPERS)
    positions = torch.arange(1, size + 1, dtype=torch.float64)
    orders = torch.arange(1, count + 1, dtype=torch.float64)
    return math.sqrt(2 / (size + 1)) * torch.sin(math.pi / (size + 1) * orders.outer(positions))


def _split(coefficients: Tensor, constants: Sequence[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Of coefficients (c, k1, k2, ..., *harmonics) the part along the tapers of a constant, and the power of the rest.

    Returns:
        The amplitude (c, *harmonics), the rest's power per degree of freedom, and the degrees of freedom.
    """
    axes = len(constants)

    def project(values: Tensor, over: Sequence[int]) -> Tensor:
        for axis in sorted(over, reverse=True):
            values = torch.tensordot(values, constants[axis].to(values), dims=([1 + axis], [0]))
        return values

    # tensordot keeps the other dimensions in order, so that each taper axis still stands at its place.
    amplitude = project(coefficients, range(axes))
    line = amplitude.abs().square()
    freedom = math.prod(len(c) for c in constants) - 1
    noise = (coefficients.abs().square().sum(tuple(range(1, 1 + axes))) - line) / freedom
    if axes > 1:
        for axis, constant in enumerate(constants):
            along = project(coefficients, [other for other in range(axes) if other != axis])
            noise = noise.maximum((along.abs().square().sum(1) - line) / (len(constant) - 1))
    return amplitude, noise, freedom


def _harmonics(period: Sequence[int], without: Sequence[Sequence[int]]) -> Tensor:
    """Which of the frequencies `a / s` to count, (*period), a mask: all but zero and those of the periods left out."""
    mask = torch.ones(tuple(period), dtype=torch.bool)
    for other in ((1,) * len(period), *without):
        own = [torch.arange(s) * p % s == 0 for s, p in zip(period, other, strict=True)]
        mask &= ~torch.stack(torch.meshgrid(*own, indexing="ij")).all(0)
    return mask
