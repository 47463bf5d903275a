"""`tune`: what is measured is used, on this device and with these versions only, and nothing is kept by itself."""

import json

import pytest
import torch
from torch import nn

import halfstride
from errors import message
from halfstride._core import planner, tuned
from halfstride._core.case import resize_case
from halfstride.optimizing import tuning


@pytest.fixture(autouse=True)
def file(tuned_file):
    return tuned_file


@pytest.fixture
def clock(monkeypatch):
    """Times that are told: by algorithm, seconds; what is not named takes one."""
    told = {}

    def times(question, device):
        return {name: told.get(name, 1.0) for name in ("native", "scatter", "folded", "by_parts")}

    monkeypatch.setattr(tuning, "_times", times)
    return told


def layer_and_input():
    return halfstride.ResizeConv2d(4, 6, 3, dtype=torch.float64), torch.randn(1, 4, 5, 6, dtype=torch.float64)


def test_what_was_measured_is_used(clock, file):
    layer, x = layer_and_input()
    case = resize_case(2, x.shape, layer.weight.shape)
    assert planner.choose(case, dtype=torch.float64) == "native"
    clock["by_parts"] = 0.5
    with torch.no_grad():
        report = halfstride.tune(layer, x)
    assert [(row.algorithm, row.milliseconds["by_parts"]) for row in report.rows] == [("by_parts", 500.0)]
    assert "resize 1x4x5x6 -> 6 k(3, 3) s(2, 2), float64, forward: by_parts (ms: by_parts 500, native 1e+03" in str(
        report
    )
    assert report.file == file
    assert planner.choose(case, dtype=torch.float64) == "by_parts"
    assert planner.choose(case, "native", dtype=torch.float64) == "native"  # as it was asked for
    assert planner.choose(case, dtype=torch.float64, training=True) == "native"  # not measured
    assert planner.choose(case._replace(batch=2), dtype=torch.float64) == "native"
    tuned._read.cache_clear()  # as in another process
    assert planner.choose(case, dtype=torch.float64) == "by_parts"


def test_torchs_own_operator_is_left_for_a_tenth_only(clock):
    layer, x = layer_and_input()
    clock["by_parts"] = 0.95
    assert {row.algorithm for row in halfstride.tune(layer, x).rows} == {"native"}


def test_other_versions_and_threads_know_nothing(clock, monkeypatch):
    layer, x = layer_and_input()
    clock["folded"] = 0.1
    halfstride.tune(layer, x)
    case = resize_case(2, x.shape, layer.weight.shape)
    assert planner.choose(case, dtype=torch.float64) == "folded"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert planner.choose(case, dtype=torch.float64) == "native"
    monkeypatch.undo()


def test_training_and_models_of_torch_are_measured_too(clock):
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 6, 3, padding=1)).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    clock["folded"] = 0.1
    found = [row.layer.split(", ")[-1] for row in halfstride.tune(model, x).rows]
    assert found == ["forward", "training"]
    with torch.no_grad():
        _, report = halfstride.optimize(model, x)
    (row,) = report.rows
    assert "folded" in row.became or "not faster" in row.reason


def test_real_times_and_nothing_to_measure(file):
    layer, x = layer_and_input()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    report = halfstride.tune(layer, x)
    for row in report.rows:
        assert row.milliseconds.keys() >= {"native", "scatter", "emulated", "folded", "phases", "by_parts"}
        assert min(row.milliseconds.values()) > 0
    assert len(report.rows) == 2
    assert layer.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    file.unlink()
    assert str(halfstride.tune(nn.Linear(2, 2), torch.ones(1, 2))).startswith("The model calls no layer")
    assert not file.exists()
    assert message(halfstride.tune, "model", x, kind=TypeError) == "`model` must be a torch.nn.Module, not str."


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '{"a": {"b": 1}}'])
def test_a_damaged_file_is_a_warning(text, file):
    layer, x = layer_and_input()
    file.parent.mkdir()
    file.write_text(text)
    tuned._read.cache_clear()
    with pytest.warns(UserWarning, match="tuned.json cannot be read, so nothing is known from halfstride.tune"):
        assert planner.choose(resize_case(2, x.shape, layer.weight.shape), dtype=torch.float64) == "native"


def test_an_algorithm_that_no_longer_exists_is_passed_over(clock, file):
    layer, x = layer_and_input()
    clock["folded"] = 0.1
    halfstride.tune(layer, x)
    file.write_text(json.dumps(json.loads(file.read_text())).replace("folded", "gone"))
    tuned._read.cache_clear()
    assert planner.choose(resize_case(2, x.shape, layer.weight.shape), dtype=torch.float64) == "native"
