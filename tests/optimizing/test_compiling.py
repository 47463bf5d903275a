"""`torch.compile(model, backend="halfstride")`: what is compiled computes what the model computes."""

import copy
import logging
import shutil

import models_to_optimize as models
import pytest
import torch
import torch.nn.functional as F
from models_to_optimize import Model, assert_same, conv, image, randomised, results, up
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch.utils._pytree import tree_leaves

import halfstride
from halfstride.optimizing import compiling, optimize

# What Dynamo has to say about the code that it reads, and about its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
]


def traced(graph, example_inputs):
    """The backend, with the operators of the traced graph in inductor's place: compiling takes seconds."""
    return lookup_backend("aot_eager")(compiling.rewritten(graph), example_inputs)


@pytest.fixture
def became(caplog):
    """What became of the sites, as the log says it."""
    torch._dynamo.reset()
    caplog.set_level(logging.INFO, logger="halfstride")
    return lambda: {record.getMessage().partition(" becomes ")[2] for record in caplog.records} - {""}


def check(model, *samples, modes=(False,), inference=True, **options):
    """Compile a model, and compare it with itself: forwards, backwards, on several inputs, and how results lie."""
    model = randomised(model).double()
    original = copy.deepcopy(model)
    compiled = torch.compile(model, backend=traced, **options)
    for sample in samples:
        sample = [x.double() for x in sample]
        for train in modes:
            model.train(train)
            original.train(train)
            assert_same(results(compiled, sample), results(original, sample))
            with torch.inference_mode(inference):
                actual, expected = compiled(*sample), original(*sample)
            assert_same(actual, expected)
            assert [leaf.stride() for leaf in tree_leaves(actual)] == [leaf.stride() for leaf in tree_leaves(expected)]
        assert_same(list(model.state_dict().values()), list(original.state_dict().values()))


@pytest.mark.parametrize("run", models.FOUND.values(), ids=models.FOUND)
def test_found_and_right(run, became):
    check(Model(run, up=nn.Upsample(scale_factor=2), conv=conv()), [image()])
    assert became() == {"resize-convolution"}


@pytest.mark.parametrize("run", models.ONE_BY_ONE.values(), ids=models.ONE_BY_ONE)
def test_one_by_one_convolutions_come_before_the_upsampling(run, became):
    check(Model(run, conv=conv(), one=conv(kernel=1), last=conv(3)), [image()])
    assert became() == {"conv2d 4→3 before the upsampling", "resize-convolution"}


@pytest.mark.parametrize("run", models.CAT.values(), ids=models.CAT)
def test_concatenation_with_a_skip_connection(run, became):
    check(Model(run, conv=conv(7)), [image(), image(3, 10, 12)])
    assert became() == {"resize-convolution of the parts"}


# From this scale on nearest neighbours differ between torch's own operators and what it compiles.
@pytest.mark.parametrize("name", sorted(models.LEFT.keys() - {"scale 41 is not exact"}))
def test_left_as_it_was_and_right(name, became):
    check(Model(models.LEFT[name], conv=conv(), conv4=conv(4, 4)), [image(width=6)], inference=False)
    assert not became()


@pytest.mark.parametrize("run", models.IN_PLACE.values(), ids=models.IN_PLACE)
def test_changes_in_place(run, became):
    check(Model(lambda m, x: (run(m, x), m.other(up(x))), conv=conv(), other=conv()), [image()], inference=False)
    assert "resize-convolution" in became()


@pytest.mark.parametrize("name", sorted(models.CLOSE.keys() - {"values"}))  # which breaks the graph at every line
def test_code_that_looks_closely(name, became):
    model = Model(lambda m, x: (models.CLOSE[name](m, x), m.other(up(x))), conv=conv(), other=conv(), wide=conv(8))
    check(model, [image()], inference=False)
    assert "resize-convolution" in became()


@pytest.mark.parametrize(
    ("make", "shape", "finds"),
    [
        (models.vae_decoder, (2, 4, 5, 6), {"resize-convolution"}),
        (models.UNet, (2, 3, 16, 24), {"resize-convolution of the parts", "transposed convolution"}),
        (models.Vocoder, (2, 6, 5), {"transposed convolution"}),
        (models.gan_generator, (2, 8, 2, 3), {"resize-convolution", "transposed convolution"}),
    ],
)
def test_architectures(make, shape, finds, became):
    modes = (False,) if make is models.UNet else (True, False)  # dropout of compiled models draws other numbers
    check(make(), [torch.randn(shape)], modes=modes)
    assert became() == finds


def checkpointed(m, x):
    return m.conv(torch.utils.checkpoint.checkpoint(lambda y: up(torch.sin(y)), x, use_reentrant=False))


def test_sizes_that_change(became):
    model = Model(lambda m, x: (lambda y: m.conv(y) * y.shape[3] / y.numel() + y.size(2))(up(x)), conv=conv())
    check(model, [image()], [image(height=9, width=4, batch=5)], dynamic=True)
    torch._dynamo.reset()
    check(model, [image(height=6)], [image(height=9, width=9)], dynamic=True)  # one symbol for both axes
    assert became() == {"resize-convolution"}


@pytest.mark.parametrize(("axes", "dynamic", "gradients"), [(1, None, True), (2, True, False), (3, None, False)])
def test_layers_of_sizes_that_coincide_and_differ(axes, dynamic, gradients):
    torch._dynamo.reset()
    ours = getattr(halfstride, f"SubpixelConv{axes}d")(2, 3, 3)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), getattr(nn, f"Conv{axes}d")(2, 3, 3, padding=1))
    model = randomised(Model(lambda m, x: [part(x) for part in m.parts], parts=nn.ModuleList([ours, plain]))).double()
    compiled = torch.compile(model, backend=traced, dynamic=dynamic)
    for sides in ((4,) * axes, (4, 5, 6)[-axes:]):
        x = torch.randn(sides[0], 2, *sides).double()  # as many images as positions
        if gradients:
            assert_same(results(compiled, [x]), results(model, [x]))
        else:
            with torch.no_grad():
                assert_same(compiled(x), model(x))


@torch.no_grad()
def looked_at(y):
    return y.mean()


def test_made_where_no_gradients_are_recorded(became):
    check(
        Model(lambda m, x: (lambda y: (looked_at(y), y.sin() + m.conv(up(x)).sum(), m.conv(y)))(up(x)), conv=conv()),
        [image()],
    )
    assert became() == {"resize-convolution"}


def scaled_in_vmap(m, x):
    return torch.vmap(lambda one: up(one[None])[0])(x).mean() + m.conv(up(x))


def in_inference_mode(m, x):
    with torch.inference_mode():
        return m.conv(up(x))


@pytest.mark.parametrize(
    "run", [scaled_in_vmap, lambda m, x: torch.func.vjp(up, x)[1](up(m.conv(x)[:, :1]).expand(-1, 4, -1, -1))[0]]
)
def test_transforms_within_the_model_are_left_alone(run, became):
    check(Model(run, conv=conv()), [image()])
    assert not became()


def test_inference_mode_within_the_model_is_left_alone(became):
    model = randomised(Model(in_inference_mode, conv=conv()))
    x = image()
    assert_same(torch.compile(model, backend=traced)(x), model(x), 1e-5)
    assert not became()


def data_changed(m, x):
    y = up(x)
    y.data.mul_(2)
    return m.conv(y), y.sin(), y.data * 2


def with_coordinates(m, x):
    y, z = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    return m.conv(up(x + (y.reshape(-1) + z.reshape(-1)).to(x.dtype).view(x.shape[2:])))


def expanded(x):
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


@pytest.mark.parametrize(
    "run",
    [
        data_changed,
        with_coordinates,
        lambda m, x: (expanded(x).view(2, -1), m.conv(up(x))),
        lambda m, x: (x.repeat_interleave(2, 2).repeat_interleave(2, 3).view(2, -1), m.conv(up(x))),
        lambda m, x: m.conv(expanded(x)).view(2, -1),
        lambda m, x: m.wide(F.prelu(torch.cat([up(x), up(x)], 1), m.slopes)),
        lambda m, x: m.wide(F.prelu(torch.cat([up(x), up(x)], 1), m.slopes[:1])),
        lambda m, x: m.conv(F.prelu(up(x), m.slopes[:4])),
        lambda m, x: m.wide(F.prelu(up(x).repeat_interleave(2, 1), m.slopes)),
    ],
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_what_is_easily_overlooked(run, order):
    torch._dynamo.reset()
    model = Model(run, conv=conv(), wide=conv(8))
    model.slopes = nn.Parameter(torch.rand(8))
    check(model, [image().to(memory_format=order)])


@pytest.mark.parametrize("outputs", [3, 40])
def test_sizes_of_a_decoder_that_change(outputs, became):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return traced(graph, example_inputs)

    model = randomised(
        Model(lambda m, x: m.conv(F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]))), conv=conv(4, outputs))
    ).double()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 5, 7):
            x = image(batch=batch).double()
            assert_same(compiled(x), model(x))
    assert len(graphs) == 1
    assert became() == {"resize-convolution"}


def test_sizes_that_only_a_run_can_tell(became):
    model = randomised(Model(lambda m, x: m.conv(up(x[x.sum((1, 2, 3)) > 0])), conv=conv())).double()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        x = image(batch=6).double()
        assert_same(torch.compile(model, backend=traced, fullgraph=True)(x), model(x))
    assert not became()


def test_checkpointing(became):
    check(Model(lambda m, x: checkpointed(m, x) + m.conv(up(x)), conv=conv()), [image()])
    assert became() == {"resize-convolution"}


def test_autocast_and_half_types(became):
    model = randomised(Model(lambda m, x: m.conv(up(torch.sigmoid(x))), conv=conv()))
    compiled = torch.compile(model, backend=traced)
    x = image()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        actual, expected = compiled(x), model(x)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_same(actual, expected, 2e-2)
    model.bfloat16()
    assert_same(compiled(x.bfloat16()), model(x.bfloat16()), 2e-2)
    assert became() == {"resize-convolution"}


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_by_its_name_through_inductor(became):
    model = randomised(Model(lambda m, x: m.conv(F.silu(up(x))), conv=conv()))
    x = image()
    expected = results(copy.deepcopy(model), [x])
    optimize(model, x)
    compiled = torch.compile(model, backend="halfstride", options={"max_fusion_size": 32})
    assert_same(results(compiled, [x]), expected, 1e-5)
    assert became() == {"resize-convolution"}


def test_a_graph_that_cannot_be_compiled_once_it_is_rewritten(monkeypatch):
    def fail(graph):
        raise IndexError("not understood")

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "compile_with_inductor", lambda graph, *_: graph.forward)
    monkeypatch.setattr(compiling, "rewritten", fail)
    model, x = Model(lambda m, x: m.conv(up(x)), conv=conv()), image()
    assert_same(torch.compile(model, backend=compiling.backend)(x), model(x), 1e-5)


def test_a_graph_without_upsampling_is_handed_on_as_it_is():
    torch._dynamo.reset()
    seen = []

    def backend(graph, _):
        code = graph.code
        seen.append((compiling.rewritten(graph).code, code))
        return graph.forward

    torch.compile(conv(), backend=backend)(image())
    ((after, before),) = seen
    assert after == before


@pytest.mark.parametrize(
    ("settings", "message"), [({"mode": "fastest"}, "fastest"), ({"options": {"fusion_size": 3}}, "fusion_size")]
)
def test_settings_that_inductor_does_not_know(settings, message):
    torch._dynamo.reset()
    compiled = torch.compile(Model(lambda m, x: m.conv(up(x)), conv=conv()), backend="halfstride", **settings)
    with pytest.raises(Exception, match=message):
        compiled(image())
