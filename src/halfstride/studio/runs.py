"""The runs in a folder: what they learned, what their latent space looks like, what a code decodes to."""

from __future__ import annotations

import copy
import json
import math
import threading
import warnings
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from halfstride import UnevenKernelWarning, diagnose, figures
from halfstride.autoencoder import ConvAutoencoder, ImageOptions, Run, reconstruct, to_float
from halfstride.checkerboard import Diagnosis
from halfstride.studio.pictures import Picture, error_map, picture

__all__ = ["DamagedRunError", "OpenRun", "RunsFolder", "UnknownRunError"]

_MODELS_KEPT = 2
_IMAGES_SHOWN = 1_000
_SLIDERS = 32
_EXAMINED = 256
"""Images that the checkerboard doctor looks at: enough to find a pattern of half a percent."""
_EXAMINED_CELLS = 2**25
"""Numbers that they may have in the model's first layer, which bounds the memory that a diagnosis takes."""
_LOADED_BYTES = 2**28
"""Images beyond these are read from their files as they are needed."""
_LARGEST_MODEL = 2**31
_LARGEST_TEXT = 2**24
_LARGEST_ACTIVATION = 2**28

_Stamp = tuple[tuple[int, ...], ...]


class UnknownRunError(Exception):
    """There is no such run in the folder."""


class DamagedRunError(Exception):
    """A run's files are not what a training writes, or more than can be shown."""


class Epoch(BaseModel):
    """One line of `metrics.jsonl`."""

    epoch: int
    train_mse: float | None
    test_mse: float | None
    test_psnr: float | None
    test_ssim: float | None = None
    seconds: float | None = None


class Progress(BaseModel):
    """How far a run is: what changes while it trains."""

    metrics: list[Epoch] = Field(description="Of every finished epoch.")
    model: str | None = Field(description="The version of its model; null where there is none yet.")


class RunSummary(BaseModel):
    name: str
    epochs_done: int
    epochs_asked: int | None
    test_mse: float | None
    error: str | None = Field(description="Why it cannot be opened.")


class RunDetails(BaseModel):
    """A run, its model and its metrics so far."""

    name: str
    image_shape: list[int] = Field(description="Channels, height and width.")
    latent_shape: list[int]
    parameters: int
    upsampling: str
    epochs_asked: int | None
    source: str | None = Field(description="Where its images came from.")
    metrics: list[Epoch]


class Reconstruction(BaseModel):
    index: int | None = Field(None, description="Which of the test images; none of them for an uploaded picture.")
    label: str | None = None
    original: Picture
    reconstruction: Picture
    difference: Picture = Field(description="Absolute difference: black is none.")
    mse: float = Field(description="Mean squared error of values in [0, 1].")


class Slider(BaseModel):
    """One number of the code, and the range that most images have it in."""

    index: int
    low: float
    high: float


class LatentSpace(BaseModel):
    """The test images' codes in a plane."""

    points: list[tuple[float, float]]
    labels: list[int] | None
    classes: list[str] | None
    axes: tuple[str, str]
    extent: tuple[float, float, float, float] = Field(description="Left, right, bottom, top of all points.")
    code: list[float] = Field(description="The middle: the mean of all codes.")
    sliders: list[Slider] = Field(description="Those that vary most, at most 32.")


class Decoded(BaseModel):
    code: list[float]
    point: tuple[float, float] = Field(description="Where the code lies in the plane.")
    image: Picture


class RunsFolder:
    """All runs in one folder, or the one run that the folder is."""

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else root.resolve()
        self._open: OrderedDict[str, OpenRun] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The runs' names. A link that leads out of the folder is not followed."""
        return sorted(self._paths())

    def _paths(self) -> dict[str, Path]:
        if self.root is None or not self.root.is_dir():
            return {}
        if (self.root / "run.json").is_file():
            return {self.root.name: self.root} if self._inside(self.root) else {}
        return {
            path.name: path
            for path in self.root.iterdir()
            if not path.name.startswith(".")
            and path.name.isprintable()
            and (path / "run.json").is_file()
            and self._inside(path)
        }

    def _inside(self, run: Path) -> bool:
        assert self.root is not None
        files = ("run.json", "config.json", "model.safetensors", "metrics.jsonl")
        return all((run / name).resolve().is_relative_to(self.root) for name in files)

    def summaries(self) -> list[RunSummary]:
        found = []
        for name in self.names():
            try:
                run = self.run(name)
                metrics = _metrics(run)
                found.append(
                    RunSummary(
                        name=name,
                        epochs_done=len(metrics),
                        epochs_asked=_epochs_asked(run),
                        test_mse=metrics[-1].test_mse if metrics else None,
                        error=None,
                    )
                )
            except DamagedRunError as error:
                found.append(RunSummary(name=name, epochs_done=0, epochs_asked=None, test_mse=None, error=str(error)))
        return found

    def run(self, name: str) -> Run:
        """One of the folder's runs; a name is looked up among those found, never made into a path.

        Raises:
            UnknownRunError: where there is none of this name.
        """
        path = self._paths().get(name)
        if path is None:
            raise UnknownRunError(f"`run` (={name[:200]!r}) is not in the runs folder.")
        for file, most in (("run.json", _LARGEST_TEXT), ("config.json", 2**16), ("metrics.jsonl", _LARGEST_TEXT)):
            _check_file_size(path / file, most)
        return Run(path)

    def details(self, name: str) -> RunDetails:
        run = self.run(name)
        opened = self.open(name)
        model = opened.model
        source = _record(run).get("data")
        return RunDetails(
            name=name,
            image_shape=[model.channels, *model.image_size],
            latent_shape=list(model.latent_shape),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            upsampling=model.upsampling,
            epochs_asked=_epochs_asked(run),
            source=str(source.get("source")) if isinstance(source, dict) else None,
            metrics=_metrics(run),
        )

    def progress(self, name: str) -> Progress:
        run = self.run(name)
        # The model first: of one that is written in between, the next answer says that it is another.
        stamp = _stamp(run.path)
        return Progress(metrics=_metrics(run), model=None if stamp is None else str(hash(stamp)))

    def open(self, name: str) -> OpenRun:
        """A run with its model loaded; the last two stay in memory, and one that went on training is loaded anew."""
        with self._lock:
            kept = self._open.get(name)
            if kept is not None and kept.stamp == _stamp(kept.path):  # a drag does not search the folder every time
                self._open.move_to_end(name)
                return kept
        run = self.run(name)
        stamp = _stamp(run.path)
        if stamp is None:
            raise DamagedRunError(f"{name} has no model yet.")
        with self._lock:
            kept = self._open.pop(name, None)
            if kept is None or kept.stamp != stamp:
                kept = OpenRun(run, stamp, earlier=kept)
            self._open[name] = kept
            while len(self._open) > _MODELS_KEPT:
                self._open.popitem(last=False)
            return kept


class OpenRun:
    """A run's model, and the test images it is looked at with.

    Args:
        run: the run.
        stamp: the version of its files.
        earlier: the same run before it was trained further, whose images are taken over.
    """

    def __init__(self, run: Run, stamp: _Stamp, earlier: OpenRun | None = None) -> None:
        self.path, self.stamp = run.path, stamp
        self.model = _load_model(run)
        self.recipe = _record(run).get("data")
        self._lock = threading.Lock()
        if earlier is not None and earlier.recipe == self.recipe and "_images" in vars(earlier):
            vars(self)["_images"] = earlier._images

    @property
    def images(self) -> tuple[Tensor, list[int] | None, list[str] | None]:
        """Test images N×C×H×W as uint8, their labels and the classes' names."""
        with self._lock:
            return self._images

    @cached_property
    def _images(self) -> tuple[Tensor, list[int] | None, list[str] | None]:
        if not isinstance(self.recipe, dict):
            raise DamagedRunError(
                "The run does not say where its images came from (`data` of `train`), so there are none to show: drop "
                "a picture of your own."
            )
        try:
            loaded = ImageOptions.from_record(self.recipe).load(memory_limit=_LOADED_BYTES)
            most = max(1, min(_IMAGES_SHOWN, _LOADED_BYTES // math.prod(loaded.shape)))
            shown = loaded.test.images[:most] if loaded.test.images is not None else next(loaded.test.batches(most))
        except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
            raise DamagedRunError(f"The run's images cannot be read: {_one_line(error)}") from None
        if tuple(shown.shape[1:]) != (self.model.channels, *self.model.image_size):
            raise DamagedRunError("The run's images have another size than its model takes; drop one of your own.")
        labels = None if loaded.test.labels is None else loaded.test.labels[: len(shown)].tolist()
        return shown.clone(), labels, None if loaded.classes is None else list(loaded.classes)

    @cached_property
    @torch.inference_mode()
    def _codes(self) -> np.ndarray:
        images, _, _ = self.images
        codes = [self.model.encode(to_float(batch)).flatten(1) for batch in torch.split(images, 256)]
        return torch.cat(codes).double().numpy()

    @cached_property
    def _plane(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
        """The codes in their principal plane, and the way back: code = middle + point · directions."""
        points, shares = figures.principal_plane(self._codes)
        # Components are uncorrelated and of mean zero, so that fitting the codes by them gives the directions exactly.
        design = np.column_stack([points, np.ones(len(points))])
        fitted, *_ = np.linalg.lstsq(design, self._codes, rcond=None)
        return points, fitted[2], fitted[:2], shares

    def reconstructions(self, start: int, count: int) -> list[Reconstruction]:
        """Test images beside what came back.

        Raises:
            ValueError: where there are not so many.
        """
        images, labels, classes = self.images
        if start >= len(images):
            raise ValueError(f"`start` (={start}) is beyond the {len(images)} images that are shown.")
        originals = images[start : start + count]
        outputs = reconstruct(self.model, originals)
        found = []
        for place, (original, output) in enumerate(zip(originals, outputs, strict=True), start):
            label = None if labels is None else classes[labels[place]] if classes else str(labels[place])
            found.append(_compared(original, output, place, label))
        return found

    def reconstruct(self, image: Tensor) -> Reconstruction:
        return _compared(image, reconstruct(self.model, image[None])[0])

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the checkerboard doctor says of the model; a copy of it, since it is watched while it runs."""
        images, _, _ = self.images
        first = next(parameter for parameter in self.model.parameters() if parameter.ndim == 4)
        count = min(_EXAMINED, max(1, _EXAMINED_CELLS // (math.prod(self.model.image_size) * len(first))))
        try:
            return diagnose(copy.deepcopy(self.model), to_float(images[:count]))
        except ValueError as error:
            raise DamagedRunError(_one_line(error)) from None

    def latent(self) -> LatentSpace:
        points, _, _, shares = self._plane
        _, labels, classes = self.images
        codes = self._codes
        low, high = np.quantile(codes, (0.01, 0.99), axis=0)
        shown = np.sort(np.argsort(-codes.var(axis=0), kind="stable")[:_SLIDERS])
        if codes.shape[1] <= 2:
            names = "latent 1", "latent 2"
        else:
            first, second = (f"principal component {axis} ({shares[axis - 1]:.0%} of the variance)" for axis in (1, 2))
            names = first, second
        (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
        return LatentSpace(
            points=points.tolist(),
            labels=labels,
            classes=classes,
            axes=names,
            extent=(left, right, bottom, top),
            code=codes.mean(axis=0).tolist(),
            sliders=[Slider(index=i, low=low[i], high=high[i]) for i in shown],
        )

    def decode_point(self, point: tuple[float, float]) -> Decoded:
        """Decode a point of the plane."""
        _, middle, directions, _ = self._plane
        return self.decode_codes(np.array([middle + np.array(point) @ directions]))[0]

    def decode_image(self, index: int) -> Decoded:
        """Decode the code of a test image.

        Raises:
            ValueError: where there is no such image.
        """
        self._check_index("index", index)
        return self.decode_codes(self._codes[index : index + 1])[0]

    def walk(self, start: int, end: int, steps: int) -> list[Decoded]:
        """Decode codes on the straight line from one test image's to another's, both ends included.

        Raises:
            ValueError: where there are no such images.
        """
        self._check_index("start", start)
        self._check_index("end", end)
        return self.decode_codes(np.linspace(self._codes[start], self._codes[end], steps))

    @torch.inference_mode()
    def decode_codes(self, codes: np.ndarray) -> list[Decoded]:
        """Decode codes, one per row.

        Raises:
            ValueError: where they have another length than the model's.
        """
        length = math.prod(self.model.latent_shape)
        if codes.shape[1] != length:
            raise ValueError(f"`code` (of {codes.shape[1]} numbers) must have the {length} of this model's latent.")
        latents = torch.from_numpy(codes).float().reshape(-1, *self.model.latent_shape)
        images = self.model.decode(latents).mul(255).round().to(torch.uint8)
        if codes.shape[1] <= 2:
            points = np.column_stack([codes, np.zeros((len(codes), 2 - codes.shape[1]))])
        else:
            _, middle, directions, _ = self._plane
            points = (codes - middle) @ directions.T  # directions are orthonormal
        return [
            Decoded(code=code.tolist(), point=(point[0], point[1]), image=picture(image))
            for code, point, image in zip(codes, points, images, strict=True)
        ]

    def _check_index(self, name: str, index: int) -> None:
        images, _, _ = self.images
        if index >= len(images):
            raise ValueError(f"`{name}` (={index}) is beyond the {len(images)} images that are shown.")


def _compared(original: Tensor, output: Tensor, index: int | None = None, label: str | None = None) -> Reconstruction:
    error = (to_float(original[None]) - to_float(output[None])).square().mean().item()
    return Reconstruction(
        index=index,
        label=label,
        original=picture(original),
        reconstruction=picture(output),
        difference=error_map(original, output),
        mse=error,
    )


# Reading files that anyone may have written -----------------------------------------------------------------------


def _stamp(run: Path) -> _Stamp | None:
    """Which files a run's model and record are, and of which version; None where one is not there."""
    try:
        found = [(run / file).stat() for file in ("config.json", "model.safetensors", "run.json")]
    except OSError:
        return None
    return tuple((one.st_dev, one.st_ino, one.st_mtime_ns) for one in found)


def _check_file_size(path: Path, most: int) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size > most:
        raise DamagedRunError(f"{path.name} has {size:,} bytes: at most {most:,} are read.")


def _record(run: Run) -> dict[str, Any]:
    try:
        return run.record
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRunError(_one_line(error)) from None


def _epochs_asked(run: Run) -> int | None:
    training = _record(run).get("training")
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return epochs if isinstance(epochs, int) else None


def _metrics(run: Run) -> list[Epoch]:
    try:
        return [Epoch.model_validate(entry) for entry in run.metrics]
    except ValidationError as error:
        raise DamagedRunError(f"metrics.jsonl is damaged: {_one_line(error)}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRunError(_one_line(error)) from None


def _load_model(run: Run) -> ConvAutoencoder:
    """The model, unless it is so large that looking at it would fill the memory."""
    _check_file_size(run.path / "model.safetensors", _LARGEST_MODEL)
    try:
        config = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"), warnings.catch_warnings():  # weighs nothing: its sizes can be looked at first
            warnings.simplefilter("ignore", UnevenKernelWarning)  # whoever trained it has been told
            sketch = ConvAutoencoder(**config)
        weights = sum(parameter.numel() for parameter in sketch.parameters())
        channels = max(parameter.shape[0] for parameter in sketch.parameters() if parameter.ndim == 4)
        activations = math.prod(sketch.image_size) * channels
        if 4 * weights > _LARGEST_MODEL or activations > _LARGEST_ACTIVATION:
            raise DamagedRunError(f"The model of {run.path.name} is too large to be shown: {weights:,} weights.")
        return run.load_model()
    except (ValueError, TypeError, OSError, RuntimeError, OverflowError) as error:
        raise DamagedRunError(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
