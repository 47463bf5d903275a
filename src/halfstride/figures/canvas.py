"""What all figures are drawn on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["blank"]

_DPI = 150


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches, made without pyplot, so that no state is shared and no window opens."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
