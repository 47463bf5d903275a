"""What is cached of a weight follows the weight."""

import gc
import math

import pytest
import torch

from halfstride._core.algorithms import by_parts, folded, native, scatter
from halfstride._core.case import resize_case
from halfstride._support import weight_cache
from tolerance import assert_close


@pytest.mark.parametrize("algorithm", [folded, scatter, by_parts])
def test_what_is_kept_of_a_weight_follows_it(algorithm):
    case = resize_case(2, (1, 3, 5, 4), (4, 3, 3, 3), 2)
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    x = torch.randn(1, 3, 5, 4)

    def check(x=x):
        with torch.no_grad():
            output = algorithm.compute(case, x, weight, None)
            assert_close(output, native.compute(case, x, weight, None))
        return output

    check()
    for change in (
        lambda: weight.data.mul_(1.5),
        lambda: weight.detach().add_(0.25),
        lambda: weight.data.__setitem__((3, 2, 1, 0), -7.0),
        lambda: setattr(weight, "data", torch.randn(4, 3, 3, 3)),
        lambda: setattr(weight, "data", weight.data.to(memory_format=torch.channels_last)),
    ):
        version = weight._version
        change()
        check()
    assert weight._version == version  # so that it could not tell
    weight.data = weight.data.double()
    check(x.double())


def test_what_is_kept_of_a_large_weight_follows_the_least_of_its_changes():
    weight, makes = torch.nn.Parameter(torch.randn(64, 32, 3, 3)), []
    weight.data[3], weight.data[5] = 0.0, 1e10 * weight.data[5]

    def look():
        with torch.no_grad():
            weight_cache.cache_on_weight(weight, "key", lambda: makes.append(1))
        return len(makes)

    assert look() == look() == 1
    number = weight.data[40, 20, 1, 1].item()
    changes = [
        lambda: weight.data.__setitem__((40, 20, 1, 1), number * (1 + 1e-3)),
        lambda: weight.data.__setitem__((3, 20, 1, 1), 1e-9),
        lambda: weight.data.copy_(weight.data.flip(0)),
        lambda: weight.data.copy_(weight.data.flip(-1)),
        lambda: weight.data.copy_(weight.data.roll(1, 1)),
        lambda: weight.data.mul_(1 + 1e-5),
        lambda: weight.data.__setitem__((5, 0, 0, 0), 1e6),
        lambda: weight.data.__setitem__((5, 1, 0, 0), 1e-6),
        lambda: weight.data.__setitem__((5, 1, 0, 0), 1.1e-6),  # beside 1e6
        lambda: weight.data.__setitem__((0, 0, 0, 0), math.nan),
    ]
    for made, change in enumerate(changes, start=2):
        change()
        assert look() == made


def changes_seen(weight, *changes):
    """How many of these changes make the cache compute anew; each is made once."""
    makes = []
    with torch.no_grad():
        for change in (lambda: None, *changes):
            change()
            weight_cache.cache_on_weight(weight, "key", lambda: makes.append(1))
    return len(makes) - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_every_change_of_one_value_and_every_exchange_of_two_is_seen(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(70_001, generator=generator, dtype=torch.float64).to(dtype))

    def exchange(i, j):
        values = weight.data[[j, i]].clone()
        assert values[0] != values[1]
        weight.data[[i, j]] = values

    def nudge(i):
        bits = weight.data.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
        bits[i] ^= 1

    places = torch.randint(70_001, (200, 2), generator=generator).tolist()
    places += [[0, 4093], [1, 4091 + 1], [70_000, 0], [69_999, 4093 * 3], [5, 5 + 4093 * 4]]
    places = [(i, j) for i, j in places if weight.data[i] != weight.data[j]]
    changes = [lambda i=i, j=j: exchange(i, j) for i, j in places]
    changes += [lambda i=i: nudge(i) for pair in places for i in pair]
    assert changes_seen(weight, *changes) == len(changes)


@pytest.mark.parametrize("numel", [2**10, 2**14, 2**18])
def test_no_size_of_a_weight_hides_a_change_of_one_bit(numel):
    weight = torch.nn.Parameter(torch.zeros(numel // 64, 64))
    weight.data[1, 1] = math.inf

    def nudge(i):
        weight.data.view(torch.int32).view(-1)[i] ^= 1

    changes = [lambda i=i: nudge(i) for i in torch.randint(numel, (20,)).tolist()]
    assert changes_seen(weight, *changes, lambda: None) == len(changes)


@pytest.mark.parametrize("numel", [2**10, 2**14, 2**18])
def test_the_same_memory_in_another_order_is_another_weight(numel):
    weight = torch.nn.Parameter(torch.randn(numel // 64, 4, 4, 4))
    other = weight.data.view(-1, 4, 4, 4).permute(0, 3, 1, 2)  # channels last
    assert changes_seen(weight, lambda: setattr(weight, "data", other)) == 1


@pytest.mark.parametrize("shape", [(128, 128, 3, 3), (256, 256, 1, 1), (200, 200, 3), (200, 200, 4)])
def test_permuted_channels_of_one_hot_kernels_are_seen(shape):
    weight = torch.nn.Parameter(torch.zeros(shape))
    torch.nn.init.dirac_(weight)
    generator = torch.Generator().manual_seed(0)

    def permute(axis):
        order = torch.randperm(shape[axis], generator=generator)
        weight.data.copy_(weight.data.index_select(axis, order))

    changes = [lambda axis=n % 2: permute(axis) for n in range(30)]
    assert changes_seen(weight, *changes) == len(changes)


def test_a_frozen_weight_is_not_read_and_follows_changes_that_are_recorded(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(300, 200))
    weight = model[0].weight
    assert weight_cache.freeze(model) is model
    state = {name: value + 1 for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    recorded = [
        lambda: model.load_state_dict(state),
        optimizer.step,
        lambda: weight.mul_(2),
        lambda: setattr(weight, "data", weight.data.clone()),
        lambda: model.double(),
    ]
    assert changes_seen(weight, *recorded) == len(recorded)
    monkeypatch.setattr(weight_cache, "_fingerprint", lambda weight: pytest.fail("the weight was read"))
    assert changes_seen(weight, lambda: None, lambda: None) == -1  # it is known already
    with pytest.raises(TypeError, match="`model` must be a torch.nn.Module, not int"):
        weight_cache.freeze(1)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("size", [8, 128])
def test_what_is_made_of_a_weight_that_another_thread_is_changing_is_not_kept(size, back):
    weight = torch.nn.Parameter(torch.randn(size, size, 3))
    before = weight.detach().clone()

    def made_of_a_change():
        with torch.no_grad():
            weight.zero_()
            made = weight.detach().clone()
            if back:
                weight.copy_(before)
        return made

    with torch.no_grad():
        weight_cache.cache_on_weight(weight, "key", made_of_a_change)
        weight.copy_(before)
        assert torch.equal(weight_cache.cache_on_weight(weight, "key", weight.detach().clone), before)


def test_what_is_kept_of_a_weight_is_used_and_goes_with_it():
    case = resize_case(1, (1, 2, 5), (2, 2, 3), 2)
    weight, x = torch.nn.Parameter(torch.randn(2, 2, 3)), torch.randn(1, 2, 5)
    makes = []
    with torch.no_grad():
        for _ in range(3):
            weight_cache.cache_on_weight(weight, "key", lambda: makes.append(1))
        assert len(makes) == 1
        gc.collect()  # what other tests left
        before = len(weight_cache._CACHES)
        folded.compute(case, x, weight, None)
        del weight
        gc.collect()
        assert len(weight_cache._CACHES) == before - 1
    trained = torch.nn.Parameter(torch.randn(2, 2, 3))
    for _ in range(3):
        weight_cache.cache_on_weight(trained, "key", lambda: makes.append(1))
    assert len(makes) == 4
