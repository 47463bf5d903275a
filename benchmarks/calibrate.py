"""Measure the algorithms on this machine, and fit the numbers by which `halfstride._core.planner` chooses.

    python -m benchmarks.calibrate               # measure and fit
    python -m benchmarks.calibrate --fit         # fit again what was measured on a processor like this one

The layers are those of the grid, and many more drawn at random, since people have layers of all kinds. For each form,
algorithm, circumstance and order in memory it finds the `planner.Costs` that predict the measured times best (least
squares of the relative errors) and how far each measured layer deviates from that, and writes both where planning reads
them. Then it prints what a choice by them loses on every row against the fastest algorithm, also where planning is not
told of the row itself (in brackets). Half an hour on two cores; nothing else should run. Interrupted, it goes on with
the next layer when it is called again, after measuring anew the circumstance that was done.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

import halfstride
from benchmarks.peers import Peer, Task, prepare
from benchmarks.report import geometric_mean, median
from benchmarks.rows import LAYERS, Row, parse
from benchmarks.worker import keep_memory
from halfstride._core.algorithms import ALGORITHMS
from halfstride._core.algorithms.products import capability
from halfstride._core.case import Case, resize_case, transposed_case
from halfstride._core.planner import ELIGIBLE, Costs, Measured, features, predict, shape

_ORDERS = ("contiguous", "channels last")
_RESULTS = Path(__file__).parent / "results"
_COSTS = Path(halfstride.__file__).parent / "costs"

_FIRST = [
    parse("transposed 64x100x1x1 -> 1024 k4 s1"),
    parse("transposed 16x100x1x1 -> 512 k4 s1"),
    parse("transposed 1x128x1x1 -> 256 k7 s1"),
    parse("transposed 64x64x1x1 -> 64 k7 s1"),
]
"""The first layers of generators, whose stride does not matter."""

_SEED = 0
_DRAWN = {2: 140, 1: 45, 3: 40}
"""Layers that are drawn of each form, by their number of axes;"""
_SIZES = {
    1: (1, 7, 25, 50, 64, 100, 200, 400, 1000, 4000, 16000),
    2: (1, 2, 3, 4, 5, 7, 8, 14, 16, 28, 32, 48, 64, 128),
    3: (2, 4, 6, 8, 12, 16, 24),
}
_CHANNELS = (1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 320, 512, 1024)
_PRODUCTS = (2**17, 2**31)
"""and of how many products they may be, by the definition."""
_LARGEST = 2**24
"""Numbers of input, weight and output, at the most."""

_TIMES_FOR_THE_GRID = 10
"""How much more time is spent on each layer of the grid, which others are held against."""
_ROUNDS = 5
_HOPELESS = 4.0
"""Times as long as the fastest, from which on an algorithm has three turns and no more."""


def drawn(form: str, axes: int, chance: random.Random) -> Row:
    """A layer that somebody might have: any number of images, channels and positions, and a kernel of about its stride,
    or of twice that."""
    while True:
        batch, size = chance.choice((1, 1, 2, 4, 8, 16, 32, 64)), chance.choice(_SIZES[axes])
        channels, out_channels = chance.choice(_CHANNELS), chance.choice(_CHANNELS)
        where = f"{form} {batch}x{channels}x{'x'.join([str(size)] * axes)} -> {out_channels}"
        if form == "resize":
            row = parse(f"{where} k{chance.choice((1, 3, 3, 3, 5, 7))} s{chance.choice((2, 2, 2, 3, 4))}")
        else:
            s = chance.choice((2, 2, 2, 3, 4) if axes > 1 else (2, 2, 4, 5, 8))
            k = chance.choice((s, s + 1, 2 * s, 2 * s, 2 * s + 1, 3, 4, 5))
            p = max(k - s + 1, 0) // 2 if chance.random() < 0.7 else 0
            missing = size * s - ((size - 1) * s + k - 2 * p)
            row = parse(f"{where} k{k} s{s} p{p}" + (f" op{missing}" if 0 < missing < s else ""))
        tensors = (row.input_shape, row.weight_shape, row.output_shape)
        positions = row.input_shape if form == "transposed" else row.output_shape
        products = batch * math.prod(positions[2:]) * math.prod(row.weight_shape)
        fits = min(row.output_shape) > 0 and max(map(math.prod, tensors)) <= _LARGEST
        if fits and _PRODUCTS[0] <= products <= _PRODUCTS[1]:
            return row


def rows() -> list[Row]:
    """The grid, first layers, and layers drawn at random."""
    chance = random.Random(_SEED)
    more = [drawn(form, axes, chance) for form in ELIGIBLE for axes, count in _DRAWN.items() for _ in range(count)]
    return [*(row for row in LAYERS if row.form in ELIGIBLE), *_FIRST, *more]


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


def measured(
    rows: Sequence[Row], training: bool, threads: int, seconds: float, known: Container[tuple[str, str]] = ()
) -> Iterator[Sample]:
    """The seconds of every algorithm that may be chosen, but for those orders and rows that are known."""
    for row, order in product(rows, _ORDERS):
        if (row.axes == 1 and order == "channels last") or (order, row.name) in known:
            continue
        able = [name for name in ELIGIBLE[row.form] if ALGORITHMS[name].unsupported_reason(case_of(row)) is None]
        gc.collect()  # layers that were compiled or traced hold each other
        runs = {}
        for name in able:
            peer = Peer(name, "halfstride", name, order == "channels last")
            runs[name] = prepare(peer, Task(row.name, training, threads=threads)).run
        yield order, row, _in_turn(runs, _TIMES_FOR_THE_GRID * seconds if row in LAYERS else seconds)


def _in_turn(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median seconds of each run, all of them alternating."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    started, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - started < seconds:
        rounds += 1
        fastest = min((median(each) for each in times.values() if each), default=math.inf)
        for name, run in runs.items():
            if len(times[name]) >= 3 and median(times[name]) > _HOPELESS * fastest:
                continue
            run()  # the others have left nothing of its data in the caches
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return {name: float(f"{median(each):.4g}") for name, each in times.items()}


def fitted(samples: list[tuple[Case, float]], algorithm: str, *, channels_last: bool, fastest_product: float) -> Costs:
    """The costs that predict the seconds of an algorithm best, no product being faster than the machine can do it."""
    relative = np.array(
        [
            [feature / seconds for feature in features(case, algorithm, channels_last=channels_last)]
            for case, seconds in samples
        ]
    )
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1
    least = np.zeros(len(scale))
    least[0] = fastest_product / 1e12
    more, _ = nnls(relative / scale, 1 - relative @ least)
    return Costs(*(float(f"{cost:.3g}") for cost in (least + more / scale) * 1e12))


def learned(times: list[Sample]) -> dict[Key, Measured]:
    """What planning is told of each algorithm."""
    keys = [
        (order, form, axes, each)
        for axes, order, (form, every) in product((2, 1, 3), _ORDERS, ELIGIBLE.items())
        for each in every
        if axes > 1 or order == "contiguous"
    ]
    table: dict[Key, Measured] = {}
    for order, form, axes, algorithm in keys:  # images first: they tell best how fast a product can be
        images = [measured.costs.product for (_, _, of, _), measured in table.items() if of == 2]
        samples = [
            (case_of(row), by[algorithm])
            for of, row, by in times
            if (of, row.form, row.axes) == (order, form, axes) and algorithm in by
        ]
        last = order == "channels last"
        costs = fitted(samples, algorithm, channels_last=last, fastest_product=0.0 if axes == 2 else min(images))
        deviations = []
        for case, seconds in samples:
            expected = predict(Measured(costs, ()), case, algorithm, channels_last=last) / 1e3
            deviations.append((shape(case), round(math.log(seconds / expected), 2)))
        table[order, form, axes, algorithm] = Measured(costs, tuple(deviations))
    return table


def losses(times: list[Sample], table: dict[Key, Measured]) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """Of each row its order in memory and name, and how many times as long its choice takes as the fastest, and as the
    definition in torch: with all that was measured, and without the row itself."""
    for order, row, by in times:
        case, last = case_of(row), order == "channels last"
        taken = []
        for of_this in (True, False):
            predicted = {}
            for each in by:
                costs, deviations = table[order, row.form, row.axes, each]
                known = deviations if of_this else tuple(other for other in deviations if other[0] != shape(case))
                predicted[each] = predict(Measured(costs, known), case, each, channels_last=last)
            taken.append(by[min(predicted, key=predicted.__getitem__)])
        yield order, row.name, [one / min(by.values()) for one in taken], [one / by["native"] for one in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the numbers by which halfstride._core.planner chooses.")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--seconds", type=float, default=0.1, help="for the rounds of each drawn row")
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    entries = []
    for circumstance in ("forward", "training"):
        file = _RESULTS / f"calibration.{capability()}.{circumstance}.json"
        if not options.fit:
            _measure(file, circumstance, options.threads, options.seconds)
        times = [(order, parse(name), by) for order, name, by in json.loads(file.read_text())]
        table = learned(times)
        entries += [
            {"of": [circumstance, order, form, f"{axes}d", algorithm], "costs": costs, "deviations": deviations}
            for (order, form, axes, algorithm), (costs, deviations) in table.items()
        ]
        lost = list(losses(times, table))
        for order, name, (known, unknown), _ in lost:
            print(f"{order:13s} {name:46s} {known:5.2f} ({unknown:.2f})")
        for at, told in enumerate(("", ", not told of the row")):
            of_best, of_native = ([each[which][at] for each in lost] for which in (2, 3))
            slower = sum(ratio > 1.1 for ratio in of_native) / len(of_native)
            print(
                f"{circumstance}{told}: {geometric_mean(of_best):.3f} times the fastest, at most {max(of_best):.2f}; "
                f"{geometric_mean(of_native):.3f} times the definition, at most {max(of_native):.2f}, "
                f"and more than 1.1 times in {slower:.1%}"
            )
    (_COSTS / f"{capability()}.json").write_text(_listed(entries))


def _measure(file: Path, circumstance: str, threads: int, seconds: float) -> None:
    """Write what is measured: a line after each row to a part of the file, from which an interrupted run goes on, then
    all to the file."""
    part = file.with_suffix(".part")
    entries = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    if entries:
        print(f"{circumstance}: going on after the {len(entries)} rows in {part.name}", flush=True)
    known = {(order, name) for order, name, _ in entries}
    with part.open("a") as lines:
        for order, row, by in measured(rows(), circumstance == "training", threads, seconds, known):
            times = ", ".join(f"{name} {1e3 * taken:.3g}" for name, taken in by.items())
            print(f"{circumstance}, {order}, {row.name}: {times}", flush=True)
            entries.append((order, row.name, by))
            print(json.dumps(entries[-1]), file=lines, flush=True)
    whole = file.with_suffix(".new")
    whole.write_text(_listed(entries))
    whole.rename(file)
    part.unlink()


def _listed(entries: Iterable[object]) -> str:
    """As JSON, each entry on a line of its own."""
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"


if __name__ == "__main__":
    main()
