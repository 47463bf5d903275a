"""`halfstride evaluate`, `reconstruct` and `sample`: what a trained autoencoder is worth, and what it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import (
    Device,
    Encoder,
    Fit,
    RunFolder,
    as_json,
    load,
    open_model,
    progress_bar,
    show_evaluation,
    show_skipped,
    tell,
)

if TYPE_CHECKING:
    from halfstride.autoencoder import Images, Run
    from halfstride.autoencoder.own_encoder import Autoencoder


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Other images, a folder or a single picture, or the run's own where they have moved. "
            "By default those of the run."
        ),
    ] = None,
    clean: Annotated[
        str | None, typer.Option(help="A folder of clean twins of the other images, for a run that was trained so.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """How good a trained autoencoder is, beside the mean image, a thumbnail, PCA and image files of the same size.

    Without other images, the run's test images are compared; of other images, all. The baselines are fitted on the
    run's training images. What the run does to its inputs (train --corrupt) is done here too.

    Examples:
      halfstride evaluate runs/digits
      halfstride evaluate runs/photos holiday/
      halfstride evaluate runs/photos portrait.jpg
    """
    from halfstride.autoencoder import Run
    from halfstride.autoencoder import evaluate as evaluate_model
    from halfstride.autoencoder.devices import within_memory
    from halfstride.autoencoder.training import corruption_of

    console = make_console(stderr=json)
    opened = Run.open(run)
    model = open_model(opened, encoder, device)
    if data is None:
        if clean is not None:
            raise ValueError(f"`--clean` (={clean}) needs the noisy twins: name their folder as the second argument.")
        if opened.image_options.source is None:
            raise ValueError(f"`run` (={run}) was trained on images in memory: name images as the second argument.")
        images, note = load(opened.image_options), None
    else:
        images, note = _other(opened, model, data, clean)
    with progress_bar() as report, within_memory(None):
        evaluation = evaluate_model(
            model,
            images,
            metrics=opened.metrics if data is None else (),
            corrupt=corruption_of(opened.training_options),
            progress=report,
        )
    # Only now has all of a stream been read.
    show_skipped(console, images.skipped)
    if json:
        typer.echo(as_json(evaluation.to_dict()))
        return
    count = images.test.size
    told = "" if count is None else f", {count:,} image{'' if count == 1 else 's'}"
    tell(console, f"{run} on {images.name}{told}:")
    if note:
        tell(console, note)
    show_evaluation(console, evaluation)


def _other(run: Run, model: Autoencoder, data: str, clean: str | None) -> tuple[Images, str | None]:
    """The images named, to be tested on beside the training and validation images of the run; and a note.

    Raises:
        ValueError: where the run's own images cannot be read, unless these are they, in another place.
    """
    options = run.image_options
    if options.clean is not None and clean is None:
        raise ValueError(f"`--clean` must name the clean twins of {data}: {run.path} was trained on pairs.")
    place = replace(options, source=data, clean=clean, size=model.image_size, channels=model.channels)
    try:
        own = load(options)
    except ValueError as error:
        moved = load(place)
        if run.has_images(moved):
            return moved, "These are the run's own images: its test images are compared."
        way = f"tell the run where they are (halfstride train NEW_PLACE --out {run.path} --resume), or use Python"
        raise ValueError(
            f"`run` (={run.path}) has training images that cannot be read, to which the baselines are fitted: "
            f"{way}. {error}"
        ) from error
    found = load(place, together=True)
    if found.classes != own.classes:
        found.test.labels = None  # they are numbers of other classes
    return replace(found, train=own.train, validation=own.validation), None


@app.command()
def reconstruct(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to, new or empty.")] = Path(
        "reconstructions"
    ),
    fit: Fit = "crop",
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Send pictures through a trained autoencoder and write what comes back, as PNG files.

    Pictures are brought to the size that the model takes; one with a latent map takes each at its own size.
    overview.png shows the first ones above their reconstructions.

    Example:
      halfstride reconstruct runs/photos holiday/ portrait.jpg --out back/
    """
    from halfstride.autoencoder import Run, reconstruct_files
    from halfstride.autoencoder.devices import within_memory

    console = make_console()
    opened = Run.open(run)
    model = open_model(opened, encoder, device)
    white = opened.image_options.white or 65_535
    with progress_bar() as report, within_memory(None):
        written, skipped = reconstruct_files(model, images, out, fit=fit, white=white, progress=report)
    show_skipped(console, skipped)
    count = f"{len(written):,} reconstruction{'' if len(written) == 1 else 's'}"
    tell(console, f"{count} and overview.png in {out}")


@app.command()
def sample(
    run: RunFolder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many images.")] = 64,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The PNG file to write. By default samples.png in the run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another one draws other images.")] = 0,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Draw new images from a trained autoencoder, as one picture.

    A variational model (`train --variational`) decodes codes from a normal distribution; for any other, a Gaussian
    mixture is fitted to the codes of training images first.

    Example:
      halfstride sample runs/digits --count 100
    """
    from halfstride.autoencoder import Run, draw_samples
    from halfstride.autoencoder.devices import within_memory

    console = make_console()
    opened = Run.open(run)
    path = out or opened.path / "samples.png"
    if path.suffix.lower() != ".png":
        raise ValueError(f"`--out` (={path}) must end in .png.")
    if not path.parent.is_dir():
        raise ValueError(f"`--out` (={path}) must lie in a folder that exists: create {path.parent} first.")
    model = open_model(opened, encoder, device)
    images = None
    if model.variational:
        told = "Codes were drawn from the normal distribution of a variational model."
    else:
        told = "This model is not variational: a Gaussian mixture was fitted to codes of its training images."
        if opened.image_options.source is None:
            raise ValueError(f"`run` (={run}) was trained on images in memory: sample it in Python, by model.sample.")
        images = load(opened.image_options)
    with within_memory(None):
        draw_samples(opened, model, images, count, seed, path)
    if images is not None:
        show_skipped(console, images.skipped)
    tell(console, told)
    tell(console, f"{count:,} new image{'' if count == 1 else 's'} in {path}")
