"""Splits that do not fit into memory: pictures are decoded by worker processes while the model trains."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from halfstride.autoencoder.images.collection import decode_into, processors
from halfstride.autoencoder.images.decoding import Pair, Preparation
from halfstride.autoencoder.images.formats import ImageError, Picture, printable
from halfstride.autoencoder.images.splits import Epoch, Sample, Skipped, Split, sample_of, spread

if TYPE_CHECKING:
    from jaxtyping import UInt8

Item = tuple[str, Any]
"""A picture's name, and what the workers find it by."""

_PAGE = 4_096
"""Bytes of /dev/shm that a lock between processes takes."""

_PATIENCE = 100
"""Steps in a row without one readable image after which a stream gives up."""


class StreamedSplit(Split):
    """Pictures that are decoded as they are needed, in an order that does not depend on the number of workers.

    A picture that can no longer be read (deleted, truncated, replaced by something else while training goes on) is
    noted in `skipped`, and another one of its step or the step before takes its place: batches keep their sizes, and
    all processes their number of steps.
    """

    def __init__(self, source: str, find: Callable[[Any], Picture | Pair], preparation: Preparation) -> None:
        self.source = source
        self.paired = preparation.paired
        self.decoder = _Decoder(find, preparation)
        self.workers = max(processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
        """Worker processes; 0 decodes in this one."""
        self._skipped: dict[str, str] = {}

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(Skipped(printable(name), reason) for name, reason in self._skipped.items())

    def _shares(self, epoch: Epoch) -> Iterator[Sequence[Item]]:
        """Step by step, this process's share of an epoch."""
        raise NotImplementedError

    def _batches(self, epoch: Epoch) -> Iterator[UInt8[Tensor, "B C H W"]]:
        spare = torch.empty((0, *self.decoder.preparation.item_shape), dtype=torch.uint8)
        owed: list[int] = []  # sizes of batches that wait for the first readable image
        lost = 0
        for decoded, wanted, failures in self._decoded_shares(epoch):
            images = torch.from_numpy(decoded)
            self._skipped.update(failures)
            owed.append(wanted)
            if len(images):
                spare, lost = images, 0
            elif wanted:
                lost += 1
            if lost > _PATIENCE:
                break
            if len(spare) or not any(owed):
                yield from (_repeated(spare, count) for count in owed)
                owed.clear()
        if owed:
            name, reason = self.skipped[-1]
            raise ValueError(
                f"`source` (={self.source}) can no longer be read: {lost} steps in a row found no image, "
                f"the last time because {name} {reason}."
            )

    def _decoded_shares(self, epoch: Epoch) -> Iterator[_Decoded]:
        """This process's shares of an epoch, decoded by the workers, or in this process where none can be started."""
        free = _free_shared_memory()
        if self.workers and free is not None and free < _PAGE * (4 * self.workers + 8):  # seen: 14 pages for 2 workers
            warnings.warn(
                f"/dev/shm has only {free:,} bytes free, too few for the locks of {self.workers} worker processes: "
                "pictures are decoded in this process, which is slower.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.workers = 0
        loader = DataLoader(
            self.decoder,
            batch_sampler=self._shares(epoch),  # type: ignore[arg-type]  # items need not be ints, nor shares counted
            collate_fn=_as_it_is,
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader would draw from the generator that the model's noise needs
        )
        return iter(loader)

    def _decoded(self, items: Sequence[Item]) -> tuple[Tensor, list[int]]:
        """The images of items that can be read, and which these are; decoded in this process."""
        preparation, find = self.decoder.preparation, self.decoder.find
        images = torch.empty((len(items), *preparation.item_shape), dtype=torch.uint8)
        failures = decode_into(images, lambda i: find(items[i][1]), preparation)
        self._skipped.update({items[i][0]: reason for i, reason in failures.items()})
        good = [i for i in range(len(items)) if i not in failures]
        if not good:
            told = "it has no images" if not items else f"{printable(items[0][0])} {failures[0]}"
            raise ValueError(f"`source` (={self.source}) gives no image of {len(items):,} for a sample: {told}.")
        return images[good], good


class ListedSplit(StreamedSplit):
    """Pictures that are known one by one: files, rows of an array on disk, examples of a downloaded data set."""

    size: int

    def __init__(
        self,
        source: str,
        pictures: Sequence[Picture | Pair],
        names: Sequence[str],
        wanted: Sequence[int],
        labels: Tensor | None,
        preparation: Preparation,
    ) -> None:
        """`pictures` are all of the collection; `names` and `labels` those of the `wanted` ones, of this split."""
        super().__init__(source, pictures.__getitem__, preparation)
        self.names: Sequence[str] = names
        self.wanted = wanted
        self.labels = labels
        self.size = len(wanted)

    def half(self, which: int) -> ListedSplit:
        half = copy.copy(self)
        half.names, half.wanted = self.names[which::2], self.wanted[which::2]
        half.labels = None if self.labels is None else self.labels[which::2]
        half.size = len(half.wanted)
        return half

    def _shares(self, epoch: Epoch) -> Iterator[list[Item]]:
        for share in epoch.shares(self.size):
            yield [(self.names[place], self.wanted[place]) for place in share.tolist()]

    def _sample(self, count: int, seed: int) -> Sample:
        indices = spread(self.size, self.labels, count, seed)
        images, good = self._decoded([(self.names[place], self.wanted[place]) for place in indices.tolist()])
        return sample_of(self, images, indices[good])


_Decoded = tuple[np.ndarray, int, dict[str, str]]
"""A share's images, how many they should be, and what failed why.

An array comes through a pipe. A tensor would come through shared memory: where a container has too little of that, it
is lost, and the training waits for it for ever.
"""


class _Decoder(Dataset[_Decoded]):
    """What runs in the workers: from a share's items to its images."""

    def __init__(self, find: Callable[[Any], Picture | Pair], preparation: Preparation) -> None:
        self.find = find
        self.preparation = preparation

    def __getitems__(self, items: Sequence[Item]) -> _Decoded:
        images = torch.empty((len(items), *self.preparation.item_shape), dtype=torch.uint8)
        failures: dict[str, str] = {}
        good = 0
        for name, key in items:
            try:
                images[good] = self.preparation.decode(self.find(key))
                good += 1
            except ImageError as error:  # one bad picture must not cost the others
                failures[name] = error.reason
        return images[:good].numpy(), len(items), failures


def _free_shared_memory() -> int | None:
    """Bytes that are free in /dev/shm; None where a system has no such place."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def _as_it_is(batch: Any) -> Any:
    return batch


def _repeated(images: Tensor, count: int) -> Tensor:
    return images if len(images) == count else images[torch.arange(count) % len(images)]
