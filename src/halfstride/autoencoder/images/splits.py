"""The images to train on or to test on, and the order in which they come.

Order depends on (seed, epoch) alone, never on the number of processes or of decoding workers. `batch_size` is that of a
whole step: with several processes each gets its share of the very images that one process would get in that step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


class Skipped(NamedTuple):
    """A file or item that could not be used."""

    name: str
    reason: str


class Split:
    """The images to train on, or those to test on."""

    size: int | None
    """How many; None where only a whole pass would tell (streamed hub data)."""
    labels: Int64[Tensor, " N"] | None = None
    """Each image's index into `Images.classes`; None where there are no classes, or images are streamed."""
    images: UInt8[Tensor, "N C H W"] | None = None
    """All images, where they are in memory."""

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError("The number of streamed images is unknown: see `size`.")
        return self.size

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What could not be read since the split was made, and was replaced by another image (streamed images only)."""
        return ()

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
    ) -> Iterator[UInt8[Tensor, "B C H W"]]:
        """One epoch: every image once, in an order that depends on `seed` and `epoch` alone.

        All processes do the same number of steps. In each but the last they get `batch_size / world_size` images. What
        is left for the last step is dealt out like cards, so shares differ by at most one image and can be empty
        (0×C×H×W). For the gradient that one process would have, let each process take the *sum* of its images' losses
        times `world_size / step_size(...)`: the mean over processes is then the mean over the step's images.

        Args:
            batch_size: images per step over all processes, a multiple of `world_size`.
            seed: the run's seed.
            epoch: 0 for the first.
            shuffle: False leaves the images in their order.
            rank: this process, from 0.
            world_size: the number of processes.
            skip: steps already done in this epoch; their images are not decoded again.

        Returns:
            An iterator of contiguous uint8 tensors in memory format N×C×H×W on the CPU.

        Raises:
            ValueError: where an argument is out of range.
        """
        for name, value, least in (("batch_size", batch_size, 1), ("world_size", world_size, 1), ("skip", skip, 0)):
            if value < least:
                raise ValueError(f"`{name}` (={value}) must be at least {least}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` (={rank}) must lie in 0 to {world_size - 1}, since world_size={world_size}.")
        if batch_size % world_size:
            nearest = max(round(batch_size / world_size), 1) * world_size
            raise ValueError(
                f"`batch_size` (={batch_size}) cannot be shared evenly by {world_size} processes: use {nearest}."
            )
        return self._batches(Epoch(batch_size, seed, epoch, shuffle, rank, world_size, skip))

    def step_size(self, step: int, batch_size: int) -> int | None:
        """How many images all processes together have in a step: `batch_size`, or fewer in the last one.

        None where `size` is unknown: shares are then equal, and it is `len(share) * world_size`.
        """
        return None if self.size is None else max(min(batch_size, self.size - step * batch_size), 0)

    def _batches(self, epoch: Epoch) -> Iterator[Tensor]:
        raise NotImplementedError


class MemorySplit(Split):
    """Images in memory: a batch is one index into a tensor."""

    size: int
    images: UInt8[Tensor, "N C H W"]

    def __init__(self, images: UInt8[Tensor, "N C H W"], labels: Int64[Tensor, " N"] | None = None) -> None:
        self.images = images
        self.labels = labels
        self.size = len(images)

    def _batches(self, epoch: Epoch) -> Iterator[Tensor]:
        for share in epoch.shares(self.size):
            yield self.images[share]


class Epoch(NamedTuple):
    """The checked arguments of `Split.batches`."""

    batch_size: int
    seed: int
    epoch: int
    shuffle: bool
    rank: int
    world_size: int
    skip: int

    @property
    def derived_seed(self) -> int:
        """63 bits that differ for every (seed, epoch)."""
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {self.epoch}".encode(), digest_size=8).digest(), "big") >> 1

    def shares(self, size: int) -> Iterator[Int64[Tensor, " B"]]:
        """Step by step, the indices of this process's images out of `size`."""
        if self.shuffle:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(self.derived_seed))
        else:
            order = torch.arange(size)
        for start in range(self.skip * self.batch_size, size, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world_size]


def inputs_and_targets(batch: UInt8[Tensor, "..."]) -> tuple[Tensor, Tensor]:
    """What goes into the model and what should come out, each B×C×H×W: the same, unless the split has pairs."""
    if batch.ndim == 5:
        return batch[:, 0], batch[:, 1]
    return batch, batch
