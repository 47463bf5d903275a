"""The threshold: its rate of false alarms on images that it was not set on."""

import numpy as np
import pytest

from halfstride.tasks.detection.threshold import images_needed, set_threshold


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (1 / 3, 2)])
def test_images_needed_are_the_fewest_that_reach_the_rate(rate, needed):
    assert images_needed(rate) == needed
    enough = set_threshold(range(needed), rate)
    assert enough.rate <= rate + 1e-12
    assert enough.needed == 0
    if needed > 1:
        few = set_threshold(range(needed - 1), rate)
        assert few.rate > rate
        assert (few.value, few.needed) == (needed - 2, needed)


def test_new_good_images_lie_above_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    shares, inside = [], 0
    for _ in range(300):
        threshold = set_threshold(generator.normal(size=150), 0.05)
        above = int((generator.normal(size=400) > threshold.value).sum())
        low, high = threshold.interval(400)
        shares.append(above / 400)
        inside += low <= above <= high
    assert np.mean(shares) == pytest.approx(threshold.rate, abs=0.005)
    assert inside / 300 > 0.92


def test_bad_rates_and_no_scores_are_refused():
    for rate in (0, 1, -0.1):
        with pytest.raises(ValueError, match=r"`false_alarms` \(=.*\) must be a share above 0 and below 1"):
            set_threshold([1.0], rate)
    with pytest.raises(ValueError, match="of 0 images"):
        set_threshold([], 0.1)
