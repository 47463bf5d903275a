"""`cure`: what comes out has equal gains, stands where it stood, and is told what it cost."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from benchmarks.checkerboard import Autoencoder, digits
from halfstride import ConvTranspose2d, ResizeConv2d, SubpixelConv2d, figures, to_float
from halfstride._support.draws import Draws
from halfstride.checkerboard import cure, diagnose
from halfstride.kernels import even_from_transposed, transposed_from_resize

METHODS = ("equalize", "resize", "smooth")
LAYERS = {
    "k3 s2": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
    "k4 s2, groups": lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2),
    "k5 s3, no bias": lambda: nn.ConvTranspose2d(4, 6, 5, 3, bias=False),
    "k6x4 s3x2": lambda: nn.ConvTranspose2d(4, 6, (6, 4), (3, 2), (1, 0), (0, 1)),
    "ours, same": lambda: ConvTranspose2d(4, 6, 4, 2, padding="same"),
    "ours, pairs": lambda: ConvTranspose2d(4, 6, 4, 2, padding=((1, 0), (0, 2))),
}


def fresh(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.ReLU(), LAYERS[layer]())


def blurred_noise(seed, width=3):
    """Neighbours alike, as in features of images: of white noise the orthogonal projection is the best already."""
    noise = torch.randn(16, 4, 15 + width, 15 + width, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, width, 1) * width


@pytest.fixture(scope="module")
def features():
    return blurred_noise(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_method_makes_even_layers_of_the_same_size(layer, method, features):
    model = fresh(layer)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cured, report = cure(model, features, method)
    assert report.before.found
    assert not report.after.found
    assert report.after.layers[0].gain_spread < 1e-6
    assert (report.changed, report.left) == (("1",), {})
    assert cured(features).shape == model(features).shape
    assert cured.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert report.fitted == (() if method == "resize" else ("1",))


@pytest.mark.parametrize("layer", LAYERS)
def test_without_a_fit_biases_keep_the_mean(layer, features):
    model = fresh(layer)
    for method in METHODS:
        begun, report = cure(model, features, method, steps=0)
        assert report.fitted == ()
        if model[1].bias is not None:
            torch.testing.assert_close(begun(features).mean((0, 2, 3)), model(features).mean((0, 2, 3)))


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 2, 1), (4, 2, 2), ((6, 4), (3, 2), 1)])
def test_the_fit_of_one_layer_is_the_least_squares_solution(kernel, stride, groups):
    model = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 2, kernel, stride, groups=groups)).double()
    layer, x = model[1], blurred_noise(1, 7).double()
    begun, report = cure(model, x, steps=0)
    fitted, _ = cure(model, x, steps=200)
    with torch.no_grad():
        target = model(x)
        target -= report.before.output[0].pattern.within(target)
        columns = []
        for unit in torch.eye(layer.weight.numel(), dtype=torch.float64).reshape(-1, *layer.weight.shape):
            even = even_from_transposed(unit, stride, 1, groups)
            columns.append(F.conv_transpose2d(x.relu(), even, stride=stride, groups=groups).flatten())
        columns += [
            channel.flatten() for channel in torch.eye(2).double()[:, None, :, None, None].expand(2, *target.shape)
        ]
        design = torch.stack(columns, 1)
        solution = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ target.flatten())
        best = F.mse_loss(design @ solution, target.flatten())
        start, end = (F.mse_loss(which(x), target) for which in (begun, fitted))
    assert 0 <= end - best < 0.1 * (start - best)  # the ridge holds back a little


def test_equalize_begins_with_the_orthogonal_projection(features):
    model = fresh("k3 s2")
    cured, _ = cure(model, features, steps=0)
    assert type(cured[1]) is nn.ConvTranspose2d
    torch.testing.assert_close(cured[1].weight, even_from_transposed(model[1].weight, 2))


def test_resize_gives_back_a_resize_convolution_that_was_hidden_in_a_transposed_one():
    hidden = ResizeConv2d(4, 6, 3)
    x = torch.rand(8, 4, 12, 12)
    model = nn.Sequential(ConvTranspose2d(4, 6, 4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(transposed_from_resize(hidden.weight, 2))
        model[0].bias.copy_(hidden.bias)
        model[0].weight[0, 0, 0, 0] += 1e-2
    cured, report = cure(model, x, "resize")
    assert isinstance(cured[0], ResizeConv2d)
    assert cured[0].kernel_size == (3, 3)
    assert report.difference < 1e-2
    torch.testing.assert_close(cured(x), hidden(x), rtol=0, atol=2e-2)


def test_smooth_begins_with_a_moving_average_behind_the_layer(features):
    model = fresh("k3 s2")
    cured, _ = cure(model, features, "smooth", steps=0)
    averaged = F.avg_pool2d(model(features), 2, 1)
    difference = cured(features)[..., 1:, 1:] - averaged  # half a position further right and down
    torch.testing.assert_close(difference, difference[:1, :, :1, :1].expand_as(difference), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [lambda: SubpixelConv2d(4, 3, 3), lambda: nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.PixelShuffle(2))],
)
def test_sub_pixel_convolutions_are_equalised_weights_and_biases(build, features):
    model = nn.Sequential(nn.ReLU(), build())
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    _, report = cure(model, features)
    assert report.before.layers[0].made > 0.1
    assert report.after.layers[0].gain_spread < 1e-6
    assert report.after.layers[0].made < 1e-6
    assert not report.after.found
    begun, _ = cure(model, features, steps=0)
    torch.testing.assert_close(begun(features).mean((0, 2, 3)), model(features).mean((0, 2, 3)))
    _, report = cure(model, features, "smooth")
    assert list(report.left.values()) == ['a sub-pixel convolution keeps its form: use method="equalize".']


def test_parametrised_weights_are_cured_and_plain_afterwards():
    model = nn.Sequential(nn.ReLU(), weight_norm(nn.ConvTranspose1d(4, 3, 8, 4, 2)))
    x = torch.randn(8, 4, 64)
    before = model(x)
    cured, report = cure(model, x)
    assert report.before.found
    assert not report.after.found
    assert type(cured[1]) is nn.ConvTranspose1d
    assert set(cured.state_dict()) == {"1.weight", "1.bias"}
    assert torch.equal(model(x), before)


def test_by_default_the_layers_that_come_through_to_the_output_are_changed(features):
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 4, 4, 2, 1),
        nn.Identity(),
        nn.ConvTranspose2d(4, 4, 4, 2, 1),
        nn.ReLU(),
        ResizeConv2d(4, 1, 3),
    )
    x = features * 0.01 + 1
    assert cure(model, x)[1].changed == ("0", "2")
    assert cure(model, x, layers=["2"])[1].changed == ("2",)
    with pytest.raises(ValueError, match=r"`layers` \(=\['4'\]\) names '4', but the uneven layers are \['0', '2'\]"):
        cure(model, x, layers=["4"])


def test_what_cannot_be_changed_is_left_and_named(features):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, x):
            return F.conv_transpose2d(x.relu(), self.kernel, stride=2)

    _, report = cure(Functional(), features)
    assert report.left == {"conv_transpose2d()": "its weight is no parameter of a layer of torch.nn or halfstride."}
    assert report.after.found
    model = nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.BatchNorm2d(12), nn.PixelShuffle(2)).eval()
    _, report = cure(model, features)
    assert report.before.blamed == ("2",)
    assert report.left == {"2": "its weight is no parameter of a layer of torch.nn or halfstride."}
    dilated = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2, dilation=3))
    assert cure(dilated, features, "resize")[1].left == {
        "1": 'a dilated kernel is no resize-convolution: use method="equalize".'
    }
    gappy = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 3))
    assert "leaves phases without taps" in cure(gappy, features)[1].left["1"]


def test_what_is_even_to_rounding_is_not_cured_again(features):
    model = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1))
    once, report = cure(model, features, "smooth", steps=3)
    assert report.changed == ("1",)
    again, report = cure(once, features, "smooth", steps=3)
    assert (report.changed, report.difference) == ((), 0)
    assert again[1].kernel_size == once[1].kernel_size


class Scaled(nn.ConvTranspose2d):
    """As GANs with an equalised learning rate have it."""

    def forward(self, x):
        return F.conv_transpose2d(x, 0.1 * self.weight, self.bias, self.stride)


def hooked():
    layer = nn.ConvTranspose2d(4, 4, 3, 2)
    layer.register_forward_hook(lambda module, inputs, output: 5 * output)
    return layer


@pytest.mark.parametrize("make", [lambda: Scaled(4, 4, 3, 2), hooked])
def test_no_other_layer_takes_the_place_of_one_that_somebody_has_changed(make, features):
    model = nn.Sequential(nn.ReLU(), make())
    for method in ("resize", "smooth"):
        cured, report = cure(model, features, method)
        assert report.left == {
            "1": 'it has hooks, or a `forward` of its own, that would be lost: use method="equalize".'
        }
        assert torch.equal(cured(features), model(features))
    assert cure(model, features, "equalize")[1].changed == ("1",)


class Named(nn.Module):
    """Two modules, the second of which has two names."""

    def __init__(self, tied):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 4, 3, 2), nn.ConvTranspose2d(4, 4, 3, 2)
        self.alias = self.up
        if tied:
            self.up.weight = self.down.weight

    def forward(self, x):
        return self.alias(self.down(x).relu())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 5])
def test_a_layer_of_two_names_is_cured_under_both(method, steps, features):
    cured, report = cure(Named(tied=False), features, method, steps=steps)
    assert (report.changed, report.left, report.after.found) == (("up",), {}, False)
    assert cured.up is cured.alias


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_others_have_too_are_left(method, features):
    cured, report = cure(Named(tied=True), features, method)
    assert report.left == {"up": "its weights are those of down too: give it its own."}
    assert cured.up.weight is cured.down.weight


def test_of_several_pictures_the_largest_is_compared(features):
    class Variational(nn.Sequential):
        def forward(self, x):
            return x, super().forward(x)

    _, report = cure(Variational(nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2)), features, steps=0)
    assert report.before.visible
    assert report.difference > 0.05
    assert report.before.samples.shape[-1] > features.shape[-1]


def test_where_nothing_can_be_compared_the_report_says_so(features):
    class Bytes(nn.Sequential):
        def forward(self, x):
            return (255 * super().forward(x).sigmoid()).byte()

    _, report = cure(Bytes(nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2)), features)
    assert report.difference is None
    assert "nothing was measured in the output, or fitted to it" in str(report)
    assert "0.00%" not in str(report)


def test_smooth_keeps_the_size_where_a_dilated_kernel_has_more_output_padding_than_its_stride(features):
    model = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2, output_padding=2, dilation=3))
    cured, report = cure(model, features, "smooth", steps=0)
    assert report.changed == ("1",)
    assert cured(features).shape == model(features).shape
    sparse = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2, output_padding=3, dilation=4))
    assert "output_padding=3" in cure(sparse, features, "smooth")[1].left["1"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "retrain"}, r"`method` \(='retrain'\) must be one of 'equalize', 'resize', 'smooth'\."),
        ({"steps": -1}, r"`steps` \(=-1\) must be at least 0\."),
    ],
)
def test_wrong_arguments(arguments, error, features):
    with pytest.raises(ValueError, match=error):
        cure(fresh("k3 s2"), features, **arguments)


@pytest.fixture(scope="module")
def trained():
    """A small k3 s2 autoencoder, trained for a few seconds, and images that it has not seen."""
    torch.manual_seed(0)
    train, test = digits()
    model = Autoencoder("transposed", widths=(8, 16))
    pictures = to_float(train.images)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for batch in pictures.split(50) * 2:
        loss = F.mse_loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, pictures[:512].contiguous(), to_float(test.images)


def test_a_trained_decoder_is_cured_for_at_most_two_percent_of_its_error(trained, tmp_path):
    model, known, unseen = trained
    diagnosis = diagnose(model, unseen)
    assert [layer.verdict for layer in diagnosis.layers] == ["checkerboard"] * 2
    assert "up.1.2" in diagnosis.blamed
    cured, report = cure(model, known)
    assert report.fitted == ("up.0.2", "up.1.2")
    assert report.after.layers[-1].gain_spread < 1e-6
    assert not diagnose(cured, unseen).found
    assert set(cured.state_dict()) == set(model.state_dict())
    assert all(parameter.requires_grad for parameter in cured.parameters())
    with torch.no_grad():
        before, after = (F.mse_loss(which(unseen), unseen) for which in (model, cured))
        assert after < 1.02 * before
        assert report.error_after == pytest.approx(float(F.mse_loss(cured(known), known)), rel=1e-4)
    assert f"{report.error_before:.5f} before, {report.error_after:.5f} after" in str(report)
    figure = figures.cure(report)
    figure.savefig(tmp_path / "cure.png")
    assert (tmp_path / "cure.png").stat().st_size > 0


@pytest.mark.parametrize("method", ["equalize", "smooth"])
def test_the_pattern_multiplied_with_the_strokes_is_taken_out(method, trained):
    model, known, unseen = trained
    before = diagnose(model, unseen[:256])
    assert before.visible
    assert before.output[-1].pattern.period == (2, 2)
    assert before.output[-1].pattern.multiplicative.found
    cured, _ = cure(model, known[:256], method, steps=20)
    after = diagnose(cured, unseen[:256])
    assert not after.visible
    assert after.output[-1].pattern.multiplicative.strength < before.output[-1].pattern.multiplicative.strength / 2


def test_few_examples_do_not_bend_the_model_to_themselves(trained):
    model, known, unseen = trained
    errors = []
    for steps in (0, 50):
        cured, _ = cure(model, known[:2], steps=steps)
        with torch.no_grad():
            errors.append(float(F.mse_loss(cured(unseen), model(unseen))))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("count", [2, 64])
def test_other_images_cost_what_the_report_says_or_it_says_that_they_can_cost_more(trained, count):
    model, known, unseen = trained
    cured, report = cure(model, known[:count], steps=20)
    with torch.no_grad():
        before, after = (float(F.mse_loss(which(unseen), unseen)) for which in (model, cured))
    assert "on the inputs that were fitted" in str(report)
    is_told = "Fitted to 2 of a batch: other inputs can cost more than these." in str(report)
    assert is_told == (count == 2)
    # The fit to two hides what others cost.
    assert (after / before > report.error_after / report.error_before + 0.01) == (count == 2)


def test_a_kernel_of_the_strides_size_is_told_to_use_smooth(features):
    model = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2))
    _, report = cure(model, features)
    assert "1: a kernel no larger than the stride has one tap a phase" in str(report)
    smoothed, smooth = cure(model, features, "smooth")
    assert smoothed[1].kernel_size == (3, 3)
    assert not any("smooth" in advice for advice in smooth.advice)
    assert not smooth.after.found


def test_a_pattern_that_a_nonlinearity_makes_of_even_phases_is_told():
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 3))
    _, report = cure(model, torch.randn(32, 4, 32, 32))
    assert report.after.visible
    assert not report.after.blamed
    assert "a nonlinearity makes a pattern of phases that differ in variance" in str(report)
    assert "no layer makes it by its weights alone" in str(report.after)


def test_an_even_layer_before_a_changed_one_stays_even(features):
    model = nn.Sequential(SubpixelConv2d(4, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2))
    _, report = cure(model, features, layers=["2"])
    assert report.fitted == ("2",)
    assert max(layer.gain_spread for layer in report.after.layers) < 1e-6


def test_the_fit_takes_any_arguments_and_parametrised_neighbours(features):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = weight_norm(nn.Conv2d(4, 8, 3, padding=1))
            self.last = nn.ConvTranspose2d(8, 3, 3, 2)

        def forward(self, x, gain=1.0):
            return {"sample": self.last(self.first(x).relu()) * gain}

    model = Model()
    for inputs in (features, (features, 2.0), {"x": features, "gain": 2.0}):
        cured, report = cure(model, inputs)
        assert report.fitted == ("first", "last")
        assert report.difference < cure(model, inputs, steps=0)[1].difference
        assert set(cured.state_dict()) == set(model.state_dict())


def test_without_gradients_nothing_is_fitted(features):
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 3, 3, 2)

        @torch.no_grad()
        def forward(self, x):
            return self.up(x.relu())

    _, report = cure(Closed(), features)
    assert (report.changed, report.fitted) == (("up",), ())
    assert report.after.layers[0].gain_spread < 1e-6


class Sampling(nn.Module):
    """A variational autoencoder that draws from three generators."""

    def __init__(self, up):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 4, 4), up

    def forward(self, x):
        z = self.down(x)
        return self.up(z + torch.randn_like(z) + random.random() + float(np.random.rand()))  # noqa: NPY002


@pytest.mark.parametrize(
    "up", [nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(8, 1, 3, padding=1)), nn.ConvTranspose2d(8, 1, 6, 4, 1)]
)
def test_a_model_that_samples_is_compared_on_the_same_draws_and_uses_up_none(up):
    x = F.interpolate(torch.rand(80, 1, 8, 8), scale_factor=4, mode="bilinear")  # more than the fit takes at once
    model = Sampling(up)

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    diagnose(model, x)
    assert state() == before
    cured, report = cure(model, x, steps=5)
    assert state() == before
    if not report.changed:
        assert report.difference == 0
        assert report.before.strength == report.after.strength
    else:
        assert report.fitted == ("down", "up")
        assert not report.after.blamed
        outputs, draws = [], Draws([])
        for each in (model, cured):
            with draws.same():
                outputs.append(each.eval()(x).detach())
        difference = (outputs[1] - outputs[0]).square().mean().sqrt() / outputs[0].std()
        assert float(difference) == pytest.approx(report.difference, rel=0.02)


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 2, 1, 1))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_frozen_stays_frozen_and_a_neighbour_unchanged(method, features):
    for frozen in ("0", "2", ""):
        model = two_layers()
        model.get_submodule(frozen).requires_grad_(False)
        expected = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
        cured, report = cure(model, features, method, steps=3)
        assert [(name, parameter.requires_grad) for name, parameter in cured.named_parameters()] == expected
        assert torch.equal(cured[0].weight, model[0].weight) is (frozen == "0" or method == "resize")
        assert not report.after.found


class Counting(nn.Module):
    """Its buffers change in every run, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.up = two_layers()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.runs += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3))
        return self.up(x)


def test_buffers_are_as_they_were(features):
    model = Counting()
    runs = model.runs
    diagnose(model, features)
    cured, report = cure(model, features, steps=3)
    assert report.fitted
    assert model.runs is runs
    for each in (model, cured):
        assert (float(each.runs), float(each.mean.abs().sum())) == (0, 0)


class Wrapped(nn.Module):
    def __init__(self, inner, call=lambda inner, x: inner(x)):
        super().__init__()
        self.inner, self.call, self.last = inner, call, nn.ConvTranspose2d(3, 3, 3, 2)

    def forward(self, x):
        return self.last(self.call(self.inner, x).relu())


def test_a_part_that_is_checkpointed_is_fitted(features):
    model = Wrapped(two_layers(), lambda inner, x: checkpoint(inner, x, use_reentrant=False))
    plain, expected = cure(Wrapped(model.inner), features, steps=3, layers=["inner.2"])
    model.last = plain.last
    cured, report = cure(model, features, steps=3, layers=["inner.2"])
    assert report.fitted == expected.fitted == ("inner.0", "inner.2")
    torch.testing.assert_close(cured.inner[2].weight, plain.inner[2].weight)


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models_are_judged_and_cured_like_others(whole, features):
    model = torch.compile(two_layers(), backend="eager") if whole else Wrapped(two_layers())
    if not whole:
        model.inner.compile(backend="eager")
    name = "_orig_mod.2" if whole else "inner.2"
    cured, report = cure(model, features, steps=3)
    assert name in report.before.blamed
    assert name in report.changed
    assert name in report.fitted
    assert not report.after.found
    assert cured(features).shape == model(features).shape


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_parts_are_measured_and_the_report_says_that_they_are_not_cured(features):
    scripted = torch.jit.script(two_layers().eval())
    why = "it is scripted, so that its layers are not seen: cure it before torch.jit.script."
    _, report = cure(scripted, features, steps=3)
    assert (report.before.found, report.changed, report.left) == (True, (), {"the model": why})
    _, report = cure(Wrapped(scripted), features, steps=3)
    assert (report.changed, report.left) == (("last",), {"inner": why})
    assert {part.period: part.layers for part in report.before.output} == {(4, 4): (), (2, 2): ("last",)}


def test_a_model_that_cannot_be_copied_is_refused_in_one_line(features):
    class Sharded(nn.Sequential):
        def __deepcopy__(self, memo):
            raise AssertionError("does not support deepcopy.\nUse the state.")

    expected = (
        r"^`model` \(a Sharded\) cannot be copied \(does not support deepcopy\.\): cure it before it is sharded or"
    )
    with pytest.raises(ValueError, match=expected):
        cure(Sharded(*two_layers()), features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), lambda: SubpixelConv2d(4, 3, 3)])
def test_weights_are_judged_by_what_their_type_can_hold(build, dtype, features):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), build())
    nn.init.normal_(model[1].weight)
    model, x = model.to(dtype), features.to(dtype)
    once, report = cure(model, x, steps=3)
    assert (report.before.found, report.after.found) == (True, False)
    layer = report.after.layers[0]
    assert layer.verdict == "even"
    assert 0 < layer.gain_spread < layer.tolerance < 0.05
    _, report = cure(once, x, steps=3)
    assert (report.changed, report.difference) == ((), 0)
    wide = diagnose(once.float(), x.float()).layers[0]  # float32 holds equal gains better
    assert wide.tolerance == pytest.approx(1e-3)
    assert (wide.verdict == "even") is (wide.gain_spread <= 1e-3 and wide.made < 0.005)


def test_what_is_even_by_the_stated_tolerance_is_not_touched(features):
    even, _ = cure(fresh("k3 s2"), features, steps=0)
    with torch.no_grad():
        even[1].weight[0, 0, 0, 0] += 1e-3 * even[1].weight.norm() / 4
    diagnosis = diagnose(even, features)
    assert 1e-5 < diagnosis.layers[0].gain_spread < diagnosis.layers[0].tolerance == 1e-3
    assert diagnosis.layers[0].verdict == "even"
    _, report = cure(even, features)
    assert (report.changed, report.difference) == ((), 0)
