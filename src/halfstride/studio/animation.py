"""The computation of a layer as an animation (GIF, SVG, or a PNG for every frame) and its views as vector drawings."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Literal

import numpy as np

from halfstride.figures.frames import Frame, animated_svg, gif, pdf, png, svg
from halfstride.figures.upsampling import Picture, Theme, View, upsampling_frames, upsampling_picture
from halfstride.figures.upsampling_steps import By, Phase, UpsamplingSteps
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer

Format = Literal["gif", "svg", "png"]
Vector = Literal["svg", "pdf"]

SECONDS = 0.8
"""Seconds per frame, unless there are many frames."""

_LONGEST = 45
"""Seconds of the longest animation by default."""


def animate(layer: Layer, view: View = "scatter", theme: Theme = "light") -> list[Frame]:
    """Draw a frame for each step of a layer.

    Raises:
        ValueError: where its arguments do not go together, or it is too large to be shown.
    """
    return upsampling_frames(_steps(layer), view, theme)


def draw(
    layer: Layer,
    view: Picture,
    by: By = "inputs",
    step: int | None = None,
    theme: Theme = "light",
    turned: bool = False,
    format: Vector = "svg",
) -> bytes:
    """Draw one view of a layer at a step, as a file.

    Args:
        layer: the layer.
        view: "scatter", "emulated", "phases", "matrix" or "coverage".
        by: whether the step counts "inputs" or "outputs".
        step: the step; None for everything done.
        theme: "light" or "dark".
        turned: draw the transposed matrix.
        format: "svg" or "pdf".

    Raises:
        ValueError: where the layer's arguments do not go together, or it is too large to be shown.
    """
    frame = upsampling_picture(_steps(layer), view, by, step, theme, turned)
    return pdf(frame) if format == "pdf" else svg(frame)


def _steps(layer: Layer) -> UpsamplingSteps:
    explained = explain(layer)
    sizes = layer.input_size, layer.kernel_size, layer.output_size, explained.emulated.size
    n, k, o, padded = ((size,) * layer.dims for size in sizes)
    phases = [
        Phase(tuple(one.remainder), np.reshape(one.kernel, one.size), np.reshape(one.taps, one.size), one.positions)
        for one in explained.phases.kernels
    ]
    return UpsamplingSteps(
        title=explained.formula.name,
        caption=_caption(layer, explained.output_size),
        input=np.reshape(explained.input, n),
        kernels=np.reshape(explained.kernel, (explained.kernels, *k)),
        output=np.reshape(explained.output, o),
        terms=np.array([explained.terms.i, explained.terms.t, explained.terms.j], dtype=int).T,
        products=np.array(explained.terms.product),
        partial=np.reshape(explained.partial, (-1, *o)),
        source=np.reshape(explained.emulated.source, padded),
        windows=list(np.stack([explained.emulated.cells, explained.emulated.taps], axis=-1)),
        phases=phases,
        phased=explained.phases.side,
    )


def encode(frames: Sequence[Frame], format: Format, seconds: float | None = None) -> bytes:
    """Encode frames as one file; "png" gives a zip archive of numbered files."""
    if seconds is None:
        seconds = min(SECONDS, _LONGEST / len(frames))
    if format == "gif":
        return gif(frames, seconds)
    if format == "svg":
        return animated_svg(frames, seconds)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in numbered(frames):
            # a fixed date: the same frames give the same bytes
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return stream.getvalue()


def numbered(frames: Sequence[Frame]) -> list[tuple[str, bytes]]:
    """Return each frame's file name and its PNG."""
    digits = len(str(len(frames)))
    return [(f"{place:0{digits}}.png", png(frame)) for place, frame in enumerate(frames, 1)]


def _caption(layer: Layer, output_size: int) -> str:
    stride = "scale factor" if layer.form in ("resize", "subpixel") else "stride"
    arguments = [f"kernel {layer.kernel_size}", f"{stride} {layer.stride}", f"padding {layer.padding}"]
    if layer.dilation > 1:
        arguments.append(f"dilation {layer.dilation}")
    if layer.output_padding:
        arguments.append(f"output padding {layer.output_padding}")
    sizes = " → ".join(" × ".join([str(size)] * layer.dims) for size in (layer.input_size, output_size))
    return f"{', '.join(arguments)}:  {sizes}"
