"""Which latent is chosen for which images, and why it says so."""

import numpy as np
import pytest

from halfstride import ConvAutoencoder, choose_latent, load_images


def textures(count=100, size=32, seed=0, channels=3):
    """Stripes of any direction and place: nothing is shared."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images = []
    for _ in range(count):
        angle, phase, scale = generator.uniform(0, np.pi), generator.uniform(0, 6), generator.uniform(0.3, 1.0)
        wave = np.sin(scale * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
        images.append(np.repeat((127 + 120 * wave)[:, :, None], channels, 2))
    return np.array(images).astype(np.uint8)


def faces(count=100, size=32, seed=0):
    """A bright disc with two dark spots on dark ground, each in nearly the same place and of its own brightness."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images = []
    for _ in range(count):
        disc = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 2.5) ** 2
        image = 20.0 + disc * generator.uniform(60, 220)
        for column in (size // 3, 2 * size // 3):
            eye = (rows - size // 3) ** 2 + (columns - column) ** 2 < generator.uniform(2, 6)
            image[eye] = generator.uniform(0, 255)
        images.append(image)
    return np.array(images).astype(np.uint8)


def test_images_of_one_layout_get_a_vector_and_all_others_a_map():
    choice = choose_latent(load_images("digits"))
    assert choice[:4] == ("vector", 32, None, False)
    assert "so they share a layout" in choice.reason
    assert choose_latent(load_images(faces())).latent == "vector"
    choice = choose_latent(load_images(textures()))
    assert choice[:4] == ("map", 4, 8, True)
    assert "so they share no layout" in choice.reason


def test_test_images_decide_nothing():
    images = load_images("digits")
    before = choose_latent(images)
    images.test.images.random_(256)
    images.validation.images.random_(256)
    assert choose_latent(images) == before


@pytest.mark.parametrize(("asked", "expected"), [("map", ("map", 2, 8, True)), ("vector", ("vector", 32, None, False))])
def test_what_is_asked_for_is_taken_and_the_reason_says_so(asked, expected):
    choice = choose_latent(load_images("digits"), latent=asked)
    assert choice[:4] == expected
    assert choice.reason.startswith("asked for; the mean image explains")


def test_sizes_that_are_given_are_kept_and_others_follow_from_the_compression():
    images = load_images(textures())
    assert choose_latent(images, latent_dim=7)[:3] == ("map", 7, 8)
    assert choose_latent(images, downscale=4)[:3] == ("map", 1, 4)
    assert choose_latent(images, downscale=16)[:3] == ("map", 16, 16)
    assert choose_latent(images, latent="vector", downscale=8)[:4] == ("vector", 64, 8, True)
    assert choose_latent(images, latent="vector", latent_dim=5)[:2] == ("vector", 5)
    # Zeros are no absent values: the model refuses them.
    assert choose_latent(images, latent_dim=0).latent_dim == 0
    assert choose_latent(images, downscale=0).downscale == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 29, 64])
def test_every_choice_is_a_model_with_a_code_smaller_than_the_image(channels, size):
    images = load_images(textures(30, size, channels=channels))
    for latent in ("vector", "map"):
        model = ConvAutoencoder.for_images(images, latent=latent, width=4, blocks=0)
        assert model.latent == latent
        assert np.prod(model.latent_shape) <= channels * size**2


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((1, 8, 8), np.uint8), "one image alone cannot share a layout with others"),
        (np.full((20, 8, 8), 77, np.uint8), "the training images are all the same"),
        (textures(1).repeat(30, 0), "the training images are all the same"),
        (faces(4), "too few to compare PCA on"),
    ],
)
def test_too_few_or_equal_images_get_a_map_and_the_reason_says_why(images, reason):
    choice = choose_latent(load_images(images))
    assert choice.latent == "map"
    assert reason in choice.reason
