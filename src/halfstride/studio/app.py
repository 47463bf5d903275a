"""The studio's addresses: thin, every answer is computed by `layer.py`, `runs.py` and `opened.py`.

Work goes to a few threads of its own, so that however many requests wait, the memory that is used stays that of a few.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
import numpy as np
from fastapi import Body, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import halfstride
from halfstride.figures.upsampling import Theme, View
from halfstride.studio.animation import Format, animate, encode
from halfstride.studio.answers import (
    Decoded,
    Judgement,
    LatentSpace,
    Progress,
    Reconstruction,
    RunDetails,
    RunSummary,
)
from halfstride.studio.doctor import Checkup, check_picture, told
from halfstride.studio.guard import Guard, TooLargeError
from halfstride.studio.layer import Explanation, Layer, explain, read_layer
from halfstride.studio.pictures import PictureError, read_picture
from halfstride.studio.reading import DamagedRunError, NotRunError
from halfstride.studio.runs import RunsFolder, UnknownRunError

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"
_UPLOAD_SECONDS = 30
_UPLOADS_WAITING = 64

T = TypeVar("T")


class Failure(BaseModel):
    """What went wrong, in one sentence."""

    error: str


class DecodeRequest(BaseModel):
    """What to decode: a point of the plane, a whole code, or a test image's; exactly one of them."""

    model_config = ConfigDict(extra="forbid")

    point: tuple[float, float] | None = None
    code: list[float] | None = Field(None, max_length=2**16)
    index: int | None = Field(None, ge=0)


class WalkRequest(BaseModel):
    """Between which two test images to walk."""

    model_config = ConfigDict(extra="forbid")

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    steps: int = Field(9, ge=2, le=64)


_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": description}
    for status, description in {
        400: "The request cannot be read.",
        403: "The request comes from another page.",
        404: "There is no such run, or no such picture in it.",
        409: "The run's files are damaged or not there yet, or its model is not run here.",
        413: "Too large.",
        422: "Arguments out of range, or that do not go together.",
    }.items()
}

_UPLOAD: dict[str, Any] = {
    "responses": {
        408: {"model": Failure, "description": "The picture did not arrive in time."},
        415: {"model": Failure, "description": "Not a picture that can be read."},
        429: {"model": Failure, "description": "Too many pictures at once."},
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
}

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_MEDIA: dict[str, str] = {"gif": "image/gif", "svg": "image/svg+xml", "png": "application/zip"}

_Text = Annotated[str | None, Query(max_length=60_000, pattern=r"^[-+0-9.eE, ]*$")]


def _layer(
    form: Annotated[Literal["conv", "transposed", "resize", "subpixel"], Query()] = "transposed",
    dims: Annotated[Literal["1", "2"], Query(description="The number of axes.")] = "2",
    input_size: Annotated[int, Query(ge=1, le=40)] = 3,
    kernel_size: Annotated[int, Query(ge=1, le=9)] = 3,
    stride: Annotated[int, Query(ge=1, le=6)] = 2,
    padding: Annotated[int, Query(ge=0, le=20)] = 0,
    dilation: Annotated[int, Query(ge=1, le=6)] = 1,
    output_padding: Annotated[int, Query(ge=0, le=5)] = 0,
    input: _Text = None,
    kernel: _Text = None,
) -> Layer:
    """A layer, as the page's address writes it: numbers of input and kernel row by row, with commas between."""
    return read_layer(
        form=form,
        dims=int(dims),
        input_size=input_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
        input=input,
        kernel=kernel,
    )


_Layer = Annotated[Layer, Depends(_layer)]


def create_app(runs: Path | None = None, host: str = "127.0.0.1") -> FastAPI:
    """The studio as an ASGI application.

    Args:
        runs: a folder of runs, or a run; None for none.
        host: the address that it will be served on; requests that name another are refused.
    """
    app = FastAPI(
        title="halfstride studio",
        version=halfstride.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        responses=_FAILURES,
    )
    folder = RunsFolder(runs)
    workers = anyio.CapacityLimiter(max(2, min(4, os.cpu_count() or 2)))
    # Uploads, animations and diagnoses take seconds: they go one after the other, and a drag has no need to wait.
    slow = anyio.CapacityLimiter(1)
    uploads = anyio.Semaphore(4)

    async def work(compute: Callable[..., T], *arguments: Any, limiter: anyio.CapacityLimiter = workers) -> T:
        return await anyio.to_thread.run_sync(compute, *arguments, limiter=limiter)

    # The layer --------------------------------------------------------------------------------------------------------

    @app.get("/api/layer", response_model=Explanation)
    async def read_layer(layer: _Layer) -> Response:
        """A layer taken apart: every product, where it lands, what it adds up to."""
        return _json(await work(lambda: explain(layer).model_dump_json()))

    @app.get(
        "/api/layer/animation",
        response_class=Response,
        responses={
            200: {
                "description": "A GIF, an SVG, or a zip archive of PNG files.",
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MEDIA.values()},
            }
        },
    )
    async def read_animation(
        layer: _Layer,
        format: Annotated[Format, Query()] = "gif",
        view: Annotated[View, Query()] = "scatter",
        theme: Annotated[Theme, Query()] = "light",
    ) -> Response:
        """The layer at work, step by step, for a slide."""
        content = await work(lambda: encode(animate(layer, view, theme), format), limiter=slow)
        name = f"{layer.form}-{view}.{'zip' if format == 'png' else format}"
        return Response(
            content, media_type=_MEDIA[format], headers={"content-disposition": f'attachment; filename="{name}"'}
        )

    # Runs -------------------------------------------------------------------------------------------------------------

    @app.get("/api/runs")
    async def list_runs() -> list[RunSummary]:
        """All runs in the folder."""
        return await work(folder.summaries)

    @app.get("/api/runs/{name}")
    async def read_run(name: str) -> RunDetails:
        """A run and its model."""
        return await work(folder.details, name)

    @app.get("/api/runs/{name}/progress")
    async def read_progress(name: str) -> Progress:
        """The metrics so far, and which model and evaluation there are; ask again while a training goes on."""
        return await work(folder.progress, name)

    @app.get("/api/runs/{name}/evaluation")
    async def read_evaluation(name: str) -> Judgement | None:
        """Is the model any good? Null where it was not evaluated yet."""
        return await work(folder.judgement, name)

    @app.get(
        "/api/runs/{name}/pictures/{file}",
        response_class=Response,
        responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def read_run_picture(name: str, file: str) -> Response:
        """A PNG file of the run's folder."""
        return Response(await work(folder.picture, name, file), media_type="image/png")

    @app.get("/api/runs/{name}/images", response_model=list[Reconstruction])
    async def read_images(
        name: str, start: Annotated[int, Query(ge=0)] = 0, count: Annotated[int, Query(ge=1, le=24)] = 12
    ) -> Response:
        """Test images beside their reconstructions."""

        def compare() -> str:
            return _dumped(folder.open(name).reconstructions(start, count))

        return _json(await work(compare))

    @app.get("/api/runs/{name}/latent", response_model=LatentSpace)
    async def read_latent(name: str) -> Response:
        """The codes of test images, in the plane in which they differ most."""
        return _json(await work(lambda: folder.open(name).latent().model_dump_json()))

    @app.post("/api/runs/{name}/decode", response_model=Decoded)
    async def decode(name: str, wanted: Annotated[DecodeRequest, Body()]) -> Response:
        """Decode a point of the plane, a code, or a test image's code."""

        def compute() -> str:
            run = folder.open(name)
            given = [value for value in (wanted.point, wanted.code, wanted.index) if value is not None]
            if len(given) != 1:
                raise ValueError("Exactly one of `point`, `code` and `index` must be given.")
            numbers = [*(wanted.point or ()), *(wanted.code or ())]
            if any(not math.isfinite(value) or abs(value) > 1e6 for value in numbers):
                raise ValueError("`point` and `code` must be numbers between -1,000,000 and 1,000,000.")
            if wanted.point is not None:
                return run.decode_point(wanted.point).model_dump_json()
            if wanted.index is not None:
                return run.decode_image(wanted.index).model_dump_json()
            return run.decode_codes(np.array([wanted.code]))[0].model_dump_json()

        return _json(await work(compute))

    @app.post("/api/runs/{name}/walk", response_model=list[Decoded])
    async def walk(name: str, wanted: Annotated[WalkRequest, Body()]) -> Response:
        """Decode codes on the straight line between two test images' codes."""

        def compute() -> str:
            return _dumped(folder.open(name).walk(wanted.start, wanted.end, wanted.steps))

        return _json(await work(compute))

    @asynccontextmanager
    async def uploaded(request: Request) -> AsyncIterator[bytes]:
        """A picture's bytes; the block is entered by few at a time, and does with them what is to be done."""
        if uploads.statistics().tasks_waiting >= _UPLOADS_WAITING:
            raise PictureError(429, "Too many pictures at once: try again in a moment.")
        async with uploads:
            with anyio.fail_after(_UPLOAD_SECONDS):
                content = await request.body()  # of bounded size: see guard.py
            yield content

    @app.post("/api/runs/{name}/reconstruct", response_model=Reconstruction, **_UPLOAD)
    async def reconstruct(name: str, request: Request) -> Response:
        """Send a picture of one's own, the bytes of an image file, through the model."""
        async with uploaded(request) as content:

            def compute() -> str:
                run = folder.open(name)
                shape = run.model.network.channels, *run.model.image_size
                return run.reconstruct(read_picture(content, shape)).model_dump_json()

            return _json(await work(compute, limiter=slow))

    # The doctor -------------------------------------------------------------------------------------------------------

    @app.get("/api/runs/{name}/checkup", response_model=Checkup)
    async def check_run(name: str, theme: Annotated[Theme, Query()] = "light") -> Response:
        """Look for checkerboards in a run's model, and name the layers that make them."""

        def compute() -> str:
            return told(folder.open(name).diagnosis, theme).model_dump_json()

        return _json(await work(compute, limiter=slow))

    @app.post("/api/pictures/checkup", response_model=Checkup, **_UPLOAD)
    async def check_upload(request: Request, theme: Annotated[Theme, Query()] = "light") -> Response:
        """Look for a periodic pattern in a picture, the bytes of an image file."""
        async with uploaded(request) as content:

            def compute() -> str:
                return check_picture(read_picture(content), theme).model_dump_json()

            return _json(await work(compute, limiter=slow))

    # Pages ------------------------------------------------------------------------------------------------------------

    # They stay in memory: a page opens at once while all threads are at work.
    files = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    @app.get("/static/{name}", include_in_schema=False)
    async def read_file(name: str) -> Response:
        return file(name)

    @app.get("/", include_in_schema=False)
    async def upsampling_page() -> Response:
        return file("upsampling.html")

    @app.get("/autoencoder", include_in_schema=False)
    async def autoencoder_page() -> Response:
        return file("autoencoder.html")

    @app.get("/doctor", include_in_schema=False)
    async def doctor_page() -> Response:
        return file("doctor.html")

    # Errors -----------------------------------------------------------------------------------------------------------

    def answer(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _, error: JSONResponse({"error": str(error)}, status)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError | ValidationError)
        return JSONResponse({"error": "; ".join(_sentence(one) for one in error.errors()[:3])}, 422)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(UnknownRunError, answer(404))
    app.add_exception_handler(DamagedRunError, answer(409))
    app.add_exception_handler(NotRunError, answer(409))
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))  # which is never read
    app.add_exception_handler(TooLargeError, answer(413))
    app.add_exception_handler(ValueError, answer(422))
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ValidationError, invalid)
    app.add_exception_handler(
        TimeoutError, lambda *_: JSONResponse({"error": "The picture did not arrive in time."}, 408)
    )
    app.add_exception_handler(
        PictureError, lambda _, error: JSONResponse({"error": str(error)}, getattr(error, "status", 400))
    )
    app.add_middleware(Guard, host=host)
    return app


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def _dumped(models: list[Any]) -> str:
    return f"[{','.join(model.model_dump_json() for model in models)}]"


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("query", "body", "path"))
    given = error.get("input")
    value = f" (={given!r})" if isinstance(given, str | int | float) and len(str(given)) < 60 else ""
    return f"`{where or 'request'}`{value}: {error['msg']}"
