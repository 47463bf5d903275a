"""The resize-convolution that compilers leave as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

import halfstride
from halfstride import functional
from halfstride._core import planner
from halfstride._core.algorithms.by_parts import fused
from halfstride._core.case import resize_case
from halfstride._support import fused_kernels

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dynamo's, about what it reads


class Recorder:
    """A backend that runs the operators of the traced graph, and keeps their names."""

    def __init__(self):
        self.names = set()

    def __call__(self, graph, example_inputs):
        self.names |= {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
        return lookup_backend("aot_eager")(graph, example_inputs)

    @property
    def whole(self):
        return "halfstride.resize_conv" in self.names


@pytest.fixture
def recorder():
    torch._dynamo.reset()
    return Recorder()


def by_definition(x, layer, scale, **options):
    return F.conv2d(F.interpolate(x, scale_factor=scale), layer.weight, layer.bias, padding="same", **options)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_a_compiled_layer_in_inference_is_one_operator(recorder, grad, channels_last):
    order = torch.channels_last if channels_last else torch.contiguous_format
    layer = halfstride.ResizeConv2d(20, 40, (3, 5), scale_factor=(2, 3)).double().to(memory_format=order)
    compiled = torch.compile(layer, backend=recorder, fullgraph=True)
    with grad():
        for n in (4, 7):
            x = torch.randn(2, 20, n, 5, dtype=torch.float64).to(memory_format=order)
            close(compiled(x), by_definition(x, layer, (2, 3)))
        close(compiled(x[0]), by_definition(x, layer, (2, 3))[0])
    assert recorder.whole


@pytest.mark.parametrize(("axes", "options"), [(1, {}), (2, {"groups": 2}), (3, {"padding_mode": "circular"})])
def test_every_dimension_and_option(recorder, axes, options):
    layer = getattr(halfstride, f"ResizeConv{axes}d")(20, 40, 3, dilation=2, **options).double()
    x = torch.randn(2, 20, *(6, 5, 4)[:axes], dtype=torch.float64)
    with torch.no_grad():
        close(torch.compile(layer, backend=recorder)(x), layer(x))
    assert recorder.whole


def test_the_weight_may_change(recorder):
    layer = halfstride.ResizeConv2d(20, 40, 3).double()
    compiled = torch.compile(layer, backend=recorder)
    x = torch.randn(1, 20, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for change in (lambda w: w.mul_(2), lambda w: w.data.neg_(), lambda w: w.data[0].zero_()):
            change(layer.weight)
            close(compiled(x), by_definition(x, layer, 2))
    assert recorder.whole


@pytest.mark.parametrize(
    "traced_otherwise",
    [
        lambda layer, x: layer(x.requires_grad_()),
        lambda layer, x: layer.requires_grad_(True)(x),
        lambda layer, x: torch.func.vmap(layer)(x[None])[0],
        lambda layer, x: functional.resize_conv2d(x, layer.weight, layer.bias, algorithm="folded"),
        lambda layer, x: functional.resize_conv2d(x, layer.weight[:3], layer.bias[:3]),
    ],
    ids=["input's gradient", "weight's gradient", "vmap", "an algorithm by name", "few channels"],
)
def test_where_it_would_not_do_it_is_traced_into(recorder, traced_otherwise):
    layer = halfstride.ResizeConv2d(20, 40, 3).double().requires_grad_(False)
    x = torch.randn(1, 20, 4, 4, dtype=torch.float64)
    expected = traced_otherwise(copy.deepcopy(layer), x.clone())
    compiled = torch.compile(lambda layer, x: traced_otherwise(layer, x * 1), backend=recorder)
    torch.testing.assert_close(compiled(layer, x.clone()), expected, rtol=1e-10, atol=1e-10)
    assert not recorder.whole


def test_types(recorder):
    layer = halfstride.ResizeConv2d(20, 40, 3).requires_grad_(False)
    compiled = torch.compile(layer, backend=recorder)
    x = torch.randn(1, 20, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x).dtype == torch.bfloat16
    assert not recorder.whole
    layer.bfloat16()
    torch.testing.assert_close(compiled(x.bfloat16()), layer(x.bfloat16()), rtol=2e-2, atol=2e-2)
    assert recorder.whole
    with pytest.raises(Exception, match="must have the same type"):
        compiled(x)


@pytest.fixture
def by_parts(monkeypatch):
    """Whatever can be is summed by parts in training, however few channels there are."""
    monkeypatch.setattr(planner, "_MANY_PAIRS", 0)


@pytest.mark.parametrize("wanted", ["input", "weight", "bias", "all"])
@pytest.mark.parametrize(
    ("axes", "options"),
    [(1, {"scale_factor": 3}), (2, {"dilation": (2, 1)}), (2, {"padding": ((1, -1), (0, 2))}), (3, {"bias": False})],
)
def test_a_compiled_layer_in_training_is_one_operator(recorder, by_parts, axes, options, wanted):
    layer = getattr(halfstride, f"ResizeConv{axes}d")(3, 4, 3, **options).double().requires_grad_(wanted == "all")
    if wanted in ("weight", "bias"):
        parameter = getattr(layer, wanted)
        if parameter is None:
            pytest.skip("no bias")
        parameter.requires_grad_()
    compiled = torch.compile(layer, backend=recorder, fullgraph=True)
    for order in (torch.contiguous_format, torch.channels_last)[: 1 + (axes == 2)]:
        x = torch.randn(2, 3, *(6, 5, 4)[:axes], dtype=torch.float64).to(memory_format=order)
        x.requires_grad_(wanted in ("input", "all"))
        tensors = [tensor for tensor in (x, layer.weight, layer.bias) if tensor is not None and tensor.requires_grad]
        results = []
        for each in (compiled, layer):
            output = each(x)
            results.append((output, *torch.autograd.grad(output.square().sum(), tensors)))
        assert results[0][0].stride() == results[1][0].stride()
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    assert "halfstride.resize_conv_by_parts" in recorder.names


def test_it_trains_with_sizes_that_change(recorder, by_parts):
    layer = halfstride.ResizeConv2d(3, 4, 3).double()
    compiled = torch.compile(lambda x: layer(x).relu().mean(), backend=recorder, dynamic=True, fullgraph=True)
    for batch, n in ((2, 5), (3, 8), (5, 6)):
        x = torch.randn(batch, 3, n, 4, dtype=torch.float64, requires_grad=True)
        expected = torch.autograd.grad(layer(x).relu().mean(), (x, *layer.parameters()))
        torch.testing.assert_close(torch.autograd.grad(compiled(x), (x, *layer.parameters())), expected)
    assert "halfstride.resize_conv_by_parts" in recorder.names


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding_mode": "replicate"}, {"scale_factor": 1}])
def test_what_is_not_summed_by_parts_in_training(recorder, by_parts, options):
    layer = halfstride.ResizeConv2d(4, 4, 3, **options).double()
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(layer, backend=recorder)(x), layer(x))
    assert "halfstride.resize_conv_by_parts" not in recorder.names


def test_many_channels_are_trained_by_parts_under_a_compiler(monkeypatch):
    def case(*channels, kernel=3, scale=2):
        return resize_case(2, (1, channels[0], 8, 8), (channels[1], channels[0], kernel, kernel), scale)

    assert planner.trains_by_parts(case(16, 8)) == (fused_kernels.OPERATORS is not None)
    monkeypatch.setattr(fused, "fits", lambda case: False)
    assert planner.trains_by_parts(case(105, 105))
    assert planner.trains_by_parts(case(53, 53, scale=4))
    assert not planner.trains_by_parts(case(102, 102))
    assert not planner.trains_by_parts(case(512, 3))


def test_it_keeps_an_operators_promises():
    weight = nn.Parameter(torch.randn(6, 8, 3, 3, dtype=torch.float64), requires_grad=False)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    for first, images in ((None, torch.randn(2, 8, 4, 3, dtype=torch.float64)), (3, x)):
        arguments = (images, weight, None, first, [8, 6], [3, 3], [2, 2], [1, 1], [1, 1], "zeros", 1)
        torch.library.opcheck(torch.ops.halfstride.resize_conv.default, arguments)
        kernel = weight if first is None else weight[:, first:]
        with torch.no_grad():
            close(
                torch.ops.halfstride.resize_conv(*arguments),
                F.conv2d(F.interpolate(images, scale_factor=2), kernel, padding=1),
            )


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_it_keeps_an_operators_promises_in_training(order):
    def random(*shape):
        return torch.randn(shape, dtype=torch.float64)

    x, weight, bias = random(2, 5, 4, 3).to(memory_format=order), random(6, 5, 3, 3), random(6)
    geometry = [8, 6], [3, 3], [2, 2], [1, 1], [1, 1]
    trained = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    torch.library.opcheck(torch.ops.halfstride.resize_conv_by_parts.default, (*trained, *geometry))
    gradient = random(2, 6, 8, 6).to(memory_format=order)
    for wanted in ((True, True), (True, False), (False, True)):
        arguments = (gradient, x.detach(), weight.detach(), *wanted, *geometry)
        torch.library.opcheck(torch.ops.halfstride.resize_conv_by_parts_gradients.default, arguments)
