"""What the checkerboard doctor says of a model or a picture, ready for a page."""

from __future__ import annotations

import io
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor

from halfstride import diagnose_image, figures
from halfstride.checkerboard import Diagnosis, ImageDiagnosis
from halfstride.figures.upsampling import Theme

__all__ = ["Checkup", "check_picture", "told"]

_LARGEST = 512
"""Pixels along an axis that are looked at: enough to find half a percent, and a few seconds' work."""

_INK = {"light": "#1d1f23", "dark": "#e9e7e2"}
"""The page's own, in studio.css."""


class Measured(BaseModel):
    """What was measured of one period."""

    period: list[int]
    strength: float = Field(description="In units of the standard deviation.")
    evidence: float = Field(description="-log10 of the probability that there is none.")
    found: bool
    kinds: list[str] = Field(description="Of what was found: additive, the same everywhere, or multiplicative.")


class CheckedLayer(BaseModel):
    """One upsampling layer."""

    name: str
    kind: str
    kernel_size: list[int]
    stride: list[int]
    output_size: list[int]
    taps: tuple[int, int] | None = Field(description="Fewest and most that an output position sums.")
    gain_spread: float | None = Field(description="How far its phases' gains are apart, as a share of their mean.")
    made: float | None = Field(description="Strength of the pattern that its weights make of its average input.")
    measured: Measured | None
    verdict: str
    advice: str


class CheckedOutput(BaseModel):
    """One period looked for in what a model puts out, or in a picture."""

    period: list[int]
    layers: list[str] = Field([], description="Those whose patterns have this period there.")
    measured: Measured | None
    refusal: str = Field("", description="Why nothing was measured.")


class Checkup(BaseModel):
    """Is there a checkerboard, how strong is it, and which layer makes it?"""

    found: bool
    conclusion: str
    layers: list[CheckedLayer] = []
    output: list[CheckedOutput]
    unreached: list[str] = Field([], description="Upsampling layers that no image came to.")
    uneven_gradients: list[str] = Field([], description="Strided convolutions whose stride does not divide the kernel.")
    figure: str = Field(description="SVG, of a transparent ground.")


def check_picture(picture: Tensor, theme: Theme = "light") -> Checkup:
    """Look for a periodic pattern in a uint8 image C×H×W; of a large one in the middle, at full resolution.

    Raises:
        ValueError: where it is too small for anything to repeat in it.
    """
    _, height, width = picture.shape
    top, left = (max(0, (size - _LARGEST) // 2) for size in (height, width))
    return told(diagnose_image(picture[:, top : top + _LARGEST, left : left + _LARGEST].float() / 255), theme)


def told(found: Diagnosis | ImageDiagnosis, theme: Theme = "light") -> Checkup:
    """A diagnosis for a page, with its figure. One thread at a time: all share matplotlib's style."""
    from matplotlib import rc_context

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, str] = {**dict.fromkeys(inked, _INK[theme]), "figure.facecolor": "none", "axes.facecolor": "none"}
    with rc_context(style):
        figure = figures.diagnosis(found) if isinstance(found, Diagnosis) else figures.image_diagnosis(found)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg")
    answers = found.to_dict()
    if isinstance(found, ImageDiagnosis):
        answers["output"] = [{"period": one["period"], "measured": one} for one in answers["measured"]]
    return Checkup.model_validate({**answers, "conclusion": str(found).splitlines()[-1], "figure": drawing.getvalue()})
