"""What every source of images comes down to before any is decoded: a list of pictures and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images.decoding import Header, Pair, Preparation, as_uint8, inspect
from halfstride.autoencoder.images.formats import ImageError, Picture, printable
from halfstride.autoencoder.images.splits import Skipped

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done ("reading", "reading headers" or "decoding"), how many are done, and of how many."""

_CHUNK = 32

T = TypeVar("T")


TRAIN, VALIDATION, TEST = "train", "validation", "test"
Part = tuple[str, ...]
"""Which of the three parts of the data an image belongs to: one, unless there are too few images for that."""


@dataclass
class Collection:
    """Pictures that are not decoded yet."""

    name: str
    """A short name for people."""
    source: str
    """The argument that led here, as error messages quote it."""
    pictures: Sequence[Picture | Pair]
    """Paths, bytes, arrays H×W×C, or pairs of paths; looked up one at a time, perhaps in another process."""
    names: Sequence[str]
    """One for each picture: its path from the folder, or its number."""
    groups: Sequence[str | None]
    """Each picture's class; None where it has none."""
    parts: Sequence[Part] | None = None
    """What each picture is for; None where the source does not say."""
    header: Header | None = None
    """Size and greyness where all pictures share them and they are known (arrays): the size is then kept."""
    headers: Sequence[Header] = ()
    """One for each picture; empty until they are read."""
    same: Sequence[int] = ()
    """A number for each picture, equal for those that are the same byte by byte; empty until they are compared."""
    skipped: list[Skipped] = field(default_factory=list)
    """What was found and cannot be used."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people."""

    def keep(self, wanted: Sequence[int]) -> None:
        """Forget all pictures but these."""
        self.pictures = Chosen(self.pictures, wanted)
        self.names = [self.names[i] for i in wanted]
        self.groups = [self.groups[i] for i in wanted]
        self.parts = None if self.parts is None else [self.parts[i] for i in wanted]
        self.headers = [self.headers[i] for i in wanted] if self.headers else ()
        self.same = [self.same[i] for i in wanted] if self.same else ()

    def skip(self, reasons: Mapping[int, str]) -> None:
        """Forget the pictures with these numbers, and list them as skipped for these reasons."""
        if reasons:
            self.skipped += [Skipped(printable(self.names[i]), reasons[i]) for i in sorted(reasons)]
            self.keep([i for i in range(len(self.names)) if i not in reasons])

    def members(self, part: str) -> list[int]:
        """The numbers of the pictures that a part holds, once the parts are known."""
        assert self.parts is not None
        return [i for i, parts in enumerate(self.parts) if part in parts]

    def require(self) -> None:
        """Raise where no picture is left."""
        if self.names:
            return
        if not self.skipped:
            raise ValueError(f"`source` (={self.source}) holds no images: {WAY_OUT}.")
        raise ValueError(
            f"`source` (={self.source}) holds no usable image: {listed(self.skipped)}. Way out: {WAY_OUT}."
        )


def named_parts(train: str | None, validation: str | None, test: str | None) -> dict[str, str]:
    """From the names of what a source has for training, validation and testing (or None) to those of its parts.

    Without something for testing, what is for validation is for testing; empty where that does not make a split.
    """
    if train is None or (test is None and validation is None):
        return {}
    if test is None or validation is None:
        return {TRAIN: train, TEST: test or validation or ""}
    return {TRAIN: train, VALIDATION: validation, TEST: test}


def split_note(what: str, names: Mapping[str, str]) -> str:
    """A sentence on the split that the source has: `what` are its folders, arrays or splits."""
    *first, last = names.values()
    purposes = "training, validation and testing" if VALIDATION in names else "training and testing"
    return f"The {what} {', '.join(first)} and {last} hold the images for {purposes}."


class Rows(Sequence[np.ndarray]):
    """The images of an array N×H×W×C; one on disk is mapped anew in every process that asks for it, never copied."""

    def __init__(self, array: np.ndarray, reopen: Callable[[], np.ndarray] | None = None) -> None:
        self.array = array
        self.reopen = reopen

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: Any) -> Any:
        return self.array[i]

    def __getstate__(self) -> dict[str, Any]:
        return {"array": None if self.reopen else self.array, "reopen": self.reopen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.reopen = state["reopen"]
        self.array = self.reopen() if self.reopen else state["array"]


class Chosen(Sequence[Any]):
    """Some of the pictures of a list, looked up when they are needed."""

    pictures: Sequence[Any]
    wanted: Sequence[int]

    def __init__(self, pictures: Sequence[Any], wanted: Sequence[int]) -> None:
        if isinstance(pictures, Chosen):  # not chosen from what was chosen from what was chosen, and so on
            self.pictures, self.wanted = pictures.pictures, [pictures.wanted[i] for i in wanted]
        else:
            self.pictures, self.wanted = pictures, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, i: Any) -> Any:
        return self.pictures[self.wanted[i]]


WAY_OUT = "give a folder with PNG, JPEG, WebP, AVIF, HEIC, BMP, TIFF, GIF or PPM files in it or in its subfolders"


def listed(skipped: Sequence[Skipped], limit: int = 3) -> str:
    """The first few skipped ones by name, and how many more there are."""
    first = "; ".join(f"{name} {reason}" for name, reason in skipped[:limit])
    more = f"; and {len(skipped) - limit:,} more" if len(skipped) > limit else ""
    return f"{len(skipped):,} skipped ({first}{more})"


def survey(collection: Collection, progress: Progress | None) -> None:
    """Read the header of every picture; those that have none are skipped."""
    if collection.header:
        collection.headers = [collection.header] * len(collection.names)
        return
    pictures = cast(Sequence[Picture], collection.pictures)  # pairs are made later
    found = in_threads(lambda i: inspect(pictures[i]), len(collection.names), "reading headers", progress)
    collection.skip(reasons_of(found))
    collection.headers = [header for header in found if isinstance(header, Header)]


def decode_all(collection: Collection, preparation: Preparation, progress: Progress | None) -> Tensor:
    """All pictures as one uint8 tensor N×C×H×W, or of pairs N×2×C×H×W; those that cannot be decoded are skipped."""
    shape = preparation.shape
    images = torch.empty((len(collection.names), *preparation.item_shape), dtype=torch.uint8)
    pictures = collection.pictures
    if isinstance(pictures, Rows) and pictures.array.shape[1:] == (*shape[1:], shape[0]):
        for start in range(0, len(images), 1024):
            block = slice(start, start + 1024)
            try:
                images.numpy()[block] = np.moveaxis(as_uint8(pictures.array[block], preparation.white), -1, 1)
            except ValueError as error:
                raise ValueError(f"`source` (={collection.source}) has {error}.") from None
        return images
    reasons = decode_into(images, pictures.__getitem__, preparation, progress)
    good = [i for i in range(len(images)) if i not in reasons]
    collection.skip(reasons)
    return images[good] if reasons else images


def decode_into(
    images: Tensor, find: Callable[[int], Picture | Pair], preparation: Preparation, progress: Progress | None = None
) -> dict[int, str]:
    """Decode a picture for each place of a tensor; return why those that failed did."""

    def decode_one(i: int) -> None:
        images[i] = preparation.decode(find(i))

    return reasons_of(in_threads(decode_one, len(images), "decoding", progress))


def in_threads(work: Callable[[int], T], count: int, what: str, progress: Progress | None) -> list[T | ImageError]:
    """Call `work` for 0 to count - 1 in as many threads as there are processors (Pillow releases the GIL).

    Returns:
        For each number what `work` returned, or the `ImageError` that it raised.
    """
    results: list[T | ImageError] = []

    def attempt(i: int) -> T | ImageError:
        try:
            return work(i)
        except ImageError as error:
            return error

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]

    pool = ThreadPoolExecutor(processors())
    try:
        for found in pool.map(lambda chunk: [attempt(i) for i in chunk], chunks):
            results += found
            if progress is not None:
                progress(what, len(results), count)
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def reasons_of(results: Sequence[object]) -> dict[int, str]:
    """Why each of the results of `in_threads` that are errors failed."""
    return {i: result.reason for i, result in enumerate(results) if isinstance(result, ImageError)}


def processors() -> int:
    """How many processors this process may use, at most 16."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, 16)
