"""Reading a run's files, which may be damaged, changed by hand, or so large that they would fill the memory."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from halfstride import UnevenKernelWarning
from halfstride.autoencoder import ConvAutoencoder, ImageOptions, Run
from halfstride.autoencoder.images.decoding import WHITE
from halfstride.autoencoder.images.formats import printable
from halfstride.studio.errors import StudioError, describe
from halfstride.studio.responses import Scoring

_LARGEST = {
    "run.json": 2**24, "config.json": 2**16, "metrics.jsonl": 2**24, "evaluation.json": 2**20,
    "model.safetensors": 2**31, "detector.json": 2**24, "detector.safetensors": 2**31,
}  # fmt: skip
"""The largest size in bytes at which a file is read."""
_LARGEST_FEATURES = 2**28
"""The most numbers in the features of one image."""
_DEEPEST = 1_000
"""The most layers in residual blocks."""

_ERRORS = (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError, OverflowError, ImportError)

Stamp = tuple[tuple[int, ...], ...]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise the errors of reading damaged files as a StudioError of one line that begins with `what`."""
    try:
        yield
    except ValidationError as error:
        raise StudioError(409, f"{what}: {describe(error.errors())}") from None
    except RecursionError:
        raise StudioError(409, f"{what}: it is nested too deeply to be read.") from None
    except _ERRORS as error:
        raise StudioError(409, f"{what}: {' '.join(str(error).split())[:500]}") from None


class Model(NamedTuple):
    """A run's model with the sizes of its inputs, codes and features."""

    network: ConvAutoencoder
    image_size: tuple[int, int]
    """Height and width of the run's images."""
    latent_shape: tuple[int, ...]
    cells: int
    """Numbers in its largest features for one image."""


def check_sizes(run: Path) -> None:
    """Raise StudioError where a file is larger than any that a training writes."""
    for name, most in _LARGEST.items():
        size = (run / name).stat().st_size if (run / name).is_file() else 0
        if size > most:
            raise StudioError(409, f"{name} has {size:,} bytes: at most {most:,} are read.")


def stamp(run: Path, *files: str) -> Stamp | None:
    """Return the version of these files of a run; None where one is missing."""
    try:
        found = [(run / file).stat() for file in files]
    except OSError:
        return None
    return tuple((one.st_dev, one.st_ino, one.st_mtime_ns) for one in found)


def read_record(run: Run) -> dict[str, Any]:
    with reading("run.json"):
        return run.record


def read_stages(run: Run) -> list[int]:
    with reading("run.json"):
        return run.stages


def read_metrics(run: Run) -> list[Scoring]:
    with reading("metrics.jsonl"):
        return [Scoring.model_validate(entry) for entry in run.metrics]


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """Return the evaluation from the end of the training, and whether it is outdated; None before that."""
    with reading("evaluation.json"):
        found = run.evaluation
    if found is None:
        return None
    metrics = read_metrics(run)
    trains_on = bool(metrics) and metrics[-1].step < sum(read_stages(run))
    return {**found.to_dict(), "numbers": found.numbers, "outdated": trains_on}


def encoder_of(record: dict[str, Any]) -> str | None:
    """Return the name of the user's own encoder, to be shown and never imported; None where the run has none."""
    encoder = record.get("encoder")
    return None if encoder is None else " ".join(str(encoder).split())[:200]


def why_not_run(record: dict[str, Any]) -> str | None:
    """Return the reason why a run's model is not run here; None where it is."""
    if record.get("encoder") is None:
        return None
    return (
        f"This run's encoder is your own ({encoder_of(record)}). The studio never imports code that a file names, so "
        "it shows the run's figures and does not run its model."
    )


def image_options(record: dict[str, Any]) -> ImageOptions | None:
    """Return how a run's images were found and prepared, with None as source of arrays; None where it is not known."""
    data = record.get("data")
    if data is None:
        return None
    with reading("`data` in run.json"):
        return ImageOptions.from_record(data)


def data_of(run: Run, record: dict[str, Any]) -> str | None:
    """Return a run's images and how they are prepared in words, which are the same for runs on the same images alone.

    None where the record does not tell.
    """
    try:
        options = image_options(record)
    except StudioError:  # a damaged record costs the images, not the rest
        return None
    if options is None:
        return None
    training = record.get("training")
    corruption = training.get("corruption") if isinstance(training, dict) else None
    told = [
        f"arrays handed over to {run.path.name}" if options.source is None else options.source,
        options.size and options.channels and " × ".join(map(str, (options.channels, *options.size))),
        options.clean and f"clean twins in {options.clean}",
        options.fit != ImageOptions.fit and f"fit {options.fit}",
        options.white not in (None, WHITE) and f"white {options.white}",
        options.test_fraction != ImageOptions.test_fraction and f"test share {options.test_fraction}",
        options.seed != ImageOptions.seed and f"seed {options.seed}",
        corruption and f"corrupted by {corruption}",
    ]
    return ", ".join(printable(one, 1000) for one in told if one and isinstance(one, str))


def sketch_model(run: Run, record: dict[str, Any]) -> Model:
    """Return the model without its weights, unless it is so large that it would fill the memory."""
    with reading("The model cannot be loaded"):
        config = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
        if _depth(config) > _DEEPEST:
            raise StudioError(409, f"The model of {run.path.name} is too large to be shown: {_depth(config):,} layers.")
        with torch.device("meta"), warnings.catch_warnings():  # takes no memory: its sizes can be checked first
            warnings.simplefilter("ignore", UnevenKernelWarning)  # the training has already given it
            sketch = ConvAutoencoder(**config)
        size = _image_size(record, sketch)
        cells = _cells(sketch, size, pools=config.get("downsampling") == "pool")
        weights = sum(parameter.numel() for parameter in sketch.parameters())
        if 4 * weights > _LARGEST["model.safetensors"] or cells > _LARGEST_FEATURES:
            raise StudioError(409, f"The model of {run.path.name} is too large to be shown: {weights:,} weights.")
    shape = sketch.latent_shape
    if sketch.latent == "map":
        shape = (sketch.latent_dim, *(-(-side // sketch.downscale) for side in size))
    return Model(sketch, size, shape, cells)


def load_model(run: Run, record: dict[str, Any]) -> Model:
    """Load the model, unless it is so large that it would fill the memory."""
    sketch = sketch_model(run, record)
    with reading("The model cannot be loaded"):
        network = run.load_model()
    assert isinstance(network, ConvAutoencoder)  # models with the user's own encoder are not loaded here
    return sketch._replace(network=network)


def check_weights(run: Run) -> None:
    """Raise StudioError where the file of weights is cut off, or no such file; its numbers are not read."""
    try:
        with safe_open(run.path / "model.safetensors", "pt") as file:
            file.keys()
    except (SafetensorError, OSError):
        raise StudioError(
            409, "model.safetensors is damaged or incomplete: restore it, or train this run again."
        ) from None


def _depth(config: dict[str, Any]) -> int:
    """Return the number of layers of a configuration, counted without creating them, which could take hours."""
    blocks, downscale = config.get("blocks", 1), config.get("downscale") or 16
    return (blocks + 1) * downscale.bit_length() if isinstance(blocks, int) and isinstance(downscale, int) else 0


def _image_size(record: dict[str, Any], model: ConvAutoencoder) -> tuple[int, int]:
    """Return the size of the training images; a model with a latent map may have been created for another."""
    try:
        options = ImageOptions.from_record(record["data"])
    except (ValueError, TypeError, LookupError):
        return model.image_size
    return model.image_size if model.latent == "vector" or options.size is None else options.size


def _cells(model: ConvAutoencoder, size: tuple[int, int], *, pools: bool) -> int:
    """Return how many numbers are in the largest features of a model for one image."""
    # Features have `width` channels at a quarter of the size or, where the first layer pools, at full size.
    width = next(len(parameter) for parameter in model.encoder.parameters())
    patch = min(model.downscale, 4)
    per_pixel = max(model.channels, width if pools else width / patch**2)
    return math.ceil(per_pixel * math.prod(-(-side // model.downscale) * model.downscale for side in size))
