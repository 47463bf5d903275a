"""The two steps of `scatter` as out-of-place expressions, for compilers, which fuse each into one loop, and for
transforms of torch.func.

A tap is written as `s·a + r`: its products land on phase `r`, `a` steps of the stride further. All phases are added at
once, one `a` after another, so that each output is written once: a kernel of 1024 taps at stride 256 has four terms.
"""

from __future__ import annotations

from itertools import product

from torch import Tensor

from halfstride._core.case import Case
from halfstride._core.common import pad, window
from halfstride.kernels import spread


def added(products: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    """(batch, out, *output_size) from products (batch, out, *taps, *input_size) of a transposed case, with the same
    order in memory."""
    axes, last = case.axes, products.stride(1) == 1
    skipped = [-p % s for p, s in zip(case.padding, case.stride, strict=True)]
    steps = [-(-(skip + d + 1) // s) for skip, d, s in zip(skipped, case.span, case.stride, strict=True)]
    first = [(p + skip) // s for p, skip, s in zip(case.padding, skipped, case.stride, strict=True)]
    length = [-(-o // s) for o, s in zip(case.output_size, case.stride, strict=True)]

    for axis, d in enumerate(case.dilation, start=2):
        products = spread(products, axis, d)
    of_taps = [
        (skip, m * s - skip - d - 1) for skip, m, s, d in zip(skipped, steps, case.stride, case.span, strict=True)
    ]
    of_inputs = [
        (max(m - 1 - f, 0), max(f + q - n, 0)) for m, f, q, n in zip(steps, first, length, case.input_size, strict=True)
    ]
    products = pad(products, [*of_taps, *of_inputs])
    output = None if bias is None else bias.view(-1, *(1,) * 2 * axes)
    for step in product(*map(range, steps)):
        term = products
        for axis, a in enumerate(step):
            start = of_inputs[axis][0] + first[axis] - a
            term = term.narrow(2 + axis, a * case.stride[axis], case.stride[axis])
            term = term.narrow(2 + axes + axis, start, length[axis])
        output = term if output is None else output + term
    assert output is not None

    # From (batch, out, *phases, *positions) to positions and phases in turn, which are the outputs.
    turns = [dim for axis in range(axes) for dim in (2 + axes + axis, 2 + axis)]
    sizes = [q * s for q, s in zip(length, case.stride, strict=True)]
    batch, channels = output.shape[:2]
    if last:
        output = output.permute(0, *turns, 1).reshape(batch, *sizes, channels).movedim(-1, 1)
    else:
        output = output.permute(0, 1, *turns).reshape(batch, channels, *sizes)
    return window(output, (0,) * axes, case.output_size)


def gathered(output: Tensor, case: Case, last: bool) -> Tensor:
    """The adjoint: for each product what is at the place that it was added to, with the channels `last` in memory."""
    axes = case.axes
    output = window(output, [-p for p in case.padding], case.full_size)
    for axis, (span, s, d) in enumerate(zip(case.span, case.stride, case.dilation, strict=True)):
        output = output.unfold(2 + axis, span + 1, s)[..., ::d]
    if last:
        products = output.permute(0, *range(2, 2 + 2 * axes), 1).contiguous()
        return products.permute(0, -1, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))
    return output.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes)).contiguous()
