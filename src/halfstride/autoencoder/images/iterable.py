"""Images that can only be read from beginning to end: data sets of the hub that are too large to download."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from halfstride.autoencoder.images.collection import TEST, TRAIN, VALIDATION
from halfstride.autoencoder.images.decoding import Preparation
from halfstride.autoencoder.images.opening import ImageError, Picture, one_line
from halfstride.autoencoder.images.splits import Epoch, Sample
from halfstride.autoencoder.images.streams import Item, StreamedSplit

T = TypeVar("T")

SHUFFLE_BUFFER = 1_000
"""Images among which a stream draws the next one."""

_READ_AHEAD = 8
"""Steps that a stream reads ahead of the decoding."""


class Side(NamedTuple):
    """One part of a split by content: the same images in every order, and copies of one image in the same part."""

    part: str
    """"train", "validation" or "test"."""
    seed: int
    test: float
    """The share of all images that is for testing."""
    validation: float
    """The share of the others that is for validation; drawn independently of those for testing."""

    def part_of(self, value: Any) -> str:
        """Which part an image belongs to."""
        data = content(value)
        if _uniform(f"{self.seed}/".encode() + data) < self.test:
            return TEST
        return VALIDATION if _uniform(f"validation/{self.seed}/".encode() + data) < self.validation else TRAIN

    @property
    def share(self) -> float:
        """The share of all images that belongs to this part."""
        if self.part == TEST:
            return self.test
        return (1 - self.test) * (self.validation if self.part == VALIDATION else 1 - self.validation)

    def has(self, value: Any) -> bool:
        """Whether an image belongs to this part."""
        return self.part_of(value) == self.part


def _uniform(data: bytes) -> float:
    """A number from 0 to 1 that depends on the bytes alone."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") / 2**64


class IterableSplit(StreamedSplit):
    """Images that come as a stream; each epoch draws the order of its shards, and images from a buffer.

    Every process reads the whole stream but decodes its own share only, so that all together do what one process would
    do; the last step is cut to a multiple of the number of processes. To train (`shuffle`), where the shards can be
    dealt evenly to the processes and the data set tells how many images it has, each process reads its own shards only:
    all then do as many steps as that number of images fills, and one that runs out of images begins again.
    """

    size = None

    def __init__(
        self, source: str, data: Any, column: str, side: Side | None, about: int | None, preparation: Preparation
    ) -> None:
        """
        Args:
            source: what the data set is called.
            data: a `datasets.IterableDataset`, its images not decoded.
            column: that of the images.
            side: which images belong to this split; None for all.
            about: how many images the data set says it has on this side.
            preparation: how they are decoded.
        """
        super().__init__(source, picture, preparation)
        self.data = data
        self.column = column
        self.side = side
        self.about = about

    def _shares(self, epoch: Epoch) -> Iterator[list[Item]]:
        stream = self.data
        if epoch.shuffle:
            stream = stream.shuffle(seed=epoch.derived_seed, buffer_size=SHUFFLE_BUFFER)
        if epoch.shuffle and epoch.world_size > 1 and self.about and stream.num_shards % epoch.world_size == 0:
            shares = self._own_shards(stream, epoch, max(self.about // epoch.batch_size, 1))
        else:
            shares = self._dealt(stream, epoch)
        return read_ahead(itertools.islice(shares, epoch.skip, None), _READ_AHEAD)

    def _dealt(self, stream: Any, epoch: Epoch) -> Iterator[list[Item]]:
        items = self._items(stream)
        while step := list(itertools.islice(items, epoch.batch_size)):
            even = len(step) // epoch.world_size * epoch.world_size
            if even:
                yield step[epoch.rank : even : epoch.world_size]

    def _own_shards(self, stream: Any, epoch: Epoch, steps: int) -> Iterator[list[Item]]:
        from datasets.distributed import split_dataset_by_node

        items = self._endless(split_dataset_by_node(stream, rank=epoch.rank, world_size=epoch.world_size))
        for _ in range(steps):
            yield list(itertools.islice(items, epoch.batch_size // epoch.world_size))

    def _endless(self, stream: Any) -> Iterator[Item]:
        while True:
            items = self._items(stream)
            if (first := next(items, None)) is None:
                raise ValueError(f"`source` (={self.source}) has no image in the shards of one process: use fewer.")
            yield first
            yield from items

    def _items(self, stream: Any) -> Iterator[Item]:
        for example in guarded(stream, self.source):
            value = example[self.column]
            if self.side is None or self.side.has(value):
                yield _name(value), value

    def _sample(self, count: int, seed: int) -> Sample:
        items = list(itertools.islice(self._items(self.data), count))
        images, good = self._decoded(items)
        return Sample(images, None, [items[i][0] for i in good], torch.tensor(good))


def guarded(examples: Iterable[Any], source: str) -> Iterator[Any]:
    """The examples of a stream, with a `ValueError` of one line for whatever breaks it."""
    iterator = iter(examples)
    while True:
        try:
            example = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # of the network or of a broken file, in as many classes as there are formats
            raise ValueError(f"`source` (={source}) broke off while it was read: {one_line(error)}.") from None
        yield example


def read_ahead(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, read by a thread of its own that is up to `ahead` items in front."""
    end = object()
    pool = ThreadPoolExecutor(1)
    try:
        waiting = [pool.submit(next, items, end) for _ in range(ahead)]
        while (item := waiting.pop(0).result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def picture(value: Any) -> Picture:
    """From a value of an undecoded column, {"bytes", "path"}, to what `decode` takes.

    Where the data set has gone through a `map`, it is a Pillow image in spite of all.

    Raises:
        ImageError: where it is missing or cannot be fetched.
    """
    if value is None or value == {"bytes": None, "path": None}:
        raise ImageError("is missing")
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    if "://" not in value["path"]:
        return Path(value["path"])
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(value["path"], "rb") as file:
            return bytes(file.read())
    except Exception as error:  # of the network, in as many classes as there are protocols
        raise ImageError(f"cannot be fetched: {one_line(error, 100)}") from None


def content(value: Any) -> bytes:
    """What tells an image from others: its bytes, or else its path."""
    if value is None:
        return b""
    if not isinstance(value, dict):
        return bytes(value.tobytes())
    return bytes(value["bytes"]) if value["bytes"] is not None else (value["path"] or "").encode("utf-8", "replace")


def _name(value: Any) -> str:
    if isinstance(value, dict) and value["path"]:
        return str(value["path"])
    return f"the image with hash {hashlib.blake2b(content(value), digest_size=4).hexdigest()}"
