"""The layers in what surrounds them: compiled, exported, copied, pickled, reparametrised, distributed, transformed."""

import copy
import io
import pickle
import shutil

import pytest
import torch
from torch import nn

from halfstride import layers
from halfstride._core.algorithms import ALGORITHMS, products
from tolerance import assert_close

LAYERS = {
    "transposed": lambda: layers.ConvTranspose2d(3, 4, 3, 2, 1, 1),
    "transposed-same": lambda: layers.ConvTranspose2d(3, 4, 4, (2, 3), "same", groups=1, dilation=(1, 2)),
    "transposed-pairs": lambda: layers.ConvTranspose2d(3, 4, 4, 2, ((0, 1), (2, 1)), padding_mode="reflect"),
    "resize": lambda: layers.ResizeConv2d(3, 4, 3),
    "resize-pairs": lambda: layers.ResizeConv2d(3, 4, 4, (2, 3), ((1, 0), (-1, 2)), padding_mode="zeros", bias=False),
    "resize-replicate": lambda: layers.ResizeConv2d(3, 4, 3, padding_mode="replicate"),
    "subpixel": lambda: layers.SubpixelConv2d(3, 4, 3),
    "subpixel-uneven": lambda: layers.SubpixelConv2d(3, 4, 3, (2, 3), 1, padding_mode="circular"),
}
OTHER_DIMENSIONS = {
    f"{name}-{axes}d": getattr(layers, f"{kind}{axes}d")
    for name, kind in (("transposed", "ConvTranspose"), ("resize", "ResizeConv"), ("subpixel", "SubpixelConv"))
    for axes in (1, 3)
}


def made(name):
    """A layer, and an input for it."""
    if name in LAYERS:
        return LAYERS[name](), torch.randn(2, 3, 5, 6)
    options = {"stride": 2, "padding": 1} if name.startswith("transposed") else {}
    return OTHER_DIMENSIONS[name](3, 4, 3, **options), torch.randn(2, 3, *((7,) if name.endswith("1d") else (2, 3, 4)))


@pytest.fixture(autouse=True)
def _forget_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_same_with_gradients(compiled, layer, x):
    x.requires_grad_()
    output, expected = compiled(x), layer(x)
    assert_close(output, expected)
    inputs, gradient = [x, *layer.parameters()], torch.randn_like(expected)
    found = torch.autograd.grad(output, inputs, gradient)
    for one, other in zip(found, torch.autograd.grad(expected, inputs, gradient), strict=True):
        assert_close(one, other)


OF_TORCH_ABOUT_ITSELF = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@OF_TORCH_ABOUT_ITSELF
@pytest.mark.parametrize(
    "layer",
    [
        layers.ConvTranspose1d(3, 4, 4, 2, "same"),
        layers.ConvTranspose1d(3, 17, 4, 2, "same"),
        layers.ResizeConv1d(3, 4, 3),
        layers.SubpixelConv1d(3, 4, 3),
    ],
    ids=repr,
)
def test_compile_in_one_graph_for_all_sizes(layer):
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((2, 3, 7), (3, 3, 10)):
        assert_same_with_gradients(compiled, layer, torch.randn(size))


@OF_TORCH_ABOUT_ITSELF
def test_compile_with_an_output_size():
    layer = layers.ConvTranspose1d(3, 4, 3, 2, 1)
    compiled = torch.compile(lambda x, like: layer(x, like.shape), backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (13, 14):
        assert compiled(torch.randn(2, 3, 7), torch.empty(2, 4, size)).shape == (2, 4, size)


@OF_TORCH_ABOUT_ITSELF
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compile_every_algorithm_in_one_graph(algorithm):
    layer = layers.ResizeConv1d(3, 4, 3, algorithm=algorithm)
    assert_same_with_gradients(torch.compile(layer, backend="aot_eager", fullgraph=True), layer, torch.randn(2, 3, 7))


@OF_TORCH_ABOUT_ITSELF
def test_compile_products_by_convolutions(monkeypatch):
    monkeypatch.setattr(products, "_LEAST", 0)
    layer, convolved = layers.ConvTranspose2d(3, 2, 4, 2, 1, algorithm="scatter"), []
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr(products.F, "conv2d", lambda *of: convolved.append(1) or conv2d(*of))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((2, 3, 5, 4), (3, 3, 7, 6)):
        x = torch.randn(size).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            assert_close(compiled(x), layer(x))
    assert convolved


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
@pytest.mark.parametrize("last", [True, False])
def test_compile_to_machine_code(last):
    layer, x = layers.ConvTranspose2d(3, 2, 3, 2, 1, 1), torch.randn(2, 3, 5, 4)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    assert_same_with_gradients(torch.compile(layer, fullgraph=True), layer, x)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
def test_compile_to_machine_code_in_inference():
    layer, x = layers.ResizeConv1d(3, 2, 3), torch.randn(1, 3, 5)
    with torch.no_grad():
        assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_export_for_any_batch_and_height(name):
    layer, x = LAYERS[name]().eval(), torch.randn(2, 3, 5, 6)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (x,), dynamic_shapes={"input": {0: auto, 2: auto}})
    for size in ((2, 3, 5, 6), (4, 3, 9, 6)):
        x = torch.randn(size)
        assert_close(program.module()(x), layer(x))


def run_onnx(layer, x):
    """The output of a layer exported to ONNX and run by ONNX Runtime, and the kinds of its operators."""
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(layer.eval(), (x,), dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output), {node.op_type for node in program.model_proto.graph.node}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", [*LAYERS, *OTHER_DIMENSIONS])
def test_a_trace_is_the_layer_at_the_size_it_was_traced_at(name, gradients):
    layer, x = made(name)
    with torch.set_grad_enabled(gradients):
        assert_close(torch.jit.trace(layer, x)(x), layer(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["transposed", "resize", "resize-replicate", "subpixel", "resize-1d", "resize-3d"])
def test_what_torchs_operators_can_say_holds_at_other_sizes_of_a_trace(name):
    layer, x = made(name)
    traced = torch.jit.trace(layer, x)
    x = torch.randn(3, 3, *(n + 4 for n in x.shape[2:]))
    assert_close(traced(x), layer(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter about itself
@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("transposed-same", {"ConvTranspose"}),
        ("transposed-pairs", {"Pad", "ConvTranspose", "Slice"}),
        ("resize", {"Resize", "Conv"}),
        ("resize-pairs", {"Resize", "Pad", "Slice", "Conv"}),
        ("subpixel", {"Conv", "DepthToSpace"}),
        ("subpixel-3d", {"Conv", "Reshape", "Transpose"}),
    ],
)
def test_onnx_of_standard_operators_gives_equal_results(name, operators):
    layer, x = made(name)
    output, found = run_onnx(layer, x)
    assert_close(output, layer(x).detach())
    assert found == operators


@pytest.mark.parametrize("name", [*LAYERS, *OTHER_DIMENSIONS])
def test_deepcopy_and_pickle(name):
    layer, x = made(name)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
        assert repr(other) == repr(layer)
        assert other.weight is not layer.weight


@pytest.mark.parametrize("name", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize(
    "reparametrize", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_parametrizations(name, reparametrize):
    layer = reparametrize(LAYERS[name]())
    x = torch.randn(2, 3, 5, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    before = layer(x).square().mean()
    before.backward()
    optimizer.step()
    assert layer(x).square().mean() < before
    again = pickle.loads(pickle.dumps(layer.state_dict()))
    other = reparametrize(LAYERS[name]())
    other.load_state_dict(again)
    assert_close(other.eval()(x), layer.eval()(x))


def test_spectral_norm_takes_the_output_channels_of_a_transposed_convolution():
    layer = nn.utils.parametrizations.spectral_norm(LAYERS["transposed"]())
    assert layer.parametrizations.weight[0].dim == 1


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(layers.ConvTranspose2d(3, 4, 3, 2), layers.ResizeConv2d(4, 3, 3))
        alone = copy.deepcopy(model)
        x = torch.randn(2, 3, 5, 6)
        nn.parallel.DistributedDataParallel(model)(x).square().sum().backward()
        alone(x).square().sum().backward()
        for one, other in zip(model.parameters(), alone.parameters(), strict=True):
            assert_close(one.grad, other.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", LAYERS)
def test_an_ensemble_by_vmap(name):
    models, x = [LAYERS[name]() for _ in range(3)], torch.randn(2, 3, 5, 6)
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def call(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    outputs = torch.vmap(call, (0, 0, None))(parameters, buffers, x)
    assert_close(outputs, torch.stack([model(x) for model in models]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's rules for forward-mode differentiation
@pytest.mark.parametrize("name", ["transposed-pairs", "resize", "subpixel"])
def test_forward_mode_differentiation(name):
    layer, x, tangent = LAYERS[name](), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    _, found = torch.func.jvp(layer, (x,), (tangent,))
    assert_close(found, layer(x + tangent) - layer(x))


@pytest.mark.parametrize("name", [*LAYERS, *OTHER_DIMENSIONS])
def test_built_on_the_meta_device_and_materialised(name):
    expected, x = made(name)
    with torch.device("meta"):
        layer, empty = made(name)
    assert layer(empty).shape == expected(x).shape
    layer.to_empty(device="cpu").load_state_dict(expected.state_dict())
    assert_close(layer(x), expected(x))
