"""What the pages' addresses share: the runs folder, uploaded pictures, and work that takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import Depends, Request

from halfstride.studio.errors import StudioError
from halfstride.studio.runs_folder import RunsFolder

_UPLOAD_SECONDS = 30
_UPLOADS_WAITING = 64

T = TypeVar("T")


async def _runs(request: Request) -> RunsFolder:
    runs: RunsFolder = request.app.state.runs
    return runs


Queue = Literal[
    "images", "uploads", "diagnoses", "drawings", "exports", "enlarging", "detections", "results", "thumbnails", "other"
]


class Queues(dict[Queue, anyio.CapacityLimiter]):
    """Threads for what takes seconds, so that neither quick requests nor those of another queue wait for it."""

    def __missing__(self, queue: Queue) -> anyio.CapacityLimiter:
        # Reading images waits for the disk, and must not keep those of another run waiting for minutes.
        self[queue] = anyio.CapacityLimiter(4 if queue == "images" else 1)
        return self[queue]


async def run_slow(request: Request, compute: Callable[[], T], queue: Queue = "other") -> T:
    """Run what takes seconds in a thread, after what waits in the same queue."""
    return await anyio.to_thread.run_sync(compute, limiter=request.app.state.queues[queue])


async def _upload(request: Request) -> AsyncIterator[bytes]:
    """Read a picture's bytes; few requests at a time hold them in memory."""
    uploads: anyio.Semaphore = request.app.state.uploads
    if uploads.statistics().tasks_waiting >= _UPLOADS_WAITING:
        raise StudioError(429, "Too many pictures at once: try again in a moment.")
    async with uploads:
        with anyio.fail_after(_UPLOAD_SECONDS):
            content = await request.body()  # of limited size: see guard.py
        yield content


Runs = Annotated[RunsFolder, Depends(_runs)]
Upload = Annotated[bytes, Depends(_upload)]

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""`openapi_extra` of an address that takes an `Upload`."""
