"""Corruptions do what their strength says, for any images, and the same however the work is shared."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from errors import message
from halfstride.autoencoder.corruption import Corruption, corrupt, parse_corruptions
from halfstride.autoencoder.draws import Draw

ALL = "blur:1.2,gaussian:0.1,poisson:30,salt-and-pepper:0.2,mask:0.3,gaussian:0.05"
EACH = ["gaussian:0.1", "poisson:30", "salt-and-pepper:0.2", "jpeg:50", "blur:0.8", "mask:0.25"]


def _apply(images, text, step=0):
    return corrupt(images, parse_corruptions(text), Draw(0, step, len(images)))


@settings(max_examples=60)
@given(
    st.integers(1, 3),
    st.sampled_from((1, 3)),
    st.integers(1, 19),
    st.integers(1, 19),
    st.sampled_from(EACH),
    st.sampled_from((torch.float16, torch.float32, torch.float64)),
    st.booleans(),
)
def test_shape_type_memory_format_and_range_are_kept(n, channels, height, width, text, dtype, channels_last):
    images = torch.rand(n, channels, height, width, dtype=dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    output = _apply(images, text)
    assert (output.shape, output.dtype, output.stride()) == (images.shape, dtype, images.stride())
    assert 0 <= output.min() <= output.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_any_number_of_channels_but_for_jpeg(channels):
    images = torch.rand(2, channels, 12, 9)
    assert _apply(images, ALL).shape == images.shape
    with pytest.raises(ValueError, match=rf"`images` \(of {channels} channels\) must have 1 or 3 for jpeg"):
        _apply(images, "jpeg:30")


@pytest.mark.parametrize("text", [*EACH, ALL])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_corrupt_as_one_process_does(text, world):
    images = torch.rand(7, 3, 16, 12)
    whole = corrupt(images, parse_corruptions(text), Draw(3, 4, 7))
    for rank in range(world):
        share = corrupt(images[rank::world], parse_corruptions(text), Draw(3, 4, 7, rank, world))
        torch.testing.assert_close(share, whole[rank::world], rtol=0, atol=1e-6)


def test_steps_and_images_differ_and_the_same_step_repeats():
    images = torch.full((2, 1, 16, 16), 0.4)
    for text in ("gaussian:0.1", "poisson:30", "salt-and-pepper:0.2", "mask:0.25"):
        first = _apply(images, text)
        assert torch.equal(first, _apply(images, text))
        assert not torch.equal(first, _apply(images, text, step=1))
        assert not torch.equal(first[0], first[1])
    twice = _apply(images, "gaussian:0.1,gaussian:0.1") - images  # not twice the same noise
    assert twice.std() == pytest.approx(0.1 * math.sqrt(2), rel=0.15)


def test_the_noise_is_as_strong_as_asked_for():
    grey = torch.full((4, 3, 64, 64), 0.4)
    assert (_apply(grey, "gaussian:0.1") - grey).std().item() == pytest.approx(0.1, rel=0.02)
    shot = _apply(grey, "poisson:100")
    assert shot.mean().item() == pytest.approx(0.4, rel=0.01)
    assert shot.std().item() == pytest.approx(math.sqrt(0.4 / 100), rel=0.03)
    assert torch.allclose(shot * 100, (shot * 100).round(), atol=1e-4)  # whole photons


def test_salt_and_pepper_hits_whole_pixels_half_white_half_black():
    output = _apply(torch.full((4, 3, 64, 64), 0.4), "salt-and-pepper:0.3")
    assert torch.equal(output[:, 0], output[:, 2])
    white, black = (output[:, 0] == 1).float().mean().item(), (output[:, 0] == 0).float().mean().item()
    assert white == pytest.approx(0.15, abs=0.01)
    assert black == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(("share", "size"), [(0.25, (64, 64)), (0.5, (96, 32)), (0.1, (64, 64)), (1, (9, 7))])
def test_patches_cover_about_the_share_and_are_whole(share, size):
    images = torch.zeros(64, 1, *size)
    masked = _apply(images, f"mask:{share}") == 0.5
    assert masked.float().mean().item() == pytest.approx(share, abs=0.03)
    if size == (64, 64):  # patches of 8×8 pixels: a border of one runs at every eighth line only
        borders = (masked[0, 0, 1:] != masked[0, 0, :-1]).any(1).nonzero().flatten()
        assert len({border.item() % 8 for border in borders}) == 1


@pytest.mark.parametrize("sigma", [0.3, 1, 2.5])
def test_blur_is_scipys(sigma):
    images = torch.rand(2, 3, 21, 5, dtype=torch.float64)
    radius = math.ceil(3 * sigma)
    expected = ndimage.gaussian_filter(
        images.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, *[radius] * 2)
    )
    np.testing.assert_allclose(_apply(images, f"blur:{sigma}").numpy(), expected, atol=1e-9)


def test_jpeg_loses_more_at_lower_quality():
    images = torch.rand(2, 3, 32, 32)
    errors = [(_apply(images, f"jpeg:{quality}") - images).square().mean().item() for quality in (5, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0
    grey = torch.full((1, 1, 16, 16), 128 / 255)
    torch.testing.assert_close(_apply(grey, "jpeg:80"), grey)


def test_texts_are_read():
    assert parse_corruptions("") == parse_corruptions(" none ") == ()
    corruptions = parse_corruptions(" blur:1.5 ,jpeg:30")
    assert corruptions == (Corruption("blur", 1.5), Corruption("jpeg", 30))
    assert parse_corruptions(",".join(map(str, corruptions))) == corruptions
    images = torch.rand(2, 1, 4, 4)
    assert corrupt(images, (), Draw(0, 0, 2)) is images
    assert corrupt(images[:0], corruptions, Draw(0, 0, 0)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rain:3",
            r"`corruption` \(='rain:3'\) must be one of gaussian:STD, poisson:PEAK, salt-and-pepper:SHARE, jpeg:Q"),
        ("gaussian", r"`corruption` \(='gaussian'\) must be one of"),
        ("gaussian:a bit", r"`corruption` \(='gaussian:a bit'\) must be one of"),
        ("blur:1,,jpeg:3", r"`corruption` \(=''\) must be one of"),
        ("gaussian:25", r"`corruption` \(='gaussian:25'\) is out of range: .* above 0 to 1: .* divide by 255"),
        ("gaussian:nan", r"`corruption` \(='gaussian:nan'\) is out of range"),
        ("poisson:inf", r"`strength` \(=inf\) must be above 0 to 1e\+06"),
        ("mask:0", r"`strength` \(=0\) must be above 0 to 1: it is the SHARE of mask:SHARE"),
        ("jpeg:96", r"`strength` \(=96\) must be an integer from 1 to 95"),
        ("jpeg:30.5", r"`strength` \(=30.5\) must be an integer from 1 to 95"),
        ("blur:-1", r"`strength` \(=-1\) must be above 0 to 100"),
    ],
)  # fmt: skip
def test_mistakes_are_named_on_one_line(text, expected):
    assert re.search(expected, message(parse_corruptions, text))


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match=r"`kind` \(='fog'\) must be one of gaussian, poisson"):
        Corruption("fog", 1)
    with pytest.raises(ValueError, match="`draw` is of 3 images, but `images` are 2"):
        corrupt(torch.rand(2, 1, 4, 4), parse_corruptions("blur:1"), Draw(0, 0, 3))
