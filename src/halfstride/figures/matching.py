"""Pictures of what tasks found: nearest neighbours, pairs of duplicates, noisy pictures beside cleaned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from halfstride.figures.canvas import blank, show, without_ticks

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["denoised", "ladder", "neighbours"]

_WITHIN, _BEYOND = "#0f766e", "#9a9a9a"
_PER_ROW = 5  # pairs in a row of the ladder
_CUT = 160  # pixels a side that are shown of a denoised picture


def neighbours(
    rows: Sequence[Sequence[Float[np.ndarray, "c h w"] | None]], distances: Float[np.ndarray, "queries k"]
) -> Figure:
    """Queries, each beside its nearest pictures with their distances.

    Args:
        rows: for each query its picture and those found, with values in [0, 1]; None for one that cannot be shown.
        distances: of those found.
    """
    across = max(map(len, rows))
    figure = blank(across * 0.95 + 0.3, len(rows) * 1.2 + 0.25)
    axes = figure.subplots(len(rows), across, squeeze=False, gridspec_kw={"width_ratios": [1.15] + [1] * (across - 1)})
    for row, images in enumerate(rows):
        for column, axis in enumerate(axes[row]):
            if column >= len(images):
                axis.set_visible(False)
                continue
            _show_or_say(axis, images[column])
            if column:
                axis.set_xlabel(f"{distances[row][column - 1]:.3g}", fontsize=7, labelpad=2)
            else:
                _frame(axis, _WITHIN)
    axes[0, 0].set_title("query", fontsize=8)
    if across > 1:
        axes[0, 1].set_title("nearest, with distance", fontsize=8, loc="left")
    return figure


def ladder(
    pairs: Sequence[tuple[Float[np.ndarray, "c h w"] | None, Float[np.ndarray, "c h w"] | None]],
    distances: Sequence[float],
    limit: float,
) -> Figure:
    """Pairs of pictures at growing distances, those within a limit apart from those beyond.

    Args:
        pairs: of pictures of one size, with values in [0, 1]; None for one that cannot be shown.
        distances: ascending, one for each pair.
        limit: up to which pairs count as duplicates.
    """
    within = sum(distance <= limit for distance in distances)
    groups = [(range(within), _WITHIN), (range(within, len(pairs)), _BEYOND)]
    lines = [(part[i : i + _PER_ROW], color) for part, color in groups for i in range(0, len(part), _PER_ROW)]
    if not lines:
        figure = blank(4, 1)
        figure.text(0.5, 0.5, "no pair of pictures", ha="center", va="center", fontsize=9)
        return figure
    figure = blank(_PER_ROW * 1.75 + 0.2, len(lines) * 1.15 + 0.3)
    axes = figure.subplots(len(lines), _PER_ROW, squeeze=False)
    for row, (line, color) in enumerate(lines):
        for axis in axes[row, len(line) :]:
            axis.set_visible(False)
        for axis, place in zip(axes[row], line, strict=False):
            _show_or_say(axis, _side_by_side(*pairs[place]))
            _frame(axis, color)
            axis.set_xlabel(f"{distances[place]:.3g}", fontsize=8, labelpad=2)
    figure.suptitle(f"distance of each pair; green: within {limit:.3g}, grey: beyond", fontsize=8)
    return figure


def denoised(rows: Mapping[str, Sequence[Float[np.ndarray, "c h w"]]], notes: Mapping[str, Sequence[str]]) -> Figure:
    """The middle of some pictures as they were given, denoised and, where they are known, clean; pixel by pixel.

    Args:
        rows: label and pictures with values in [0, 1], those of a column of one size.
        notes: for some labels a text below each picture, such as its PSNR.
    """
    count = len(next(iter(rows.values())))
    figure = blank(count * 1.35 + 0.7, len(rows) * 1.4 + 0.1)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (label, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            top, left = (max(side - _CUT, 0) // 2 for side in image.shape[-2:])
            show(axes[row, column], image[:, top : top + _CUT, left : left + _CUT])
            if label in notes:
                axes[row, column].set_xlabel(notes[label][column], fontsize=7, labelpad=2)
        axes[row, 0].set_ylabel(label, fontsize=8)
    return figure


def _side_by_side(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Two pictures as one, with a white gap; None where either is missing."""
    if first is None or second is None:
        return None
    gap = np.ones((*first.shape[:-1], max(first.shape[-1] // 20, 1)), first.dtype)
    return np.concatenate([first, gap, second], -1)


def _show_or_say(axis: Axes, image: np.ndarray | None) -> None:
    if image is not None:
        show(axis, image)
        return
    axis.text(0.5, 0.5, "not\nfound", ha="center", va="center", fontsize=7, transform=axis.transAxes)
    axis.set_box_aspect(1)
    without_ticks(axis)


def _frame(axis: Axes, color: str) -> None:
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=1.6)
