"""Judged pictures to look at: those that `halfstride detect` has written, and a run's test images, judged here."""

from __future__ import annotations

import base64
import io
import shlex
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field

from halfstride.autoencoder import Run
from halfstride.autoencoder.images import ImageError, decode
from halfstride.autoencoder.images.decoding import WHITE, Fit, inspect
from halfstride.autoencoder.images.formats import printable
from halfstride.figures.detection import map_at_size, overlaid, scale_top
from halfstride.studio.detection_notes import Finite, Note, absolute, folder_id, read_notes
from halfstride.studio.errors import StudioError
from halfstride.studio.open_run import OpenRun
from halfstride.studio.pictures import Picture, picture, shades
from halfstride.studio.responses import Work
from halfstride.studio.run_files import image_options, read_record, reading, stamp, why_not_run
from halfstride.studio.runs_folder import MODEL_FILES, RunsFolder
from halfstride.tasks import TrainedRun, detect
from halfstride.tasks.detection.detector import load_detector
from halfstride.tasks.detection.truth import labels_by_folder

TEST_IMAGES = "test"
"""The `id` of a run's test images, judged here."""

_DETECTOR = ("detector.json", "detector.safetensors")
_RESULTS = ("results.jsonl", "detection.json")
_LARGEST = 2**25
"""Bytes of a file of results and of an anomaly map."""
_MOST = 50_000
"""Pictures of one result."""
_KEPT = 3
_LARGEST_SIDE, _SMALL_SIDE = 768, 160
"""Pixels along the longer side of a picture that is sent to the page, and of one in its gallery."""
_ENLARGED = 320
"""Pixels along the longer side to which a map is interpolated, at least."""

Side = Annotated[int, Field(ge=1, le=2**14)]


# Answers -------------------------------------------------------------------------------------------------------------


class Result(BaseModel):
    """Pictures that were judged, or can be."""

    id: str
    name: str
    pictures: int | None = None
    time: float | None = Field(None, description="When they were judged, in seconds since 1970.")


class Results(BaseModel):
    """What of a run can be looked at, and what makes more of it."""

    results: list[Result] = Field(description="The newest first, the test images last.")
    missing: str | None = Field(description="Why the run cannot judge its test images, in a sentence.")
    command: str = Field(description="What fits a detector or, where there is one, judges pictures.")


class Judged(BaseModel):
    """Judged pictures, in the order in which they were judged."""

    name: str
    key: str = Field(description="What tells these results from all others, to keep labels by.")
    version: str = Field(description="Changes with the files.")
    paths: list[str]
    scores: list[float | None] = Field(description="null where a picture could not be read.")
    labelled: list[bool] = Field(description="Whether the detector gave a label, which another threshold may change.")
    known: list[bool | None] = Field(description="Whether they are anomalous, where their folders tell.")
    reasons: list[str] = Field(description="Why there is no label.")
    threshold: float
    good_scores: list[float] = Field(description="Of the good images that the threshold was set on, ascending.")
    scale: float = Field(description="The end of the scale of all maps, which begins at 0.")
    colours: str = Field(description="Base64 of 256 × 3 bytes, the colours of the scale.")


class AnomalyMap(BaseModel):
    """An anomaly map at an integer multiple of its picture's size."""

    height: int
    width: int
    low: float
    high: float
    values: str = Field(description="Base64 of height × width 16-bit integers, little-endian, from low to high.")


class Found(BaseModel):
    """A picture as the model saw it, and what was found in it."""

    picture: Picture
    map: AnomalyMap | None


# Files ---------------------------------------------------------------------------------------------------------------


class _Basis(BaseModel):
    """`detection.json` in a folder of results."""

    threshold: Finite
    good_scores: list[Finite] = Field(min_length=1)
    channels: int = Field(ge=1, le=3)
    size: tuple[Side, Side] | None
    fit: Fit
    white: int = Field(ge=1, le=WHITE)


class _Row(BaseModel):
    """A line of `results.jsonl`."""

    path: str
    pred_score: Finite | None
    pred_label: str | None
    gt_label: str | None
    map_path: str
    reason: str


class Judgements:
    """The judged pictures of runs; the last ones that were looked at stay in memory.

    Args:
        runs: the folder of runs.
    """

    def __init__(self, runs: RunsFolder) -> None:
        self.runs = runs
        self._open: OrderedDict[tuple[str, str], Judgement] = OrderedDict()
        self._lock = threading.Lock()

    def results(self, name: str) -> Results:
        """Tell what there is to look at. Nothing outside the runs folder is read for it."""
        run = self.runs.run(name)
        found = [
            Result(id=note.id, name=_told(note.out), pictures=note.pictures, time=note.time) for note in read_notes(run)
        ]
        path = shlex.quote(_told(run.path))
        if not all((run.path / file).is_file() for file in _DETECTOR):
            return Results(
                results=found,
                missing="This run has no detector: fit one to good pictures by this command.",
                command=f"halfstride fit-detector {path}",
            )
        missing = why_not_run(read_record(run))
        if missing is None:
            found.append(Result(id=TEST_IMAGES, name="test images", time=None))
        return Results(results=found, missing=missing, command=f"halfstride detect {path} PICTURES/ --out found/")

    def open(self, name: str, which: str) -> Judgement:
        """Return judged pictures; test images are judged now, if they were not before.

        Raises:
            ForeignSourceError: where they are outside the runs folder and not allowed.
            StudioError: where there are none of this `id`, or their files are damaged.
        """
        with self._lock:
            kept = self._open.get((name, which))
            if kept is not None and kept.is_current():  # a page asks for many pictures
                self._open.move_to_end((name, which))
                return kept
        run = self.runs.run(name)
        opened: Judgement
        if which == TEST_IMAGES:
            opened = _TestImages(run, self.runs.open(name))
        else:
            note = next((note for note in read_notes(run) if note.id == which), None)
            if note is None:
                raise StudioError(404, f"`result` (={which[:100]!r}) is not among the results of {name}.")
            self.runs.sources.check_folders(note.folders)
            opened = _ResultFolder(note)
        with self._lock:
            self._open[name, which] = opened
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
        return opened


def _told(path: Path) -> str:
    """Return a path as a person at the server's folder would write it."""
    here = Path.cwd()
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path), 1000)


# Judged pictures -----------------------------------------------------------------------------------------------------


class Judgement(ABC):
    """Judged pictures, wherever they come from.

    Args:
        folder: where the files lie that they depend on.
        files: their names.
    """

    answer: Judged

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder, self.files, self.stamp = folder, files, stamp(folder, *files)

    def is_current(self) -> bool:
        """Whether the files are still the same."""
        return self.stamp == stamp(self.folder, *self.files)

    @abstractmethod
    def _image(self, place: int, most: int) -> np.ndarray:
        """A picture H×W×C as the model saw it, smaller where its longer side has more than so many pixels."""

    @abstractmethod
    def _map(self, place: int) -> np.ndarray | None:
        """Its anomaly map, h×w; None where there is none."""

    def found(self, place: int) -> Found:
        """Return a picture, and what was found in it."""
        image, values = self._shown(place, _LARGEST_SIDE), self._map(place)
        times = max(1, round(_ENLARGED / max(image.shape[:2])))
        return Found(
            picture=picture(torch.from_numpy(image).movedim(-1, 0)),
            map=None if values is None else _sent(map_at_size(values, tuple(times * side for side in image.shape[:2]))),
        )

    def thumbnail(self, place: int, *, plain: bool) -> bytes:
        """Return a small picture as a PNG file, with its map over it unless it is to be plain."""
        from PIL import Image

        image = self._shown(place, _SMALL_SIDE)
        times = max(1, round(_SMALL_SIDE / max(image.shape[:2])))
        pixels = image.repeat(times, 0).repeat(times, 1)
        if not plain and (values := self._map(place)) is not None:
            pixels = overlaid(pixels, values, self.answer.threshold)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="png", compress_level=1)
        return file.getvalue()

    def _shown(self, place: int, most: int) -> np.ndarray:
        """A picture H×W×3."""
        paths = self.answer.paths
        if place >= len(paths):
            raise StudioError(404, f"`place` (={place}) is beyond the {len(paths):,} pictures.")
        try:
            image = self._image(place, most)
        except ImageError as error:
            raise StudioError(409, f"{printable(paths[place])} {error.reason}.") from None
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))

    def _judged_by(self, threshold: float, good_scores: Sequence[float]) -> dict[str, Any]:
        return {
            "version": str(hash(self.stamp)),
            "threshold": threshold,
            "good_scores": sorted(good_scores),
            "scale": scale_top(threshold),
            "colours": base64.b64encode(shades().tobytes()).decode(),
        }


class _ResultFolder(Judgement):
    """What `detect` has written into a folder."""

    def __init__(self, note: Note) -> None:
        out, self.note = note.out, note
        super().__init__(out, _RESULTS)
        if self.stamp is None:
            raise StudioError(409, f"{_told(out)} holds no results of detect: it was moved or deleted since.")
        with reading("detection.json"):
            self.basis = basis = _Basis.model_validate_json(_content(out / "detection.json"))
        with reading("results.jsonl"):
            lines = _content(out / "results.jsonl").splitlines()
            if len(lines) > _MOST:
                raise ValueError(f"it has {len(lines):,} pictures: at most {_MOST:,} are shown")
            self.rows = rows = [_Row.model_validate_json(line) for line in lines]
        self.answer = Judged(
            name=_told(out),
            key=note.id,
            paths=[row.path for row in rows],
            scores=[row.pred_score for row in rows],
            labelled=[row.pred_label is not None for row in rows],
            known=[None if row.gt_label is None else row.gt_label == "anomalous" for row in rows],
            reasons=[row.reason for row in rows],
            **self._judged_by(basis.threshold, basis.good_scores),
        )

    def _image(self, place: int, most: int) -> np.ndarray:
        path = absolute(self.note.working_folder / self.rows[place].path)
        if not any(path.is_relative_to(folder) for folder in self.note.sources):
            raise ImageError("is not in the folders that were judged")
        basis = self.basis
        size = inspect(path)[:2] if basis.size is None else basis.size
        fit: Fit = "stretch" if basis.size is None else basis.fit
        return decode(path, (basis.channels, *_within(size, most)), fit, basis.white).movedim(0, -1).numpy()

    def _map(self, place: int) -> np.ndarray | None:
        row = self.rows[place]
        if not row.map_path:
            return None
        path = absolute(self.folder / row.map_path).with_suffix(".npy")
        with reading(f"The anomaly map of {printable(row.path)}"):
            if not path.is_relative_to(self.folder):
                raise ValueError("it is not in the folder of results.")
            values = np.load(io.BytesIO(_content(path)), allow_pickle=False)
            if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
                raise ValueError(f"{path.name} is not a map.")
            finite: np.ndarray = np.nan_to_num(values.astype(np.float32))
            return finite


class _TestImages(Judgement):
    """A run's test images, judged by its detector."""

    def __init__(self, run: Run, opened: OpenRun) -> None:
        super().__init__(run.path, (*MODEL_FILES, *_DETECTOR))
        shown, network = opened.shown, opened.model.network

        def note(what: str, done: int, total: int) -> None:
            opened.work = Work(what=what, done=done, total=total)

        with reading("The detector"):
            fitted = load_detector(network, run.path)
            try:
                found = detect(TrainedRun(run, network, torch.device("cpu")), shown.targets, progress=note)
            finally:
                opened.work = None
        self.images, self.results = shown.targets, found.results
        options = image_options(opened.record)
        source = "" if options is None or options.source is None else options.source
        names = shown.names or [f"test image {place}" for place in range(len(self.images))]
        if Path(source).is_dir():  # it was allowed before its images were read
            names = [str(Path(source) / name) for name in names]
        self.answer = Judged(
            name="test images",
            key=folder_id(run.path),
            paths=names,
            scores=[result.pred_score for result in found.results],
            labelled=[result.pred_label is not None for result in found.results],
            known=labels_by_folder(names),
            reasons=[result.reason for result in found.results],
            **self._judged_by(found.threshold, fitted.scores),
        )

    def _image(self, place: int, most: int) -> np.ndarray:
        image = self.images[place]
        size = _within((image.shape[1], image.shape[2]), most)
        return decode(image.movedim(0, -1).numpy(), (len(image), *size), "stretch").movedim(0, -1).numpy()

    def _map(self, place: int) -> np.ndarray | None:
        return self.results[place].anomaly_map


def _content(path: Path) -> bytes:
    """Return what is in a file of results, unless it is larger than any that `detect` writes."""
    if path.exists() and not path.is_file():  # a pipe would be waited for for ever
        raise ValueError(f"{path.name} is not a file.")
    if (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"{path.name} has {size:,} bytes: at most {_LARGEST:,} are read.")
    return path.read_bytes()


def _within(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Return height and width, reduced so that neither is more."""
    share = min(1.0, most / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _sent(values: np.ndarray) -> AnomalyMap:
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1.0) * 65_535).astype("<u2")
    height, width = values.shape
    return AnomalyMap(height=height, width=width, low=low, high=high, values=base64.b64encode(steps.tobytes()).decode())
