"""Pictures of an autoencoder: what it reconstructs, how it learned, what its latent space looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from halfstride.figures.canvas import blank, show

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.figure import Figure

_CURVES: dict[str, dict[str, Any]] = {
    "train": {"color": "#7a7a7a", "linestyle": "--", "marker": ".", "markersize": 5, "linewidth": 1.2},
    "validation": {"color": "#0b5fa8", "marker": ".", "markersize": 6, "linewidth": 1.6},
    "test": {"color": "#c2410c", "marker": ".", "markersize": 5, "linewidth": 1.2},
}

_LABEL = 0.8
"""Inches that the word "reconstructed" takes."""


def reconstructions(
    originals: Iterable[Float[np.ndarray, "c h w"]], reconstructed: Iterable[Float[np.ndarray, "c h w"]]
) -> Figure:
    """Originals above their reconstructions, side by side.

    Args:
        originals: images with values in [0, 1]; 1 channel is drawn grey, 3 as RGB, of others the first.
        reconstructed: their reconstructions, in the same order.
    """
    originals, reconstructed = list(originals), list(reconstructed)
    count = len(originals)
    tallest = max(image.shape[-2] / image.shape[-1] for image in originals)
    figure = blank(count + 0.4, 2 * min(tallest, 4) + 0.2)
    axes = figure.subplots(2, count, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, (images, label) in enumerate(((originals, "original"), (reconstructed, "reconstructed"))):
        for column in range(count):
            show(axes[row, column], images[column])
        across = {"rotation": 0, "ha": "right", "va": "center"} if tallest < _LABEL else {}
        axes[row, 0].set_ylabel(label, fontsize=8, **across)
    return figure


def losses(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Train, validation and test MSE over the steps, on a logarithmic scale, with a mark at the model that is kept.

    Args:
        metrics: one entry per scoring with the keys `step`, `train_mse`, `validation_mse`, `test_mse` and
            `validation_loss`, of which the kept model has the least.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    figure = blank(6, 3.6)
    axes = figure.subplots()
    steps = [entry["step"] for entry in metrics]
    best = min(metrics, key=lambda entry: entry["validation_loss"])
    axes.axvline(best["step"], color="#7a7a7a", linewidth=0.8, linestyle=":", zorder=1)
    for key, style in _CURVES.items():
        label = f"{key}: {best[f'{key}_mse']:.5f}"
        axes.plot(steps, [entry[f"{key}_mse"] for entry in metrics], label=label, **style)
    # Above all curves, so that it is visible where they overlap.
    axes.plot(
        best["step"], best["validation_mse"], "o", markersize=8, markerfacecolor="none", color="#1d1f23", zorder=4
    )
    positive = any(entry[f"{key}_mse"] > 0 for entry in metrics for key in _CURVES)
    axes.set(xlabel="step", ylabel="mean squared error", yscale="log" if positive else "linear")
    axes.set_xlim(0, 1.03 * steps[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    low, high = axes.get_ylim()
    narrow = not positive or high < 10 * low  # where there would be one power of ten, or none
    axes.yaxis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, alpha=0.2)
    axes.legend(frameon=False, title=f"kept: step {best['step']:,}", alignment="left")
    return figure


def latent_space(
    codes: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"] | None = None, classes: Sequence[str] | None = None
) -> Figure:
    """Latent codes as points, coloured by class.

    Args:
        codes: one row per image; drawn directly where there are two columns, else in their principal plane.
        labels: the class of each image, counted from 0.
        classes: the names of the classes.
    """
    points, shares = principal_plane(codes)
    figure = blank(6.4, 5.2)
    axes = figure.subplots()
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6, linewidths=0, color="#0f766e")
    else:
        from matplotlib import colormaps

        present = np.unique(labels)
        palette = colormaps["tab10" if len(present) <= 10 else "turbo"]
        for place, label in enumerate(present):
            own = labels == label
            color = palette(place if len(present) <= 10 else place / (len(present) - 1))
            name = _literal(classes[label]) if classes is not None else str(label)
            axes.scatter(points[own, 0], points[own, 1], s=6, alpha=0.7, linewidths=0, color=color, label=name)
        if len(present) <= 20:
            axes.legend(frameon=False, markerscale=2.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if codes.shape[1] == 2:
        axes.set(xlabel="latent 1", ylabel="latent 2")
    else:
        axes.set(
            xlabel=f"principal component 1 ({shares[0]:.0%} of the variance)",
            ylabel=f"principal component 2 ({shares[1]:.0%})",
        )
    axes.grid(visible=True, alpha=0.2)
    return figure


def _literal(name: str) -> str:
    """A name that matplotlib shows unchanged: no formula between dollars, and not omitted for a leading `_`."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def principal_plane(codes: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n 2"], tuple[float, float]]:
    """The two leading principal components of codes, and the share of the variance that each explains.

    Codes of two dimensions are returned as they are, codes of one with a second component of zero.
    """
    from sklearn.decomposition import PCA

    points, shares = np.zeros((len(codes), 2)), np.zeros(2)
    variances = codes.var(axis=0)
    if codes.shape[1] <= 2:
        points[:, : codes.shape[1]] = codes
        shares[: codes.shape[1]] = variances / (variances.sum() or 1.0)
    elif variances.any():
        pca = PCA(min(2, len(codes)), random_state=0)  # the same codes always have the same signs
        points[:, : pca.n_components] = pca.fit_transform(codes)
        shares[: pca.n_components] = pca.explained_variance_ratio_
    return points, (float(shares[0]), float(shares[1]))


def decoded_plane(images: Float[np.ndarray, "rows columns c h w"], extent: tuple[float, float, float, float]) -> Figure:
    """Images decoded on a regular grid over a two-dimensional latent space.

    Args:
        images: the grid; row 0 is drawn at the bottom, where the second latent is smallest.
        extent: the grid's range `(left, right, bottom, top)`: first latent, then second.
    """
    rows, columns, channels, height, width = images.shape
    mosaic = images[::-1].transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    tall = 6 * (rows * height) / (columns * width)
    scale = min(max(2 / tall, 1), 4) if tall < 2 else min(12 / tall, 1)  # of very wide and of very tall images
    figure = blank(max(6 * scale, 1.5), max(tall * scale, 1.5))
    axes = figure.subplots()
    show(axes, mosaic.transpose(2, 0, 1), extent=extent, aspect="auto")
    axes.set(xlabel="latent 1", ylabel="latent 2")
    axes.tick_params(left=True, bottom=True, labelleft=True, labelbottom=True)
    return figure
