"""What a training leaves behind to be read and looked at, and what a trained model makes of other pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride.autoencoder.evaluation import Evaluation, evaluate
from halfstride.autoencoder.images import ImageError, Images, Skipped, decode, to_float
from halfstride.autoencoder.images.collection import listed
from halfstride.autoencoder.images.decoding import Fit, inspect
from halfstride.autoencoder.images.folders import read_folder
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.mixture import draw_like
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.model_card import card_text
from halfstride.autoencoder.own_encoder import Autoencoder
from halfstride.autoencoder.run_folder import Run
from halfstride.autoencoder.scoring import device_of
from halfstride.autoencoder.training import corruption_of
from halfstride.autoencoder.training_options import TrainingOptions
from halfstride.autoencoder.writing import distinct_names, require_free, writing, writing_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_samples", "finish", "reconstruct", "reconstruct_files", "save_png"]

_SHOWN = 10  # images in the picture of reconstructions
_CODES = 2_000  # points in the picture of the latent space
_GRID = 16  # images along each side of the picture of a latent plane
_BATCH = 64


def finish(
    run: Run, model: Autoencoder, images: Images, *, progress: Callable[[str, int, int], None] | None = None
) -> tuple[Evaluation, list[Path]]:
    """Evaluate a trained model beside its baselines, and write what there is to see into the run's folder.

    `evaluation.json` and the model card `README.md` hold the figures; `reconstructions.png` has test images above what
    the model and the baselines make of them, `losses.png` the MSE over the steps, `latent.png` the test images' codes
    coloured by class and, where the latent has two dimensions, `latent_plane.png` what the plane decodes to.

    Returns:
        What `evaluate` returned, and the pictures written.
    """
    options = TrainingOptions.from_record(run.record.get("training"))
    evaluation = evaluate(
        model, images, metrics=run.metrics, corrupt=corruption_of(options), device=device_of(model), progress=progress
    )
    run.save_evaluation(evaluation, card_text(model, evaluation, training=_told(run, options), location=str(run.path)))
    run.write_skipped(images)
    written = [run.save_figure("reconstructions.png", evaluation.figure())]
    if run.metrics:
        written.append(run.save_figure("losses.png", figures.losses(run.metrics)))
    with torch.inference_mode():
        sample = images.test.sample(_CODES)
        codes = _codes(model, inputs_and_targets(sample.images)[0])
        labels = None if sample.labels is None else sample.labels.numpy()
        written.append(run.save_figure("latent.png", figures.latent_space(codes, labels, images.classes)))
        if model.latent_shape == (2,):
            written.append(run.save_figure("latent_plane.png", _plane(model, codes)))
    return evaluation, written


def _told(run: Run, options: TrainingOptions) -> str:
    """How a model was trained, as a sentence for its card."""
    steps = " and ".join(f"{stage:,}" for stage in run.stages)
    return (
        f"Trained for {steps} steps of {options.batch_size} images with the loss {options.loss}, AdamW at a learning "
        f"rate of {options.learning_rate:g}, augmentation {options.augment}"
        + (f", inputs corrupted by {options.corruption}" if options.corruption else "")
        + f", seed {options.seed}."
    )


@torch.inference_mode()
def reconstruct(model: Autoencoder, images: Tensor) -> Tensor:
    """The reconstructions of uint8 images N×C×H×W, as uint8 on the CPU."""
    device = device_of(model)
    outputs = [model(to_float(batch.to(device))) for batch in torch.split(images, _BATCH)]
    return torch.cat([output.mul(255).round().to(torch.uint8).cpu() for output in outputs])


def reconstruct_files(
    model: Autoencoder,
    sources: Sequence[Path],
    out: Path,
    *,
    fit: Fit = "crop",
    white: int = 65_535,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Path], list[Skipped]]:
    """Send picture files through a model and write what comes back as PNG files.

    Pictures are brought to the size that the model takes; one with a latent map takes each at its own size.
    `overview.png` shows the first ones above their reconstructions.

    Args:
        model: a trained model.
        sources: image files, or folders of them.
        out: the folder to write to; new or empty.
        fit: how pictures of another size are brought to the model's.
        white: the value of 16-bit pictures that is white, as the run has it.
        progress: called with what is being done, how many are done, and how many there are.

    Returns:
        The files written, and the pictures that could not be read.

    Raises:
        ValueError: where no picture can be read, or the folder is not free.
    """
    require_free(out, "or empty it")  # before work that takes a while
    pictures, skipped = _pictures(sources)
    written: list[Path] = []
    shown: list[tuple[Tensor, Tensor]] = []
    with writing_folder(out) as folder:
        for done, (name, picture) in enumerate(pictures.items()):
            try:
                size = inspect(picture)[:2] if model.takes_any_size else model.image_size
                original = decode(picture, (model.channels, *size), fit, white)
            except ImageError as error:
                skipped.append(Skipped(str(picture), error.reason))
                continue
            output = reconstruct(model, original[None])[0]
            save_png(folder / name, output)
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


def _pictures(sources: Sequence[Path]) -> tuple[dict[str, Path], list[Skipped]]:
    """Every picture under the name of its output, no name twice, and what cannot be one."""
    found: list[tuple[str, Path]] = []
    skipped: list[Skipped] = []
    for source in sources:
        if source.is_dir():
            collection = read_folder(source)
            skipped += [Skipped(str(source / name), reason) for name, reason in collection.skipped]
            found += zip(collection.names, cast(Sequence[Path], collection.pictures), strict=True)
        else:
            found.append((source.name, source))
    names = distinct_names((name for name, _ in found), ".png", {"overview.png"})
    return dict(zip(names, (path for _, path in found), strict=True)), skipped


def save_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image C×H×W; of one with neither 1 nor 3 channels the first."""
    from PIL import Image

    channels = image if len(image) in (1, 3) else image[:1]
    Image.fromarray(channels.movedim(0, -1).squeeze(-1).numpy()).save(path, format="png")


def _codes(model: Autoencoder, images: Tensor) -> np.ndarray:
    device = device_of(model)
    codes = [model.encode(to_float(batch.to(device))).flatten(1).float().cpu() for batch in torch.split(images, _BATCH)]
    return torch.cat(codes).numpy()


def _plane(model: Autoencoder, codes: np.ndarray) -> Figure:
    """Decode a grid over the middle 96 % of the codes, along each axis: the outermost few are far from all others."""
    device = device_of(model)
    (left, bottom), (right, top) = np.quantile(codes, (0.02, 0.98), axis=0)
    horizontal, vertical = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    grid = np.stack(np.meshgrid(horizontal, vertical), axis=-1).reshape(-1, 2)
    images = model.decode(torch.tensor(grid, dtype=torch.float32, device=device)).cpu().numpy()
    return figures.decoded_plane(images.reshape(_GRID, _GRID, *images.shape[1:]), (left, right, bottom, top))


@torch.inference_mode()
def draw_samples(run: Run, model: Autoencoder, images: Images | None, count: int, seed: int, out: Path) -> None:
    """Write a picture of new images.

    Args:
        run: the model's run.
        model: the model; a variational one needs no `images`.
        images: training images, to whose codes a Gaussian mixture is fitted where the model is not variational.
        count: how many, 1 or more.
        seed: another one draws other images; from 0 to 2**32 - 1.
        out: the PNG file to write.

    Raises:
        ValueError: where a model that is not variational comes without images.
    """
    if isinstance(model, ConvAutoencoder) and model.variational:
        drawn = model.sample(count, seed=seed)
    elif images is None:
        raise ValueError(f"`images` (=None) must be given for {run.path}, which is not variational.")
    else:
        codes = torch.from_numpy(_codes(model, inputs_and_targets(images.train.sample(_CODES).images)[0]))
        latents = draw_like(codes, count, seed).reshape(count, *model.latent_shape).to(device_of(model))
        drawn = torch.cat([model.decode(batch) for batch in torch.split(latents, _BATCH)])
    with writing(out) as temporary:
        figures.grid(drawn.float().cpu().numpy()).savefig(temporary, format="png")
