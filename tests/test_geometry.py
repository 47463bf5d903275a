"""Geometry against brute force, and against what PyTorch really returns."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import halfstride.geometry as geometry
from errors import message
from halfstride.geometry import (
    Solution,
    Window,
    conv_input_sizes,
    conv_size,
    conv_transpose_size,
    coverage,
    is_even,
    output_padding_for,
    phase_taps,
    receptive_field,
    resize_conv_size,
    solve,
)

HUGE = 10**30


def meta(*shape: int) -> torch.Tensor:
    """A tensor of which torch knows the shape only: sizes cost nothing to ask."""
    return torch.empty(shape, device="meta")


def size_or_none(function, *args, **kwargs):
    """A size, or None where the function refuses these arguments."""
    try:
        return function(*args, **kwargs)
    except (ValueError, RuntimeError):
        return None


# Sizes ----------------------------------------------------------------------------------------------------------------
def test_conv_size_is_what_torch_returns_and_counts_the_places_of_the_kernel():
    for n, k, s, p, d in product(range(1, 13), range(1, 6), range(1, 5), range(4), range(1, 4)):
        size = size_or_none(conv_size, n, k, s, p, d)
        places = len(range(0, n + 2 * p - d * (k - 1), s))
        assert size == (places or None), (n, k, s, p, d)
        returned = size_or_none(F.conv1d, meta(1, 1, n), meta(1, 1, k), None, s, p, d)
        assert size == (None if returned is None else returned.shape[-1]), (n, k, s, p, d)


def test_conv_size_is_the_size_of_poolings_too():
    for n, k, s in product(range(1, 13), range(1, 6), range(1, 5)):
        for p in range(k // 2 + 1):
            size = size_or_none(conv_size, n, k, s, p)
            if size is not None:
                assert F.max_pool1d(torch.zeros(1, 1, n), k, s, p).shape[-1] == size
                assert F.avg_pool1d(torch.zeros(1, 1, n), k, s, p).shape[-1] == size


def test_conv_transpose_size_is_what_torch_returns():
    for n, k, s, p, d in product(range(1, 8), range(1, 6), range(1, 5), range(4), range(1, 4)):
        for op in range(5):
            size = size_or_none(conv_transpose_size, n, k, s, p, op, d)
            x, weight = torch.zeros(1, 1, n), torch.zeros(1, 1, k)  # on "meta" torch lets a wrong output_padding pass
            returned = size_or_none(F.conv_transpose1d, x, weight, None, s, p, op, 1, d)
            assert size == (None if returned is None else returned.shape[-1]), (n, k, s, p, op, d)


def test_resize_conv_size_is_what_torch_returns():
    for n, k, s, d in product(range(1, 6), range(1, 6), range(1, 4), range(1, 4)):
        repeated, weight = meta(1, 1, n).repeat_interleave(s, dim=-1), meta(1, 1, k)
        for p in range(4):
            size = size_or_none(resize_conv_size, n, k, s, p, d)
            returned = size_or_none(F.conv1d, repeated, weight, None, 1, p, d)
            assert size == (None if returned is None else returned.shape[-1]), (n, k, s, p, d)
        assert resize_conv_size(n, k, s, dilation=d) == n * s
        if k % 2 == 1:  # torch warns of the copy that an even kernel takes
            assert F.conv1d(repeated, weight, padding="same", dilation=d).shape[-1] == n * s
    assert resize_conv_size(HUGE, 3, HUGE, 0) == HUGE * HUGE - 2


def test_sizes_per_axis_are_what_torch_returns():
    input_size, kernel_size, stride, padding, dilation = (9, 8, 7), (3, 2, 4), (2, 1, 3), (1, 0, 2), (1, 3, 2)
    convolved = F.conv3d(meta(1, 1, *input_size), meta(1, 1, *kernel_size), None, stride, padding, dilation)
    assert conv_size(input_size, kernel_size, stride, padding, dilation) == tuple(convolved.shape[2:])
    output_padding = (1, 2, 0)
    transposed = F.conv_transpose3d(
        meta(1, 1, *input_size), meta(1, 1, *kernel_size), None, stride, padding, output_padding, 1, dilation
    )
    sizes = conv_transpose_size(input_size, kernel_size, stride, padding, output_padding, dilation)
    assert sizes == tuple(transposed.shape[2:])
    assert output_padding_for(input_size, sizes, kernel_size, stride, padding, dilation) == output_padding


def test_ints_are_repeated_for_every_axis_and_sizes_are_plain_ints():
    assert conv_size([28, 27], (3, 4), 2, [1, 1]) == conv_size(torch.Size([28, 27]), (3, 4), 2, 1) == (14, 13)
    assert conv_size((28,), 3, 2, 1) == (14,)
    assert (is_even((4, 3), 2), is_even(3, (3, 1))) == (False, True)
    for size in (conv_size(np.int8(100), np.int8(1), 1, 50), conv_size(torch.tensor(100), 1, 1, np.uint8(50))):
        assert size == 200  # in 8 bits it would not be
        assert type(size) is int
    assert [type(size) for size in conv_size((np.int8(100), 3), 1)] == [int, int]


# The inverses ---------------------------------------------------------------------------------------------------------
def test_conv_input_sizes_are_exactly_those_that_the_convolution_maps_there():
    for k, s, p, d in product(range(1, 6), range(1, 6), range(5), range(1, 4)):
        preimages: dict[int, list[int]] = {}
        for n in range(1, 50):
            size = size_or_none(conv_size, n, k, s, p, d)
            if size is not None:
                preimages.setdefault(size, []).append(n)
        for o in range(1, 7):
            assert size_or_none(lambda *args: list(conv_input_sizes(*args)), o, k, s, p, d) == preimages.get(o)


def test_output_padding_restores_every_size_that_a_convolution_takes_away():
    for n, k, s, p, d in product(range(1, 13), range(1, 6), range(1, 5), range(4), range(1, 4)):
        o = size_or_none(conv_size, n, k, s, p, d)
        if o is not None:
            op = output_padding_for(o, n, k, s, p, d)
            assert 0 <= op < s
            assert conv_transpose_size(o, k, s, p, op, d) == n
            candidates = conv_input_sizes(o, k, s, p, d)
            assert op == s - 1 - candidates[::-1].index(n)  # the largest takes s - 1


def test_output_padding_round_trips_and_refuses_all_else():
    for n, k, s, p, d in product(range(1, 6), range(1, 5), range(1, 5), range(4), range(1, 4)):
        sizes = {}
        for op in range(max(s, d)):
            size = size_or_none(conv_transpose_size, n, k, s, p, op, d)
            if size is not None:
                sizes[size] = op
        for m in range(1, 40):
            assert size_or_none(output_padding_for, n, m, k, s, p, d) == sizes.get(m)


# Phases and coverage --------------------------------------------------------------------------------------------------
def test_phases_and_evenness_against_brute_force():
    for k, s, d in product(range(1, 13), range(1, 8), range(1, 8)):
        phases = phase_taps(k, s, d)
        assert phases == tuple(tuple(t for t in range(k) if d * t % s == r) for r in range(s))
        assert is_even(k, s, d) == (len(set(map(len, phases))) == 1)


def test_coverage_is_a_transposed_convolution_of_ones_and_the_gradient_of_a_strided_one():
    for n, k, s, p, d in product(range(1, 6), range(1, 5), range(1, 4), range(3), range(1, 3)):
        for op in range(max(s, d)):
            if size_or_none(conv_transpose_size, n, k, s, p, op, d) is None:
                continue
            row = coverage(n, k, s, p, op, d)
            ones = F.conv_transpose1d(torch.ones(1, 1, n), torch.ones(1, 1, k), None, s, p, op, 1, d)
            assert row == tuple(ones.flatten().int().tolist())
            if op < s:
                x = torch.zeros(1, 1, len(row), requires_grad=True)
                y = F.conv1d(x, torch.ones(1, 1, k), None, s, p, d)
                assert y.shape[-1] == n
                y.sum().backward()
                assert row == tuple(x.grad.flatten().int().tolist())


# Receptive fields -----------------------------------------------------------------------------------------------------

windows = st.builds(Window, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))


@given(st.lists(windows, max_size=4))
def test_receptive_field_is_the_support_of_the_gradient(layers):
    field = receptive_field(layers)
    first = -(field.start // field.stride)  # the first output whose field no padding cuts
    enough = field.start + (first + 1) * field.stride + field.size
    x = torch.zeros(1, 1, enough, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in layers:
        ones = torch.ones(1, 1, layer.kernel_size, dtype=x.dtype)
        y = F.conv1d(y, ones, None, layer.stride, layer.padding, layer.dilation)
    for output in (first, first + 1):
        (gradient,) = torch.autograd.grad(y[0, 0, output], x, retain_graph=True)
        seen = gradient.flatten().nonzero().flatten()
        assert seen[0] == field.start + output * field.stride
        assert seen[-1] - seen[0] + 1 == field.size


# Ways from a size to another ------------------------------------------------------------------------------------------
def reached_by(way: Solution, n: int, m: int) -> int:
    if n < m:
        return conv_transpose_size(n, way.kernel_size, way.stride, way.padding, way.output_padding)
    assert way.output_padding == 0
    return conv_size(n, way.kernel_size, way.stride, way.padding)


def ways_by_search(n: int, m: int) -> list[Solution]:
    """What `solve` documents, by trying everything."""
    small, large = min(n, m), max(n, m)
    found = []
    for s in {1} if small == 1 else {large // small, -(-large // small)}:
        if s * (small - 1) >= large:
            continue
        kinds: dict[bool, list[Solution]] = {True: [], False: []}
        for k in range(s, large + 6 * s + 6):
            fitting = (
                (op, p)
                for op, p in product(range(s), range(k + 1))
                if size_or_none(conv_transpose_size, small, k, s, p, op) == large
                and min(coverage(small, k, s, p, op)) > 0
            )
            op, p = next(fitting, (None, None))
            if p is not None:
                kinds[is_even(k, s)].append(Solution(k, s, p, op if n < m else 0, is_even(k, s)))
        found += kinds[True][:3] + kinds[False][:3]
    return sorted(found, key=lambda way: (not way.even, way.kernel_size, way.output_padding, way.padding))


def test_solve_lists_what_a_search_finds():
    for n, m in product(range(1, 13), repeat=2):
        assert solve(n, m) == ways_by_search(n, m), (n, m)


def test_every_way_leads_there_and_covers_every_position():
    for n, m in product(range(1, 71), repeat=2):
        ways = solve(n, m)
        assert 3 <= len(ways) <= 12
        assert len(set(ways)) == len(ways)
        assert ways == sorted(ways, key=lambda way: (not way.even, way.kernel_size, way.output_padding, way.padding))
        for way in ways:
            k, s, p, _, even = way
            assert reached_by(way, n, m) == m
            assert even == is_even(k, s)
            assert 2 * p <= k  # so that a pooling of this geometry is allowed too
            small, large = min(n, m), max(n, m)
            assert min(coverage(small, k, s, p, output_padding_for(small, large, k, s, p))) > 0


@pytest.mark.parametrize(
    ("n", "m", "layer"),
    [
        (5, 2, (3, 2, 0, 0)),  # the lecture
        (4, 8, (4, 2, 1, 0)),  # DCGAN
        (224, 112, (7, 2, 3, 0)),  # ResNet
        (224, 56, (4, 4, 0, 0)),  # ConvNeXt
        (227, 55, (11, 4, 0, 0)),  # AlexNet
    ],
)
def test_solve_knows_the_layers_that_people_use(n, m, layer):
    assert layer in [way[:4] for way in solve(n, m)]


@pytest.mark.parametrize(
    ("n", "m"),
    [(1, 1000), (1000, 1), (3, 1000003), (HUGE, 2 * HUGE), (2 * HUGE + 1, HUGE), (1, HUGE), (7, HUGE), (HUGE, HUGE)],
)
def test_solve_calculates_and_does_not_search(n, m):
    for way in solve(n, m):
        assert reached_by(way, n, m) == m


# Ints of any size -----------------------------------------------------------------------------------------------------
def test_huge_ints():
    assert conv_size(HUGE, 3, 2, 1) == HUGE // 2
    assert conv_transpose_size(HUGE, HUGE, HUGE) == HUGE * HUGE
    assert conv_input_sizes(HUGE, 3, 2, 1) == range(2 * HUGE - 1, 2 * HUGE + 1)
    assert conv_input_sizes(1, 1, HUGE) == range(1, HUGE + 1)
    assert output_padding_for(1, HUGE, 1, HUGE) == HUGE - 1
    assert is_even(HUGE, HUGE)
    assert not is_even(HUGE, HUGE, dilation=2)
    assert receptive_field([Window(HUGE, HUGE, HUGE, HUGE)]) == (HUGE * (HUGE - 1) + 1, HUGE, -HUGE)
    assert message(output_padding_for, 2, 1, 3, HUGE).endswith(f"choose {HUGE + 3} to {2 * HUGE + 2}.")


# Errors ---------------------------------------------------------------------------------------------------------------
LARGER = "is larger than the padded input"
UNREACHED = "cannot be reached from input size"


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (conv_size, (0, 3), "`input_size` (=0) must be at least 1."),
        (conv_size, ((5, 5), (3, 0)), "`kernel_size` (=0) must be at least 1."),
        (conv_size, (5, 3, 0), "`stride` (=0) must be at least 1."),
        (conv_size, (5, 3, 1, -1), "`padding` (=-1) must be at least 0."),
        (conv_size, (5, 3, 1, 0, 0), "`dilation` (=0) must be at least 1."),
        (conv_size, (5, 2.5), "`kernel_size` (=2.5) must be an int of at least 1."),
        (conv_size, (5, 3, 1, "same"), "`padding` (='same') must be an int of at least 0."),
        (conv_size, (((5, 6), 7), 3), "`input_size` (=(5, 6)) must be an int of at least 1."),
        (conv_size, ((5, 5), (3, 3, 3)),
            "`kernel_size` (=(3, 3, 3)) has 3 axes where `input_size` (=(5, 5)) has 2: "
            "give one int for all axes, or one for each."),
        (conv_size, (3, 8, 1, 2),
            f"`kernel_size` (=8) {LARGER} (=7): use a smaller kernel or a padding of at least 3."),
        (conv_size, (3, 3, 1, 0, 2),
            f"`kernel_size` (=3, spanning 5 with dilation 2) {LARGER} (=3): "
            "use a smaller kernel or a padding of at least 1."),
        (conv_transpose_size, (5, 3, 2, 0, -1), "`output_padding` (=-1) must be at least 0."),
        (conv_transpose_size, (5, 3, 2, 0, 2, 1),
            "`output_padding` (=2) must be less than the stride (=2) or the dilation (=1): use at most 1."),
        (conv_transpose_size, (1, 3, 2, 2), "`padding` (=2) leaves nothing of the full output (=3): use at most 1."),
        (conv_input_sizes, (1, 3, 2, 5, 2),
            "`output_size` (=1) is reached by no input with kernel_size=3, stride=2, padding=5, dilation=2: "
            "use a padding of at most 2."),
        (output_padding_for, ((14, 14), (28, 31), 3, 2, 1),
            f"`output_size` (=31) {UNREACHED} 14 with kernel_size=3, stride=2, padding=1: choose 27 to 28."),
        (
            output_padding_for, (14, 31, 3, 1, 1, 3),
            f"`output_size` (=31) {UNREACHED} 14 with kernel_size=3, stride=1, padding=1, dilation=3: choose 18 to 20.",
        ),
        (output_padding_for, (1, 4, 1, 3, 1),
            f"`output_size` (=4) {UNREACHED} 1 with kernel_size=1, stride=3, padding=1: choose 1."),
        (output_padding_for, (1, 4, 1, 2, 3),
            f"`output_size` (=4) {UNREACHED} 1 with kernel_size=1, stride=2, padding=3: use a padding of at most 0."),
        (resize_conv_size, (5, 3, 1.5, 1), "`scale_factor` (=1.5) must be an int of at least 1."),
        (resize_conv_size, (5, 3, 2, "valid"), "`padding` (='valid') must be \"same\" or an int of at least 0."),
        (resize_conv_size, (2, 9, 2, 1),
            f"`kernel_size` (=9) {LARGER} (=6): use a smaller kernel or a padding of at least 3."),
        (phase_taps, (3, 0), "`stride` (=0) must be at least 1."),
        (is_even, ((3, 3), (2, 0)), "`stride` (=0) must be at least 1."),
        (coverage, (4, 3, 2, 0, 2), message(conv_transpose_size, 4, 3, 2, 0, 2)),
        (solve, (5, -3), "`output_size` (=-3) must be at least 1."),
        (receptive_field, ([Window(3), Window(3, stride=0)],), "`stride` (=0) must be at least 1."),
    ],
)  # fmt: skip
def test_error_texts(function, arguments, text):
    assert message(function, *arguments) == text


def test_the_advice_in_an_error_is_right():
    for n, k, s, p, d in product(range(1, 5), range(1, 6), range(1, 4), range(7), range(1, 3)):
        if size_or_none(conv_size, n, k, s, p, d) is None:
            advised = advice(conv_size, n, k, s, p, d)
            assert conv_size(n, k, s, advised, d) >= 1
            assert size_or_none(conv_size, n, k, s, advised - 1, d) is None
        if size_or_none(conv_transpose_size, n, k, s, p, 0, d) is None:
            advised = advice(conv_transpose_size, n, k, s, p, 0, d)
            assert conv_transpose_size(n, k, s, advised, 0, d) >= 1
            assert size_or_none(conv_transpose_size, n, k, s, advised + 1, 0, d) is None
        if size_or_none(conv_input_sizes, n, k, s, p, d) is None:
            advised = advice(conv_input_sizes, n, k, s, p, d)
            assert conv_input_sizes(n, k, s, advised, d)
            assert size_or_none(conv_input_sizes, n, k, s, advised + 1, d) is None
        text = message(output_padding_for, n, 1000, k, s, p, d)
        if "padding of at most" in text:
            advised = int(text.split()[-1].rstrip("."))
            smallest = conv_transpose_size(n, k, s, advised, max(s, d) - 1, d)
            assert output_padding_for(n, smallest, k, s, advised, d) == max(s, d) - 1
            assert size_or_none(conv_transpose_size, n, k, s, advised + 1, max(s, d) - 1, d) is None


def advice(function, *args) -> int:
    """The last number in the error's text."""
    return int(message(function, *args).split()[-1].rstrip("."))


# The room -------------------------------------------------------------------------------------------------------------
def test_geometry_needs_nothing_but_the_standard_library():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('geometry', {geometry.__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['geometry'] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert module.conv_transpose_size(2, 3, 2) == 5\n"
        "print(*sorted({'torch', 'numpy', 'halfstride'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
