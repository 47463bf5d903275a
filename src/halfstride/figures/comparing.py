"""Pictures that compare an autoencoder with simpler methods: the same images by each, and error against size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from halfstride.figures.canvas import blank, show

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

_GAIN = 0.2


def comparison(rows: Mapping[str, Float[np.ndarray, "n c h w"]]) -> Figure:
    """The same images by several methods, a row for each, with the PSNR below every image.

    Args:
        rows: label and images with values in [0, 1]; the first row are the originals. 1 channel is drawn grey, 3 as
            RGB, of others the first.
    """
    originals = next(iter(rows.values()))
    count, _, height, width = originals.shape
    # An image of up to 360 pixels is not drawn smaller than it is.
    across = min(max(width / 120, 0.75), 3.0)
    down = min(max(across * height / width, 0.3), 4.0)
    figure = blank(count * (across + 0.06) + 1.5, len(rows) * (down + 0.22) + 0.1)
    axes = figure.subplots(len(rows), count, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for place, (label, images) in enumerate(rows.items()):
        errors = ((images.astype(np.float64) - originals) ** 2).mean(axis=(1, 2, 3))
        for column in range(count):
            axis = axes[place, column]
            show(axis, images[column])
            for spine in axis.spines.values():
                spine.set_linewidth(0.4)
            if place:
                decibels = -10 * math.log10(max(errors[column], 1e-10))
                axis.set_xlabel(f"{decibels:.1f} dB", fontsize=7, labelpad=1.5)
        axes[place, 0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    return figure


def grid(images: Float[np.ndarray, "n c h w"]) -> Figure:
    """Images side by side, in about as many rows as columns.

    Args:
        images: with values in [0, 1]; 1 channel is drawn grey, 3 as RGB, of others the first.
    """
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    side = min(max(width / 120, 0.6), 8 / columns if columns < 8 else 0.8)
    figure = blank(columns * side, rows * side * height / width)
    for axes, image in zip(figure.subplots(rows, columns, squeeze=False).flat, images, strict=False):
        show(axes, image)
    for axes in figure.axes[count:]:
        axes.set_visible(False)
    return figure


def knee(numbers: Sequence[int], errors: Sequence[float], gain: float = _GAIN) -> int:
    """The size after which more numbers gain little: the smallest from which no step gains `gain` per doubling.

    From one size to the next the error falls by a share; that share per doubling of the numbers is
    `1 - (error / error before) ** (1 / log2(numbers / numbers before))`. Where every step gains more, the largest size
    is returned.

    Args:
        numbers: latent numbers, each 1 or more, none twice, in any order.
        errors: validation errors, above 0, in the same order.
        gain: the share, above 0 and below 1.

    Raises:
        ValueError: where there are no sizes, or their numbers and errors do not fit.

    Example:
        >>> knee([8, 16, 32, 64], [0.030, 0.018, 0.010, 0.0095])
        32
    """
    if not numbers or len(numbers) != len(errors) or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise ValueError(f"`numbers` (={list(numbers)}) must be different ints of at least 1, one for each error.")
    if not all(math.isfinite(error) and error > 0 for error in errors):
        raise ValueError(f"`errors` (={list(errors)}) must be finite and above 0.")
    pairs = sorted(zip(numbers, errors, strict=True))
    found = pairs[-1]
    for before, after in zip(pairs[-2::-1], pairs[:0:-1], strict=True):
        if 1 - (after[1] / before[1]) ** (1 / math.log2(after[0] / before[0])) >= gain:
            break
        found = before
    return found[0]


def sweep(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """Error against latent numbers, on logarithmic axes, of the model beside PCA and thumbnails; the knee is marked.

    Where the model is worse than PCA at some size, no knee is marked: it was not trained for long enough.

    Args:
        rows: per size the latent numbers (`numbers`) and the validation errors of the model (`model`) and, where they
            were computed, of PCA (`pca`) and of a thumbnail (`thumbnail`) with as many numbers.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    rows = sorted(rows, key=lambda row: row["numbers"] or 0)
    figure = blank(6, 4)
    axes = figure.subplots()
    styles = {
        "thumbnail": ("thumbnail", "#9ca3af", "^", "--"),
        "pca": ("PCA", "#0369a1", "s", "--"),
        "model": ("autoencoder", "#c2410c", "o", "-"),
    }
    for key, (label, color, marker, line) in styles.items():
        points = [(row["numbers"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker, markersize=4, linestyle=line)
    sizes = [int(row["numbers"] or 0) for row in rows]
    errors = [float(row["model"] or 0) for row in rows]
    place = knee(sizes, errors)
    behind = [row for row in rows if row.get("pca") is not None and (row["model"] or 0) > (row["pca"] or 0)]
    if behind:
        axes.set_title("behind PCA: trained too short to tell the knee", fontsize=9)
    elif place < sizes[-1]:
        error = errors[sizes.index(place)]
        axes.scatter([place], [error], s=110, facecolors="none", edgecolors="#c2410c", linewidths=1.5, zorder=3)
        axes.annotate(
            f"knee: {place:,}", (place, error), (-4, -10), textcoords="offset points", ha="right", va="top", fontsize=9
        )
    elif len(sizes) > 1:
        axes.set_title(f"no knee up to {place:,}: more numbers still gain much", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="latent numbers", ylabel="mean squared error on validation images")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.12, y=0.15)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    return figure
