"""`fit_detector`: what a detector needs to know of good images, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images import Images, Split, to_float
from halfstride.autoencoder.images.collection import listed
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.tasks.detection.defects import paint_patch
from halfstride.tasks.detection.detector import Detector, FittedDetector, FittedOn, save_detector
from halfstride.tasks.detection.head import train_head
from halfstride.tasks.detection.threshold import Threshold, set_threshold
from halfstride.tasks.pictures import Pictures
from halfstride.tasks.run import TrainedRun, load_run

__all__ = ["fit_detector"]

_LEAST_IMAGES = 8
_BATCH = 64
_REFERENCES = 2_000  # good images among which the nearest are looked for
_FITTED, _HELD_OUT = 5_000, 1_000  # images that are looked at, where they are small
_FITTED_VALUES = 2**24  # of larger ones at least 500
_VALUES = 2**28  # of images kept in memory at once
_STEPS = {"vector": 400, "map": 1_000}  # of showing defects, at most
_STEPS_PER_TRAINED = 5  # at most as well, so that a first try is quick
_CROPS, _CROP = 2_000, 96  # that defects are painted on, where images keep their own size
_KEPT = 0.5  # share of painted defects that a reconstruction may keep without a warning
_DIAMETERS, _CONTRASTS, _SELF_TESTED = (4, 8, 16, 32), (0.2, 0.4), 32

Progress = Callable[[str, int, int], None]


class _Part(NamedTuple):
    """Some good images."""

    size: int
    batches: Callable[[], Iterator[tuple[Sequence[str], Tensor]]]
    """Names and images of the same size."""


def fit_detector(
    run: Any,
    good: Any = None,
    *,
    false_alarms: float = 0.01,
    own_size: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedDetector:
    """Fit a detector to good images, and keep it in the run's folder.

    Half of the images (of the run's own, the training images) say what good images are like; of the others, one half
    brings the two parts of the score to one scale, and one sets the threshold. Of the run's own images these are the
    two halves of the validation images; test images are not looked at.

    Args:
        run: a `TrainedRun`, or a run's folder.
        good: good images, as for `TrainedRun.detect`; by default those that the run was trained on, which may also be
            given as what `load_images` returned.
        false_alarms: the share of good images that may be called anomalous, above 0 and below 1.
        own_size: leave the images in `good` at their own size, for a run with a latent map; the threshold then holds
            for images of that size. By default they are brought to the size of the training.
        seed: of the synthetic defects.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: for too few good images, or where the run's own cannot be read.

    Example:
        >>> fitted = fit_detector("runs/parts", false_alarms=0.05)  # doctest: +SKIP
        >>> fitted.threshold.value, fitted.threshold.rate  # doctest: +SKIP
    """
    run = load_run(run)
    report: Progress = progress or (lambda *_: None)
    if good is None and own_size:
        raise ValueError("`own_size` (=True) needs good images at their own size: name them.")
    failures: dict[int, str] = {}
    images: Images | Pictures
    if good is None or isinstance(good, Images):
        images = own = _own_images(run, report) if good is None else good
        parts, source = _parts_of(own)
    else:
        images = pictures = good if isinstance(good, Pictures) else Pictures(good, "good")
        parts, source = _other_parts(run, pictures, failures, own_size)
    steps = min(_STEPS[run.model.latent], _STEPS_PER_TRAINED * sum(run.run.stages))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(run.model).to(run.device)
        train_head(detector.head, run.model, _crops(parts[0]), steps=steps, seed=seed, progress=report)
    detector.eval()
    good, reference, held_out = (_describe(detector, part, run.device, report) for part in parts)
    _fit_distance(detector, good)
    found = _parts(detector, reference).double()
    detector.centre.copy_(found.mean(0))
    detector.scale.copy_(found.std(0, correction=0).clamp_min(1e-3))
    scores = _scores(detector, held_out)
    threshold = set_threshold(scores, false_alarms)
    size = next(iter(held_out.sizes)) if len(held_out.sizes) == 1 else None
    self_test, kept = _self_test(detector, threshold, parts[1], run.device, seed, report)
    total = sum(len(described.names) for described in (good, reference, held_out))
    fitted = FittedOn(size, own_size, total, source, self_test, kept)
    warnings = tuple(_warnings(threshold, fitted, good.names, _scores(detector, good)))
    save_detector(detector, scores, false_alarms, fitted, run.path)
    skipped = images.skipped if isinstance(images, Images) else images.skipped_with(failures)
    return FittedDetector(detector, threshold, fitted, warnings, tuple(skipped), tuple(sorted(scores)))


# The good images -----------------------------------------------------------------------------------------------------


def _own_images(run: TrainedRun, report: Progress) -> Images:
    options = run.run.image_options
    if options.source is None:
        raise ValueError(f"`good` (=None) must be given for {run.path}, which was trained on images in memory.")
    return options.load(progress=report)  # type: ignore[arg-type]  # of a stream the total is None


def _parts_of(images: Images) -> tuple[list[_Part], str]:
    train, held_out = images.train, images.validation
    if held_out is train or len(held_out) < 2:
        raise ValueError(f"`good` ({images.name}) are too few images: give {_LEAST_IMAGES} or more others.")

    def part(split: Split, most: int) -> _Part:
        def batches() -> Iterator[tuple[Sequence[str], Tensor]]:
            sample = split.sample(most)
            names = sample.names or [f"image {i}" for i in range(len(sample.images))]
            for start in range(0, len(names), _BATCH):
                block = sample.images[start : start + _BATCH]
                yield names[start : start + _BATCH], inputs_and_targets(block)[1]

        return _Part(min(split.size or most, most), batches)

    return [
        part(train, _most(images.shape)),
        part(held_out.half(0), _HELD_OUT),
        part(held_out.half(1), _HELD_OUT),
    ], images.name


def _other_parts(
    run: TrainedRun, pictures: Pictures, failures: dict[int, str], own_size: bool
) -> tuple[list[_Part], str]:
    """The three parts of other pictures; those that cannot be read are added to `failures` when they are met."""
    reader = run.reader(own_size=own_size)
    if len(pictures) < _LEAST_IMAGES:
        raise ValueError(f"`good` are {len(pictures)} images: give {_LEAST_IMAGES} or more.")

    def part(chosen: Sequence[int]) -> _Part:
        def batches() -> Iterator[tuple[Sequence[str], Tensor]]:
            any_read = False
            for batch in pictures.batches(reader, chosen):
                failures.update(batch.failures)
                if batch.places:
                    any_read = True
                    yield [pictures.names[place] for place in batch.places], batch.images
            if not any_read:
                told = listed(pictures.skipped_with(failures))
                raise ValueError(f"`good` hold too few images that can be read: {told}.")

        return _Part(len(chosen), batches)

    places, most = range(len(pictures)), _most((run.model.channels, *run.model.image_size))
    held_out = places[1::2]
    parts = [part(places[::2][:most]), part(held_out[::2][:_HELD_OUT]), part(held_out[1::2][:_HELD_OUT])]
    return parts, f"{len(pictures):,} images"


def _most(shape: Sequence[int]) -> int:
    """How many images of this shape a detector is fitted on."""
    return min(_FITTED, max(_FITTED_VALUES // math.prod(shape), 500))


# Fitting -------------------------------------------------------------------------------------------------------------


class _Described(NamedTuple):
    """What a detector makes of some images, before anything is fitted."""

    names: list[str]
    whole: Tensor
    """N×numbers, on the CPU."""
    largest: Tensor
    """N, the largest of the head's logits of each."""
    sizes: set[tuple[int, int]]


@torch.inference_mode()
def _describe(detector: Detector, part: _Part, device: torch.device, report: Progress) -> _Described:
    names: list[str] = []
    found: list[tuple[Tensor, Tensor]] = []
    sizes: set[tuple[int, int]] = set()
    for of_batch, batch in part.batches():
        names += of_batch
        whole, largest = detector.describe(to_float(batch.to(device)))
        found.append((whole.cpu(), largest.cpu()))
        sizes.add((batch.shape[-2], batch.shape[-1]))
        report("looking at good images", len(names), part.size)
    wholes, all_largest = zip(*found, strict=True)
    return _Described(names, torch.cat(wholes), torch.cat(all_largest), sizes)


@torch.inference_mode()
def _fit_distance(detector: Detector, good: _Described) -> None:
    """Fit the Mahalanobis distance, and keep the images among which the nearest are looked for."""
    from sklearn.covariance import LedoitWolf

    described = good.whole.double()
    estimate = LedoitWolf().fit(described.numpy())
    detector.mean.copy_(described.mean(0))
    # |whitening^T d|^2 is the squared Mahalanobis distance of d.
    whitening = torch.from_numpy(np.linalg.cholesky(estimate.precision_))
    detector.whitening.copy_(whitening)
    chosen = torch.linspace(0, len(described) - 1, min(len(described), _REFERENCES)).long()
    detector.references = ((described[chosen] - described.mean(0)) @ whitening).float().to(detector.mean.device)


@torch.inference_mode()
def _parts(detector: Detector, images: _Described) -> Tensor:
    device = detector.mean.device
    return detector.parts(images.whole.to(device), images.largest.to(device))


@torch.inference_mode()
def _scores(detector: Detector, images: _Described) -> list[float]:
    return detector.scores(_parts(detector, images)).tolist()


def _crops(part: _Part) -> Tensor:
    """Good images to paint defects on, of one size: whole where they are small and of one size, crops of others."""
    kept: list[Tensor] = []
    generator = np.random.default_rng(0)
    per_image = max(_CROPS // max(part.size, 1), 1)
    for _, batch in part.batches():
        if min(batch.shape[-2:]) > 2 * _CROP:
            for _ in range(per_image):
                top, left = (int(generator.integers(0, side - _CROP + 1)) for side in batch.shape[-2:])
                kept.append(batch[:, :, top : top + _CROP, left : left + _CROP].clone())
        else:
            kept.append(batch)
        if sum(images.numel() for images in kept) > _VALUES:
            break
    height, width = (min(images.shape[axis] for images in kept) for axis in (-2, -1))
    return torch.cat([images[:, :, :height, :width] for images in kept])


@torch.inference_mode()
def _self_test(
    detector: Detector, threshold: Threshold, part: _Part, device: torch.device, seed: int, report: Progress
) -> tuple[tuple[tuple[int, float, float], ...], float]:
    """The share found of discs of each size and contrast, and the share of their contrast that reconstructions keep."""
    images = to_float(next(part.batches())[1][:_SELF_TESTED])
    sizes = [size for size in _DIAMETERS if size <= min(images.shape[-2:]) / 2]
    found, kept, total = [], [], len(sizes) * len(_CONTRASTS)
    whole = detector.model(images.to(device)).cpu()
    for size in sizes:
        for contrast in _CONTRASTS:
            painted, masks = paint_patch(images, size, contrast, np.random.default_rng(seed))
            hits = detector(painted.to(device))[0] > threshold.value
            found.append((size, contrast, float(hits.float().mean())))
            if contrast == _CONTRASTS[-1]:
                change = (detector.model(painted.to(device)).cpu() - whole)[masks.expand_as(images) > 0]
                kept.append(float(change.abs().mean() / (painted - images)[masks.expand_as(images) > 0].abs().mean()))
            report("testing on painted defects", len(found), total)
    return tuple(found), min(1.0, float(np.mean(kept))) if kept else 0.0


def _warnings(threshold: Threshold, fitted: FittedOn, names: Sequence[str], scores: Sequence[float]) -> Iterator[str]:
    """Sentences on what was fitted; names and scores are those of the good images that it was fitted to."""
    if needed := threshold.needed:
        yield (
            f"A rate of false alarms of {threshold.asked:g} needs {needed:,} good images for the threshold, and there "
            f"were {threshold.images:,}: expect one of {round(1 / threshold.rate):,} good images above it."
        )
    if fitted.kept > _KEPT:
        yield f"Reconstructions keep {fitted.kept:.0%} of painted defects: a smaller code (--latent-dim) keeps less."
    found = sorted(zip(scores, names, strict=True), reverse=True)
    above = [name for score, name in found if score > threshold.value]
    if len(above) > max(3, 5 * threshold.rate * len(found)):
        yield (
            f"{len(above):,} of {len(found):,} images that were given as good lie above the threshold: are they all "
            f"good? The worst: {', '.join(above[:5])}."
        )
