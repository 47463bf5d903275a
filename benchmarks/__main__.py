"""`python -m benchmarks layers`, `training`, `models`, `report`: measure, or make the tables again."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import processor
from benchmarks.models import MODELS
from benchmarks.peers import Task
from benchmarks.report import best, limit, markdown, overview, ratio, seconds_of
from benchmarks.rows import LAYERS, parse, select
from benchmarks.runner import Workers, measure

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "layers": "Layers, forward",
    "training": "Layers, forward and backward",
    "models": "Models",
}
PACKAGES = (
    "halfstride",
    "torch",
    "onnxruntime",
    "openvino",
    "diffusers",
    "transformers",
    "segmentation_models_pytorch",
)


_HOLDING = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""Variables that hold torch, and the libraries that it multiplies with, to fewer instructions than a processor has."""


def _held() -> list[str]:
    return [f"{name}={os.environ[name]}" for name in _HOLDING if name in os.environ]


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.suite == "report":
        for path in sorted(RESULTS.rglob("*.json")):
            earlier = json.loads(path.read_text())
            if "title" in earlier:  # other scripts of this folder keep their results here too
                path.with_suffix(".md").write_text(markdown(earlier))
        print(overview(*(json.loads((RESULTS / f"{suite}.json").read_text()) for suite in ("layers", "training"))))
        return
    names = _names(arguments)
    seconds = arguments.seconds or (0.3 if arguments.quick else 12.0 if arguments.suite == "models" else 1.5)
    run: dict[str, Any] = {
        "title": TITLES[arguments.suite],
        "command": " ".join([*_held(), shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])]),
        "machine": _machine(arguments.device),
        "versions": _versions(),
        "settings": {
            "suite": arguments.suite,
            "training": arguments.suite == "training",
            "dtype": arguments.dtype,
            "device": arguments.device,
            "threads": arguments.threads,
            "seconds": seconds,
        },
        "rows": [],
    }
    with Workers(arguments.threads) as workers:
        for name in names:
            started = time.perf_counter()
            task = Task(
                name,
                arguments.suite == "training",
                getattr(torch, arguments.dtype),
                arguments.device,
                arguments.threads,
            )
            result = measure(workers, task, seconds)
            run["rows"].append(result)
            print(f"{_line(result)}  ({time.perf_counter() - started:.0f} s)", flush=True)
    _save(run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=[*TITLES, "report"], help="what to measure, or report: tables from JSON")
    parser.add_argument("--rows", metavar="WORD", nargs="+", default=[], help="only rows with all of these tags")
    parser.add_argument("--row", metavar="LINE", action="append", help="this row, in the grid or not; repeatable")
    parser.add_argument("--quick", action="store_true", help="a few small rows, briefly: to see that all works")
    parser.add_argument("--seconds", type=float, help="how long a row's rounds should take")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="write JSON here, and the table beside it")
    return parser


def _names(arguments: argparse.Namespace) -> list[str]:
    if arguments.suite == "models":
        models = [model for model in MODELS if model.tags.issuperset(arguments.rows)]
        if arguments.row:
            models = [model for model in models if model.name in arguments.row]
        names = [model.name for model in models if not arguments.quick or "quick" in model.tags]
    elif arguments.row:
        try:
            names = [parse(line).name for line in arguments.row]
        except ValueError as error:
            raise SystemExit(str(error)) from None
    else:
        words = [*arguments.rows]
        if arguments.suite == "training":
            words.append("training")
        if arguments.quick:
            words.append("quick")
        names = [row.name for row in select(LAYERS, words)]
    if not names:
        raise SystemExit("No row has all these tags.")
    return names


def _save(run: dict[str, Any], arguments: argparse.Namespace) -> None:
    """A whole suite goes to the results; a part of one only where it is told to, or to the screen."""
    path = arguments.out
    if path is None and not (arguments.quick or arguments.rows or arguments.row):
        marks = [arguments.suite, arguments.dtype.replace("float32", ""), arguments.device.replace("cpu", "")]
        path = RESULTS / ("-".join(filter(None, marks)) + ".json")
    if path is None:
        print("\n" + markdown(run))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, json.dumps(run, indent=1) + "\n"), (path.with_suffix(".md"), markdown(run))):
        target.write_text(text)
        print(target)


def _line(result: dict[str, Any]) -> str:
    """A row as it is done."""
    ready, hand, own = (best(result, "ready-made"), best(result, "by hand"), best(result, "halfstride", "auto"))
    cells = [f"{result['name']:<52}"]
    if own:
        cells.append(f"{seconds_of(result['peers'][own]) * 1000:9.3f} ms")
        cells += [f"{ratio(result, other)} of {other}" for other in (ready, hand) if other]
    least = limit(result)
    if least:
        cells.append(f"limit {least * 1000:.3f} ms")
    return "  ".join(cells)


def _machine(device: str) -> dict[str, Any]:
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "accelerator": f", {torch.cuda.get_device_name()}" if device == "cuda" else "",
        "system": platform.system(),
    }


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


if __name__ == "__main__":
    main()
