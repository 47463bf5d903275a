"""AUPRO against a count by hand, and what the measures say where something is missing."""

import numpy as np
import pytest
from scipy.ndimage import label

from halfstride.tasks.detection.metrics import image_metrics, region_overlap


def brute_force(maps, masks, limit):
    """Overlap with each defect and false positives at every threshold, and the area below by trapezoids."""
    points = [(0.0, 0.0)]
    normal = sum((~mask).sum() for mask in masks)
    for threshold in sorted({value for each in maps for value in each.ravel()}, reverse=True):
        overlaps, false = [], 0
        for each, mask in zip(maps, masks, strict=True):
            called = each >= threshold
            false += (called & ~mask).sum()
            regions, count = label(mask, structure=np.ones((3, 3)))
            overlaps += [called[regions == region].mean() for region in range(1, count + 1)]
        points.append((false / normal, np.mean(overlaps)))
    area, (x, y) = 0.0, points[0]
    for right, top in points[1:]:
        if right > limit:
            if x < limit:
                end = y + (top - y) * (limit - x) / (right - x)
                area += (limit - x) * (y + end) / 2
            break
        area += (right - x) * (y + top) / 2
        x, y = right, top
    return area / limit


@pytest.mark.parametrize("seed", range(4))
def test_region_overlap_is_that_of_a_count_by_hand(seed):
    generator = np.random.default_rng(seed)
    maps = [generator.integers(0, 12, (9, 11)).astype(float) for _ in range(3)]
    masks = [generator.random((9, 11)) > share for share in (0.7, 0.9, 1.0)]
    maps[0] += 6 * masks[0]
    for limit in (0.3, 1.0):
        assert region_overlap(maps, masks, limit)[1] == pytest.approx(brute_force(maps, masks, limit))


def test_a_perfect_map_has_an_overlap_of_1_and_no_mask_has_none():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = mask[6, 6] = True
    assert region_overlap([mask.astype(float)], [mask]) == (1.0, pytest.approx(1.0))
    assert region_overlap([np.ones((4, 4))], [np.zeros((4, 4), bool)]) == (None, None)


def test_image_metrics_count_what_lies_on_the_wrong_side():
    found = image_metrics([0.1, 0.9, 0.2, 0.8], [False, False, True, True], 0.5)
    assert (found.normal, found.anomalous, found.false_alarms, found.missed) == (2, 2, 1, 1)
    assert found.image_auroc == 0.5
    assert image_metrics([0.1], [False], 0.5).image_auroc is None
