"""`optimize` on models written in many ways: what it finds, and that the results stay what they were."""

import copy

import models_to_optimize as models
import pytest
import torch
import torch.nn.functional as F
from models_to_optimize import Model, assert_same, check, compared, conv, image, randomised, up
from torch import nn

from halfstride.optimizing import optimize

pytestmark = pytest.mark.usefixtures("everything_pays")


@pytest.mark.parametrize("run", models.FOUND.values(), ids=models.FOUND)
def test_found_and_right(run):
    model = randomised(Model(run, up=nn.Upsample(scale_factor=2), conv=conv()))
    check(model, image(), others=[[image(height=7, width=4, batch=1)]])


@pytest.mark.parametrize("run", models.ONE_BY_ONE.values(), ids=models.ONE_BY_ONE)
def test_one_by_one_convolutions_come_before_the_upsampling(run):
    model = randomised(Model(run, conv=conv(), one=conv(kernel=1), last=conv(3)))
    _, report = check(model, image(), finds=2)
    assert any(row.became == "conv2d 4→3 before the upsampling (1×1 first)" for row in report.rows)


@pytest.mark.parametrize("run", models.CAT.values(), ids=models.CAT)
def test_concatenation_with_a_skip_connection(run):
    model = randomised(Model(run, conv=conv(7)))
    _, report = check(model, image(), image(3, 10, 12), others=[[image(4, 3, 6, 1), image(3, 6, 12, 1)]])
    assert "resize-convolution of the parts" in report.rows[0].became


def test_slopes_of_channels_that_are_joined():
    model = randomised(Model(lambda m, x: m.wide(m.act(torch.cat([up(x), up(x)], 1))), wide=conv(8), act=nn.PReLU(8)))
    check(model, image(), finds=0)
    check(randomised(Model(lambda m, x: m.conv(m.act(up(x))), conv=conv(), act=nn.PReLU(4))), image())


@pytest.mark.parametrize("run", models.LEFT.values(), ids=models.LEFT)
def test_left_as_it_was_and_right(run):
    check(randomised(Model(run, conv=conv(), conv4=conv(4, 4))), image(width=6), finds=0)


@pytest.mark.parametrize("run", models.IN_PLACE.values(), ids=models.IN_PLACE)
def test_changes_in_place(run):
    def forward(m, x):
        return run(m, x), m.other(up(x)), m.other(up(x[:, :2]).repeat(1, 2, 1, 1)), m.two(up(x[:, :2]))

    compared(Model(forward, conv=conv(), other=conv(), two=conv(2)))


@pytest.mark.parametrize("run", models.CLOSE.values(), ids=models.CLOSE)
def test_code_that_looks_closely(run):
    model, original = compared(Model(lambda m, x: (run(m, x), m.other(up(x))), conv=conv(), other=conv(), wide=conv(8)))
    if hasattr(model, "kept"):
        assert_same(model.kept, original.kept)
    x = image().double().requires_grad_()
    first, _ = model(x)
    (gradient,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    if gradient.requires_grad:
        again, _ = original(x)
        (expected,) = torch.autograd.grad(again.sum(), x, create_graph=True)
        seconds = [torch.autograd.grad((each**2).sum(), x, materialize_grads=True) for each in (gradient, expected)]
        assert_same(*seconds)


def test_memory_that_another_tensor_takes():
    def run(m, x):
        y = up(x)
        y.set_(up(x + 1))
        return m.conv(x.new_empty(0).set_(y)) + m.conv(y), m.other(up(x))

    model = randomised(Model(run, conv=conv(), other=conv())).double()
    original, x = copy.deepcopy(model), image().double()
    with torch.no_grad():
        _, report = optimize(model, x)
        assert report.optimized, str(report)
        assert_same(model(x), original(x))


def asked_for_its_class(y):
    assert type(y) is torch.Tensor
    return y


@pytest.mark.parametrize(
    ("look", "error"),
    [
        (asked_for_its_class, "AssertionError"),
        (lambda y: torch.from_dlpack(torch.utils.dlpack.to_dlpack(y)), "RuntimeError"),
        (lambda y: nn.Parameter(y, requires_grad=False), "RuntimeError"),
    ],
    ids=["class", "to_dlpack", "Parameter"],
)
def test_a_model_that_does_not_bear_being_looked_into_is_left_as_it_was(look, error):
    def run(model, x):
        return model.conv(up(x)) + model.conv(look(up(x)))

    model, x = Model(run, conv=nn.Conv2d(4, 3, 3)), torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        expected = model(x)
        _, report = optimize(model, x)
        assert not report.optimized
        assert f"raises {error} when its upsampling is rewritten" in str(report)
        found, *_ = report.rows
        assert (found.was, found.became) == ("nearest ×2, conv2d 4→3 k3", "")
        assert torch.equal(model(x), expected)
    assert "forward" not in vars(model)


def test_an_example_may_be_expanded_and_hold_no_numbers():
    model = Model(lambda model, x: model.conv(up(x)), conv=nn.Conv2d(4, 3, 3))
    x = torch.full((1,), float("nan")).expand(1, 4, 5, 6)
    optimize(model, x)
    assert x.isnan().all()


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_a_hook_before_a_module_keeps_has_gradients(everywhere):
    kept = []
    model = Model(lambda model, x: model.conv(up(model.first(x))), first=nn.Conv2d(4, 4, 1), conv=nn.Conv2d(4, 3, 3))
    optimize(model, torch.randn(1, 4, 5, 6))

    def keep(module, inputs):
        if module is model.conv:
            kept.append(inputs[0])

    register = (
        nn.modules.module.register_module_forward_pre_hook if everywhere else model.conv.register_forward_pre_hook
    )
    handle = register(keep)
    try:
        (gradient,) = torch.autograd.grad(model(torch.randn(1, 4, 5, 6)).sum(), kept)
    finally:
        handle.remove()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("run", "length"),
    [
        (lambda model, x: model.conv(F.interpolate(x, scale_factor=40.0, mode="nearest")), 600_000),
        (lambda model, x: model.conv(F.interpolate(x, scale_factor=1000.0, mode="nearest-exact")), 9000),
        (lambda model, x: (model.conv(x.repeat_interleave(1000, -1)), x.repeat_interleave(1000, -1)), 9000),
    ],
    ids=["nearest", "nearest-exact", "repeat_interleave"],
)
def test_signals_so_long_that_nearest_errs_stay_what_they_were(run, length):
    model = Model(run, conv=nn.Conv1d(1, 1, 3))
    original, x = copy.deepcopy(model), torch.randn(1, 1, length)
    with torch.no_grad():
        optimize(model, torch.randn(1, 1, 50))
        assert_same(model(x), original(x), 1e-5)
