"""`optimize` where later calls differ from the example, and where a model does what few models do."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from models_to_optimize import Model, assert_same, conv, image, randomised, up
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from halfstride.optimizing import optimize
from halfstride.optimizing.example import difference

pytestmark = pytest.mark.usefixtures("everything_pays")


def conv1d(kernel=3):
    return nn.Conv1d(4, 4, kernel, padding=kernel // 2)


def signal(length=9, batch=2):
    return torch.randn(batch, 4, length)


def pair(run, *example, gradients=False, **parts):
    """A model as it was, and optimised in inference or also in training; it must have been."""
    parts = {"a": conv1d(), "b": conv1d(kernel=5), "conv": conv(), **parts}
    model = randomised(Model(run, **parts)).double().eval()
    original = copy.deepcopy(model)
    with torch.set_grad_enabled(gradients):
        _, report = optimize(model, tuple(x.double() for x in example))
    assert report.optimized, str(report)
    return original, model


def assert_like(original, model, *inputs):
    """Also the strides: what follows may view."""
    with torch.no_grad():
        expected = original(*inputs)
        assert difference(model(*inputs), expected) <= 1e-10


def only_if_large(change):
    """A model that does something to larger batches than the example's."""

    def run(m, x):
        y = up(m.a(x))
        return m.b(change(m, y) if len(x) > 2 else y)

    return run


def data_replaced(m, y):
    y.data = (y.data * 2)[:, :, :5]
    y.mul_(3)
    y.data.add_(1)
    return y


def data_shared(m, y):
    z = torch.zeros(1, dtype=y.dtype)
    z.data = y
    z.add_(1)
    return z + y


@pytest.mark.parametrize(
    "change",
    [
        data_replaced,
        data_shared,
        lambda m, y: torch.func.vmap(lambda one: F.relu(m.a(one[None]))[0])(y),
        lambda m, y: torch.func.grad(lambda y: F.relu(m.a(y)).sum())(y),
    ],
)
def test_what_happens_to_other_inputs_only(change):
    assert_like(*pair(only_if_large(change), signal()), signal(batch=3).double())


def source_changed(m, x):
    y = m.a(x)
    upsampled = up(y, 3)
    y[:, 0] = 5.0
    return m.b(upsampled)


def source_of_an_expansion_changed(m, x):
    x = x * 1
    repeated = x[..., None].expand(*x.shape, 2).reshape(*x.shape[:-1], -1)
    x.add_(1)
    return m.b(repeated)


@pytest.mark.parametrize("run", [source_changed, source_of_an_expansion_changed])
def test_memory_of_a_signal_of_one_position_is_shared_where_torch_shares_it(run):
    assert_like(*pair(run, signal()), signal(length=1).double())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ConvTranspose2d(4, 8, 4, 2, 1),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 8, 3, padding=1)),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.CircularPad2d(1), nn.Identity(), nn.Conv2d(4, 8, 3)),
    ],
    ids=["transposed", "resize", "circular convolution", "circular padding"],
)
def test_orders_in_memory_and_images_of_one_position(make, order):
    model = randomised(make()).eval().to(memory_format=order)
    original = copy.deepcopy(model)
    with torch.no_grad():
        _, report = optimize(model, image(height=3, width=3))
        assert report.optimized, str(report)
        for x in (image(), image(height=1, width=1)):
            for images in (x, x.clone(memory_format=torch.channels_last)):
                output, expected = model(images), original(images)
                assert difference(output, expected) <= 1e-6
                assert output.stride() == expected.stride()


WRONG = {
    "other channels": lambda m, x: m.conv(up(x[:, :3])),
    "another type": lambda m, x: m.conv(up(x.float())),
    "too few axes": lambda m, x: m.conv(up(x[0, 0])),
    "transposed, too few axes": lambda m, x: F.conv_transpose2d(x[0, 0], m.up.weight, stride=2),
    "transposed, no axes": lambda m, x: F.conv_transpose2d(x.sum(), m.up.weight, stride=2),
    "transposed, no channels": lambda m, x: F.conv_transpose2d(x[:, :0], m.up.weight, stride=2),
    "transposed, a weight of many axes": lambda m, x: F.conv_transpose2d(x, m.up.weight[..., None, None], stride=2),
    "a weight of many axes": lambda m, x: F.conv2d(up(x), m.conv.weight[..., None, None]),
    "negative padding": lambda m, x: F.conv2d(up(x), m.conv.weight, padding=-1),
    "a stride too many": lambda m, x: F.conv2d(up(x), m.conv.weight, stride=(1, 1, 1)),
    "no stride": lambda m, x: F.conv2d(up(x), m.conv.weight, stride=()),
    "a dilation too many": lambda m, x: F.conv2d(up(x), m.conv.weight, dilation=(1, 1, 1)),
    "no groups": lambda m, x: F.conv2d(up(x), m.conv.weight, groups=0),
    "a padding of one axis": lambda m, x: m.conv(F.pad(up(x), (1, 1), "reflect")),
    "a padding without end": lambda m, x: m.conv(F.pad(up(x), (10**9,) * 4, "circular")),
    "a padding of no axis": lambda m, x: m.conv(F.pad(up(x), (), "replicate")),
    "a padding that is a number": lambda m, x: m.conv(F.pad(up(x), 1)),
    "an infinite scale": lambda m, x: m.conv(F.interpolate(x, scale_factor=float("inf"))),
    "a scale that is no number": lambda m, x: m.conv(F.interpolate(x, scale_factor=float("nan"))),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_torch_refuses_is_refused_in_its_words(wrong):
    def run(m, x, go_wrong=False):
        return wrong(m, x) if go_wrong else (m.conv(up(x)), m.up(x))

    original, model = pair(run, image(), up=nn.ConvTranspose2d(4, 3, 3, 2))
    x = image().double()
    with torch.no_grad():
        with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever torch says of it
            original(x, True)
        with pytest.raises(expected.type) as raised:
            model(x, True)
    assert str(raised.value) == str(expected.value)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # which forward_ad scripts by
def test_tangents_pass_through():
    original, model = pair(lambda m, x: m.conv(torch.tanh(up(x))), image())
    with torch.no_grad(), forward_ad.dual_level():
        x = image().double()
        outputs = [forward_ad.unpack_dual(each(forward_ad.make_dual(x, x + 1))) for each in (model, original)]
    assert_same(*(output.tangent for output in outputs))


def test_gradients_of_an_upsampled_tensor_that_is_handed_out():
    def run(m, x):
        upsampled = up(x)
        return upsampled, m.conv(upsampled)

    original, model = pair(run, image(), gradients=True)
    x = image().double().requires_grad_()
    gradients = []
    for each in (model, original):
        upsampled, output = each(x)
        gradients.append(torch.autograd.grad(output.square().sum(), upsampled))
    assert_same(*gradients)


def test_a_model_that_cannot_be_trained_is_optimised_for_inference():
    def run(m, x):
        return torch.tanh(m.conv(up(x))).mul_(2)  # tanh needs its result for the gradient

    original, model = pair(run, image(), gradients=True)
    assert_like(original, model, image().double())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("registered", [True, False])
def test_attention_keeps_its_fast_path(registered):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1).eval()
    parts = {"encoder": encoder} if registered else {}
    model = Model(lambda m, x, mask: m.a(up(encoder(x, src_key_padding_mask=mask).mT)), a=conv1d(), **parts).eval()
    original = copy.deepcopy(model)
    _, report = optimize(model, (torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool)))
    assert not report.optimized
    if registered:
        assert "it stands beside attention, whose fast path would be lost" in {row.reason for row in report.rows}
    mask = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    x = torch.randn(2, 6, 4)
    with torch.no_grad():
        assert_same(model(x, mask), original(x, mask), 1e-6)


@dataclass
class Sample:
    image: torch.Tensor
    others: list


def test_a_dataclass_as_output():
    original, model = pair(lambda m, x: Sample(m.conv(up(x)), [m.a(x[:, :, 0]), Sample(up(x), [])]), image(width=9))
    with torch.no_grad():
        x = image(width=9).double()
        ours, theirs = model(x), original(x)
    assert type(ours.image) is type(ours.others[0]) is type(ours.others[1].image) is torch.Tensor
    assert_same([ours.image, ours.others[0], ours.others[1].image], [theirs.image, theirs.others[0], up(x)])


def test_an_output_that_nobody_can_look_into_is_left():
    class Box:
        def __init__(self, held):
            self.held = held

    _, report = optimize(Model(lambda m, x: Box(m.conv(up(x))), conv=conv()), image())
    assert not report.optimized
    assert report.note == "the output holds no tensors that could be compared"


def test_buffers_that_are_replaced_shared_or_of_inference_are_left_as_found():
    model = Model(lambda m, x: m.norm(count(m, m.conv(up(x)))), conv=conv(), norm=nn.LazyBatchNorm2d())

    def count(m, x):
        m.calls = m.calls + 1
        m.total += 1
        return x + m.shared.sum()

    model.register_buffer("calls", torch.zeros(()))
    model.register_buffer("shared", torch.ones(1).expand(3))
    with torch.inference_mode():
        model.register_buffer("total", torch.zeros(()))
    calls = model.calls
    with torch.inference_mode():
        optimize(model, image())
    assert model.calls is calls
    assert model.calls == model.total == 0


def test_an_example_that_the_model_changes_is_left_as_found():
    x = image()
    before = x.clone()
    optimize(Model(lambda m, x: m.conv(up(x.add_(1))), conv=conv()), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("part", [lambda m, x: m.conv(up(x[None]))[0], lambda m, x: m.conv(x[None])[0]])
def test_transforms_inside_of_a_model(part):
    model = randomised(Model(lambda m, x: torch.func.vmap(lambda one: part(m, one))(x) + m.conv(x).mean(), conv=conv()))
    original = copy.deepcopy(model)
    optimize(model, image())
    assert_same(model(image(batch=1)).shape, original(image(batch=1)).shape)


def test_operators_are_recorded_as_they_were():
    model = nn.Sequential(conv1d(), nn.Upsample(scale_factor=2), conv1d())
    with torch.no_grad():
        _, report = optimize(model, signal())
        assert report.optimized
        graph = make_fx(model)(signal())
    assert [node.target for node in graph.graph.nodes].count(torch.ops.aten.convolution.default) == 2


def test_example_inputs_that_cannot_be_compared():
    model = Model(lambda m, x, mask: m.conv(up(x)) * mask.to_dense().sum(), conv=conv())
    _, report = optimize(model, (image(), torch.eye(3).to_sparse()))
    assert report.optimized


def test_a_coordinate_grid_of_repeated_numbers():
    def run(m, x):
        y, z = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
        grid = y.reshape(-1) + z.reshape(-1)
        return m.conv(up(x + grid.view(5, 6)))

    original, model = pair(run, image())
    assert_like(original, model, image().double())


def test_a_call_that_a_rule_fails_at_is_left_to_torch(monkeypatch):
    from halfstride import functional

    def fail(*_):
        raise IndexError("not understood")

    original, model = pair(lambda m, x: m.conv(up(x)), image())
    monkeypatch.setattr(functional, "plan", fail)
    assert_like(original, model, image().double())
