"""The autoencoder page: the runs in a folder, how good they are, and their models at work."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from halfstride.studio.dependencies import UPLOAD, Runs, Upload, run_slow
from halfstride.studio.pictures import Picture, read_picture
from halfstride.studio.responses import (
    Decoded,
    ImageRow,
    LatentSpace,
    Neighbour,
    Progress,
    Reconstruction,
    RunDetails,
    RunSummary,
    Work,
)

router = APIRouter()

Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


Indices = Annotated[list[Annotated[int, Field(ge=0)]], Query(min_length=1, max_length=256)]


class DecodeRequest(BaseModel):
    """What to decode: exactly one of a point of the plane, a code, and the place of a test image."""

    model_config = ConfigDict(extra="forbid")

    point: tuple[Number, Number] | None = None
    code: list[Number] | None = Field(None, max_length=2**16)
    index: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check_one(self) -> DecodeRequest:
        if sum(value is not None for value in (self.point, self.code, self.index)) != 1:
            raise ValueError("exactly one of `point`, `code` and `index` must be given")
        return self


class WalkRequest(BaseModel):
    """The places of two test images, and how many codes to decode from one to the other."""

    model_config = ConfigDict(extra="forbid")

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    steps: int = Field(9, ge=2, le=64)


class AllowRequest(BaseModel):
    """Where images lie that may be read, or what a detector wrote."""

    model_config = ConfigDict(extra="forbid")

    sources: list[str] = Field(min_length=1, max_length=100)


@router.get("/api/runs")
def list_runs(runs: Runs) -> list[RunSummary]:
    """List all runs in the folder."""
    return runs.summaries()


@router.get("/api/runs/{name}")
def read_run(runs: Runs, name: str) -> RunDetails:
    """Describe a run and its model."""
    return runs.details(name)


@router.get("/api/runs/{name}/progress")
def read_progress(runs: Runs, name: str) -> Progress:
    """The metrics so far, and the versions of model and evaluation; ask again while a training goes on."""
    return runs.progress(name)


@router.get("/api/runs/{name}/evaluation")
def read_evaluation(runs: Runs, name: str) -> dict[str, Any] | None:
    """The evaluation of the model, as in `evaluation.json`; null where there is none yet."""
    return runs.evaluation(name)


@router.get(
    "/api/runs/{name}/pictures/{file}",
    response_class=Response,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
def read_run_picture(runs: Runs, name: str, file: str) -> Response:
    """A PNG file of the run's folder."""
    return Response(runs.picture(name, file), media_type="image/png")


@router.get("/api/runs/{name}/images")
async def read_images(
    request: Request,
    runs: Runs,
    name: str,
    start: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=24)] = 12,
) -> list[Reconstruction]:
    """Test images beside their reconstructions."""
    return await run_slow(request, lambda: runs.open(name).reconstructions(start, count), "images")


@router.get("/api/runs/{name}/latent")
async def read_latent(request: Request, runs: Runs, name: str) -> LatentSpace:
    """The codes of test images, in the plane in which they differ most."""
    return await run_slow(request, lambda: runs.open(name).latent(), "images")


@router.get("/api/runs/{name}/thumbnails")
async def read_thumbnails(request: Request, runs: Runs, name: str, index: Indices) -> Picture:
    """Small test images, one below the other in one picture."""
    return await run_slow(request, lambda: runs.open(name).thumbnails(index), "images")


@router.get("/api/runs/{name}/rows")
async def read_rows(request: Request, runs: Runs, name: str) -> list[ImageRow]:
    """Name, class and error of every test image that is shown."""
    return await run_slow(request, lambda: runs.open(name).rows(), "images")


@router.get("/api/runs/{name}/neighbours")
async def read_neighbours(
    request: Request,
    runs: Runs,
    name: str,
    index: Annotated[int, Query(ge=0)],
    count: Annotated[int, Query(ge=1, le=24)] = 8,
) -> list[Neighbour]:
    """The test images whose codes are nearest to that of one of them, nearest first."""
    return await run_slow(request, lambda: runs.open(name).neighbours(index, count), "images")


@router.get("/api/runs/{name}/work")
async def read_work(runs: Runs, name: str) -> Work | None:
    """What is being done with the run's images, which may take minutes; null for nothing."""
    return runs.work(name)


@router.post("/api/runs/{name}/allow")
def allow(runs: Runs, name: str, wanted: Annotated[AllowRequest, Body()]) -> None:
    """Allow to read the images of a run where they lie outside the runs folder, until the server ends."""
    runs.allow(name, wanted.sources)


@router.post("/api/runs/{name}/decode")
def decode(runs: Runs, name: str, wanted: Annotated[DecodeRequest, Body()]) -> Decoded:
    """Decode a point of the plane, a code, or a test image's code."""
    run = runs.open(name)
    if wanted.point is not None:
        return run.decode_point(wanted.point)
    if wanted.index is not None:
        return run.decode_image(wanted.index)
    return run.decode_codes(np.array([wanted.code]))[0]


@router.post("/api/runs/{name}/walk")
def walk(runs: Runs, name: str, wanted: Annotated[WalkRequest, Body()]) -> list[Decoded]:
    """Decode codes on the straight line between two test images' codes."""
    return runs.open(name).walk(wanted.start, wanted.end, wanted.steps)


@router.post("/api/runs/{name}/reconstruct", openapi_extra=UPLOAD)
async def reconstruct(
    request: Request, runs: Runs, name: str, content: Upload, *, invert: bool = False
) -> Reconstruction:
    """Reconstruct an uploaded picture, the bytes of an image file, by the model; `invert` swaps light and dark."""

    def compute() -> Reconstruction:
        run = runs.open(name)
        shape, fit, white, _ = run.preparation
        image = read_picture(content, shape, fit, white)
        return run.reconstruct(255 - image if invert else image)

    return await run_slow(request, compute, "uploads")
