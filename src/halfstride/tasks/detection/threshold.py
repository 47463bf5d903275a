"""From scores of good images to a threshold with a known rate of false alarms (split conformal prediction).

Where the good images that are still to come are like those that the threshold was set on, the rate needs no other
assumption.

Reference:
    Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (2005); Bates et al., "Testing for Outliers with
    Conformal p-values", Annals of Statistics 51 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Threshold", "images_needed", "set_threshold"]


class Threshold(NamedTuple):
    """The score above which an image is called anomalous."""

    value: float
    asked: float
    """The rate of false alarms that was asked for, above 0 and below 1."""
    rate: float
    """The rate to expect on good images: at most `asked`, unless there were too few images."""
    images: int
    """Good images that it was set on."""

    @property
    def needed(self) -> int:
        """Images for a threshold of the rate that was asked for; 0 where there were enough."""
        needed = images_needed(self.asked)
        return needed if needed > self.images else 0

    def interval(self, images: int, level: float = 0.95) -> tuple[int, int]:
        """Between how many false alarms lie among so many new good images, with this probability."""
        from scipy.stats import betabinom

        above = max(round(self.rate * (self.images + 1)), 1)
        counts = betabinom(images, above, self.images + 1 - above)
        return int(counts.ppf((1 - level) / 2)), int(counts.ppf((1 + level) / 2))


def images_needed(rate: float) -> int:
    """How many good images it takes to set a threshold with this rate of false alarms."""
    return math.ceil(1 / rate - 1e-9) - 1


def set_threshold(scores: Sequence[float], rate: float) -> Threshold:
    """The `ceil((m + 1)(1 - rate))`-th smallest of `m` scores; the largest, with the rate 1 / (m + 1), of too few.

    Args:
        scores: of good images that the detector was not fitted to, 1 or more.
        rate: the rate of false alarms, above 0 and below 1.

    Raises:
        ValueError: for no scores, or a rate out of its range.

    Example:
        >>> set_threshold(range(1, 200), rate=0.01).value
        198
    """
    if not 0 < rate < 1:
        raise ValueError(f"`false_alarms` (={rate}) must be a share above 0 and below 1, such as 0.01.")
    if not len(scores):
        raise ValueError("`scores` (of 0 images) set no threshold: give good images.")
    ordered = sorted(scores)
    count = len(ordered)
    place = min(math.ceil((count + 1) * (1 - rate) - 1e-9), count)
    return Threshold(ordered[place - 1], rate, (count + 1 - place) / (count + 1), count)
