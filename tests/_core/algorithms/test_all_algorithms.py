"""Every algorithm against every other, against the sums that define the operator, and against its own gradients."""

import functools
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from algorithm_cases import CASES, EVERY, FIXED, able, by_definition, drawn, native_with_gradients, tensors_for
from halfstride._core.algorithms import ALGORITHMS, by_parts, folded, native
from halfstride._core.case import resize_case, subpixel_case, transposed_case
from halfstride._core.common import as_transposed
from tolerance import assert_close


@settings(max_examples=150)
@given(drawn())
def test_all_algorithms_compute_the_defining_sums(call):
    case, *tensors = call
    expected = by_definition(case, *tensors)
    for name in able(case):
        assert_close(ALGORITHMS[name].compute(case, *tensors), expected)


@settings(max_examples=100)
@given(drawn(forms=("transposed", "resize"), most=4), st.booleans())
def test_what_compilers_read_is_equal(call, last):
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
    case = resize_case(1, (1, 1, 4), (1, 1, 2), 1, ((-1, 3),))
    x, weight, bias = (torch.randn(size).double() for size in ((1, 1, 4), (1, 1, 2), (1,)))
    assert case.output_size == as_transposed(case)[0].full_size
    assert_close(folded.compute(case, x, weight, bias), by_definition(case, x, weight, bias))


@pytest.mark.parametrize("name", able(resize_case(2, (2, 3, 5, 5), (4, 3, 3, 3), 2, ((1, 1), (1, 1)))))
def test_nothing_waits_for_the_garbage_collection(name):
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's forward mode about itself
@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_first_and_second_derivatives(name, algorithm):
    case = FIXED[name]
    tensors = [tensor.requires_grad_() for tensor in tensors_for(case)]
    compute = functools.partial(ALGORITHMS[algorithm].compute, case)
    assert torch.autograd.gradcheck(compute, tensors, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(compute, tensors, fast_mode=True, check_fwd_over_rev=True)


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
