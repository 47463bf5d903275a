"""Figures: what is drawn, read back from the axes."""

import itertools

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


def test_a_notebook_shows_a_figure_by_itself():
    assert figures.coverage({"": (1, 2, 1)})._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("row", [(1,), (0, 0, 0), (3, 0, 3)])
def test_coverage_of_few_or_no_taps_can_be_drawn(row, tmp_path):
    figures.coverage({"": row}).savefig(tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").stat().st_size > 0


def test_classes_of_any_name_stand_in_the_latent_spaces_legend(tmp_path):
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


@pytest.mark.parametrize("size", [(28, 28), (128, 128), (4, 80), (80, 4), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_comparison_has_a_labelled_row_for_each_method_and_words_that_do_not_meet(size, channels):
    originals = np.random.default_rng(0).random((4, channels, *size))
    rows = {"original": originals, "this model\n32 numbers\n9.0 dB on average": originals * 0.9, "PCA": originals}
    figure = figures.comparison(rows)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert len(figure.axes) == 12
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == list(rows)
    assert [axes.get_xlabel() for axes in figure.axes[8:]] == ["100.0 dB"] * 4
    expected = -10 * np.log10(((0.1 * originals) ** 2).mean(axis=(1, 2, 3)))
    assert [axes.get_xlabel() for axes in figure.axes[4:8]] == [f"{decibels:.1f} dB" for decibels in expected]
    boxes = [figure.axes[at].yaxis.label.get_window_extent(renderer) for at in (0, 4, 8)]
    assert boxes[0].y0 > boxes[1].y1
    assert boxes[1].y0 > boxes[2].y1
    words = [axes.xaxis.label.get_window_extent(renderer) for axes in figure.axes[4:8]]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(words))
    for box in (*boxes, *words):
        assert figure.bbox.x0 <= box.x0
        assert figure.bbox.y0 <= box.y0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("numbers", "errors", "expected"),
    [
        ([8, 16, 32, 64], [0.030, 0.018, 0.010, 0.0095], 32),
        ([64, 8, 32, 16], [0.0095, 0.030, 0.010, 0.018], 32),  # in any order
        ([8, 16, 32], [0.03, 0.02, 0.01], 32),  # every doubling pays
        ([8, 16, 32], [0.03, 0.029, 0.028], 8),  # none does
        ([8, 16, 32], [0.03, 0.02, 0.021], 16),  # a worse run is no gain
        ([8, 16, 32, 64], [0.03, 0.029, 0.01, 0.0099], 32),  # what pays later is not missed
        ([16, 256], [0.01, 0.0040], 256),  # four doublings that gain a fifth each leave 0.41
        ([16, 256], [0.01, 0.0042], 16),
        ([5], [0.1], 5),
    ],
)
def test_the_knee_is_the_size_after_which_doubling_gains_less_than_a_fifth(numbers, errors, expected):
    assert figures.knee(numbers, errors) == expected


@pytest.mark.parametrize(
    ("numbers", "errors", "text"),
    [
        ([], [], r"`numbers` \(=\[\]\) must be"),
        ([4, 4], [0.1, 0.1], r"`numbers` \(=\[4, 4\]\) must be different"),
        ([4], [0.1, 0.1], r"one for each error"),
        ([4], [0.0], r"`errors` \(=\[0.0\]\) must be finite and above 0"),
        ([4], [float("nan")], r"`errors`"),
    ],
)
def test_sizes_without_a_knee_are_named(numbers, errors, text):
    with pytest.raises(ValueError, match=text):
        figures.knee(numbers, errors)


def test_a_sweep_marks_the_knee_and_leaves_out_what_was_not_computed():
    rows = [
        {"numbers": 32, "model": 0.006, "pca": None, "thumbnail": 0.05},
        {"numbers": 8, "model": 0.02, "pca": 0.04, "thumbnail": 0.06},
        {"numbers": 64, "model": 0.0058, "pca": 0.02, "thumbnail": 0.04},
    ]
    axes = figures.sweep(rows).axes[0]
    lines = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert lines == {"thumbnail": [8, 32, 64], "PCA": [8, 64], "autoencoder": [8, 32, 64]}
    assert [text.get_text() for text in axes.texts] == ["knee: 32"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    steep = figures.sweep(rows[:2]).axes[0]
    assert not steep.texts
    assert steep.get_title() == "no knee up to 32: more numbers still gain much"
    assert not figures.sweep(rows[:1]).axes[0].texts


def scorings(count):
    """A training whose validation error rises again after two thirds."""
    errors = [0.02 / place + 1e-4 * max(0, place - 2 * count // 3) for place in range(1, count + 1)]
    return [
        {
            "step": 200 * place,
            "train_mse": 0.9 * error,
            "validation_mse": error,
            "validation_loss": error,
            "test_mse": 1.1 * error,
        }
        for place, error in enumerate(errors, 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 20])
def test_losses_are_readable_and_mark_the_model_that_is_kept(count):
    metrics = scorings(count)
    best = min(metrics, key=lambda entry: entry["validation_loss"])
    figure = figures.losses(metrics)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    curves = {line.get_label().split(":")[0]: line for line in axes.lines if ":" in line.get_label()}
    assert list(curves) == ["train", "validation", "test"]
    for name, line in curves.items():
        assert line.get_xdata().tolist() == [entry["step"] for entry in metrics]
        assert line.get_ydata().tolist() == [entry[f"{name}_mse"] for entry in metrics]
    assert (best["step"], best["validation_mse"]) in [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"
    ]
    assert axes.get_legend().get_title().get_text() == f"kept: step {best['step']:,}"
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        shown = [
            text.get_text()
            for place, text in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            if low <= place <= high
        ]
        assert len(shown) >= 3
        assert len(set(shown)) == len(shown)
    assert max(entry["step"] for entry in metrics) < axes.get_xlim()[1]


@pytest.mark.parametrize("shape", [(40, 3), (40, 30), (30, 400), (2, 5), (5, 3)])
def test_the_principal_plane_is_that_of_a_singular_value_decomposition(shape):
    codes = np.random.default_rng(0).normal(size=shape) * np.geomspace(1, 0.1, shape[1])
    points, shares = figures.principal_plane(codes)
    centred = codes - codes.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(shares, singular[:2] ** 2 / (singular**2).sum(), atol=1e-9)


def test_codes_that_are_all_the_same_have_a_plane():
    for shape in ((7, 5), (3, 50)):
        points, shares = figures.principal_plane(np.ones(shape))
        assert (points == 0).all()
        assert shares == (0.0, 0.0)
