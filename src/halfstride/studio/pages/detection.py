"""The detection page: judged pictures, the worst first, with what was found in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as Place

from halfstride.studio.dependencies import Queue, run_slow
from halfstride.studio.detection import TEST_IMAGES, Found, Judged, Judgements, Results

router = APIRouter()


async def _judgements(request: Request) -> Judgements:
    judgements: Judgements = request.app.state.judgements
    return judgements


Opened = Annotated[Judgements, Depends(_judgements)]
At = Annotated[int, Place(ge=0, lt=2**31)]


@router.get("/api/runs/{name}/results")
def list_results(judgements: Opened, name: str) -> Results:
    """List what was judged with a run's detector, and what can be."""
    return judgements.results(name)


@router.get("/api/runs/{name}/results/{result}")
async def read_result(request: Request, judgements: Opened, name: str, result: str) -> Judged:
    """Scores of judged pictures; test images are judged for it, which may take a minute."""
    queue: Queue = "detections" if result == TEST_IMAGES else "results"
    return await run_slow(request, lambda: judgements.open(name, result).answer, queue)


@router.get("/api/runs/{name}/results/{result}/{place}")
async def read_found(request: Request, judgements: Opened, name: str, result: str, place: At) -> Found:
    """A judged picture and its anomaly map."""
    return await run_slow(request, lambda: judgements.open(name, result).found(place), "results")


@router.get(
    "/api/runs/{name}/results/{result}/{place}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def read_thumbnail(
    request: Request, judgements: Opened, name: str, result: str, place: At, plain: bool = False
) -> Response:
    """A judged picture in small, with its anomaly map over it unless it is to be plain."""
    content = await run_slow(request, lambda: judgements.open(name, result).thumbnail(place, plain=plain), "thumbnails")
    # The page names the version of the results in the address.
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})
