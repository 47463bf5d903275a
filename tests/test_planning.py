"""The rule that chooses an algorithm, and the figures with which it is explained."""

import math

import pytest
import torch

from halfstride import functional, planning
from halfstride.algorithms import ALGORITHMS
from halfstride.algorithms.case import resize_case, subpixel_case, transposed_case


def test_the_rule():
    assert planning.choose(transposed_case(2, (1, 8, 8, 8), (8, 8, 3, 3), 2)) == "native"
    assert planning.choose(transposed_case(2, (1, 8, 8, 8), (8, 3, 3, 3), 2)) == "scatter"
    assert planning.choose(transposed_case(2, (1, 8, 8, 8), (8, 3, 3, 3), 1)) == "native"
    assert planning.choose(transposed_case(2, (1, 8, 8, 8), (8, 1, 3, 3), 2, groups=2)) == "native"
    assert planning.choose(subpixel_case(2, (1, 4, 8, 8), (16, 4, 3, 3), 2)) == "native"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (3, 64, 3, 3), 2)) == "scatter"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 2)) == "differences"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 1)) == "native"
    assert planning.choose(resize_case(2, (8, 64, 4, 4), (32, 64, 3, 3), 2)) == "native"
    assert planning.choose(resize_case(2, (1, 512, 8, 8), (512, 512, 3, 3), 2)) == "native"
    assert planning.choose(resize_case(2, (32, 64, 32, 32), (8, 64, 3, 3), 2)) == "phases"
    assert planning.choose(resize_case(2, (32, 64, 32, 32), (64, 32, 3, 3), 2, groups=2)) == "phases"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 2), device="cuda") == "phases"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 2, padding_mode="reflect")) == "differences"
    assert planning.choose(resize_case(2, (8, 64, 32, 32), (32, 64, 5, 5), 2, padding_mode="reflect")) == "native"


def test_the_choice_can_be_made_by_hand():
    case = resize_case(2, (1, 4, 8, 8), (4, 4, 3, 3), 2)
    for name in ALGORITHMS:
        assert planning.choose(case, name) == name
    with pytest.raises(ValueError, match="cannot compute this case: summation by parts needs"):
        planning.choose(transposed_case(1, (1, 1, 4), (1, 1, 3), 2), "differences")


def test_exported_models_are_made_of_torchs_operators():
    class Up(torch.nn.Module):
        def forward(self, x, w):
            return functional.resize_conv2d(x, w)

    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    program = torch.export.export(Up(), (x, w))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.upsample_nearest2d.vec", "aten.conv2d.default"}


def products(plan):
    return {each.algorithm: each.products for each in plan.candidates}


@pytest.mark.parametrize(("scale", "differences", "phases", "direct"), [(2, 9, 16, 36), (4, 9, 36, 144)])
def test_products_of_a_resize_conv(scale, differences, phases, direct):
    size, pairs = 1000, 6  # so large that borders do not count
    found = products(planning.explain("resize", (1, 2, size, size), (3, 2, 3, 3), scale_factor=scale))
    each = {name: round(number / size**2 / pairs) for name, number in found.items()}
    assert each["differences"] == differences
    assert each["phases"] == min(phases, 25 if scale == 4 else phases)  # two of four phases are the same
    assert each["scatter"] == phases
    assert each["native"] == direct


def test_products_of_a_transposed_conv():
    found = products(planning.explain("transposed", (2, 4, 10, 20), (4, 3, 3, 3), stride=2, groups=2))
    each = {name: number and number / (2 * 4 * 3 * 200) for name, number in found.items()}
    assert each["native"] == each["scatter"] == 9
    assert each["emulated"] == 9 * 21 * 41 / 200
    assert each["phases"] == 9 * 11 * 21 / 200  # of a phase as many positions as the longest has
    assert each["differences"] is None


def test_products_counted_by_hand():
    """A signal of 3 values, 3 taps, scale 2: the products of each algorithm, one by one."""
    found = products(planning.explain("resize", (1, 1, 3), (1, 1, 3)))
    assert found["native"] == 6 * 3
    assert found["scatter"] == 3 * 4
    assert found["emulated"] == 6 * 4
    assert found["phases"] == 3 * 2 + 3 * 2
    assert found["differences"] == 3 + 4 * 2  # 3 values, and 4 jumps with the borders', at 2 gaps


def test_explain_gives_bytes_reasons_and_obstacles():
    arguments = ("resize", (64, 64, 16, 16), (8, 64, 3, 3))
    plan = planning.explain(*arguments)
    assert (plan.algorithm, plan.reason) == (
        "phases",
        "the taps that fall on one input position are added before they are multiplied",
    )
    assert plan.case.output_size == (32, 32)
    half = planning.explain(*arguments, dtype=torch.float16)
    for wide, narrow in zip(plan.candidates, half.candidates, strict=True):
        assert wide.bytes == 2 * narrow.bytes
        assert wide.bytes >= 4 * (math.prod((8, 16, 16)) + math.prod((4, 32, 32)))
    assert planning.explain(*arguments, algorithm="scatter").reason == "it was asked for"
    for each in planning.explain("transposed", (1, 8, 16), (8, 4, 3), stride=2).candidates:
        assert (each.obstacle is None) == (each.algorithm != "differences") == (each.products is not None)


def test_bad_arguments():
    with pytest.raises(ValueError) as error:  # noqa: PT011
        planning.explain("deconv", (1, 8, 16), (8, 4, 3))
    assert str(error.value) == "`form` (='deconv') must be one of 'transposed', 'resize', 'subpixel'."
    with pytest.raises(ValueError) as error:  # noqa: PT011
        planning.explain("transposed", (1, 8, 16), (8, 4, 3), stride=0)
    assert str(error.value) == "`stride` (=0) must be at least 1."
