"""What every source of images comes down to before any is decoded: a list of pictures and what is known of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images.decoding import Fit, Header, Shape, as_uint8, decode, inspect
from halfstride.autoencoder.images.opening import ImageError, Picture, printable
from halfstride.autoencoder.images.splits import Skipped

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done ("reading", "reading headers" or "decoding"), how many are done, and of how many."""

_CHUNK = 32


@dataclass
class Collection:
    """Pictures that nobody has decoded yet."""

    name: str
    """A short name for people."""
    source: str
    """The argument that led here, as error messages quote it."""
    pictures: Sequence[Picture]
    """Paths, bytes, arrays H×W×C; looked up one at a time, perhaps in another process."""
    names: Sequence[str]
    """One for each picture: its path from the folder, or its number."""
    groups: Sequence[str | None]
    """Each picture's class; None where it has none."""
    tests: Sequence[bool] | None = None
    """Whether each picture is for testing; None where the source does not say."""
    header: Header | None = None
    """Size and greyness where all pictures share them and they are known (arrays): the size is then kept."""
    skipped: list[Skipped] = field(default_factory=list)
    """What was found and cannot be used."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people."""

    def keep(self, wanted: Sequence[int]) -> None:
        """Forget all pictures but these."""
        self.pictures = _Chosen(self.pictures, wanted)
        self.names = [self.names[i] for i in wanted]
        self.groups = [self.groups[i] for i in wanted]
        self.tests = None if self.tests is None else [self.tests[i] for i in wanted]

    def require(self) -> None:
        """Raise where no picture is left."""
        if self.names:
            return
        if not self.skipped:
            raise ValueError(f"`source` (={self.source}) holds no images: {WAY_OUT}.")
        raise ValueError(
            f"`source` (={self.source}) holds no usable image: {listed(self.skipped)}. Way out: {WAY_OUT}."
        )


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


class _Chosen(Sequence[Picture]):
    """Some of the pictures of a list, looked up when they are needed."""

    def __init__(self, pictures: Sequence[Picture], wanted: Sequence[int]) -> None:
        self.pictures = pictures
        self.wanted = wanted

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


def survey(collection: Collection, progress: Progress | None) -> list[Header]:
    """Read the header of every picture; those that have none are skipped."""
    headers: list[Header | None] = [None] * len(collection.names)
    reasons: dict[int, str] = {}

    def look(i: int) -> None:
        try:
            headers[i] = inspect(collection.pictures[i])
        except ImageError as error:
            reasons[i] = error.reason

    in_threads(look, len(headers), "reading headers", progress)
    _skip(collection, reasons)
    return [header for header in headers if header is not None]


def decode_all(collection: Collection, shape: Shape, fit: Fit, progress: Progress | None) -> Tensor:
    """All pictures as one uint8 tensor N×C×H×W; those that cannot be decoded are skipped."""
    images = torch.empty((len(collection.names), *shape), dtype=torch.uint8)
    if isinstance(collection.pictures, Rows) and collection.pictures.array.shape[1:] == (*shape[1:], shape[0]):
        for start in range(0, len(images), 1024):
            block = slice(start, start + 1024)
            try:
                images.numpy()[block] = np.moveaxis(as_uint8(collection.pictures.array[block]), -1, 1)
            except ValueError as error:
                raise ValueError(f"`source` (={collection.source}) has {error}.") from None
        return images
    reasons: dict[int, str] = {}

    def decode_one(i: int) -> None:
        try:
            images[i] = decode(collection.pictures[i], shape, fit)
        except ImageError as error:
            reasons[i] = error.reason

    in_threads(decode_one, len(images), "decoding", progress)
    if reasons:
        images = images[[i for i in range(len(images)) if i not in reasons]]
    _skip(collection, reasons)
    return images


def choose_test(names: Sequence[str], fraction: float, seed: int) -> list[bool]:
    """Which of the named images to test on: about `fraction` of them, at least one, and never all.

    They are ranked by a hash of seed and name, and the first ones are taken. So the answer does not depend on the order
    of the names, and one more image moves at most one other from one side to the other.
    """
    ranks = [hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    chosen = set(sorted(range(len(names)), key=ranks.__getitem__)[:count])
    return [i in chosen for i in range(len(names))]


def in_threads(work: Callable[[int], None], count: int, what: str, progress: Progress | None) -> None:
    """Call `work` for 0 to count - 1 in as many threads as there are processors; Pillow releases the GIL."""
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]

    def run(chunk: range) -> int:
        for i in chunk:
            work(i)
        return chunk.stop

    pool = ThreadPoolExecutor(processors())
    try:
        for done in pool.map(run, chunks):
            if progress is not None:
                progress(what, done, count)
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """How many processors this process may use, at most 16."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, 16)


def _skip(collection: Collection, reasons: dict[int, str]) -> None:
    if not reasons:
        return
    collection.skipped += [Skipped(printable(collection.names[i]), reasons[i]) for i in sorted(reasons)]
    collection.keep([i for i in range(len(collection.names)) if i not in reasons])
