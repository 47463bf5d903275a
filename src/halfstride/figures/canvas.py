"""What all figures are drawn on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfstride._support.extras import naming_extras

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["blank"]

_DPI = 150


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches, made without pyplot, so that no state is shared and no window opens."""
    with naming_extras():
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
