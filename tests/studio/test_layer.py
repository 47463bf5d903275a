"""A layer taken apart is the layer: checked against torch, and against running the code that is shown."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from studio_helpers import rows

from halfstride import geometry
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer, read_layer


@st.composite
def layers(draw):
    form = draw(st.sampled_from(["conv", "transposed", "resize", "subpixel"]))
    dims = draw(st.integers(1, 2))
    n, k, s = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    p, d = draw(st.integers(0, 3)), draw(st.integers(1, 2))
    op = draw(st.integers(0, 2)) if form == "transposed" else 0
    numbers = st.integers(-9, 9).map(float)
    kernels = s**dims if form == "subpixel" else 1
    layer = Layer(
        form=form,
        dims=dims,
        input_size=n,
        kernel_size=k,
        stride=s,
        padding=p,
        dilation=d,
        output_padding=op,
        input=draw(st.lists(numbers, min_size=n**dims, max_size=n**dims)),
        kernel=draw(st.lists(numbers, min_size=kernels * k**dims, max_size=kernels * k**dims)),
    )
    try:
        explain(layer)
    except ValueError:
        assume(False)
    return layer


def torch_output(layer):
    """The layer by torch's own operators alone."""
    n, k = (layer.input_size,) * layer.dims, (layer.kernel_size,) * layer.dims
    x = torch.tensor(layer.input, dtype=torch.float64).reshape(1, 1, *n)
    w = torch.tensor(layer.kernel, dtype=torch.float64).reshape(-1, 1, *k)
    conv = F.conv1d if layer.dims == 1 else F.conv2d
    p, s, d = layer.padding, layer.stride, layer.dilation
    if layer.form == "conv":
        return conv(x, w, stride=s, padding=p, dilation=d)
    if layer.form == "transposed":
        transposed = F.conv_transpose1d if layer.dims == 1 else F.conv_transpose2d
        return transposed(x, w, stride=s, padding=p, output_padding=layer.output_padding, dilation=d)
    if layer.form == "resize":
        return conv(F.interpolate(x, scale_factor=s, mode="nearest"), w, padding=p, dilation=d)
    phases = conv(x, w, padding=p, dilation=d)
    if layer.dims == 2:
        return F.pixel_shuffle(phases, s)
    return phases.transpose(1, 2).reshape(1, 1, -1)


@settings(max_examples=60)
@given(layers())
def test_the_output_is_what_torch_computes_and_products_matrix_windows_and_partial_sums_add_up_to_it(layer):
    told = explain(layer)
    assert told.output == torch_output(layer).flatten().tolist()
    x, w = told.input, told.kernel
    by_term, by_matrix, by_window = ([0.0] * len(told.output) for _ in range(3))
    for i, partial in enumerate(told.partial):
        for term in (term for term in rows(told.terms) if term.i == i):
            assert term.product == x[i] * w[term.t]
            by_term[term.j] += term.product
        assert partial == by_term
    for entry in rows(told.matrix):
        assert entry.contribution == entry.value * x[entry.i]
        by_matrix[entry.j] += entry.contribution
    for j, (cells, taps) in enumerate(zip(told.emulated.cells, told.emulated.taps, strict=True)):
        assert len(cells) == layer.kernel_size**layer.dims
        for cell, tap in zip(cells, taps, strict=True):
            source = told.emulated.source[cell]
            by_window[j] += w[tap] * (x[source] if source >= 0 else 0)
    assert by_term == by_matrix == by_window == told.output


@settings(max_examples=60)
@given(layers())
def test_phases_hold_the_whole_kernel_coverage_is_that_of_geometry_and_the_formula_ends_in_the_size(layer):
    told = explain(layer)
    wide = told.input if told.phases.side == "input" else told.output
    assert sorted(at for phase in told.phases.kernels for at in phase.positions) == list(range(len(wide)))
    repeated = layer.stride**layer.dims if layer.form == "resize" else 1
    assert sum(sum(phase.taps) for phase in told.phases.kernels) == len(told.kernel) * repeated
    assert sum(phase.gain for phase in told.phases.kernels) == pytest.approx(sum(told.kernel) * repeated)

    n, k, s, p, d = layer.input_size, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    if layer.form == "transposed":
        row = geometry.coverage(n, k, s, p, layer.output_padding, d)
        counts = row if layer.dims == 1 else [a * b for a, b in itertools.product(row, row)]
        assert told.coverage.counts == list(counts)
    assert told.coverage.even == (layer.form in ("resize", "subpixel") or geometry.is_even(k, s, d))

    lines = ["".join(token.text for token in line) for line in told.formula.lines]
    assert lines[-1] == f"= {told.output_size}"
    assert told.output_size**layer.dims == len(told.output)
    worked_out = lines[-2].removeprefix("= ").replace("−", "-").replace("·", "*")
    if "⌊" in worked_out:
        worked_out = worked_out.replace("⌊", "(").replace("⌋", ")").replace("/", "//")
    assert eval(worked_out) == told.output_size


@pytest.mark.parametrize(("form", "n", "p"), [("transposed", 9, 0), ("resize", 9, 1), ("subpixel", 9, 1)])
def test_a_phase_answers_a_constant_input_with_its_gain(form, n, p):
    told = explain(Layer(form=form, dims=1, input_size=n, kernel_size=3, stride=2, padding=p, input=(1,) * n))
    middle = range(6, len(told.output) - 6)
    for phase in told.phases.kernels:
        assert {told.output[at] for at in phase.positions if at in middle} == {phase.gain}


@pytest.mark.parametrize(
    ("layer", "verdict"),
    [
        (Layer(),
            "Uneven coverage: stride 2 does not divide kernel 3, so each output is reached by 1, 2 or 4 taps, "
            "in a regular pattern."),
        (Layer(dims=1, kernel_size=4, dilation=2),
            "Uneven coverage: stride 2 and dilation 2 have a common divisor, so each output is reached by 0 or 4 taps, "
            "in a regular pattern."),
        (Layer(dims=1, kernel_size=4, kernel=(1, 2, 3, 4)),
            "Even coverage, 2 taps for every phase; but the outputs for a constant input of 1 are 4 to 6 with these "
            "weights: a checkerboard."),
        (Layer(form="resize", padding=1),
            "Even: every phase sums all taps of the kernel, whatever its weights. No checkerboard is possible."),
        (Layer(stride=1), "Stride 1: there is a single phase, so coverage is even."),
    ],
)  # fmt: skip
def test_the_verdict_in_words(layer, verdict):
    assert explain(layer).coverage.verdict == verdict


@settings(max_examples=40)
@given(layers())
def test_the_code_to_copy_computes_what_is_shown(layer):
    told = explain(layer)
    for code in (told.code.pytorch, told.code.halfstride):
        names = {}
        exec(code, names)
        assert names["y"].dtype == torch.float32
        assert names["y"].flatten().tolist() == told.output
    if layer.form == "conv":
        assert names["back"].shape == names["x"].shape


def test_the_formula_of_the_lecture():
    told = explain(Layer(input_size=2))
    lines = ["".join(token.text for token in line) for line in told.formula.lines]
    assert lines == ["o = s(n − 1) + k − 2p", "= 2·(2 − 1) + 3 − 2·0", "= 2 + 3 − 0", "= 5"]
    assert told.formula.note == "The convolution with the same arguments maps size 5 or 6 to 2."


def test_products_are_those_of_the_plan():
    costs = {cost.algorithm: cost.products for cost in explain(Layer(form="resize", input_size=4, padding=1)).costs}
    assert costs["phases"] == 256
    assert costs["native"] == 576
    assert explain(Layer(form="conv")).costs == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": 9}, "`padding` (=9) leaves nothing of the full output (=7): use at most 3."),
        ({"form": "resize", "output_padding": 1},
            "`output_padding` (=1) belongs to transposed convolutions: set it to 0."),
        ({"kernel": "1,two"},
            "`kernel.1` (='two'): Input should be a valid number, unable to parse string as a number."),
        ({"input_size": 12, "stride": 4},
            "The output would have 47 positions along each axis; up to 18 can be shown with 2 axes: choose a smaller "
            "input, kernel, stride or dilation."),
        ({"form": "conv", "input_size": 18, "kernel_size": 9, "stride": 1, "padding": 4},
            "The layer makes 26,244 products; up to 12,000 can be shown: choose a smaller input or kernel."),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_says_why(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        explain(read_layer(**arguments))
