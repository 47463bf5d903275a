"""A run's files, which may be damaged, changed by hand, or made to fill the memory."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from halfstride import UnevenKernelWarning
from halfstride.autoencoder import ConvAutoencoder, ImageOptions, Run
from halfstride.studio.answers import Judgement, Scoring

__all__ = [
    "DamagedRunError",
    "Model",
    "NotRunError",
    "Stamp",
    "check_sizes",
    "encoder_of",
    "image_options",
    "load_model",
    "one_line",
    "read_judgement",
    "read_metrics",
    "read_record",
    "read_stages",
    "stamp",
    "why_not_run",
]

_LARGEST = {
    "run.json": 2**24,
    "config.json": 2**16,
    "metrics.jsonl": 2**24,
    "evaluation.json": 2**20,
    "model.safetensors": 2**31,
}
"""Bytes beyond which a file is not read."""
_LARGEST_ACTIVATION = 2**28
_DEEPEST = 1_000
"""Layers of residual blocks."""

Stamp = tuple[tuple[int, ...], ...]


class DamagedRunError(Exception):
    """A run's files are not what a training writes, or more than can be shown."""


class NotRunError(Exception):
    """A run whose model is not run here, because it has an encoder of the user's own."""


class Model(NamedTuple):
    """A run's model, and what it takes to run it."""

    network: ConvAutoencoder
    image_size: tuple[int, int]
    """Height and width of the run's images."""
    latent_shape: tuple[int, ...]
    cells: int
    """Numbers in its largest features, for one image."""


def check_sizes(run: Path) -> None:
    """Raise where a file is larger than one that a training writes."""
    for name, most in _LARGEST.items():
        size = (run / name).stat().st_size if (run / name).is_file() else 0
        if size > most:
            raise DamagedRunError(f"{name} has {size:,} bytes: at most {most:,} are read.")


def stamp(run: Path, *files: str) -> Stamp | None:
    """Of which version these files of a run are; None where one is not there."""
    try:
        found = [(run / file).stat() for file in files]
    except OSError:
        return None
    return tuple((one.st_dev, one.st_ino, one.st_mtime_ns) for one in found)


def read_record(run: Run) -> dict[str, Any]:
    try:
        return run.record
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRunError(one_line(error)) from None


def read_stages(run: Run) -> list[int]:
    try:
        return run.stages
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRunError(one_line(error)) from None


def read_metrics(run: Run) -> list[Scoring]:
    try:
        return [Scoring.model_validate(entry) for entry in run.metrics]
    except ValidationError as error:
        raise DamagedRunError(f"metrics.jsonl is damaged: {one_line(error)}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRunError(one_line(error)) from None


def read_judgement(run: Run) -> Judgement | None:
    """What `evaluate` said at the end of the training; None before that."""
    try:
        found = run.evaluation
    except RecursionError as error:
        raise DamagedRunError(f"evaluation.json is damaged: {one_line(error)}") from None
    except (ValueError, OSError) as error:
        raise DamagedRunError(one_line(error)) from None
    if found is None:
        return None
    metrics = read_metrics(run)
    trains_on = bool(metrics) and metrics[-1].step < sum(read_stages(run))
    return Judgement.model_validate({**found.to_dict(), "numbers": found.numbers, "outdated": trains_on})


def encoder_of(record: dict[str, Any]) -> str | None:
    """The name of the user's own encoder that a run has, for reading only."""
    encoder = record.get("encoder")
    return None if encoder is None else " ".join(str(encoder).split())[:200]


def why_not_run(record: dict[str, Any]) -> str | None:
    """Why a run's model is not run here; None where it is."""
    if record.get("encoder") is None:
        return None
    return (
        f"This run's encoder is your own ({encoder_of(record)}). The studio imports nothing that a file names, so it "
        "shows the run's figures and does not run its model."
    )


def image_options(record: dict[str, Any]) -> ImageOptions | None:
    """How a run's images are found again; None where they were handed over in memory."""
    data = record.get("data")
    if data is None:
        return None
    try:
        options = ImageOptions.from_record(data)
    except (ValueError, TypeError) as error:
        raise DamagedRunError(f"`data` in run.json is damaged: {one_line(error)}") from None
    return None if options.source is None else options


def load_model(run: Run, record: dict[str, Any]) -> Model:
    """The model, unless it is so large that looking at it would fill the memory."""
    try:
        config = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
        if _depth(config) > _DEEPEST:
            raise DamagedRunError(f"The model of {run.path.name} is too large to be shown: {_depth(config):,} layers.")
        with torch.device("meta"), warnings.catch_warnings():  # weighs nothing: its sizes can be looked at first
            warnings.simplefilter("ignore", UnevenKernelWarning)  # training gave it already
            sketch = ConvAutoencoder(**config)
        size = _image_size(record, sketch)
        cells = _cells(sketch, size, pools=config.get("downsampling") == "pool")
        weights = sum(parameter.numel() for parameter in sketch.parameters())
        if 4 * weights > _LARGEST["model.safetensors"] or cells > _LARGEST_ACTIVATION:
            raise DamagedRunError(f"The model of {run.path.name} is too large to be shown: {weights:,} weights.")
        network = run.load_model()
        assert isinstance(network, ConvAutoencoder)  # others have an encoder of their own, and do not come here
    except (ValueError, TypeError, OSError, RuntimeError, OverflowError, AttributeError) as error:
        raise DamagedRunError(one_line(error)) from None
    shape = network.latent_shape
    if network.latent == "map":
        shape = (network.latent_dim, *(-(-side // network.downscale) for side in size))
    return Model(network, size, shape, cells)


def _depth(config: dict[str, Any]) -> int:
    """How many layers a configuration asks for: building them would take for ever before they could be counted."""
    blocks, downscale = config.get("blocks", 1), config.get("downscale") or 16
    return (blocks + 1) * downscale.bit_length() if isinstance(blocks, int) and isinstance(downscale, int) else 0


def _image_size(record: dict[str, Any], model: ConvAutoencoder) -> tuple[int, int]:
    """The size of the images that a model was trained on: that of a map may have been built for another."""
    try:
        options = ImageOptions.from_record(record["data"])
    except (ValueError, TypeError, KeyError):
        return model.image_size
    return model.image_size if model.latent == "vector" or options.size is None else options.size


def _cells(model: ConvAutoencoder, size: tuple[int, int], *, pools: bool) -> int:
    """Numbers in the largest features that a model makes of an image.

    Features have `width` channels at a quarter of the size or, where the first layer pools, at full size; images go in
    and come out.
    """
    width = next(len(parameter) for parameter in model.encoder.parameters())
    patch = min(model.downscale, 4)
    per_pixel = max(model.channels, width if pools else width / patch**2)
    return math.ceil(per_pixel * math.prod(-(-side // model.downscale) * model.downscale for side in size))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
