"""Transposed convolutions with packed kernels."""

import pytest
import torch
from torch.autograd import forward_ad

from halfstride._core.algorithms import folded, native, packed
from halfstride._core.case import resize_case, transposed_case
from halfstride._support.weight_cache import freeze
from tolerance import assert_close

PACKED = {
    "k4 s2": (transposed_case, (2, 16, 5, 6), (16, 24, 4, 4), {"stride": 2, "padding": 1}),
    "k3 s2": (transposed_case, (3, 32, 5, 4), (32, 16, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "k5x3 s3x2, groups": (transposed_case, (1, 32, 5, 4), (32, 24, 5, 3), {"stride": (3, 2), "groups": 2}),
    "dilated": (transposed_case, (1, 32, 5, 4), (32, 16, 3, 3), {"stride": 2, "dilation": 2, "output_padding": 1}),
    "replicate": (transposed_case, (1, 32, 5, 4), (32, 16, 3, 3), {"stride": 2, "padding_mode": "replicate"}),
    "uneven padding": (transposed_case, (1, 32, 5, 4), (32, 16, 3, 3), {"stride": 2, "padding": ((1, 0), (0, 2))}),
    "3-D": (transposed_case, (2, 16, 4, 5, 3), (16, 12, 3, 3, 3), {"stride": 2, "padding": 1}),
    "1-D": (transposed_case, (2, 32, 7), (32, 24, 6), {"stride": 3, "padding": 1, "output_padding": 2}),
    "resize": (resize_case, (2, 16, 5, 6), (32, 16, 3, 3), {}),
    "resize, dilated": (resize_case, (2, 16, 5, 6), (32, 16, 3, 3), {"scale_factor": 3, "dilation": 2}),
    "resize, 1-D": (resize_case, (1, 48, 9), (48, 48, 3), {"dilation": 2}),
    "resize, 3-D": (resize_case, (2, 8, 4, 5, 3), (24, 8, 3, 3, 3), {"padding": 2}),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # inside torch's forward mode
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # by torch.backends.mkldnn.flags, which sets all
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_packed_kernels_give_what_the_definition_gives(name, last, monkeypatch):
    make, shape, weight_shape, geometry = PACKED[name]
    case = make(len(shape) - 2, shape, weight_shape, **geometry)
    algorithm = native if case.form == "transposed" else folded
    x, weight, bias = torch.randn(shape), torch.nn.Parameter(torch.randn(weight_shape)), torch.randn(case.out_channels)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    calls, compute = [], packed.transposed
    monkeypatch.setattr(packed, "_gains", lambda *_: True)
    monkeypatch.setattr(packed, "_gains_compared", lambda *_: True)
    monkeypatch.setattr(packed, "transposed", lambda *arguments: calls.append(1) or compute(*arguments))
    with torch.no_grad():
        for _ in range(2):
            output = algorithm.compute(case, x, weight, bias)
            assert_close(output, native.compute(case, x.double(), weight.double(), bias.double()).float())
            assert output.is_contiguous() or (last and output.movedim(1, -1).is_contiguous())
            weight.data.lerp_(torch.ones(()), 0.5)
    assert len(calls) == 2
    algorithm.compute(case, x, weight, bias).sum().backward()  # which no packed kernel knows
    assert weight.grad is not None
    with torch.no_grad():
        several = torch.func.vmap(lambda each: algorithm.compute(case, each, weight, bias))(x.unsqueeze(0))[0]
        assert_close(several, algorithm.compute(case, x, weight, bias))
        with forward_ad.dual_level():
            dual = algorithm.compute(case, forward_ad.make_dual(x, x), weight, None)
            assert_close(
                forward_ad.unpack_dual(dual).tangent, algorithm.compute(case, x.double(), weight.double(), None).float()
            )
        with torch.backends.mkldnn.flags(enabled=False):
            assert_close(algorithm.compute(case, x, weight, bias), several)
    assert len(calls) == 3


def test_one_weight_can_be_packed_in_several_ways(monkeypatch):
    monkeypatch.setattr(packed, "_gains", lambda *_: True)
    monkeypatch.setattr(packed, "_gains_compared", lambda *_: True)
    weight, x = torch.nn.Parameter(torch.randn(32, 32, 3, 3)), torch.randn(1, 32, 5, 5)
    ways = [
        (native, transposed_case(2, x.shape, weight.shape, stride=1, padding=1)),
        (folded, resize_case(2, x.shape, weight.shape, scale_factor=1, padding=1)),
        (folded, resize_case(2, x.shape, weight.shape, scale_factor=2, padding=1)),
        (folded, resize_case(2, x.shape, weight.shape, scale_factor=2, dilation=2, padding=3)),
    ]
    for algorithm, case in 2 * ways:
        with torch.no_grad():
            output = algorithm.compute(case, x, weight, None)
            assert_close(output, native.compute(case, x.double(), weight.double(), None).float())


@pytest.mark.parametrize(
    ("shape", "weight_shape", "compared", "frozen"),
    [
        ((1, 256, 8, 8), (256, 128, 4, 4), False, True),  # to see that the weight is the same takes as long as to pack
        ((1, 2048, 2, 2), (2048, 512, 4, 4), True, True),
        ((1, 256, 64, 64), (256, 128, 4, 4), False, False),  # the products take much longer than packing
    ],
)
def test_a_weight_that_has_to_be_compared_is_packed_where_it_is_huge_only(
    shape, weight_shape, compared, frozen, monkeypatch
):
    monkeypatch.setattr(packed, "is_wide", lambda: True)
    monkeypatch.setattr(packed, "onednn_takes", lambda *_: True)
    packed._gains_compared.forget()
    case = transposed_case(2, shape, weight_shape, stride=2, padding=1)
    x, weight = torch.empty(shape), torch.nn.Parameter(torch.empty(weight_shape))
    with torch.no_grad():
        assert packed.pays(case, x, weight, "transposed", (0, 0)) == compared
        freeze(torch.nn.ParameterList([weight]))
        assert packed.pays(case, x, weight, "transposed", (0, 0)) == frozen
    packed._gains_compared.forget()
