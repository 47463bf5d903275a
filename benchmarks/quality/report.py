"""The tables, made from the JSON: every row, losses too, and what had to be reached beside what was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.quality.rows import OURS, PEERS, Row
from benchmarks.quality.targets import TARGETS

__all__ = ["markdown"]

Result = dict[str, Any]


def markdown(content: dict[str, Any]) -> str:
    """The whole page.

    Args:
        content: what `quality.json` holds.
    """
    done = [row for row in content["trainings"].values() if "failed" not in row]
    sets = list(dict.fromkeys(row["data"] for row in content["trainings"].values()))
    parts = ["# Quality of reconstructions", _circumstances(content), "## What had to be reached", _targets(content)]
    for name in sets:
        parts += [f"## {name}", _table_of(name, done, content["baselines"])]
    failed = [f"- {key}: {row['failed']}" for key, row in content["trainings"].items() if "failed" in row]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _circumstances(content: dict[str, Any]) -> str:
    where = content["circumstances"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    machine = f"{where['processor']} ({where['capability']}, {where['cores']} cores)"
    return f"Made by `python -m benchmarks.quality`: {machine}; {versions}. {_READING}"


_READING = (
    "Errors are of values in [0, 1] on the test images; elsewhere are photographs of which no training image shows a "
    "part. CPU seconds are those of the whole training process: ours with its evaluation and its pictures, on two "
    "threads (textures: one); a peer's on one thread, without the choice of its learning rate. The budget is the "
    "minutes of ours times its threads, and of a peer its training alone. Gradient energy and variance are the "
    "outputs' relative to the images': 1 is right, less gradient energy is blurred, and a variance near 0 is "
    "collapsed. Gradient error is 0 where the differences between neighbouring pixels are right, and 1 where they are "
    "no better than those of a flat image. Of a variational model a latent is active where its mean varies by more "
    "than 0.01 over the test images."
)


# One set --------------------------------------------------------------------------------------------------------------


def _table_of(name: str, done: Sequence[Result], all_baselines: dict[str, Any]) -> str:
    rows = [row for row in done if row["data"] == name]
    elsewhere = any("elsewhere" in row for row in rows)
    head = ["", "latent numbers", "seed", "budget, s", "CPU s", "test MSE", "PSNR, dB"]
    head += ["gradient energy", "gradient error", "variance"]
    head += ["elsewhere MSE", "PSNR, dB", "gradient energy", "gradient error"] if elsewhere else []
    lines = []
    for row in sorted(rows, key=lambda row: (row["contender"] != OURS, row["test"]["mse"])):
        title = f"**{OURS}** {_kind(row)}" if row["contender"] == OURS else PEERS[row["contender"]]
        budget = Row(*(row[field] for field in Row._fields)).cpu_seconds
        spent = [f"{budget:g}", f"{row['cpu_seconds']:.0f}"]
        numbers = str(row["numbers"])
        if row["asked"] not in (None, row["numbers"]):
            numbers += f" (cannot have {row['asked']})"
        if "active" in row:
            numbers += f" ({row['active']} active)"
        lines.append([title, numbers, str(row["seed"]), *spent, *_cells(row)])
    for key, contenders in all_baselines.items():
        if key.rsplit(" ", 1)[0] == name:
            for baseline, parts in contenders.items():
                lines.append([baseline, str(parts["test"]["numbers"]), "", "", "", *_cells(parts)])
    return _table(head, lines)


def _kind(row: Result) -> str:
    return " ".join(row["options"]) if row["options"] else "(default)"


def _cells(parts: Result) -> list[str]:
    cells = []
    for part, names in (
        ("test", ("gradient", "gradient_error", "variance")),
        ("elsewhere", ("gradient", "gradient_error")),
    ):
        if part in parts:
            values = parts[part]
            cells += [f"{values['mse']:.5f}", f"{values['psnr']:.2f}", *(f"{values[name]:.2f}" for name in names)]
    return cells


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _targets(content: dict[str, Any]) -> str:
    lines = []
    for target in TARGETS:
        value = target.value(content)
        sign = "≤" if target.largest else "≥"
        if value is None:
            verdict = "not measured"
        elif target.stretch is not None and target.good(value, target.stretch):
            verdict = "reached, stretch too"
        else:
            verdict = "reached" if target.good(value, target.wanted) else "**missed**"
        stretch = "" if target.stretch is None else f"{sign} {target.stretch:g}"
        seen = "" if value is None else f"{value:.4g}"
        lines.append([target.text, seen, f"{sign} {target.wanted:g}", stretch, verdict])
    return _table(["", "seen", "wanted", "stretch", ""], lines)
