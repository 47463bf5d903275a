"""Measure the algorithms on this machine, and fit the numbers by which `halfstride.planning` chooses.

    python -m benchmarks.calibrate               # measure and fit
    python -m benchmarks.calibrate --fit         # fit again what was measured on a processor like this one

For each form, algorithm, circumstance and order in memory it finds the `planning.Costs` that predict the measured times
best (least squares of the relative errors) and how far each measured layer deviates from that, and writes both where
planning reads them. Then it prints what a choice by them loses on every row against the fastest algorithm, also where
planning is not told of the row itself (in brackets). Half an hour on two cores; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import halfstride
from benchmarks.report import geometric_mean
from benchmarks.rows import LAYERS, Row, parse
from benchmarks.runner import algorithm_times
from halfstride.algorithms.case import Case, resize_case, transposed_case
from halfstride.algorithms.products import capability
from halfstride.planning import ELIGIBLE, Costs, Measured, features, predict, shape

_ORDERS = ("contiguous", "channels last")
_RESULTS = Path(__file__).parent / "results"
_COSTS = Path(halfstride.__file__).parent / "costs"

_ROWS = [
    *(row for row in LAYERS if row.form in ELIGIBLE),
    *(
        parse(line)
        for line in (
            "resize 1x16x32x32 -> 16 k3 s2",
            "resize 8x16x64x64 -> 16 k3 s2",
            "resize 8x32x16x16 -> 3 k3 s2",
            "resize 4x48x24x24 -> 24 k3 s2",
            "resize 1x96x48x48 -> 96 k3 s2",
            "resize 16x128x32x32 -> 128 k3 s2",
            "resize 4x192x16x16 -> 192 k3 s2",
            "resize 1x320x24x24 -> 320 k3 s2",
            "resize 1x512x8x8 -> 512 k3 s2",
            "resize 1x512x64x64 -> 512 k3 s2",
            "resize 4x256x32x32 -> 256 k5 s2",
            "resize 1x64x32x32 -> 8 k3 s2",
            "resize 2x32x64x64 -> 32 k3 s4",
            "resize 1x256x2048 -> 256 k3 s2",
            "resize 8x512x256 -> 512 k3 s2",
            "resize 1x256x8x8x8 -> 256 k3 s2",
            "transposed 8x16x64x64 -> 8 k3 s2 p1 op1",
            "transposed 1x64x64x64 -> 4 k4 s2 p1",
            "transposed 1x64x32x32 -> 8 k2 s2",
            "transposed 4x256x128 -> 128 k8 s4 p2",
            "transposed 8x64x512 -> 1 k16 s8 p4",
            "transposed 1x64x16000 -> 32 k4 s2 p1",
            "transposed 16x128x256 -> 64 k5 s2 p2 op1",
            "transposed 1x128x8x8x8 -> 64 k4 s2 p1",
            "transposed 4x16x16x16x16 -> 8 k2 s2",
            "transposed 1x256x8x8x8 -> 128 k2 s2",
            "transposed 2x64x12x12x12 -> 3 k3 s2 p1 op1",
            "transposed 1x16x32x32x32 -> 8 k4 s2 p1",
            "resize 1x64x16000 -> 64 k3 s2",
            "resize 16x32x512 -> 16 k5 s2",
            "resize 1x512x200 -> 256 k3 s4",
            "resize 8x64x512 -> 1 k7 s2",
            "resize 1x128x8x8x8 -> 64 k3 s2",
            "resize 1x32x24x24x24 -> 16 k3 s2",
            "resize 4x16x16x16x16 -> 8 k3 s2",
            "resize 1x32x16x16x16 -> 1 k3 s2",
        )
    ),
    *(
        parse(line)
        for line in (
            "resize 32x128x4x4 -> 64 k3 s2",
            "resize 32x64x7x7 -> 32 k3 s2",
            "resize 64x32x14x14 -> 1 k3 s2",
            "resize 128x64x8x8 -> 32 k3 s2",
            "resize 16x256x4x4 -> 128 k3 s2",
            "resize 64x16x16x16 -> 3 k3 s2",
            "transposed 32x128x4x4 -> 64 k4 s2 p1",
            "transposed 32x64x7x7 -> 32 k4 s2 p1",
            "transposed 64x32x14x14 -> 1 k4 s2 p1",
            "transposed 16x256x4x4 -> 128 k4 s2 p1",
        )
    ),
]


def case_of(row: Row) -> Case:
    """The operator of a row."""
    if row.form == "transposed":
        geometry = (row.stride, row.padding, row.output_padding)
        return transposed_case(row.axes, row.input_shape, row.weight_shape, *geometry)
    return resize_case(row.axes, row.input_shape, row.weight_shape, row.stride, row.padding)


Sample = tuple[str, Row, dict[str, float]]
"""An order in memory, a row, and the seconds of each algorithm."""

Key = tuple[str, str, int, str]
"""An order in memory, a form, a number of axes and an algorithm."""


def measured(rows: list[Row], training: bool, threads: int, seconds: float) -> Iterator[Sample]:
    """The seconds of every algorithm that may be chosen."""
    for (form, algorithms), order in product(ELIGIBLE.items(), _ORDERS):
        channels_last = order == "channels last"
        some = [row for row in rows if row.form == form and (row.axes > 1 or not channels_last)]
        times = algorithm_times(
            [row.name for row in some],
            algorithms,
            training=training,
            channels_last=channels_last,
            threads=threads,
            seconds=seconds,
        )
        for row, (_, by_algorithm) in zip(some, times, strict=True):
            yield order, row, by_algorithm


def fitted(times: list[Sample], order: str, form: str, axes: int, algorithm: str, fastest_product: float) -> Costs:
    """The costs that predict the times of an algorithm best, no product being faster than the machine can do it."""
    wanted = (order, form, axes)
    samples = [(case_of(row), by[algorithm]) for of, row, by in times if (of, row.form, row.axes) == wanted]
    relative = np.array([[feature / seconds for feature in features(case, algorithm)] for case, seconds in samples])
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1
    units = np.array([1e12] * 5 + [1e6])
    least = np.array([fastest_product, 0, 0, 0, 0, 0]) / units
    more, _ = nnls(relative / scale, 1 - relative @ least)
    return Costs(*(float(f"{cost:.3g}") for cost in (least + more / scale) * units))


def learned(times: list[Sample]) -> dict[Key, Measured]:
    """What planning is told of each algorithm."""
    keys = [
        (order, form, axes, each)
        for axes, order, (form, every) in product((2, 1, 3), _ORDERS, ELIGIBLE.items())
        for each in every
        if axes > 1 or order == "contiguous"
    ]
    table: dict[Key, Measured] = {}
    for order, form, axes, algorithm in keys:  # images first: they have rows enough to tell how fast a product can be
        images = [measured.costs.product for (_, _, of, _), measured in table.items() if of == 2]
        costs = fitted(times, order, form, axes, algorithm, 0.0 if axes == 2 else min(images))
        deviations = []
        for of, row, by in times:
            if (of, row.form, row.axes) == (order, form, axes):
                case = case_of(row)
                expected = predict(Measured(costs, ()), case, algorithm) / 1e3
                deviations.append((shape(case), round(math.log(by[algorithm] / expected), 3)))
        table[order, form, axes, algorithm] = Measured(costs, tuple(deviations))
    return table


def losses(times: list[Sample], table: dict[Key, Measured]) -> Iterator[tuple[str, str, float, float]]:
    """Of each row its order in memory and name, and how many times as long as the fastest its choice takes: with all
    that was measured, and without the row itself."""
    for order, row, by in times:
        case, best = case_of(row), min(by.values())
        taken = []
        for of_this in (True, False):
            predicted = {}
            for each in ELIGIBLE[row.form]:
                costs, deviations = table[order, row.form, row.axes, each]
                known = deviations if of_this else tuple(other for other in deviations if other[0] != shape(case))
                predicted[each] = predict(Measured(costs, known), case, each)
            taken.append(by[min(predicted, key=predicted.__getitem__)] / best)
        yield order, row.name, *taken


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the numbers by which halfstride.planning chooses.")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--seconds", type=float, default=1.0, help="for the rounds of each row")
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    options = parser.parse_args()
    entries = []
    for circumstance in ("forward", "training"):
        file = _RESULTS / f"calibration.{capability()}.{circumstance}.json"
        if not options.fit:
            every = measured(_ROWS, circumstance == "training", options.threads, options.seconds)
            file.write_text(json.dumps([(order, row.name, by) for order, row, by in every], indent=1))
        times = [(order, parse(name), by) for order, name, by in json.loads(file.read_text())]
        table = learned(times)
        entries += [
            {"of": [circumstance, order, form, f"{axes}d", algorithm], "costs": costs, "deviations": deviations}
            for (order, form, axes, algorithm), (costs, deviations) in table.items()
        ]
        lost = list(losses(times, table))
        for order, name, known, unknown in lost:
            print(f"{order:13s} {name:46s} {known:5.2f} ({unknown:.2f})")
        for what, which in (("the choice", 2), ("not told of the row", 3)):
            of_all = [each[which] for each in lost]  # type: ignore[misc]
            print(f"{circumstance}, {what}: {geometric_mean(of_all):.3f} times the best, at most {max(of_all):.2f}")
    (_COSTS / f"{capability()}.json").write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")


if __name__ == "__main__":
    main()
