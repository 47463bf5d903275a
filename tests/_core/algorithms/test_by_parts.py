"""Summation by parts: blocks, anchors apart, derivatives and memory."""

import functools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from algorithm_cases import FIXED, drawn, native_with_gradients, tensors_for
from halfstride._core.algorithms import by_parts
from halfstride._core.algorithms.by_parts import operator as by_parts_operator
from halfstride._core.algorithms.by_parts import plan as by_parts_plan
from halfstride._core.case import resize_case
from tolerance import assert_close


@settings(max_examples=200)
@given(drawn(forms=("resize",), most=4), st.sampled_from([1, 20, 200, 2**22]), st.sampled_from([1, 5, 20]), st.data())
def test_summation_by_parts_in_blocks_with_anchors_apart(call, block, rows, data):
    case, *tensors = call
    assume(by_parts.unsupported_reason(case) is None)
    expected, gradient, of_expected = native_with_gradients(case, tensors)
    furthest = by_parts_plan.furthest_periods(case)
    seen = zip(case.kernel_size, case.stride, case.dilation, strict=True)
    assert list(furthest) == [min(1 + (k - 1) // s, 4) if d == 1 else 1 for k, s, d in seen]
    periods = data.draw(st.tuples(*(st.integers(1, most) for most in furthest)))

    def planned(case, **_):
        return by_parts_plan.with_periods(case, periods)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_parts_plan, "_BLOCK", block)
        patch.setattr(by_parts_plan, "_ROWS", rows)
        patch.setattr(by_parts_operator, "plan", planned)
        patch.setattr(by_parts_operator, "blocks", by_parts_plan.blocks.__wrapped__)
        output = by_parts.compute(case, *tensors)
        assert_close(output, expected)
        for one, other in zip(torch.autograd.grad(output, tensors, gradient), of_expected, strict=True):
            assert_close(one, other)


def test_a_single_image_is_cut_into_rows():
    case = resize_case(2, (1, 4, 64, 8), (4, 4, 3, 3), 2, ((1, 1), (1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_parts_plan, "_BLOCK", 2**13)
        patch.setattr(by_parts_plan, "_ROWS", 16)
        plan = by_parts_plan.plan(case)
        blocks = by_parts_plan.blocks.__wrapped__(plan, 1, 4, 4, training=False)
    inputs, outputs = zip(*((block.inputs[1], block.outputs[1]) for block in blocks), strict=True)
    assert len(blocks) > 2
    assert [rows.start for rows in outputs] == [0, *(rows.stop for rows in outputs[:-1])]
    assert outputs[-1].stop == 128
    assert all(
        read.stop - read.start <= (made.stop - made.start) // 2 + 2 for read, made in zip(inputs, outputs, strict=True)
    )


@pytest.mark.parametrize(("k", "s", "m"), [(3, 2, 2), (5, 2, 3), (3, 1, 3), (4, 2, 2), (3, 4, 1)])
def test_an_axis_costs_a_product_less_for_every_anchor_less(k, s, m):
    n = 2400
    (axis,) = by_parts_plan.plan(resize_case(1, (64, 512, n), (512, 512, k), s)).axes
    assert axis.period == m
    products = sum(len(positions) * len(axis.gaps_of(i)) for i, positions in enumerate(axis.lattices))
    assert products / n == pytest.approx(k - 1 + 1 / m, rel=0.02)


@pytest.mark.parametrize("name", ["resize-1d", "resize-2d", "resize-3d"])
def test_summation_by_parts_in_full_derivatives_and_of_third_order(name):
    case = FIXED[name]
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors_for(case))
    compute = functools.partial(by_parts.compute, case)
    assert torch.autograd.gradcheck(compute, (x, weight, bias))

    def third(x, weight):  # of a cubic function of both, so that it is not zero
        loss = compute(x, weight, None).pow(3).sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), weight, create_graph=True)
        return second

    assert torch.autograd.gradcheck(third, (x, weight), fast_mode=True)


def test_summation_by_parts_saves_only_input_and_weight():
    case = resize_case(2, (2, 4, 5, 6), (3, 4, 3, 3), 2)
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors_for(case, torch.float32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda _: None):
        by_parts.compute(case, x, weight, bias)
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr(), weight.data_ptr()]
