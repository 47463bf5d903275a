"""Samples of a split, and what is measured on them in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from halfstride.autoencoder.images import Split, to_float
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.scoring import Corrupt, Scores, psnr, ssim


class SampledPairs(NamedTuple):
    """Some images of a split."""

    inputs: Tensor
    """uint8 N×C×H×W."""
    targets: Tensor
    """What should come out for them: the same tensor, unless the split has pairs."""
    labels: Tensor | None

    @property
    def paired(self) -> bool:
        return self.inputs is not self.targets

    def some(self, count: int) -> SampledPairs:
        """At most so many of them, evenly spaced."""
        step = math.ceil(len(self.targets) / count)
        inputs = self.inputs[::step]
        targets = self.targets[::step] if self.paired else inputs
        return SampledPairs(inputs, targets, None if self.labels is None else self.labels[::step])

    def chunks(self, size: int, corrupt: Corrupt | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Float inputs and targets, so many at a time."""
        batches = (
            (self.inputs[start : start + size], self.targets[start : start + size])
            for start in range(0, len(self.targets), size)
        )
        return prepared(batches, corrupt)


def prepared(
    batches: Iterable[tuple[Tensor, Tensor]], corrupt: Corrupt | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs, corrupted, and targets as floats; from both as uint8."""
    seen = 0
    for inputs, targets in batches:
        changed = to_float(inputs)
        yield changed if corrupt is None else corrupt(changed, seen), to_float(targets)
        seen += len(targets)


def draw_sample(split: Split, count: int) -> SampledPairs:
    """At most `count` images of a split, evenly of all its classes: the same ones each time."""
    if split.images is not None and len(split.images) <= count:
        return SampledPairs(*inputs_and_targets(split.images), split.labels)
    found = split.sample(count)
    order = found.indices.argsort()
    return SampledPairs(*inputs_and_targets(found.images[order]), None if found.labels is None else found.labels[order])


class Measures(NamedTuple):
    """What was measured of outputs, and of the targets that they are compared with."""

    scores: Scores
    low: float
    high: float
    variance: float
    """Of the outputs: mean over values of the variance over images."""
    data_variance: float
    gradient_energy: float
    """Of the outputs: mean squared difference of neighbouring pixels."""
    data_gradient_energy: float


def measure(restore: Callable[[Tensor], Tensor], pairs: Iterable[tuple[Tensor, Tensor]], *, full: bool) -> Measures:
    """Restore images and compare with the targets, on the CPU.

    Args:
        restore: float images N×C×H×W to the like.
        pairs: batches of float inputs and targets, at least one.
        full: also SSIM.

    Raises:
        ValueError: where an output is not finite.
    """
    errors: list[Tensor] = []
    similarities: list[Tensor] = []
    low, high = math.inf, -math.inf
    energies = torch.zeros(2, dtype=torch.float64)
    moments = [torch.zeros(2, 1, dtype=torch.float64)] * 2  # of outputs and targets: sums of values and of squares
    for inputs, targets in pairs:
        outputs = restore(inputs)
        errors.append((outputs - targets).square().flatten(1).mean(1, dtype=torch.float64))
        if not errors[-1].isfinite().all():
            raise ValueError("`model` gives outputs that are no finite numbers: train it with a smaller learning rate.")
        if full and (similarity := ssim(outputs, targets)) is not None:
            similarities.append(similarity.double())
        low, high = min(low, float(outputs.min())), max(high, float(outputs.max()))
        for place, values in enumerate((outputs, targets)):
            flat = values.flatten(1) - 0.5  # the nearer to the mean, the more digits of the variance are left
            sums = torch.stack([flat.sum(0, dtype=torch.float64), flat.square().sum(0, dtype=torch.float64)])
            moments[place] = moments[place] + sums
            energies[place] += len(values) * gradient_energy(values)
    mse = torch.cat(errors)
    count = len(mse)
    variances = [float((squares - mean.square()).clamp_min(0).mean()) for mean, squares in (m / count for m in moments)]
    mean_ssim = float(torch.cat(similarities).mean()) if similarities else None
    found = Scores(float(mse.mean()), float(psnr(mse).mean()), mean_ssim, count)
    return Measures(found, low, high, *variances, *(energies / count).tolist())


def gradient_energy(images: Tensor) -> float:
    """The mean squared difference of neighbouring pixels, down and across; 0 for a single pixel."""
    differences = [images.diff(dim=axis).square() for axis in (-2, -1) if images.shape[axis] > 1]
    return sum(float(square.mean()) for square in differences) / max(len(differences), 1)
