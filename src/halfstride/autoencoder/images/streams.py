"""Splits that do not fit into memory: pictures are decoded by worker processes while the model trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from halfstride.autoencoder.images.collection import processors
from halfstride.autoencoder.images.decoding import Fit, Shape, decode
from halfstride.autoencoder.images.opening import ImageError, Picture, printable
from halfstride.autoencoder.images.splits import Epoch, Skipped, Split

Item = tuple[str, Any]
"""A picture's name, and what the workers find it by."""

_PATIENCE = 100
"""Steps in a row without one readable image after which a stream gives up."""


class StreamedSplit(Split):
    """Pictures that are decoded as they are needed, in an order that does not depend on the number of workers.

    A picture that can no longer be read (deleted, truncated, replaced by something else while training goes on) is
    noted in `skipped`, and another one of its step or the step before takes its place: batches keep their sizes, and
    all processes their number of steps.
    """

    def __init__(self, source: str, find: Callable[[Any], Picture], shape: Shape, fit: Fit) -> None:
        self.source = source
        self.decoder = _Decoder(find, shape, fit)
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
        loader = DataLoader(
            self.decoder,
            batch_sampler=self._shares(epoch),  # type: ignore[arg-type]  # items need not be ints, nor shares counted
            collate_fn=_as_it_is,
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader would draw from the generator that the model's noise needs
        )
        spare = torch.empty((0, *self.decoder.shape), dtype=torch.uint8)
        owed: list[int] = []  # sizes of batches that wait for the first readable image
        lost = 0
        for images, wanted, failures in loader:
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


class ListedSplit(StreamedSplit):
    """Pictures that are known one by one: files, rows of an array on disk, examples of a downloaded data set."""

    size: int

    def __init__(
        self,
        source: str,
        pictures: Sequence[Picture],
        names: Sequence[str],
        wanted: Sequence[int],
        labels: Tensor | None,
        shape: Shape,
        fit: Fit,
    ) -> None:
        super().__init__(source, pictures.__getitem__, shape, fit)
        self.names = names
        self.wanted = wanted
        self.labels = labels
        self.size = len(wanted)

    def _shares(self, epoch: Epoch) -> Iterator[list[Item]]:
        for share in epoch.shares(self.size):
            yield [(self.names[i], i) for i in (self.wanted[place] for place in share.tolist())]


class _Decoder(Dataset[tuple[Tensor, int, dict[str, str]]]):
    """What runs in the workers: from a share's items to its images, how many they should be, and what failed why."""

    def __init__(self, find: Callable[[Any], Picture], shape: Shape, fit: Fit) -> None:
        self.find = find
        self.shape = shape
        self.fit = fit

    def __getitems__(self, items: Sequence[Item]) -> tuple[Tensor, int, dict[str, str]]:
        images = torch.empty((len(items), *self.shape), dtype=torch.uint8)
        failures: dict[str, str] = {}
        good = 0
        for name, key in items:
            try:
                images[good] = decode(self.find(key), self.shape, self.fit)
                good += 1
            except ImageError as error:  # one bad picture must not cost the others
                failures[name] = error.reason
        return images[:good], len(items), failures


def _as_it_is(batch: Any) -> Any:
    return batch


def _repeated(images: Tensor, count: int) -> Tensor:
    return images if len(images) == count else images[torch.arange(count) % len(images)]
