"""Nearest-neighbour upsampling by whole numbers, and where torch's own is not exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._core.common import as_channels_last

_LARGE_SCALE = 41
"""From this scale on "nearest" may take the wrong neighbour: in float32 41 * (1 / 41) is less than 1."""

_LONG = 2**21
"""Positions from which on "nearest-exact" may too: float32 has no more fractions to tell neighbours by."""


def why_inexact(mode: str, size: Sequence[int], scale: Sequence[int]) -> str:
    """Why `F.interpolate` may do something else, in a mode, than repeat `size` positions `scale` times; "" where it
    does not. Sizes that are symbols are taken for short."""
    if mode == "nearest" and max(scale) >= _LARGE_SCALE:
        return f"torch's nearest is not exact from scale {_LARGE_SCALE} on"
    if any(isinstance(n, int) and n * s >= _LONG for n, s in zip(size, scale, strict=True) if s > 1):
        return "torch's nearest is not exact with so many positions"
    return ""


def repeated(input: Tensor, scale: Sequence[int]) -> Tensor:
    """Each position as often as the scale of its dimension says, exactly; by torch's own operator where that is."""
    if all(s == 1 for s in scale):
        return input
    if input.is_complex():
        return torch.complex(repeated(input.real, scale), repeated(input.imag, scale))
    if 3 <= input.dim() <= 5 and tuple(scale[:2]) == (1, 1):
        size, factors = input.shape[2:], [float(s) for s in scale[2:]]
        for mode in ("nearest", "nearest-exact"):
            if not why_inexact(mode, size, scale[2:]):
                return F.interpolate(input, scale_factor=factors, mode=mode)
    output = input
    for axis, s in enumerate(scale):
        if s > 1:
            output = output.unsqueeze(axis + 1).expand(*output.shape[: axis + 1], s, *output.shape[axis + 1 :])
            output = output.flatten(axis, axis + 1)
    return as_channels_last(output, like=input)
