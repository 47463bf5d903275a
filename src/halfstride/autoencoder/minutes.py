"""A length in minutes: how many steps it is, from steps that are timed beforehand and from those that are taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from halfstride.autoencoder.distributed import Processes

_TIMED_SECONDS = 5.0  # for which steps are timed beforehand
_SCORED = 0.25  # share of the length that scorings may take
_OFF = 0.1  # share of its steps by which a length may be wrong without being changed


class Minutes:
    """The clock of a stage whose length is in minutes. That of the first process decides for all.

    Args:
        minutes: the length.
        scorings: how many there are in a stage.
        processes: those that train.
    """

    def __init__(self, minutes: float, scorings: int, processes: Processes) -> None:
        self._seconds, self._scorings, self._processes = 60 * minutes, scorings, processes
        self._begun = 0.0

    def begin(self) -> None:
        """The first step is taken now."""
        self._begun = time.monotonic()

    def is_timed(self, times: Sequence[float]) -> bool:
        """Whether the steps that ended at these times, the first of which is the beginning, are enough to count on."""
        over = self._processes.is_main and times[-1] - times[0] > min(_TIMED_SECONDS, self._seconds / 20)
        return bool(self._processes.sum(over)[0]) and len(times) > 6

    def steps(self, times: Sequence[float], scoring: float) -> int:
        """How many steps fit, given the times of `is_timed` and the seconds of one scoring."""
        per_step = (times[-1] - times[2]) / (len(times) - 3)  # the first two warm up
        scoring = min(self._scorings * scoring, _SCORED * self._seconds)
        return self._agreed(max(1, int((self._seconds - scoring) / per_step)))

    def scores_enough(self, metrics: Sequence[dict[str, Any]]) -> bool:
        """Whether scorings have taken a quarter of the length so far; then some are left out.

        Args:
            metrics: the stage's entries.
        """
        enough = _sum(metrics, "scoring_seconds") > _SCORED * (time.monotonic() - self._begun)
        return bool(self._processes.sum(self._processes.is_main and enough)[0])

    def changed(self, metrics: Sequence[dict[str, Any]], steps: int, done: int, planned: int) -> int:
        """The stage's length in steps, changed where they are not as fast as those that were timed for it.

        On a busy machine those few say little: of two minutes they have once made seven steps.

        Args:
            metrics: the stage's entries, the last of which is new.
            steps: those since the entry before.
            done: those of the stage.
            planned: the stage's length so far.
        """
        left, entry = self._begun + self._seconds - time.monotonic(), metrics[-1]
        coming = self._scorings * max(planned - done, 1) / planned
        scoring = min(entry["scoring_seconds"] * coming, _SCORED * max(left, 0))
        per_step = max(entry["seconds"], 1e-3) / steps
        fitting = max(left - scoring, self._seconds / 2 - _sum(metrics, "seconds")) / per_step
        length = done + max(round(fitting), min(planned - done, 1))
        if not self._processes.sum(abs(length - planned) > _OFF * planned)[0]:
            return planned
        return self._agreed(length)

    def _agreed(self, steps: int) -> int:
        return int(self._processes.sum(steps if self._processes.is_main else 0)[0])


def _sum(metrics: Sequence[dict[str, Any]], name: str) -> float:
    return float(sum(entry[name] for entry in metrics))
