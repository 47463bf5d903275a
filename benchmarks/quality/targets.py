"""What had to be reached, and how each figure follows from the JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.quality.rows import OURS, PEERS

__all__ = ["TARGETS", "Target"]

Result = dict[str, Any]
Content = dict[str, Any]
"""What `quality.json` holds."""
Figure = Callable[[Content], float | None]

_COLLAPSED = 0.05
"""Share of the images' variance below which outputs count as one image for every input."""


class Target(NamedTuple):
    """A figure that had to be reached."""

    text: str
    value: Figure
    """The figure from the JSON's content; None where its rows are missing."""
    wanted: float
    stretch: float | None = None
    largest: bool = True
    """Whether `wanted` is the largest value that is good enough, or else the smallest."""

    def good(self, value: float, wanted: float) -> bool:
        return value <= wanted if self.largest else value >= wanted


def _ours(content: Content, data: str, minutes: float, numbers: int | None = None) -> list[Result]:
    """Our finished rows of a set; `numbers` as asked for."""
    return [
        row
        for row in content["trainings"].values()
        if row["contender"] == OURS
        and (row["data"], row["minutes"], row["asked"]) == (data, minutes, numbers)
        and "failed" not in row
    ]


def _mean_mse(data: str, minutes: float, numbers: int | None = None) -> Figure:
    def value(content: Content) -> float | None:
        found = _ours(content, data, minutes, numbers)
        return statistics.mean(row["test"]["mse"] for row in found) if found else None

    return value


def _active(content: Content) -> float | None:
    found = [row for row in _ours(content, "digits", 1, 16) if "active" in row]
    return float(found[0]["active"]) if found else None


def _of_pca(content: Content) -> float | None:
    found = _ours(content, "fashion-mnist", 10, 32)
    baseline = content["baselines"].get("fashion-mnist 32")
    return found[0]["test"]["mse"] / baseline["pca"]["test"]["mse"] if found and baseline else None


def _gain(data: str, part: str, minutes: float) -> Figure:
    """By how many dB our worst seed is better than the better of PCA and thumbnail with as many numbers."""

    def value(content: Content) -> float | None:
        gains = []
        for row in _ours(content, data, minutes):
            baseline = content["baselines"][f"{data} {row['numbers']}"]
            gains.append(row[part]["psnr"] - max(baseline[name][part]["psnr"] for name in ("pca", "thumbnail")))
        return min(gains, default=None)

    return value


def _nearer(data: str, score: str, right: float) -> Figure:
    """Our worst distance of a score from what is right, relative to that of the better of PCA and thumbnail."""

    def value(content: Content) -> float | None:
        ratios = []
        for row in _ours(content, data, 5):
            baseline = content["baselines"][f"{data} {row['numbers']}"]
            for part in ("test", "elsewhere"):
                others = min(abs(right - baseline[name][part][score]) for name in ("pca", "thumbnail"))
                ratios.append(abs(right - row[part][score]) / others)
        return max(ratios, default=None)

    return value


def _of_baselines(chosen: Callable[[Result], bool]) -> Figure:
    """Our worst error relative to the better of PCA and thumbnail."""

    def value(content: Content) -> float | None:
        ratios = []
        for row in content["trainings"].values():
            if row["contender"] == OURS and "failed" not in row and chosen(row):
                baseline = content["baselines"][f"{row['data']} {row['numbers']}"]
                least = min(baseline[name]["test"]["mse"] for name in ("pca", "thumbnail"))
                ratios.append(row["test"]["mse"] / least)
        return max(ratios, default=None)

    return value


def _is_texture(row: Result) -> bool:
    return str(row["data"]).startswith(("brick", "grass", "gravel"))


def _collapsed(content: Content) -> float | None:
    found = [row for row in content["trainings"].values() if _is_texture(row) and "failed" not in row]
    return float(sum(row["test"]["variance"] < _COLLAPSED for row in found)) if found else None


def _of_peers(data: str, minutes: float, ours: float, numbers: int, asked: int | None = None) -> Figure:
    """Our mean error in `ours` minutes relative to that of the best peer in `minutes`, if we have no more numbers."""

    def value(content: Content) -> float | None:
        own = [row for row in _ours(content, data, ours, asked) if row["numbers"] <= numbers]
        peers = [
            row["test"]["mse"]
            for row in content["trainings"].values()
            if row["contender"] in PEERS
            and (row["data"], row["minutes"], row["asked"]) == (data, minutes, numbers)
            and "failed" not in row
        ]
        return statistics.mean(row["test"]["mse"] for row in own) / min(peers) if own and peers else None

    return value


TARGETS = [
    Target("digits, default, one minute: test MSE, mean of seeds", _mean_mse("digits", 1), 0.0042, 0.0036),
    Target("digits, latent 2: test MSE", _mean_mse("digits", 1, 2), 0.0375),
    Target("digits, latent 2: MSE of the lecture net's", _of_peers("digits", 1, 1, 2, 2), 1),
    Target("digits, variational, 16 numbers: active units", _active, 12, largest=False),
    Target("Fashion-MNIST, latent 32, ten minutes: MSE of PCA's", _of_pca, 0.5, 0.42),
    *(
        Target(f"photographs of {side}, {where}: dB above PCA and thumbnail", _gain(name, part, 5), *wanted, False)
        for side in (64, 128)
        for name in (f"photographs-{side}",)
        for where, part, wanted in (("test", "test", (2, 3)), ("elsewhere", "elsewhere", (1, 2)))
    ),
    *(
        Target(
            f"photographs of {side}: {text}, of PCA's and thumbnail's", _nearer(f"photographs-{side}", score, right), 1
        )
        for side in (64, 128)
        for text, score, right in (
            ("gradient energy's distance from 1", "gradient", 1.0),
            ("gradient error", "gradient_error", 0.0),
        )
    ),
    Target("textures: collapsed runs", _collapsed, 0),
    Target("textures: largest MSE of PCA's and thumbnail's", _of_baselines(_is_texture), 1),
    *(
        Target(f"{count} photographs: MSE of PCA's and thumbnail's", _of_baselines(chosen), 1)
        for count in (60, 400, 4000)
        for chosen in (lambda row, count=count: row["data"] == f"photographs-64-{count}",)
    ),
    Target("digits: MSE of the best peer's", _of_peers("digits", 1, 1, 32), 1),
    Target("digits, half the time: MSE of the best peer's", _of_peers("digits", 1, 0.5, 32), 1),
    Target("Fashion-MNIST: MSE of the best peer's", _of_peers("fashion-mnist", 2, 2, 32, 32), 1),
    Target("Fashion-MNIST, half the time: MSE of the best peer's", _of_peers("fashion-mnist", 2, 1, 32, 32), 1),
    Target("photographs of 64: MSE of the best peer's", _of_peers("photographs-64", 2, 2, 256), 1),
    Target("photographs of 64, half the time: MSE of the best peer's", _of_peers("photographs-64", 2, 1, 256), 1),
]
