"""`detect`: scores, labels and anomaly maps of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride.autoencoder.images import ImageError, to_float
from halfstride.tasks.detection.detector import FittedDetector, load_detector
from halfstride.tasks.pictures import Pictures, Reader
from halfstride.tasks.run import TrainedRun, load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Detection", "Detections", "Judged", "detect", "judge"]

_SHOWN = 12


class Detection(NamedTuple):
    """What was found of one picture."""

    path: str
    pred_score: float | None
    """In standard deviations of good images; None where the picture could not be read."""
    threshold: float
    pred_label: bool | None
    """Whether it is anomalous; None where that cannot be said: a picture that cannot be read, or one of another size
    than the threshold was set on."""
    map_max: float | None
    """The largest value of the anomaly map, in the unit of the score."""
    reason: str = ""
    """Why there is no label."""
    anomaly_map: np.ndarray | None = None
    """h×w, float32: each value for a square of pixels."""


@dataclass(frozen=True)
class Detections:
    """What `detect` found, in the order of the pictures."""

    results: tuple[Detection, ...]
    threshold: float
    _pictures: Pictures = field(repr=False)
    _reader: Reader = field(repr=False)

    @property
    def worst(self) -> list[int]:
        """The places of the pictures that have a score, the highest first."""
        scored = [place for place, result in enumerate(self.results) if result.pred_score is not None]
        return sorted(scored, key=lambda place: -(self.results[place].pred_score or 0))

    def figure(self, count: int = _SHOWN) -> Figure:
        """The pictures with the highest scores, with their anomaly maps."""
        shown = []
        for place in self.worst[:count]:
            result = self.results[place]
            try:
                image = self._reader.read(self._pictures.pictures[place]).movedim(0, -1).numpy()
            except ImageError:  # it was deleted meanwhile
                continue
            shown.append((result.path, image, result.anomaly_map, result.pred_score))
        return figures.detections(shown, self.threshold)


class Judged(NamedTuple):
    """A picture as the model saw it, and what was found of it."""

    place: int
    image: Tensor | None
    """C×H×W, uint8; None where it could not be read."""
    result: Detection


def detect(
    run: Any, images: Any, *, false_alarms: float | None = None, progress: Callable[[str, int, int], None] | None = None
) -> Detections:
    """Find the images that are unlike the good ones.

    Args:
        run: a `TrainedRun` or a run's folder, with a detector (see `fit_detector`).
        images: a path of a picture or a folder, a Pillow image, a uint8 array or tensor, or a sequence of these.
        false_alarms: the share of good images that may be called anomalous; by default what the detector was fitted
            with.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: where the run has no detector, or there are no pictures.

    Example:
        >>> found = detect("runs/parts", "new parts/")  # doctest: +SKIP
        >>> [result.path for result in found.results if result.pred_label]  # doctest: +SKIP
    """
    run = load_run(run)
    fitted = load_detector(run.model, run.path, false_alarms)
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    reader = run.reader(own_size=fitted.fitted_on.own_size)
    results = []
    for judged in judge(run, fitted, pictures, reader, range(len(pictures))):
        results.append(judged)
        if progress is not None:
            progress("judging", len(results), len(pictures))
    ordered = sorted(results, key=lambda judged: judged.place)
    return Detections(tuple(each.result for each in ordered), fitted.threshold.value, pictures, reader)


@torch.inference_mode()
def judge(
    run: TrainedRun, fitted: FittedDetector, pictures: Pictures, reader: Reader, places: Sequence[int]
) -> Iterator[Judged]:
    """Judge the pictures at these places, a batch at a time."""
    threshold = fitted.threshold.value
    for batch in pictures.batches(reader, places):
        for place, reason in batch.failures.items():
            yield Judged(place, None, Detection(pictures.names[place], None, threshold, None, None, reason))
        if not batch.places:
            continue
        scores, maps = fitted.detector(to_float(batch.images.to(run.device)))
        size = batch.images.shape[-2], batch.images.shape[-1]
        wanted = fitted.fitted_on.size
        fitting = wanted in (None, size)
        told = "" if fitting else f"is {_times(size)}, and the threshold was set on {_times(wanted)}"
        for place, image, score, found in zip(
            batch.places, batch.images, scores.tolist(), maps.float().cpu().numpy(), strict=True
        ):
            label = score > threshold if fitting else None
            result = Detection(pictures.names[place], score, threshold, label, float(found.max()), told, found)
            yield Judged(place, image, result)


def _times(size: tuple[int, int] | None) -> str:
    return "" if size is None else f"{size[0]}×{size[1]}"
