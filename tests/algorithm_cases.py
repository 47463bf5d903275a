"""Cases and references for tests of the algorithms: drawn and fixed cases, and the sums that define the operator."""

import itertools
import math

import torch
from hypothesis import strategies as st

from halfstride._core.algorithms import ALGORITHMS, native
from halfstride._core.case import resize_case, subpixel_case, transposed_case

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
