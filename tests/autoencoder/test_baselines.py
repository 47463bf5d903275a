"""Baselines: as good as the method can be with the numbers that it may use, and no number more."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfstride.autoencoder import baselines
from halfstride.autoencoder.baselines import PCA, Codec, MeanImage, Thumbnail, fit_baselines
from halfstride.autoencoder.images import to_float


def noise(count, *shape, seed=0):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(count, *shape, seed=0):
    """Images of few waves each."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    rows, columns = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 3, width)
    phase = 6 * torch.rand((2, count, channels, 1, 1), generator=generator)
    images = (rows + phase[0]).sin() * (columns + phase[1]).sin()
    return (127.5 * (1 + images)).round().to(torch.uint8)


def error(baseline, images):
    return float((baseline.reconstruct(to_float(images)) - to_float(images)).square().mean())


def test_the_mean_image_has_the_variance_as_its_error():
    images = noise(500, 2, 3, 4)
    assert error(MeanImage(images), images) == pytest.approx(float(to_float(images).var(0, correction=0).mean()), 1e-5)


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_a_thumbnail_never_has_more_numbers_than_allowed(numbers, channels, height, width):
    images = smooth(4, channels, height, width)
    thumbnail = Thumbnail(images, numbers)
    assert 1 <= thumbnail.numbers <= numbers
    output = thumbnail.reconstruct(to_float(images))
    assert output.shape == images.shape
    assert output.min() >= 0
    assert output.max() <= 1
    if numbers >= channels * height * width:
        assert error(thumbnail, images) == 0
    if numbers < channels:
        assert (output == output[:, :1]).all()  # grey


def test_a_thumbnail_uses_its_numbers_well():
    for numbers, height, width in ((1024, 128, 128), (30, 28, 28), (256, 64, 96), (7, 4, 200)):
        thumbnail = Thumbnail(smooth(8, 1, height, width), numbers)
        assert thumbnail.numbers > 0.8 * numbers


@pytest.mark.parametrize(("count", "shape"), [(200, (1, 5, 6)), (20, (3, 5, 6))], ids=["covariance", "gram"])
def test_pca_is_that_of_a_singular_value_decomposition(count, shape):
    images = smooth(count, *shape)
    values = images.flatten(1).double().numpy() / 255
    mean = values.mean(0)
    _, _, axes = np.linalg.svd(values - mean, full_matrices=False)
    for numbers in (1, 4):
        fitted = PCA(images, numbers)
        expected = ((values - mean) @ axes[:numbers].T @ axes[:numbers] + mean).clip(0, 1)
        np.testing.assert_allclose(fitted.reconstruct(to_float(images)).flatten(1), expected, atol=2e-6)
        assert fitted.codes(to_float(images)).shape == (count, numbers)
        assert fitted.numbers == numbers
        assert fitted.doubled
        assert "exact, of" in fitted.note


def test_pca_of_fewer_images_than_numbers_says_so():
    images = noise(10, 1, 8, 8)
    fitted = PCA(images, 32)
    assert fitted.numbers == 9
    assert not fitted.doubled
    assert fitted.note == "exact, of 10 training images, clipped to [0, 1], which have only 9 components"
    assert error(fitted, images) < 1e-9
    single = PCA(images[:1], 4)
    assert single.numbers == 0
    assert error(single, images[:1]) < 1e-9
    constant = PCA(torch.full((9, 1, 4, 4), 7, dtype=torch.uint8), 3)
    assert constant.numbers == 0


def test_randomised_pca_is_nearly_exact(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn((900, 300), generator=generator)).Q
    weights = torch.randn((400, 300), generator=generator) * torch.logspace(0, -4, 300) * 2
    images = (127.5 + 500 * weights @ axes.T).clamp(0, 255).round().to(torch.uint8).reshape(-1, 1, 30, 30)
    exact = PCA(images, 120)
    monkeypatch.setattr(baselines, "_seconds", lambda *_: (math.inf, 0.0))
    randomised = PCA(images, 120, drawn_from=900)
    assert "randomised, of 400 of 900 training images" in randomised.note
    assert error(randomised, images) <= 1.01 * error(exact, images)


@pytest.mark.parametrize("name", ["JPEG", "WebP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_the_best_that_keep_within_the_budget(name, channels):
    images = (smooth(12, channels, 64, 72) // 2) + (noise(12, channels, 64, 72) // 4)
    small, large = Codec(name, images, 900), Codec(name, images, 1800)
    assert small.comparable
    assert small.size <= 900 < small._mean_bytes(images, small.quality + 2)
    assert large.size <= 1800
    assert error(large, images) < error(small, images) < 0.01
    assert small.reconstruct(to_float(images)).shape == images.shape


def test_where_no_file_is_small_enough_the_smallest_is_no_baseline():
    codec = Codec("JPEG", noise(4, 3, 64, 64), 20)
    assert not codec.comparable
    assert codec.size > 20
    assert "no baseline" in codec.note


def test_files_are_for_images_of_at_least_64_pixels_a_side():
    assert [baseline.name for baseline in fit_baselines(smooth(5, 1, 63, 80), smooth(5, 1, 63, 80), 4)] == [
        "mean image",
        "thumbnail",
        "PCA",
    ]
    fitted = fit_baselines(smooth(5, 3, 64, 64), smooth(5, 3, 64, 64), 2000)
    assert [baseline.name for baseline in fitted] == ["mean image", "thumbnail", "PCA", "JPEG", "WebP"]
    assert all(baseline.numbers is None or baseline.numbers <= 2000 for baseline in fitted)
