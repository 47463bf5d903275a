"""The runs in a folder, and those whose models are loaded."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from halfstride.autoencoder import Run
from halfstride.studio.detection_notes import read_notes
from halfstride.studio.errors import StudioError
from halfstride.studio.open_run import OpenRun
from halfstride.studio.responses import Progress, RunDetails, RunSummary, Scoring, Work
from halfstride.studio.run_files import (
    Stamp,
    check_sizes,
    check_weights,
    data_of,
    encoder_of,
    image_options,
    read_evaluation,
    read_metrics,
    read_record,
    read_stages,
    sketch_model,
    stamp,
    why_not_run,
)
from halfstride.studio.sources import Sources

_MODELS_KEPT = 2
MODEL_FILES = ("config.json", "model.safetensors", "run.json")
_READ = (
    *MODEL_FILES, "metrics.jsonl", "evaluation.json", "detector.json", "detector.safetensors", "detections.jsonl",
)  # fmt: skip
_LARGEST_PICTURE = 2**25


class RunsFolder:
    """All runs in one folder, or the one run that the folder is."""

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else root.resolve()
        self.sources = Sources(self.root)
        self._open: OrderedDict[str, OpenRun] = OrderedDict()
        self._summaries: dict[str, tuple[tuple[Stamp | None, ...], RunSummary]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the runs' names. Links that lead out of the folder are not followed."""
        return sorted(self._paths())

    def _paths(self) -> dict[str, Path]:
        if self.root is None or not self.root.is_dir():
            return {}
        if (self.root / "run.json").is_file():
            return {self.root.name: self.root} if self._inside(self.root) else {}
        return {
            path.name: path
            for path in self.root.iterdir()
            if not path.name.startswith(".") and path.name.isprintable()
            if (path / "run.json").is_file() and self._inside(path)
        }

    def _inside(self, run: Path) -> bool:
        assert self.root is not None
        return all((run / name).resolve().is_relative_to(self.root) for name in _READ)

    def summaries(self) -> list[RunSummary]:
        """Describe all runs by their files; what has not changed since the last time is not read again."""
        found, known = {}, self._summaries
        for name, path in sorted(self._paths().items()):
            stamps = tuple(stamp(path, file) for file in _READ)
            found[name] = known[name] if name in known and known[name][0] == stamps else (stamps, _summary(name, path))
        self._summaries = found
        return [summary for _, summary in found.values()]

    def run(self, name: str) -> Run:
        """Return one of the folder's runs. A name is looked up among those found and never used as a path.

        Raises:
            StudioError: where there is none of this name.
        """
        path = self._paths().get(name)
        if path is None:
            raise StudioError(
                404,
                f"`run` (={name[:200]!r}) is not in the runs folder: it was moved, renamed or deleted. Choose another.",
            )
        check_sizes(path)
        return Run(path)

    def details(self, name: str) -> RunDetails:
        """Describe a run and its model; where the encoder is the user's own, only what its files state."""
        run = self.run(name)
        record = read_record(run)
        data, training = (found if isinstance(found := record.get(key), dict) else {} for key in ("data", "training"))
        size = data.get("size")
        shape = [data.get("channels"), *(size if isinstance(size, list) else [])]
        why = why_not_run(record)
        found = RunDetails(
            name=name,
            image_shape=shape if len(shape) == 3 and all(isinstance(side, int) for side in shape) else None,
            source=None if data.get("source") is None else str(data["source"]),
            corruption=str(training.get("corruption") or ""),
            paired=data.get("clean") is not None,
            encoder=encoder_of(record),
            not_run=why,
            pictures=sorted(self._pictures(run)),
        )
        if why is None:
            network, size, latent_shape, _ = self.open(name).model
            found.image_shape = [network.channels, *size]
            found.latent_shape = list(latent_shape)
            found.variational = network.variational
            found.parameters = sum(parameter.numel() for parameter in network.parameters())
            found.upsampling = network.upsampling
            found.fit = self.open(name).preparation.fit
        return found

    def progress(self, name: str) -> Progress:
        run = self.run(name)
        # The model first: if a new one is written meanwhile, the next answer has its version.
        files = MODEL_FILES if not why_not_run(read_record(run)) else ("run.json", *sorted(self._pictures(run)))
        model, evaluation = stamp(run.path, *files), stamp(run.path, "evaluation.json")
        metrics = read_metrics(run)
        kept = _kept(metrics)
        return Progress(
            metrics=metrics,
            steps_asked=sum(read_stages(run)),
            kept=None if kept is None else kept.step,
            model=None if model is None else str(hash(model)),
            evaluation=None if evaluation is None else str(hash(evaluation)),
        )

    def work(self, name: str) -> Work | None:
        """Return what is being done with the run's images; None for nothing."""
        kept = self._open.get(name)
        return None if kept is None else kept.work

    def allow(self, name: str, sources: list[str]) -> None:
        """Allow to read the images of a run, or what its detector wrote, where the run says now that they lie."""
        run = self.run(name)
        noted = [folder for found in read_notes(run) for folder in found.folders]
        self.sources.allow(sources, image_options(read_record(run)), noted)

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """Return the evaluation of a run's model; None where there is none yet."""
        return read_evaluation(self.run(name))

    def picture(self, name: str, file: str) -> bytes:
        """Return a PNG file of a run's folder. A name is looked up among those found.

        Raises:
            StudioError: where there is none of this name.
        """
        path = self._pictures(self.run(name)).get(file)
        if path is None:
            raise StudioError(404, f"`file` (={file[:200]!r}) is not a picture of this run.")
        return path.read_bytes()

    def _pictures(self, run: Run) -> dict[str, Path]:
        assert self.root is not None
        return {
            path.name: path
            for path in run.path.glob("*.png")
            if path.name.isprintable() and path.is_file() and path.resolve().is_relative_to(self.root)
            if path.stat().st_size <= _LARGEST_PICTURE
        }

    def open(self, name: str, *, keep: bool = True) -> OpenRun:
        """Return a run with its model loaded; the last two stay in memory, until they are trained further.

        Args:
            name: of the run.
            keep: whether it takes the place of another one that is in memory.

        Raises:
            StudioError: where the run has an encoder of the user's own.
        """
        with self._lock:
            kept = self._open.get(name)
            if kept is not None and kept.stamp == stamp(kept.path, *MODEL_FILES):  # a drag searches no folder
                self._open.move_to_end(name)
                return kept
        run = self.run(name)
        if why := why_not_run(read_record(run)):
            raise StudioError(409, why)
        found = stamp(run.path, *MODEL_FILES)
        if found is None:
            raise StudioError(409, f"{name} has no model yet.")
        if not keep:
            return OpenRun(run, found, self.sources)
        with self._lock:
            kept = self._open.pop(name, None)
            if kept is None or kept.stamp != found:
                kept = OpenRun(run, found, self.sources, earlier=kept)
            self._open[name] = kept
            while len(self._open) > _MODELS_KEPT:
                self._open.popitem(last=False)
            return kept


def _summary(name: str, path: Path) -> RunSummary:
    """Describe a run as far as its files can be read."""
    found = RunSummary(name=name, changed=_changed(path))
    run = Run(path)
    try:
        check_sizes(path)
        record = read_record(run)
        found.data = data_of(run, record)
        training = record.get("training")
        if isinstance(training, dict):
            loss, rate = training.get("loss"), training.get("learning_rate")
            found.loss = loss if isinstance(loss, str) else None
            found.learning_rate = float(rate) if isinstance(rate, int | float) else None
        metrics = read_metrics(run)
        found.steps_done = metrics[-1].step if metrics else 0
        found.steps_asked = sum(read_stages(run))
        if (kept := _kept(metrics) or (metrics[-1] if metrics else None)) is not None:
            found.validation_mse, found.test_mse = kept.validation_mse, kept.test_mse
        if why_not_run(record) is None and stamp(path, *MODEL_FILES) is not None:
            network, size, latent, _ = sketch_model(run, record)
            found.latent = list(latent)
            found.compression = network.channels * math.prod(size) / math.prod(latent)
            check_weights(run)
    except StudioError as error:
        found.error = str(error)
    return found


def _changed(path: Path) -> float | None:
    """Return when a run last changed."""
    stamps = [found for name in _READ if (found := stamp(path, name)) is not None]
    return max((one[0][2] for one in stamps), default=0) / 1e9 or None


def _kept(metrics: list[Scoring]) -> Scoring | None:
    """Return the scoring of the model that is kept: the first with the smallest validation loss."""
    losses = [(one.validation_loss, one.step, one) for one in metrics if one.validation_loss is not None]
    return min((one for one in losses if math.isfinite(one[0])), default=(0.0, 0, None), key=lambda one: one[:2])[2]
