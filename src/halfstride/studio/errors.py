"""Requests that cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StudioError(Exception):
    """A request cannot be answered.

    Args:
        status: the HTTP status: 404 for a run that does not exist, 409 for one that is damaged or not run here, 413 for
            too large a request, 415 for a file that is not a picture.
        reason: why, in one sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def describe(errors: Sequence[Any]) -> str:
    """Return in one line what pydantic found wrong, from its `errors()`."""
    described = []
    for error in errors[:3]:
        name = ".".join(str(part) for part in error["loc"] if part not in ("query", "body", "path"))
        given = error.get("input")
        value = f" (={given!r})" if isinstance(given, str | int | float) and len(str(given)) < 60 else ""
        described.append(f"`{name or 'request'}`{value}: {error['msg']}.")
    return "; ".join(described)
