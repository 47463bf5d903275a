"""The studio as an ASGI application: its pages put together, the answers to errors, and the guard in front."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import halfstride
from halfstride.studio.dependencies import Queues
from halfstride.studio.detection import Judgements
from halfstride.studio.errors import ForeignSourceError, StudioError, describe
from halfstride.studio.guard import Guard, check_hosts
from halfstride.studio.page import PAGES, STATIC, Page
from halfstride.studio.pages import autoencoder, checkerboard, compare, detection, doctor, network, upsampling
from halfstride.studio.runs_folder import RunsFolder


class Failure(BaseModel):
    """Why a request was not answered, in one sentence."""

    error: str
    sources: list[str] = Field([], description="Where images lie that are read after they were allowed.")


mimetypes.add_type("text/javascript", ".js")  # Windows may have another one, with which browsers refuse modules


def create_app(runs: Path | None = None, host: str = "127.0.0.1", allowed_hosts: Sequence[str] = ()) -> FastAPI:
    """Return the studio as an ASGI application.

    Args:
        runs: a folder of runs, or a run; None for none.
        host: the address that it will be served on; requests that name another are refused.
        allowed_hosts: further hosts that they may name: those of proxies, `NAME` or `NAME:PORT`.

    Raises:
        ValueError: where one of them is no name of a host.
    """
    check_hosts(allowed_hosts)
    app = FastAPI(
        title="halfstride studio",
        version=halfstride.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        responses={"4XX": {"model": Failure, "description": "The request cannot be answered."}},
        lifespan=_limit_threads,
    )
    app.state.runs = RunsFolder(runs)
    app.state.judgements = Judgements(app.state.runs)
    app.state.queues = Queues()
    app.state.uploads = anyio.Semaphore(4)
    for page in PAGES:
        app.add_api_route(page.path, _answer(page), response_class=HTMLResponse, include_in_schema=False)
    for addresses in (upsampling, autoencoder, network, compare, detection, checkerboard, doctor):
        app.include_router(addresses.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    for error in (HTTPException, StudioError, RequestValidationError, ValueError, TimeoutError, ClientDisconnect):
        app.add_exception_handler(error, _refuse)
    app.add_middleware(Guard, host=host, allowed=allowed_hosts)
    return app


def _answer(page: Page) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        return page.html()

    return answer


@asynccontextmanager
async def _limit_threads(_: FastAPI) -> AsyncIterator[None]:
    """Compute in a few threads, so that many waiting requests use the memory of a few."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = max(2, min(4, os.cpu_count() or 2))
    yield


async def _refuse(_: Request, error: Exception) -> Response:
    """Answer an error with its status and one sentence."""
    match error:
        case ForeignSourceError():
            return JSONResponse({"error": str(error), "sources": error.sources}, error.status)
        case StudioError():
            return JSONResponse({"error": str(error)}, error.status)
        case HTTPException():
            return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)
        case RequestValidationError():
            return JSONResponse({"error": describe(error.errors())}, 422)
        case ValueError():
            return JSONResponse({"error": str(error)}, 422)
        case TimeoutError():
            return JSONResponse({"error": "The picture did not arrive in time."}, 408)
    return Response(status_code=400)  # the client has closed the connection
