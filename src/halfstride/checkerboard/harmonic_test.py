"""The harmonic F test: the energy of a signal at the harmonics of a period against the energy beside them.

Reference:
    Thomson, "Spectrum estimation and harmonic analysis", Proceedings of the IEEE 70 (1982), section XIII: the harmonic
    F test. Riedel & Sidorenko, "Minimum bias multiple taper spectral estimation" (1995): the sine tapers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_TAPERS = 32  # per axis
_COARSE = 3  # tapers per axis that the shape of an envelope is taken from


class View(NamedTuple):
    """The tapers along one axis, and what follows from them."""

    tapers: Tensor
    """Orthonormal, (taper, position)."""
    period: int
    """Of which there is a harmonic at each of its multiples of `1 / period`."""
    constant: Tensor
    """The coefficients of a constant, (taper,), of norm 1."""
    weight: Tensor
    """How much each position counts for a constant, (position,); the sum is 1."""


def view_of(size: int, s: int) -> View:
    """For a signal of this size that lacks its first `s - 1` positions; harmonics are those of period `s`."""
    tapers = _sine_tapers(size, s)
    seen = tapers.sum(1)
    return View(tapers, s, seen / seen.norm(), seen @ tapers / seen.square().sum())


class Lines(NamedTuple):
    """The amplitude and the noise at each harmonic of a signal, (channels, *period)."""

    amplitude: Tensor
    """In the signal's units, complex."""
    noise: Tensor
    """The power that is expected there from the neighbourhood."""
    freedom: float
    """Degrees of freedom of the noise."""


def lines_in(
    signal: Tensor,
    view: Sequence[View],
    least: Tensor | float,
    envelope: Tensor | None = None,
    beside: Tensor | None = None,
) -> Lines:
    """The F test's two sides for a signal (c, *size).

    Args:
        least: the variance, one or (c, 1, ...), that the signal's rounding errors have at each position.
        envelope: what an amplitude of 1 gives at each position, (c, *size); 1 everywhere by default.
        beside: the envelope of something else at the harmonics, which is left out.
    """
    axes = len(view)
    tapers = tuple(range(1, 1 + axes))
    coefficients = signal.to(torch.complex128)  # to be (channels, k1, a1, k2, a2, ...): taper k, harmonic a
    for axis in view:
        coefficients = _at_harmonics(coefficients, axis)
    coefficients = coefficients.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))

    def along(values: Tensor, shape: Tensor) -> Tensor:
        return (values * shape).sum(tapers, keepdim=True)

    def size(shape: Tensor) -> Tensor:
        return along(shape, shape).sqrt().clamp_min(torch.finfo(torch.float64).tiny)

    freedom = math.prod(len(axis.constant) for axis in view) - 1.0
    shape = _seen(torch.ones_like(signal) if envelope is None else envelope, view)
    if envelope is not None:
        for place, axis in enumerate(view, start=1):  # a finer shape would be that of the noise, where content is rare
            shape = shape * (torch.arange(len(axis.constant)).to(shape) < _COARSE).reshape(
                -1, *(1,) * (2 * axes - place)
            )
    if beside is not None:
        other = _seen(beside, view)
        other = other / size(other)
        shape = shape - along(shape, other) * other
        coefficients = coefficients - along(coefficients, other) * other
        freedom = (freedom - 1) / 2  # neighbouring positions of the content are not independent
    unit = shape / size(shape)
    amplitude = along(coefficients, unit)
    rest = coefficients - amplitude * unit
    noise = rest.abs().square().sum(tapers) / (math.prod(rest.shape[1 : 1 + axes]) - 1)
    for place in range(axes if axes > 1 else 0):  # along each axis, in what does not change along the others
        marginal = rest
        for across in sorted(set(range(axes)) - {place}, reverse=True):
            marginal = torch.tensordot(marginal, view[across].constant.to(marginal), dims=([1 + across], [0]))
        noise = noise.maximum(marginal.abs().square().sum(1) / (marginal.shape[1] - 1))
    norm = size(shape).reshape(-1, *(1,) * axes)
    return Lines(amplitude.reshape(noise.shape) / norm, noise.clamp_min(least) / norm.square(), freedom)


def _at_harmonics(values: Tensor, view: View) -> Tensor:
    """The coefficients along the second axis of values (c, position, ...), (c, ..., taper, harmonic)."""
    s, tapers = view.period, view.tapers.to(values)
    # Positions of one phase turn alike at every harmonic, and are summed first: long signals have long periods.
    ends = (s - 1, -(values.shape[1] + s - 1) % s)  # on the signal's own grid, which begins earlier
    periods, weights = (F.pad(each, ends).reshape(*each.shape[:-1], -1, s) for each in (values.movedim(1, -1), tapers))
    coefficients: Tensor = torch.fft.fft(torch.einsum("...ps,kps->...ks", periods, weights), dim=-1)
    return coefficients


def _seen(values: Tensor, view: Sequence[View]) -> Tensor:
    """The coefficients of values (c, *size), (c, k1, k2, ..., 1, 1, ...)."""
    for axis in view:
        values = torch.tensordot(values, axis.tapers.T.to(values), dims=([1], [0]))
    return values.reshape(*values.shape, *(1,) * len(view))


def probabilities(lines: Lines, wanted: Tensor) -> Tensor:
    """The probability, for each channel (c,), that a signal without a pattern has as much on the wanted harmonics."""
    ratio = (lines.amplitude.abs().square() / lines.noise)[:, wanted]
    bartlett = ((8 * lines.freedom + 1) / (8 * lines.freedom + 3)) ** 2
    deviance = (lines.freedom * torch.log1p(ratio / lines.freedom)).sum(1) * bartlett
    chance: Tensor = torch.special.gammaincc(torch.full_like(deviance, float(wanted.sum()) / 2), deviance / 2)
    return chance


def _sine_tapers(size: int, s: int) -> Tensor:
    """The first sine tapers, orthonormal, (taper, position)."""
    # As many as reach no further than halfway to the next harmonic, and no more than the estimate of the noise needs.
    count = min(max(3, size // (2 * s) - 1), _MOST_TAPERS)
    positions = torch.arange(1, size + 1, dtype=torch.float64)
    orders = torch.arange(1, count + 1, dtype=torch.float64)
    return math.sqrt(2 / (size + 1)) * torch.sin(math.pi / (size + 1) * orders.outer(positions))


def harmonics(period: Sequence[int], without: Sequence[Sequence[int]]) -> Tensor:
    """Which of the frequencies `a / s` to count, (*period), a mask: all but zero and those of the periods left out."""
    mask = torch.ones(tuple(period), dtype=torch.bool)
    for other in ((1,) * len(period), *without):
        own = [torch.arange(s) * p % s == 0 for s, p in zip(period, other, strict=True)]
        mask &= ~torch.stack(torch.meshgrid(*own, indexing="ij")).all(0)
    return mask
