"""`duplicates`: pairs of pictures that are nearly the same."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride.autoencoder.images import Skipped, inputs_and_targets
from halfstride.autoencoder.images.collection import Progress
from halfstride.autoencoder.writing import writing_folder
from halfstride.tasks.embedding import embed_pictures
from halfstride.tasks.pictures import Pictures
from halfstride.tasks.run import TrainedRun, load_run
from halfstride.tasks.search import thumbnail

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64
    from matplotlib.figure import Figure

__all__ = ["Duplicates", "duplicates", "pairs_within"]

# Of the median distance of two pictures: with a map, whose positions can be compared too, and with a vector.
_MAP_SHARE, _VECTOR_SHARE = 0.25, 0.1
_UNLIKE = 0.4
"""Largest squared distance of two maps without their means, over the product of their sizes: a correlation of 0.8."""
_FLAT = 0.02
"""Of the distance: the size from which a map counts as other than flat."""
_ROUNDING = 1e-4
_LEAST = 8
"""Pictures from which the distance can be chosen."""
_DRAWN = 10_000
_BLOCK = 2**11
_PAIRS = 2**14
"""Pairs that are compared at a time."""
MOST_PAIRS = 1_000_000
_RUNGS = 10


@dataclass
class Duplicates:
    """Pairs of pictures within a distance, nearest first."""

    pairs: list[tuple[str, str]]
    """Where the pictures of each pair lie."""
    distances: Float32[np.ndarray, " pairs"]
    """Euclidean distances of their codes."""
    distance: float
    """Up to which a pair counts."""
    typical: float
    """The median distance of two pictures drawn at random; NaN where there are too few."""
    left_out: int
    """Pairs that are not kept, since there are more than 1,000,000 nearer ones."""
    skipped: list[Skipped]
    """What could not be read, and why."""
    _run: TrainedRun = field(repr=False)
    _rungs: list[tuple[float, Any, Any]] = field(repr=False)

    def figure(self) -> Figure:
        """Pairs at growing distances: up to ten of those found, and up to ten of the nearest others."""
        pairs = [(thumbnail(self._run, first), thumbnail(self._run, second)) for _, first, second in self._rungs]
        return figures.ladder(pairs, [rung[0] for rung in self._rungs], self.distance)

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write `pairs.csv` (distance, first, second) and `ladder.png` into a folder, new or empty."""
        with writing_folder(Path(out)) as folder:
            with (folder / "pairs.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.writer(file)
                writer.writerow(["distance", "first", "second"])
                for distance, pair in zip(self.distances, self.pairs, strict=True):
                    writer.writerow([f"{distance:.6g}", *pair])
            self.figure().savefig(folder / "ladder.png", format="png")


def duplicates(
    run: str | os.PathLike[str] | TrainedRun,
    images: Any = None,
    against: Any = None,
    *,
    distance: float | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Find pairs of pictures that are nearly the same: resized, compressed again, slightly cropped.

    Pictures are compared by their codes, of a latent map by the whole map. Nothing is deleted. A pair counts within a
    distance, by default a quarter of the median distance of two pictures, or a tenth with a latent vector. With a map
    what varies over the positions must also correlate by about 0.8, or pictures of little contrast, such as of the sky,
    would all be pairs. Seen on 260 photographs of 64 pixels, these two find all copies of half the size, 99 % of those
    by JPEG at quality 30 and 91 % of those without 3 % of each side; of the 33,670 pairs of different pictures 9 are
    taken for copies, and 233 by the distance alone. A comparison by pixels would reject hardly any of those.
    `Duplicates.figure` shows pairs on both sides of the distance, by which to choose another.

    Args:
        run: a run's folder, or what `load_run` returned.
        images: pictures, as `embed` takes them. By default those that the run was trained on (validation included),
            against its test images.
        against: other pictures; pairs then have one of either. By default pairs are among `images`.
        distance: up to which a pair counts, in the units of the codes, 0 or more.
        progress: called with what is being done, how many are done, and of how many.

    Raises:
        ValueError: where no picture can be read, or the distance is missing for fewer than 8 pictures.

    Example:
        >>> found = duplicates("runs/photos", "holiday/")  # doctest: +SKIP
        >>> found.pairs[0], found.distances[0]  # doctest: +SKIP
        >>> found.figure().savefig("ladder.png")  # doctest: +SKIP
    """
    if distance is not None and not (math.isfinite(distance) and distance >= 0):
        raise ValueError(f"`distance` (={distance}) must be 0 or more.")
    run = load_run(run)
    sides = _parts(run) if images is None else [Pictures(images)]
    if against is not None:
        if images is None:
            raise ValueError("`against` needs `images`: without, the run's training and test images are compared.")
        sides.append(Pictures(against, "against"))
    embeddings = [embed_pictures(run, side, whole=True, progress=progress) for side in sides]
    codes = [torch.from_numpy(embedding.codes) for embedding in embeddings]
    shape = run.model.latent_shape
    typical = _typical(torch.cat(codes) if sum(map(len, codes)) < _DRAWN else codes[0])
    if distance is None:
        if math.isnan(typical):
            raise ValueError(f"`distance` (=None) is chosen from {_LEAST} pictures or more: give a number.")
        # Where all pictures are equal, their codes still differ by rounding.
        share = _VECTOR_SHARE if len(shape) == 1 else _MAP_SHARE
        distance = max(share * typical, _ROUNDING * float(codes[0].norm(dim=1).max()))
    others = codes[1] if len(codes) > 1 else None
    map_shape = shape if len(shape) == 3 else None
    found = pairs_within(codes[0], others, distance, map_shape=map_shape, device=run.device, progress=progress)
    first, second = sides[0], sides[-1]
    return Duplicates(
        [(first.names[i], second.names[j]) for i, j in found.pairs.tolist()],
        found.distances.numpy(),
        distance,
        typical,
        found.left_out,
        [skipped for embedding in embeddings for skipped in embedding.skipped],
        run,
        [(d, first.pictures[i], second.pictures[j]) for d, i, j in _rungs(found)],
    )


class Found(NamedTuple):
    """What `pairs_within` returns, all nearest first and on the CPU."""

    pairs: Int64[Tensor, "pairs 2"]
    distances: Float[Tensor, " pairs"]
    left_out: int
    """How many more pairs there are."""
    others: Int64[Tensor, "others 2"]
    """For some codes the nearest one beyond the distance."""
    other_distances: Float[Tensor, " others"]


def pairs_within(
    codes: Float[Tensor, "n numbers"],
    against: Float[Tensor, "m numbers"] | None,
    distance: float,
    *,
    map_shape: tuple[int, ...] | None = None,
    most: int = MOST_PAIRS,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Found:
    """All pairs of codes within a distance, block by block, so that the table of all distances need not exist.

    Args:
        codes: a row each.
        against: the second code of each pair; None for pairs among `codes`, each once.
        distance: the largest one, 0 or more.
        map_shape: where the codes are latent maps C×h×w, which must also be alike without the means of their channels.
        most: pairs that are kept, the nearest ones.
        device: where to compute.
        progress: called after each block of rows.

    Example:
        >>> pairs_within(torch.tensor([[0.0], [5.0], [1.0]]), None, 2.0)[:2]
        (tensor([[0, 2]]), tensor([1.]))
    """
    others = codes if against is None else against
    centre = codes.mean(0)
    norm = max(float((side - centre).square().sum(1).max()) for side in (codes, others))
    # Distances by products are quick but rounded: what may lie within is computed again by differences.
    limit = distance**2 * (1 + 1e-4) + 1e-5 * norm
    kept = _Nearest(most)
    beyond: list[tuple[Tensor, Tensor]] = []
    for top in range(0, len(codes), _BLOCK):
        rows = (codes[top : top + _BLOCK] - centre).to(device)
        least, column = rows.new_full((len(rows),), math.inf), torch.zeros(len(rows), dtype=torch.int64, device=device)
        for left in range(top if against is None else 0, len(others), _BLOCK):
            columns = (others[left : left + _BLOCK] - centre).to(device)
            squares = (rows.square().sum(1, keepdim=True) + columns.square().sum(1)).addmm_(rows, columns.T, alpha=-2)
            if against is None and left == top:
                squares.masked_fill_(torch.ones_like(squares, dtype=torch.bool).tril_(), math.inf)
            for at in torch.split((squares <= limit).nonzero(), _PAIRS):
                pair = rows[at[:, 0]], columns[at[:, 1]]
                exact = (pair[0] - pair[1]).norm(dim=1)
                inside = exact <= distance
                if map_shape is not None:
                    origin = centre.to(device)
                    inside &= _alike(pair[0] + origin, pair[1] + origin, map_shape, (_FLAT * distance) ** 2)
                kept.add((at[inside] + at.new_tensor([top, left])).cpu(), exact[inside].cpu())
            # At least the rounding further away, so that none of these is a pair that was found.
            nearest, place = squares.masked_fill_(squares <= limit, math.inf).min(1)
            closer = nearest < least
            least, column = torch.where(closer, nearest, least), torch.where(closer, place + left, column)
        finite = least.isfinite().cpu()
        pairs = torch.stack([torch.arange(top, top + len(rows)), column.cpu()], 1)[finite]
        beyond.append((pairs, least.cpu()[finite].sqrt()))
        if progress is not None:
            progress("comparing", min(top + _BLOCK, len(codes)), len(codes))
    pairs, distances = kept.result()
    other_distances, order = torch.cat([d for _, d in beyond]).sort(stable=True)
    return Found(pairs, distances, kept.left_out, torch.cat([p for p, _ in beyond])[order], other_distances)


def _alike(
    first: Float[Tensor, "n numbers"], second: Float[Tensor, "n numbers"], shape: tuple[int, ...], flat: float
) -> Tensor:
    """Which pairs of maps vary alike over their positions; `flat` is the square of a size that is as good as none."""
    first, second = (side.reshape(len(side), shape[0], math.prod(shape[1:])) for side in (first, second))
    first, second = (side - side.mean(2, keepdim=True) for side in (first, second))
    sizes: Tensor = first.flatten(1).norm(dim=1) * second.flatten(1).norm(dim=1)
    apart: Tensor = (first - second).square().sum((1, 2))
    return apart <= _UNLIKE * (sizes + flat)


class _Nearest:
    """Collects pairs, of which it keeps the nearest."""

    def __init__(self, most: int) -> None:
        self.most, self.left_out = most, 0
        self.pairs = torch.empty(0, 2, dtype=torch.int64)
        self.distances = torch.empty(0)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    def add(self, pairs: Tensor, distances: Tensor) -> None:
        self._waiting.append((pairs, distances))
        self._count += len(pairs)
        if self._count > self.most:
            self.result()

    def result(self) -> tuple[Tensor, Tensor]:
        pairs = torch.cat([self.pairs, *(pairs for pairs, _ in self._waiting)])
        added = [distances for _, distances in self._waiting]
        distances, order = torch.cat([self.distances, *added]).sort(stable=True)
        self.left_out += max(len(distances) - self.most, 0)
        self.pairs, self.distances = pairs[order[: self.most]], distances[: self.most]
        self._waiting, self._count = [], 0
        return self.pairs, self.distances


def _typical(codes: Float[Tensor, "n numbers"]) -> float:
    if len(codes) < _LEAST:
        return math.nan
    first, second = torch.randint(len(codes), (2, _DRAWN), generator=torch.Generator().manual_seed(0))
    different = first != second
    return float((codes[first[different]] - codes[second[different]]).norm(dim=1).median())


def _rungs(found: Found) -> Iterator[tuple[float, int, int]]:
    """Pairs at growing distances: some of those found, evenly, and some of the others, the nearest ones densest."""
    count = min(len(found.pairs), _RUNGS)
    for place in np.linspace(0, len(found.pairs) - 1, count).round().astype(int).tolist():
        yield float(found.distances[place]), *found.pairs[place].tolist()
    seen: set[frozenset[int]] = set()
    last = min(len(found.others), max(len(found.others) // 4, _RUNGS))
    for place in (np.linspace(0, 1, min(last, _RUNGS)) ** 2 * (last - 1)).round().astype(int).tolist():
        pair = found.others[place].tolist()
        if frozenset(pair) not in seen:
            seen.add(frozenset(pair))
            yield float(found.other_distances[place]), *pair


def _parts(run: TrainedRun) -> list[Pictures]:
    """The pictures that a run was trained on, and those it is tested on."""
    options = run.run.image_options
    if options.source is None:
        raise ValueError(f"`run` (={run.path}) was trained on images in memory: give `images`, and `against`.")
    if Path(options.source).is_dir():
        parts = run.run.image_parts
        is_test = [part == "test" for part, _ in parts]
        paths = [Path(options.source) / name for _, name in parts]
        return [
            Pictures([p for p, test in zip(paths, is_test, strict=True) if test is which]) for which in (False, True)
        ]
    images = options.load()
    sides: list[Pictures] = []
    for splits in ([images.train, images.validation], [images.test]):
        kept = [inputs_and_targets(split.images)[0] for split in splits if split.images is not None]
        if len(kept) < len(splits):
            raise ValueError(f"`run` (={run.path}) has images that are streamed: give `images`, and `against`.")
        side = Pictures(torch.cat(kept))
        side.names = [name for split in splits for name in split.names or ()]
        side.skipped = [] if sides else list(images.skipped)
        sides.append(side)
    return sides
