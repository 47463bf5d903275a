"""A run with its model loaded: reconstructions, the latent space, decoded codes, and a diagnosis.

Only a sample of the test images is used: at most 1,000, fewer where images, features or codes are large, so that it
takes seconds and less than a gigabyte.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride import diagnose, figures
from halfstride.autoencoder import Run, TrainingOptions, reconstruct, to_float
from halfstride.autoencoder.images.decoding import WHITE, Preparation
from halfstride.autoencoder.images.formats import printable
from halfstride.autoencoder.images.options import MEMORY_LIMIT
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.training import corruption_of
from halfstride.checkerboard import Diagnosis
from halfstride.studio.errors import StudioError
from halfstride.studio.network import Network, trace
from halfstride.studio.pictures import Picture, error_map, picture
from halfstride.studio.responses import Decoded, ImageRow, LatentSpace, Neighbour, Reconstruction, Slider, Work
from halfstride.studio.run_files import Stamp, image_options, load_model, read_record, reading
from halfstride.studio.sources import Sources
from halfstride.tasks.search import nearest

_IMAGES_SHOWN = 1_000
_SHOWN_BYTES = 2**28
"""Bytes of all images shown, as uint8."""
_SHOWN_CELLS = 2**25
"""Numbers in the model's largest features for all images shown: some seconds of a CPU."""
_SHOWN_NUMBERS = 2**22
"""Numbers in the codes of all images shown."""
_CODE_NUMBERS = 2**12
"""Numbers in the longest code that is sent to the page and back."""
_SLIDERS = 32
_THUMBNAIL = 32
"""Pixels of the longer side of a thumbnail, at most."""
_EXAMINED = 256
"""Images of a diagnosis: enough to find a pattern of half a percent."""
_EXAMINED_CELLS = 2**22
"""Numbers in the model's largest features for these images, which limits the time of a diagnosis: as many pixels in
fewer images are enough."""
_BATCH_CELLS = 2**24
"""The same for one batch."""


class Shown(NamedTuple):
    """The test images that are shown."""

    inputs: Tensor
    """uint8 N×C×H×W, with the run's corruption."""
    targets: Tensor
    """The same tensor, unless the run restores images."""
    labels: list[int] | None
    classes: list[str] | None
    names: list[str] | None
    """Of the files, in printable characters."""
    total: int | None
    """How many test images there are; None for a stream."""


class Plane(NamedTuple):
    """Codes N×D, and the plane in which they differ most: code = middle + point · directions."""

    codes: np.ndarray
    points: np.ndarray
    middle: np.ndarray
    directions: np.ndarray
    shares: tuple[float, float]


class OpenRun:
    """A run's model with the test images that are shown.

    Args:
        run: the run.
        stamp: the version of its files.
        sources: where its images may be read from.
        earlier: the same run before it was trained further, whose images are reused.
    """

    def __init__(self, run: Run, stamp: Stamp, sources: Sources, earlier: OpenRun | None = None) -> None:
        self.path, self.stamp, self._sources = run.path, stamp, sources
        self.work: Work | None = None
        """What is being done with its images, while that goes on."""
        self.record: dict[str, Any] = read_record(run)
        self.model = load_model(run, self.record)
        self._lock = threading.RLock()
        if earlier is not None and earlier._recipe() == self._recipe() and "_shown" in vars(earlier):
            vars(self)["_shown"] = earlier._shown

    def _recipe(self) -> tuple[Any, ...]:
        """Return all that the images shown depend on."""
        return self.record.get("data"), self.record.get("training"), self.model[1:]

    # Images -------------------------------------------------------------------------------------------------------

    @property
    def shown(self) -> Shown:
        """The test images that are shown."""
        with self._lock:  # a page sends several requests at once, which all need them
            try:
                return self._shown
            finally:
                self.work = None

    def _note(self, what: str, done: int, total: int | None) -> None:
        self.work = Work(what=what, done=done, total=total)

    @cached_property
    def _shown(self) -> Shown:
        options = image_options(self.record)
        if options is None or options.source is None:
            raise StudioError(
                409, "The run's images were passed as arrays and are not stored: upload a picture of your own."
            )
        self._sources.check(options)
        network, *_ = self.model
        with reading("The run's images cannot be read"):
            # Data sets and .npz files must be loaded as for the training, or the test images would be others; of all
            # else the sample is read alone.
            whole = str(options.source).startswith("hub:") or str(options.source).endswith(".npz")
            loaded = options.load(memory_limit=MEMORY_LIMIT if whole else 0, progress=self._note)
            if loaded.shape != (network.channels, *self.model.image_size):
                raise StudioError(
                    409, "The run's images have another size than its model takes: upload a picture of your own."
                )
            bounds = (
                _SHOWN_BYTES // (math.prod(loaded.shape) * 2),
                _SHOWN_CELLS // self.model.cells,
                _SHOWN_NUMBERS // math.prod(self.model.latent_shape),
            )
            self.work = Work(what="decoding", done=0, total=None)
            sample = loaded.test.sample(max(1, min(_IMAGES_SHOWN, *bounds)))
            inputs, targets = self._corrupted(*inputs_and_targets(sample.images))
        labels = None if sample.labels is None else sample.labels.tolist()
        classes = None if loaded.classes is None else list(loaded.classes)
        names = None if sample.names is None else [printable(name) for name in sample.names]
        return Shown(inputs, targets, labels, classes, names, loaded.test.size)

    def _corrupted(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, the inputs with the run's corruption, rounded to uint8."""
        corrupt = corruption_of(TrainingOptions.from_record(self.record.get("training")))
        if corrupt is None:
            return inputs, targets
        changed = torch.empty_like(inputs)
        for places in self._batches(len(inputs)):
            changed[places] = corrupt(to_float(inputs[places]), places.start).mul(255).round().to(torch.uint8)
        return changed, targets

    def _batches(self, count: int) -> Iterator[slice]:
        """Return the batches, in order."""
        size = min(256, max(1, _BATCH_CELLS // self.model.cells))
        return (slice(start, start + size) for start in range(0, count, size))

    def reconstructions(self, start: int, count: int) -> list[Reconstruction]:
        """Return test images with their reconstructions."""
        self._check_index("start", start)
        outputs = self._reconstructed(self.shown.inputs[start : start + count])
        return [self._beside(index, output) for index, output in enumerate(outputs, start)]

    def reconstructed_by(self, other: OpenRun, index: int) -> Reconstruction:
        """Return a test image of this run with its reconstruction by the model of another one.

        Raises:
            StudioError: where that takes images of another shape.
        """
        self._check_index("index", index)
        image = self.shown.inputs[index : index + 1]
        wanted = other.model.network.channels, *other.model.image_size
        if image.shape[1:] != wanted:
            has, takes = (" × ".join(map(str, shape)) for shape in (image.shape[1:], wanted))
            raise StudioError(
                409, f"{other.path.name} takes images of {takes}, and this one has {has}: upload a picture for both."
            )
        return self._beside(index, other._reconstructed(image)[0])

    def _beside(self, index: int, output: Tensor) -> Reconstruction:
        """Return a test image beside an output for it."""
        shown = self.shown
        return Reconstruction(
            index=index,
            label=self._label(index),
            input=None if shown.inputs is shown.targets else picture(shown.inputs[index]),
            **_compared(shown.targets[index], output),
        )

    def _label(self, index: int) -> str | None:
        """Return the class of a test image; None where there are no classes."""
        _, _, labels, classes, *_ = self.shown
        label = None if labels is None else labels[index]
        return None if label is None else classes[label] if classes else str(label)

    def thumbnails(self, indices: list[int]) -> Picture:
        """Return small test images, one below the other."""
        for index in indices:
            self._check_index("index", index)
        images = self.shown.targets[indices]
        factor = _THUMBNAIL / max(images.shape[2:])
        if factor < 1:
            size = [max(1, round(side * factor)) for side in images.shape[2:]]
            images = F.interpolate(to_float(images), size, mode="area").mul(255).round().to(torch.uint8)
        return picture(images.movedim(1, 0).flatten(1, 2))

    def rows(self) -> list[ImageRow]:
        """Return name, class and error of every test image that is shown."""
        with self._lock:
            errors = self._all_errors
        names = self.shown.names
        return [
            ImageRow(index=index, name=None if names is None else names[index], label=self._label(index), mse=error)
            for index, error in enumerate(errors)
        ]

    @cached_property
    def _all_errors(self) -> list[float]:
        inputs, targets, *_ = self.shown
        return [
            error
            for places in self._batches(len(inputs))
            for error in _errors(targets[places], reconstruct(self.model.network, inputs[places]))
        ]

    @property
    def preparation(self) -> Preparation:
        """How pictures are brought to the model's size: as the run's own images were."""
        try:
            options = image_options(self.record)
        except StudioError:  # a damaged record costs the run's images, not one's own
            options = None
        shape = self.model.network.channels, *self.model.image_size
        if options is None:
            return Preparation(shape)
        return Preparation(shape, options.fit, options.white or WHITE)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Reconstruct an uploaded picture, uint8 C×H×W of the run's size."""
        found = Reconstruction(**_compared(image, self._reconstructed(image[None])[0]))
        if "_plane" in vars(self):  # which takes the run's images, and is there once a page has shown it
            found.point = self._points(self._encoded(image[None]))[0]
        return found

    def _reconstructed(self, images: Tensor) -> Tensor:
        return torch.cat([reconstruct(self.model.network, images[places]) for places in self._batches(len(images))])

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The checkerboard diagnosis of a copy of the model, since hooks are registered on it."""
        count = min(_EXAMINED, max(1, _EXAMINED_CELLS // self.model.cells))
        inputs = to_float(self.shown.inputs[:count])
        with reading("The model cannot be diagnosed"):
            return diagnose(copy.deepcopy(self.model.network), inputs)

    def image(self, index: int) -> Tensor:
        """Return a test image, uint8 C×H×W."""
        shown = self.shown
        self._check_index("index", index)
        return shown.targets[index]

    def network(self, index: int) -> Network:
        """Describe every step from a test image to its reconstruction."""
        shown = self.shown
        self._check_index("index", index)
        return trace(self.model, shown.inputs[index], self.path.name, index)

    # The latent space ---------------------------------------------------------------------------------------------

    @property
    def plane(self) -> Plane:
        """The codes of the images shown, with their plane."""
        with self._lock:
            return self._plane

    @cached_property
    def _plane(self) -> Plane:
        codes = self._encoded(self.shown.inputs)
        points, shares = figures.principal_plane(codes)
        # The components are uncorrelated with mean zero, so least squares gives the directions exactly.
        design = np.column_stack([points, np.ones(len(points))])
        fitted, *_ = np.linalg.lstsq(design, codes, rcond=None)
        return Plane(codes, points, fitted[2], fitted[:2], shares)

    @torch.inference_mode()
    def _encoded(self, images: Tensor) -> np.ndarray:
        network = self.model.network
        codes = [network.encode(to_float(images[places])).flatten(1) for places in self._batches(len(images))]
        found = torch.cat(codes).double().numpy()
        if not np.isfinite(found).all():
            raise StudioError(409, "The model's codes are not finite: train it with a smaller learning rate.")
        return found

    def latent(self) -> LatentSpace:
        shown, (codes, points, _, _, shares) = self.shown, self.plane
        numbers = codes.shape[1]
        sent = numbers <= _CODE_NUMBERS
        moved = np.sort(np.argsort(-codes.var(axis=0), kind="stable")[: _SLIDERS if sent else 0])
        low, high = np.quantile(codes[:, moved], (0.01, 0.99), axis=0)
        names = "latent 1", "latent 2"
        if numbers > 2:
            first, second = (f"principal component {axis} ({shares[axis - 1]:.0%} of the variance)" for axis in (1, 2))
            names = first, second
        (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
        return LatentSpace(
            points=points.tolist(),
            test_images=shown.total,
            labels=shown.labels,
            classes=shown.classes,
            axes=names,
            extent=(left, right, bottom, top),
            numbers=numbers,
            code=codes.mean(axis=0).tolist() if sent else [],
            sliders=[Slider(index=i, low=low[place], high=high[place]) for place, i in enumerate(moved)],
        )

    def decode_point(self, point: tuple[float, float]) -> Decoded:
        plane = self.plane
        return self.decode_codes(np.array([plane.middle + np.array(point) @ plane.directions]))[0]

    def decode_image(self, index: int) -> Decoded:
        """Decode the code of a test image."""
        self._check_index("index", index)
        return self.decode_codes(self.plane.codes[index : index + 1])[0]

    def walk(self, start: int, end: int, steps: int) -> list[Decoded]:
        """Decode codes on the straight line from one test image's to another's, both ends included."""
        self._check_index("start", start)
        self._check_index("end", end)
        codes = self.plane.codes
        return self.decode_codes(np.linspace(codes[start], codes[end], steps))

    @torch.inference_mode()
    def decode_codes(self, codes: np.ndarray) -> list[Decoded]:
        """Decode codes, one per row."""
        network, size, shape, _ = self.model
        if codes.shape[1] != math.prod(shape):
            raise ValueError(f"`code` (of {codes.shape[1]} numbers) must have the {math.prod(shape)} of this model.")
        latents = torch.from_numpy(codes).float().reshape(-1, *shape)
        images = torch.cat([network.decode(latents[places], size) for places in self._batches(len(latents))])
        sent = codes.shape[1] <= _CODE_NUMBERS
        return [
            Decoded(code=code.tolist() if sent else [], point=point, image=picture(image))
            for code, point, image in zip(
                codes, self._points(codes), images.mul(255).round().to(torch.uint8), strict=True
            )
        ]

    def _points(self, codes: np.ndarray) -> list[tuple[float, float]]:
        """Return the places of codes, one per row, in the plane."""
        if codes.shape[1] <= 2:
            points = np.column_stack([codes, np.zeros((len(codes), 2 - codes.shape[1]))])
        else:
            points = (codes - self.plane.middle) @ self.plane.directions.T  # directions are orthonormal
        return [(across, up) for across, up in points.tolist()]

    def neighbours(self, index: int, count: int) -> list[Neighbour]:
        """Return the test images whose codes, of all their numbers, are nearest to that of one of them."""
        self._check_index("index", index)
        codes = torch.from_numpy(self.plane.codes)
        distances, places = nearest(codes[index : index + 1], [codes], count + 1)
        found = [(place, far) for place, far in zip(places[0].tolist(), distances[0].tolist(), strict=True)]
        return [
            Neighbour(index=place, label=self._label(place), distance=far, image=picture(self.shown.targets[place]))
            for place, far in [one for one in found if one[0] != index][:count]
        ]

    def _check_index(self, name: str, index: int) -> None:
        if index >= len(self.shown.inputs):
            raise ValueError(f"`{name}` (={index}) is beyond the {len(self.shown.inputs)} images that are shown.")


def _compared(original: Tensor, output: Tensor) -> dict[str, Any]:
    return {
        "original": picture(original),
        "reconstruction": picture(output),
        "difference": error_map(original, output),
        "mse": _errors(original[None], output[None])[0],
    }


def _errors(originals: Tensor, outputs: Tensor) -> list[float]:
    """Return the mean squared error of each image, of values in [0, 1]."""
    return (to_float(originals) - to_float(outputs)).square().mean((1, 2, 3)).tolist()
