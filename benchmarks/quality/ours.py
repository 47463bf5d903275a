"""All that this benchmark knows of halfstride: the command, and how to read the run that it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.rows import Row

__all__ = ["Trained", "command", "digits", "read"]


class Trained(NamedTuple):
    """A finished run, seen from outside."""

    numbers: int
    """Latent numbers of one image."""
    parameters: int
    config: dict[str, Any]
    """The run's config.json."""
    outputs: dict[str, np.ndarray]
    """Reconstructions of the images that were asked for, float32 in [0, 1], shaped like those."""


def command(row: Row, source: str, run: Path) -> list[str]:
    """The default command: no options but how long, where to and the seed, and what the row fixes."""
    given = ["--out", str(run), "--minutes", f"{row.minutes:g}", "--seed", str(row.seed), *row.options]
    return [sys.executable, "-m", "halfstride", "train", source, *given]


def read(run: Path, images: dict[str, np.ndarray]) -> Trained:
    """Load the trained model and send images N×H×W(×3), uint8, through it."""
    import torch

    from halfstride.autoencoder.runs import Run

    model = Run.open(run).load_model().eval()

    @torch.inference_mode()
    def reconstruct(array: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(array).reshape(*array.shape[:3], -1).movedim(-1, 1).split(64)
        outputs = torch.cat([model(batch.float() / 255).float() for batch in batches])
        return outputs.movedim(1, -1).reshape(array.shape).numpy()

    with torch.inference_mode():
        first = next(iter(images.values()))[:1]
        code = model.encode(torch.from_numpy(first).reshape(*first.shape[:3], -1).movedim(-1, 1).float() / 255)
    return Trained(
        code.numel(),
        sum(parameter.numel() for parameter in model.parameters()),
        json.loads((run / "config.json").read_text()),
        {part: reconstruct(array) for part, array in images.items()},
    )


def digits() -> dict[str, np.ndarray]:
    """The images of `halfstride train digits`: all that are not for testing (a validation part included), and those."""
    from halfstride import load_images

    images = load_images("digits")
    arrays = {}
    for part in ("train", "validation", "test"):
        split = getattr(images, part, None)
        if split is not None:
            arrays[part] = split.images[:, 0].numpy()
    train = [arrays[part] for part in ("train", "validation") if part in arrays]
    return {"train": np.concatenate(train), "test": arrays["test"]}
