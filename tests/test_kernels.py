"""Conversions between the ways to write a kernel: proofs with random weights, and that each is what it claims."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from errors import message
from halfstride import functional, geometry, kernels
from tolerance import assert_close

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
SHAPES = [
    # kernel, stride, dilation
    ((3,), (2,), (1,)),
    ((4,), (3,), (2,)),
    ((3, 2), (2, 3), (1, 2)),
    ((1, 5), (2, 2), (3, 1)),
    ((2, 3, 1), (2, 1, 3), (1, 2, 1)),
]


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "scale", "dilation"), SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_from_resize(kernel, scale, dilation, groups):
    axes = len(kernel)
    x, w = random(2, 4, *(4, 3, 2)[:axes]), random(6, 4 // groups, *kernel)
    upsampled = F.interpolate(x, scale_factor=[float(s) for s in scale], mode="nearest")
    span = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    expected = CONV[axes - 1](upsampled, w, padding=span, dilation=dilation, groups=groups)
    full = kernels.transposed_from_resize(w, scale, dilation, groups)
    assert full.shape[2:] == tuple(size + s for size, s in zip(span, scale, strict=True))
    assert_close(CONV_TRANSPOSE[axes - 1](x, full, stride=scale, groups=groups), expected)


@pytest.mark.parametrize(("kernel", "scale", "_"), SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_resize_from_transposed_undoes_it(kernel, scale, _, groups):
    w = random(6, 4 // groups, *kernel)
    full = kernels.transposed_from_resize(w, scale, groups=groups)
    assert_close(kernels.resize_from_transposed(full, scale, groups), w)


def test_resize_from_transposed_is_the_nearest():
    full = random(3, 2, 4, 5)
    nearest = kernels.transposed_from_resize(kernels.resize_from_transposed(full, (2, 3)), (2, 3))
    for other in random(10, 2, 3, 3, 3):  # what is left over is orthogonal to every resize kernel
        assert abs(torch.sum((full - nearest) * kernels.transposed_from_resize(other, (2, 3)))) < 1e-9


@pytest.mark.parametrize(("kernel", "scale", "dilation"), SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_from_subpixel(kernel, scale, dilation, groups):
    axes, phases = len(kernel), math.prod(scale)
    x, w = random(2, 4, *(4, 3, 2)[:axes]), random(6 * phases, 4 // groups, *kernel)
    span = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    convolved = CONV[axes - 1](x, w, padding=span, dilation=dilation, groups=groups)
    full = kernels.transposed_from_subpixel(w, scale, dilation, groups)
    result = CONV_TRANSPOSE[axes - 1](x, full, stride=scale, groups=groups)
    assert_close(result, kernels.shuffle(convolved, scale))
    if axes == 2 and scale[0] == scale[1]:
        assert_close(result, F.pixel_shuffle(convolved, scale[0]))
    if set(dilation) == {1}:
        assert torch.equal(kernels.subpixel_from_transposed(full, scale, groups), w)


def test_subpixel_from_transposed_adds_zeros_for_missing_taps():
    x, full = random(1, 4, 5, 5), random(4, 3, 3, 5)
    w = kernels.subpixel_from_transposed(full, (2, 3), groups=2)
    assert w.shape == (36, 2, 2, 2)
    padded = F.pad(full, (0, 1, 0, 1))
    assert torch.equal(kernels.transposed_from_subpixel(w, (2, 3), groups=2), padded)
    expected = F.conv_transpose2d(x, full, stride=(2, 3), groups=2)
    result = functional.subpixel_conv2d(x, w, scale_factor=(2, 3), padding=1, groups=2)
    assert_close(result[..., : expected.shape[-2], : expected.shape[-1]], expected)


@pytest.mark.parametrize("scale", [(3,), (2, 2), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("batch", [0, 2])
def test_shuffle_is_undone_by_unshuffle(scale, batch):
    x = random(batch, 3 * math.prod(scale), *(4, 3, 2)[: len(scale)]).requires_grad_()
    shuffled = kernels.shuffle(x, scale)
    assert torch.equal(*torch.autograd.grad(shuffled.sum(), x), torch.ones_like(x))
    assert torch.equal(kernels.unshuffle(shuffled, scale), x)
    for phase, r in enumerate(itertools.product(*map(range, scale))):
        part = (slice(None), slice(None), *(slice(a, None, s) for a, s in zip(r, scale, strict=True)))
        assert torch.equal(shuffled[part], x[:, phase :: math.prod(scale)])


@pytest.mark.parametrize(("kernel", "stride", "dilation"), SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_phases(kernel, stride, dilation, groups):
    axes = len(kernel)
    x, full = random(2, 4, *(4, 3, 2)[:axes]), random(4, 3, *kernel)
    y = CONV_TRANSPOSE[axes - 1](x, full, stride=stride, dilation=dilation, groups=groups)
    parts = kernels.phases(full, stride, dilation, groups)
    assert list(parts) == list(itertools.product(*map(range, stride)))
    for phase, part in parts.items():
        geometries = list(zip(phase, kernel, stride, dilation, strict=True))
        taps = [geometry.phase_taps(k, s, d)[r] for r, k, s, d in geometries]
        assert part.shape[2:] == tuple(map(len, taps))
        of_phase = y[(..., *(slice(r, None, s) for r, _, s, _ in geometries))]
        if part.numel() == 0:
            assert not of_phase.any()
            continue
        step = [d // math.gcd(d, s) for _, _, s, d in geometries]
        span = [e * (len(t) - 1) for e, t in zip(step, taps, strict=True)]
        convolved = CONV[axes - 1](x, part, padding=span, dilation=step, groups=groups)
        first = [(d * t[0] - r) // s for t, (r, _, s, d) in zip(taps, geometries, strict=True)]
        inside = (..., *(slice(a, a + size) for a, size in zip(first, convolved.shape[2:], strict=True)))
        assert_close(of_phase[inside], convolved)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), SHAPES)
def test_phase_gains_are_the_answers_to_a_constant_input(kernel, stride, dilation):
    axes = len(kernel)
    full = random(4, 3, *kernel)
    constant = random(1, 4, *(1,) * axes).expand(1, 4, *(9, 8, 7)[:axes])
    y = CONV_TRANSPOSE[axes - 1](constant, full, stride=stride, dilation=dilation, groups=2)
    gains = kernels.phase_gains(full, stride, dilation, groups=2)
    assert gains.shape == (*stride, 6, 2)
    for phase in itertools.product(*map(range, stride)):
        middle = [s * (size // (2 * s)) + r for s, size, r in zip(stride, y.shape[2:], phase, strict=True)]
        blocks = constant[(0, slice(None), *(0,) * axes)].reshape(2, 2, 1)
        expected = (gains[phase].reshape(2, 3, 2) @ blocks).flatten()
        assert_close(y[(0, slice(None), *middle)], expected)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [((3,), (2,), (1,)), ((4, 5), (2, 3), (1, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_even_from_transposed_is_the_nearest_with_equal_gains(kernel, stride, dilation, groups):
    full = random(4, 3, *kernel)
    even = kernels.even_from_transposed(full, stride, dilation, groups)
    gains = kernels.phase_gains(even, stride, dilation, groups).flatten(0, len(kernel) - 1)
    assert_close(gains, gains[:1].expand_as(gains).contiguous())
    assert_close(kernels.even_from_transposed(even, stride, dilation, groups), even)
    for other in random(10, *full.shape):  # what was taken away is orthogonal to every difference of two even kernels
        direction = kernels.even_from_transposed(other, stride, dilation, groups) - even
        assert abs(torch.sum((full - even) * direction)) < 1e-9


def test_conversions_are_differentiable():
    w, full = random(4, 2, 3, 2).requires_grad_(), random(4, 2, 4, 3).requires_grad_()
    for convert, weight in [
        (lambda w: kernels.transposed_from_resize(w, 2, 2, groups=2), w),
        (lambda w: kernels.transposed_from_subpixel(w, (2, 1), 2), w),
        (lambda w: kernels.resize_from_transposed(w, 2), full),
        (lambda w: kernels.subpixel_from_transposed(w, 2), full),
        (lambda w: kernels.phase_gains(w, 2), full),
        (lambda w: kernels.even_from_transposed(w, 2), full),
    ]:
        assert torch.autograd.gradcheck(convert, (weight,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32_and_rounded_once(dtype):
    w, full = torch.randn(8, 8, 5, 5).to(dtype), torch.randn(8, 8, 6, 6).to(dtype)
    for convert, weight in [
        (lambda w: kernels.transposed_from_resize(w, 4), w),
        (lambda w: kernels.phase_gains(w, 2), full),
        (lambda w: kernels.even_from_transposed(w, 2), full),
        (lambda w: kernels.resize_from_transposed(w, 2), full),
    ]:
        assert convert(weight).dtype == dtype
        assert_close(convert(weight).double(), convert(weight.double()), dtype=torch.bfloat16)
        assert torch.equal(convert(weight), convert(weight.float()).to(dtype))


def test_bad_arguments():
    pinned = {
        "`weight` (of kernel size (1, 3)) has fewer taps than scale_factor (=2), which no resize-convolution has: "
        "pad it with zeros to 2 taps or more.": lambda: kernels.resize_from_transposed(random(1, 1, 1, 3), 2),
        "`weight` (of kernel size (3,)) leaves phases without taps at stride=(4,), dilation=(1,), so that their gain "
        "is always 0: use a kernel of at least the stride.": lambda: kernels.even_from_transposed(random(1, 1, 3), 4),
        "`weight` (of shape (3, 3)) must have 3, 4 or 5 dimensions: two of channels and 1 to 3 spatial ones.": (
            lambda: kernels.phases(random(3, 3))
        ),
        "`groups` (=2) must divide the first dimension of `weight` (=3).": (
            lambda: kernels.swap_channels(random(3, 1, 3), 2)
        ),
        "`stride` (=(1, 2)) must be one int, or 1 int (one per axis).": (
            lambda: kernels.phase_gains(random(3, 1, 3), (1, 2))
        ),
    }
    for text, call in pinned.items():
        assert message(call) == text
