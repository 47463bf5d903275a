"""Requests that cannot be answered, each with its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "DamagedRunError",
    "NotRunError",
    "PictureError",
    "StudioError",
    "TooLargeError",
    "UnknownRunError",
    "describe",
]


class StudioError(Exception):
    """A request that cannot be answered; the message says why."""

    status = 400


class UnknownRunError(StudioError):
    """The folder has no such run, or the run has no such file."""

    status = 404


class DamagedRunError(StudioError):
    """A run's files are not what a training writes, or too large to be shown."""

    status = 409


class NotRunError(StudioError):
    """The model of this run is not run here, because it has an encoder of the user's own."""

    status = 409


class TooLargeError(StudioError):
    """A request has more bytes than allowed."""

    status = 413


class PictureError(StudioError):
    """An uploaded picture cannot be used."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def describe(errors: Sequence[Any]) -> str:
    """Say in one line what pydantic found wrong, from its `errors()`."""
    return "; ".join(_describe(error) for error in errors[:3])


def _describe(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"] if part not in ("query", "body", "path"))
    given = error.get("input")
    value = f" (={given!r})" if isinstance(given, str | int | float) and len(str(given)) < 60 else ""
    return f"`{name or 'request'}`{value}: {error['msg']}."
