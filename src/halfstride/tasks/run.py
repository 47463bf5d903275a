"""`load_run`: a trained autoencoder, ready for its tasks."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from halfstride.autoencoder import Run, load_encoder
from halfstride.autoencoder.devices import find_device
from halfstride.autoencoder.own_encoder import Autoencoder
from halfstride.tasks.pictures import Reader

if TYPE_CHECKING:
    from torch import nn

    from halfstride.tasks.denoising import Denoised
    from halfstride.tasks.detection import Detections, FittedDetector
    from halfstride.tasks.embedding import Embedding
    from halfstride.tasks.exporting import Exported
    from halfstride.tasks.near_duplicates import Duplicates
    from halfstride.tasks.search import Neighbours

__all__ = ["TrainedRun", "load_run"]


class TrainedRun:
    """A trained autoencoder with the folder that it lies in. `load_run` opens it."""

    def __init__(self, run: Run, model: Autoencoder, device: torch.device) -> None:
        self.run = run
        """The folder, with the options and figures of the training."""
        self.model = model
        """In evaluation mode, on `device`."""
        self.device = device

    @property
    def path(self) -> Path:
        return self.run.path

    @cached_property
    def fingerprint(self) -> str:
        """What tells this model from others: a hash of its weights. Codes of one model mean nothing to another."""
        return hashlib.sha256((self.path / "model.safetensors").read_bytes()).hexdigest()[:32]

    def reader(self, *, own_size: bool = False) -> Reader:
        """How pictures are brought to the model: as in training.

        Args:
            own_size: leave each picture at its own size.

        Raises:
            ValueError: where the model takes one size only.
        """
        options = self.run.image_options
        if own_size and not self.model.takes_any_size:
            raise ValueError(
                f"`own_size` (=True) needs a run with a latent map; {self.path} takes pictures of "
                f"{self.model.image_size[0]}×{self.model.image_size[1]} only."
            )
        size = None if own_size else self.model.image_size
        return Reader(self.model.channels, size, options.fit, options.white or 65_535)

    def export(self, out: str | Path, **options: Any) -> Exported:
        """Write the run as one file that needs no halfstride: see `halfstride.export`."""
        from halfstride.tasks.exporting import export

        return export(self, out, **options)

    def fit_detector(self, good: Any = None, **options: Any) -> FittedDetector:
        """Fit a detector to good images, by default those of the training: see `halfstride.fit_detector`."""
        from halfstride.tasks.detection import fit_detector

        return fit_detector(self, good, **options)

    def detect(self, images: Any, **options: Any) -> Detections:
        """Find the images that are unlike the good ones: see `halfstride.detect`."""
        from halfstride.tasks.detection import detect

        return detect(self, images, **options)

    # The tasks import this file, so they are imported when they are called.

    def denoise(self, images: Any, clean: Any = None, **options: Any) -> Denoised:
        """Remove from pictures what the run was trained to remove: see `halfstride.denoise`."""
        from halfstride.tasks.denoising import denoise

        return denoise(self, images, clean, **options)

    def embed(self, images: Any, **options: Any) -> Embedding:
        """Encode pictures: see `halfstride.embed`."""
        from halfstride.tasks.embedding import embed

        return embed(self, images, **options)

    def similar(self, queries: Any, images: Any, k: int = 10, **options: Any) -> Neighbours:
        """Find the pictures that are most like each query: see `halfstride.similar`."""
        from halfstride.tasks.search import similar

        return similar(self, queries, images, k, **options)

    def duplicates(self, images: Any = None, against: Any = None, **options: Any) -> Duplicates:
        """Find pairs of pictures that are nearly the same: see `halfstride.duplicates`."""
        from halfstride.tasks.near_duplicates import duplicates

        return duplicates(self, images, against, **options)


def load_run(
    run: str | os.PathLike[str] | TrainedRun, *, device: str = "auto", encoder: str | nn.Module | None = None
) -> TrainedRun:
    """Open a run that `halfstride train` or `halfstride.train` wrote.

    Args:
        run: the run's folder.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        encoder: for a run with an encoder of the user's own: that encoder, or its name MODULE:FACTORY, which is
            imported.

    Raises:
        ValueError: where there is no such run, it is damaged, or its encoder is missing.

    Example:
        >>> run = load_run("runs/photos")  # doctest: +SKIP
        >>> run.detect("new pictures/").figure().savefig("worst.png")  # doctest: +SKIP
    """
    if isinstance(run, TrainedRun):
        return run
    opened, found = Run.open(Path(run)), find_device(device)
    if str(found) == "cuda":  # without an index: processes of `torchrun` take a device each
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    own = load_encoder(encoder) if isinstance(encoder, str) else encoder
    return TrainedRun(opened, opened.load_model(own).to(found).eval(), found)
