"""`similar`: for each query the pictures whose codes are nearest."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride._support.arguments import read_int
from halfstride.autoencoder.images import ImageError, Skipped
from halfstride.autoencoder.images.collection import Progress
from halfstride.autoencoder.images.formats import Picture
from halfstride.autoencoder.writing import writing_folder
from halfstride.tasks.embedding import CodesFile, Embedding, embed_pictures
from halfstride.tasks.pictures import Pictures
from halfstride.tasks.run import TrainedRun, load_run

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64
    from matplotlib.figure import Figure

__all__ = ["Neighbours", "nearest", "similar", "thumbnail"]

_DISTANCES = 2**24
"""Distances that are computed at a time."""
_SHOWN = 8


@dataclass
class Neighbours:
    """The nearest pictures of each query, nearest first."""

    queries: list[str]
    """Where each query lies."""
    names: list[list[str]]
    """Where the pictures found for each query lie."""
    places: Int64[np.ndarray, "queries k"]
    """Which of all pictures these are, counted from 0."""
    distances: Float32[np.ndarray, "queries k"]
    """Euclidean distances of the codes."""
    skipped: list[Skipped]
    """What could not be read, and why."""
    _run: TrainedRun = field(repr=False)
    _pictures: list[tuple[Picture, list[Picture]]] = field(repr=False)

    def figure(self) -> Figure:
        """The first queries, each beside the pictures found for it, with their distances."""
        rows = [
            [thumbnail(self._run, picture) for picture in (query, *found)] for query, found in self._pictures[:_SHOWN]
        ]
        return figures.neighbours(rows, self.distances[:_SHOWN])

    def save(self, out: str | os.PathLike[str]) -> None:
        """Write `results.csv` (query, rank, distance, path) and `overview.png` into a folder, new or empty."""
        with writing_folder(Path(out)) as folder:
            with (folder / "results.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.writer(file)
                writer.writerow(["query", "rank", "distance", "path"])
                for query, names, distances in zip(self.queries, self.names, self.distances, strict=True):
                    for rank, (name, distance) in enumerate(zip(names, distances, strict=True), 1):
                        writer.writerow([query, rank, f"{distance:.6g}", name])
            self.figure().savefig(folder / "overview.png", format="png")


def similar(
    run: str | os.PathLike[str] | TrainedRun,
    queries: Any,
    images: Any,
    k: int = 10,
    *,
    progress: Progress | None = None,
) -> Neighbours:
    """Find the pictures that are most like each query: those whose codes have the least Euclidean distance to its own.

    The search is exact. Codes of a file are read in blocks, so that memory does not grow with their number. A query
    that is itself among the pictures is found at a distance of 0, up to rounding.

    Args:
        run: a run's folder, or what `load_run` returned.
        queries: pictures, as `embed` takes them.
        images: the pictures to search, as `embed` takes them; or what `embed` returned or the command `embed` wrote,
            which saves encoding them.
        k: how many to find for each query, 1 or more; of fewer pictures all are found.
        progress: called with what is being done, how many are done, and of how many.

    Raises:
        ValueError: where no query or no picture can be read, and for codes of another run.

    Example:
        >>> found = similar("runs/photos", "portrait.jpg", "holiday/", k=5)  # doctest: +SKIP
        >>> found.names[0], found.distances[0]  # doctest: +SKIP
        >>> found.figure().savefig("found.png")  # doctest: +SKIP
    """
    read_int("k", k, 1)
    run, asked = load_run(run), Pictures(queries, "queries")
    is_file = isinstance(images, str | os.PathLike) and Path(images).suffix in (".parquet", ".npz")
    pictures = None
    if isinstance(images, Embedding):
        if images.run != run.fingerprint:
            raise ValueError(f"`images` have codes of another run than {run.path}: embed them again.")
        searched: Embedding | CodesFile = images
    elif is_file:
        searched = CodesFile(images, run)
    else:
        pictures = Pictures(images)
        searched = embed_pictures(run, pictures, progress=progress)
    wanted = embed_pictures(run, asked, progress=progress)
    codes = torch.from_numpy(wanted.codes).to(run.device)
    distances, places = nearest(codes, (torch.tensor(block, device=run.device) for block in searched.blocks()), k)
    names = [searched.names_of(row) for row in places.tolist()]
    found: list[list[Picture]] = [
        [Path(name) for name in row] if pictures is None else [pictures.pictures[place] for place in own]
        for row, own in zip(names, places.tolist(), strict=True)
    ]
    skipped = wanted.skipped + (searched.skipped if pictures is not None and isinstance(searched, Embedding) else [])
    shown = list(zip(asked.pictures, found, strict=True))
    return Neighbours(wanted.names, names, places.numpy(), distances.numpy(), skipped, run, shown)


def nearest(
    queries: Float[Tensor, "queries numbers"], blocks: Iterable[Float[Tensor, "n numbers"]], k: int
) -> tuple[Float[Tensor, "queries k"], Int64[Tensor, "queries k"]]:
    """The k codes that are nearest to each query, exactly, from codes that come in blocks.

    Args:
        queries: a row each.
        blocks: all other codes in pieces, of which one at a time is in memory.
        k: how many; where there are fewer codes, all.

    Returns:
        Their Euclidean distances, ascending, and their places among all codes; on the CPU.

    Example:
        >>> nearest(torch.tensor([[0.0]]), [torch.tensor([[3.0], [1.0]]), torch.tensor([[-2.0]])], k=2)
        (tensor([[1., 2.]]), tensor([[1, 2]]))
    """
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    start = 0
    for block in blocks:
        for piece in torch.split(block, max(_DISTANCES // len(queries), 1)):
            # By differences: by products, small distances between large codes would be lost to rounding.
            distances = torch.cdist(queries, piece, compute_mode="donot_use_mm_for_euclid_dist")
            found, at = distances.topk(min(k, len(piece)), largest=False)
            best, order = torch.cat([best, found], 1).sort(stable=True)
            places = torch.cat([places, at + start], 1).gather(1, order)
            best, places = best[:, :k], places[:, :k]
            start += len(piece)
    return best.cpu(), places.cpu()


def thumbnail(run: TrainedRun, picture: Picture) -> Float32[np.ndarray, "c h w"] | None:
    """A picture as the model sees it, with values in [0, 1]; None where it cannot be read (any more)."""
    try:
        return run.reader().read(picture).numpy().astype(np.float32) / 255
    except ImageError:
        return None
