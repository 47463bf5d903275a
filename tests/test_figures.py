"""Figures: what is drawn, read back from the axes."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from halfstride import figures, geometry


def test_coverage_shows_every_count_and_its_product():
    rows = {"uneven": geometry.coverage(4, 3, 2), "even": geometry.coverage(3, 2, 2)}
    figure = figures.coverage(rows)
    bars, heats = np.reshape(figure.axes, (2, 2))
    for bar, heat, (title, row) in zip(bars, heats, rows.items(), strict=True):
        assert bar.get_title() == title
        assert [patch.get_height() for patch in bar.patches] == list(row)
        shown = np.array([int(text.get_text()) for text in heat.texts]).reshape(len(row), len(row))
        assert (shown == np.outer(row, row)).all()
        assert (heat.images[0].get_array() == shown).all()
        assert heat.images[0].get_clim() == (0, 4)  # one scale for all maps


@pytest.mark.parametrize("row", [(1,), (0, 0, 0), (3, 0, 3)])
def test_coverage_of_few_or_no_taps_can_be_drawn(row, tmp_path):
    figures.coverage({"": row}).savefig(tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").stat().st_size > 0


def test_classes_of_any_name_stand_in_the_latent_spaces_legend(tmp_path):
    """Dollars would begin a formula, and matplotlib leaves out what begins with `_`."""
    codes = np.random.default_rng(0).normal(size=(9, 2))
    figure = figures.latent_space(codes, np.arange(9) % 3, ["$5_$", "_private", "$1 to $2"])
    figure.savefig(tmp_path / "latent.png")
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [r"\$5_\$", " _private", r"\$1 to \$2"]


@pytest.mark.parametrize("size", [(4, 80), (8, 24), (12, 12), (80, 4)])
def test_words_beside_pictures_of_any_shape_keep_apart_and_within(size):
    images = [np.zeros((1, *size))] * 10
    figure = figures.reconstructions(images, images)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    original, reconstructed = (figure.axes[at].yaxis.label.get_window_extent(renderer) for at in (0, 10))
    assert original.y0 > reconstructed.y1
    for box in (original, reconstructed):
        assert figure.bbox.x0 <= box.x0
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
