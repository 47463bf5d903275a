"""Scattering: runs of taps, both memory formats, kernels that do not overlap."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from algorithm_cases import by_definition, drawn, native_with_gradients
from halfstride._core.algorithms import native, scatter
from halfstride._core.case import transposed_case
from tolerance import assert_close


@settings(max_examples=100)
@given(drawn(forms=("transposed", "resize")), st.booleans(), st.booleans(), st.booleans())
def test_scattering_in_runs_of_taps_or_by_fold_and_in_both_layouts(call, together, last, fold):
    case, *tensors = call
    assume(scatter.unsupported_reason(case) is None)
    expected, gradient, of_expected = native_with_gradients(case, tensors, last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter, "_RUN", 1 if together else math.inf)
        patch.setattr(scatter, "_FEW_OUTPUTS", math.inf if fold else 0)
        patch.setattr(scatter, "is_small", scatter.is_small.__wrapped__)
        patch.setattr(scatter, "_plan", scatter._plan.__wrapped__)
        output = scatter.compute(case, *tensors)
        assert_close(output, expected)
        for one, other in zip(torch.autograd.grad(output, tensors, gradient), of_expected, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("padding", [4, ((0, 3),), ((5, 1),), ((9, 13),)])
@pytest.mark.parametrize(("k", "d"), [(16, 1), (11, 1), (5, 3)])
def test_scattering_at_a_large_stride(k, d, padding, monkeypatch):
    monkeypatch.setattr(scatter, "is_small", lambda case: False)
    case = transposed_case(1, (2, 3, 5), (3, 2, k), 8, padding, dilation=d)
    generator = torch.Generator().manual_seed(k)
    x, weight, bias = (torch.randn(size, generator=generator).double() for size in ((2, 3, 5), (3, 2, k), (2,)))
    assert_close(scatter.compute(case, x, weight, bias), by_definition(case, x, weight, bias))


@pytest.mark.parametrize("size", [(5, 4), (3, 5, 4)], ids=["images", "volumes"])
@pytest.mark.parametrize("bias", [None, torch.randn(6, dtype=torch.float64)], ids=["no bias", "bias"])
@pytest.mark.parametrize("training", [False, True])
def test_scattering_kernels_that_lie_side_by_side(size, bias, training):
    axes = len(size)
    taps = (2, 3, 2)[-axes:]
    order = torch.channels_last if axes == 2 else torch.channels_last_3d
    weight = torch.nn.Parameter(torch.randn(4, 6, *taps, dtype=torch.float64), requires_grad=training)
    x = torch.randn(2, 4, *size, dtype=torch.float64).to(memory_format=order).requires_grad_(training)
    for padding, output_padding in ((0, 0), (1, 0), (0, 1)):
        case = transposed_case(axes, x.shape, weight.shape, taps, padding, output_padding)
        function = (F.conv_transpose2d, F.conv_transpose3d)[axes - 2]
        with torch.set_grad_enabled(training):
            expected = function(x, weight, bias, taps, padding, output_padding)
            for _ in range(2):  # the second time with what was kept
                actual = scatter.compute(case, x, weight, bias)
                assert_close(actual, expected)
                assert actual.is_contiguous(memory_format=order)
        if training:
            g = torch.randn_like(expected)
            ours, theirs = (torch.autograd.grad(y, (x, weight), g) for y in (actual, expected))
            for one, other in zip(ours, theirs, strict=True):
                assert_close(one, other)


def test_heavy_kernels_scatter_rows_of_channels_and_keep_the_order_of_the_images(monkeypatch):
    case = transposed_case(2, (3, 96, 4, 6), (96, 128, 4, 4), 2, 1)
    assert scatter._is_heavy(case) is False  # gradients are wanted
    x, w, bias = torch.randn(3, 96, 4, 6), torch.randn(96, 128, 4, 4), torch.randn(128)
    expected = native.compute(case, x.double(), w.double(), bias.double())
    taken, of_rows = [], scatter._products_channels_last
    monkeypatch.setattr(
        scatter, "_products_channels_last", lambda *a, **options: taken.append(a[0]) or of_rows(*a, **options)
    )
    with torch.no_grad():
        for weight in (w, torch.nn.Parameter(w)):
            output = scatter.compute(case, x, weight, bias)
            assert output.is_contiguous()
            assert_close(output, expected.float())
        light = transposed_case(2, (3, 96, 20, 30), (96, 128, 4, 4), 2, 1)
        scatter.compute(light, torch.randn(3, 96, 20, 30), w, bias)
    assert taken == [case, case]


@pytest.mark.parametrize("training", [False, True])
def test_dilated_kernels_as_large_as_the_stride_do_not_lie_side_by_side(training):
    case = transposed_case(2, (1, 2, 1, 1), (2, 2, 1, 2), (1, 2), "same", dilation=(1, 2))
    assert case.output_size == (1, 2)
    x = torch.randn(1, 2, 1, 1, dtype=torch.float64).to(memory_format=torch.channels_last)
    x = x.as_strided(x.shape, (2, 1, 2, 2)).requires_grad_(training)  # channels last also by its strides
    weight, bias = torch.randn(2, 2, 1, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    with torch.set_grad_enabled(training):
        assert_close(scatter.compute(case, x, weight, bias).contiguous(), by_definition(case, x.detach(), weight, bias))
