"""The compare page: what is not asked of a single run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from halfstride.studio.dependencies import Runs, run_slow
from halfstride.studio.responses import Reconstruction

router = APIRouter()


@router.get("/api/runs/{name}/reconstruction")
async def read_reconstruction(
    request: Request,
    runs: Runs,
    name: str,
    by: Annotated[str, Query(description="The other run.")],
    index: Annotated[int, Query(ge=0)] = 0,
) -> Reconstruction:
    """A test image of a run beside its reconstruction by the model of another run."""

    def compute() -> Reconstruction:
        own = runs.open(name)
        # Of many runs each is needed once for an image, and the one that has the images for all.
        return own.reconstructed_by(runs.open(by, keep=False), index)

    return await run_slow(request, compute, "images")
