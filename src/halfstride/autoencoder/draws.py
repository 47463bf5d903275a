"""Random numbers that belong to an image, whichever process computes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """The random numbers of this process's images: the same however many processes share the step.

    Numbers depend on the seed, the step and an image's position among all images of that step, never on the process
    that computes it. For evaluation they depend on the image's index in the test set alone: see `of_images`. Neither
    torch's nor numpy's global generator is touched.

    Args:
        seed: the run's seed, 0 or more.
        step: the number of the step in the whole run, from 0.
        count: images of this step over all processes, 0 or more.
        rank: this process, from 0: it has the images at the positions `rank`, `rank + world`, ... of the step.
        world: the number of processes.

    Raises:
        ValueError: where an argument is out of range.

    Example:
        >>> whole = Draw(seed=0, step=7, count=5).uniforms("flip", 2)
        >>> share = Draw(seed=0, step=7, count=5, rank=1, world=2).uniforms("flip", 2)
        >>> torch.equal(share, whole[1::2])
        True
    """

    seed: int
    step: int
    count: int
    rank: int = 0
    world: int = 1
    _indices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("step", 0), ("count", 0), ("world", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}.")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"`rank` (={self.rank}) must lie in 0 to {self.world - 1}, since world={self.world}.")

    @classmethod
    def of_images(cls, seed: int, indices: Sequence[int]) -> Draw:
        """The random numbers of images by their indices in a set, for scores that do not depend on the batches.

        Args:
            seed: the run's seed, 0 or more.
            indices: each image's index in its set, 0 or more.
        """
        indices = tuple(int(index) for index in indices)
        if any(index < 0 for index in indices):
            raise ValueError(f"`indices` (={indices}) must be at least 0.")
        return cls(seed, 0, len(indices), _indices=indices)

    def __len__(self) -> int:
        """How many images this process has."""
        return len(range(self.rank, self.count, self.world))

    def uniforms(self, purpose: str, columns: int) -> Tensor:
        """Numbers from 0 to below 1, one row per image of this process.

        Args:
            purpose: what they are for; each purpose has numbers of its own.
            columns: how many per image.

        Returns:
            A float64 tensor images×columns on the CPU.
        """
        if self._indices is None:
            numbers = np.random.default_rng(self._sequence(purpose)).random((self.count, columns))
            return torch.from_numpy(numbers[self.rank :: self.world])
        rows = [np.random.default_rng(self._sequence(purpose, index)).random(columns) for index in self._indices]
        return torch.from_numpy(np.array(rows).reshape(len(rows), columns))

    def generators(self, purpose: str) -> Iterator[torch.Generator]:
        """A torch generator on the CPU for each image of this process.

        It is one object, seeded anew for each image: use it before asking for the next.
        """
        generator = torch.Generator()
        if self._indices is None:
            seeds = self._sequence(purpose).generate_state(self.count, np.uint64)[self.rank :: self.world]
        else:
            sequences = [self._sequence(purpose, index) for index in self._indices]
            seeds = np.array([sequence.generate_state(1, np.uint64)[0] for sequence in sequences], np.uint64)
        for seed in seeds:
            yield generator.manual_seed(int(seed) >> 1)  # torch takes 63 bits

    def _sequence(self, purpose: str, index: int | None = None) -> np.random.SeedSequence:
        # Another word of entropy where the index counts: the numbers of evaluation are not those of training.
        key = (self.step,) if index is None else (index, 1)
        return np.random.SeedSequence((self.seed, *key, int.from_bytes(purpose.encode(), "big")))
