"""The loops of halfstride-kernels against float64, at any size, alignment and number of threads, and where they stop.

CI runs this file with AddressSanitizer too.
"""

import itertools
import multiprocessing
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from algorithm_cases import CASES, by_definition, tensors_for
from halfstride import functional, layers
from halfstride._core import planner
from halfstride._core.algorithms import by_parts, few_outputs, native
from halfstride._core.algorithms.by_parts import fused, program
from halfstride._support import fused_kernels
from tolerance import assert_close

pytestmark = pytest.mark.skipif(fused_kernels.OPERATORS is None, reason="halfstride-kernels is not installed")


@st.composite
def cases(draw, form, outs):
    """Cases with channels that fill vectors, or not, and sizes of several blocks of positions."""
    axes = draw(st.sampled_from((1, 2, 2, 3)))
    longest, most = ((24, 7), (14, 7), (5, 3))[axes - 1]
    n, k, s = (draw(st.tuples(*[st.integers(1, high)] * axes)) for high in (longest, most, min(most, 5)))
    batch, ins = draw(st.sampled_from((0, 1, 1, 2, 3))), draw(st.integers(1, 20))
    shape = (ins, outs, *k) if form == "transposed" else (outs, ins, *k)
    side = st.integers(0, 3)
    padding = draw(st.one_of(st.just("same"), st.tuples(*[st.tuples(side, side)] * axes)))
    mode = draw(st.sampled_from(("zeros", "zeros", "replicate", "circular")))
    try:
        return CASES[form](axes, (batch, ins, *n), shape, s, padding, padding_mode=mode)
    except ValueError:  # nothing left of the output, or more continued than there is
        return CASES[form](axes, (batch, ins, *n), shape, s, "same", padding_mode="replicate")


def off_by_one(tensor, last):
    """The same numbers, at an address that no vector is aligned to."""
    if last:
        tensor = tensor.movedim(1, -1)
    moved = torch.empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
    return moved.movedim(-1, 1) if last else moved


def assert_exact(algorithm, case, last, aligned):
    tensors = [tensor.requires_grad_() for tensor in tensors_for(case, torch.float64)]
    expected = native.compute(case, *tensors)
    gradient = torch.randn_like(expected)
    of_expected = torch.autograd.grad(expected, tensors, gradient)
    # What is off by a third of `assert_close`'s tolerance for these sums of up to 20 * 7 * 7 products is wrong.
    x, weight, bias = (tensor.detach().float() for tensor in tensors)
    if not aligned:
        x, weight = off_by_one(x, last), off_by_one(weight, last=False)
    elif last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    inputs = [each.requires_grad_() for each in (x, weight, bias)]
    output = algorithm.compute(case, *inputs)
    found = torch.autograd.grad(output, inputs, gradient.float())
    for one, other in zip((output, *found), (expected, *of_expected), strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        assert_close(one / scale, other.float() / scale)
    kept = torch.nn.Parameter(weight.detach(), requires_grad=False)
    with torch.no_grad():
        for _ in range(2):  # the second time with what was kept
            assert_close(algorithm.compute(case, x, kept, bias), output)


@settings(max_examples=200)
@given(st.integers(1, 40).flatmap(lambda outs: cases("resize", outs)), st.booleans(), st.booleans(), st.booleans())
def test_by_parts(case, last, aligned, apart):
    assert by_parts.is_fused(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_MANY_CHANNELS", 1 if apart else 10**9)
        patch.setattr(fused, "_MANY_POSITIONS", 1)
        patch.setattr(fused, "_spacing", fused._spacing.__wrapped__)
        assert_exact(by_parts, case, last, aligned)


@settings(max_examples=200)
@given(
    st.tuples(st.sampled_from(("resize", "transposed")), st.integers(1, 4)).flatmap(lambda drawn: cases(*drawn)),
    st.booleans(),
    st.booleans(),
)
def test_few_outputs(case, last, aligned):
    assert few_outputs.unsupported_reason(case) is None
    assert_exact(few_outputs, case, last, aligned)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("form", ["resize", "transposed"])
def test_every_small_geometry(form, last):
    """Borders are all that a few positions have; at large strides some phases have no tap or no output."""
    for n, k, s in itertools.product((1, 2), (1, 2, 4), (1, 2, 5)):
        for before, after in {(0, 0), (k // 2, k - 1)}:
            shape = (3, 2, 2, k) if form == "resize" else (2, 3, 2, k)
            try:
                case = CASES[form](2, (1, 2, 2, n), shape, (2, s), ((0, 0), (before, after)))
            except ValueError:  # nothing is left
                continue
            for algorithm in (few_outputs, by_parts) if form == "resize" else (few_outputs,):
                assert_exact(algorithm, case, last, aligned=True)


@pytest.mark.parametrize("spacing", [1, 2, 3])
def test_programs_make_as_many_products_as_they_say(spacing):
    case = CASES["resize"](2, (1, 1, 12, 12), (1, 1, 5, 5), 2)
    products = len(program.output_program(case, (spacing, spacing)).signs) / spacing**2
    assert products == pytest.approx((4 + 1 / spacing) ** 2)
    with pytest.raises(ValueError, match=r"`spacing` \(=4\) is too far for 5 taps at scale 2"):
        program.output_program(case, (4, 4))


def test_derivatives_of_any_order():
    case = CASES["resize"](2, (2, 3, 4, 5), (4, 3, 3, 3), 2)
    tensors = [tensor.requires_grad_() for tensor in tensors_for(case, torch.float64)]
    narrow = [tensor.detach().float().requires_grad_() for tensor in tensors]

    def second(algorithm, arguments):
        output = algorithm.compute(case, *arguments)
        to_x, to_weight = torch.autograd.grad(output.square().sum(), arguments[:2], create_graph=True)
        return torch.autograd.grad(to_x.square().sum() + to_weight.square().sum(), arguments)

    for algorithm in (by_parts, few_outputs):
        for one, other in zip(second(algorithm, narrow), second(native, tensors), strict=True):
            torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_large_ones_in_tiles_by_several_threads():
    for shape, out in (((3, 20, 67, 31), 24), ((1, 130, 18, 17), 40), ((2, 16, 70), 16), ((1, 9, 9, 8, 10), 10)):
        axes = len(shape) - 2
        x, weight = torch.randn(shape), torch.randn(out, shape[1], *(3,) * axes)
        case = CASES["resize"](axes, shape, weight.shape, 2)
        few = torch.randn(shape[1], 3, *(4,) * axes)
        of_few = CASES["transposed"](axes, shape, few.shape, 2, 1)
        results, threads = [], torch.get_num_threads()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                output = by_parts.compute(case, x, weight, None)
                both = by_parts.gradients(case, torch.ones_like(output), x, weight)
                again = by_parts.gradients(case, torch.ones_like(output), x, weight)
                assert all(torch.equal(one, other) for one, other in zip(both, again, strict=True))
                results.append((output, *both, few_outputs.compute(of_few, x, few, None)))
        finally:
            torch.set_num_threads(threads)
        assert_close(results[0][0], native.compute(case, x.double(), weight.double(), None).float())
        assert_close(results[0][3], native.compute(of_few, x.double(), few.double(), None).float())
        for others in results[1:]:
            for one, other in zip(results[0], others, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-2)


def test_called_from_several_threads_at_once():
    layer = layers.ResizeConv2d(16, 16, 3, algorithm="by_parts").eval().requires_grad_(False)
    few = layers.ConvTranspose2d(16, 2, 4, 2, 1, algorithm="few_outputs").eval().requires_grad_(False)
    xs = [torch.randn(1, 16, 9, 11) for _ in range(8)]
    expected, found = [few(x).sum() + layer(x).sum() for x in xs], [None] * len(xs)

    def run(at):
        for _ in range(5):
            found[at] = few(xs[at]).sum() + layer(xs[at]).sum()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


def _run_forked(queue):
    torch.set_num_threads(1)
    queue.put(
        functional.resize_conv2d(torch.ones(1, 16, 8, 8), torch.ones(16, 16, 3, 3), algorithm="by_parts").sum().item()
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_process():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_run_forked, args=(queue,))
    process.start()
    forked = float(queue.get())
    process.join()
    assert forked == 16 * 16 * (3 * 16 - 2) ** 2


def test_half_types_are_rounded_once():
    case = CASES["resize"](2, (2, 16, 9, 8), (16, 16, 3, 3), 2)
    x, weight, bias = (tensor.bfloat16() for tensor in tensors_for(case, torch.float32))
    output = by_parts.compute(case, x, weight, bias)
    exact = native.compute(case, x.double(), weight.double(), bias.double())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("algorithm", [by_parts, few_outputs])
def test_tracers_and_transforms_see_torchs_operators(algorithm):
    case = CASES["resize"](2, (1, 5, 6, 7), (4, 5, 3, 3), 2)
    x, weight, bias = tensors_for(case, torch.float32)
    expected = by_definition(case, x.double(), weight.double(), bias.double()).float()
    mapped = torch.vmap(lambda x: algorithm.compute(case, x, weight, bias))(torch.stack([x, 2 * x]))
    assert_close(mapped[0], expected)
    with FlopCounterMode(display=False) as counter:
        assert_close(algorithm.compute(case, x, weight, bias), expected)
    assert counter.get_total_flops() > 0
    meta = algorithm.compute(case, x.to("meta"), weight.to("meta"), bias.to("meta"))
    assert meta.shape == expected.shape


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # torch's, about itself
def test_compiled_and_exported_layers():
    layer = layers.ResizeConv2d(16, 16, 3)
    x = torch.randn(2, 16, 8, 8)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).square().sum(), list(layer.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)
    exported = torch.export.export(layer.eval(), (x,))
    assert not [node for node in exported.graph.nodes if "halfstride" in str(node.target)]


# Where they are chosen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_rule(training, channels_last):
    def chosen(case):
        return planner.choose(case, training=training, channels_last=channels_last)

    resize, transposed = CASES["resize"], CASES["transposed"]
    assert chosen(resize(2, (8, 64, 32, 32), (32, 64, 3, 3), 2)) == "by_parts"
    assert chosen(resize(2, (32, 64, 32, 32), (3, 64, 3, 3), 2)) == "few_outputs"
    assert chosen(transposed(2, (32, 64, 32, 32), (64, 3, 4, 4), 2, 1)) == "few_outputs"
    assert chosen(transposed(2, (32, 64, 32, 32), (64, 3, 2, 2), 2)) != "few_outputs"  # nothing overlaps
    assert chosen(transposed(2, (32, 128, 16, 16), (128, 64, 4, 4), 2, 1)) == "native"
    assert chosen(resize(2, (8, 3, 32, 32), (64, 3, 3, 3), 2)) != "by_parts"  # vectors of channels are mostly empty
    assert chosen(resize(2, (8, 64, 32, 32), (32, 32, 3, 3), 2, groups=2)) != "by_parts"
    assert chosen(resize(2, (8, 16, 32, 32), (64, 16, 3, 3), 2)) == "by_parts"
    small = transposed(2, (1, 32, 8, 8), (32, 3, 4, 4), 2, 1)
    assert chosen(small) == ("scatter" if training else "few_outputs")
