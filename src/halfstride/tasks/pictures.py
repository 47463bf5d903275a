"""The pictures that a task is given: found first, then decoded in batches while the model runs."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images import ImageError, Skipped, decode
from halfstride.autoencoder.images.arrays import read_array
from halfstride.autoencoder.images.collection import processors
from halfstride.autoencoder.images.decoding import Fit, inspect
from halfstride.autoencoder.images.folders import read_folder
from halfstride.autoencoder.images.formats import Picture, printable
from halfstride.autoencoder.writing import distinct_names

if TYPE_CHECKING:
    from jaxtyping import UInt8

__all__ = ["Batch", "Pictures", "Reader"]

_PIXELS_PER_BATCH = 2**20
_MOST_PER_BATCH = 256
_PIXELS_AHEAD = 2**27  # decoded pictures that wait for the model: at most 400 MB of colour


class Reader(NamedTuple):
    """How pictures are brought to what a model takes."""

    channels: int
    size: tuple[int, int] | None
    """Height and width; None leaves each picture at its own."""
    fit: Fit = "crop"
    white: int = 65_535

    def read(self, picture: Picture) -> UInt8[Tensor, "C H W"]:
        """One picture as the model takes it, apart from the division by 255.

        Raises:
            ImageError: where it cannot be read.
        """
        size = inspect(picture)[:2] if self.size is None else self.size
        return decode(picture, (self.channels, *size), self.fit, self.white)


@dataclass
class Batch:
    """Pictures of one size, in the order in which they were asked for."""

    places: list[int]
    """Which pictures these are."""
    images: UInt8[Tensor, "N C H W"]
    failures: dict[int, str]
    """Pictures since the last batch that could not be read, and why."""


class Pictures:
    """Pictures that are decoded as they are needed.

    Args:
        source: a path of a picture or a folder, a Pillow image, an array H×W or H×W×C or N×H×W×C of uint8, a tensor
            C×H×W or N×C×H×W of uint8, or a sequence of these.
        argument: what errors call it.

    Raises:
        ValueError: where a path does not exist, or a value is none of these.
    """

    def __init__(self, source: Any, argument: str = "images") -> None:
        self.argument = argument
        self.names: list[str] = []
        """Where each picture lies: its path, or what it is called among the arguments."""
        self.labels: list[str] = []
        """The part of each name that lies below the folder that was given: `cats/1.png`."""
        self.classes: list[str | None] = []
        """The class of each picture that lies in a folder with classes."""
        self.pictures: list[Picture] = []
        self.skipped: list[Skipped] = []
        """What was found in the folders and is no picture."""
        several = isinstance(source, Sequence) and not isinstance(source, str | bytes)
        for one in source if several else [source]:
            self._add(one)
        if not self.pictures:
            raise ValueError(f"`{argument}` hold no picture: {len(self.skipped):,} other files were found.")

    def __len__(self) -> int:
        return len(self.pictures)

    def keep(self, wanted: Sequence[int]) -> None:
        """Forget all pictures but these."""
        self.names = [self.names[i] for i in wanted]
        self.labels = [self.labels[i] for i in wanted]
        self.classes = [self.classes[i] for i in wanted]
        self.pictures = [self.pictures[i] for i in wanted]

    def skipped_with(self, failures: Mapping[int, str]) -> list[Skipped]:
        """All that could not be used: what is no picture, and those of the pictures that could not be read."""
        return self.skipped + [Skipped(self.names[place], reason) for place, reason in sorted(failures.items())]

    def file_names(self, taken: Collection[str] = ()) -> list[str]:
        """The name of a PNG file for each picture, from its label: no two equal, and none that is taken already."""
        return distinct_names((label.replace("\\", "-") for label in self.labels), ".png", taken)

    def _add(self, one: Any) -> None:
        if isinstance(one, str | os.PathLike):
            self._add_path(Path(one))
            return
        if isinstance(one, Tensor | np.ndarray):
            single = one.ndim == 2 or (one.ndim == 3 and _has_channels(one))
            array = one[None] if single else one
            try:
                added = list(read_array(array, self.argument).pictures)
            except ValueError as error:
                raise _naming(self.argument, error) from None
        elif hasattr(one, "getexif"):  # a Pillow image; Pillow itself need not be imported for the others
            added = [one]
        else:
            raise ValueError(
                f"`{self.argument}` hold a {type(one).__name__}: give paths, Pillow images, uint8 arrays or tensors."
            )
        first = len(self.pictures)
        self.names += [f"image {first + i}" for i in range(len(added))]
        self.labels += [f"image {first + i}" for i in range(len(added))]
        self.classes += [None] * len(added)
        self.pictures += cast(list[Picture], added)

    def _add_path(self, path: Path) -> None:
        if path.is_dir():
            try:
                folder = read_folder(path)
            except ValueError as error:
                raise _naming(self.argument, error) from None
            self.names += [str(path / name) for name in folder.names]
            self.labels += folder.names
            self.classes += folder.groups
            self.pictures += cast(Sequence[Picture], folder.pictures)
            self.skipped += [Skipped(str(path / name), reason) for name, reason in folder.skipped]
        elif path.exists():
            self.names.append(str(path))
            self.labels.append(path.name)
            self.classes.append(None)
            self.pictures.append(path)
        else:
            raise ValueError(f"`{self.argument}` (={printable(str(path))}) does not exist: name a picture or a folder.")

    def batches(self, reader: Reader, places: Sequence[int] | None = None) -> Iterator[Batch]:
        """Decode pictures in threads, a few batches ahead, and yield neighbours of one size together.

        Args:
            reader: how they are prepared.
            places: which pictures; by default all.
        """
        waiting: deque[tuple[int, Future[Tensor]]] = deque()
        asked = iter(range(len(self)) if places is None else places)
        kept: list[tuple[int, Tensor]] = []
        failures: dict[int, str] = {}

        def batch() -> Batch:
            nonlocal failures
            shape = kept[0][1].shape if kept else (reader.channels, 0, 0)
            images = torch.stack([image for _, image in kept]) if kept else torch.empty((0, *shape), dtype=torch.uint8)
            made = Batch([place for place, _ in kept], images, failures)
            kept.clear()
            failures = {}
            return made

        pool = ThreadPoolExecutor(processors())
        try:
            most = ahead = 2 * processors()
            while True:
                for place in itertools.islice(asked, max(ahead - len(waiting), 0)):
                    waiting.append((place, pool.submit(reader.read, self.pictures[place])))
                if not waiting:
                    break
                place, future = waiting.popleft()
                try:
                    image = future.result()
                except ImageError as error:
                    failures[place] = error.reason
                    continue
                ahead = min(max(_PIXELS_AHEAD // (image.shape[-1] * image.shape[-2]), 1), most)
                if kept and (image.shape != kept[0][1].shape or len(kept) == _batch_size(image)):
                    yield batch()
                kept.append((place, image))
            if kept or failures:
                yield batch()
        finally:
            pool.shutdown(cancel_futures=True)


def _batch_size(image: Tensor) -> int:
    return min(max(_PIXELS_PER_BATCH // (image.shape[-1] * image.shape[-2]), 1), _MOST_PER_BATCH)


def _naming(argument: str, error: ValueError) -> ValueError:
    """An error of a reader of images, with the name that the argument has here."""
    return ValueError(str(error).replace("`source`", f"`{argument}`", 1))


def _has_channels(array: Tensor | np.ndarray) -> bool:
    """Whether three axes are those of one picture, and not of several grey ones."""
    if isinstance(array, Tensor):
        return array.shape[0] in (1, 3)
    return array.shape[2] in (1, 2, 3, 4) and array.shape[0] > 4
