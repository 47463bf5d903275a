"""`optimize` on whole models, in the states that models are in, and what it decides."""

import contextlib
import copy
import json
import pickle
import random
import threading

import models_to_optimize as models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models_to_optimize import Model, assert_same, check, compared, conv, image, prefer, randomised, results, up
from torch import nn
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

import halfstride
from halfstride._core.algorithms import folded, packed
from halfstride._support import weight_cache
from halfstride.optimizing import optimize
from halfstride.optimizing.example import Example
from halfstride.optimizing.report import Times

pytestmark = pytest.mark.usefixtures("everything_pays")

# Architectures --------------------------------------------------------------------------------------------------------

ARCHITECTURES = {
    "VAE decoder": (models.vae_decoder, [(2, 4, 5, 6)], [(1, 4, 3, 4)], 2),
    "U-Net": (lambda: models.UNet().eval(), [(2, 3, 16, 24)], [(1, 3, 8, 12)], 3),
    "U-Net, odd size": (lambda: models.UNet().eval(), [(2, 3, 16, 24)], [(1, 3, 13, 11)], 3),
    "GAN": (models.gan_generator, [(2, 8, 2, 3)], [(3, 8, 1, 1)], 3),
    "normalised in between": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), conv()).eval(),
        [(2, 4, 5, 6)], [(3, 4, 3, 2)], 1,
    ),
    "vocoder": (models.Vocoder, [(2, 6, 5)], [(1, 6, 9)], 2),
    "volumes": (
        lambda: nn.Sequential(nn.ConvTranspose3d(4, 3, 2, 2), nn.Upsample(scale_factor=(1, 2, 2)), nn.Conv3d(3, 2, 3)),
        [(1, 4, 2, 3, 2)], [(2, 4, 3, 2, 2)], 2,
    ),
    "signals": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=3), nn.Conv1d(4, 3, 5, padding=2)), [(2, 4, 5)], [(1, 4, 9)], 1
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "example", "other", "finds"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architectures(make, example, other, finds):
    others = [[torch.randn(shape) for shape in other]]
    check(make(), *(torch.randn(shape) for shape in example), finds=finds, others=others)


@contextlib.contextmanager
def ran_folded():
    """A list of the calls of the algorithm that everything uses here."""
    ran, compute = [], folded.compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folded, "compute", lambda *arguments: ran.append(arguments) or compute(*arguments))
        yield ran


# States ---------------------------------------------------------------------------------------------------------------
def simple():
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=2), conv(), nn.ConvTranspose2d(3, 2, 2, 2))


@pytest.fixture
def pair():
    """A model in float64, optimised, and as it was."""
    model = randomised(simple()).double()
    original = copy.deepcopy(model)
    model, report = optimize(model, image().double())
    assert [row.became for row in report.rows] == ["resize-convolution (folded)", "transposed convolution (phases)"]
    return model, original


def test_weights_that_change(pair):
    model, original = pair
    x = image().double()
    for _ in range(2):
        for each in pair:
            each.zero_grad()
            each(x).square().mean().backward()
            torch.optim.SGD(each.parameters(), 0.1).step()
        assert_same(model(x), original(x))
    fresh = randomised(simple()).double()
    model.load_state_dict(fresh.state_dict())
    assert_same(model(x), fresh(x))
    with torch.no_grad():
        model[2].weight.data = fresh[2].weight * 2
        fresh[2].weight.mul_(2)
    assert_same(model(x), fresh(x))


def test_other_types_and_devices(pair):
    model, original = (each.float() for each in pair)
    x = image()
    assert_same(model(x), original(x), 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert_same(model(x), original(x), 3e-2)
    model, original = (each.bfloat16() for each in (model, original))
    assert_same(model(x.bfloat16()), original(x.bfloat16()), 3e-2)
    assert model.to("meta")(x.bfloat16().to("meta")).shape == original(x.bfloat16()).shape


def test_no_batch_and_an_empty_one(pair):
    model, original = pair
    one = nn.Sequential(*list(model)[3:]), nn.Sequential(*list(original)[3:])
    x = image(3)[0].double()
    assert_same(one[0](x), one[1](x))
    assert_same(model(image(batch=0).double()), original(image(batch=0).double()))


def test_copies_go_their_own_way(pair):
    model, original = pair
    x = image().double()
    twin = copy.deepcopy(model)
    loaded = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        model[2].weight.zero_()
    for each in (twin, loaded):
        assert_same(each(x), original(x))
        assert each.forward.module is each


def test_undo_and_again(pair):
    model, original = pair
    _, report = optimize(model, image().double())
    assert report.optimized
    assert model.forward.original is None
    report.undo()
    assert not report.note
    assert not report.optimized
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model(image(height=3).double() * 0), original(image(height=3).double() * 0))


def test_a_forward_that_somebody_replaced():
    model = simple()
    inner = model.forward
    model.forward = lambda x: 2 * inner(x)
    x, expected = image(), model.forward
    before = model(x)
    _, report = optimize(model, x)
    assert report.optimized
    assert_same(model(x), before, 1e-5)
    report.undo()
    assert model.forward is expected


def test_undo_of_a_forward_that_was_wrapped_since():
    model = simple()
    x, original = image(), copy.deepcopy(model)
    _, report = optimize(model, x)
    assert report.optimized
    wrapped = model.forward
    model.forward = lambda x: 2 * wrapped(x)
    report.undo()
    assert report.note == "wrapped by other code since, and left so: forward"
    with ran_folded() as ran:
        assert torch.equal(model(x), 2 * original(x))
    assert not ran


def test_what_a_mode_of_other_code_records():
    model = nn.Sequential(nn.Upsample(scale_factor=2), conv())
    optimize(model, image())
    with Calls() as calls, ran_folded() as ran:
        model(image())
    assert {F.interpolate, F.conv2d} <= calls.functions
    assert not ran
    with torch.device("cpu"), ran_folded() as ran:  # a mode too
        model(image())
    assert ran


def test_frozen_weights_follow_recorded_changes_until_undone():
    model, x = models.vae_decoder().eval(), torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        model, report = optimize(model, x, freeze=True)
        assert report.optimized
        assert report.frozen
        assert "weights frozen" in str(report)
        assert weight_cache.frozen(model) == list(model.parameters())
        model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})
        changed = model(x)
        report.undo()
        assert_same(changed, model(x), tolerance=1e-4)
    assert not report.frozen
    assert weight_cache.frozen(model) == []
    halfstride.freeze(model[0])
    with pytest.raises(ValueError, match="raises"):
        optimize(model, torch.randn(1, 5, 2, 2), freeze=True)
    assert len(weight_cache.frozen(model)) == len(list(model[0].parameters()))


def test_an_earlier_report_undoes_nothing_of_a_later_one():
    model = simple()
    _, first = optimize(model, image())
    _, second = optimize(model, image())
    first.undo()
    assert second.optimized
    assert "forward" in vars(model)
    second.undo()
    assert "forward" not in vars(model)


class Autoencoder(nn.Module):
    """Upsamples in `decode`, half of it in a method of its own."""

    def __init__(self):
        super().__init__()
        self.down, self.conv, self.last = conv(3, 4, stride=2), conv(4, 4), conv(4, 3)

    def encode(self, x):
        return self.down(x)

    @torch.no_grad()
    def decode(self, z):
        return self.last(self.enlarge(self.conv(self.enlarge(z))))

    def enlarge(self, z):
        return up(z)

    def forward(self, x):
        return self.decode(self.encode(x))


def test_methods_other_than_forward():
    model = randomised(Autoencoder())
    original, x, z = copy.deepcopy(model), torch.randn(1, 3, 8, 8), image()
    _, report = optimize(model, x)
    assert [row.where for row in report.rows if row.became] == ["conv", "last"]
    assert [name for name in vars(model) if not name.startswith("_")] == ["training", "decode"]
    with ran_folded() as ran:
        assert_same(model.decode(z), original.decode(z), 1e-5)
    assert len(ran) == 2
    assert_same(model(x), original(x), 1e-5)
    report.undo()
    assert [name for name in vars(model) if not name.startswith("_")] == ["training"]


def test_another_thread_runs_its_model_meanwhile():
    entered, left = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def forward(self, x):
            entered.set()
            assert left.wait(60)
            return up(x)

    served = nn.Sequential(nn.Sequential(Slow()), conv())
    x, results = image(), []
    thread = threading.Thread(target=lambda: results.append(served(x)))
    thread.start()
    entered.wait(60)
    model = simple()
    _, report = optimize(model, x)
    left.set()
    thread.join()
    assert len(results) == 1
    assert report.optimized
    assert {row.where for row in report.rows} == {"2", "3"}
    assert not any("forward" in vars(module) for module in served.modules())


class Calls(TorchFunctionMode):
    """Notes which functions of torch are called."""

    def __init__(self):
        super().__init__()
        self.functions = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.add(func)
        return func(*args, **(kwargs or {}))


def test_draws_of_a_model_are_alike_in_every_run_and_leave_no_trace():
    sources = [random.random, np.random.rand, lambda: torch.rand(()).item()]

    def run(m, x):
        return m.conv(up(x)) * sum(draw() for draw in sources)

    def seed():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    model, x = Model(run, conv=conv()), image()
    seed()
    expected = [draw() for draw in sources]
    seed()
    _, report = optimize(model, x)
    assert report.optimized, str(report)
    assert [draw() for draw in sources] == expected


def test_shared_modules_and_tied_weights():
    shared = conv(4, 4)
    model = randomised(
        Model(lambda m, x: m.last(m.up(m.a(m.up(m.a(x))))), a=shared, up=nn.Upsample(scale_factor=2), last=conv(4, 4))
    )
    model.last.weight = shared.weight
    check(model, image(), finds=2, others=[[image(batch=1)]])


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights(normalise):
    model = nn.Sequential(nn.Upsample(scale_factor=2), normalise(conv()), normalise(nn.ConvTranspose2d(3, 2, 3, 2)))
    model.eval()
    model, original = model.double(), copy.deepcopy(model).double()
    model, report = optimize(model, image().double())
    assert len([row for row in report.rows if row.became]) == 2
    for train in (False, True):
        model.train(train)
        original.train(train)
        x = image().double()
        assert_same(results(model, [x]), results(original, [x]))


def test_hooks_see_what_they_saw():
    seen = {}

    def look(name):
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    model = randomised(simple()).double()
    model, original = optimize(model, image().double())[0], copy.deepcopy(model)
    for name, each in (("ours", model), ("theirs", original)):
        each[1].register_forward_hook(look(name))
        each[1].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    x = image().double()
    with torch.no_grad():
        assert_same(model(x), original(x))
    outputs = [model(x), original(x)]
    gradients = [
        torch.autograd.grad(output.sum(), seen[name][-1])
        for output, name in zip(outputs, ("ours", "theirs"), strict=True)
    ]
    assert_same(*gradients)
    assert_same(seen["ours"], seen["theirs"])


def test_full_backward_hooks(pair):
    calls = []
    for each in pair:
        each[1].register_full_backward_hook(lambda module, gave, got: calls.append((gave, got)))
    x = image().double()
    assert_same(results(pair[0], [x]), results(pair[1], [x]))
    assert len(calls) == 2
    assert_same(*calls)


def test_gradient_checkpointing():
    def forward(m, x):
        return torch.utils.checkpoint.checkpoint(lambda y: m.conv(F.silu(up(y))), x, use_reentrant=False).mean((2, 3))

    compared(Model(forward, conv=conv()))


def test_running_statistics_and_random_numbers_stay():
    model = nn.Sequential(nn.Upsample(scale_factor=2), conv(), nn.BatchNorm2d(3), nn.Dropout())
    before = copy.deepcopy(model.state_dict())
    x = image()
    state = torch.get_rng_state()
    gradient = model[1].weight.grad
    optimize(model, x)
    assert_same(model.state_dict(), before, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert model[1].weight.grad is gradient


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_under_transforms_tracing_and_compilation_it_is_the_original(pair):
    model, original = pair
    x = image().double()
    assert_same(torch.func.vmap(model)(x[:, None])[:, 0], original(x))
    assert_same(torch.jit.trace(model, x)(x), original(x))
    assert_same(torch.export.export(model, (x,)).module()(x), original(x))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_same(compiled(x), original(x))


# Decisions ------------------------------------------------------------------------------------------------------------
def clock(monkeypatch, *ratios):
    """Say how many times as long the changed model takes, in inference and in training."""
    monkeypatch.setattr(Example, "times", lambda self, gradients, _: Times(1.0, ratios[gradients]))


def test_the_planner_decides(monkeypatch):
    prefer(monkeypatch, resize=("by_parts",))
    model, report = optimize(simple(), image())
    resize, transposed = report.rows
    assert resize.became == "resize-convolution (by_parts)"
    assert (transposed.became, transposed.reason) == ("", "torch's own operator is predicted to be the fastest")
    assert report.optimized
    assert report.inference.speedup == report.training.speedup == 10
    report.undo()
    prefer(monkeypatch)
    _, report = optimize(model, image())
    assert not report.optimized
    assert report.note == "no upsampling that can be faster"


def test_a_heavy_transposed_convolution_that_is_frozen_keeps_its_kernel_packed(monkeypatch):
    prefer(monkeypatch, transposed=("native",))
    model = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1))
    x = torch.randn(1, 64, 4, 4)
    expected = model(x)
    with torch.no_grad():
        _, report = optimize(model, x)
        assert report.rows[0].became == ""
        model, report = optimize(model, x, freeze=True)
        assert report.rows[0].became == "transposed convolution (native)"
        assert report.training is None  # without gradients it is not measured
        calls, compute = [], packed.transposed
        monkeypatch.setattr(packed, "transposed", lambda *arguments: calls.append(1) or compute(*arguments))
        torch.testing.assert_close(model(x), expected)
        assert calls
        model[0].weight.mul_(2)
        model[0].bias.mul_(2)
        torch.testing.assert_close(model(x), 2 * expected)


@pytest.mark.parametrize("ratios", [(0.98, 0.99), (1.5, 1.5)])
def test_a_model_that_is_not_faster_as_a_whole_is_left(monkeypatch, ratios):
    clock(monkeypatch, *ratios)
    model, report = optimize(simple(), image())
    assert not report.optimized
    assert report.note == "the model as a whole is not faster"
    assert {row.reason for row in report.rows} == {report.note}
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("ratios", [(0.5, 1.0), (1.0, 0.5)])
def test_inference_and_training_are_decided_apart(monkeypatch, ratios):
    clock(monkeypatch, *ratios)
    model = nn.Sequential(nn.Upsample(scale_factor=2), conv())
    _, report = optimize(model, image())
    assert report.optimized
    for gradients, ratio in enumerate(ratios):
        with torch.set_grad_enabled(bool(gradients)), ran_folded() as ran:
            model(image())
        assert bool(ran) == (ratio < 1)


def test_how_often_the_model_runs(monkeypatch):
    monkeypatch.undo()  # the clock too
    prefer(monkeypatch, resize=("folded",))
    model, runs = nn.Sequential(nn.Upsample(scale_factor=2), conv()), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        optimize(model, image())
    assert len(runs) <= 25


@torch.no_grad()
def test_a_model_that_upsamples_another_size_in_every_run():
    def forward(m, x):
        m.calls += 1
        return m.conv(up(x[..., : 2 + m.calls]))

    model = Model(forward, conv=conv())
    model.calls = 0
    _, report = optimize(model, image(width=20))
    assert report.note == "the result differs by inf"


def test_a_wrong_result_is_never_kept(monkeypatch):
    from halfstride._core.algorithms import ALGORITHMS

    right = ALGORITHMS["phases"].compute
    monkeypatch.setattr(ALGORITHMS["phases"], "compute", lambda *arguments: right(*arguments) * 1.001)
    model, report = optimize(nn.ConvTranspose2d(4, 3, 2, 2), image())
    assert not report.optimized
    assert report.note == report.rows[0].reason == "the result differs by 1e-03"
    assert "forward" not in vars(model)


def test_a_wrong_gradient_is_never_kept(monkeypatch):
    from halfstride.optimizing import optimizer

    for differences, note in (
        ((0.0, 0.0, 0.0, 0.05), "the result differs by 0e+00, a gradient by 5e-02"),
        ((float("nan"), 0.0), "the result differs by nan"),
    ):
        found = iter(differences)
        monkeypatch.setattr(optimizer, "difference", lambda *_, found=found, **__: next(found))
        model, report = optimize(simple(), image())
        assert not report.optimized
        assert report.note == note
        assert "forward" not in vars(model)


def test_the_modules_that_are_changed_are_the_smallest():
    model = Model(
        lambda m, x: m.inner(m.first(x)), inner=nn.Sequential(nn.Upsample(scale_factor=2), conv()), first=conv(4, 4)
    )
    _, report = optimize(model, image())
    assert report.rows[0].where == "inner.1"
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == ["inner"]


# The report, and bad input --------------------------------------------------------------------------------------------
def test_the_report_as_text_and_as_data():
    model = nn.Sequential(nn.Upsample(scale_factor=2), conv(), nn.Upsample(scale_factor=2, mode="bilinear"))
    _, report = optimize(model, image())
    lines = str(report).splitlines()
    assert lines[0].startswith("Optimised, forward 10.00× (1000.0 → 100.0 ms), forward + backward 10.00× ")
    assert lines[1].split() == ["where", "was", "became", "saved"]
    assert lines[2].startswith("1      nearest ×2, conv2d 4→3 k3  resize-convolution (folded)")
    assert lines[3] == "2      bilinear ×2                as it was: not nearest-neighbour"
    data = json.loads(json.dumps(report.to_dict()))
    assert data["optimized"]
    assert data["rows"][0]["where"] == "1"
    assert data["rows"][0]["bytes_saved"] == 2 * 4 * 10 * 12 * 4
    assert data["inference"] == {"before": 1.0, "after": 0.1, "speedup": 10.0}
    assert data["rows"][1] == {
        "where": "2", "was": "bilinear ×2", "became": "", "reason": "not nearest-neighbour", "calls": 1,
        "bytes_saved": 0,
    }  # fmt: skip


def test_bad_input():
    with pytest.raises(TypeError, match=r"^`model` must be a torch.nn.Module, not function.$"):
        halfstride.optimize(up, image())
    expected = r"^`model` \(Sequential\) raises RuntimeError on the example inputs \(2×5×5×6\): Given groups=1, weight"
    with pytest.raises(ValueError, match=expected):
        halfstride.optimize(simple(), image(5))
    with pytest.raises(ValueError, match=r"^`model` \(Sequential\) raises TypeError on the example inputs"):
        halfstride.optimize(simple(), {"x": image()})
    model = Model(lambda m, x, scale: F.interpolate(x, scale_factor=scale), conv=conv())
    assert not halfstride.optimize(model, (image(), 2))[1].optimized


NETS = """
from torch import nn
def make(): return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, padding=1))
net = make()
"""


@pytest.fixture
def nets(halfstride, tmp_path):
    (tmp_path / "nets_to_optimize.py").write_text(NETS)


def test_the_command(halfstride, nets):
    out = halfstride.out("optimize", "nets_to_optimize:make", "--input", "1x4x8x8")
    assert out.startswith("Optimised, forward 10.00× ")
    assert "backward" not in out.splitlines()[0]
    out = halfstride.out("optimize", "nets_to_optimize:net", "--input", "1×4×8×8", "--training", "--json")
    assert json.loads(out)["training"]["speedup"] == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere:make", "-i", "1x4"], 1, "`model` (=nowhere:make) cannot be imported: ModuleNotFoundError: No"),
        (["nets_to_optimize:make", "-i", "1xtwo"], 2, "--input '1xtwo' must be sizes of 1 or more, as 1x4x32x32."),
        (["nets_to_optimize:make", "-i", f"1x4x{10**12}"], 2, f"--input '1x4x{10**12}' must fit into memory"),
        (["nets_to_optimize:make", "-i", f"{10**30}"], 2, f"--input '{10**30}' must fit into memory"),
        (["nets_to_optimize:make", "-i", "1x3x8x8"], 1, "`model` (Sequential) raises RuntimeError on the"),
        (["nets_to_optimize:make"], 2, "Missing option '--input'"),
    ],
)
def test_the_command_says_what_is_wrong(halfstride, nets, arguments, code, message):
    actual, _, err = halfstride("optimize", *arguments)
    assert (actual, err.count("\n")) == (code, 1)
    assert message in err
