"""`diagnose_image`: is there a periodic pattern in an image?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfstride._support.printed import Printed
from halfstride.checkerboard.diagnosis_report import joined, table
from halfstride.checkerboard.pattern import FEW, Pattern, measure, searched
from halfstride.checkerboard.thresholds import EVIDENCE, STRENGTH

_RESOLVED = 2.0  # waves along an image by which the patterns of two periods must differ to be told apart
_CLEAR = 1.5  # times the strength of the periods beside it


@dataclass(frozen=True)
class ImageDiagnosis(Printed):
    """The findings of `diagnose_image`; print it for a summary."""

    patterns: tuple[Pattern, ...]
    """One measurement for each period from 2 to 8 that the image is large enough for; a period's own harmonics only."""
    samples: Tensor
    """The images, (n, channels, height, width)."""

    @property
    def found(self) -> bool | None:
        """Whether a pattern was found at any period; None where that could not be judged (see `reason`)."""
        if any(pattern.found for pattern in self.patterns):
            return True
        return None if self.reason else False

    @property
    def reason(self) -> str:
        """Why some periods could not be judged; empty where all were."""
        reasons = []
        if explained := {each.period[0]: each.content_period for each in self.patterns if each.content_period}:
            periods, repeats = (", ".join(map(str, sorted(set(each)))) for each in (explained, explained.values()))
            reasons.append(
                f"the content repeats by itself every {repeats} pixels, which can be all that there is at period "
                f"{periods}"
            )
        if broad := ", ".join(str(pattern.period[0]) for pattern in self.patterns if pattern.is_broad):
            reasons.append(f"the content has as much at the periods beside period {broad}; look at more images")
        return "; ".join(reasons)

    @property
    def period(self) -> int | None:
        """The period of all patterns found, taken together: the least common multiple of theirs."""
        periods = [pattern.period[0] for pattern in self.patterns if pattern.found]
        return math.lcm(*periods) if periods else None

    @property
    def strength(self) -> float:
        """Of all patterns found together, in units of the image's standard deviation."""
        return math.hypot(*(pattern.strength for pattern in self.patterns if pattern.found))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain numbers and lists."""
        return {
            "found": self.found,
            "reason": self.reason,
            "period": self.period,
            "strength": self.strength,
            "measured": [pattern.to_dict() for pattern in self.patterns],
            "thresholds": {"evidence": EVIDENCE, "strength": STRENGTH},
        }

    def __str__(self) -> str:
        rows = [("period", "strength", "evidence", "")]
        for pattern in self.patterns:
            found = f"found, {pattern.shares}; brightest at row, column {pattern.brightest}" if pattern.found else ""
            if pattern.is_broad:
                found = "not judged, the content has as much beside it"
            if pattern.content_period:
                found = f"not judged, the content repeats every {pattern.content_period}"
            rows.append((joined(pattern.period), f"{pattern.strength:.2%}", f"{pattern.evidence:.1f}", found))
        kinds = [name for pattern in self.patterns if pattern.found for name in pattern.parts]
        kind = " and ".join(dict.fromkeys(kinds))
        last = f"Pattern found: period {self.period}, {self.strength:.1%} of the standard deviation, {kind}."
        if self.found and self.period == 8:
            last += " (JPEG's blocks have this period as well.)"
        if not self.found:
            last = f"Could not judge: {self.reason}." if self.reason else "No periodic pattern found."
        return "\n".join([*table(rows), "", last])


def diagnose_image(image: Tensor | np.ndarray) -> ImageDiagnosis:
    """Look for a periodic pattern, of a period from 2 to 8 pixels, in one image or in a batch of them.

    Tiles, bricks, fences and woven cloth repeat by themselves. Where they do, at more than eight pixels, what is found
    at a period that divides theirs must stand out against them. If it does not, that period is not judged. In fewer
    than four images a multiplicative pattern must also be clearly stronger than at the periods beside it: a pattern
    has one period, whereas coarse content has some of all.

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
    patterns = [measure(batch, period, without=without, beside_content=True) for period, without in searched(batch)]
    if not patterns:
        raise ValueError(
            f"`image` (of {joined(tuple(batch.shape[2:]))}) is too small: four periods of 2 take 8 pixels along each "
            f"axis."
        )
    if len(batch) < FEW:
        patterns = _beside_neighbours(patterns, min(batch.shape[2:]))
    return ImageDiagnosis(tuple(patterns), batch)


def _beside_neighbours(patterns: Sequence[Pattern], side: int) -> list[Pattern]:
    """Patterns whose multiplicative part counts only where it is clearly stronger than that of the periods beside."""
    judged = []
    for pattern in patterns:
        period, part = pattern.period[0], pattern.multiplicative
        beside = [
            each.multiplicative.strength
            for each in patterns
            if abs(each.period[0] - period) == 1 and side >= _RESOLVED * period * each.period[0]
        ]
        usual = math.prod(beside) ** (1 / len(beside)) if beside else 0.0
        judged.append(
            replace(pattern, multiplicative=replace(part, is_broad=part.found and part.strength < _CLEAR * usual))
        )
    return judged


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
