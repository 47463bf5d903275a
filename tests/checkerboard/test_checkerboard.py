"""The checkerboard doctor: calibrated on what has no pattern, and on patterns put in by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import nn

import halfstride
from benchmarks.checkerboard import Autoencoder
from halfstride import ConvAutoencoder, ResizeConv2d, SubpixelConv2d, figures, geometry, load_images, to_float
from halfstride.checkerboard import (
    UnevenKernelWarning,
    diagnose,
    diagnose_image,
    gain_spread,
    harmonic_test,
    measure,
    stack_coverage,
)


def pink(batch, size, seed):
    """Images whose amplitude falls as one over the frequency, as natural ones' does, cut from larger ones."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(2 * size, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency)
    radius[0, 0] = math.inf
    spectrum = torch.fft.fft2(torch.randn(batch, 1, 2 * size, 2 * size, generator=generator, dtype=torch.float64))
    return torch.fft.ifft2(spectrum / radius).real[..., :size, :size]


def pattern(kind, size):
    """A pattern of period 2 with mean 0 and standard deviation 1."""
    i = torch.arange(size, dtype=torch.float64)
    tiles = {
        "overlap": (1 + i[:, None] % 2) * (1 + i % 2),
        "checkers": (i[:, None] + i) % 2,
        "rows": (i[:, None] % 2).expand(size, size),
    }[kind]
    return (tiles - tiles.mean()) / tiles.std(correction=0)


BRIGHTEST = {"overlap": {(1, 1)}, "checkers": {(0, 1), (1, 0)}, "rows": {(1, 0), (1, 1)}}


def with_pattern(images, strength, kind):
    return images + strength * images.std(correction=0) * pattern(kind, images.shape[-1])


@pytest.fixture(scope="module")
def digits():
    images = load_images("digits")
    names = [*images.train.names, *images.validation.names]
    order = sorted(range(len(names)), key=lambda i: int(names[i].removeprefix("image ")))  # one of each class in turn
    return to_float(torch.cat([images.train.images, images.validation.images])[order])


# Calibration ----------------------------------------------------------------------------------------------------------
def boxes(seed):
    """Rectangles, whose straight edges put all their energy on the axes of the spectrum."""
    generator = np.random.default_rng(seed)
    image = torch.zeros(1, 1, 64, 64)
    for _ in range(6):
        (top, bottom), (left, right) = np.sort(generator.integers(0, 65, (2, 2)), axis=1)
        image[..., top:bottom, left:right] += generator.random()
    return image


def doubled(images, seed):
    """Images of half the size, doubled, and filtered by a kernel that need not be symmetric: a resize-convolution."""
    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
    halved = F.avg_pool2d(images, 2)
    return F.conv2d(F.interpolate(halved, scale_factor=2, mode="nearest"), kernel / kernel.sum(), padding=1)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WITHOUT_PATTERN = {
    "digit": lambda seed, digits: digits[[37 * seed]],
    "digits": lambda seed, digits: digits[40 * seed : 40 * seed + 40],
    "pink": lambda seed, digits: pink(1, 64, seed),
    "white": lambda seed, digits: noise(seed, 1, 1, 64, 64),
    "boxes": lambda seed, digits: boxes(seed),
    # Seeds that nothing was tuned on: one in eighty would be a false alarm if one image counted in full.
    "other boxes": lambda seed, digits: boxes(300 + seed),
    "dots": lambda seed, digits: (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) > 0.99) * 1.0,
    "clipped": lambda seed, digits: (pink(1, 64, seed) / pink(1, 64, seed).std()).clamp(-1, 1),
    # The phases of a resize-convolution have one gain, but not one variance: that must not count as a pattern.
    "doubled digits": lambda seed, digits: doubled(digits[40 * seed : 40 * seed + 40], seed),
    "doubled noise": lambda seed, digits: doubled(noise(seed, 16, 1, 48, 48), seed),
}


@pytest.mark.parametrize("kind", WITHOUT_PATTERN)
def test_no_false_alarm_in_fifty_images_without_a_pattern(kind, digits):
    for seed in range(50):
        signals = WITHOUT_PATTERN[kind](seed, digits)
        for period in (2, 4) if kind in ("dots", "clipped", "doubled digits", "doubled noise") else (2, 3, 4):
            assert not measure(signals, (period, period)).found, (seed, period)


@pytest.mark.parametrize(
    ("kinds", "images", "size", "strength", "tolerance"),
    [(("overlap",), 1, 64, 0.05, 0.5), (("checkers",), 1, 64, 0.05, 0.5), (BRIGHTEST, 16, 128, 0.01, 0.2)],
)
def test_no_miss_in_thirty_natural_images_or_batches(kinds, images, size, strength, tolerance):
    for seed in range(30):
        kind = tuple(kinds)[seed % len(kinds)]
        found = measure(with_pattern(pink(images, size, seed), strength, kind), (2, 2))
        assert found.found, seed
        assert found.brightest in BRIGHTEST[kind]
        assert found.strength == pytest.approx(strength, rel=tolerance)


def test_evidence_is_the_probability_that_it_says():
    evidences = [measure(noise(seed, 1, 1, 24, 24), (2, 2)).evidence for seed in range(500)]
    for bar in (0.5, 1.0, 1.5):  # as rare as it says or rarer, but not so rare that nothing would ever be found
        share = np.mean(np.array(evidences) >= bar)
        assert 0.15 * 10**-bar <= share <= 1.3 * 10**-bar


@pytest.mark.parametrize("kind", ["overlap", "checkers", "rows"])
def test_no_miss_of_ten_percent_multiplied_with_the_strokes_of_forty_digits(kind, digits):
    tile = pattern(kind, 28).float()
    for seed in range(100):
        images = digits[40 * seed : 40 * seed + 40]
        found = measure(images * (1 + 0.1 * tile), (2, 2))
        assert found.multiplicative.found, (seed, found.multiplicative.evidence)
        assert tile[found.brightest] == tile.max()
        assert float(found.multiplicative.phases.std(correction=0)) == pytest.approx(0.1, rel=0.25)
        alone = found.within(images)
        assert F.cosine_similarity(alone.flatten(), (images * tile).double().flatten(), dim=0) > 0.6


def test_additive_and_multiplicative_are_told_apart():
    content = pink(32, 64, 0)
    content /= content.std()
    grid = 0.1 * pattern("rows", 64)
    for images, kind in ((content + grid, "additive"), (content * (1 + grid), "multiplicative")):
        found = measure(images, (2, 2))
        assert list(found.parts) == [kind], found
        assert found.strength == pytest.approx(0.1, rel=0.2)
        assert found.brightest[0] == 1
        assert kind in str(found)


def test_a_pattern_of_white_noise_needs_pixels():
    for size, expected in ((64, False), (256, True)):
        assert measure(with_pattern(noise(0, 1, 1, size, size), 0.05, "checkers"), (2, 2)).found is expected


@pytest.mark.parametrize("shape", [(64,), (60, 48), (24, 21, 16)])
def test_pattern_of_any_dimension_and_period_comes_back_as_it_was_put_in(shape):
    generator = torch.Generator().manual_seed(1)
    period = (4, 3, 2)[-len(shape) :]
    tile = torch.randn(2, *period, generator=generator, dtype=torch.float64)
    tile -= tile.flatten(1).mean(1).reshape(2, *(1,) * len(shape))
    signals = 0.05 * torch.randn(64, 2, *shape, generator=generator, dtype=torch.float64)
    signals += tile.repeat(1, *(n // s for n, s in zip(shape, period, strict=True)))
    found = measure(signals, period)
    assert found.found
    torch.testing.assert_close(found.additive.phases, tile, rtol=0, atol=0.12)


def test_harmonics_of_a_shorter_period_can_be_left_out():
    images = with_pattern(pink(1, 64, 0), 0.3, "overlap")
    assert measure(images, (4, 4)).found
    assert not measure(images, (4, 4), without=[(2, 2)]).found
    assert measure(images, (2, 2)).found


def test_a_constant_and_a_signal_without_noise():
    flat = torch.full((1, 1, 32, 32), 3.0)
    assert not measure(flat, (2, 2)).found
    flat[..., ::2] += 1
    assert measure(flat, (2, 2)).found
    assert measure(flat, (2, 2)).strength == pytest.approx(1)


@pytest.mark.parametrize(
    ("signals", "period", "error"),
    [
        (
            torch.zeros(1, 1, 7, 32),
            (2, 2),
            r"`signals` \(of size 7×32\) have fewer than 4 periods of 2×2: take an input",
        ),
        (torch.full((1, 1, 32, 32), math.nan), (2, 2), r"`signals` hold values that are not finite"),
        (torch.zeros(1, 32, 32), (2, 2), r"`signals` \(of shape \(1, 32, 32\)\) must have 4 dimensions"),
        (torch.zeros(1, 1, 32), (1,), r"`period` \(=\(1,\)\) has no harmonics of its own"),
    ],
)
def test_what_cannot_be_measured_is_refused(signals, period, error):
    with pytest.raises(ValueError, match=error):
        measure(signals, period)


# Geometry and weights -------------------------------------------------------------------------------------------------
def test_stack_coverage_is_what_torch_computes_with_ones():
    layers = [geometry.Window(3, 2, 1), geometry.Window(5, 3), geometry.Window(4, 2, 1, 2)]
    x = torch.ones(1, 1, 6, dtype=torch.float64)
    for layer in layers:
        kernel = torch.ones(1, 1, layer.kernel_size, dtype=torch.float64)
        x = F.conv_transpose1d(x, kernel, None, layer.stride, layer.padding, 0, 1, layer.dilation)
    assert list(stack_coverage(6, layers)) == x.flatten().tolist()


def test_gain_spread_against_a_constant_input():
    layer = nn.ConvTranspose2d(4, 6, 5, stride=3, groups=2, bias=False, dtype=torch.float64)
    units = torch.eye(4, dtype=torch.float64)[:, :, None, None].expand(4, 4, 9, 9)
    answers = layer(units)[..., 9:12, 9:12].flatten(2)  # of each phase to each input channel
    mean = answers.mean(2, keepdim=True)
    expected = ((answers - mean).square().sum((0, 1)).mean().sqrt() / mean.norm()).detach()
    assert gain_spread(layer.weight, (3, 3), (1, 1), 2) == pytest.approx(float(expected))


# Models ---------------------------------------------------------------------------------------------------------------
class DCGAN(nn.Sequential):
    """The generator of Radford et al. (2016), narrow."""

    def __init__(self, kernel=4):
        padding = (kernel - 1) // 2
        layers = [nn.ConvTranspose2d(16, 32, 4, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
        for above, below in ((32, 16), (16, 8), (8, 8)):
            layers += [nn.ConvTranspose2d(above, below, kernel, 2, padding, kernel % 2, bias=False)]
            layers += [nn.BatchNorm2d(below), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.ConvTranspose2d(8, 3, kernel, 2, padding, kernel % 2, bias=False), nn.Tanh())


class UNet(nn.Module):
    """Ronneberger et al. (2015), narrow: max-pooling down, transposed convolutions of kernel 2 up, skips across."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.bottom = nn.Conv2d(16, 16, 3, padding=1)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge2, self.merge1 = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        skip1 = self.down1(x).relu()
        skip2 = self.down2(F.max_pool2d(skip1, 2)).relu()
        x = self.bottom(F.max_pool2d(skip2, 2)).relu()
        x = self.merge2(torch.cat([self.up2(x), skip2], 1)).relu()
        return self.merge1(torch.cat([self.up1(x), skip1], 1))


class Functional(nn.Module):
    """Upsampling by calls in `forward`, three ways."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.conv = nn.Conv2d(4, 16, 3, padding=1)

    def forward(self, x):
        x = F.conv_transpose2d(x.abs(), self.weight, stride=2)
        x = F.interpolate(x.relu(), scale_factor=2)
        return F.pixel_shuffle(self.conv(x), 2), "and something else"


def test_dcgan_is_named_layer_by_layer():
    diagnosis = diagnose(DCGAN(kernel=5), torch.randn(16, 16, 1, 1))
    assert [(layer.name, layer.taps) for layer in diagnosis.layers] == [
        (name, (4, 9)) for name in ("3", "6", "9", "12")
    ]
    assert diagnosis.layers[-1].output_size == (64, 64)
    assert {layer.verdict for layer in diagnosis.layers} == {"checkerboard"}
    assert [part.period for part in diagnosis.output] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert diagnosis.found
    assert "12" in diagnosis.blamed


def test_an_even_kernel_is_not_enough_and_the_doctor_says_so_with_numbers():
    diagnosis = diagnose(DCGAN(kernel=4), torch.randn(16, 16, 1, 1))
    assert all(layer.taps == (4, 4) for layer in diagnosis.layers)
    assert all(layer.gain_spread > 0.5 and layer.made > 0.05 for layer in diagnosis.layers)
    assert "the overlap is even, the weights are not" in str(diagnosis)


def test_what_a_layer_makes_is_what_is_measured():
    for seed in range(5):
        torch.manual_seed(seed)
        layer = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2))
        report = diagnose(layer, torch.randn(64, 6, 32, 32)).layers[0]
        assert report.pattern.additive.strength == pytest.approx(report.made, rel=0.05)


def test_a_layer_is_not_blamed_for_what_was_made_before_it():
    uneven = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2), nn.ReLU(), ResizeConv2d(4, 3, 3))
    diagnosis = diagnose(uneven, torch.randn(32, 4, 24, 24))
    assert [layer.verdict for layer in diagnosis.layers] == ["checkerboard", "even"]
    first, last = diagnosis.output
    assert (first.period, first.layers, first.pattern.found) == ((4, 4), ("1",), True)
    assert (last.period, last.layers, last.pattern.additive.found) == ((2, 2), ("3",), False)
    assert diagnosis.blamed == ("1",)
    assert "Checkerboard found in the output; made by 1." in str(diagnosis)


def test_nor_for_what_is_made_after_it():
    uneven = nn.Sequential(ResizeConv2d(4, 4, 3), nn.ConvTranspose2d(4, 3, 3, 2))
    diagnosis = diagnose(uneven, torch.randn(32, 4, 24, 24) + 2)
    assert [(part.period, part.pattern.found) for part in diagnosis.output] == [((4, 4), False), ((2, 2), True)]
    assert diagnosis.blamed == ("1",)


def test_in_inference_mode_the_same_is_found():
    model = nn.Sequential(nn.Conv2d(4, 12, 3), nn.PixelShuffle(2), nn.ConvTranspose2d(3, 3, 3, 2))
    x = torch.randn(16, 4, 16, 16)
    with torch.inference_mode():
        inside = diagnose(model, x)
    assert inside.to_dict() == diagnose(model, x).to_dict()


def test_nor_where_an_axis_is_not_enlarged():
    model = nn.Sequential(
        nn.ReLU(),
        nn.ConvTranspose3d(8, 8, 3, (1, 2, 2), padding=(1, 0, 0)),
        nn.ReLU(),
        nn.Upsample(scale_factor=(1, 2, 2)),
        nn.Conv3d(8, 3, 3, padding=1),
    )
    first, last = diagnose(model, torch.randn(4, 8, 6, 16, 16)).output
    assert (first.period, first.layers, first.direct, first.pattern.found) == ((1, 4, 4), ("1",), False, True)
    assert (last.period, last.layers, last.direct) == ((1, 2, 2), ("3",), True)


@pytest.mark.parametrize(
    "after",
    [
        lambda: nn.Hardtanh(100, 101),
        lambda: nn.Sequential(nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, stride=1)),  # Sugawara et al., 2018
    ],
)
def test_a_pattern_that_is_removed_before_the_output_is_not_found(after):
    removed = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2), after())
    examples = torch.randn(32, 4, 24, 24)
    diagnosis = diagnose(removed, examples)
    assert diagnosis.layers[0].verdict == "checkerboard"
    assert (diagnosis.found, diagnosis.visible, diagnosis.blamed, diagnosis.strength) == (False, False, (), 0)
    assert str(diagnosis).endswith("No checkerboard found in the output: what 1 makes does not show in it.")


def test_a_pattern_that_content_hides_in_the_output_is_told():
    model = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(1, 1, 2, 2), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        model[1].weight.copy_(1 + 0.01 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    diagnosis = diagnose(model, 1 + noise(0, 8, 1, 24, 24))
    assert str(diagnosis).endswith("Checkerboard found in the output; made by 1.")
    (part,) = diagnosis.output
    hidden = replace(part.pattern, additive=replace(part.pattern.additive, evidence=1.0))
    diagnosis = replace(diagnosis, output=(replace(part, pattern=hidden),))
    assert (diagnosis.found, diagnosis.visible, diagnosis.blamed) == (True, False, ("1",))
    assert str(diagnosis).endswith("found in 1; in the model's output it cannot be told from the content.")


@pytest.mark.parametrize(("upsampling", "clean"), [("transposed", False), ("resize", True), ("subpixel", True)])
def test_fresh_autoencoders(upsampling, clean, digits):
    for seed in range(5):
        torch.manual_seed(seed)
        model = Autoencoder(upsampling, widths=(8, 16))
        diagnosis = diagnose(model, digits[:64])
        assert diagnosis.found is not clean
        assert [layer.verdict for layer in diagnosis.layers] == ["even" if clean else "checkerboard"] * 2
        spreads = [layer.gain_spread for layer in diagnosis.layers]
        assert max(spreads) < 1e-6 if clean else min(spreads) > 0.3


@pytest.mark.parametrize("content", ["digits", "pink"])
def test_a_resize_decoder_is_never_accused_in_fifty_seeds(content, digits):
    for seed in range(50):
        torch.manual_seed(seed)
        model = Autoencoder("resize", widths=(8, 16))
        images = digits[seed * 16 : seed * 16 + 16] if content == "digits" else pink(16, 28, seed).float()
        assert not diagnose(model, images).found, seed


def test_a_rectifier_behind_an_even_layer_can_make_a_true_pattern():
    torch.manual_seed(36)
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), ResizeConv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)]
    found = diagnose(nn.Sequential(*layers), noise(0, 32, 1, 64, 64))
    assert [layer.verdict for layer in found.layers] == ["even"]
    assert found.visible
    assert not found.blamed
    assert found.output[0].pattern.evidence > 50
    assert found.output[0].on_constant < 0.01
    assert found.found is False  # it is made by content that changes, and gone where content is constant
    assert "no layer makes it by its weights alone" in str(found)
    del layers[3]
    left = diagnose(nn.Sequential(*layers), noise(0, 32, 1, 64, 64)).output[0].pattern
    assert not left.additive.found
    assert left.strength < 0.03  # in noise, phases that differ in variance cannot be told from a weak gain


def test_functions_called_in_forward_are_seen():
    diagnosis = diagnose(Functional(), torch.randn(8, 4, 8, 8))
    assert [(layer.name, layer.kind, layer.gain_spread is not None) for layer in diagnosis.layers] == [
        ("conv_transpose2d()", "transposed", True),
        ("interpolate()", "interpolate", True),
        ("pixel_shuffle()", "sub-pixel", True),
    ]
    assert diagnosis.layers[2].kernel_size == (3, 3)


def test_pixel_shuffle_behind_a_convolution_equals_the_sub_pixel_layer():
    ours = SubpixelConv2d(4, 3, 3)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    conv = nn.Conv2d(4, 12, 3, padding=1)
    conv.load_state_dict(ours.state_dict())
    x = torch.rand(4, 4, 12, 12)
    one, other = (diagnose(model, x).layers[0] for model in (ours, nn.Sequential(conv, nn.PixelShuffle(2))))
    assert (one.kind, one.gain_spread, one.made) == (other.kind, other.gain_spread, other.made)
    assert other.name == "1"
    assert one.pattern.additive.strength == pytest.approx(one.made, rel=0.1)


def test_biases_of_their_own_make_a_pattern_whatever_the_weights():
    layer = SubpixelConv2d(4, 3, 3)
    nn.init.normal_(layer.bias)
    report = diagnose(layer, torch.randn(16, 4, 24, 24)).layers[0]
    assert report.gain_spread < 1e-6
    assert report.made > 0.5
    assert report.verdict == "checkerboard"
    assert report.pattern.strength == pytest.approx(report.made, rel=0.02)


def test_a_unet_and_its_gradients():
    diagnosis = diagnose(UNet(), torch.rand(8, 3, 64, 64))
    assert [layer.name for layer in diagnosis.layers] == ["up2", "up1"]
    assert [layer.taps for layer in diagnosis.layers] == [(1, 1), (1, 1)]
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 4, stride=2), nn.ConvTranspose2d(4, 3, 4, 4))
    assert diagnose(encoder, torch.rand(2, 3, 64, 64)).uneven_gradients == ("0",)


def test_sound_of_one_dimension():
    vocoder = nn.Sequential(
        nn.ConvTranspose1d(8, 4, 16, 8, 4), nn.LeakyReLU(0.1), nn.ConvTranspose1d(4, 1, 5, 4), nn.Flatten(1)
    )
    diagnosis = diagnose(vocoder, torch.randn(4, 8, 64) + 1)
    assert [part.period for part in diagnosis.output] == [(32,), (4,)]
    assert diagnosis.found
    assert diagnosis.samples.shape[:2] == (4, 1)


def test_the_model_is_left_as_it_was():
    model = DCGAN()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    diagnose(model, torch.randn(4, 16, 1, 1))
    assert model.training
    assert not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_inputs_by_name_outputs_by_name_and_layers_that_are_never_reached():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Upsample(scale_factor=2), nn.ConvTranspose2d(3, 3, 2, 2)

        def forward(self, *, pixels):
            return {"loss": torch.zeros(()), "sample": self.used(pixels)}

    diagnosis = diagnose(Model(), {"pixels": torch.rand(2, 3, 16, 16)})
    assert diagnosis.unreached == ("unused",)
    assert "not run by these inputs: unused" in str(diagnosis)
    assert diagnosis.samples.shape == (2, 3, 32, 32)
    assert not diagnosis.found


def test_models_that_cannot_be_judged_say_why():
    plain = diagnose(nn.Conv2d(3, 3, 3), torch.rand(1, 3, 8, 8))
    assert str(plain).endswith("Could not judge: its output of 6 is smaller than four periods of 2 along an axis.")
    assert plain.found is plain.to_dict()["found"] is None
    classes = diagnose(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), torch.rand(5, 3, 4, 4))
    assert classes.reason == "the model returns no batch of images, volumes or sound in floating point"
    tiny = diagnose(nn.Upsample(scale_factor=2), torch.rand(1, 3, 3, 3))
    assert "fewer than four periods in 6" in str(tiny)
    uneven = diagnose(nn.Upsample(size=(20, 20)), torch.rand(1, 3, 16, 16))
    assert uneven.layers[0].verdict == "not judged"
    assert "its scale is no integer" in str(uneven)
    with pytest.raises(ValueError, match=r"layer '0': `signals` hold values that are not finite"):
        diagnose(nn.Sequential(nn.Upsample(scale_factor=2)), torch.full((1, 1, 8, 8), math.inf))


# Upsampling that is not recognised ------------------------------------------------------------------------------------


class Unpatch(nn.Module):
    """The end of a vision transformer's decoder, by einsum."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 48)

    def forward(self, tokens):
        batch, count, _ = tokens.shape
        side = int(count**0.5)
        patches = self.linear(tokens).view(batch, side, side, 4, 4, 3)
        return torch.einsum("bhwpqc->bchpwq", patches).reshape(batch, 3, 4 * side, 4 * side)


class ZeroInsertion(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        spread = x.new_zeros(batch, channels, height, 2, width, 2)
        spread[:, :, :, 0, :, 0] = x.relu()
        return self.conv(spread.view(batch, channels, 2 * height, 2 * width))


class Convolution(nn.Module):
    """The operator that tracers record."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))

    def forward(self, x):
        return torch.convolution(x.relu(), self.weight, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)


@pytest.mark.parametrize(
    ("make", "shape", "period"),
    [(Unpatch, (16, 256, 32), 4), (Convolution, (16, 8, 24, 24), 2), (ZeroInsertion, (16, 8, 24, 24), 2)],
)
def test_an_output_is_measured_where_no_upsampling_is_recognised(make, shape, period):
    torch.manual_seed(0)
    diagnosis = diagnose(make(), torch.randn(shape) + (1 if len(shape) == 3 else 0))
    assert diagnosis.layers == ()
    assert diagnosis.found is True
    assert diagnosis.blamed == ()
    assert {part.period for part in diagnosis.output if part.pattern and part.pattern.found} >= {(period, period)}
    assert str(diagnosis).endswith("Checkerboard found in the output; what makes it was not recognised.")


def test_a_pattern_that_the_inputs_have_is_not_the_models():
    images = pink(8, 64, seed=1).float()
    images[..., ::2, 1::2] += 1
    model = nn.Conv2d(1, 1, 1)
    diagnosis = diagnose(model, images)
    assert diagnosis.found is False
    assert "period 2: the inputs have it already" in str(diagnosis)
    assert diagnose(model, pink(8, 64, seed=2).float()).found is False


def test_a_blur_behind_a_shuffle_removes_the_pattern_and_nothing_is_cured():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReplicationPad2d((1, 0, 1, 0)),
        nn.AvgPool2d(2, stride=1),
    )
    images = torch.randn(16, 8, 24, 24) + 0.5
    diagnosis = diagnose(model, images)
    assert diagnosis.layers[0].verdict == "checkerboard"
    assert diagnosis.found is False
    _, report = halfstride.cure(model, images, steps=5)
    assert report.changed == ()
    assert report.difference == 0


# What content makes, and what the model makes -------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        layers = [nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.block = nn.Sequential(
            *layers, nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, 1, 1)
        )

    def forward(self, x):
        return x + self.block(x)


def latent_decoder(up):
    """As the decoders of latent diffusion are built."""
    levels = []
    for _ in range(2):
        levels += [Residual(16), up(), nn.Conv2d(16, 16, 3, padding=1)]
    ends = [Residual(16), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)]
    return nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), *levels, *ends)


class HandShuffle(nn.Module):
    """MONAI's: a shuffle by `reshape` and `permute`, which no hook sees, and a blur behind it."""

    def __init__(self, blur):
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.blur = nn.Sequential(nn.ConstantPad2d((1, 0, 1, 0), 0.0), nn.AvgPool2d(2, 1)) if blur else nn.Identity()

    def forward(self, x):
        x = self.conv(x.relu())
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return self.blur(x.reshape(batch, channels // 4, 2 * height, 2 * width))


def shuffle(blur):
    behind = [nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, 1)] if blur else []
    return nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2), *behind)


PAIRS = {  # a model without a checkerboard, one that differs in that it has one, and the channels that they take
    "latent noise": (
        lambda: latent_decoder(lambda: nn.Upsample(scale_factor=2)),
        lambda: latent_decoder(lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1)),
        4,
    ),
    "shuffle, blur": (lambda: shuffle(True), lambda: shuffle(False), 8),
    "shuffle by hand, blur": (lambda: HandShuffle(True), lambda: HandShuffle(False), 8),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_noise_through_even_models_is_no_checkerboard_and_through_uneven_ones_it_is(kind):
    clean, uneven, channels = PAIRS[kind]
    patterns = 0
    for seed in range(4):
        examples = noise(seed, 12, channels, 20, 20)
        torch.manual_seed(seed)
        diagnosis = diagnose(clean(), examples)
        patterns += diagnosis.visible
        assert diagnosis.found is False, seed
        assert not diagnosis.blamed
        if kind == "shuffle, blur":  # no advice to cure what is removed already
            assert "cure it" not in str(diagnosis)
            assert str(diagnosis).endswith("what 2 makes does not show in it.")
        torch.manual_seed(seed)
        diagnosis = diagnose(uneven(), examples)
        assert diagnosis.found is True, seed
        assert max(part.on_constant for part in diagnosis.output if part.found) > 0.1
    assert patterns or kind != "latent noise"  # of content, which phases that differ in variance turn into a mean


def test_a_grid_that_is_added_behind_even_layers_is_found():
    class Gridded(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.grid = ResizeConv2d(4, 3, 3), nn.Parameter(torch.zeros(3, 40, 40))
            with torch.no_grad():
                self.grid[:, ::2, ::2] += 0.1

        def forward(self, x):
            return self.up(x) + self.grid

    assert diagnose(Gridded(), noise(0, 16, 4, 20, 20)).found is True


# Which layer ----------------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.uneven = nn.Sequential(nn.ConvTranspose2d(3, 3, 3, 2, 1, 1))
        self.even = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3, padding=1))
        self.order = order

    def forward(self, x):
        return {name: getattr(self, name)(x.relu()) for name in self.order}


@pytest.mark.parametrize("order", [("uneven", "even"), ("even", "uneven")])
def test_every_head_is_measured_and_has_its_own_layers(order):
    diagnosis = diagnose(Heads(order), noise(0, 8, 3, 24, 24))
    found = {part.layers: (part.period, part.direct, part.found) for part in diagnosis.output}
    assert found == {("uneven.0",): ((2, 2), True, True), ("even.0",): ((2, 2), True, False)}
    assert [part.place for part in diagnosis.output] == [0, 1]
    assert diagnosis.blamed == ("uneven.0",)


class PooledAway(nn.Module):
    """Of two branches the second doubles once more, and is pooled: its last layer's pattern has become constant."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.ConvTranspose2d(3, 8, 3, 2, 1, 1), nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        first = self.first(x.relu()).relu()
        return self.last(torch.cat([first, F.max_pool2d(self.second(first), 2)], 1))


class Chunks(nn.Module):
    """A video that is decoded a few frames at a time."""

    def __init__(self):
        super().__init__()
        self.uneven, self.even = nn.ConvTranspose3d(4, 8, 3, (1, 2, 2), 1, (0, 1, 1)), nn.Upsample(scale_factor=2)
        self.last = nn.Conv3d(8, 3, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.last(self.even(self.uneven(part.relu()))) for part in x.split(4, 2)], 2)


class Frames(nn.Module):
    """A video whose frames are a batch inside."""

    def __init__(self):
        super().__init__()
        self.up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    def forward(self, x):
        frames = self.up(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


class Tiles(nn.Module):
    """An image that is decoded tile by tile."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 3, 2, 1, 1)

    def forward(self, x):
        image = x.new_zeros(len(x), 3, 48, 48)
        for top in (0, 12):
            image[:, :, 2 * top : 2 * top + 24] = self.up(x.relu()[:, :, top : top + 12])
        return image


FOLLOWED = {
    "pooled": (
        lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(3, 3, 3, 2), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)),
        (8, 3, 24, 24),
        [((2, 2), ("3",))],
        (),
    ),
    "one branch pooled": (PooledAway, (8, 3, 24, 24), [((2, 2), ("first",))], ("first",)),
    "chunks": (Chunks, (2, 4, 8, 16, 16), [((2, 4, 4), ("uneven",)), ((2, 2, 2), ("even",))], ("uneven",)),
    "frames": (Frames, (2, 4, 8, 12, 12), [((1, 4, 4), ("up.1",)), ((1, 2, 2), ("up.2",))], ("up.1", "up.2")),
    "tiles": (Tiles, (8, 3, 24, 24), [((2, 2), ("up",))], ("up",)),
    "shuffle by hand": (
        lambda: nn.Sequential(HandShuffle(False), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3)),
        (8, 8, 16, 16),
        [((4, 4), ()), ((2, 2), ("2",))],
        (),
    ),
}


@pytest.mark.parametrize("kind", FOLLOWED)
def test_tensors_are_followed_from_each_layer_to_the_output(kind):
    make, shape, expected, blamed = FOLLOWED[kind]
    torch.manual_seed(0)
    diagnosis = diagnose(make(), noise(0, *shape))
    assert [(part.period, part.layers) for part in diagnosis.output] == expected
    assert diagnosis.blamed == blamed
    assert diagnosis.found is (bool(blamed) or kind == "shuffle by hand")


def test_images_with_their_channels_at_the_end_are_read_as_such_and_it_is_said():
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 3, 3, 2)

        def forward(self, x):
            return self.up(x.permute(0, 3, 1, 2).relu()).permute(0, 2, 3, 1)

    model, images = ChannelsLast(), noise(0, 8, 24, 24, 4)
    diagnosis = diagnose(model, images)
    assert (diagnosis.found, diagnosis.blamed, diagnosis.channels_last) == (True, ("up",), True)
    assert diagnosis.samples.shape[1] == 3
    assert "The output was read as (batch, height, width, channels)." in str(diagnosis)
    assert not halfstride.cure(model, images, steps=3)[1].after.found
    assert not diagnose(nn.Conv2d(4, 3, 1), noise(0, 2, 4, 24, 24)).channels_last


# Images ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("period", [2, 3, 4, 5, 6, 8])
def test_an_image_tells_its_period(period):
    image = pink(1, 128, period)
    image /= image.std()
    assert not diagnose_image(image).found
    image[..., 1::period, ::period] += 1
    found = diagnose_image(image[0, 0].numpy())
    assert found.period == period
    assert f"period {period}" in str(found)


def fence(i, j):
    return (j % 12 < 5).double().expand(len(i), -1)


def bricks(i, j):
    row = i // 12 % 2
    return ((i % 12 > 1) & ((j + 12 * row) % 24 > 1)).double()


def cloth(i, j):
    over = (i // 10 + j // 10) % 2
    return torch.where(over == 1, (math.pi * (i % 10 + 0.5) / 10).sin(), (math.pi * (j % 10 + 0.5) / 10).sin())


def tiles(i, j):
    tile = pink(1, 20, 5)[0, 0]
    return tile[i % 20, j % 20] / tile.std()


REPEATED = (fence, bricks, cloth, tiles)


@pytest.mark.parametrize("content", REPEATED)
def test_content_that_repeats_by_itself_is_no_checkerboard_and_beside_it_one_is_found(content):
    i, j = torch.arange(120)[:, None], torch.arange(120)
    image = content(i, j) + 0.2 * noise(3, 120, 120)
    diagnosis = diagnose_image(image)
    assert diagnosis.found is None
    assert diagnosis.period is None
    assert "content repeats by itself every" in diagnosis.reason
    assert f"Could not judge: {diagnosis.reason}." in str(diagnosis)
    assert diagnosis.to_dict()["reason"] == diagnosis.reason
    for kind in ("overlap", "checkers"):
        found = diagnose_image(image + 0.2 * pattern(kind, 120))
        assert found.found
        assert found.patterns[0].found


def test_content_of_no_period_is_not_taken_for_a_pattern_that_is_multiplied_with_it():
    picture = torch.from_numpy(load_sample_image("flower.jpg").mean(-1))
    crop = picture[:256, :256]
    found = diagnose_image(crop)
    assert [measured.period[0] for measured in found.patterns if measured.is_broad] == [7, 8]
    assert found.found is None
    assert found.reason.startswith("the content has as much at the periods beside period 7, 8")
    assert "not judged, the content has as much beside it" in str(found)
    assert diagnose_image(crop.expand(4, 1, -1, -1)).found  # what four images share is no content
    gain = 1 + 0.05 * pattern("overlap", 256)
    marked = {each.period[0]: each for each in diagnose_image(crop * gain).patterns}
    assert marked[2].multiplicative.found
    assert not marked[2].is_broad


def test_a_page_of_pictures_is_judged_as_each_of_them():
    pages = []
    for seed in range(6):
        shared, own = pink(1, 24, seed), pink(16, 24, 100 + seed)
        page = (shared / shared.std() + 0.3 * own / own.std()).reshape(4, 4, 24, 24)
        pages.append(page.transpose(1, 2).reshape(96, 96))
    assert not any(diagnose_image(page).found for page in pages)
    assert all(diagnose_image(page + 0.1 * pattern("checkers", 96)).found for page in pages)


@pytest.mark.parametrize("side", [16, 24])
def test_nine_framed_pictures_are_no_checkerboard_and_with_one_it_is_found(side):
    """The page holds barely more than two of them between the margins that a period of 8 needs."""
    for seed in range(20):
        framed = pink(9, side, seed) / pink(9, side, seed).std()
        framed[..., 0, :] = framed[..., :, 0] = 2
        page = framed.reshape(3, 3, side, side).transpose(1, 2).reshape(3 * side, 3 * side)
        assert not diagnose_image(page).found, seed
        assert diagnose_image(page + 0.3 * pattern("checkers", 3 * side)).found, seed


def test_images_of_every_layout_and_type():
    image = torch.randint(0, 256, (40, 50, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    reference = diagnose_image(image.movedim(-1, 0).double()).patterns
    for same in (image, image.numpy(), image.movedim(-1, 0), image.movedim(-1, 0)[None].half()):
        for one, other in zip(diagnose_image(same).patterns, reference, strict=True):
            assert one.strength == pytest.approx(other.strength, abs=1e-6)
    with pytest.raises(ValueError, match=r"`image` \(of 7×30\) is too small"):
        diagnose_image(torch.rand(7, 30))
    with pytest.raises(ValueError, match=r"`image` \(of shape \(4,\) and torch.float32\) must be"):
        diagnose_image(torch.rand(4))


# Warnings, figures, data ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("downscale", "stride", "kernel", "better"), [(2, 2, 3, 4), (4, 4, 6, 8), (8, 4, 5, 8)])
def test_an_uneven_autoencoder_is_warned_of_when_it_is_built_and_not_when_it_is_loaded(
    downscale, stride, kernel, better, tmp_path
):
    expected = (
        rf"ConvAutoencoder has kernel_size={kernel} with stride={stride}: its output positions sum 1 to 4 taps, which "
        rf'makes a checkerboard\. kernel_size={better} would not, nor would upsampling="resize"\.'
    )
    size = {"latent_dim": 2, "downscale": downscale, "width": 4}
    with pytest.warns(UnevenKernelWarning, match=expected) as caught:
        model = ConvAutoencoder(16, **size, upsampling="transposed", kernel_size=kernel)
    assert [warning.filename for warning in caught] == [__file__]
    model.save_pretrained(tmp_path)
    ConvAutoencoder.from_pretrained(tmp_path)
    for upsampling, chosen in (("transposed", better), ("transposed", None), ("resize", 3), ("subpixel", 3)):
        ConvAutoencoder(16, **size, upsampling=upsampling, kernel_size=chosen)


@pytest.mark.parametrize(("downscale", "stride", "kernel"), [(2, 2, 1), (4, 4, 3), (8, 4, 2)])
def test_an_autoencoder_with_gaps_between_its_kernels_is_refused(downscale, stride, kernel):
    expected = (
        rf"`kernel_size` \(={kernel}\) must be at least {stride}, the stride of the last transposed convolution, or it "
        rf'leaves gaps: use {2 * stride}, or upsampling="resize"\.'
    )
    with pytest.raises(ValueError, match=expected):
        ConvAutoencoder(16, latent_dim=2, downscale=downscale, width=4, upsampling="transposed", kernel_size=kernel)


def test_figures_show_the_gains_and_the_pattern(tmp_path):
    diagnosis = diagnose(DCGAN(5), torch.randn(16, 16, 1, 1))
    figure = figures.diagnosis(diagnosis)
    shown = [float(text.get_text()) for text in figure.subfigs[0].axes[3].texts]
    np.testing.assert_allclose(shown, diagnosis.layers[3].gains.flatten(), atol=0.006)
    drawn = figure.subfigs[1].axes[2].images[0].get_array()
    assert np.abs(drawn).max() > 0
    for name, picture in (
        ("model", figure),
        ("image", figures.image_diagnosis(diagnose_image(torch.rand(32, 32)))),
        ("sound", figures.diagnosis(diagnose(nn.ConvTranspose1d(1, 1, 3, 2), torch.rand(2, 1, 64)))),
        ("nothing", figures.diagnosis(diagnose(nn.Identity(), torch.rand(1)))),
    ):
        picture.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_a_long_sound_takes_memory_in_proportion_to_its_length():
    """A period of 256 in 110,000 positions: one number for each position, taper and harmonic would be 14 GB."""
    torch.manual_seed(0)
    layers = []
    for channels, rate in ((8, 8), (4, 8), (2, 4)):
        layers += [nn.LeakyReLU(0.1), nn.ConvTranspose1d(channels, channels // 2, 2 * rate, rate, rate // 2)]
    diagnosis = diagnose(nn.Sequential(*layers), torch.randn(1, 8, 430))
    assert {part.period for part in diagnosis.output} == {(256,), (32,), (4,)}
    assert all(part.pattern is not None for part in diagnosis.output)


@pytest.mark.parametrize(("size", "s"), [(17, 2), (40, 5), (64, 8)])
def test_sums_over_a_phase_give_the_coefficients_at_the_harmonics(size, s):
    view = harmonic_test.view_of(size, s)
    values = torch.randn(2, size, 3, dtype=torch.complex128)
    turns = torch.arange(s - 1, s - 1 + size)[:, None] * torch.arange(s).double() / s
    waves = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    expected = torch.einsum("cpx,kp,pa->cxka", values, view.tapers.to(values), waves)
    torch.testing.assert_close(harmonic_test._at_harmonics(values, view), expected)
