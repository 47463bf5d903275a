"""How exact `auto` is on every row of the grid: its error against float64, beside that of torch's own definition.

    python -m benchmarks.accuracy [--dtypes float32 bfloat16]

Both compute the same random numbers in the same type and order in memory, and are compared with the definition in
float64: the output of every row, and the gradients of input, weight and bias where the row is trained. An error is the
root of the mean square, over that of what is right. Nothing is timed; bfloat16 takes long on a processor without
instructions for it.

The result goes to `benchmarks/results/accuracy.avx2.json` or `accuracy.avx512.json`, by what the processor has or is
held to, and a line for each type to the screen.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import Peer, Task, prepare, reference
from benchmarks.report import geometric_mean
from benchmarks.rows import LAYERS, Row
from halfstride._core.algorithms.products import capability

RESULTS = Path(__file__).parent / "results"
ALLOWED = {"float32": 1.0, "bfloat16": 1.5}
"""Errors of torch's definition that ours may have."""
_RESULTS = ("output", "gradient of the input", "gradient of the weight", "gradient of the bias")


def compared(row: Row, dtype: str) -> Iterator[dict[str, Any]]:
    """Of each result, in each order in memory, the relative error of torch's definition and of `auto`."""
    task = Task(row.name, "training" in row.tags, getattr(torch, dtype))
    exact = reference(task)
    for channels_last in (False, True)[: min(row.axes, 2)]:
        direct, ours = (
            errors(peer, task, exact)
            for peer in (
                Peer("eager", "ready-made", "eager", channels_last),
                Peer("halfstride", "halfstride", "auto", channels_last),
            )
        )
        order = "channels last" if channels_last else "contiguous"
        for result, of_direct, of_ours in zip(_RESULTS, direct, ours, strict=False):
            yield {
                "layer": row.name,
                "order": order,
                "result": result,
                "direct": float(f"{of_direct:.3g}"),
                "ours": float(f"{of_ours:.3g}"),
            }


def errors(peer: Peer, task: Task, exact: Iterable[Tensor]) -> list[float]:
    prepared = prepare(peer, task)
    results = prepared.results(prepared.run())
    return [
        _norm(result.detach().double() - right) / _norm(right) for result, right in zip(results, exact, strict=True)
    ]


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))


def summary(dtype: str, measured: list[dict[str, Any]]) -> str:
    ratios = [each["ours"] / each["direct"] for each in measured]
    above = sum(ratio > ALLOWED[dtype] for ratio in ratios)
    worst = max(measured, key=lambda each: each["ours"] / each["direct"])
    mean = f"{geometric_mean(ratios):.2f} times the error of torch's definition (geometric mean)"
    return (
        f"{dtype}: {len(measured)} results, {mean}; {above} above {ALLOWED[dtype]:g}, the largest {max(ratios):.2f} "
        f"({worst['ours']:.2g}; {worst['layer']}, {worst['result']}, {worst['order']})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=list(ALLOWED), default=list(ALLOWED))
    dtypes = parser.parse_args().dtypes
    run: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.accuracy", *sys.argv[1:]]),
        "torch": torch.__version__,
    }
    for dtype in dtypes:
        run[dtype] = measured = []
        for number, row in enumerate(LAYERS, start=1):
            print(f"\r{dtype}: {number} of {len(LAYERS)}", end="", file=sys.stderr, flush=True)
            measured += compared(row, dtype)
        print("\r", end="", file=sys.stderr)
        print(summary(dtype, measured), flush=True)
    (RESULTS / f"accuracy.{capability()}.json").write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
