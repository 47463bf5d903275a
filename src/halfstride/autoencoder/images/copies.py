"""Which pictures are the same, byte by byte: the same picture must not be trained on and tested on."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from halfstride.autoencoder.images.collection import Chosen, Collection, Progress, in_threads
from halfstride.autoencoder.images.decoding import Pair
from halfstride.autoencoder.images.formats import ImageError

_SAMPLES = 8
"""Rows and columns of an array's image that are compared before all of it is."""


def compare(collection: Collection, progress: Progress | None) -> None:
    """Find out which pictures are the same and write it to `Collection.same`.

    Files are the same where all their bytes are, images of arrays where all their values are, and pairs where their
    inputs or their targets are. Only those that have the same size are looked into.
    """
    if collection.same:
        return
    pictures, count = collection.pictures, len(collection.names)
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            i = first[i]
        return i

    sides = (0, 1) if count and isinstance(pictures[0], Pair) else (None,)
    for side in sides:
        seen: dict[Hashable, int] = {}
        for i, digest in _digests(partial(_identity, pictures, side), count, progress).items():
            one, other = sorted((root(i), root(seen.setdefault(digest, i))))
            first[other] = one
    collection.same = [root(i) for i in range(count)]


def _digests(look: Callable[[int], Any], count: int, progress: Progress | None) -> dict[int, Hashable]:
    """A hash of each picture that might be the same as another one."""
    quick = in_threads(lambda i: _quick(look(i)), count, "comparing", None)
    alike = Counter(quick)
    doubtful = [i for i, key in enumerate(quick) if key is not None and alike[key] > 1]
    digests = in_threads(lambda k: _digest(look(doubtful[k])), len(doubtful), "comparing", progress)
    return {i: digest for i, digest in zip(doubtful, digests, strict=True) if digest is not None}


def _identity(pictures: Sequence[Any], side: int | None, i: int) -> Any:
    """What tells a picture from others: its path, bytes or values; None where it cannot be had."""
    if isinstance(pictures, Chosen):
        return _identity(pictures.pictures, side, pictures.wanted[i])
    if identity := getattr(pictures, "identity", None):  # data sets, whose pictures may have to be fetched
        return identity(i)
    try:
        return pictures[i] if side is None else pictures[i][side]
    except ImageError:
        return None


def _quick(thing: Any) -> Hashable | None:
    """What is the same for equal things, and quickly found."""
    if isinstance(thing, str | os.PathLike):
        try:
            return os.stat(thing).st_size  # noqa: PTH116  # a million times
        except OSError:
            return None
    if isinstance(thing, bytes):
        return len(thing)
    if isinstance(thing, np.ndarray):
        steps = (max(side // _SAMPLES, 1) for side in thing.shape[:2])
        return thing[tuple(slice(step // 2, None, step) for step in steps)].tobytes()
    return None


def _digest(thing: Any) -> Hashable | None:
    if isinstance(thing, np.ndarray):
        thing = thing.tobytes()
    elif not isinstance(thing, bytes):
        try:
            thing = Path(thing).read_bytes()
        except OSError:
            return None
    return hashlib.blake2b(thing, digest_size=16).digest()
