"""Order, shares and steps: every image once, the same ones in every step however many processes there are."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from errors import message
from halfstride.autoencoder.images.splits import Epoch, MemorySplit, spread


def numbered(count):
    """Images that carry their own number."""
    return MemorySplit(torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1).expand(count, 1, 2, 3).clone())


def numbers(batches):
    return [batch[:, 0, 0, 0].tolist() for batch in batches]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_each_image_once_an_epoch(count, batch_size, seed, epoch, shuffle):
    batches = list(numbered(count).batches(batch_size, seed=seed, epoch=epoch, shuffle=shuffle))
    found = numbers(batches)
    assert sorted(joined(found)) == list(range(count))
    assert all(len(batch) == batch_size for batch in found[:-1])
    assert all(batch.dtype == torch.uint8 and batch.is_contiguous() for batch in batches)
    if not shuffle:
        assert joined(found) == list(range(count))


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, batch_size=7):
        return joined(numbers(numbered(50).batches(batch_size, seed=seed, epoch=epoch, shuffle=True)))

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(found) for found in orders}) == 9
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert order(1, 2, batch_size=50) == order(1, 2, batch_size=1) == orders[5]
    assert torch.equal(torch.get_rng_state(), before)
    # A run that was begun with another version of the package must be able to go on.
    assert Epoch(7, seed=1, epoch=2, shuffle=True, rank=0, world_size=1, skip=0).derived_seed == 2095879784943828947


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.integers(0, 4))
def test_processes_share_what_one_would_do(count, world_size, each, skip):
    split, batch_size = numbered(count), world_size * each
    options = {"seed": 1, "epoch": 2, "shuffle": True}
    alone = numbers(split.batches(batch_size, **options))
    shares = [
        numbers(split.batches(batch_size, **options, rank=rank, world_size=world_size, skip=skip))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {max(len(alone) - skip, 0)}
    for step, together in enumerate(zip(*shares, strict=True), start=skip):
        assert sorted(joined(together)) == sorted(alone[step])
        lengths = [len(share) for share in together]
        assert max(lengths) - min(lengths) <= 1
        assert lengths == [each] * world_size or step == len(alone) - 1


def test_gradients_of_processes_add_up_to_that_of_one():
    generator = torch.Generator().manual_seed(0)
    split = MemorySplit(torch.randint(0, 256, (9, 1, 2, 3), dtype=torch.uint8, generator=generator))
    weight = torch.randn(6, dtype=torch.float64, generator=generator)

    def gradient(images, scale):
        leaf = weight.clone().requires_grad_()
        losses = (images.flatten(1).double() @ leaf - 1).square()
        (losses.sum() * scale).backward()
        return leaf.grad

    for step, batch in enumerate(split.batches(4, shuffle=True)):
        alone = gradient(batch, 1 / len(batch))
        shares = []
        for rank in range(4):
            share = list(split.batches(4, shuffle=True, rank=rank, world_size=4))[step]
            assert share.shape[1:] == (1, 2, 3)
            shares.append(gradient(share, 4 / len(batch)))
        torch.testing.assert_close(sum(shares) / 4, alone)
    assert step == 2
    assert len(share) == 0  # the last of nine images: three processes have none


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 100), st.integers(0, 3))
def test_a_sample_is_spread_over_classes_and_over_the_split(labels, count, seed):
    indices = spread(len(labels), torch.tensor(labels), count, seed).tolist()
    assert len(indices) == len(set(indices)) == min(count, len(labels))
    drawn = [labels[i] for i in indices]
    sizes = {label: labels.count(label) for label in set(labels)}
    shares = {label: drawn.count(label) for label in sizes}
    for label, share in shares.items():  # no class has two fewer than another, unless all of it is there
        assert share == sizes[label] or share >= max(shares.values()) - 1
    every = min(shares.values()) * len(shares)
    assert all(len(set(drawn[i : i + len(shares)])) == len(shares) for i in range(0, every, len(shares)))
    plain = spread(len(labels), None, count, seed).tolist()
    if count <= len(labels):
        assert [index * count // len(labels) for index in plain] == pytest.approx(list(range(count)), abs=1)
    assert plain == spread(len(labels), None, count, seed).tolist() == sorted(plain)


def test_a_sample_carries_labels_names_and_indices():
    split = MemorySplit(
        torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1),
        torch.arange(40) // 10,
        [f"{i}.png" for i in range(40)],
    )
    sample = split.sample(8)
    assert sample.images[:, 0, 0, 0].tolist() == sample.indices.tolist()
    assert sample.names == [f"{i}.png" for i in sample.indices]
    assert sample.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert split.sample(8, seed=1).names != sample.names
    assert torch.equal(split.sample(8).images, sample.images)
    assert numbered(5).sample(9).names is None
    with pytest.raises(ValueError, match=r"`count` \(=0\) must be at least 1"):
        split.sample(0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_size": 0}, "`batch_size` (=0) must be at least 1."),
        ({"batch_size": 4, "skip": -1}, "`skip` (=-1) must be at least 0."),
        ({"batch_size": 4, "world_size": 0}, "`world_size` (=0) must be at least 1."),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, "`rank` (=2) must lie in 0 to 1, since world_size=2."),
        ({"batch_size": 32, "world_size": 3}, "`batch_size` (=32) cannot be shared evenly by 3 processes: use 33."),
        ({"batch_size": 1, "world_size": 3}, "`batch_size` (=1) cannot be shared evenly by 3 processes: use 3."),
    ],
)
def test_wrong_arguments(arguments, text):
    assert message(numbered(10).batches, **arguments) == text
