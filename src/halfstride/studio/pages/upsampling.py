"""The upsampling page: one small layer with numbers in it, explained and animated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from halfstride.figures.upsampling import Picture, Theme, View
from halfstride.figures.upsampling_steps import By
from halfstride.studio.animation import Format, Vector, animate, draw, encode
from halfstride.studio.dependencies import run_slow
from halfstride.studio.explanation import Explanation, explain
from halfstride.studio.layer import Layer
from halfstride.studio.standalone import Standalone, standalone

router = APIRouter()

_MEDIA: dict[Format | Vector, str] = {
    "pdf": "application/pdf",
    "gif": "image/gif",
    "svg": "image/svg+xml",
    "png": "application/zip",
}


class Animation(Layer):
    """A layer, and how to draw it."""

    format: Format = "gif"
    view: View = "scatter"
    theme: Theme = "light"


class Drawing(Layer):
    """A layer, and which of its views to draw at which step."""

    format: Vector = "svg"
    view: Picture = "scatter"
    by: By = "inputs"
    step: int | None = Field(None, ge=0, le=9999, description="Without it everything is done.")
    turned: Literal["no", "yes"] = Field("no", description="Whether the matrix is transposed.")
    theme: Theme = "light"


@router.get("/api/layer")
def read_layer(layer: Annotated[Layer, Query()]) -> Explanation:
    """Explain a layer: every product, the output that it is added to, and the sums."""
    return explain(layer)


@router.get("/api/layer/schema")
async def read_schema() -> dict[str, Any]:
    """A layer's arguments as a JSON schema, with their ranges and those of the page's sliders."""
    return Layer.model_json_schema()


@router.get(
    "/api/layer/page",
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def read_standalone(wanted: Annotated[Standalone, Query()]) -> Response:
    """The layer's page as one HTML file, which plays without this server."""
    headers = {"content-disposition": f'attachment; filename="{wanted.form}.html"'}
    return Response(standalone(wanted), media_type="text/html", headers=headers)


@router.get(
    "/api/layer/animation",
    response_class=Response,
    responses={
        200: {
            "description": "A GIF, an SVG, or a zip archive of PNG files.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (_MEDIA["gif"], _MEDIA["svg"], _MEDIA["png"])
            },
        }
    },
)
async def read_animation(request: Request, wanted: Annotated[Animation, Query()]) -> Response:
    """Animate the layer's computation, step by step, for a slide."""
    content = await run_slow(
        request, lambda: encode(animate(wanted, wanted.view, wanted.theme), wanted.format), "exports"
    )
    name = f"{wanted.form}-{wanted.view}.{'zip' if wanted.format == 'png' else wanted.format}"
    return Response(
        content, media_type=_MEDIA[wanted.format], headers={"content-disposition": f'attachment; filename="{name}"'}
    )


@router.get(
    "/api/layer/picture",
    response_class=Response,
    responses={
        200: {"content": {_MEDIA[kind]: {"schema": {"type": "string", "format": "binary"}} for kind in ("svg", "pdf")}}
    },
)
async def read_picture(request: Request, wanted: Annotated[Drawing, Query()]) -> Response:
    """Draw one view of the layer at a step as vectors, for a slide or a page."""
    options = wanted.view, wanted.by, wanted.step, wanted.theme, wanted.turned == "yes", wanted.format
    content = await run_slow(request, lambda: draw(wanted, *options), "exports")
    headers = {"content-disposition": f'attachment; filename="{wanted.form}-{wanted.view}.{wanted.format}"'}
    return Response(content, media_type=_MEDIA[wanted.format], headers=headers)
