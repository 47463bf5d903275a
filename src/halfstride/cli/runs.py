"""`halfstride evaluate`, `reconstruct` and `sample`: what a trained autoencoder is worth, and what it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import (
    Device,
    Encoder,
    Fit,
    as_json,
    load,
    open_model,
    progress_bar,
    show_evaluation,
    show_skipped,
)

_Run = Annotated[Path, typer.Argument(help="A folder that `halfstride train` wrote.")]


@app.command()
def evaluate(
    run: _Run,
    data: Annotated[
        str | None,
        typer.Argument(help="Other images, or the run's own where they have moved. By default those of the run."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """How good a trained autoencoder is, beside the mean image, a thumbnail, PCA and image files of the same size.

    Of other images, all are compared, and the baselines are fitted on the run's training images.

    Examples:
      halfstride evaluate runs/digits
      halfstride evaluate runs/photos holiday/
    """
    from halfstride.autoencoder import Run
    from halfstride.autoencoder import evaluate as evaluate_model
    from halfstride.autoencoder.images import Images
    from halfstride.autoencoder.training import corruption_of

    console = make_console(quiet=json)
    opened = Run.open(run)
    model = open_model(opened, encoder, device)
    options = opened.image_options
    images: Images | None = None
    if options.source is not None:
        images = load(options, console)
    if data is not None:
        asked = replace(options, source=data, clean=None, size=model.image_size, channels=model.channels)
        other = load(asked, console, together=True)
        images = other if images is None else replace(images, name=other.name, test=other.test)
    if images is None:
        raise ValueError(f"`run` (={run}) was trained on images in memory: name images as the second argument.")
    with progress_bar(console) as report:
        evaluation = evaluate_model(
            model,
            images,
            metrics=opened.metrics if data is None else (),
            corrupt=corruption_of(opened.training_options),
            progress=report,
        )
    if json:
        typer.echo(as_json(evaluation.to_dict()))
        return
    console.print(f"{run} on {images.name}:", soft_wrap=True)
    show_evaluation(console, evaluation)
    show_skipped(console, images if data is None else other)


@app.command()
def reconstruct(
    run: _Run,
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
    with progress_bar(console) as report, within_memory(None):
        written, skipped = reconstruct_files(model, images, out, fit=fit, white=white, progress=report)
    console.print(f"{len(written):,} reconstructions and overview.png in {out}", soft_wrap=True)
    for name, reason in skipped:
        console.print(f"skipped {name}: {reason}", style="yellow", soft_wrap=True)


@app.command()
def sample(
    run: _Run,
    count: Annotated[int, typer.Option("--count", "-n", help="How many images.")] = 64,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The picture to write. By default samples.png in the run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one draws other images.")] = 0,
    device: Device = "auto",
) -> None:
    """Draw new images from a trained autoencoder, as one picture.

    A variational model (`train --variational`) decodes codes from a normal distribution; for any other, a Gaussian
    mixture is fitted to the codes of training images first.

    Example:
      halfstride sample runs/digits --count 100
    """
    from halfstride.autoencoder import Run, draw_samples

    console = make_console()
    opened = Run.open(run)
    model = open_model(opened, None, device)
    if model.variational:
        console.print("Codes are drawn from the normal distribution of a variational model.")
        images = None
    else:
        console.print("This model is not variational: a Gaussian mixture is fitted to codes of its training images.")
        images = load(opened.image_options, console)
    path = out or opened.path / "samples.png"
    draw_samples(opened, model, images, count, seed, path)
    console.print(f"{count:,} new images in {path}", soft_wrap=True)
