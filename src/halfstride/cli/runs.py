"""`halfstride train`, `evaluate` and `reconstruct`: from images to a trained autoencoder, and back to images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halfstride.cli.app import app, make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from halfstride.autoencoder import ConvAutoencoder, Images

_IMAGES, _MODEL, _TRAINING = "The images", "The model", "The training"
_RESUMABLE = {"out", "resume"}  # all that may stand beside --resume: everything else is in the run's folder

_Fit = Annotated[
    Literal["crop", "pad", "stretch"],
    typer.Option(help="How images of another size are brought to it.", rich_help_panel=_IMAGES),
]


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of images, a .npy or .npz file, hub:NAME for a Hugging Face data set, "
            "or digits for the 5,000 handwritten ones that come along."
        ),
    ] = "digits",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder, new or empty. By default runs/ and the data's name."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")] = False,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height and width, as 64 or 64x48. By default chosen from the images.", rich_help_panel=_IMAGES
        ),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 grey, 3 colour. By default what the images have.", rich_help_panel=_IMAGES)
    ] = None,
    fit: _Fit = "crop",
    test_fraction: Annotated[
        float, typer.Option(help="Share kept for testing, where no test folder is there.", rich_help_panel=_IMAGES)
    ] = 0.2,
    latent_dim: Annotated[
        int, typer.Option(help="Numbers in the latent vector, or channels of a spatial one.", rich_help_panel=_MODEL)
    ] = 32,
    spatial: Annotated[
        bool, typer.Option("--spatial", help="Keep the latent as a map: any image size.", rich_help_panel=_MODEL)
    ] = False,
    widths: Annotated[
        str | None, typer.Option(help="Channels of each level, as 32,64,128.", rich_help_panel=_MODEL)
    ] = None,
    hidden_dim: Annotated[
        int | None,
        typer.Option(help="Width of a dense layer around the latent; helps small ones.", rich_help_panel=_MODEL),
    ] = None,
    downsampling: Annotated[
        Literal["stride", "pool"], typer.Option(help="How the encoder shrinks.", rich_help_panel=_MODEL)
    ] = "stride",
    upsampling: Annotated[
        Literal["resize", "transposed", "subpixel"],
        typer.Option(help="How the decoder enlarges.", rich_help_panel=_MODEL),
    ] = "resize",
    kernel_size: Annotated[
        int | None,
        typer.Option(help="Of the layers that enlarge; else 3, or 4 where transposed.", rich_help_panel=_MODEL),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", rich_help_panel=_TRAINING)] = 20,
    batch_size: Annotated[
        int, typer.Option(help="Images per step, over all processes.", rich_help_panel=_TRAINING)
    ] = 32,
    learning_rate: Annotated[
        float, typer.Option(help="The highest of its schedule.", rich_help_panel=_TRAINING)
    ] = 4e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.", rich_help_panel=_TRAINING)] = 0.05,
    loss: Annotated[
        Literal["mse", "l1", "bce"], typer.Option(help="What is minimised.", rich_help_panel=_TRAINING)
    ] = "mse",
    noise: Annotated[
        float, typer.Option(help="Noise on the inputs: a denoising autoencoder.", rich_help_panel=_TRAINING)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.", rich_help_panel=_TRAINING)] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="auto takes bfloat16 where the device has it.", rich_help_panel=_TRAINING),
    ] = "auto",
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="For streams of unknown length.", rich_help_panel=_TRAINING)
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.", rich_help_panel=_TRAINING)
    ] = False,
) -> None:
    """Train an autoencoder on images, and draw what it learned.

    Without any argument it trains on handwritten digits. Ctrl-C saves and says how to go on; so does a crash, with
    --resume, from the last checkpoint.

    Examples:
      halfstride train
      halfstride train photos/ --size 64 --latent-dim 128
      halfstride train photos/ --spatial --latent-dim 8 --out runs/photos
      halfstride train --out runs/photos --resume
      torchrun --nproc-per-node 2 -m halfstride train photos/ --out runs/two
    """
    import torch

    from halfstride.autoencoder import ConvAutoencoder, Interrupted, Run, TrainingOptions, draw
    from halfstride.autoencoder import train as train_model
    from halfstride.autoencoder.runs import next_free, require_free

    is_main = int(os.environ.get("RANK", "0")) == 0
    console = make_console(quiet=not is_main)
    if resume:
        out = _resumable(context, out)
        run = Run.open(out)
        recipe = run.record.get("data")
        if not recipe:
            raise ValueError(
                f"`--out` (={out}) does not say where its images came from: go on in Python, by "
                "train(..., resume=True)."
            )
        options = TrainingOptions(**run.record["training"])
    else:
        recipe = {
            "source": data if data in ("", "digits") or not Path(data).exists() else str(Path(data).resolve()),
            "size": _pair(size),
            "channels": channels,
            "fit": fit,
            "test_fraction": test_fraction,
            "seed": seed,
        }
        options = TrainingOptions(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            loss=loss,
            noise=noise,
            seed=seed,
            precision=precision,
            steps_per_epoch=steps_per_epoch,
            tensorboard=tensorboard,
        )
        if out is None:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise ValueError("`--out` must name the run's folder where several processes train together.")
            out = next_free(Path("runs") / _short_name(data))
        require_free(out, "or go on with that run by --resume")  # before the images are read, which can take a while
    images = _load(recipe, console)
    if resume:
        model = run.load_model()
    else:
        # What was chosen for these images holds for the run, whatever is added to them.
        recipe = dataclasses.asdict(images.options)
        torch.manual_seed(seed)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = ConvAutoencoder(
                images.shape[1:],
                images.shape[0],
                latent_dim,
                spatial=spatial,
                widths=_numbers("--widths", widths),
                hidden_dim=hidden_dim,
                downsampling=downsampling,
                upsampling=upsampling,
                kernel_size=kernel_size,
            )
        for warning in told:  # of a kernel that makes checkerboards
            console.print(f"warning: {warning.message}", soft_wrap=True)
    _introduce(console, images, model)
    started = time.monotonic()
    try:
        metrics = train_model(model, images, out, options, resume=resume, data=recipe)
    except Interrupted as stop:
        if is_main:
            typer.echo(str(stop), err=True)
        raise typer.Exit(130) from None
    if is_main:
        pictures = draw(Run.open(out), model, images)
        _conclude(console, out, metrics[-1], time.monotonic() - started, pictures)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A folder that `halfstride train` wrote.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Other images: all of them are compared. By default the test images of the run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How well a trained autoencoder brings images back: MSE, PSNR and SSIM.

    Examples:
      halfstride evaluate runs/digits
      halfstride evaluate runs/photos holiday/
    """
    from itertools import chain

    from halfstride.autoencoder import Run
    from halfstride.autoencoder.scoring import evaluation_batch_size, scores

    console = make_console()
    opened = Run.open(run)
    model = opened.load_model()
    recipe = opened.record.get("data") or {}
    if data is not None:
        fit = recipe.get("fit", "crop")
        recipe = {"source": data, "size": list(model.image_size), "channels": model.channels, "fit": fit}
    if not recipe:
        raise ValueError(f"`run` (={run}) does not say where its images came from: name them as the second argument.")
    images = _load(recipe, make_console(quiet=as_json))
    splits = (images.test,) if data is None else (images.train, images.validation, images.test)
    batches = chain.from_iterable(split.batches(evaluation_batch_size(images.shape)) for split in splits)
    found = scores(model, batches)
    if as_json:
        typer.echo(json.dumps(found._asdict()))
        return
    console.print(f"{run}  on {found.images:,} images of {images.name}")
    console.print(_scores_line(found.mse, found.psnr, found.ssim))


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="A folder that `halfstride train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to, new or empty.")] = Path(
        "reconstructions"
    ),
    fit: _Fit = "crop",
) -> None:
    """Send pictures through a trained autoencoder and write what comes back, as PNG files.

    Pictures are brought to the size that the model takes; one with a spatial latent takes each at its own.
    overview.png shows the first ones above their reconstructions.

    Example:
      halfstride reconstruct runs/photos holiday/ portrait.jpg --out back/
    """
    from halfstride.autoencoder import Run, reconstruct_files

    console = make_console()
    model = Run.open(run).load_model()
    with _bar(console) as report:
        written, skipped = reconstruct_files(model, images, out, fit=fit, progress=report)
    console.print(f"{len(written):,} reconstructions and overview.png in {out}", soft_wrap=True)
    for name, reason in skipped:
        console.print(f"skipped {name}: {reason}", style="yellow", soft_wrap=True)


def _resumable(context: typer.Context, out: Path | None) -> Path:
    if out is None:
        raise ValueError("`--resume` needs the run's folder: name it by --out.")
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _RESUMABLE and source is not None and source.name == "COMMANDLINE":
            option = name if name == "data" else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"`{option}` (={context.params[name]}) cannot change in a run that is resumed: leave it out, "
                "or start a new run in another folder."
            )
    return out


def _load(recipe: dict[str, Any], console: Console) -> Images:
    from halfstride.autoencoder import ImageOptions

    with _bar(console) as report:
        return ImageOptions.from_record(recipe).load(progress=report)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar that vanishes when its work is done, and the function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


def _introduce(console: Console, images: Images, model: ConvAutoencoder) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    image, latent = ("×".join(map(str, shape)) for shape in (images.shape, model.latent_shape))
    console.print(images.describe(), soft_wrap=True)
    console.print(f"An image of {image} becomes a latent of {latent}; the model has {parameters:,} parameters.")


def _conclude(console: Console, out: Path, last: dict[str, Any], seconds: float, pictures: Sequence[Path]) -> None:
    """What came out, and what to try next."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("on the test images", _scores_line(last["test_mse"], last["test_psnr"], last["test_ssim"]))
    table.add_row("trained in", f"{seconds:.0f} s")
    table.add_row("the run", f"{out}/")
    table.add_row("its pictures", ", ".join(picture.name for picture in pictures))
    console.print()
    console.print(table)
    console.print("\nNext:", style="bold")
    for command in (
        f"halfstride reconstruct {out} YOUR_PICTURES/ --out back/",
        f"halfstride evaluate {out} YOUR_PICTURES/",
        "halfstride train YOUR_PICTURES/ --size 64 --latent-dim 128",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _scores_line(mse: float, psnr: float, ssim: float | None) -> str:
    return f"MSE {mse:.5f}   PSNR {psnr:.2f} dB" + ("" if ssim is None else f"   SSIM {ssim:.3f}")


def _short_name(data: str) -> str:
    """The data's name as that of a folder: the last part of a path or of a hub name."""
    return Path(data.removeprefix("hub:").replace(":", "-")).resolve().stem or "run"


def _numbers(name: str, text: str | None, separator: str = ",") -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(separator))
    except ValueError:
        example = separator.join(("64", "48"))
        raise ValueError(f"`{name}` (={text}) must be whole numbers, such as {example}.") from None


def _pair(text: str | None) -> int | list[int] | None:
    numbers = _numbers("--size", text, "x")
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise ValueError(f"`--size` (={text}) must be one number, or height and width such as 64x48.")
    return list(numbers) if len(numbers) == 2 else numbers[0]
