"""Every algorithm against every other, against the sums that define the operator, and against its own gradients."""

import functools
import gc
import itertools
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from halfstride._core.algorithms import (
    ALGORITHMS,
    by_parts,
    folded,
    native,
    packed,
    products,
    scatter,
    volumes,
)
from halfstride._core.algorithms.by_parts import operator as by_parts_operator
from halfstride._core.algorithms.by_parts import plan as by_parts_plan
from halfstride._core.case import resize_case, subpixel_case, transposed_case
from halfstride._core.common import as_transposed
from halfstride._support import weight_cache
from tolerance import assert_close

CASES = {"transposed": transposed_case, "resize": resize_case, "subpixel": subpixel_case}


def beyond(position, n, mode):
    """Where a continued signal of n positions reads; None for a zero."""
    if 0 <= position < n:
        return position
    if mode == "zeros":
        return None
    if mode == "circular":
        return position % n
    if mode == "replicate":
        return min(max(position, 0), n - 1)
    return -position if position < 0 else 2 * (n - 1) - position


def contributions(case, axis, j):
    """All (tap, input position) of output position j along one axis, straight from the sums in `Case`."""
    n, k, s = case.input_size[axis], case.kernel_size[axis], case.stride[axis]
    d, p, mode = case.dilation[axis], case.padding[axis], case.padding_mode
    found = []
    for t in range(k):
        if case.form == "transposed":
            if (j + p - d * t) % s == 0:
                found.append((t, beyond((j + p - d * t) // s, n, mode)))
        elif case.form == "resize":
            upsampled = beyond(j + d * t - p, n * s, mode)
            found.append((t, None if upsampled is None else upsampled // s))
        else:
            found.append((t, beyond(j // s + d * t - p, n, mode)))
    return [(t, i) for t, i in found if i is not None]


def by_definition(case, x, weight, bias):
    y = torch.zeros(x.shape[0], case.out_channels, *case.output_size, dtype=x.dtype)
    outs, ins = case.out_channels // case.groups, case.in_channels // case.groups
    for position in itertools.product(*map(range, case.output_size)):
        phase = 0
        for j, s in zip(position, case.stride, strict=True):
            phase = phase * s + j % s
        for taps in itertools.product(*(contributions(case, axis, j) for axis, j in enumerate(position))):
            t, i = tuple(tap for tap, _ in taps), tuple(at for _, at in taps)
            for g in range(case.groups):
                values = x[(slice(None), slice(g * ins, (g + 1) * ins), *i)]
                if case.form == "transposed":
                    matrix = weight[(slice(g * ins, (g + 1) * ins), slice(None), *t)].T
                elif case.form == "resize":
                    matrix = weight[(slice(g * outs, (g + 1) * outs), slice(None), *t)]
                else:
                    phases = math.prod(case.stride)
                    rows = slice(g * outs * phases + phase, (g + 1) * outs * phases, phases)
                    matrix = weight[(rows, slice(None), *t)]
                y[(slice(None), slice(g * outs, (g + 1) * outs), *position)] += values @ matrix.T
        if case.form == "subpixel":
            y[(slice(None), slice(None), *position)] += bias[phase :: math.prod(case.stride)]
    if case.form != "subpixel":
        y += bias.reshape(-1, *(1,) * case.axes)
    return y


@st.composite
def drawn(draw, forms=("transposed", "resize", "subpixel"), most=3):
    """A case and tensors for it, in float64."""
    form, axes = draw(st.sampled_from(forms)), draw(st.sampled_from((1, 1, 2, 2, 3)))
    most = min(most, 5 - axes)
    n, k, s, d = (
        draw(st.tuples(*[st.integers(1, high)] * axes)) for high in (most + 1, most + 1, most, max(most - 1, 2))
    )
    batch, groups = draw(st.sampled_from((1, 1, 2, 0))), draw(st.sampled_from((1, 1, 2)))
    ins, outs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    sides = st.integers(0 if form == "transposed" else -1, 3)
    padding = draw(st.one_of(st.just("same"), st.tuples(*[st.tuples(sides, sides)] * axes)))
    mode = draw(st.sampled_from(("zeros", "zeros", "reflect", "replicate", "circular")))
    arguments = {"padding": padding, "dilation": d, "groups": groups, "padding_mode": mode}
    arguments["stride" if form == "transposed" else "scale_factor"] = s
    if form == "transposed" and padding != "same":
        largest = [max(step, gap) - 1 for step, gap in zip(s, d, strict=True)]
        arguments["output_padding"] = draw(st.tuples(*(st.integers(0, most) for most in largest)))
    channels = outs * (math.prod(s) if form == "subpixel" else 1)
    shape = (ins, outs // groups, *k) if form == "transposed" else (channels, ins // groups, *k)
    try:
        case = CASES[form](axes, (batch, ins, *n), shape, **arguments)
    except ValueError:  # nothing left of the output, or a reflection of more than there is: this always goes
        arguments |= {"padding": "same", "padding_mode": "replicate"}
        arguments.pop("output_padding", None)
        case = CASES[form](axes, (batch, ins, *n), shape, **arguments)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((batch, ins, *n), shape)]
    return case, *tensors, torch.randn(channels, generator=generator, dtype=torch.float64)


def native_with_gradients(case, tensors, last=False):
    """What `native` gives for tensors, from now on with gradients, and an input with its channels last in memory or
    not: the output, a gradient of it, and the gradients of the tensors."""
    if last and case.axes > 1:
        tensors[0] = tensors[0].movedim(1, -1).contiguous().movedim(-1, 1)
    for tensor in tensors:
        tensor.requires_grad_()
    output = native.compute(case, *tensors)
    gradient = torch.randn_like(output)
    return output, gradient, torch.autograd.grad(output, tensors, gradient)


def able(case):
    return [name for name, algorithm in ALGORITHMS.items() if algorithm.unsupported_reason(case) is None]


@settings(max_examples=150)
@given(drawn())
def test_all_algorithms_compute_the_defining_sums(call):
    case, *tensors = call
    expected = by_definition(case, *tensors)
    for name in able(case):
        assert_close(ALGORITHMS[name].compute(case, *tensors), expected)


@settings(max_examples=100)
@given(drawn(forms=("resize",), most=4), st.integers(1, 200), st.integers(1, 20))
def test_summation_by_parts_in_blocks(call, block, rows):
    """Of whatever size the blocks are, the result and the gradients are those of the whole."""
    case, *tensors = call
    assume(by_parts.unsupported_reason(case) is None)
    for tensor in tensors:
        tensor.requires_grad_()
    whole = by_parts.compute(case, *tensors)
    gradient = torch.randn_like(whole)
    of_whole = torch.autograd.grad(whole, tensors, gradient)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_parts_plan, "_BLOCK", block)
        patch.setattr(by_parts_plan, "_ROWS", rows)
        patch.setattr(by_parts_operator, "blocks", by_parts_plan.blocks.__wrapped__)
        output = by_parts.compute(case, *tensors)
        gradients = torch.autograd.grad(output, tensors, gradient)
    for one, other in zip((output, *gradients), (whole, *of_whole), strict=True):
        assert_close(one, other)


@settings(max_examples=200)
@given(drawn(forms=("resize",)), st.sampled_from([1, 2**22]), st.data())
def test_summation_by_parts_with_anchors_apart(call, block, data):
    """An anchor at every second or third position along some axes, as in large layers, in blocks or as a whole."""
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
        patch.setattr(by_parts_plan, "_ROWS", 1)
        patch.setattr(by_parts_operator, "plan", planned)
        patch.setattr(by_parts_operator, "blocks", by_parts_plan.blocks.__wrapped__)
        output = by_parts.compute(case, *tensors)
        assert_close(output, expected)
        for one, other in zip(torch.autograd.grad(output, tensors, gradient), of_expected, strict=True):
            assert_close(one, other)


def test_kernels_that_are_made_at_each_call_set_anchors_apart_more_rarely():
    """512 channels at 32x32: along both axes where kernels are kept, along one where they are not, none of few rows."""
    case, small = (resize_case(2, (1, 512, n, n), (512, 512, 3, 3), 2, ((1, 1), (1, 1))) for n in (32, 16))

    def periods(case, **kept):
        return [axis.period for axis in by_parts_plan.plan(case, **kept).axes]

    assert periods(case, kernels_last=True) == [2, 2]
    assert periods(case) == [2, 1]
    assert periods(small) == [1, 1]


@pytest.mark.parametrize(("k", "s", "m"), [(3, 2, 2), (5, 2, 3), (3, 1, 3), (4, 2, 2), (3, 4, 1)])
def test_an_axis_costs_a_product_less_for_every_anchor_less(k, s, m):
    """`k - 1` products for each jump and one for each anchor: 2.5 instead of 3 for 3 taps at scale 2."""
    n = 2400
    (axis,) = by_parts_plan.plan(resize_case(1, (64, 512, n), (512, 512, k), s)).axes
    assert axis.period == m
    products = sum(len(positions) * len(axis.gaps_of(i)) for i, positions in enumerate(axis.lattices))
    assert products / n == pytest.approx(k - 1 + 1 / m, rel=0.02)


@settings(max_examples=100)
@given(drawn(forms=("transposed", "resize")), st.booleans(), st.booleans())
def test_scattering_in_runs_of_taps_and_in_both_layouts(call, together, last):
    """Added one by one or together, with channels first or last, the result and the gradients are the definition's."""
    case, *tensors = call
    assume(scatter.unsupported_reason(case) is None)
    expected, gradient, of_expected = native_with_gradients(case, tensors, last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter, "_RUN", 1 if together else math.inf)
        patch.setattr(scatter, "_plan", scatter._plan.__wrapped__)
        output = scatter.compute(case, *tensors)
        assert_close(output, expected)
        for one, other in zip(torch.autograd.grad(output, tensors, gradient), of_expected, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("padding", [4, ((0, 3),), ((5, 1),), ((9, 13),)])
@pytest.mark.parametrize(("k", "d"), [(16, 1), (11, 1), (5, 3)])
def test_scattering_at_a_large_stride(k, d, padding):
    """Where the output ends in the middle of a step, the taps beyond its end are left out."""
    case = transposed_case(1, (2, 3, 5), (3, 2, k), 8, padding, dilation=d)
    generator = torch.Generator().manual_seed(k)
    x, weight, bias = (torch.randn(size, generator=generator).double() for size in ((2, 3, 5), (3, 2, k), (2,)))
    assert_close(scatter.compute(case, x, weight, bias), by_definition(case, x, weight, bias))


@pytest.mark.parametrize("size", [(5, 4), (3, 5, 4)], ids=["images", "volumes"])
@pytest.mark.parametrize("bias", [None, torch.randn(6, dtype=torch.float64)], ids=["no bias", "bias"])
@pytest.mark.parametrize("training", [False, True])
def test_scattering_kernels_that_lie_side_by_side(size, bias, training):
    """Nothing is added to anything: a copy puts the products in their places. One position more, and it is added."""
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


@settings(max_examples=100)
@given(drawn(forms=("transposed", "resize"), most=4), st.booleans())
def test_what_compilers_read_is_equal(call, last):
    """The lines that are for compilers give what the others give, of every order in memory, and the same gradients."""
    case, *tensors = call
    expected, gradient, of_expected = native_with_gradients(case, tensors, last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        for name in able(case):
            output = ALGORITHMS[name].compute(case, *tensors)
            gradients = torch.autograd.grad(output, tensors, gradient)
            for one, other in zip((output, *gradients), (expected, *of_expected), strict=True):
                assert_close(one, other)


def test_a_window_of_the_same_size_elsewhere():
    """Folded, the kernel makes as many outputs as are asked for, but begins before them."""
    case = resize_case(1, (1, 1, 4), (1, 1, 2), 1, ((-1, 3),))
    x, weight, bias = (torch.randn(size).double() for size in ((1, 1, 4), (1, 1, 2), (1,)))
    assert case.output_size == as_transposed(case)[0].full_size
    assert_close(folded.compute(case, x, weight, bias), by_definition(case, x, weight, bias))


@pytest.mark.parametrize("name", able(resize_case(2, (2, 3, 5, 5), (4, 3, 3, 3), 2, ((1, 1), (1, 1)))))
def test_nothing_waits_for_the_garbage_collection(name):
    """What a forward and backward pass made is gone with them: no cycle keeps a tensor."""
    case = resize_case(2, (2, 3, 5, 5), (4, 3, 3, 3), 2, ((1, 1), (1, 1)))
    tensors = [torch.randn(size, requires_grad=True) for size in ((2, 3, 5, 5), (4, 3, 3, 3), (4,))]

    def count_after_a_pass():
        torch.autograd.grad(ALGORITHMS[name].compute(case, *tensors).sum(), tensors)
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    count_after_a_pass()  # what is kept from call to call is there now
    gc.collect()
    gc.disable()
    try:
        assert count_after_a_pass() == count_after_a_pass()
    finally:
        gc.enable()


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


@settings(max_examples=150)
@given(drawn(forms=("transposed", "resize"), most=4))
def test_all_algorithms_have_the_same_gradients_as_the_native_one(call):
    case, *tensors = call
    expected, gradient, gradients = native_with_gradients(case, tensors)
    for name in able(case):
        output = ALGORITHMS[name].compute(case, *tensors)
        assert_close(output, expected)
        found = torch.autograd.grad(output, tensors, gradient, allow_unused=True)  # by an output that sees no input
        for tensor, one, other in zip(tensors, found, gradients, strict=True):
            assert_close(torch.zeros_like(tensor) if one is None else one, other)


# One case of each kind in each dimension, for what is slow or needs no drawing.
FIXED = {
    "transposed-1d": transposed_case(1, (2, 4, 4), (4, 3, 3), 2, 1, 1, 2),
    "transposed-2d": transposed_case(2, (2, 2, 3, 2), (2, 2, 3, 2), (2, 3), ((1, 0), (0, 1)), dilation=(1, 2)),
    "transposed-3d": transposed_case(3, (1, 2, 2, 2, 2), (2, 1, 2, 3, 2), (2, 1, 2), padding_mode="circular"),
    "resize-1d": resize_case(1, (2, 4, 4), (6, 2, 4), 3, groups=2),
    "resize-2d": resize_case(2, (2, 2, 3, 2), (2, 2, 3, 2), (2, 3), ((1, -1), (2, 0)), dilation=(2, 1)),
    "resize-3d": resize_case(3, (1, 2, 2, 1, 2), (1, 2, 2, 3, 3), (2, 1, 2), padding_mode="replicate"),
    "subpixel-2d": subpixel_case(2, (2, 2, 3, 2), (12, 2, 3, 2), (2, 3), padding_mode="reflect"),
}
EVERY = [(name, algorithm) for name, case in FIXED.items() for algorithm in able(case)]


def tensors_for(case, dtype=torch.float64):
    weight = {
        "transposed": (case.in_channels, case.out_channels // case.groups),
        "resize": (case.out_channels, case.in_channels // case.groups),
        "subpixel": (case.out_channels * math.prod(case.stride), case.in_channels // case.groups),
    }[case.form]
    x = torch.randn(case.batch, case.in_channels, *case.input_size, dtype=dtype)
    bias = weight[0] if case.form != "transposed" else case.out_channels
    return x, torch.randn(*weight, *case.kernel_size, dtype=dtype), torch.randn(bias, dtype=dtype)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's forward mode about itself
@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_first_and_second_derivatives(name, algorithm):
    case = FIXED[name]
    tensors = [tensor.requires_grad_() for tensor in tensors_for(case)]
    compute = functools.partial(ALGORITHMS[algorithm].compute, case)
    assert torch.autograd.gradcheck(compute, tensors, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(compute, tensors, fast_mode=True, check_fwd_over_rev=True)


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


@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_complex_numbers(name, algorithm):
    case = FIXED[name]
    tensors = [tensor.requires_grad_() for tensor in tensors_for(case, torch.complex128)]
    output = ALGORITHMS[algorithm].compute(case, *tensors)
    (x_real, w_real, b), (x_imag, w_imag, _) = ([part(t) for t in tensors] for part in (torch.real, torch.imag))
    real = native.compute(case, x_real, w_real, b) - native.compute(case, x_imag, w_imag, None)
    assert_close(output.real, real)
    assert torch.autograd.gradcheck(functools.partial(ALGORITHMS[algorithm].compute, case), tensors, fast_mode=True)


@pytest.mark.parametrize("form", list(CASES))
@pytest.mark.parametrize("arguments", [{}, {"padding": ((1, 0), (0, 2), (2, 1))}, {"padding_mode": "circular"}])
@pytest.mark.parametrize("axes", [2, 3])
def test_memory_format_follows_the_input(form, arguments, axes):
    if "padding" in arguments:
        arguments = {"padding": arguments["padding"][:axes]}
    channels_last = torch.channels_last if axes == 2 else torch.channels_last_3d
    shape = {"transposed": (6, 4), "resize": (4, 6), "subpixel": (4 * 2**axes, 6)}[form]
    case = CASES[form](axes, (2, 6, 5, 4, 3)[: 2 + axes], (*shape, *(3,) * axes), 2, **arguments)
    x, weight, bias = tensors_for(case, torch.float32)
    for name in able(case):
        output = ALGORITHMS[name].compute(case, x, weight, bias)
        assert output.is_contiguous(), name
        same = ALGORITHMS[name].compute(case, x.to(memory_format=channels_last), weight, bias)
        assert same.is_contiguous(memory_format=channels_last), name
        assert_close(same.contiguous(), output)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("form", "weight"), [("transposed", (16, 8, 4, 3)), ("resize", (8, 16, 3, 3))])
def test_half_types_are_as_exact_as_torchs_own(form, weight, dtype):
    case = CASES[form](2, (2, 16, 12, 12), weight, 2, 1)
    tensors = [torch.randn(shape).to(dtype) for shape in ((2, 16, 12, 12), weight, (8,))]
    exact = native.compute(case, *(tensor.double() for tensor in tensors))

    def error(output):
        return (output.double() - exact).square().mean().sqrt()

    torchs_own = error(native.compute(case, *tensors))
    for name in able(case):
        output = ALGORITHMS[name].compute(case, *tensors)
        assert output.dtype == dtype
        assert error(output) <= 1.5 * torchs_own, name


@pytest.mark.parametrize("algorithm", ["scatter", "emulated", "folded", "phases", "by_parts"])
def test_kernels_are_formed_from_a_wider_weight_and_rounded_once(algorithm):
    case = resize_case(2, (1, 8, 6, 6), (4, 8, 3, 3), 2)
    x, weight, _ = tensors_for(case, torch.float32)
    x = x.bfloat16()
    output = ALGORITHMS[algorithm].compute(case, x, weight, None)
    assert output.dtype == torch.bfloat16
    exact = native.compute(case, x.double(), weight.double(), None)
    assert_close(output.double(), exact, dtype=torch.bfloat16)
    leaf = weight.clone().requires_grad_()
    ALGORITHMS[algorithm].compute(case, x, leaf, None).sum().backward()
    assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_vmap_and_gradients_per_sample(name, algorithm):
    case = FIXED[name]
    x, weight, bias = tensors_for(case)
    compute = functools.partial(ALGORITHMS[algorithm].compute, case)
    xs, weights = torch.stack([x, x + 1, -x]), torch.stack([weight, 2 * weight, weight - 1])
    for dims, arguments in {
        (0, None, None): (xs, weight, bias),
        (None, 0, None): (x, weights, bias),
        (0, 0, None): (xs, weights, bias),
        (1, 0, None): (xs.movedim(0, 1), weights, bias),
    }.items():
        mapped = torch.vmap(compute, dims)(*arguments)
        each = [
            compute(*(a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=True)))
            for i in range(3)
        ]
        assert_close(mapped, torch.stack(each))

    gradient = torch.randn_like(each[0])  # the same for every sample
    to_weight = torch.vmap(lambda x: torch.func.vjp(lambda weight: compute(x, weight, bias), weight)[1](gradient)[0])
    pulled = [torch.func.vjp(lambda weight, x=x: compute(x, weight, bias), weight)[1](gradient)[0] for x in xs]
    assert_close(to_weight(xs), torch.stack(pulled))

    def loss(weight, image):
        return compute(image.unsqueeze(0).expand_as(x), weight, bias).square().sum()

    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    each = [torch.func.grad(loss)(weight, image) for image in x]
    assert_close(per_sample, torch.stack(each))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's forward mode about itself
@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_transforms_of_a_recorded_pass(name, algorithm):
    """A pass that was recorded without a transform may be differentiated under vmap or in forward mode."""
    case = FIXED[name]
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors_for(case))
    output = ALGORITHMS[algorithm].compute(case, x, weight, bias)
    probes = torch.randn(3, *output.shape, dtype=output.dtype)
    first = torch.vmap(lambda probe: torch.autograd.grad(output, (x, weight), probe, retain_graph=True))(probes)
    expected = native.compute(case, x, weight, bias)
    for at, probe in enumerate(probes):
        for one, other in zip(first, torch.autograd.grad(expected, (x, weight), probe, retain_graph=True), strict=True):
            assert_close(one[at], other)

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(probes[0], probes[1])
        (gradient,) = torch.autograd.grad(output, x, dual, retain_graph=True)
        assert_close(forward_ad.unpack_dual(gradient).tangent, first[0][1])

    (to_x,) = torch.autograd.grad(output, x, probes[0], create_graph=True)
    second = torch.vmap(lambda probe: torch.autograd.grad(to_x, weight, probe, retain_graph=True)[0])
    (of_x,) = torch.autograd.grad(expected, x, probes[0], create_graph=True)
    (of_weight,) = torch.autograd.grad(of_x, weight, to_x.detach())
    assert_close(second(torch.stack([to_x.detach(), -to_x.detach()])), torch.stack([of_weight, -of_weight]))


@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_meta_tensors_have_the_right_shape(name, algorithm):
    case = FIXED[name]
    output = ALGORITHMS[algorithm].compute(case, *(tensor.to("meta") for tensor in tensors_for(case)))
    assert output.device.type == "meta"
    assert output.shape == (case.batch, case.out_channels, *case.output_size)


def test_summation_by_parts_saves_only_input_and_weight():
    case = resize_case(2, (2, 4, 5, 6), (3, 4, 3, 3), 2)
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors_for(case, torch.float32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda _: None):
        by_parts.compute(case, x, weight, bias)
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr(), weight.data_ptr()]


def test_obstacles():
    resize = resize_case(2, (1, 1, 4, 4), (1, 1, 5, 5), 2, padding_mode="reflect")
    subpixel = subpixel_case(1, (1, 1, 4), (2, 1, 3), 2)
    transposed = transposed_case(1, (1, 1, 4), (1, 1, 3), 2)
    for name in ("scatter", "emulated", "folded", "phases", "by_parts"):
        assert ALGORITHMS[name].unsupported_reason(resize) == (
            "padding_mode='reflect' by scale_factor positions or more mirrors what upsampling made, and has no "
            "counterpart before it"
        )
        assert ALGORITHMS[name].unsupported_reason(subpixel) == (
            "a sub-pixel convolution is made of its phases already, which 'native' computes once each"
        )
    assert by_parts.unsupported_reason(transposed) == (
        "summation by parts needs the piecewise constant input of a resize-convolution"
    )
    assert [native.unsupported_reason(case) for case in (resize, subpixel, transposed)] == [None] * 3


@pytest.mark.parametrize("algorithm", [folded, scatter, by_parts])
def test_what_is_kept_of_a_weight_follows_it(algorithm):
    """However the weight changes, in inference the result is that of the weight as it is."""
    case = resize_case(2, (1, 3, 5, 4), (4, 3, 3, 3), 2)
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    x = torch.randn(1, 3, 5, 4)

    def check(x=x):
        with torch.no_grad():
            output = algorithm.compute(case, x, weight, None)
            assert_close(output, native.compute(case, x, weight, None))
        return output

    check()
    for change in (
        lambda: weight.data.mul_(1.5),
        lambda: weight.detach().add_(0.25),
        lambda: weight.data.__setitem__((3, 2, 1, 0), -7.0),
        lambda: setattr(weight, "data", torch.randn(4, 3, 3, 3)),
        lambda: setattr(weight, "data", weight.data.to(memory_format=torch.channels_last)),
    ):
        version = weight._version
        change()
        check()
    assert weight._version == version  # so that it could not tell
    weight.data = weight.data.double()
    check(x.double())


def test_what_is_kept_of_a_large_weight_follows_the_least_of_its_changes():
    """Told by products with a random vector, not by all of its numbers."""
    weight, makes = torch.nn.Parameter(torch.randn(64, 32, 3, 3)), []
    weight.data[3], weight.data[5] = 0.0, 1e10 * weight.data[5]

    def look():
        with torch.no_grad():
            weight_cache.cache_on_weight(weight, "key", lambda: makes.append(1))
        return len(makes)

    assert look() == look() == 1
    number = weight.data[40, 20, 1, 1].item()
    changes = [
        lambda: weight.data.__setitem__((40, 20, 1, 1), number * (1 + 1e-3)),
        lambda: weight.data.__setitem__((3, 20, 1, 1), 1e-9),
        lambda: weight.data.copy_(weight.data.flip(0)),
        lambda: weight.data.copy_(weight.data.flip(-1)),
        lambda: weight.data.copy_(weight.data.roll(1, 1)),
        lambda: weight.data.mul_(1 + 1e-5),
        lambda: weight.data.__setitem__((0, 0, 0, 0), math.nan),
    ]
    for made, change in enumerate(changes, start=2):
        change()
        assert look() == made


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("size", [8, 128])
def test_what_is_made_of_a_weight_that_another_thread_is_changing_is_not_kept(size, back):
    weight = torch.nn.Parameter(torch.randn(size, size, 3))
    before = weight.detach().clone()

    def made_of_a_change():
        with torch.no_grad():
            weight.zero_()
            made = weight.detach().clone()
            if back:
                weight.copy_(before)
        return made

    with torch.no_grad():
        weight_cache.cache_on_weight(weight, "key", made_of_a_change)
        weight.copy_(before)
        assert torch.equal(weight_cache.cache_on_weight(weight, "key", weight.detach().clone), before)


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


@settings(max_examples=150)
@given(drawn(forms=("transposed", "resize"), most=4), st.booleans())
def test_products_by_onednn_give_what_the_definition_gives(call, last):
    """However small they are: with gradients, in inference with what is kept from call to call, and under vmap."""
    case, *tensors = call
    expected, gradient, of_expected = native_with_gradients(case, tensors, last)
    input, weight, bias = (tensor.detach().float().requires_grad_() for tensor in tensors)
    kept = torch.nn.Parameter(weight.detach())
    able_to = [algorithm for algorithm in (scatter, by_parts) if algorithm.unsupported_reason(case) is None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_LEAST", 0)
        patch.setattr(products, "_is_wide", lambda: True)
        patch.setattr(scatter, "_MANY", 0)
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
    assert products._is_wide.__wrapped__() == wide


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # by torch.backends.mkldnn.flags, which sets all
def test_kernels_are_packed_for_so_many_rows_as_there_are(monkeypatch):
    """As oneDNN wants them to be; and not without it, though there may be some already."""
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


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("form", "geometry"),
    [
        ("transposed", {"stride": 2}),
        ("transposed", {"stride": (2, 3, 2), "padding": (1, 0, 2), "output_padding": (1, 2, 0)}),
        ("transposed", {"stride": 2, "padding": ((1, 0), (0, 2), (1, 1)), "dilation": (1, 2, 1)}),
        ("resize", {"scale_factor": 2, "padding_mode": "replicate"}),
    ],
)
def test_volumes_by_the_gradient_of_a_convolution(form, geometry, last, monkeypatch):
    """The output, its first derivatives and their derivatives."""
    case = CASES[form](3, (1, 4, 3, 5, 4), (4, 4, 3, 3, 2), **geometry)
    algorithm = native if form == "transposed" else folded
    tensors = [torch.randn(1, 4, 3, 5, 4), torch.randn(4, 4, 3, 3, 2), torch.randn(4)]
    if last:
        tensors[0] = tensors[0].movedim(1, -1).contiguous().movedim(-1, 1)
    for tensor in tensors:
        tensor.requires_grad_()

    def derivatives(tensors, probes):
        output = algorithm.compute(case, *tensors)
        first = torch.autograd.grad(output, tensors, probes[0].to(output), create_graph=True)
        seen = sum((gradient * probe.to(gradient)).sum() for gradient, probe in zip(first, probes[1:], strict=True))
        return output, *first, *torch.autograd.grad(seen, tensors[:2])

    probes = [torch.randn(1, 4, *case.output_size), *map(torch.randn_like, tensors)]
    expected = derivatives([tensor.detach().double().requires_grad_() for tensor in tensors], probes)
    calls, compute = [], volumes.transposed
    monkeypatch.setattr(volumes, "_LEAST", 0)
    monkeypatch.setattr(volumes, "transposed", lambda *arguments: calls.append(1) or compute(*arguments))
    actual = derivatives(tensors, probes)
    assert calls
    assert actual[0].is_contiguous() != last
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other.float())


def test_packing_is_left_where_torch_multiplies_one_matrix():
    def packs(batch, channels, size, taps, form="transposed"):
        shape, weight = (batch, channels, *size), torch.nn.Parameter(torch.empty(channels, channels, *taps))
        case = transposed_case(len(size), shape, weight.shape, 2)
        x = torch.empty(shape).movedim(1, -1).contiguous().movedim(-1, 1)
        with torch.no_grad():
            return packed.pays(case, x, weight, form, (0,) * len(size))

    assert not packs(1, 64, (8, 8), (3, 3))
    assert packs(2, 64, (8, 8), (3, 3))
    assert packs(1, 64, (18, 18), (3, 3))
    assert not packs(8, 64, (18, 18), (3, 3))
    assert packs(8, 64, (18, 18), (3, 3), form="resize")
    assert packs(1, 64, (8, 8), (4, 4))
    assert packs(1, 256, (4, 4), (3, 3))
    assert not packs(1, 64, (40,), (4,))
    assert packs(1, 256, (40,), (16,))


def test_one_weight_can_be_packed_in_several_ways(monkeypatch):
    """As a transposed and as a resize kernel, and as one of two dilations, where all else is the same."""
    monkeypatch.setattr(packed, "_gains", lambda *_: True)
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


def test_what_is_kept_of_a_weight_is_used_and_goes_with_it():
    case = resize_case(1, (1, 2, 5), (2, 2, 3), 2)
    weight, x = torch.nn.Parameter(torch.randn(2, 2, 3)), torch.randn(1, 2, 5)
    makes = []
    with torch.no_grad():
        for _ in range(3):
            weight_cache.cache_on_weight(weight, "key", lambda: makes.append(1))
        assert len(makes) == 1
        gc.collect()  # what other tests left
        before = len(weight_cache._CACHES)
        folded.compute(case, x, weight, None)
        del weight
        gc.collect()
        assert len(weight_cache._CACHES) == before - 1
    trained = torch.nn.Parameter(torch.randn(2, 2, 3))
    for _ in range(3):
        weight_cache.cache_on_weight(trained, "key", lambda: makes.append(1))
    assert len(makes) == 4


def test_heavy_kernels_scatter_rows_of_channels_and_keep_the_order_of_the_images(monkeypatch):
    """With more weights than numbers in and out, in inference."""
    case = transposed_case(2, (3, 64, 2, 3), (64, 48, 4, 4), 2, 1)
    assert scatter._is_heavy(case) is False  # gradients are wanted
    x, w, bias = torch.randn(3, 64, 2, 3), torch.randn(64, 48, 4, 4), torch.randn(48)
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
        light = transposed_case(2, (3, 64, 20, 30), (64, 48, 4, 4), 2, 1)
        scatter.compute(light, torch.randn(3, 64, 20, 30), w, bias)
    assert taken == [case, case]


def test_kernels_of_stride_1_are_not_packed():
    """With many images oneDNN finds an order of its own twice as fast."""
    with torch.no_grad():
        for stride, worth in ((2, True), (1, False)):
            case = transposed_case(2, (64, 128, 1, 1), (128, 64, 4, 4), stride)
            assert packed._gains.__wrapped__(case, "transposed", True) is worth


DEEPLY_PADDED = """
import torch
from halfstride.functional import resize_conv3d

torch.set_num_threads(1)
torch.manual_seed(0)
x, weight = torch.randn(1, 8, 8, 8, 6), torch.randn(3, 8, 5, 5, 5, requires_grad=True)


def gradient(algorithm, *tensors):
    output = resize_conv3d(*tensors, None, (3, 4, 4), 1, (3, 1, 2), algorithm=algorithm)
    return torch.autograd.grad(output, tensors[1], torch.ones_like(output))[0]


exact = gradient("phases", x.double(), weight.double())
for algorithm in ("auto", "folded"):
    torch.testing.assert_close(gradient(algorithm, x, weight).double(), exact, rtol=1e-4, atol=1e-2)
"""


def test_on_one_thread_the_kernels_gradient_of_a_deeply_padded_volume_is_right():
    # In a process of its own: where it goes wrong, memory is overwritten.
    done = subprocess.run([sys.executable, "-c", DEEPLY_PADDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
