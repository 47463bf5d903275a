"""How good the autoencoder is on digits, clothes, photographs and textures, beside PCA, thumbnails and public peers.

    python -m benchmarks.quality [--quick] [--only SUBSTRING] [--list] [--report]

Two hours on two cores. Each finished row is written at once; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from benchmarks.quality.report import markdown
from benchmarks.quality.rows import OURS, Row, quick, rows
from benchmarks.quality.running import PILOT, RATES, TrainingError, run_ours, run_peer
from benchmarks.quality.scores import baselines
from benchmarks.quality.sets import prepare

RESULTS = Path(__file__).parents[1] / "results" / "quality.json"
WORK = Path(tempfile.gettempdir()) / "halfstride-quality"


class Results:
    """The rows that are done, in a file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        now = circumstances()
        self.content: dict[str, Any] = {"circumstances": now, "trainings": {}, "baselines": {}}
        if path.exists():
            self.content = json.loads(path.read_text())
            before = self.content["circumstances"]
            if changed := [name for name in now if now[name] != before.get(name)]:
                told = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
                raise SystemExit(f"{path} was measured elsewhere ({told}): name another file with --out, or remove it.")

    def done(self, row: Row) -> bool:
        """Failed rows are tried again."""
        return "failed" not in self.content["trainings"].get(row.key, {"failed": ""})

    def add(self, row: Row, result: dict[str, Any]) -> None:
        with self._lock:
            self.content["trainings"][row.key] = {**row._asdict(), "key": row.key, **result}
            self._write()

    def add_baselines(self, row: Row, numbers: int, arrays: dict[str, Any]) -> None:
        """The baselines of a set with as many numbers, once."""
        key = f"{row.data} {numbers}"
        with self._lock:
            if key not in self.content["baselines"]:
                self.content["baselines"][key] = baselines(arrays, numbers)
                self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.unfinished")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        temporary.replace(self.path)


def circumstances() -> dict[str, Any]:
    """What rows of one file have in common."""
    import torch

    packages = ("torch", "numpy", "scikit-learn", "pillow", "mlxtend")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in packages},
        "rates": list(RATES),
        "pilot": PILOT,
    }


def main() -> None:
    arguments = _parser().parse_args()
    out = arguments.out or (arguments.work / "quality-quick.json" if arguments.quick else RESULTS)
    if arguments.report:
        _report(out)
        return
    chosen = [row for row in (quick() if arguments.quick else rows()) if arguments.only in row.key]
    if not chosen:
        raise SystemExit(f"No row has {arguments.only!r} in its name: see --list.")
    if arguments.list:
        for row in chosen:
            print(row.key)
        print(f"{len(chosen)} rows, about {_minutes(chosen):.0f} minutes")
        return
    results = Results(out)
    waiting = [row for row in chosen if not results.done(row)]
    print(f"{len(chosen) - len(waiting)} rows are done, {len(waiting)} wait: about {_minutes(waiting):.0f} minutes")
    measure = partial(_measure, results=results, work=arguments.work, venvs=arguments.venvs or arguments.work / "venvs")
    for row in waiting:
        if row.threads > 1:
            measure(row)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, [row for row in waiting if row.threads == 1]))
    if results.content["trainings"]:
        _report(out)


def _measure(row: Row, results: Results, work: Path, venvs: Path) -> None:
    started = time.perf_counter()
    try:
        data = prepare(row.data, work)
        result = run_ours(row, data, work) if row.contender == OURS else run_peer(row, data, work, venvs)
        results.add_baselines(row, result["numbers"], data.load())
        told = f"MSE {result['test']['mse']:.5f}  PSNR {result['test']['psnr']:.2f} dB  {result['numbers']} numbers"
    except (TrainingError, FileNotFoundError, subprocess.CalledProcessError, ValueError) as error:
        result, told = {"failed": str(error)}, f"failed: {error}"
    results.add(row, {**result, "commit": _commit()})
    print(f"{row.key:<60}  {told}  ({time.perf_counter() - started:.0f} s)", flush=True)


def _minutes(chosen: list[Row]) -> float:
    """On two cores, with what is around the trainings left out."""
    peers = 1 + PILOT * len(RATES)
    return sum(row.minutes * (row.threads / 2 if row.contender == OURS else peers) for row in chosen)


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _report(out: Path) -> None:
    if not out.exists():
        raise SystemExit(f"{out} does not exist: measure first.")
    path = out.with_suffix(".md")
    path.write_text(markdown(json.loads(out.read_text())))
    print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ten minutes: shows that all works; figures mean nothing")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only rows with this in their name")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--report", action="store_true", help="make the table again from the JSON and end")
    parser.add_argument("--out", type=Path, help="the JSON; by default benchmarks/results/quality.json")
    parser.add_argument("--work", type=Path, default=WORK, help="where images, runs and environments lie (%(default)s)")
    parser.add_argument("--venvs", type=Path, help="where the peers' environments lie; by default in --work")
    return parser


if __name__ == "__main__":
    main()
