"""Tables made from results: ratios, the limit beside them, losses among the wins.

Results hold medians between their quartiles, not single times: `condensed` makes them from the times of one run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["Spread", "best", "condensed", "limit", "markdown", "median", "overview", "ratio", "table"]

Result = dict[str, Any]
"""What `runner.measure` returned for one row."""


class Spread(NamedTuple):
    """A median between its quartiles."""

    lower: float
    median: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.lower:.2f}, {self.upper:.2f}]"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(lower=2.0, median=3.0, upper=4.0)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def condensed(peers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Replace the times of each peer by their median and quartiles, and by those of its ratios to halfstride's `auto`.

    A ratio is that of two times from the same round. `auto` is the faster one where there are several.

    Args:
        peers: by name, each with "seconds", one time for each round.

    Returns:
        The peers, each with "seconds" and, where halfstride took part, "ratio": lower quartile, median, upper quartile.
    """
    medians = {name: median(peer["seconds"]) for name, peer in peers.items() if _is_auto(peer)}
    own = min(medians, key=medians.__getitem__, default=None)
    short: dict[str, dict[str, Any]] = {}
    for name, peer in peers.items():
        short[name] = peer | {"seconds": _rounded(spread(peer["seconds"]))}
        if own is not None:
            rounds = zip(peer["seconds"], peers[own]["seconds"], strict=False)
            short[name]["ratio"] = _rounded(spread([one / other for one, other in rounds]))
    return short


def _is_auto(peer: dict[str, Any]) -> bool:
    return (peer["kind"], peer["how"]) == ("halfstride", "auto")


def _rounded(value: Spread) -> list[float]:
    return [float(f"{each:.5g}") for each in value]


def best(result: Result, kind: str, how: str | None = None) -> str | None:
    """The fastest peer of a kind (and way), by its median; None where none took part."""
    times = {
        name: seconds_of(peer)
        for name, peer in result["peers"].items()
        if peer["kind"] == kind and how in (None, peer["how"])
    }
    return min(times, key=times.__getitem__) if times else None


def seconds_of(peer: dict[str, Any]) -> float:
    """A peer's median."""
    return float(peer["seconds"][1])


def ratio(result: Result, name: str) -> Spread:
    """How many times as long a peer takes as halfstride's `auto`."""
    return Spread(*result["peers"][name]["ratio"])


def limit(result: Result) -> float | None:
    """The seconds that the machine needs at the least: for the products or for the bytes, whichever is more."""
    if "products" not in result or not {"gemm", "copy"} <= result["peers"].keys():
        return None
    gemm, copy = (seconds_of(result["peers"][name]) for name in ("gemm", "copy"))
    gemms: float = result["products"] / result["gemm_products"]
    return max(gemms * gemm, copy)


def markdown(run: dict[str, Any]) -> str:
    """The page of a whole run."""
    rows = run["rows"]
    parts = [f"# {run['title']}", _circumstances(run)]
    if any("products" in row for row in rows):
        parts += [_layer_notes(run), table(_layer_head(run), [_layer_line(row, run) for row in rows]), _summary(rows)]
    else:
        parts += [_MODEL_NOTES, table(_MODEL_HEAD, [_model_line(row) for row in rows])]
    parts += ["## Every peer", _EVERY_NOTES, _every_peer(rows)]
    if run["settings"]["training"]:
        parts += ["## Peak memory", _MEMORY_NOTES, _every_memory(rows)]
    if any(row["failed"] for row in rows):
        parts += ["## Who could not", _failures(rows)]
    return "\n\n".join(parts) + "\n"


# Layers ---------------------------------------------------------------------------------------------------------------


def _layer_notes(run: dict[str, Any]) -> str:
    through_compiler = any("halfstride compile" in row["peers"] for row in run["rows"])
    compiled = ", and `auto` through `torch.compile` where that is faster" if through_compiler else ""
    notes = (
        "`x best` and `x by hand` say how many times as long the best ready-made peer of the row, and the folded "
        "kernel through `F.conv_transpose`, take as halfstride's `auto`, each in its better layout"
        f"{compiled}: the median over rounds, with quartiles. Less than 1 is a loss, and bold. `limit` is what the "
        "machine needs at the least for the products or the bytes, `reached` the share of it that halfstride reaches."
    )
    if run["settings"]["training"]:
        notes += (
            " `memory` is what one forward and backward needs at its peak beyond its inputs, weights and the given "
            "gradient, as a share of the eager layout that needs less."
        )
    return notes


def _layer_head(run: dict[str, Any]) -> list[str]:
    head = ["row", "best ready-made", "ms", "halfstride", "ms", "x best", "x by hand", "limit ms", "reached"]
    return [*head, "memory"] if run["settings"]["training"] else head


def _layer_line(result: Result, run: dict[str, Any]) -> list[str]:
    ready, hand, own = best(result, "ready-made"), best(result, "by hand"), best(result, "halfstride", "auto")
    least = limit(result)
    time = _median_of(result, own)
    peer = result["peers"].get(own, {})
    line = [
        result["name"],
        ready or "none",
        _milliseconds(_median_of(result, ready)),
        peer.get("chosen", ""),
        _milliseconds(time),
        _ratio_cell(result, ready),
        _ratio_cell(result, hand),
        _milliseconds(least),
        f"{least / time:.0%}" if least and time else "",
    ]
    return [*line, _memory_cell(result, own)] if run["settings"]["training"] else line


def _memory_cell(result: Result, own: str | None) -> str:
    eager = [peer["memory"] for peer in result["peers"].values() if peer["how"] == "eager" and peer.get("memory")]
    used = result["peers"].get(own, {}).get("memory")
    return f"{used / min(eager):.2f}" if eager and used is not None else ""


def _summary(rows: Sequence[Result]) -> str:
    """Geometric means by form, and how many rows were lost."""
    lines = []
    for form in ("resize", "transposed", "subpixel"):
        ratios = []
        for result in rows:
            ready, own = best(result, "ready-made"), best(result, "halfstride", "auto")
            if form in result["tags"] and ready and own:
                ratios.append(ratio(result, ready).median)
        if ratios:
            lines.append(
                f"- {form}: geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}, "
                f"most {max(ratios):.2f}; {sum(value < 1 for value in ratios)} of {len(ratios)} rows lost"
            )
    return "\n".join(["## Against the best ready-made peer", "", *lines])


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios: a twice and a half make one.

    Example:
        >>> geometric_mean([2.0, 0.5])
        1.0
    """
    return math.exp(statistics.mean(map(math.log, values)))


# Models ---------------------------------------------------------------------------------------------------------------

_MODEL_NOTES = (
    "`x as shipped`, `x channels_last`, `x compile` and `x best` say how many times as long eager torch with "
    "contiguous images, eager torch with channels_last ones, `torch.compile` and the best ready-made peer take as "
    "halfstride: the model that `halfstride.optimize` returned, in its better layout, or compiled by the backend "
    "`halfstride`, whichever is faster. `upsampling` is the share of the eager model's time that its upsampling "
    "takes, and `at most` the ratio to eager torch if that cost nothing. `difference` is the largest absolute "
    "difference from float64, `of eager` that of eager torch."
)
_MODEL_HEAD = [
    "model",
    "eager ms",
    "halfstride by",
    "ms",
    "x as shipped",
    "x channels_last",
    "x compile",
    "best ready-made",
    "x best",
    "upsampling",
    "at most",
    "difference",
    "of eager",
]


def _model_line(result: Result) -> list[str]:
    ready, own = best(result, "ready-made"), best(result, "halfstride", "auto")
    share = result["upsampling_share"]
    return [
        result["name"],
        _milliseconds(_median_of(result, "eager")),
        "compile" if own == "halfstride compile" else "optimize",
        _milliseconds(_median_of(result, own)),
        _ratio_cell(result, "eager"),
        _ratio_cell(result, "eager channels_last"),
        _ratio_cell(result, "compile"),
        ready or "none",
        _ratio_cell(result, ready),
        f"{share:.0%}",
        f"{1 / (1 - share):.2f}",
        *(f"{result['peers'][name]['largest']:.1e}" if name in result["peers"] else "" for name in (own, "eager")),
    ]


# All ------------------------------------------------------------------------------------------------------------------

_EVERY_NOTES = "Median milliseconds of each peer that took part; in brackets its error relative to float64."


_MEMORY_NOTES = "MiB that one forward and backward had allocated at its peak."


def _every_memory(rows: Sequence[Result]) -> str:
    names = [name for name in _names(rows) if name not in ("gemm", "copy")]
    lines = []
    for row in rows:
        used = [row["peers"].get(name, {}).get("memory") for name in names]
        lines.append([row["name"], *("" if value is None else f"{value / 2**20:.1f}" for value in used)])
    return table(["row", *names], lines)


def _failures(rows: Sequence[Result]) -> str:
    """Each peer and reason once, with the rows it holds for."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row["failed"].items():
            by_reason.setdefault((name, reason), []).append(row["name"])
    return "\n".join(f"- {name}: {reason} ({'; '.join(where)})" for (name, reason), where in by_reason.items())


def _names(rows: Sequence[Result]) -> list[str]:
    """Every peer of any row, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row["peers"]))


def _every_peer(rows: Sequence[Result]) -> str:
    names = _names(rows)
    lines = []
    for row in rows:
        cells = []
        for name in names:
            peer = row["peers"].get(name)
            error = f" ({peer['error']:.0e})" if peer and "error" in peer else ""
            cells.append(f"{_milliseconds(_median_of(row, name))}{error}")
        lines.append([row["name"], *cells])
    return table(["row", *names], lines)


def _circumstances(run: dict[str, Any]) -> str:
    machine, settings = run["machine"], run["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    return (
        f"Made by `{run['command']}`: {settings['dtype']}, {threads}, {machine['processor']} "
        f"({machine['capability']}, {machine['cores']} cores{machine['accelerator']}), {machine['system']}; {versions}."
    )


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its first column to the left and all others to the right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _median_of(result: Result, name: str | None) -> float | None:
    return seconds_of(result["peers"][name]) if name in result["peers"] else None


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def _ratio_cell(result: Result, slower: str | None) -> str:
    if "ratio" not in result["peers"].get(slower, {}):
        return ""
    value = ratio(result, str(slower))
    return f"**{value}**" if value.median < 1 else str(value)


# Overview -------------------------------------------------------------------------------------------------------------


_SHOWN = (
    "resize 1x512x32x32 -> 512 k3 s2",
    "resize 1x256x64x64 -> 256 k3 s2",
    "resize 32x64x32x32 -> 32 k3 s2",
    "resize 32x64x32x32 -> 3 k3 s2",
    "resize 1x256x32x32 -> 256 k3 s4",
    "resize 1x128x8x8 -> 64 k3 s2",
    "transposed 1x512x32x32 -> 256 k4 s2 p1",
    "transposed 32x64x32x32 -> 3 k4 s2 p1",
)
"""The layers of docs/notes/performance.md: wins, draws and losses."""


def overview(layers: dict[str, Any], training: dict[str, Any]) -> str:
    """The ratios of eight layers in one table, forward and with the backward pass."""
    trained = {row["name"]: row for row in training["rows"]}
    lines = []
    for row in (row for row in layers["rows"] if row["name"] in _SHOWN):
        cells = [_short_ratio(row, "ready-made"), _short_ratio(row, "by hand")]
        with_backward = trained.get(row["name"])
        if with_backward:
            own = best(with_backward, "halfstride", "auto")
            cells += [_short_ratio(with_backward, "ready-made"), _short_ratio(with_backward, "by hand")]
            cells.append(_memory_cell(with_backward, own))
        lines.append([f"`{row['name']}`", _chosen(row), *cells, *[""] * (5 - len(cells))])
    head = [
        "layer",
        "forward by",
        "× ready-made",
        "× by hand",
        "training × ready-made",
        "× by hand",
        "memory of eager's",
    ]
    return table(head, lines)


def _chosen(result: Result) -> str:
    return str(result["peers"].get(best(result, "halfstride", "auto"), {}).get("chosen", ""))


def _short_ratio(result: Result, kind: str) -> str:
    other, own = best(result, kind), best(result, "halfstride", "auto")
    return f"{ratio(result, other).median:.2f}" if other and own else ""
