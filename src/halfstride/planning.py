"""Which algorithm for which case, and why."""

from __future__ import annotations

from typing import Any

from halfstride.algorithms import ALGORITHMS
from halfstride.algorithms.case import Case

__all__ = ["choose", "read_algorithm"]


def choose(case: Case, algorithm: str = "auto") -> str:
    """The name of the algorithm for a case: the one asked for, or with "auto" the native one."""
    if read_algorithm(algorithm) == "auto":
        return "native"
    obstacle = ALGORITHMS[algorithm].obstacle(case)
    if obstacle is not None:
        raise ValueError(f"`algorithm` (={algorithm!r}) cannot compute this case: {obstacle}.")
    return algorithm


def read_algorithm(algorithm: Any) -> str:
    names = ("auto", *ALGORITHMS)
    if algorithm not in names:
        raise ValueError(f"`algorithm` (={algorithm!r}) must be one of {', '.join(map(repr, names))}.")
    return str(algorithm)
