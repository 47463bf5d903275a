"""Measure the algorithms on this machine, and fit the costs by which `halfstride._core.planner` chooses.

    python -m benchmarks.calibrate               # measure and fit
    python -m benchmarks.calibrate --fit         # fit to the committed times of a processor like this one

The layers are those of the grid and 450 more, drawn at random. For each form, algorithm, circumstance and memory format
the script finds the `planner.Costs` that minimise the squared relative errors of the predicted times, and writes them
to `costs.json`. It then prints how much slower the planner's choice is than the fastest algorithm. That is computed by
cross-validation: each half of the layers is judged with costs fitted to the other half. It takes half an hour on two
cores, on which nothing else should run. After an interruption the script continues with the layer it was measuring, if
it is called again, but measures a circumstance again that was complete.
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
from halfstride._core.planner import ELIGIBLE, Costs, features, predictions

_FORMATS = ("contiguous", "channels_last")
_RESULTS = Path(__file__).parent / "results"
_COSTS = Path(halfstride.__file__).parent / "_core" / "costs.json"

_FIRST_LAYERS = [
    parse("transposed 64x100x1x1 -> 1024 k4 s1"),
    parse("transposed 16x100x1x1 -> 512 k4 s1"),
    parse("transposed 1x128x1x1 -> 256 k7 s1"),
    parse("transposed 64x64x1x1 -> 64 k7 s1"),
]
"""First layers of generators: on one input position the stride does not matter."""

_SEED = 0
_DRAWN = {2: 140, 1: 45, 3: 40}
"""Layers drawn of each form, by the number of axes."""
_SIZES = {
    1: (1, 7, 25, 50, 64, 100, 200, 400, 1000, 4000, 16000),
    2: (1, 2, 3, 4, 5, 7, 8, 14, 16, 28, 32, 48, 64, 128),
    3: (2, 4, 6, 8, 12, 16, 24),
}
_CHANNELS = (1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 320, 512, 1024)
_MACS = (2**17, 2**31)
"""Fewest and most MACs of a drawn layer, by torch's definition."""
_LARGEST = 2**24
"""Most elements of input, weight and output each."""

_GRID_FACTOR = 10
"""Layers of the grid are measured this many times as long."""
_ROUNDS = 5
_SLOW = 4.0
"""An algorithm that takes this many times as long as the fastest is measured three times only."""


def drawn(form: str, axes: int, generator: random.Random) -> Row:
    """Draw a layer with any batch, channels and size, whose kernel is about one or two strides wide."""
    while True:
        batch, size = generator.choice((1, 1, 2, 4, 8, 16, 32, 64)), generator.choice(_SIZES[axes])
        channels, out_channels = generator.choice(_CHANNELS), generator.choice(_CHANNELS)
        where = f"{form} {batch}x{channels}x{'x'.join([str(size)] * axes)} -> {out_channels}"
        if form == "resize":
            row = parse(f"{where} k{generator.choice((1, 3, 3, 3, 5, 7))} s{generator.choice((2, 2, 2, 3, 4))}")
        else:
            s = generator.choice((2, 2, 2, 3, 4) if axes > 1 else (2, 2, 4, 5, 8))
            k = generator.choice((s, s + 1, 2 * s, 2 * s, 2 * s + 1, 3, 4, 5))
            p = max(k - s + 1, 0) // 2 if generator.random() < 0.7 else 0
            missing = size * s - ((size - 1) * s + k - 2 * p)
            row = parse(f"{where} k{k} s{s} p{p}" + (f" op{missing}" if 0 < missing < s else ""))
        tensors = (row.input_shape, row.weight_shape, row.output_shape)
        positions = row.input_shape if form == "transposed" else row.output_shape
        macs = batch * math.prod(positions[2:]) * math.prod(row.weight_shape)
        fits = min(row.output_shape) > 0 and max(map(math.prod, tensors)) <= _LARGEST
        if fits and _MACS[0] <= macs <= _MACS[1]:
            return row


def rows() -> list[Row]:
    """The layers of the grid, first layers of generators, and drawn layers."""
    generator = random.Random(_SEED)
    more = [drawn(form, axes, generator) for form in ELIGIBLE for axes, count in _DRAWN.items() for _ in range(count)]
    return [*(row for row in LAYERS if row.form in ELIGIBLE), *_FIRST_LAYERS, *more]


def case_of(row: Row) -> Case:
    """The operator of a row."""
    if row.form == "transposed":
        geometry = (row.stride, row.padding, row.output_padding)
        return transposed_case(row.axes, row.input_shape, row.weight_shape, *geometry)
    return resize_case(row.axes, row.input_shape, row.weight_shape, row.stride, row.padding)


Sample = tuple[str, Row, dict[str, float]]
"""A memory format, a row, and the seconds of each algorithm."""


def measured(
    rows: Sequence[Row], training: bool, threads: int, seconds: float, known: Container[tuple[str, str]] = ()
) -> Iterator[Sample]:
    """Measure every eligible algorithm in every memory format, except formats and rows that are known."""
    for row, memory_format in product(rows, _FORMATS):
        if (row.axes == 1 and memory_format == "channels_last") or (memory_format, row.name) in known:
            continue
        able = [name for name in ELIGIBLE[row.form] if ALGORITHMS[name].unsupported_reason(case_of(row)) is None]
        gc.collect()  # layers that were compiled or traced hold references to each other
        runs = {}
        for name in able:
            peer = Peer(name, "halfstride", name, memory_format == "channels_last")
            runs[name] = prepare(peer, Task(row.name, training, threads=threads)).run
        yield memory_format, row, _alternating(runs, _GRID_FACTOR * seconds if row in LAYERS else seconds)


def _alternating(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median seconds of each run, measured in alternation."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    started, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - started < seconds:
        rounds += 1
        fastest = min((median(each) for each in times.values() if each), default=math.inf)
        for name, run in runs.items():
            if len(times[name]) >= 3 and median(times[name]) > _SLOW * fastest:
                continue
            run()  # fills the caches with its own data
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return {name: float(f"{median(each):.4g}") for name, each in times.items()}


def fitted(samples: list[tuple[Case, float]], algorithm: str, *, channels_last: bool, fastest_mac: float) -> Costs:
    """The costs that predict the seconds of an algorithm best, with at least `fastest_mac` picoseconds per MAC."""
    relative = np.array(
        [
            [feature / seconds for feature in features(case, algorithm, channels_last=channels_last)]
            for case, seconds in samples
        ]
    )
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1
    least = np.zeros(len(scale))
    least[0] = fastest_mac / 1e12
    more, _ = nnls(relative / scale, 1 - relative @ least)
    return Costs(*(float(f"{cost:.3g}") for cost in (least + more / scale) * 1e12))


def learned(circumstance: str, times: Sequence[Sample]) -> dict[str, Costs]:
    """The costs of every algorithm, by the keys of costs.json."""
    table: dict[str, Costs] = {}
    fastest_mac = 0.0
    for axes in (2, 1, 3):  # images first: their MACs are the fastest of all
        for memory_format, (form, algorithms) in product(_FORMATS[: min(axes, 2)], ELIGIBLE.items()):
            for algorithm in algorithms:
                samples = [
                    (case_of(row), seconds[algorithm])
                    for of, row, seconds in times
                    if (of, row.form, row.axes) == (memory_format, form, axes) and algorithm in seconds
                ]
                table[f"{circumstance} {memory_format} {form} {axes}d {algorithm}"] = fitted(
                    samples, algorithm, channels_last=memory_format == "channels_last", fastest_mac=fastest_mac
                )
        fastest_mac = fastest_mac or min(costs.mac for costs in table.values())
    return table


def chosen(circumstance: str, times: Sequence[Sample], table: dict[str, Costs]) -> Iterator[tuple[Sample, str]]:
    """Each sample, and the algorithm that the planner would choose by a table of costs."""
    for sample in times:
        memory_format, row, _ = sample
        found = predictions(case_of(row), table, circumstance, channels_last=memory_format == "channels_last")
        yield sample, next(iter(found))


def cross_validated(circumstance: str, times: Sequence[Sample]) -> list[tuple[Sample, str]]:
    """Each sample, and the algorithm chosen by costs that were fitted to the other half of the rows."""
    names = list(dict.fromkeys(row.name for _, row, _ in times))
    even = set(names[::2])
    halves = [[sample for sample in times if (sample[1].name in even) == want] for want in (True, False)]
    return [
        choice
        for judged, known in (halves, halves[::-1])
        for choice in chosen(circumstance, judged, learned(circumstance, known))
    ]


def summary(choices: Sequence[tuple[Sample, str]]) -> str:
    """How much slower the choices are than the fastest algorithm and than torch's."""
    of_fastest = [seconds[name] / min(seconds.values()) for (_, _, seconds), name in choices]
    of_torch = [seconds[name] / seconds["native"] for (_, _, seconds), name in choices]
    slower = sum(ratio > 1.1 for ratio in of_torch) / len(of_torch)
    return (
        f"{geometric_mean(of_fastest):.3f} times the fastest; {geometric_mean(of_torch):.3f} times torch's, "
        f"at most {max(of_torch):.2f}, and more than 1.1 times in {slower:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the costs by which halfstride._core.planner chooses.")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--seconds", type=float, default=0.1, help="for the rounds of each drawn row")
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    costs = json.loads(_COSTS.read_text())
    costs[capability()] = {}
    for circumstance in ("forward", "training"):
        file = _RESULTS / f"calibration.{capability()}.{circumstance}.json"
        if not options.fit:
            _measure(file, circumstance, options.threads, options.seconds)
        times = read(file)
        costs[capability()] |= learned(circumstance, times)
        choices = cross_validated(circumstance, times)
        for (memory_format, row, seconds), name in choices:
            print(f"{memory_format:13s} {row.name:46s} {name:8s} {seconds[name] / min(seconds.values()):5.2f}")
        print(f"{circumstance}: {summary(choices)}")
    tables = [f"{json.dumps(name)}: {_listed('{}', map(_entry, table.items()))}" for name, table in costs.items()]
    _COSTS.write_text(_listed("{}", tables) + "\n")


def read(file: Path) -> list[Sample]:
    """The samples in a file of results."""
    return [(memory_format, parse(name), seconds) for memory_format, name, seconds in json.loads(file.read_text())]


def _measure(file: Path, circumstance: str, threads: int, seconds: float) -> None:
    """Measure all rows and write them to a file; each at once to a .part file, which an interrupted run continues."""
    part = file.with_suffix(".part")
    entries = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    if entries:
        print(f"{circumstance}: continuing after the {len(entries)} rows in {part.name}", flush=True)
    known = {(memory_format, name) for memory_format, name, _ in entries}
    with part.open("a") as lines:
        for memory_format, row, by in measured(rows(), circumstance == "training", threads, seconds, known):
            times = ", ".join(f"{name} {1e3 * taken:.3g}" for name, taken in by.items())
            print(f"{circumstance}, {memory_format}, {row.name}: {times}", flush=True)
            entries.append((memory_format, row.name, by))
            print(json.dumps(entries[-1]), file=lines, flush=True)
    whole = file.with_suffix(".new")
    whole.write_text(_listed("[]", map(json.dumps, entries)) + "\n")
    whole.rename(file)
    part.unlink()


def _entry(item: tuple[str, Costs]) -> str:
    return f"{json.dumps(item[0])}: {json.dumps(item[1])}"


def _listed(brackets: str, entries: Iterable[str]) -> str:
    """A JSON list or object with each entry on a line of its own."""
    return brackets[0] + "\n" + ",\n".join(entries) + "\n" + brackets[1]


if __name__ == "__main__":
    main()
