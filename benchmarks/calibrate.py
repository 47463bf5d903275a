"""Measure the algorithms on this machine, and fit the numbers by which `halfstride.planning` chooses.

    python -m benchmarks.calibrate
    python -m benchmarks.calibrate --times benchmarks/results/calibration.json    # fit again what was measured here

For each form, algorithm, circumstance and order in memory it finds the costs of `planning.COSTS` that predict the
measured times best (least squares of the relative errors), prints them as they stand there, and then what a choice by
them loses on every row against the fastest algorithm. Half an hour on two cores; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks.report import geometric_mean
from benchmarks.rows import LAYERS, Row, parse
from benchmarks.runner import algorithm_times
from halfstride.algorithms.case import Case, resize_case, transposed_case
from halfstride.planning import ELIGIBLE, Costs, features, milliseconds

_ORDERS = ("contiguous", "channels last")

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


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the numbers by which halfstride.planning chooses.")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--seconds", type=float, default=1.0, help="for the rounds of each row")
    parser.add_argument("--times", type=Path, help="read the measured times from this file, or write them there")
    options = parser.parse_args()
    for circumstance in ("forward", "training"):
        file = options.times and options.times.with_suffix(f".{circumstance}.json")
        if file and file.exists():
            times = [(order, parse(name), by) for order, name, by in json.loads(file.read_text())]
        else:
            training = circumstance == "training"
            times = list(measured(_ROWS, training, options.threads, options.seconds))
            if file:
                file.write_text(json.dumps([(order, row.name, by) for order, row, by in times], indent=1))
        keys = [
            (order, form, axes, each)
            for axes, order, (form, every) in product((2, 1, 3), _ORDERS, ELIGIBLE.items())
            for each in every
            if axes > 1 or order == "contiguous"
        ]
        costs: dict[tuple[str, str, int, str], Costs] = {}
        for key in keys:  # images first: they have rows enough to tell how fast a product can be
            images = [numbers.product for (_, _, axes, _), numbers in costs.items() if axes == 2]
            costs[key] = fitted(times, *key, 0.0 if key[2] == 2 else min(images))
        for key, numbers in costs.items():
            print(f"    {(circumstance, *key)}: Costs{tuple(numbers)},".replace("'", '"'))
        losses = []
        for order, row, by in times:
            case, of_row = case_of(row), {each: costs[order, row.form, row.axes, each] for each in ELIGIBLE[row.form]}
            predicted = {each: milliseconds(cost, features(case, each)) for each, cost in of_row.items()}
            chosen, best = min(predicted, key=predicted.__getitem__), min(by, key=by.__getitem__)
            losses.append(by[chosen] / by[best])
            mark = f"  {losses[-1]:.2f} x {best}" if chosen != best else ""
            print(f"# {order:13s} {row.name:44s} {chosen:12s} {by[chosen] * 1e3:9.3f} ms{mark}")
        print(f"# {circumstance}: {geometric_mean(losses):.3f} times as long as the best, at most {max(losses):.2f}")


if __name__ == "__main__":
    main()
