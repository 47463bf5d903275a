"""`halfstride train` and `halfstride sweep`: from images to a trained autoencoder."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import (
    Device,
    load,
    open_model,
    progress_bar,
    read_numbers,
    read_pair,
    short_name,
    show_evaluation,
    show_skipped,
)

if TYPE_CHECKING:
    from rich.console import Console

    from halfstride.autoencoder import ImageOptions, Images, Run, TrainingOptions
    from halfstride.autoencoder.own_encoder import Autoencoder

_IMAGES, _MODEL, _OWN, _TRAINING = "The images", "The model", "An encoder of your own", "The training"

_Data = Annotated[
    str,
    typer.Argument(
        help="A folder of images, a .npy or .npz file, hub:NAME for a Hugging Face data set, "
        "or digits for the 5,000 handwritten ones that come along."
    ),
]


def _option(panel: str, help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


@app.command()
def train(
    context: typer.Context,
    data: _Data = "digits",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder, new or empty. By default runs/ and the data's name."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out; a finished one with more --steps, --epochs or --minutes."
        ),
    ] = False,
    size: Annotated[
        str | None, _option(_IMAGES, "Height and width, as 64 or 64x48. By default chosen from the images.")
    ] = None,
    channels: Annotated[int | None, _option(_IMAGES, "1 grey, 3 colour. By default what the images have.")] = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"], _option(_IMAGES, "How images of another size are brought to it.")
    ] = "crop",
    test_fraction: Annotated[float, _option(_IMAGES, "Share kept for testing, where no test folder is there.")] = 0.2,
    clean: Annotated[
        str | None, _option(_IMAGES, "A folder of clean twins, matched by name: learn to clean the others.")
    ] = None,
    latent: Annotated[
        Literal["vector", "map"] | None,
        _option(_MODEL, "One code for the image or one for each place."),
    ] = None,
    latent_dim: Annotated[
        int | None, _option(_MODEL, "Numbers in the latent vector, or channels of the map. By default chosen.")
    ] = None,
    downscale: Annotated[
        int | None, _option(_MODEL, "Size of the image over that of the latent map: 2, 4, 8, 16 ... By default 8.")
    ] = None,
    width: Annotated[int, _option(_MODEL, "Channels at a quarter of the size; twice as many below.")] = 64,
    blocks: Annotated[int, _option(_MODEL, "Residual blocks at each size.")] = 1,
    downsampling: Annotated[Literal["stride", "pool"], _option(_MODEL, "How the encoder shrinks.")] = "stride",
    upsampling: Annotated[
        Literal["subpixel", "resize", "transposed"], _option(_MODEL, "How the decoder enlarges.")
    ] = "subpixel",
    kernel_size: Annotated[
        int | None, _option(_MODEL, "Of the layers that enlarge. By default 3; twice the stride where transposed.")
    ] = None,
    variational: Annotated[
        float | None, _option(_MODEL, "Train a variational autoencoder with this weight of the divergence, such as 1.")
    ] = None,
    encoder: Annotated[
        str | None, _option(_OWN, "MODULE:FACTORY of an nn.Sequential; its decoder is built by `mirror`.")
    ] = None,
    freeze: Annotated[bool, _option(_OWN, "Leave the encoder's weights as they are.", "--freeze")] = False,
    mean: Annotated[str | None, _option(_OWN, "Subtracted from images first, such as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, _option(_OWN, "What they are then divided by, such as 0.229,0.224,0.225.")] = None,
    steps: Annotated[
        int | None, _option(_TRAINING, "Length in steps. By default 4,000, or 5 passes over larger sets.")
    ] = None,
    epochs: Annotated[int | None, _option(_TRAINING, "Length in passes over the training images.")] = None,
    minutes: Annotated[
        float | None, _option(_TRAINING, "Length in minutes: made into steps by timing the first.")
    ] = None,
    batch_size: Annotated[
        int | None, _option(_TRAINING, "Images per step, over all processes. By default 32, or 16 for a map.")
    ] = None,
    learning_rate: Annotated[
        float | None, _option(_TRAINING, "The highest of its schedule. By default 0.004, or 0.001 for a map.")
    ] = None,
    weight_decay: Annotated[float, _option(_TRAINING, "AdamW's.")] = 0.05,
    loss: Annotated[Literal["mse", "l1", "bce", "sharp"], _option(_TRAINING, "What is minimised.")] = "mse",
    corrupt: Annotated[
        str,
        _option(
            _TRAINING,
            "What is done to the inputs, to learn to undo it: gaussian:STD, poisson:PEAK, salt-and-pepper:SHARE, "
            "jpeg:QUALITY, blur:SIGMA, mask:SHARE, or several joined by commas.",
        ),
    ] = "",
    augment: Annotated[
        Literal["none", "flip", "flip-rotate"] | None, _option(_TRAINING, "By default what the images look like.")
    ] = None,
    shift: Annotated[
        int | None, _option(_TRAINING, "Largest random shift in pixels. By default 1 for a vector and few images.")
    ] = None,
    crop: Annotated[
        int | None,
        _option(_TRAINING, "Side of the random crops that a map trains on, 0 for none. By default 64."),
    ] = None,
    seed: Annotated[int, _option(_TRAINING, "The same seed gives the same run.")] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], _option(_TRAINING, "auto takes bfloat16 where the device has it.")
    ] = "auto",
    device: Device = "auto",
    tensorboard: Annotated[bool, _option(_TRAINING, "Write TensorBoard's files too.", "--tensorboard")] = False,
) -> None:
    """Train an autoencoder on images, see how good it is, and draw what it learned.

    Without any argument it trains on handwritten digits. Ctrl-C saves and says how to go on; so does a crash, with
    --resume, from the last checkpoint.

    Examples:
      halfstride train
      halfstride train photos/ --minutes 10
      halfstride train photos/ --size 128 --latent-dim 8 --out runs/photos
      halfstride train scans/ --corrupt gaussian:0.1,blur:1
      halfstride train --out runs/photos --resume --steps 4000
      torchrun --nproc-per-node 2 -m halfstride train photos/ --out runs/two
    """
    from halfstride.autoencoder import ImageOptions, Run, TrainingOptions
    from halfstride.autoencoder.runs import next_free, require_free

    is_main = int(os.environ.get("RANK", "0")) == 0
    console = make_console(quiet=not is_main)
    given = context.params
    training = replace(
        TrainingOptions(**{name: given[name] for name in _names(TrainingOptions) if name in given}),
        corruption=corrupt,
        beta=1.0 if variational is None else variational,
    )
    image_options = ImageOptions(
        data if data in ("", "digits") or not Path(data).exists() else str(Path(data).resolve()),
        clean=clean,
        size=read_pair(size),
        channels=channels,
        fit=fit,
        test_fraction=test_fraction,
        seed=seed,
    )
    model_options = {name: given[name] for name in _MODEL_OPTIONS} | {"variational": variational is not None}
    own = {"encoder": encoder, "freeze": freeze, "mean": _floats("--mean", mean), "std": _floats("--std", std)}
    if encoder is None and (freeze or mean is not None or std is not None):
        raise ValueError("`--freeze`, `--mean` and `--std` are for an encoder of your own: name it by --encoder.")
    if resume:
        asked = _asked(context)
        run = _resumable(out, asked, model_options)
        image_options = _moved(run, image_options, asked)
        images = load(image_options, console)
        model = open_model(run, encoder, device)
        if {"data", "clean"} & asked.keys() and is_main:
            run.check_images(images)
            run.write_record({**run.record, "data": {**run.record["data"], **_places(images.options)}})
    else:
        if out is None:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise ValueError("`--out` must name the run's folder where several processes train together.")
            out = next_free(Path("runs") / short_name(data))
        require_free(out, "or go on with that run by --resume")  # before the images are read, which can take a while
        images = load(image_options, console)
        model = _build(console, images, model_options, own, seed)
        run = Run(out)
    _introduce(console, images, model)
    _train_and_finish(console, run, model, images, training, resume=resume, device=device, is_main=is_main)


_MODEL_OPTIONS = (
    *("latent", "latent_dim", "downscale", "width", "blocks", "downsampling", "upsampling", "kernel_size"),
)
_NOT_OF_THE_RUN = {"out", "resume", "device", "encoder", "steps", "epochs", "minutes"}


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]


def _build(console: Console, images: Images, options: dict[str, Any], own: dict[str, Any], seed: int) -> Autoencoder:
    """The model for these images, told in a sentence; warnings of kernels that make checkerboards are printed."""
    import torch

    from halfstride.autoencoder import ConvAutoencoder, EncoderAutoencoder, choose_latent, load_encoder

    torch.manual_seed(seed)
    size, channels = images.shape[1:], images.shape[0]
    model: Autoencoder
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if own["encoder"] is not None:
            model = EncoderAutoencoder(
                load_encoder(own["encoder"]),
                size,
                channels,
                upsampling=options["upsampling"],
                freeze=own["freeze"],
                mean=own["mean"] or 0.0,
                std=own["std"] or 1.0,
                encoder_name=own["encoder"],
            )
        else:
            asked = {name: options[name] for name in ("latent", "latent_dim", "downscale")}
            *chosen, reason = choose_latent(images, **asked)
            named = dict(zip(("latent", "latent_dim", "downscale", "linear"), chosen, strict=True))
            model = ConvAutoencoder(size, channels, **(options | named))
            console.print(f"Latent {model.latent}: {reason}.", soft_wrap=True)
    for warning in told:
        console.print(f"warning: {warning.message}", soft_wrap=True)
    return model


def _train_and_finish(
    console: Console,
    run: Run,
    model: Autoencoder,
    images: Images,
    options: TrainingOptions,
    *,
    resume: bool,
    device: str,
    is_main: bool,
) -> None:
    from halfstride.autoencoder import Interrupted, finish
    from halfstride.autoencoder import train as train_model

    started = time.monotonic()
    try:
        train_model(model, images, run.path, options, resume=resume, device=device)
    except Interrupted as stop:
        if is_main:
            typer.echo(str(stop), err=True)
        raise typer.Exit(130) from None
    if not is_main:
        return
    seconds = time.monotonic() - started
    with progress_bar(console) as report:
        evaluation, pictures = finish(run, model, images, progress=report)
    console.print()
    show_evaluation(console, evaluation)
    kept = min(run.metrics, key=lambda entry: entry["validation_loss"])["step"]
    total = sum(run.stages)
    early = "" if kept == total else f", of which the one after {kept:,} is kept: validation images were best then"
    console.print(f"\nTrained for {total:,} steps{early}; this took {seconds:.0f} s.", soft_wrap=True)
    console.print(f"The run is in {run.path}/: {', '.join(picture.name for picture in pictures)}", soft_wrap=True)
    show_skipped(console, images)
    console.print("\nNext:", style="bold")
    for command in _next(run.path, model):
        console.print(f"  {command}", soft_wrap=True)


def _next(out: Path, model: Autoencoder) -> Sequence[str]:
    return (
        f"halfstride reconstruct {out} YOUR_PICTURES/ --out back/",
        f"halfstride evaluate {out} YOUR_PICTURES/",
        f"halfstride train --out {out} --resume --steps 4000",
        "halfstride train YOUR_PICTURES/",
    )


def _introduce(console: Console, images: Images, model: Autoencoder) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    image, code = ("×".join(map(str, shape)) for shape in (images.shape, model.latent_shape))
    smaller = math.prod(images.shape) / math.prod(model.latent_shape)
    console.print(images.describe(), soft_wrap=True)
    console.print(
        f"An image of {image} becomes a latent {model.latent} of {code}, {smaller:.0f} times smaller; the model has "
        f"{parameters:,} parameters.",
        soft_wrap=True,
    )


# Resuming -------------------------------------------------------------------------------------------------------------


def _asked(context: typer.Context) -> dict[str, Any]:
    """What the command line names itself, by the names of the parameters."""
    found = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            found[name] = value
    return found


def _resumable(out: Path | None, asked: dict[str, Any], model_options: dict[str, Any]) -> Run:
    """The run to go on with; what the command line says of its model must be what the run has."""
    import json

    from halfstride.autoencoder import Run

    if out is None:
        raise ValueError("`--resume` needs the run's folder: name it by --out.")
    run = Run.open(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8")) if (out / "config.json").is_file() else {}
    for name, value in model_options.items():
        if name in asked and config.get(name, value) != value:
            raise _changed(name, asked[name], config[name])
    for name in ("freeze", "mean", "std"):
        if name in asked:
            raise ValueError(f"`--{name}` (={asked[name]}) is kept by the run: leave it out.")
    return run


def _moved(run: Run, options: ImageOptions, asked: dict[str, Any]) -> ImageOptions:
    """The run's images, read from where the command line says; how they are prepared must be as before."""
    recorded = run.image_options
    for name in ("size", "channels", "fit", "test_fraction"):
        if name in asked and getattr(options, name) != getattr(recorded, name):
            raise _changed(name, asked[name], getattr(recorded, name))
    return replace(recorded, **{field: value for field, value in _places(options).items() if _ARGUMENT[field] in asked})


_ARGUMENT = {"source": "data", "clean": "clean"}


def _places(options: ImageOptions) -> dict[str, Any]:
    return {"source": options.source, "clean": options.clean}


def _changed(name: str, asked: Any, known: Any) -> ValueError:
    option = f"--{name.replace('_', '-')}"
    return ValueError(
        f"`{option}` (={asked}) cannot change in a run that is resumed, where it is {known}: leave it out, or start a "
        "new run in another folder."
    )


def _floats(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(
            f"`{name}` (={text}) must be numbers, one for all channels or one each, such as 0.5."
        ) from None


# Sweep ----------------------------------------------------------------------------------------------------------------


@app.command()
def sweep(
    data: _Data = "digits",
    latents: Annotated[
        str, typer.Option(help="Sizes to try: numbers of a latent vector, or channels of a map.")
    ] = "8,16,32,64",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder, new or empty. By default runs/ and the data's name.")
    ] = None,
    latent: Annotated[Literal["vector", "map"] | None, typer.Option(help="By default chosen.")] = None,
    downscale: Annotated[int | None, typer.Option(help="Size of the image over that of the latent map.")] = None,
    size: Annotated[str | None, typer.Option(help="Height and width, as 64 or 64x48.")] = None,
    steps: Annotated[int, typer.Option(help="Of all trainings together.")] = 4000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sweep.")] = 0,
    device: Device = "auto",
) -> None:
    """Find out how many latent numbers pay: short trainings with a shared number of steps, beside PCA.

    Draws error against numbers, marks the size after which more gain little, and prints the command that trains it.

    Example:
      halfstride sweep photos/ --latents 2,4,8,16 --steps 6000
    """
    from halfstride import figures
    from halfstride.autoencoder import ImageOptions, Interrupted, Run, TrainingOptions, finish
    from halfstride.autoencoder import train as train_model
    from halfstride.autoencoder.runs import next_free, require_free, writing

    console = make_console()
    sizes = sorted(set(read_numbers("--latents", latents) or ()))
    if len(sizes) < 2 or sizes[0] < 1:
        raise ValueError(f"`--latents` (={latents}) must be two sizes or more, each at least 1, such as 8,16,32,64.")
    if steps < len(sizes):
        raise ValueError(f"`--steps` (={steps}) are shared by {len(sizes)} trainings: give at least {len(sizes)}.")
    folder = out or next_free(Path("runs") / f"sweep-{short_name(data)}")
    require_free(folder, "or empty it")
    images = load(ImageOptions(data, size=read_pair(size), seed=seed), console)
    console.print(images.describe(), soft_wrap=True)
    options = {"latent": latent, "downscale": downscale}
    rows: list[dict[str, Any]] = []
    counts: list[int] = []
    errors: list[float] = []
    for dim in sizes:
        own: dict[str, Any] = {"encoder": None}
        model = _build(console, images, options | {"latent_dim": dim}, own, seed)
        run = Run(folder / f"latent-{dim}")
        try:
            training = TrainingOptions(steps=steps // len(sizes), seed=seed)
            train_model(model, images, run.path, training, device=device, progress=False)
        except Interrupted:
            typer.echo(f"Stopped; finished sizes are in {folder}.", err=True)
            raise typer.Exit(130) from None
        evaluation, _ = finish(run, model, images)
        scores = evaluation.validation or evaluation.test
        counts.append(evaluation.numbers)
        errors.append(scores.mse)
        found = {row.name: row.validation_mse for row in evaluation.rows}
        rows.append(
            {"numbers": counts[-1], "model": errors[-1], "pca": found.get("PCA"), "thumbnail": found.get("thumbnail")}
        )
        pca = "" if found.get("PCA") is None else f"   PCA {found['PCA']:.5f}"
        console.print(f"{dim:>6}: {counts[-1]:,} numbers   validation MSE {errors[-1]:.5f}{pca}", soft_wrap=True)
    with writing(folder / "sweep.png") as temporary:
        figures.sweep(rows).savefig(temporary, format="png")
    best = figures.knee(counts, errors)
    dim = sizes[counts.index(best)]
    gain = f"More than {best:,} numbers gain little" if dim < sizes[-1] else "More numbers than these would still gain"
    console.print(f"\n{gain}: see {folder / 'sweep.png'}. To train this size for longer:", soft_wrap=True)
    extra = (f" --latent {latent}" if latent else "") + (f" --downscale {downscale}" if downscale else "")
    extra += f" --size {size}" if size else ""
    console.print(f"  halfstride train {data} --latent-dim {dim}{extra}", soft_wrap=True)
