"""Images that are read from beginning to end in every epoch: data sets of the hub that are too large to download."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from halfstride.autoencoder.images.decoding import Preparation
from halfstride.autoencoder.images.formats import ImageError, Picture, one_line
from halfstride.autoencoder.images.splits import Epoch, Sample
from halfstride.autoencoder.images.streams import Item, StreamedSplit

T = TypeVar("T")

SHUFFLE_BUFFER = 1_000
"""Images among which a stream draws the next one."""

_READ_AHEAD = 8
"""Steps that a stream reads ahead of the decoding."""


class IterableSplit(StreamedSplit):
    """Images that come as a stream; each epoch draws the order of its shards, and images from a buffer.

    Several processes read shards of their own, so their number must divide that of the shards. An epoch then has as
    many steps as the images that the data set tells of; a process whose shards end earlier reads them again.
    """

    size = None

    def __init__(
        self,
        source: str,
        data: Any,
        column: str,
        about: int | None,
        preparation: Preparation,
        left_out: Set[str] = frozenset(),
    ) -> None:
        """`data` is a `datasets.IterableDataset`, not decoded, that says it has `about` images; those with fingerprints
        in `left_out` are of another split."""
        super().__init__(source, picture, preparation)
        self.data = data
        self.column = column
        self.about = about
        self.left_out = left_out

    def _shares(self, epoch: Epoch) -> Iterator[list[Item]]:
        stream = self.data
        if epoch.shuffle:
            stream = stream.shuffle(seed=epoch.derived_seed, buffer_size=SHUFFLE_BUFFER)
        steps = None
        if epoch.world_size > 1:
            steps = self._steps(epoch)
            items = self._endless(stream, epoch)
        else:
            items = self._items(stream)
        per_process = epoch.batch_size // epoch.world_size
        shares = iter(lambda: list(itertools.islice(items, per_process)), [])
        return read_ahead(itertools.islice(shares, epoch.skip, steps), _READ_AHEAD)

    def _steps(self, epoch: Epoch) -> int:
        """How many steps all processes do in an epoch."""
        shards = self.data.num_shards
        if shards % epoch.world_size:
            raise ValueError(
                f"`source` (={self.source}) is streamed in {shards} shards, which {epoch.world_size} processes cannot "
                f"share evenly: train with a number of processes that divides {shards}."
            )
        if not self.about:
            raise ValueError(f"`source` (={self.source}) does not tell how many images it has: train with one process.")
        return max(self.about // epoch.batch_size, 1)

    def _endless(self, stream: Any, epoch: Epoch) -> Iterator[Item]:
        from datasets.distributed import split_dataset_by_node

        own = split_dataset_by_node(stream, rank=epoch.rank, world_size=epoch.world_size)
        while True:
            items = self._items(own)
            if (first := next(items, None)) is None:
                raise ValueError(f"`source` (={self.source}) has no image in the shards of one process: use fewer.")
            yield first
            yield from items

    def _items(self, stream: Any) -> Iterator[Item]:
        for example in guarded(stream, self.source):
            value = example[self.column]
            if not self.left_out or fingerprint(value) not in self.left_out:
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


def fingerprint(value: Any) -> str:
    """A hash of an image's address, or else of its content, without fetching it."""
    address = value["path"] if isinstance(value, dict) and "://" in (value["path"] or "") else ""
    return hashlib.blake2b(address.encode() or content(value), digest_size=8).hexdigest()


def _name(value: Any) -> str:
    if isinstance(value, dict) and value["path"]:
        return str(value["path"])
    return f"the image with hash {fingerprint(value)}"
