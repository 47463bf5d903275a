"""Losses are means per image, with finite gradients wherever training may lead."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from halfstride.autoencoder.losses import _similarity, loss

NAMES = ("mse", "l1", "bce", "sharp")


def _smooth(*shape):
    """Images with structure at all scales."""
    noise = sum(
        F.interpolate(torch.rand(*shape[:2], *(-(-side // scale) for side in shape[2:])), shape[2:])
        for scale in (1, 4, 16)
    )
    return noise / 3


@settings(max_examples=60)
@given(
    st.sampled_from(NAMES), st.integers(1, 4), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.booleans()
)
def test_each_images_loss_is_its_own_and_can_be_followed_downhill(name, n, channels, height, width, channels_last):
    target = torch.rand(n, channels, height, width)
    output = torch.rand(n, channels, height, width).requires_grad_()
    if channels_last:
        target = target.contiguous(memory_format=torch.channels_last)
    values = loss(name, output, target)
    assert values.shape == (n,)
    assert values.dtype == torch.float32
    alone = torch.cat([loss(name, output[i : i + 1], target[i : i + 1]) for i in range(n)])
    torch.testing.assert_close(values, alone)
    values.sum().backward()
    assert output.grad.isfinite().all()
    assert output.grad.flatten(1).abs().sum(1).min() > 0


def test_the_simple_ones_are_torchs():
    output, target = torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4)
    for name, function in (("mse", F.mse_loss), ("l1", F.l1_loss), ("bce", F.binary_cross_entropy)):
        torch.testing.assert_close(loss(name, output, target).mean(), function(output, target))


@pytest.mark.parametrize("size", [(11, 11), (28, 28), (31, 70), (16, 12)])
def test_sharp_is_ssim_and_l1_below_32_pixels(size):
    target, output = _smooth(3, 3, *size), _smooth(3, 3, *size)
    ssim = structural_similarity_index_measure(output, target, data_range=1.0, reduction="none")
    torch.testing.assert_close(
        loss("sharp", output, target), 0.84 * (1 - ssim) + 0.16 * loss("l1", output, target), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("size", "scales"), [((32, 32), 2), ((64, 48), 3), ((96, 100), 4), ((176, 180), 5), ((400, 400), 5)]
)
def test_sharp_is_ms_ssim_and_l1_from_32_pixels(size, scales):
    target = _smooth(2, 1, *size)
    output = (target + 0.1 * _smooth(2, 1, *size)).clamp(0, 1)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    betas = tuple(weight / sum(weights) for weight in weights)
    similarity = 1 - (loss("sharp", output, target) - 0.16 * loss("l1", output, target)) / 0.84
    if size == (400, 400):  # the sizes below are too small for torchmetrics' own limits
        expected = multiscale_structural_similarity_index_measure(
            output, target, data_range=1.0, betas=betas, reduction="none"
        )
        torch.testing.assert_close(similarity, expected, rtol=0, atol=3e-3)
    expected, a, b = 1.0, output, target
    for scale, beta in enumerate(betas):
        expected = expected * _similarity(a, b, contrast_only=scale < scales - 1) ** beta
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    torch.testing.assert_close(similarity, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 4, 10])
def test_small_images_have_a_window_that_fits(size):
    target = torch.rand(2, 3, size, size)
    values = loss("sharp", 1 - target, target)
    assert (values > 0.16 * loss("l1", 1 - target, target) + 0.1).all()
    tiny = torch.rand(2, 3, 2, 9)
    torch.testing.assert_close(loss("sharp", 1 - tiny, tiny), loss("l1", 1 - tiny, tiny))


@pytest.mark.parametrize("size", [8, 28, 64, 96])
@pytest.mark.parametrize("case", ["equal", "constant", "constant and equal", "black", "negative", "flat target"])
def test_gradients_of_sharp_are_finite_where_images_are_degenerate(size, case):
    target = torch.rand(2, 3, size, size)
    if case in ("constant", "constant and equal", "flat target", "black"):
        target = torch.full_like(target, 0.0 if case == "black" else 0.3)
    output = {
        "equal": target,
        "constant": torch.full_like(target, 0.8),
        "constant and equal": target,
        "black": torch.zeros_like(target),
        "negative": 1 - target,  # contrast is negated: a fractional power of it would be NaN
        "flat target": torch.rand_like(target),
    }[case]
    output = output.clone().requires_grad_()
    values = loss("sharp", output, target)
    assert values.isfinite().all()
    assert values.min() >= -1e-5
    values.sum().backward()
    assert output.grad.isfinite().all()
    assert output.grad.abs().max() < 10
    if "equal" in case or case == "black":
        assert values.abs().max() < 1e-4


def test_following_sharp_downhill_restores_an_image():
    target = _smooth(2, 1, 32, 32)
    output = torch.full_like(target, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([output], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss("sharp", output, target).sum().backward()
        optimizer.step()
    assert loss("sharp", output, target).max() < 0.02


def test_types_and_mistakes():
    images = torch.rand(2, 1, 12, 12)
    assert loss("sharp", images.bfloat16(), images).dtype == torch.float32
    assert loss("sharp", images.double(), images.double()).dtype == torch.float64
    assert loss("sharp", images[:0], images[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"`loss` \(='huber'\) must be one of 'mse', 'l1', 'bce', 'sharp'"):
        loss("huber", images, images)
    with pytest.raises(ValueError, match=r"`output` \(of shape \(2, 1, 12, 12\)\) must be N×C×H×W like `target`"):
        loss("mse", images, images[:1])
