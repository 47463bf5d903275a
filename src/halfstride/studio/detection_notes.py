"""Where `halfstride detect` has written with a run, and where the pictures lie, as the run's folder notes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from halfstride.autoencoder import Run
from halfstride.studio.errors import StudioError, describe

_READ = 2**16
"""Bytes at the end of the notes that are read."""
_MOST = 50
"""Results that are listed."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seen = Annotated[str, Field(max_length=4096)]


class _Line(BaseModel):
    """A line of `detections.jsonl`, with places as seen from the run's folder."""

    out: Seen
    working_folder: Seen
    sources: list[Seen] = Field(max_length=64)
    pictures: int
    time: Finite


class Note(NamedTuple):
    """Where `detect` has written once; nothing of it has been looked for."""

    out: Path
    working_folder: Path
    """What the paths of the pictures begin from."""
    sources: list[Path]
    """The folders that the pictures lie in."""
    pictures: int
    time: float

    @property
    def id(self) -> str:
        return folder_id(self.out)

    @property
    def folders(self) -> list[str]:
        """All that are read for these results."""
        return [str(self.out), *dict.fromkeys(map(str, self.sources))]


def read_notes(run: Run) -> list[Note]:
    """Return what a run notes, the newest first and each folder once.

    Raises:
        StudioError: where the notes are damaged.
    """
    path = run.path / "detections.jsonl"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        beyond = max(0, path.stat().st_size - _READ)
        file.seek(beyond)
        lines = file.read(_READ).splitlines()[beyond > 0 :]  # the first may be cut off
    found: dict[Path, Note] = {}
    for line in reversed(lines):
        try:
            told = _Line.model_validate_json(line)
        except ValidationError as error:
            raise StudioError(409, f"detections.jsonl: {describe(error.errors())} Remove this file.") from None
        out, working_folder, *sources = (
            absolute(run.path / seen) for seen in (told.out, told.working_folder, *told.sources)
        )
        found.setdefault(out, Note(out, working_folder, sources, told.pictures, told.time))
        if len(found) == _MOST:
            break
    return list(found.values())


def absolute(path: Path) -> Path:
    """Return a path without `..`; `resolve` would already ask the disk, or another machine."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def folder_id(folder: Path) -> str:
    """Return what tells this folder from all others."""
    return hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
