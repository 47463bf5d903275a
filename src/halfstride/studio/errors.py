"""Requests that cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfstride.autoencoder.images.formats import printable


class StudioError(Exception):
    """A request cannot be answered.

    Args:
        status: the HTTP status: 403 for images that may not be read, 404 for a run that does not exist, 409 for one
            that is damaged or not run here, 413 for too large a request, 415 for a file that is not a picture.
        reason: why, in one sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ForeignSourceError(StudioError):
    """A run's images lie outside the runs folder, and the person at the page has not allowed to read them.

    Args:
        sources: where they lie.
    """

    def __init__(self, sources: list[str]) -> None:
        self.sources = [printable(source, 1000) for source in sources]
        super().__init__(403, f"This run's images are not in the runs folder: {' and '.join(self.sources)}.")


def describe(errors: Sequence[Any]) -> str:
    """Return in one line what pydantic found wrong, from its `errors()`."""
    described = []
    for error in errors[:3]:
        name = ".".join(str(part) for part in error["loc"] if part not in ("query", "body", "path"))
        given = error.get("input")
        value = f" (={given!r})" if isinstance(given, str | int | float) and len(str(given)) < 60 else ""
        described.append(f"`{name or 'request'}`{value}: {error['msg']}.")
    return "; ".join(described)
