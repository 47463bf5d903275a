"""Pictures of what a detector found: anomaly maps over images, the worst first, and the scores of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from halfstride.figures.canvas import blank, without_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["anomaly_overlay", "detections", "map_at_size", "score_histogram"]

_SIDE = 320  # pixels that small images are enlarged to
_BAR, _MARGIN = 14, 74
_COLOURS = "inferno"


def anomaly_overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float) -> Image.Image:
    """An image with its anomaly map over it, and the map's scale beside it with the threshold marked.

    Every map of a detector has the same scale: from 0, at which nothing is drawn, to twice the threshold (2 where that
    is more). A white line surrounds what is above the threshold.

    Args:
        image: H×W×C with 1 or 3 channels, uint8.
        anomaly_map: h×w, in the unit of the threshold.
        threshold: above which a place is anomalous.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    enlarged = max(1, round(_SIDE / max(height, width)))
    size = width * enlarged, height * enlarged
    over = overlaid(np.asarray(_grey_or_rgb(image).resize(size, Image.Resampling.NEAREST)), anomaly_map, threshold)
    canvas = Image.new("RGB", (size[0] + _MARGIN, max(size[1], 120)), "white")
    canvas.paste(Image.fromarray(over), (0, 0))
    bar = np.linspace(1, 0, canvas.height - 24)[:, None].repeat(_BAR, 1)
    canvas.paste(Image.fromarray(_coloured(bar)), (size[0] + 8, 12))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    top = scale_top(threshold)
    for share, text in ((1.0, f"{top:.1f}"), (threshold / top, f"{threshold:.1f} limit"), (0.0, "0")):
        y = 12 + (canvas.height - 24) * (1 - share)
        draw.line((size[0] + 8, y, size[0] + 8 + _BAR, y), fill="black")
        draw.text((size[0] + 12 + _BAR, y), text, fill="black", font=font, anchor="lm")
    return canvas


def detections(shown: Sequence[tuple[str, np.ndarray, np.ndarray | None, float | None]], threshold: float) -> Figure:
    """Images, each above itself with its anomaly map over it.

    Args:
        shown: name, image H×W×C of uint8, anomaly map and score of each, in the order in which they are drawn.
        threshold: above which a place is anomalous.
    """
    from matplotlib.colors import Normalize

    columns = min(max(len(shown), 1), 6)
    rows = max(math.ceil(len(shown) / columns), 1)
    figure = blank(1.75 * columns + 0.9, 3.9 * rows + 0.2)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (name, image, anomaly_map, score) in enumerate(shown):
        row, column = divmod(place, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        picture = np.asarray(_grey_or_rgb(image))
        side = max(1, round(160 / max(picture.shape[:2])))
        picture = picture.repeat(side, 0).repeat(side, 1)
        for axis, drawn in (
            (above, picture),
            (below, picture if anomaly_map is None else overlaid(picture, anomaly_map, threshold)),
        ):
            axis.set_axis_on()
            axis.imshow(drawn, interpolation="nearest")
            without_ticks(axis)
        above.set_title(_short(name), fontsize=7, pad=3)
        odd = score is not None and score > threshold
        told = "no score" if score is None else f"{score:.1f}" + (" anomalous" if odd else "")
        below.set_xlabel(told, fontsize=8, color="firebrick" if odd else "black", labelpad=2)
    if shown:
        from matplotlib.cm import ScalarMappable

        scale = ScalarMappable(Normalize(0, scale_top(threshold)), _COLOURS)
        bar = figure.colorbar(scale, ax=axes, shrink=0.6, aspect=30, pad=0.01)
        bar.ax.axhline(threshold, color="white", linewidth=1.5)
        bar.set_label(f"anomaly map; threshold {threshold:.2f}", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    return figure


def score_histogram(scores: Mapping[str, Sequence[float]], threshold: float) -> Figure:
    """How many images have which score, with the threshold.

    Args:
        scores: of each kind of image, such as `"normal"` and `"anomalous"`.
        threshold: drawn as a line.
    """
    figure = blank(6, 3.2)
    axes = figure.subplots()
    everything = np.concatenate([np.asarray(values, float) for values in scores.values()])
    bins = np.histogram_bin_edges(np.append(everything, threshold), bins=40)
    for label, values in scores.items():
        axes.hist(values, bins=bins.tolist(), alpha=0.6, label=f"{label} ({len(values):,})")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    axes.set(xlabel="score, standard deviations of good images", ylabel="images")
    axes.legend(fontsize=8, frameon=False)
    return figure


def map_at_size(anomaly_map: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """An anomaly map h×w, interpolated to the height and width of its image."""
    from PIL import Image

    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def overlaid(picture: np.ndarray, anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """An RGB picture H×W×3 of uint8 with a map over it, drawn the more clearly the larger its values are."""
    smooth = map_at_size(anomaly_map, picture.shape[:2])
    strength = np.clip(smooth / scale_top(threshold), 0, 1)
    alpha = np.clip(1.5 * strength, 0, 0.75)[..., None]
    mixed = picture * (1 - alpha) + _coloured(strength) * alpha
    above = smooth > threshold
    inner = above.copy()
    inner[1:] &= above[:-1]
    inner[:-1] &= above[1:]
    inner[:, 1:] &= above[:, :-1]
    inner[:, :-1] &= above[:, 1:]
    mixed[above & ~inner] = 255
    return np.rint(mixed).astype(np.uint8)


def scale_top(threshold: float) -> float:
    """The end of the scale; thresholds of a high rate of false alarms may be small or negative."""
    return 2 * max(threshold, 1.0)


def _coloured(shares: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    colours: np.ndarray = colormaps[_COLOURS](shares, bytes=True)
    return colours[..., :3]


def _grey_or_rgb(image: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")


def _short(name: str, limit: int = 24) -> str:
    """The end of a path, with the folder that the file lies in."""
    text = "/".join(PurePath(name).parts[-2:])
    return text if len(text) <= limit else "…" + text[1 - limit :]
