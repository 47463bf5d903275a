"""The content that a signal has beside a pattern: its local mean, and the detail in proportion to it.

A multiplicative pattern is the gain of each phase *where the content is constant*. Where the content changes, the
phases of an even layer differ too: some phases of a resize-convolution mix two neighbours and have less variance than
others. So the detail is compared with blurred content that is uncorrelated with the curvature of the signal; relative
to that, the phases of an even layer hardly differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 2**21  # values of a batch that are held in float64 at a time
_BLUR = 2  # periods that the content is averaged over, four times
_RIDGE = 0.25  # of the mean energy: positions with less content than usual count less


class Averages(NamedTuple):
    """Averages over a batch of signals, at each position (channels, *size less 2 (s - 1))."""

    detail: Tensor
    """The signal less its local mean."""
    product: Tensor
    """Detail times content."""
    proportion: Tensor
    """The signal, less `mean`, times the content: what `product` is for a gain of 1."""
    energy: Tensor
    """The content squared."""
    content: Tensor
    """The content: what `product` is for an additive pattern of 1."""
    variance: Tensor
    """The variance of the local mean, (channels,)."""
    mean: Tensor
    """The mean of the local mean, (channels,)."""
    weight: Tensor
    """How much each position counts, (*size less 2 (s - 1)); the sum is 1."""

    def in_proportion(self, least: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The detail in proportion to the content (least squares), what it is for a gain and an additive pattern of 1,
        and the variance, (channels, 1, ...), that rounding errors of a variance of `least` give it."""
        usual = (self.energy * self.weight).sum(tuple(range(1, self.energy.dim())), keepdim=True)
        ridged = self.energy + _RIDGE * usual + least
        return self.product / ridged, self.proportion / ridged, self.content / ridged, least / (usual + least)


def averages(signals: Tensor, period: Sequence[int], weight: Tensor) -> Averages:
    """Averages over a batch of signals (batch, channels, *size), with `weight` as in `Averages`."""
    axes = tuple(range(1, 1 + len(period)))
    mean = (local_mean(signals.mean(0, dtype=torch.float64), period) * weight).sum(axes, keepdim=True)
    sums: list[Tensor] = []
    share: Tensor | None = None
    for part in torch.split(signals, max(1, _AT_ONCE // signals[0].numel())):
        inner = part.double() - mean
        local = local_mean(inner, period)
        for axis, s in enumerate(period, start=-len(period)):
            inner = inner.narrow(axis, s - 1, inner.shape[axis] - 2 * (s - 1))
        blurred = _blurred(local, period)
        bends = _curvatures(blurred, period)
        if share is None:  # the first part is enough for an estimate
            share = _explained(blurred, bends, _curvatures(inner, period), weight)
        content = blurred - (share * bends).sum(0)
        detail = inner - local
        averaged = (detail, detail * content, inner * content, content.square(), content, local.square())
        new = [each.sum(0) for each in averaged]
        sums = [old + more for old, more in itertools.zip_longest(sums, new, fillvalue=torch.zeros(()).to(mean))]
    detail, product, proportion, energy, content, square = (total / len(signals) for total in sums)
    return Averages(detail, product, proportion, energy, content, square.flatten(1).mean(1), mean.flatten(), weight)


def local_mean(signals: Tensor, period: Sequence[int]) -> Tensor:
    """The moving average over one period along the last axes, twice, to be centred; `s - 1` shorter at each end."""
    for axis, s in enumerate(period, start=-len(period)):
        for _ in range(2):
            total, size = signals.cumsum(axis), signals.shape[axis] - s
            later = total.narrow(axis, s, size) - total.narrow(axis, 0, size)
            signals = torch.cat([total.narrow(axis, s - 1, 1), later], axis).div_(s)
    return signals


def extended(signals: Tensor, by: Sequence[int]) -> Tensor:
    """Longer by so many positions at each end of the last axes, with the values at the border."""
    return F.pad(signals, [more for each in reversed(by) for more in (each, each)], mode="replicate")


def _blurred(signals: Tensor, period: Sequence[int]) -> Tensor:
    """The moving average over `_BLUR` periods, four times."""
    wide = [_BLUR * s for s in period]
    for _ in range(2):
        signals = local_mean(extended(signals, [s - 1 for s in wide]), wide)
    return signals


def _curvatures(signals: Tensor, period: Sequence[int]) -> Tensor:
    """All second differences over one period, (pairs of axes, *shape of the signals)."""
    larger, axes = extended(signals, period), range(-len(period), 0)

    def moved(by: dict[int, int]) -> Tensor:
        view = larger
        for axis, s in zip(axes, period, strict=True):
            view = view.narrow(axis, s + s * by.get(axis, 0), signals.shape[axis])
        return view

    bends = []
    for one, other in itertools.combinations_with_replacement(axes, 2):
        if one == other:
            bends.append(moved({one: 1}) + moved({one: -1}) - 2 * signals)
        else:
            there, back, up, down = (moved({one: i, other: j}) for i, j in ((1, 1), (-1, -1), (1, -1), (-1, 1)))
            bends.append(there + back - up - down)
    return torch.stack(bends)


def _explained(blurred: Tensor, bends: Tensor, instruments: Tensor, weight: Tensor) -> Tensor:
    """How much of each curvature (bends, batch, channels, *size) there is in the blurred content, (bends, 1, channels,
    1, ...): without it the rest is uncorrelated with each of the `instruments`, those of the signal itself."""
    weighted = instruments * weight
    own = torch.einsum("ibc...,jbc...->cji", bends, weighted)
    wanted = torch.einsum("bc...,jbc...->cj", blurred, weighted)
    share: Tensor = torch.linalg.pinv(own, rtol=1e-3) @ wanted.unsqueeze(-1)  # (c, bends, 1)
    return share.squeeze(-1).T.reshape(len(bends), 1, -1, *(1,) * weight.dim())
