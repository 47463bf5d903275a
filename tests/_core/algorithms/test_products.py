"""Matrix products by oneDNN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithm_cases import drawn, native_with_gradients
from halfstride._core.algorithms import by_parts, products, scatter
from halfstride._core.algorithms.by_parts import fused
from tolerance import assert_close


@settings(max_examples=150)
@given(drawn(forms=("transposed", "resize"), most=4), st.booleans())
def test_products_by_onednn_give_what_the_definition_gives(call, last):
    case, *tensors = call
    expected, gradient, of_expected = native_with_gradients(case, tensors, last)
    input, weight, bias = (tensor.detach().float().requires_grad_() for tensor in tensors)
    kept = torch.nn.Parameter(weight.detach())
    able_to = [algorithm for algorithm in (scatter, by_parts) if algorithm.unsupported_reason(case) is None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_LEAST", 0)
        patch.setattr(products, "is_wide", lambda: True)
        patch.setattr(scatter, "_MANY", 0)
        patch.setattr(fused, "fits", lambda case: False)
        for algorithm in able_to:
            output = algorithm.compute(case, input, weight, bias)
            gradients = torch.autograd.grad(output, (input, weight, bias), gradient.float())
            for one, other in zip((output, *gradients), (expected, *of_expected), strict=True):
                assert_close(one, other.float())
            with torch.no_grad():
                for _ in range(2):
                    assert_close(algorithm.compute(case, input, kept, bias), expected.float())
                several = torch.func.vmap(lambda each, of=algorithm.compute: of(case, each, kept, bias))
                assert_close(several(torch.stack([input, input]))[1], expected.float())


@pytest.mark.parametrize(
    ("capability", "knows", "wide"),
    [
        ("AVX2", {"avx512_f": True, "avx_vnni": True}, False),  # where torch is held to AVX2
        ("AVX512", {"avx512_f": True}, True),  # Intel
        ("AVX512", {"avx512_f": True, "sse4a": True, "avx_vnni": False}, False),  # AMD's fourth generation
        ("AVX512", {"avx512_f": True, "sse4a": True, "avx_vnni": True}, True),  # and its fifth
    ],
)
def test_where_avx512_is_two_halves_products_are_made_as_with_avx2(capability, knows, wide, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: knows, raising=False)
    assert products.is_wide.__wrapped__() == wide


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # by torch.backends.mkldnn.flags, which sets all
def test_kernels_are_packed_for_so_many_rows_as_there_are(monkeypatch):
    packs, pack = [], torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_reorder_convolution_weight",
        lambda *arguments: packs.append(arguments[-1]) or pack(*arguments),
    )
    monkeypatch.setattr(products, "_LEAST", 2**12)
    monkeypatch.setattr(products, "_LEAST_OF_HALVES", 2**12)
    matrix = torch.randn(16, 32)
    kernel = products.Kernel(matrix)
    for size in (9, 20, 20, 9, 21, 22, 23):
        rows = torch.randn(size, 32)
        assert_close(products.times(rows, kernel), rows @ matrix.t())
        with torch.backends.mkldnn.flags(enabled=False):
            assert_close(products.times(rows, kernel), rows @ matrix.t())
    assert [shape[-1] for shape in packs] == [9, 20, 21, 22, 23]
    products.times(torch.randn(7, 32), kernel)
    products.times(torch.randn(20, 32).double(), matrix.double())
    assert len(packs) == 5
    assert len(kernel._packed) <= 4
