"""`optimize` and the compile backend on drawn programs: the numbers, sizes, types, layouts and errors of torch itself.

For minutes, with other programs each time: `python tests/fuzz.py tests/optimizing/test_drawn_programs.py --minutes 10`.
"""

import contextlib
from typing import Any, NamedTuple

import pytest
import torch
from drawn_programs import programs
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from models_to_optimize import PREFERRED, prefer
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend

from halfstride.optimizing import compiling, optimize
from halfstride.optimizing.example import Example
from halfstride.optimizing.report import Times

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch has to say about odd programs
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.bfloat16: 0.2}
EXAMPLES = settings.default.max_examples  # 100, and more under the profile "fuzz"
MODES = {"inference": torch.inference_mode, "no gradients": torch.no_grad, "gradients": contextlib.nullcontext}


SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]  # the fixture's patches hold for all examples


@pytest.fixture
def everything_pays():
    with pytest.MonkeyPatch.context() as patch:
        prefer(patch, **PREFERRED)
        patch.setattr(Example, "times", lambda *_: Times(1.0, 0.1))
        yield


class Outcome(NamedTuple):
    """What a program returned, with what it left in its inputs, and its gradients; or what it raised."""

    returned: list[Any]
    gradients: list[Any] = []  # noqa: RUF012
    raised: Exception | None = None


def outcome(model, inputs, mode):
    inputs = [each.requires_grad_(mode == "gradients" and wanted) for each, wanted in inputs]
    try:
        with MODES[mode]():
            returned = list(model(*inputs))
        wanted = [each for each in (*inputs, *model.parameters()) if each.requires_grad]
        sums = [each for each in returned if each.requires_grad and each.is_floating_point()]
        if mode != "gradients" or not (wanted and sums):
            return Outcome([*returned, *inputs])
        total = sum((each.double() * weights_for(each)).sum() for each in sums)
        return Outcome([*returned, *inputs], [*torch.autograd.grad(total, wanted, allow_unused=True)])
    except Exception as error:
        return Outcome([], raised=error)


def weights_for(tensor):
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def mismatch(actual, expected, tolerance):
    """How the outcomes differ; empty where they do not."""
    if not actual.raised and objects_to_a_change(expected.raised):
        return ""
    if actual.raised or expected.raised:
        kinds = [type(each.raised).__name__ for each in (actual, expected)]
        return "" if kinds[0] == kinds[1] else f"raised {actual.raised!r}, not {expected.raised!r}"
    pairs = list(zip(actual.returned + actual.gradients, expected.returned + expected.gradients, strict=True))
    largest = max((float(each.abs().max()) for _, each in pairs if each is not None and each.numel()), default=0)
    for at, (ours, theirs) in enumerate(pairs):
        if not isinstance(theirs, Tensor) or not isinstance(ours, Tensor):
            if ours is not theirs:
                return f"tensor {at}: {ours}, not {theirs}"
            continue
        for what in ("shape", "dtype", "requires_grad", "layout"):
            if getattr(ours, what) != getattr(theirs, what):
                return f"tensor {at}: {what} {getattr(ours, what)}, not {getattr(theirs, what)}"
        if type(ours) is not type(theirs):
            return f"tensor {at}: {type(ours)}"
        if at < len(expected.returned) and strides(ours) != strides(theirs):
            return f"tensor {at}: strides {ours.stride()}, not {theirs.stride()}, of {tuple(theirs.shape)}"
        close = torch.isclose(ours.double(), theirs.double(), rtol=0, atol=tolerance * max(largest, 1), equal_nan=True)
        if not close.all():
            return f"tensor {at} differs by {(ours.double() - theirs.double()).abs().max():.1e} of {largest:.1e}"
    return ""


def objects_to_a_change(error):
    """Whether autograd, which keeps some tensors for the gradients, refuses a program that changes one in place.

    What is rewritten may compute it: it keeps other tensors, and `optimize` tries copies of the example's.
    """
    text = str(error)
    return "modified by an inplace operation" in text or "being used in an in-place operation" in text


def strides(tensor):
    return [stride for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1 and tensor.numel()]


def tolerance_of(program):
    return max(TOLERANCE[dtype] for dtype in program.types)


def drawn_inputs(program, wanted, seed, longer=False):
    """The inputs, with what says whether gradients to them are wanted."""
    inputs = [each._replace(shape=(*each.shape[:-1], each.shape[-1] + longer)).make(seed) for each in program.inputs]
    return [(each, wanted and each.is_floating_point()) for each in inputs]


@settings(max_examples=EXAMPLES * 3 // 2, suppress_health_check=SUPPRESSED)
@given(programs(), st.sampled_from([*MODES]), st.booleans())
def test_optimize(everything_pays, program, mode, wanted):
    note(repr(program))
    model, tolerance = program.model(), tolerance_of(program)
    example = drawn_inputs(program, wanted, 0)
    expected = outcome(model, drawn_inputs(program, wanted, 0), mode)
    optimized = program.model()
    with MODES[mode]():
        try:
            _, report = optimize(optimized, tuple(each for each, _ in example))
        except ValueError as error:
            assert type(expected.raised).__name__ in str(error)  # noqa: PT017
            return
    assert not expected.raised or objects_to_a_change(expected.raised)
    event("optimized" if report.optimized else f"left: {report.note}")
    for seed, longer in ((0, False), (1, False), (2, True)):
        for each in MODES if mode == "gradients" else [mode]:
            expected, actual = (
                outcome(one, drawn_inputs(program, wanted, seed, longer), each) for one in (model, optimized)
            )
            assert not (told := mismatch(actual, expected, tolerance)), told


def traced(graph, example_inputs):
    """The backend, with the operators of the traced graph in inductor's place: compiling takes seconds."""
    return lookup_backend("aot_eager")(compiling.rewritten(graph), example_inputs)


def compare_compiled(backend, plain, program, mode, wanted, dynamic, lengths):
    """What is compiled does what the program does, or else what `plain` makes of it, where torch's compiler errs."""
    note(repr(program))
    torch._dynamo.reset()
    model = program.model()
    compiled = torch.compile(program.model(), backend=backend, dynamic=dynamic)
    of_torch = torch.compile(program.model(), backend=plain, dynamic=dynamic)
    for seed, longer in lengths:
        actual, expected = (
            outcome(one, drawn_inputs(program, wanted, seed, longer), mode) for one in (compiled, model)
        )
        told = mismatch(actual, expected, tolerance_of(program))
        if told:
            event("torch's compiler differs from eager torch")
            other = outcome(of_torch, drawn_inputs(program, wanted, seed, longer), mode)
            assert not mismatch(actual, other, tolerance_of(program)), told


LENGTHS = [((0, False), (1, False)), ((0, False), (1, True), (2, True))]


@settings(max_examples=EXAMPLES * 3 // 20, suppress_health_check=SUPPRESSED)
@given(
    programs(), st.sampled_from([*MODES]), st.booleans(), st.sampled_from([None, False, True]), st.sampled_from(LENGTHS)
)
def test_compiled(program, mode, wanted, dynamic, lengths):
    compare_compiled(traced, "aot_eager", program, mode, wanted, dynamic, lengths)


@pytest.mark.skipif(EXAMPLES <= 100, reason="takes minutes: only under the profile fuzz")
@settings(max_examples=EXAMPLES // 40, suppress_health_check=SUPPRESSED)
@given(programs(), st.sampled_from([*MODES]), st.booleans(), st.sampled_from([None, False, True]))
def test_compiled_by_inductor(program, mode, wanted, dynamic):
    compare_compiled("halfstride", "inductor", program, mode, wanted, dynamic, LENGTHS[1])
