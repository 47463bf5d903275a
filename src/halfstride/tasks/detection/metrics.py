"""How well scores and anomaly maps tell what is anomalous, where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Metrics", "image_metrics", "region_overlap"]


@dataclass(frozen=True)
class Metrics:
    """How well anomalous images, and places in them, are told from normal ones."""

    normal: int
    """Normal images that were judged."""
    anomalous: int
    image_auroc: float | None
    """The share of pairs of a normal and an anomalous image in which the anomalous one has the higher score."""
    average_precision: float | None
    f1: float
    """At the threshold."""
    false_alarms: int
    """Normal images above the threshold."""
    missed: int
    """Anomalous images below it."""
    pixel_auroc: float | None = None
    """None without masks."""
    aupro: float | None = None
    """Area under the curve of the mean overlap with each defect over the false-positive rate, up to a rate of 0.3."""


def image_metrics(scores: Sequence[float], anomalous: Sequence[bool], threshold: float) -> Metrics:
    """Measures of images, by scores and the truth.

    Args:
        scores: one for each image, 1 or more.
        anomalous: whether each is anomalous.
        threshold: above which an image is called anomalous.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    truth, found = np.asarray(anomalous, bool), np.asarray(scores, np.float64)
    called = found > threshold
    both = 0 < truth.sum() < len(truth)
    return Metrics(
        normal=int((~truth).sum()),
        anomalous=int(truth.sum()),
        image_auroc=float(roc_auc_score(truth, found)) if both else None,
        average_precision=float(average_precision_score(truth, found)) if truth.any() else None,
        f1=float(f1_score(truth, called, zero_division=0)),
        false_alarms=int((called & ~truth).sum()),
        missed=int((~called & truth).sum()),
    )


def region_overlap(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], limit: float = 0.3
) -> tuple[float | None, float | None]:
    """Pixel AUROC and AUPRO of anomaly maps.

    Args:
        maps: H×W for each image.
        masks: of the same sizes, True where a defect is; all False for normal images.
        limit: the largest rate of false positives that AUPRO looks at, above 0 and at most 1.

    Returns:
        Both from 0 to 1; None where no pixel, or every pixel, is a defect's.

    Reference:
        Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), for the per-region overlap.
    """
    from scipy.integrate import trapezoid
    from scipy.ndimage import label
    from sklearn.metrics import roc_auc_score

    values = np.concatenate([np.ravel(each) for each in maps])
    # Every defect counts the same whatever its size: its pixels share a weight of 1.
    weights, regions = [], 0
    for mask in masks:
        labelled, count = label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labelled.ravel(), minlength=count + 1)
        sizes[0] = 1
        weights.append(np.where(mask, 1 / sizes[labelled], 0.0).ravel())
        regions += count
    weight = np.concatenate(weights)
    defect = weight > 0
    if not regions or defect.all():
        return None, None
    order = np.argsort(-values, kind="stable")
    values = values[order]
    last = np.append(values[1:] != values[:-1], True)  # equal values are passed together
    overlap = np.append(0.0, (np.cumsum(weight[order]) / regions)[last])
    false_positives = np.append(0.0, (np.cumsum(~defect[order]) / (~defect).sum())[last])
    inside = false_positives <= limit
    x = np.append(false_positives[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, false_positives, overlap))
    return float(roc_auc_score(defect[order], values)), float(trapezoid(y, x) / limit)
