"""The rule that chooses an algorithm, and the figures with which it is explained."""

import itertools
import math
import re

import pytest
import torch

from errors import message
from halfstride import functional
from halfstride._core import planner
from halfstride._core.algorithms import ALGORITHMS
from halfstride._core.case import resize_case, subpixel_case, transposed_case
from halfstride._support import fused_kernels

without_kernels = pytest.mark.skipif(
    fused_kernels.OPERATORS is not None, reason="of layers without halfstride-kernels, as a second run of CI is"
)
RESIZE = resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 2)


@without_kernels
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_rule(training, channels_last):
    def chosen(case, **arguments):
        return planner.choose(case, training=training, channels_last=channels_last, **arguments)

    assert chosen(transposed_case(2, (32, 128, 16, 16), (128, 64, 4, 4), 2, 1)) == "native"
    assert chosen(transposed_case(1, (8, 64, 512), (64, 1, 16), 8, 4)) == "scatter"
    assert chosen(transposed_case(2, (1, 8, 8, 8), (8, 3, 3, 3), 1)) == "native"
    assert chosen(subpixel_case(2, (1, 4, 8, 8), (16, 4, 3, 3), 2)) == "native"
    assert chosen(resize_case(2, (8, 256, 64, 64), (1, 256, 3, 3), 2)) == "scatter"
    assert chosen(RESIZE) == "folded"
    assert chosen(transposed_case(2, (8, 64, 8, 8), (64, 1, 2, 2), 2, groups=2)) == "native"  # not measured
    assert chosen(resize_case(2, (8, 512, 32, 32), (512, 256, 3, 3), 2, groups=2)) == "folded"
    assert chosen(resize_case(2, (8, 512, 32, 32), (512, 512, 3, 3), 2)) == "by_parts"
    assert chosen(resize_case(2, (8, 512, 32, 32), (512, 512, 3, 3), 2, padding_mode="reflect")) == "by_parts"
    assert chosen(resize_case(2, (8, 512, 32, 32), (512, 512, 5, 5), 2, padding_mode="reflect")) == "native"
    assert chosen(resize_case(2, (8, 64, 32, 32), (32, 64, 3, 3), 1)) == "native"
    assert chosen(resize_case(2, (64, 100, 1, 1), (1024, 100, 3, 3), 1)) == "native"
    assert chosen(transposed_case(2, (64, 100, 1, 1), (100, 1024, 4, 4), 1)) == "scatter"
    # Small ones: of few output channels by one `fold`, of others by torch, and volumes, which `fold` does not know.
    assert chosen(transposed_case(2, (1, 32, 8, 8), (32, 3, 4, 4), 2, 1)) == "scatter"
    assert chosen(resize_case(2, (1, 32, 8, 8), (3, 32, 3, 3), 2)) == "scatter"
    assert chosen(resize_case(1, (1, 32, 8), (1, 32, 3), 2)) == "scatter"
    assert chosen(transposed_case(2, (1, 32, 4, 4), (32, 16, 4, 4), 2, 1)) == "native"
    assert chosen(transposed_case(3, (1, 32, 2, 2, 2), (32, 16, 2, 2, 2), 2)) == "native"


@pytest.mark.parametrize(
    "elsewhere", [{"device": "cuda"}, {"device": "mps"}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}]
)
def test_where_nothing_was_measured_torch_computes(elsewhere, monkeypatch):
    transposed = transposed_case(2, (8, 64, 32, 32), (64, 3, 3, 3), 2)
    assert planner.choose(RESIZE, **elsewhere) == planner.choose(transposed, **elsewhere) == "native"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert planner.choose(RESIZE, **elsewhere) == ("native" if "device" in elsewhere else "folded")
    assert planner.choose(transposed, **elsewhere) == ("native" if "device" in elsewhere else "scatter")


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensor_cores_fold_images_in_channels_last_format(compiling, dtype, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    monkeypatch.setattr(torch.version, "hip", None)

    def chosen(case=RESIZE, device="cuda", dtype=dtype, channels_last=True):
        return planner.choose(case, device=device, dtype=dtype, channels_last=channels_last)

    assert chosen() == "folded"
    for other in (
        chosen(dtype=torch.float32),
        chosen(channels_last=False),
        chosen(resize_case(2, (8, 64, 32, 32), (32, 32, 3, 3), 2, groups=2)),
        chosen(resize_case(3, (1, 8, 8, 8, 8), (8, 8, 3, 3, 3), 2)),
        chosen(transposed_case(2, (8, 64, 32, 32), (64, 3, 4, 4), 2)),
        chosen(device="mps"),
    ):
        assert other == "native"
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD's calls itself "cuda"
    assert chosen() == "native"


def test_layers_are_computed_in_the_type_that_autocast_gives_them(monkeypatch):
    asked = []
    monkeypatch.setattr(planner, "choose", lambda case, algorithm, device, dtype, **_: asked.append(dtype) or "native")
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    functional.resize_conv2d(x, w)
    functional.resize_conv2d(x.half(), w.half())
    with torch.autocast("cpu", torch.bfloat16):
        functional.resize_conv2d(x, w)
    assert asked == [torch.float32, torch.float16, torch.bfloat16]


def test_under_a_compiler(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert planner.choose(RESIZE) == "folded"
    assert planner.choose(resize_case(2, (8, 64, 32, 32), (3, 64, 3, 3), 2)) == "scatter"
    assert planner.choose(transposed_case(2, (8, 64, 32, 32), (64, 16, 4, 4), 2)) == "scatter"
    assert planner.choose(transposed_case(2, (8, 64, 32, 32), (64, 17, 4, 4), 2)) == "native"
    assert planner.choose(transposed_case(1, (1, 512, 200), (512, 256, 16), 8, 4)) == "scatter"
    assert planner.choose(transposed_case(1, (1, 512, 200), (512, 256, 8), 4, 2)) == "native"
    assert planner.choose(transposed_case(3, (1, 64, 8, 8, 8), (64, 32, 2, 2, 2), 2)) == "scatter"
    assert planner.choose(transposed_case(3, (1, 64, 8, 8, 8), (64, 32, 4, 4, 4), 2)) == "native"
    assert planner.choose(transposed_case(2, (8, 64, 32, 32), (64, 3, 4, 4), 2), device="cuda") == "native"


@without_kernels
@pytest.mark.parametrize("circumstances", ["forward", "training"])
@pytest.mark.parametrize("fastest", planner.ELIGIBLE["resize"])
def test_the_fastest_by_the_costs_is_chosen(circumstances, fastest, monkeypatch):
    case = resize_case(2, (4, 96, 24, 24), (48, 96, 3, 3), 2)
    costs = {
        f"{circumstances} channels_last resize 2d {name}": planner.Costs(0, 0, 0, 0, 0, 0, 1e9 * milliseconds, 0)
        for name, milliseconds in (dict.fromkeys(planner.ELIGIBLE["resize"], 2) | {fastest: 1}).items()
    }
    monkeypatch.setattr(planner, "_costs", lambda: costs)
    chosen, reason = planner._decide.__wrapped__(case, "auto", circumstances, True)
    assert chosen == fastest
    assert reason.startswith("predicted to take 1 ms")


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "DEFAULT"])
def test_every_processor_has_costs_for_every_choice(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    table = planner._costs.__wrapped__()
    for circumstance, axes, form in itertools.product(("forward", "training"), (1, 2, 3), planner.ELIGIBLE):
        for memory_format in ("contiguous", "channels_last")[: min(axes, 2)]:
            for name in planner.ELIGIBLE[form]:
                costs = table[f"{circumstance} {memory_format} {form} {axes}d {name}"]
                assert min(costs) >= 0 < max(costs)


def test_layers_tell_whether_they_are_trained_and_how_their_input_lies_in_memory(monkeypatch):
    asked = []

    def choose(case, algorithm, device, dtype, *, training, channels_last):
        asked.append((training, channels_last))
        return "native"

    monkeypatch.setattr(planner, "choose", choose)
    monkeypatch.setattr(functional, "plan", functional.plan.__wrapped__)  # not cached
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3, requires_grad=True)
    functional.resize_conv2d(x, w)
    functional.resize_conv2d(x, w.detach())
    with torch.no_grad():
        functional.resize_conv2d(x.contiguous(memory_format=torch.channels_last), w)
        functional.resize_conv2d(x.contiguous(memory_format=torch.channels_last)[0], w)
    assert asked == [(True, False), (False, False), (False, True), (False, True)]


def test_the_choice_can_be_made_by_hand():
    case = resize_case(2, (1, 4, 8, 8), (4, 4, 3, 3), 2)
    for name, algorithm in ALGORITHMS.items():
        if algorithm.unsupported_reason(case) is None:
            assert planner.choose(case, name) == name
    with pytest.raises(ValueError, match="cannot compute this case: summation by parts needs"):
        planner.choose(transposed_case(1, (1, 1, 4), (1, 1, 3), 2), "by_parts")


def test_exported_models_are_made_of_torchs_operators():
    class Up(torch.nn.Module):
        def forward(self, x, w):
            return functional.resize_conv2d(x, w)

    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    program = torch.export.export(Up(), (x, w))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.upsample_nearest2d.vec", "aten.conv2d.default"}


def products(plan):
    return {each.algorithm: each.macs for each in plan.candidates}


@pytest.mark.parametrize(("scale", "by_parts", "phases", "direct"), [(2, 9, 16, 36), (4, 9, 36, 144)])
def test_products_of_a_resize_conv(scale, by_parts, phases, direct):
    size, pairs = 1000, 6  # so large that borders do not count
    found = products(planner.explain("resize", (1, 2, size, size), (3, 2, 3, 3), scale_factor=scale))
    each = {name: round((number or 0) / size**2 / pairs) for name, number in found.items()}
    assert each["by_parts"] == by_parts
    assert each["phases"] == min(phases, 25 if scale == 4 else phases)  # two of four phases are the same
    assert each["scatter"] == phases
    assert each["native"] == direct


def test_products_of_a_transposed_conv():
    found = products(planner.explain("transposed", (2, 4, 10, 20), (4, 3, 3, 3), stride=2, groups=2))
    each = {name: number and number / (2 * 4 * 3 * 200) for name, number in found.items()}
    assert each["native"] == each["scatter"] == 9
    assert each["emulated"] == 9 * 21 * 41 / 200
    assert each["phases"] == 9 * 11 * 21 / 200  # of a phase as many positions as the longest has
    assert each["by_parts"] is None


def test_products_counted_by_hand():
    found = products(planner.explain("resize", (1, 1, 3), (1, 1, 3)))
    assert found["native"] == 6 * 3
    assert found["scatter"] == 3 * 4
    assert found["emulated"] == 6 * 4
    assert found["phases"] == 3 * 2 + 3 * 2
    assert found["by_parts"] == 3 + 4 * 2  # 3 values, and 4 jumps with the borders', at 2 gaps


@without_kernels
def test_explain_gives_bytes_reasons_and_obstacles():
    arguments = ("resize", (64, 64, 16, 16), (32, 64, 3, 3))
    plan = planner.explain(*arguments)
    assert plan.algorithm == "folded"
    others = "([\\d.]+ ms as '(scatter|native|by_parts)',? ?){3}"
    assert re.fullmatch(rf"predicted to take [\d.]+ ms where it was measured, against {others}", plan.reason)
    assert plan.case.output_size == (32, 32)
    half = planner.explain(*arguments, dtype=torch.float16)
    assert (half.algorithm, half.reason) == ("native", "nothing was measured on this device in this type")
    assert planner.explain(*arguments, device="cuda").reason == half.reason
    for wide, narrow in zip(plan.candidates, half.candidates, strict=True):
        if wide.algorithm == "few_outputs":
            assert wide.bytes is None
            assert wide.unsupported_reason == "halfstride-kernels is not installed"
            continue
        assert wide.bytes == 2 * narrow.bytes
        assert wide.bytes >= 4 * (math.prod((8, 16, 16)) + math.prod((4, 32, 32)))
    assert planner.explain(*arguments, algorithm="scatter").reason == "it was asked for"
    for each in planner.explain("transposed", (1, 8, 16), (8, 4, 3), stride=2).candidates:
        assert (
            (each.unsupported_reason is None)
            == (each.algorithm in ("native", "scatter", "emulated", "phases"))
            == (each.macs is not None)
        )


def test_bad_arguments():
    assert (
        message(planner.explain, "deconv", (1, 8, 16), (8, 4, 3))
        == "`form` (='deconv') must be one of 'transposed', 'resize', 'subpixel'."
    )
    assert (
        message(planner.explain, "transposed", (1, 8, 16), (8, 4, 3), stride=0) == "`stride` (=0) must be at least 1."
    )
