"""`cure`: what comes out has equal gains, stands where it stood, and is told what it cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from halfstride import ConvAutoencoder, ConvTranspose2d, ResizeConv2d, SubpixelConv2d, figures, load_images, to_float
from halfstride.checkerboard import UnevenKernelWarning, cure, diagnose
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


@pytest.fixture(scope="module")
def features():
    return torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(1))


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
    if model[1].bias is not None:
        torch.testing.assert_close(cured(features).mean((0, 2, 3)), model(features).mean((0, 2, 3)))


def test_equalize_is_the_orthogonal_projection(features):
    model = fresh("k3 s2")
    cured, _ = cure(model, features)
    assert type(cured[1]) is nn.ConvTranspose2d
    torch.testing.assert_close(cured[1].weight, even_from_transposed(model[1].weight, 2))


def test_resize_gives_back_a_resize_convolution_that_was_hidden_in_a_transposed_one():
    """Position by position, at the borders too."""
    torch.manual_seed(0)
    hidden = ResizeConv2d(4, 6, 3)
    x = torch.rand(8, 4, 12, 12)
    model = nn.Sequential(ConvTranspose2d(4, 6, 4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(transposed_from_resize(hidden.weight, 2))
        model[0].bias.copy_(hidden.bias)
        model[0].weight[0, 0, 0, 0] += 1e-3
    cured, report = cure(model, x, "resize")
    assert isinstance(cured[0], ResizeConv2d)
    assert cured[0].kernel_size == (3, 3)
    assert report.difference < 1e-3
    torch.testing.assert_close(cured(x), hidden(x), rtol=0, atol=2e-3)


def test_smooth_is_a_moving_average_behind_the_layer(features):
    model = fresh("k3 s2")
    cured, _ = cure(model, features, "smooth")
    averaged = F.avg_pool2d(model(features), 2, 1)
    difference = cured(features)[..., 1:, 1:] - averaged  # half a position further right and down
    torch.testing.assert_close(difference, difference[:1, :, :1, :1].expand_as(difference), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [lambda: SubpixelConv2d(4, 3, 3), lambda: nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.PixelShuffle(2))],
)
def test_sub_pixel_convolutions_are_equalised_weights_and_biases(build, features):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), build())
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    cured, report = cure(model, features)
    assert report.before.layers[0].made > 0.1
    assert report.after.layers[0].gain_spread < 1e-6
    assert report.after.layers[0].made < 1e-6
    assert not report.after.found
    torch.testing.assert_close(cured(features).mean((0, 2, 3)), model(features).mean((0, 2, 3)))
    _, report = cure(model, features, "smooth")
    assert list(report.left.values()) == ['a sub-pixel convolution keeps its form: use method="equalize".']


def test_parametrised_weights_are_cured_and_plain_afterwards():
    torch.manual_seed(0)
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
    torch.manual_seed(0)
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

    torch.manual_seed(0)
    _, report = cure(Functional(), features)
    assert report.left == {"conv_transpose2d()": "its weight is no parameter of a layer of torch.nn or halfstride."}
    assert report.after.found
    dilated = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2, dilation=3))
    assert cure(dilated, features, "resize")[1].left == {
        "1": 'a dilated kernel is no resize-convolution: use method="equalize".'
    }
    gappy = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 3))
    assert "leaves phases without taps" in cure(gappy, features)[1].left["1"]


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
    images = load_images("digits")
    with pytest.warns(UnevenKernelWarning):
        model = ConvAutoencoder(28, widths=(8, 16), upsampling="transposed", kernel_size=3)
    pictures = to_float(images.train.images)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for batch in pictures.split(50) * 2:
        loss = F.mse_loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, pictures[:512].contiguous(), to_float(images.test.images)


def test_a_trained_decoder_is_cured_and_told_what_it_cost(trained, tmp_path):
    model, known, unseen = trained
    diagnosis = diagnose(model, unseen)
    assert [layer.verdict for layer in diagnosis.layers] == ["checkerboard"] * 2
    assert "up.1.2" in diagnosis.blamed
    cured, report = cure(model, known)
    assert report.after.layers[-1].gain_spread < 1e-6
    assert not diagnose(cured, unseen).found
    assert report.error_after == pytest.approx(float(F.mse_loss(cured(known), known).detach()), rel=1e-4)
    assert f"{report.error_before:.5f} before, {report.error_after:.5f} after" in str(report)
    taught, better = cure(model, known, steps=40)
    assert better.after.layers[-1].gain_spread < 1e-6
    assert not better.after.found
    assert report.error_before < better.error_after < report.error_after
    assert better.difference < report.difference
    assert set(taught.state_dict()) == set(model.state_dict())
    figure = figures.cure(report)
    figure.savefig(tmp_path / "cure.png")
    assert (tmp_path / "cure.png").stat().st_size > 0
