"""`detect_files`: what the command `detect` writes."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from halfstride import figures
from halfstride.autoencoder.images import Skipped
from halfstride.tasks.detection.detecting import Detection, Detections, Judged, judge
from halfstride.tasks.detection.detector import FittedDetector, load_detector
from halfstride.tasks.detection.metrics import Metrics, image_metrics, region_overlap
from halfstride.tasks.detection.truth import GROUND_TRUTH, Truth, find_masks, labels_by_folder, read_mask
from halfstride.tasks.job import Job
from halfstride.tasks.pictures import Pictures, Reader
from halfstride.tasks.run import TrainedRun

__all__ = ["DetectedFiles", "detect_files"]

_COLUMNS = ("path", "pred_score", "threshold", "pred_label", "gt_label", "map_max", "map_path", "reason")
_MOST_FOLDERS = 20  # that are noted one by one
_LABELS = {None: None, False: "normal", True: "anomalous"}


@dataclass(frozen=True)
class DetectedFiles:
    """What was found, as the command tells it."""

    anomalous: int
    normal: int
    unjudged: int
    """Pictures without a label: they could not be read, or have another size than the threshold was set on."""
    worst: tuple[tuple[str, float], ...]
    """The highest scores."""
    fitted: FittedDetector
    metrics: Metrics | None
    """None where it is not known which pictures are anomalous."""
    skipped: tuple[Skipped, ...]
    """What could not be read, and why."""


def detect_files(
    run: TrainedRun,
    sources: Sequence[Path],
    out: Path,
    *,
    false_alarms: float | None = None,
    normal: Path | None = None,
    abnormal: Path | None = None,
    masks: Path | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> DetectedFiles | None:
    """Judge pictures and write results.csv, results.jsonl, maps, masks and overview.png into a new folder.

    The run's folder notes in `detections.jsonl` where that folder and the pictures are, for the studio.

    Args:
        run: with a detector.
        sources: files and folders; may be empty where `normal` or `abnormal` is given.
        out: the folder, new or empty.
        false_alarms: the rate for the threshold; by default that which the detector was fitted with.
        normal: a folder of pictures that are known to be normal.
        abnormal: a folder of pictures that are known to be anomalous.
        masks: where masks lie; by default in a folder `ground_truth` beside `test`.
        resume: go on with an interrupted job.
        progress: called with what is being done, how much of it is done, and how much there is.

    Returns:
        What was found; None in the processes of a distributed job that do not write.

    Raises:
        ValueError: where there is no detector or no picture, or the folder is not free.
    """
    fitted = load_detector(run.model, run.path, false_alarms)
    pictures, truth = _pictures(sources, normal, abnormal, masks)
    reader = run.reader(own_size=fitted.fitted_on.own_size)
    settings = {"task": "detect", "run": run.fingerprint, "threshold": fitted.threshold.value}
    job = Job(out, pictures.names, settings, resume=resume)
    names = pictures.file_names()
    values = job.folder / "values"
    for place in (job.output / "maps", job.output / "masks", values):
        place.mkdir(exist_ok=True)
    for judged in judge(run, fitted, pictures, reader, job.waiting):
        job.write({judged.place: _record(job.output, values, judged, names[judged.place], truth)})
        if progress is not None:
            progress("judging", len(job.records), len(pictures))
    found: list[DetectedFiles] = []

    def write(folder: Path, records: list[dict[str, Any]]) -> None:
        metrics = _metrics(records, truth, fitted, values, reader)
        _write_tables(folder, records, metrics)
        _write_figures(folder, records, truth, run, fitted, pictures, reader)
        _write_basis(folder, fitted, reader)
        found.append(_told(records, fitted, metrics, pictures))

    if job.finish(write):
        _note(run, out, [*sources, *(each for each in (normal, abnormal) if each is not None)], len(pictures))
    return found[0] if found else None


def _pictures(
    sources: Sequence[Path], normal: Path | None, abnormal: Path | None, masks: Path | None
) -> tuple[Pictures, Truth]:
    """The pictures to judge, without those that are masks, and what is known of them."""
    given = [source / "test" if (source / "test").is_dir() else source for source in sources]
    known = [(folder, label) for folder, label in ((normal, False), (abnormal, True)) if folder is not None]
    if not given and not known:
        raise ValueError("`images` (none): name pictures or folders.")
    pictures = Pictures([*given, *(folder for folder, _ in known)])
    pictures.keep([i for i, name in enumerate(pictures.names) if GROUND_TRUTH not in Path(name).parts[:-1]])
    labels = labels_by_folder(pictures.names)
    for folder, label in known:
        labels = [
            label if Path(name).is_relative_to(folder) else old
            for name, old in zip(pictures.names, labels, strict=True)
        ]
    return pictures, Truth(labels, find_masks(pictures.names, masks))


def _record(folder: Path, values: Path, judged: Judged, name: str, truth: Truth) -> dict[str, Any]:
    """The line of one picture, whose map and mask are written."""
    from PIL import Image

    result, path = judged.result, ""
    if judged.image is not None and result.anomaly_map is not None:
        image = judged.image.movedim(0, -1).numpy()
        path = f"maps/{name}"
        figures.anomaly_overlay(image, result.anomaly_map, result.threshold).save(folder / path)
        np.save((folder / path).with_suffix(".npy"), result.anomaly_map.astype(np.float16))
        found = figures.map_at_size(result.anomaly_map, image.shape[:2])
        Image.fromarray((found > result.threshold).astype(np.uint8) * 255).save(folder / "masks" / name)
        if truth.has_masks:
            np.save(values / f"{judged.place}.npy", found.astype(np.float16))
    return {
        "path": result.path,
        "pred_score": _rounded(result.pred_score),
        "threshold": _rounded(result.threshold),
        "pred_label": _LABELS[result.pred_label],
        "gt_label": _LABELS[truth.anomalous[judged.place]],
        "map_max": _rounded(result.map_max),
        "map_path": path,
        "reason": result.reason,
    }


def _rounded(score: float | None) -> float | None:
    """The last digits of a score depend on which images were judged together."""
    return None if score is None else round(score, 4)


def _metrics(
    records: Sequence[dict[str, Any]], truth: Truth, fitted: FittedDetector, values: Path, reader: Reader
) -> Metrics | None:
    known = [
        place
        for place, record in enumerate(records)
        if truth.anomalous[place] is not None and record["pred_score"] is not None
    ]
    if not known:
        return None
    anomalous = [bool(truth.anomalous[place]) for place in known]
    metrics = image_metrics([records[place]["pred_score"] for place in known], anomalous, fitted.threshold.value)
    if not truth.has_masks:
        return metrics
    # Of an anomalous picture without a mask it is not known where its defect is.
    masked = [place for place in known if truth.masks[place] is not None or not truth.anomalous[place]]
    maps = [np.load(values / f"{place}.npy").astype(np.float32) for place in masked]
    masks = [read_mask(truth.masks[place], each.shape, reader) for place, each in zip(masked, maps, strict=True)]
    pixel_auroc, aupro = region_overlap(maps, masks)
    return replace(metrics, pixel_auroc=pixel_auroc, aupro=aupro)


def _write_tables(folder: Path, records: Sequence[dict[str, Any]], metrics: Metrics | None) -> None:
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "results.jsonl").write_text(lines, encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(asdict(metrics), indent=2) + "\n", encoding="utf-8")


def _write_basis(folder: Path, fitted: FittedDetector, reader: Reader) -> None:
    """Write what the results stand on: the threshold and the scores that it was set on, and how pictures were read."""
    content = {
        "version": 1,
        "threshold": _rounded(fitted.threshold.value),
        "false_alarms": fitted.threshold.asked,
        "good_scores": [_rounded(score) for score in fitted.scores],
        **reader._asdict(),
    }
    (folder / "detection.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _note(run: TrainedRun, out: Path, sources: Sequence[Path], pictures: int) -> None:
    """Note in the run's folder where results and pictures are, as seen from there: both may be moved together."""

    def seen(path: Path) -> str:
        try:
            return os.path.relpath(path, run.path)
        except ValueError:  # another drive
            return os.path.abspath(path)  # noqa: PTH100  # `resolve` would follow links

    folders = {os.path.abspath(source if source.is_dir() else source.parent): None for source in sources}  # noqa: PTH100
    if len(folders) > _MOST_FOLDERS:
        folders = {os.path.commonpath(folders): None}
    entry = {
        "out": seen(out),
        "working_folder": seen(Path()),
        "sources": [seen(Path(folder)) for folder in folders],
        "pictures": pictures,
        "time": round(time.time()),
    }
    with contextlib.suppress(OSError), (run.path / "detections.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")  # of a run that may only be read, the results are as good without it


def _write_figures(
    folder: Path,
    records: Sequence[dict[str, Any]],
    truth: Truth,
    run: TrainedRun,
    fitted: FittedDetector,
    pictures: Pictures,
    reader: Reader,
) -> None:
    threshold = fitted.threshold.value
    scored = [place for place, record in enumerate(records) if record["pred_score"] is not None]
    if not scored:
        return
    results = [
        Detection(record["path"], record["pred_score"], threshold, None, record["map_max"]) for record in records
    ]
    found = Detections(tuple(results), threshold, pictures, reader)
    for judged in judge(run, fitted, pictures, reader, found.worst[:12]):
        results[judged.place] = judged.result
    figure = Detections(tuple(results), threshold, pictures, reader).figure()
    figure.savefig(folder / "overview.png", format="png")
    kinds = {None: "images", False: "normal", True: "anomalous"}
    scores: dict[str, list[float]] = {}
    for place in scored:
        scores.setdefault(kinds[truth.anomalous[place]], []).append(records[place]["pred_score"])
    figures.score_histogram(scores, threshold).savefig(folder / "scores.png", format="png")


def _told(
    records: Sequence[dict[str, Any]], fitted: FittedDetector, metrics: Metrics | None, pictures: Pictures
) -> DetectedFiles:
    labels = [record["pred_label"] for record in records]
    scored = sorted(
        ((record["path"], record["pred_score"]) for record in records if record["pred_score"] is not None),
        key=lambda pair: -pair[1],
    )
    return DetectedFiles(
        anomalous=labels.count("anomalous"),
        normal=labels.count("normal"),
        unjudged=labels.count(None),
        worst=tuple(scored[:5]),
        fitted=fitted,
        metrics=metrics,
        skipped=(*pictures.skipped, *(Skipped(r["path"], r["reason"]) for r in records if r["pred_score"] is None)),
    )
