"""Pictures of overlap, and of the checkerboards that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from halfstride.figures.canvas import blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["coverage"]


def coverage(rows: Mapping[str, Sequence[int]]) -> Figure:
    """How many kernel taps reach each output position of square layers, side by side.

    Above each map stand the counts along one axis, as bars; the map is their outer product.

    Args:
        rows: for each layer, by its title, the coverage of one axis as `geometry.coverage` gives it.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("coverage", ["#fff7ed", "#fdba74", "#c2410c"])
    most = max(1, *(max(row) for row in rows.values()))
    figure = blank(3.2 * len(rows), 4.4)
    axes = figure.subplots(
        2, len(rows), squeeze=False, sharex="col", height_ratios=[1, 4], gridspec_kw={"wspace": 0.08}
    )
    for (title, row), bars, heat in zip(rows.items(), axes[0], axes[1], strict=True):
        counts = np.array(row)
        positions = np.arange(len(counts))
        bars.bar(positions, counts, width=0.86, color=shades(counts**2 / most**2), edgecolor="#9a3412", linewidth=0.6)
        bars.set_ylim(0, most * 1.1)
        bars.set_title(title, fontsize=10, fontweight="bold", pad=10)
        bars.set_axis_off()
        products = np.outer(counts, counts)
        heat.imshow(products, cmap=shades, vmin=0, vmax=most**2)
        for (vertical, horizontal), product in np.ndenumerate(products):
            color = "white" if product > 0.6 * most**2 else "#431407"
            heat.text(horizontal, vertical, str(product), ha="center", va="center", fontsize=8, color=color)
        heat.set_xticks(positions[:-1] + 0.5, minor=True)
        heat.set_yticks(positions[:-1] + 0.5, minor=True)
        heat.grid(which="minor", color="white", linewidth=1)
        heat.tick_params(which="both", bottom=False, left=False, labelbottom=False, labelleft=False)
        for spine in heat.spines.values():
            spine.set_visible(False)
    figure.supxlabel("kernel taps that reach each position of the output, and (bars) along one axis of it", fontsize=9)
    return figure
