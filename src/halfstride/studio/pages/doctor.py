"""The doctor page: checkerboards in a run's model, or in a picture."""

from __future__ import annotations

import io
from typing import Any

from fastapi import APIRouter, Request

from halfstride import diagnose_image, figures
from halfstride.checkerboard import Diagnosis, ImageDiagnosis
from halfstride.figures.upsampling import Theme
from halfstride.studio.dependencies import UPLOAD, Runs, Upload, run_slow
from halfstride.studio.pictures import read_middle

router = APIRouter()

_LARGEST = 512
"""Pixels along each axis, from the middle, that are analysed: enough for a pattern of half a percent, in seconds."""

_INK = {"light": "#1d1f23", "dark": "#e9e7e2"}
"""The text colours of studio.css."""


@router.get("/api/runs/{name}/checkup")
async def check_run(request: Request, runs: Runs, name: str, theme: Theme = "light") -> dict[str, Any]:
    """Look for checkerboards in a run's model, and name the layers that make them."""
    found = await run_slow(request, lambda: runs.open(name).diagnosis, "diagnoses")
    return await run_slow(request, lambda: _checkup(found, theme), "drawings")


@router.post("/api/pictures/checkup", openapi_extra=UPLOAD)
async def check_upload(request: Request, content: Upload, theme: Theme = "light") -> dict[str, Any]:
    """Look for a periodic pattern in an uploaded picture, the bytes of an image file."""

    def compute() -> ImageDiagnosis | str:
        middle = read_middle(content, _LARGEST)
        try:
            return diagnose_image(middle.float() / 255)
        except ValueError as error:  # too small
            return str(error)

    found = await run_slow(request, compute, "uploads")
    if isinstance(found, str):
        return {
            **dict.fromkeys(("layers", "unreached", "uneven_gradients", "output"), ()),
            **{"found": None, "conclusion": f"Could not judge: {found}", "figure": ""},
        }
    return await run_slow(request, lambda: _checkup(found, theme), "drawings")


def _checkup(found: Diagnosis | ImageDiagnosis, theme: Theme) -> dict[str, Any]:
    """Return `to_dict()` of a diagnosis with its conclusion and its figure, as SVG.

    In one thread at a time: matplotlib's style is global.
    """
    from matplotlib import rc_context

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, str] = {**dict.fromkeys(inked, _INK[theme]), "figure.facecolor": "none", "axes.facecolor": "none"}
    with rc_context(style):
        figure = figures.diagnosis(found) if isinstance(found, Diagnosis) else figures.image_diagnosis(found)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg")
    answer = {"layers": [], "unreached": [], "uneven_gradients": [], **found.to_dict()}
    if isinstance(found, ImageDiagnosis):
        answer["output"] = [{"period": pattern["period"], "measured": pattern} for pattern in answer.pop("measured")]
    return {**answer, "conclusion": str(found).splitlines()[-1], "figure": drawing.getvalue()}
