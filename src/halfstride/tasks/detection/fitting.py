"""`fit_detector`: what a detector needs to know of good images, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images import Images, Split, to_float
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
    if good is None or isinstance(good, Images):
        parts, source = _parts_of(_own_images(run, report) if good is None else good)
    else:
        parts, source = _other_parts(run, good, own_size)
    fit, reference, threshold_part = parts
    steps = min(_STEPS[run.model.latent], _STEPS_PER_TRAINED * sum(run.run.stages))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(run.model).to(run.device)
        train_head(detector.head, run.model, _crops(fit), steps=steps, seed=seed, progress=report)
    detector.eval()
    _fit_description(detector, fit, run.device, report)
    _fit_scale(detector, reference, run.device)
    scores, sizes = _scores(detector, threshold_part, run.device, report)
    threshold = set_threshold(scores, false_alarms)
    size = sizes.pop() if len(sizes) == 1 else None
    self_test, kept = _self_test(detector, threshold, reference, run.device, seed, report)
    fitted = FittedOn(size, own_size, fit.size + reference.size + threshold_part.size, source, self_test, kept)
    with torch.inference_mode():
        warnings = tuple(_warnings(detector, threshold, fitted, fit, run.device, report))
    save_detector(detector, scores, false_alarms, fitted, run.path)
    return FittedDetector(detector, threshold, fitted, warnings)


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


def _other_parts(run: TrainedRun, good: Any, own_size: bool) -> tuple[list[_Part], str]:
    pictures = good if isinstance(good, Pictures) else Pictures(good)
    reader = run.reader(own_size=own_size)
    if len(pictures) < _LEAST_IMAGES:
        raise ValueError(f"`good` are {len(pictures)} images: give {_LEAST_IMAGES} or more.")

    def part(chosen: Sequence[int]) -> _Part:
        def batches() -> Iterator[tuple[Sequence[str], Tensor]]:
            for batch in pictures.batches(reader, chosen):
                if batch.places:
                    yield [pictures.names[place] for place in batch.places], batch.images

        return _Part(len(chosen), batches)

    places, most = range(len(pictures)), _most((run.model.channels, *run.model.image_size))
    held_out = places[1::2]
    parts = [part(places[::2][:most]), part(held_out[::2][:_HELD_OUT]), part(held_out[1::2][:_HELD_OUT])]
    return parts, f"{len(pictures):,} images"


def _most(shape: Sequence[int]) -> int:
    """How many images of this shape a detector is fitted on."""
    return min(_FITTED, max(_FITTED_VALUES // math.prod(shape), 500))


# Fitting -------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _fit_description(detector: Detector, part: _Part, device: torch.device, report: Progress) -> None:
    from sklearn.covariance import LedoitWolf

    found = []
    done = 0
    for _, batch in part.batches():
        found.append(detector.describe(to_float(batch.to(device))).double().cpu())
        done += len(batch)
        report("looking at good images", done, part.size)
    described = torch.cat(found)
    estimate = LedoitWolf().fit(described.numpy())
    detector.mean.copy_(described.mean(0))
    # |whitening^T d|^2 is the squared Mahalanobis distance of d.
    whitening = torch.from_numpy(np.linalg.cholesky(estimate.precision_))
    detector.whitening.copy_(whitening)
    chosen = torch.linspace(0, len(described) - 1, min(len(described), _REFERENCES)).long()
    detector.references = ((described[chosen] - described.mean(0)) @ whitening).float().to(device)


def _crops(part: _Part) -> Tensor:
    """Good images to paint defects on, of one size: whole where they are small and of one size, crops of others."""
    kept: list[Tensor] = []
    values = 0
    generator = np.random.default_rng(0)
    per_image = max(_CROPS // max(part.size, 1), 1)
    for _, batch in part.batches():
        if min(batch.shape[-2:]) > 2 * _CROP:
            for _ in range(per_image):
                top, left = (int(generator.integers(0, side - _CROP + 1)) for side in batch.shape[-2:])
                kept.append(batch[:, :, top : top + _CROP, left : left + _CROP].clone())
        else:
            kept.append(batch)
        values += kept[-1].numel()
        if values > _VALUES:
            break
    height, width = (min(images.shape[axis] for images in kept) for axis in (-2, -1))
    return torch.cat([images[:, :, :height, :width] for images in kept])


@torch.inference_mode()
def _fit_scale(detector: Detector, part: _Part, device: torch.device) -> None:
    found = []
    detector.centre.zero_()
    detector.scale.fill_(1)
    for _, batch in part.batches():
        found.append(detector.parts(to_float(batch.to(device))).double().cpu())
    both = torch.cat(found)
    detector.centre.copy_(both.mean(0))
    detector.scale.copy_(both.std(0, correction=0).clamp_min(1e-3))


@torch.inference_mode()
def _scores(
    detector: Detector, part: _Part, device: torch.device, report: Progress
) -> tuple[list[float], set[tuple[int, int]]]:
    scores: list[float] = []
    sizes: set[tuple[int, int]] = set()
    for _, batch in part.batches():
        scores += detector(to_float(batch.to(device)))[0].tolist()
        sizes.add((batch.shape[-2], batch.shape[-1]))
        report("setting the threshold", len(scores), part.size)
    return scores, sizes


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


def _warnings(
    detector: Detector, threshold: Threshold, fitted: FittedOn, part: _Part, device: torch.device, report: Progress
) -> Iterator[str]:
    if needed := threshold.needed:
        yield (
            f"A rate of false alarms of {threshold.asked:g} needs {needed:,} good images for the threshold, and there "
            f"were {threshold.images:,}: expect one of {round(1 / threshold.rate):,} good images above it."
        )
    if fitted.kept > _KEPT:
        yield (f"Reconstructions keep {fitted.kept:.0%} of painted defects: a smaller code (--latent-dim) keeps less.")
    found = [
        (score, name)
        for names, batch in part.batches()
        for name, score in zip(names, detector(to_float(batch.to(device)))[0].tolist(), strict=True)
    ]
    report("looking for defects among the good images", part.size, part.size)
    above = sorted(((score, name) for score, name in found if score > threshold.value), reverse=True)
    if len(above) > max(3, 5 * threshold.rate * len(found)):
        worst = ", ".join(name for _, name in above[:5])
        yield (
            f"{len(above):,} of {len(found):,} images that were given as good lie above the threshold: are they all "
            f"good? The worst: {worst}."
        )
