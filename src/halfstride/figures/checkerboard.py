"""Pictures of overlap, and of the checkerboards that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from halfstride.figures.canvas import blank, show, without_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from torch import Tensor

    from halfstride.checkerboard import CureReport, Diagnosis, ImageDiagnosis, LayerReport, Pattern


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


def diagnosis(found: Diagnosis) -> Figure:
    """The findings of `diagnose`: each layer's phase gains, an output, its spectrum, and its pattern, amplified.

    Of signals of one dimension the output and the pattern are drawn as lines.
    """
    gains = [layer for layer in found.layers if layer.gains is not None and layer.gains.dim() <= 2][-_MOST_LAYERS:]
    samples = found.samples
    shown = samples is not None and samples.dim() in (3, 4)
    heights = [2.5] * bool(gains) + [3.6] * shown
    figure = blank(10.5, sum(heights) or 1.0)
    if not gains and not shown:
        figure.text(0.5, 0.5, "nothing to draw: no kernel and no image was seen", ha="center", va="center")
        return figure
    parts: Any = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    if gains:
        _draw_gains(parts[0, 0], gains)
    if samples is not None and shown:
        patterns = [part.pattern for part in found.output if part.pattern is not None]
        _draw_samples(parts[-1, 0], samples.double(), patterns)
    return figure


def image_diagnosis(found: ImageDiagnosis) -> Figure:
    """An image (the first of the batch), its spectrum, and its pattern, amplified."""
    figure = blank(10.5, 3.6)
    _draw_samples(figure, found.samples[:16].double(), found.patterns)
    return figure


def cure(report: CureReport) -> Figure:
    """Inputs, and outputs before and after a cure, in rows, with enlarged crops."""
    before, after = report.before.samples, report.after.samples
    if before is None or after is None or before.dim() != 4:
        raise ValueError(
            "`report` holds no images: only models that return (batch, channels, height, width) are drawn."
        )
    rows = [("before", before.numpy()), ("after", after.numpy())]
    if report.inputs is not None and report.inputs.dim() == 4:
        rows.insert(0, ("input", report.inputs.numpy()))
    count = min(6, *(len(images) for _, images in rows))
    figure = blank(1.1 * count + 3.2, 1.1 * len(rows) + 0.9)
    axes = figure.subplots(
        len(rows), count + 2, squeeze=False, width_ratios=[1] * count + [1.3, 1.3], gridspec_kw={"wspace": 0.04}
    )
    everything = np.concatenate([images.ravel() for _, images in rows])
    limits = np.percentile(everything, (0.5, 99.5))
    size = min(before.shape[2:])
    crop = slice(size // 4, size // 4 + max(size // 3, 8))
    for row, (label, images) in zip(axes, rows, strict=True):
        for place in range(count):
            show(row[place], images[place], limits)
        for place, ax in enumerate(row[count:]):
            show(ax, images[min(place, count - 1)][:, crop, crop], limits)
        row[0].set_ylabel(label, fontsize=10)
    axes[0, count].set_title("enlarged", fontsize=9, loc="left")
    change = f"the output changed by {report.difference:.1%} of its standard deviation"
    if report.error_before and report.error_after is not None:
        change += f", the reconstruction error by {report.error_after / report.error_before - 1:+.1%}"
    figure.suptitle(f'cure, method "{report.method}": {change}', fontsize=10, fontweight="bold")
    return figure


_MOST_LAYERS = 6


def _draw_gains(figure: Any, layers: Sequence[LayerReport]) -> None:
    """Per layer the phases' gains as shares of their mean, on one scale that is white at 1."""
    spare = (_MOST_LAYERS - len(layers)) / 2  # columns left and right of fewer layers
    margins = [spare] * (spare > 0)
    widths = [*margins, *[1.0] * len(layers), *margins]
    grid = figure.add_gridspec(1, len(widths), width_ratios=widths)
    for place, layer in enumerate(layers, start=len(margins)):
        ax = figure.add_subplot(grid[0, place])
        assert layer.gains is not None
        shares = np.atleast_2d(layer.gains.double().numpy())
        ax.imshow(shares, cmap=_diverging(), vmin=0, vmax=2)
        if shares.size <= 16:
            for (row, column), share in np.ndenumerate(shares):
                color = "white" if abs(share - 1) > 0.7 else "#1f2937"
                ax.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=9, color=color)
        without_ticks(ax)
        spread = "-" if layer.gain_spread is None else f"{layer.gain_spread:.2g}"
        ax.set_title(layer.name if len(layer.name) < 22 else f"...{layer.name[-19:]}", fontsize=9, fontweight="bold")
        ax.set_xlabel(f"{layer.verdict}\nspread {spread}", fontsize=8)
    figure.suptitle("gain of each phase, along the mean gain (1 for all: even)", fontsize=10)


def _draw_samples(figure: Any, samples: Tensor, patterns: Sequence[Pattern]) -> None:
    axes = figure.subplots(1, 3)
    sound = samples.dim() == 3
    found = [pattern for pattern in patterns if pattern.found]
    alone = sum((pattern.within(samples[:1])[0] for pattern in found), torch.zeros(samples.shape[1:])).double().numpy()
    content = samples[0].numpy()
    limits = np.percentile(content, (0.5, 99.5))
    most = float(np.abs(alone).max())
    titles = ("an output" if len(samples) > 1 else "the image", "mean spectrum", "no pattern found")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10, fontweight="bold")
    if found:
        share = most / float(limits[1] - limits[0] or 1.0)
        axes[2].set_title(f"the pattern alone: ±{share:.1%} of the range", fontsize=10, fontweight="bold")
    strong = np.abs(alone).reshape(len(alone), -1).max(1).argmax()
    if sound:
        start = _loudest(alone[strong], 64)[0]
        axes[0].plot(content[0, :256], color="#0f766e", linewidth=0.9)
        part = alone[strong, start : start + 64]
        positions = np.arange(start, start + len(part))
        axes[2].plot(positions, part, color="#c2410c", linewidth=0.9, marker="o", markersize=2)
        for ax in (axes[0], axes[2]):
            ax.set_xlabel("position", fontsize=8)
    else:
        show(axes[0], content, limits)
        top, left = _loudest(alone[strong], 32)
        part = alone[strong, top : top + 32, left : left + 32]
        axes[2].imshow(part, cmap=_diverging(), vmin=-(most or 1), vmax=most or 1, interpolation="nearest")
        without_ticks(axes[2])
        kinds = " and ".join(dict.fromkeys(name for pattern in found for name in pattern.parts))
        where = f"{part.shape[0]}×{part.shape[1]} positions from row {top}, column {left}"
        axes[2].set_xlabel(f"{kinds}\n{where}" if found else "", fontsize=8)
    _draw_spectrum(axes[1], samples.numpy(), found)


def _loudest(alone: np.ndarray, size: int) -> tuple[int, ...]:
    """Where a window of this size, cut off at the end, holds most of a pattern; the first such place."""
    power = np.square(alone)
    for axis, length in enumerate(alone.shape):
        width = min(size, length)
        power = np.lib.stride_tricks.sliding_window_view(power, width, axis=axis).sum(-1)
    # Among places of equal strength the first is taken, whatever the rounding.
    return tuple(map(int, np.unravel_index((power >= power.max() * 0.999).argmax(), power.shape)))


def _draw_spectrum(ax: Axes, samples: np.ndarray, patterns: Sequence[Pattern]) -> None:
    """The mean power of the samples' mean over channels, with the harmonics of what was found marked."""
    signals = samples.mean(1)
    window: Any = np.ones(())
    for size in signals.shape[1:]:
        window = np.multiply.outer(window, np.hanning(size))
    signals = (signals - signals.mean()) * window
    spatial = tuple(range(1, signals.ndim))
    power = np.fft.fftshift((np.abs(np.fft.fftn(signals, axes=spatial)) ** 2).mean(0))
    decibels = np.log10(power + power.max() * 1e-10 + np.finfo(float).tiny)
    if signals.ndim == 2:
        frequencies = np.fft.fftshift(np.fft.fftfreq(signals.shape[1]))
        ax.plot(frequencies, decibels, color="#334155", linewidth=0.8)
        for pattern in patterns:
            for a in range(1, pattern.period[0]):
                ax.axvline((a / pattern.period[0] + 0.5) % 1 - 0.5, color="#c2410c", linewidth=0.8, alpha=0.6)
        ax.set_xlabel("cycles per position", fontsize=8)
        return
    low, high = (-0.5 - 0.5 / n for n in decibels.shape[::-1]), (0.5 - 0.5 / n for n in decibels.shape[::-1])
    (left, top), (right, bottom) = low, high  # so that every frequency is in the middle of its square
    ax.imshow(decibels, cmap="cividis", extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")
    for pattern in patterns:
        s, z = pattern.period
        part = max(pattern.parts.values(), key=lambda part: part.evidence)
        lines = np.abs(np.fft.fftn(part.phases[part.channel].numpy()))
        strong = [(a, b) for (a, b), line in np.ndenumerate(lines) if line > 0.1 * lines.max()]
        vertical, horizontal = zip(*(((a / s + 0.5) % 1, (b / z + 0.5) % 1) for a, b in strong), strict=True)
        # A frequency of one half is at the first row or column.
        places = (np.array(horizontal) - 0.5, np.array(vertical) - 0.5)
        ring: dict[str, Any] = {"color": "#fb923c", "markerfacecolor": "none", "markersize": 12, "markeredgewidth": 1.6}
        ax.plot(*places, "o", clip_on=False, **ring)
    circled = ", harmonics circled" if patterns else ""
    ax.set_xlabel(f"cycles per position{circled}", fontsize=8)
    ax.tick_params(labelsize=7)


def _diverging() -> Colormap:
    """Blue below the middle, orange above it: distinct under every kind of colour vision."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("diverging", ["#1d4ed8", "#93c5fd", "#f8fafc", "#fdba74", "#c2410c"])
