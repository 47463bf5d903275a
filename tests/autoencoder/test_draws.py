"""Random numbers belong to images: neither the number of processes nor the batch size changes them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfstride.autoencoder.draws import Draw


def _all(draw, purpose="noise"):
    return [*draw.uniforms(purpose, 3).tolist(), *(torch.rand(1, generator=g).item() for g in draw.generators(purpose))]


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**7), st.integers(0, 12), st.integers(1, 5))
def test_each_process_gets_its_share_of_what_one_process_would_draw(seed, step, count, world):
    whole = Draw(seed, step, count)
    shares = [Draw(seed, step, count, rank, world) for rank in range(world)]
    assert sum(map(len, shares)) == len(whole) == count
    uniforms, numbers = whole.uniforms("a", 2), [torch.rand(1, generator=each).item() for each in whole.generators("a")]
    for rank, share in enumerate(shares):
        assert torch.equal(share.uniforms("a", 2), uniforms[rank::world])
        assert [torch.rand(1, generator=each).item() for each in share.generators("a")] == numbers[rank::world]


def test_seed_step_purpose_and_set_make_other_numbers():
    draws = [
        _all(Draw(0, 0, 4)),
        _all(Draw(1, 0, 4)),
        _all(Draw(0, 1, 4)),
        _all(Draw(0, 0, 4), "flip"),
        _all(Draw.of_images(0, range(4))),
    ]
    assert len({number for numbers in draws for number in map(str, numbers)}) == sum(map(len, draws))
    assert all(0 <= value < 1 for value in Draw(3, 5, 100).uniforms("a", 2).flatten().tolist())


def test_in_evaluation_numbers_depend_on_the_images_index_alone():
    whole = Draw.of_images(5, range(10))
    assert torch.equal(Draw.of_images(5, [7, 2]).uniforms("a", 2), whole.uniforms("a", 2)[[7, 2]])
    first = [torch.rand(1, generator=each).item() for each in whole.generators("a")]
    assert [torch.rand(1, generator=each).item() for each in Draw.of_images(5, [7, 2]).generators("a")] == [
        first[7],
        first[2],
    ]
    assert Draw.of_images(5, []).uniforms("a", 2).shape == (0, 2)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"`rank` \(=2\) must lie in 0 to 1, since world=2"):
        Draw(0, 0, 4, 2, 2)
    with pytest.raises(ValueError, match=r"`step` \(=-1\) must be at least 0"):
        Draw(0, -1, 4)
    with pytest.raises(ValueError, match=r"`indices` \(=\(3, -1\)\) must be at least 0"):
        Draw.of_images(0, [3, -1])
