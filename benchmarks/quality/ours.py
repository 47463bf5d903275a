"""All that this benchmark knows of halfstride: the command, and how to read the run that it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.quality.rows import Row

if TYPE_CHECKING:
    import torch

__all__ = ["Trained", "command", "digits", "read", "sample_command"]

_ACTIVE = 0.01
"""Variance over images above which a variational model's latent is in use (Burda et al., arXiv:1509.00519)."""


class Trained(NamedTuple):
    """A finished run, seen from outside."""

    numbers: int
    """Latent numbers of one image."""
    parameters: int
    config: dict[str, Any]
    """The run's config.json."""
    outputs: dict[str, np.ndarray]
    """Reconstructions of the images that were asked for, float32 in [0, 1], shaped like those."""
    active: int | None
    """Of a variational model, how many latents' means vary over the first images that were asked for."""


def command(row: Row, source: str, run: Path) -> list[str]:
    """The default command: how long, where to, the seed and what the row fixes, and no detector at the end."""
    given = ["--out", str(run), "--minutes", f"{row.minutes:g}", "--seed", str(row.seed), "--no-detector", *row.options]
    return [sys.executable, "-m", "halfstride", "train", source, *given]


def sample_command(run: Path, picture: Path) -> list[str]:
    """New images of a trained model, for looking at."""
    return [sys.executable, "-m", "halfstride", "sample", str(run), "--out", str(picture)]


def read(run: Path, images: dict[str, np.ndarray]) -> Trained:
    """Load the trained model and send images N×H×W(×3), uint8, through it."""
    import torch

    from halfstride.autoencoder import Run

    model = Run.open(run).load_model()

    @torch.inference_mode()
    def through(called: Callable[[torch.Tensor], torch.Tensor], array: np.ndarray) -> torch.Tensor:
        batches = torch.from_numpy(array).reshape(*array.shape[:3], -1).movedim(-1, 1).split(64)
        return torch.cat([called(batch.float() / 255).float() for batch in batches])

    codes = through(model.encode, next(iter(images.values())))
    return Trained(
        codes[0].numel(),
        sum(parameter.numel() for parameter in model.parameters()),
        json.loads((run / "config.json").read_text()),
        {part: through(model, array).movedim(1, -1).reshape(array.shape).numpy() for part, array in images.items()},
        int((codes.flatten(1).var(0) > _ACTIVE).sum()) if model.variational else None,
    )


def digits() -> dict[str, np.ndarray]:
    """The images of `halfstride train digits`: what it trains or validates on, and what it tests on."""
    from halfstride import load_images

    images = load_images("digits")
    train = [split.images[:, 0].numpy() for split in (images.train, images.validation)]
    return {"train": np.concatenate(train), "test": images.test.images[:, 0].numpy()}
