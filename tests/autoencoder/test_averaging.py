"""The average of weights is the stated one, can be lent to the model, and goes on exactly after a checkpoint."""

import io

import pytest
import torch
from torch import nn

from halfstride.autoencoder.averaging import WeightAverage


def _model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3))


def _train(model, average, steps, optimizer):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        average.update()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_it_is_the_stated_average(decay):
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay)
    expected = None
    for step in range(1, 40):
        nn.init.constant_(model.weight, step**0.5)
        average.update()
        share = 1 - min(decay, step / (step + 9))
        expected = step**0.5 if expected is None else expected + share * (step**0.5 - expected)
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_a_short_run_has_forgotten_its_initial_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 100.0)
    average = WeightAverage(model)
    average.update()
    nn.init.constant_(model.weight, 1.0)
    for _ in range(60):
        average.update()
    assert average.model.weight.item() == pytest.approx(1, abs=1e-3)


def test_the_model_has_the_average_inside_the_block_and_its_own_afterwards():
    model = _model()
    average = WeightAverage(model)
    _train(model, average, 5, torch.optim.SGD(model.parameters(), 0.5, momentum=0.9))
    model.eval()
    places = [parameter.data_ptr() for parameter in model.parameters()]
    own = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.model.state_dict().items()}
    images = torch.rand(2, 1, 8, 8)
    expected = average.model.eval()(images)
    with average.applied():
        assert torch.equal(model(images), expected)
        assert not torch.equal(model[0].weight, own["0.weight"])
    assert torch.equal(model[0].weight, own["0.weight"])
    with pytest.raises(RuntimeError, match="channels"), average.applied():
        model(torch.rand(2, 3, 8, 8))  # an error inside leaves the model its own weights too
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, averaged[name]) for name, value in average.model.state_dict().items())
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)  # buffers are copies
    assert not torch.equal(average.model[0].weight, model[0].weight)


def test_a_resumed_average_goes_on_exactly():
    torch.manual_seed(0)
    model = _model()
    average = WeightAverage(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    _train(model, average, 7, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "average": average.state_dict()}, file)
    torch.manual_seed(1)
    _train(model, average, 7, optimizer)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = _model()
    again.load_state_dict(saved["model"])
    resumed = WeightAverage(again)
    resumed.load_state_dict(saved["average"])
    torch.manual_seed(1)
    _train(again, resumed, 7, torch.optim.SGD(again.parameters(), 0.1))
    for name, value in average.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_it_needs_no_gradient_and_wrong_decays_are_named():
    average = WeightAverage(_model())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"`decay` \(=.*\) must be at least 0 and below 1"):
            WeightAverage(_model(), decay)
