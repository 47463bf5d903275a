"""What all figures share: the empty figure, and how an image is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches, made without pyplot, so that no state is shared and no window opens."""
    from halfstride.figures.picture import Picture  # matplotlib takes a while to import

    return Picture(figsize=(width, height), dpi=_DPI, layout="constrained")


def show(axes: Axes, image: np.ndarray, limits: tuple[float, float] = (0.0, 1.0), **options: Any) -> None:
    """Draw an image (channels, height, width): 1 channel grey, 3 as RGB, of others the first.

    Args:
        limits: the values that are drawn black and white.
        options: of `imshow`.
    """
    low, high = map(float, limits)
    scaled = ((image - low) / (high - low or 1.0)).clip(0, 1)
    picture = np.moveaxis(scaled, 0, -1) if len(image) == 3 else scaled[0]
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest", **options)
    without_ticks(axes)


def without_ticks(axes: Axes) -> None:
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
