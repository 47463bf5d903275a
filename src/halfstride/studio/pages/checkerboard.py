"""The checkerboard page: a picture through stacked upsampling layers, beside plain enlargements."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from halfstride.studio.dependencies import UPLOAD, Runs, Upload, run_slow
from halfstride.studio.enlarging import Enlargement, Stack, enlarge, landscape
from halfstride.studio.pictures import read_picture

router = APIRouter()


class OfImage(Stack):
    """Layers, and the test image that goes through them."""

    index: int = Field(0, ge=0)


@router.get("/api/checkerboard")
async def enlarge_landscape(request: Request, stack: Annotated[Stack, Query()]) -> Enlargement:
    """Enlarge a generated picture."""
    return await run_slow(request, lambda: enlarge(landscape(), stack), "enlarging")


@router.post("/api/checkerboard", openapi_extra=UPLOAD)
async def enlarge_upload(request: Request, content: Upload, stack: Annotated[Stack, Query()]) -> Enlargement:
    """Enlarge an uploaded picture, the bytes of an image file."""
    image = await run_slow(request, lambda: read_picture(content), "uploads")
    return await run_slow(request, lambda: enlarge(image, stack), "enlarging")


@router.get("/api/runs/{name}/checkerboard")
async def enlarge_image(request: Request, runs: Runs, name: str, wanted: Annotated[OfImage, Query()]) -> Enlargement:
    """Enlarge one of a run's test images."""
    image = await run_slow(request, lambda: runs.open(name).image(wanted.index), "images")
    return await run_slow(request, lambda: enlarge(image, wanted), "enlarging")
