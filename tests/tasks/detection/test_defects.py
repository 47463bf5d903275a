"""Synthetic defects: images of every size, and masks of just what was changed."""

import numpy as np
import pytest
import torch

from halfstride.tasks.detection.defects import paint_defects, paint_patch


@pytest.mark.parametrize("shape", [(12, 1, 28, 28), (6, 3, 64, 40), (5, 3, 1, 1), (5, 1, 3, 70)])
def test_nothing_is_changed_outside_of_masks_beyond_their_soft_edges(shape):
    images = torch.rand(shape)
    painted, masks = paint_defects(images, np.random.default_rng(0))
    assert painted.shape == images.shape
    assert masks.shape == (shape[0], 1, *shape[2:])
    assert painted.min() >= 0
    assert painted.max() <= 1
    changed = (painted - images).abs().amax(1, keepdim=True)
    assert (changed[masks > 0] > 0.02).all()
    untouched = changed.flatten(1).amax(1) == 0
    assert (masks[untouched] == 0).all()


def test_the_same_generator_paints_the_same():
    images = torch.rand(8, 1, 32, 32)
    first, second = (paint_defects(images, np.random.default_rng(7))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, paint_defects(images, np.random.default_rng(8))[0])


def test_a_patch_has_the_size_and_contrast_that_are_asked_for():
    images = torch.full((4, 3, 40, 50), 0.4)
    painted, masks = paint_patch(images, 16, 0.2, np.random.default_rng(0))
    assert torch.allclose(painted - images, 0.2 * masks)
    assert masks.sum((1, 2, 3)).numpy() == pytest.approx(np.pi * 64, rel=0.06)
