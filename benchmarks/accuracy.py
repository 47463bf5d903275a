"""How exact `auto` is on every row of the grid: its error against float64, beside that of torch's own definition.

    python -m benchmarks.accuracy

Both compute the same random numbers in float32 and the same memory format (in other types `auto` is torch's own
operator) and are compared with the definition in float64: the output of every row, and the gradients of input, weight
and bias where the row is trained. An error is the root mean square, relative to that of the correct result. Nothing is
timed. The result goes to `benchmarks/results/accuracy.avx2.json` or `accuracy.avx512.json`, by the instructions that
the processor has or is held to.
"""

from __future__ import annotations

import argparse
import json
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
_RESULTS = ("output", "gradient of the input", "gradient of the weight", "gradient of the bias")


def compared(row: Row) -> Iterator[dict[str, Any]]:
    """The relative errors of torch's definition and of `auto`, for each result in each memory format."""
    task = Task(row.name, "training" in row.tags)
    exact = reference(task)
    for channels_last in (False, True)[: min(row.axes, 2)]:
        direct, ours = (
            errors(peer, task, exact)
            for peer in (
                Peer("eager", "ready-made", "eager", channels_last),
                Peer("halfstride", "halfstride", "auto", channels_last),
            )
        )
        for result, of_direct, of_ours in zip(_RESULTS, direct, ours, strict=False):
            yield {
                "layer": row.name,
                "memory_format": "channels_last" if channels_last else "contiguous",
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


def summary(measured: list[dict[str, Any]]) -> str:
    """How the errors of `auto` compare with those of torch's definition, in one sentence."""
    ratios = [each["ours"] / each["direct"] for each in measured]
    worst = max(measured, key=lambda each: each["ours"] / each["direct"])
    return (
        f"{len(measured)} results, {geometric_mean(ratios):.2f} times the error of torch's definition "
        f"(geometric mean); {sum(ratio > 1 for ratio in ratios)} above 1, the largest {max(ratios):.2f} "
        f"({worst['ours']:.2g}; {worst['layer']}, {worst['result']}, {worst['memory_format']})"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    measured = []
    for number, row in enumerate(LAYERS, start=1):
        print(f"\r{number} of {len(LAYERS)}", end="", file=sys.stderr, flush=True)
        measured += compared(row)
    print("\r" + summary(measured), flush=True)
    head = {"command": "python -m benchmarks.accuracy", "torch": torch.__version__}
    results = ",\n".join(f"  {json.dumps(each)}" for each in measured)
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "results": [\n{results}\n ]\n}}\n'
    (RESULTS / f"accuracy.{capability()}.json").write_text(text)


if __name__ == "__main__":
    main()
