"""From measured times to the costs by which `planner` chooses."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import calibrate
from benchmarks.report import geometric_mean
from benchmarks.rows import LAYERS, parse
from halfstride._core import planner

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module", params=list(product(("avx2", "avx512"), ("forward", "training"))), ids="-".join)
def measured(request):
    """Instruction set, circumstance, and the committed times."""
    instructions, circumstance = request.param
    return instructions, circumstance, calibrate.read(RESULTS / f"calibration.{instructions}.{circumstance}.json")


def test_choices_are_fast_on_layers_that_their_costs_were_not_fitted_to(measured):
    _, circumstance, times = measured
    choices = calibrate.cross_validated(circumstance, times)
    assert len(choices) == len(times)
    of_fastest = [seconds[name] / min(seconds.values()) for (_, _, seconds), name in choices]
    of_torch = [seconds[name] / seconds["native"] for (_, _, seconds), name in choices]
    assert geometric_mean(of_fastest) <= (1.12 if circumstance == "forward" else 1.08)
    assert geometric_mean(of_torch) <= 0.76


def test_no_choice_on_the_grid_is_far_slower_than_torch(measured):
    instructions, circumstance, times = measured
    costs = json.loads(calibrate._COSTS.read_text())[instructions]
    table = {key: planner.Costs(*each) for key, each in costs.items()}
    names = {row.name for row in LAYERS if row.form in planner.ELIGIBLE}
    grid = [sample for sample in times if sample[1].name in names]
    assert {row.name for _, row, _ in grid} == names
    for (_, row, seconds), name in calibrate.chosen(circumstance, grid, table):
        assert seconds[name] <= 1.5 * seconds["native"], row.name
        assert seconds[name] <= 1.6 * min(seconds.values()), row.name


def test_layers_are_drawn_alike_every_time():
    rows = calibrate.rows()
    assert rows == calibrate.rows()
    assert {row.form for row in rows} == set(planner.ELIGIBLE)
    assert {row.axes for row in rows} == {1, 2, 3}
    assert all(min(row.output_shape) > 0 and parse(row.name) == row for row in rows[len(LAYERS) :])


def test_costs_are_found_again_in_times_that_they_made():
    costs = planner.Costs(10.0, 4.0, 0.0, 300.0, 2000.0, 700.0, 6e7, 5e6)
    cases = [calibrate.case_of(row) for row in calibrate.rows() if row.form == "transposed" and row.axes == 2]
    samples = [(case, planner.predict(costs, case, "scatter", channels_last=True) / 1e3) for case in cases]
    found = calibrate.fitted(samples, "scatter", channels_last=True, fastest_mac=0.0)
    for index in (0, 3, 4, 5, 6, 7):  # scatter has no idle MACs, and `mac_per_image` is 0
        assert found[index] == pytest.approx(costs[index], rel=0.02)


def test_algorithms_alternate_and_slow_ones_run_less_often(monkeypatch):
    clock, calls = [0.0], []

    def taking(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: clock[0])
    times = calibrate._alternating({"slow": taking("slow", 5.0), "fast": taking("fast", 1.0)}, 0.0)
    assert times == {"slow": 5.0, "fast": 1.0}
    assert calls == ["slow", "slow", "fast", "fast"] * 3 + ["fast", "fast"] * 2
    calls.clear()
    calibrate._alternating({"one": taking("one", 1.0), "other": taking("other", 2.0)}, 60.0)
    assert calls == ["one", "one", "other", "other"] * 10


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
    two = calibrate.rows()[:2]
    asked, interrupted, file = [], [], tmp_path / "calibration.json"

    def prepared(peer, task):
        asked.append(task.name)
        if task.name == two[1].name and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(calibrate, "prepare", prepared)
    monkeypatch.setattr(calibrate, "_FORMATS", ("contiguous",))
    monkeypatch.setattr(calibrate, "rows", lambda: two)
    with pytest.raises(KeyboardInterrupt):
        calibrate._measure(file, "forward", 1, 0.0)
    assert not file.exists()
    before = len(asked)
    calibrate._measure(file, "forward", 1, 0.0)
    assert set(asked[before:]) == {two[1].name}
    assert [name for _, name, _ in json.loads(file.read_text())] == [row.name for row in two]
    assert list(tmp_path.iterdir()) == [file]
