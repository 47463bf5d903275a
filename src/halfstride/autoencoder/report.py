"""The pictures of a run: what it reconstructs, how it learned, and what its latent space looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride.autoencoder.images import ImageError, Images, Skipped, Split, decode, to_float
from halfstride.autoencoder.images.collection import listed
from halfstride.autoencoder.images.decoding import Fit, inspect
from halfstride.autoencoder.images.folders import read_folder
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.runs import Run, writing_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "reconstruct", "reconstruct_files"]

_SHOWN = 10  # images in the picture of reconstructions
_CODES = 5_000  # points in the picture of the latent space
_GRID = 16  # images along each side of the picture of a latent plane
_BATCH = 64


@torch.inference_mode()
def draw(run: Run, model: ConvAutoencoder, images: Images) -> list[Path]:
    """Draw a run's pictures into its folder.

    `reconstructions.png` has test images above what came back, `losses.png` the MSE over the epochs, `latent.png` the
    test images' codes coloured by class and, where the latent has two dimensions, `latent_plane.png` what the plane
    decodes to.

    Returns:
        The files written.
    """
    model.eval()
    shown = _examples(images.test)
    written = [
        run.save_figure(
            "reconstructions.png",
            figures.reconstructions(to_float(shown).numpy(), to_float(reconstruct(model, shown)).numpy()),
        )
    ]
    if run.metrics:
        written.append(run.save_figure("losses.png", figures.losses(run.metrics)))
    codes = _codes(model, images.test)
    labels = None if images.test.labels is None else images.test.labels[: len(codes)].numpy()
    written.append(run.save_figure("latent.png", figures.latent_space(codes, labels, images.classes)))
    if codes.shape[1] == 2 and not model.spatial:
        written.append(run.save_figure("latent_plane.png", _plane(model, codes)))
    return written


@torch.inference_mode()
def reconstruct(model: ConvAutoencoder, images: Tensor) -> Tensor:
    """The reconstructions of uint8 images N×C×H×W, as uint8 on the CPU."""
    device = next(model.parameters()).device
    outputs = [model(to_float(batch.to(device))) for batch in torch.split(images, _BATCH)]
    return torch.cat([output.mul(255).round().to(torch.uint8).cpu() for output in outputs])


def reconstruct_files(
    model: ConvAutoencoder,
    sources: Sequence[Path],
    out: Path,
    *,
    fit: Fit = "crop",
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Path], list[Skipped]]:
    """Send picture files through a model and write what comes back as PNG files.

    Pictures are brought to the size that the model takes; one with a spatial latent takes each at its own.
    `overview.png` shows the first ones above their reconstructions.

    Args:
        model: a trained model.
        sources: image files, or folders of them.
        out: the folder to write to; new or empty.
        fit: how pictures of another size are brought to the model's.
        progress: called with what is being done, how many are done, and how many there are.

    Returns:
        The files written, and the pictures that could not be read.

    Raises:
        ValueError: where no picture can be read, or the folder is not free.
    """
    pictures = _pictures(sources)
    written: list[Path] = []
    skipped: list[Skipped] = []
    shown: list[tuple[Tensor, Tensor]] = []
    with writing_folder(out) as folder:
        for done, (name, picture) in enumerate(pictures.items()):
            try:
                size = inspect(picture)[:2] if model.spatial else model.image_size
                original = decode(picture, (model.channels, *size), fit)
            except ImageError as error:
                skipped.append(Skipped(str(picture), error.reason))
                continue
            output = reconstruct(model, original[None])[0]
            _save_png(folder / name, output)
            written.append(out / name)
            shown = [*shown, (original, output)][:_SHOWN]
            if progress is not None:
                progress("reconstructing", done + 1, len(pictures))
        if not written:
            raise ValueError(f"`images` hold nothing that can be read: {listed(skipped)}.")
        originals, outputs = zip(*shown, strict=True)
        figure = figures.reconstructions(
            *([to_float(image[None])[0].numpy() for image in row] for row in (originals, outputs))
        )
        figure.savefig(folder / "overview.png", format="png")
    return written, skipped


def _pictures(sources: Sequence[Path]) -> dict[str, Path]:
    """Every picture under the name of its output, no name twice."""
    found: list[tuple[str, Path]] = []
    for source in sources:
        if source.is_dir():
            collection = read_folder(source)
            found += zip(collection.names, cast(Sequence[Path], collection.pictures), strict=True)
        else:
            found.append((source.name, source))
    pictures: dict[str, Path] = {}
    for name, path in found:
        stem = str(PurePath(name).with_suffix("")).replace("/", "-")
        unique, number = f"{stem}.png", 2
        while unique in pictures or unique == "overview.png":
            unique, number = f"{stem}-{number}.png", number + 1
        pictures[unique] = path
    return pictures


def _save_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image C×H×W; of one with neither 1 nor 3 channels the first."""
    from PIL import Image

    channels = image if len(image) in (1, 3) else image[:1]
    Image.fromarray(channels.movedim(0, -1).squeeze(-1).numpy()).save(path, format="png")


def _examples(split: Split) -> Tensor:
    """The first images of a split; where it has classes, of different ones as far as possible."""
    if split.labels is None or split.images is None:
        return next(split.batches(_SHOWN))
    rank_in_class = np.zeros(len(split), dtype=int)
    labels = split.labels.numpy()
    for label in np.unique(labels):
        own = labels == label
        rank_in_class[own] = np.arange(own.sum())
    order = np.lexsort((labels, rank_in_class))
    return split.images[torch.from_numpy(order[:_SHOWN])]


def _codes(model: ConvAutoencoder, split: Split) -> np.ndarray:
    device = next(model.parameters()).device
    codes: list[np.ndarray] = []
    for batch in split.batches(_BATCH):
        codes.append(model.encode(to_float(batch.to(device))).flatten(1).float().cpu().numpy())
        if sum(map(len, codes)) >= _CODES:
            break
    return np.concatenate(codes)[:_CODES]


def _plane(model: ConvAutoencoder, codes: np.ndarray) -> Figure:
    """Decode a grid over the middle 96 % of the codes, along each axis: the outermost few are far from all others."""
    device = next(model.parameters()).device
    (left, bottom), (right, top) = np.quantile(codes, (0.02, 0.98), axis=0)
    horizontal, vertical = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    grid = np.stack(np.meshgrid(horizontal, vertical), axis=-1).reshape(-1, 2)
    images = model.decode(torch.tensor(grid, dtype=torch.float32, device=device)).cpu().numpy()
    return figures.decoded_plane(images.reshape(_GRID, _GRID, *images.shape[1:]), (left, right, bottom, top))
