"""Content that repeats by itself, as tiles, bricks, fences and woven cloth do, beside a pattern of a shorter period.

Content of period `T = k * s` has lines at all multiples of `1 / T`, and those that are multiples of `1 / s` look like a
pattern of period `s`. A pattern has only these. So where there are lines at the multiples of `1 / T` beside a pattern's
harmonics, stronger than halfway between them, the harmonics must stand out against these lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_LONGER = 8  # positions: what repeats after no more than these is a pattern of its own
_TILES = 2  # the fewest of which it can be told that they repeat
_BESIDE = 3  # lines on each side of a harmonic
_FEW_TILES, _FEW_PERIODS = 3, 12  # with fewer of both, the lines are hardly apart from what lies halfway between them
_ABOVE, _ABOVE_OF_FEW = 3.0, 1.5  # times the power halfway between them
_STANDS_OUT, _STANDS_OUT_OF_FEW = 2.0, 3.0  # times the power of the lines
_SURE = 2.75  # the evidence of the harmonics against the lines


class _Tiles(NamedTuple):
    """Lines along an axis that content of one period has, beside the harmonics."""

    ratio: float
    """The power of the harmonics, times that of the lines."""
    period: int
    beside: Tensor
    """Their mean power, beside each harmonic."""
    lines: int
    """How many are beside a harmonic."""
    few: bool
    """Whether there are few tiles, and few periods."""


def content_period(detail: Tensor, period: Sequence[int], wanted: Tensor) -> int | None:
    """The period along an axis of content that explains what was found at the wanted harmonics of `period`, if any.

    Args:
        detail: what the pattern was found in, (channels, *size).
        wanted: a mask, (*period).
    """
    wanted, waves = wanted.cpu(), detail.to("cpu", torch.complex128)
    own = waves
    for axis, s in enumerate(period, start=1):
        own = _at(own, axis, torch.arange(s) / s)
    power = own.abs().square()[:, wanted]
    channel = int(power.sum(1).argmax())
    power, waves = power[channel], waves[channel : channel + 1]
    best: list[_Tiles] = []  # of each axis where there are lines
    for axis, s in enumerate(period, start=1):
        lines = waves
        for other, p in enumerate(period, start=1):
            if other != axis:
                lines = _at(lines, other, torch.arange(p) / p)
        tried = []
        for k in range(_LONGER // s + 1, waves.shape[axis] // (_TILES * s) + 1):
            steps = torch.tensor([j for j in range(-_BESIDE, _BESIDE + 1) if j % k])
            beside, halfway = (
                _at(lines, axis, (torch.arange(s)[:, None] + by / k).flatten() / s)
                .abs()
                .square()
                .reshape(*lines.shape[:axis], s, len(by), *lines.shape[axis + 1 :])
                .mean(axis + 1)[0, wanted]
                for by in (steps.double(), steps - steps.sign() / 2)
            )
            few = waves.shape[axis] < min(_FEW_TILES * k, _FEW_PERIODS) * s
            if (power * beside).sum() >= (_ABOVE_OF_FEW if few else _ABOVE) * (power * halfway).sum():
                tried.append(_Tiles(float(power.sum() / beside.sum()), k * s, beside, len(steps), few))
        best += sorted(tried, key=lambda tiles: tiles.ratio)[:1]
    if not best:
        return None
    # Tiles have lines along both axes, and each harmonic the larger ones beside it.
    beside = torch.stack([tiles.beside for tiles in best]).amax(0)
    evidence = _evidence(power, beside, min(tiles.lines for tiles in best))
    stands_out = _STANDS_OUT_OF_FEW if any(tiles.few for tiles in best) else _STANDS_OUT
    is_explained = evidence < _SURE or power.sum() < stands_out * beside.sum()
    return min(best, key=lambda tiles: tiles.ratio).period if is_explained else None


def _evidence(power: Tensor, beside: Tensor, count: int) -> float:
    """`-log10` of the probability that harmonics have this power by chance, beside so many lines of that mean power."""
    deviance = count * torch.log1p(power / beside / count).sum()
    return -math.log10(float(torch.special.gammaincc(torch.tensor(float(len(power))).to(deviance), deviance)) + 1e-300)


def _at(values: Tensor, axis: int, frequencies: Tensor) -> Tensor:
    """The coefficients at these frequencies along an axis, with a taper."""
    positions = torch.arange(1, values.shape[axis] + 1, dtype=torch.float64)
    taper = torch.sin(math.pi / (len(positions) + 1) * positions)
    waves = torch.polar(taper.expand(len(frequencies), -1), -2 * math.pi * frequencies.double()[:, None] * positions)
    coefficients: Tensor = torch.tensordot(values.movedim(axis, -1), waves.T.to(values), dims=1)
    return coefficients.movedim(-1, axis)
