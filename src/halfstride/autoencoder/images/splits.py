"""The images to train on, to validate on or to test on, and the order in which they come.

Order depends on (seed, epoch) alone, never on the number of processes or of decoding workers. `batch_size` is that of a
whole step: with several processes each gets its share of the very images that one process would get in that step.

Where each image has a clean twin (`Split.paired`), everything that is N×C×H×W here is N×2×C×H×W: the input, then the
target; `inputs_and_targets` takes both layouts apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8


class Skipped(NamedTuple):
    """A file or item that could not be used."""

    name: str
    reason: str


def skipped_lines(skipped: Sequence[Skipped]) -> str:
    """What could not be used as text, one line for each: its name, a tab and the reason.

    Example:
        >>> skipped_lines([Skipped("a.png", "is empty")])
        'a.png\\tis empty\\n'
    """
    return "".join(f"{name}\t{reason}\n" for name, reason in skipped)


class Sample(NamedTuple):
    """Some images of a split."""

    images: UInt8[Tensor, "N C H W"]
    """N×2×C×H×W where the split is paired."""
    labels: Int64[Tensor, " N"] | None
    """Their indices into `Images.classes`; None where the split has no labels."""
    names: Sequence[str] | None
    """Their names; None where the split has none."""
    indices: Int64[Tensor, " N"]
    """Their places in the split."""


def inputs_and_targets(batch: UInt8[Tensor, "N ..."]) -> tuple[UInt8[Tensor, "N C H W"], UInt8[Tensor, "N C H W"]]:
    """A batch as what goes into the model and what should come out: twice the same, unless the split is paired.

    Args:
        batch: N×C×H×W, or N×2×C×H×W of inputs and targets.

    Returns:
        Two tensors N×C×H×W, views of the batch.

    Raises:
        ValueError: where the batch has another number of axes.

    Example:
        >>> inputs, targets = inputs_and_targets(torch.zeros(5, 2, 3, 8, 8, dtype=torch.uint8))
        >>> inputs.shape
        torch.Size([5, 3, 8, 8])
    """
    if batch.ndim == 4:
        return batch, batch
    if batch.ndim == 5 and batch.shape[1] == 2:
        return batch[:, 0], batch[:, 1]
    raise ValueError(f"`batch` (of shape {tuple(batch.shape)}) must be N×C×H×W, or N×2×C×H×W.")


class Split:
    """The images to train on, those to validate on, or those to test on."""

    size: int | None
    """How many; None where only a whole pass would tell (streamed hub data)."""
    labels: Int64[Tensor, " N"] | None = None
    """Each image's index into `Images.classes`; None where there are no classes, or images are streamed."""
    images: UInt8[Tensor, "N C H W"] | None = None
    """All images, where they are in memory."""
    names: Sequence[str] | None = None
    """Each image's name: its path from the folder, or its number; None where images are streamed."""
    paired: bool = False
    """Whether each image comes with its clean twin, as N×2×C×H×W: the input, then the target."""

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
        is left for the last step is dealt out one by one, so shares differ by at most one image and can be empty
        (0×C×H×W). For the gradient that one process would have, let each process multiply the *sum* of its images'
        losses by `world_size / n`, with the `n` images of all processes in the step: the mean over processes is then
        the mean over the step's images.

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

    def sample(self, count: int, seed: int = 0) -> Sample:
        """Images that stand for the split: evenly from all of it, and evenly of its classes, the same ones every time.

        They come in turns of one of each class. Only these are decoded, and those that cannot be read are left out;
        of a stream, the first ones are taken.

        Args:
            count: how many, at least 1; where the split has fewer, it gives all of them.
            seed: another one draws other images.

        Raises:
            ValueError: where `count` is less than 1, or no image can be read.
        """
        if count < 1:
            raise ValueError(f"`count` (={count}) must be at least 1.")
        with torch.inference_mode(False):
            return self._sample(count, seed)

    def half(self, which: int) -> Split:
        """Every second image, from the first (0) or from the second (1).

        Of the validation images the first half chooses which model is kept; thresholds are set on the second, on which
        nothing is chosen.
        """
        raise NotImplementedError

    def _batches(self, epoch: Epoch) -> Iterator[Tensor]:
        raise NotImplementedError

    def _sample(self, count: int, seed: int) -> Sample:
        raise NotImplementedError


class MemorySplit(Split):
    """Images in memory: a batch is one index into a tensor."""

    size: int
    images: UInt8[Tensor, "N C H W"]

    def __init__(
        self,
        images: UInt8[Tensor, "N C H W"],
        labels: Int64[Tensor, " N"] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.names = names
        self.size = len(images)
        self.paired = images.ndim == 5

    def half(self, which: int) -> MemorySplit:
        labels, names = self.labels, self.names
        return MemorySplit(
            self.images[which::2],
            None if labels is None else labels[which::2],
            None if names is None else names[which::2],
        )

    def _batches(self, epoch: Epoch) -> Iterator[Tensor]:
        for share in epoch.shares(self.size):
            yield self.images[share]

    def _sample(self, count: int, seed: int) -> Sample:
        indices = spread(self.size, self.labels, count, seed)
        return sample_of(self, self.images[indices], indices)


def sample_of(split: Split, images: Tensor, indices: Int64[Tensor, " N"]) -> Sample:
    """The images at these places of a split, with their labels and names."""
    labels = None if split.labels is None else split.labels[indices]
    names = None if split.names is None else [split.names[i] for i in indices.tolist()]
    return Sample(images, labels, names, indices)


def spread(size: int, labels: Int64[Tensor, " N"] | None, count: int, seed: int) -> Int64[Tensor, " M"]:
    """Up to `count` of the indices below `size`, by the rules of `Split.sample`."""
    generator = np.random.default_rng(seed)
    values = np.zeros(size, dtype=int) if labels is None else labels.numpy()
    members = [np.flatnonzero(values == value) for value in np.unique(values)]
    room = np.array([len(indices) for indices in members])
    shares = np.zeros(len(members), dtype=int)
    while left := min(count, size) - shares.sum():
        open_ones = np.flatnonzero(shares < room)
        if left < len(open_ones):
            shares[generator.choice(open_ones, left, replace=False)] += 1
        else:
            shares[open_ones] += np.minimum(left // len(open_ones), (room - shares)[open_ones])
    found = []
    for place, (indices, share) in enumerate(zip(members, shares, strict=True)):
        edges = np.arange(share + 1) * len(indices) // max(share, 1)  # one from each stretch of the class
        drawn = indices[generator.integers(edges[:-1], edges[1:])] if share else indices[:0]
        found += [(turn, place, index) for turn, index in enumerate(drawn.tolist())]
    return torch.tensor([index for _, _, index in sorted(found)], dtype=torch.int64)


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
        order = torch.arange(size)
        if self.shuffle:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(self.derived_seed))
        for start in range(self.skip * self.batch_size, size, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world_size]
