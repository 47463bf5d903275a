"""From measured times to the costs that `planner` chooses by."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import calibrate
from benchmarks.rows import LAYERS, parse
from halfstride._core import planner

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def measured(capability, circumstance):
    return [
        (order, parse(line), seconds)
        for order, line, seconds in json.loads((RESULTS / f"calibration.{capability}.{circumstance}.json").read_text())
    ]


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
@pytest.mark.parametrize("circumstance", ["forward", "training"])
def test_the_choice_is_as_fast_as_the_fastest_on_every_layer_that_was_measured(capability, circumstance, monkeypatch):
    table = planner._measured.__wrapped__
    monkeypatch.setattr(planner, "capability", lambda: capability)
    costs = table()
    monkeypatch.setattr(planner, "_measured", lambda: costs)
    grid, lost = {row.name for row in LAYERS if row.form in planner.ELIGIBLE}, {}
    for order, row, seconds in measured(capability, circumstance):
        case = calibrate.case_of(row)
        chosen, _ = planner._decide.__wrapped__(case, "auto", circumstance, order == "channels last")
        lost[order, row.name] = seconds[chosen] / min(seconds.values())
    assert {name for _, name in lost} > grid
    # What summation by parts does differs a little between processors, and this one may be another.
    assert max(ratio for (_, name), ratio in lost.items() if name in grid) <= 1.1
    assert max(lost.values()) <= 1.25
    assert math.exp(sum(map(math.log, lost.values())) / len(lost)) <= 1.003


def test_layers_are_drawn_alike_every_time():
    rows = calibrate.rows()
    assert rows == calibrate.rows()
    assert {row.form for row in rows} == set(planner.ELIGIBLE)
    assert {row.axes for row in rows} == {1, 2, 3}
    assert all(min(row.output_shape) > 0 and parse(row.name) == row for row in rows[len(LAYERS) :])


def test_costs_are_found_again_in_times_that_they_made():
    costs = planner.Costs(10.0, 4.0, 0.0, 300.0, 2000.0, 700.0, 6e7, 5e6)
    cases = [calibrate.case_of(row) for row in calibrate.rows() if row.form == "transposed" and row.axes == 2]
    samples = [
        (case, planner.predict(planner.Measured(costs, ()), case, "scatter", channels_last=True) / 1e3)
        for case in cases
    ]
    found = calibrate.fitted(samples, "scatter", channels_last=True, fastest_product=0.0)
    for index in (0, 3, 4, 5, 6, 7):  # no product of scattering is idle, and none was dearer where images are few
        assert found[index] == pytest.approx(costs[index], rel=0.02)


def test_what_layers_deviate_by_is_learned():
    row = parse("transposed 2x8x5x7 -> 4 k4 s2 p1")
    others = [
        parse(f"transposed {batch}x{channels}x16x16 -> 8 k4 s2 p1") for batch in (1, 8, 64) for channels in (8, 64, 256)
    ]
    times = [("contiguous", each, {"native": 1e-9 * math.prod(each.output_shape), "scatter": 1.0}) for each in others]
    times.append(("contiguous", row, {"native": 3.0, "scatter": 2.0}))
    of_all = list(times)
    of_all += [("channels last", each, seconds) for _, each, seconds in times]
    for axes, form in ((1, "transposed"), (3, "transposed"), (1, "resize"), (2, "resize"), (3, "resize")):
        size = "x".join(["6"] * axes)
        seconds = dict.fromkeys(planner.ELIGIBLE[form], 1.0)
        kernel = "k4 s2 p1" if form == "transposed" else "k3 s2"
        of_all += [(order, parse(f"{form} 1x8x{size} -> 4 {kernel}"), seconds) for order in calibrate._ORDERS]
    table = calibrate.learned(of_all)
    case = calibrate.case_of(row)
    for name, seconds in times[-1][2].items():
        known = table["contiguous", "transposed", 2, name]
        assert planner.predict(known, case, name, channels_last=False) == pytest.approx(1e3 * seconds, rel=0.1)


def test_algorithms_take_turns_and_the_hopeless_have_few(monkeypatch):
    clock, calls = [0.0], []

    def taking(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: clock[0])
    times = calibrate._in_turn({"slow": taking("slow", 5.0), "fast": taking("fast", 1.0)}, 0.0)
    assert times == {"slow": 5.0, "fast": 1.0}
    assert calls == ["slow", "slow", "fast", "fast"] * 3 + ["fast", "fast"] * 2
    calls.clear()
    calibrate._in_turn({"one": taking("one", 1.0), "other": taking("other", 2.0)}, 60.0)
    assert calls == ["one", "one", "other", "other"] * 10


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    """With the row that was being measured, and what was measured before is kept."""
    two = calibrate.rows()[:2]
    asked, interrupted, file = [], [], tmp_path / "calibration.json"

    def prepared(peer, task):
        asked.append(task.name)
        if task.name == two[1].name and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(calibrate, "prepare", prepared)
    monkeypatch.setattr(calibrate, "_ORDERS", ("contiguous",))
    monkeypatch.setattr(calibrate, "rows", lambda: two)
    with pytest.raises(KeyboardInterrupt):
        calibrate._measure(file, "forward", 1, 0.0)
    assert not file.exists()
    before = len(asked)
    calibrate._measure(file, "forward", 1, 0.0)
    assert set(asked[before:]) == {two[1].name}
    assert [name for _, name, _ in json.loads(file.read_text())] == [row.name for row in two]
    assert list(tmp_path.iterdir()) == [file]
