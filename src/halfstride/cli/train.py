"""`halfstride train`: from images to a trained autoencoder."""

from __future__ import annotations

import math
import os
import shlex
import time
import warnings
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
    read_pair,
    short_name,
    show_evaluation,
    show_images,
    show_skipped,
    tell,
)
from halfstride.cli.resuming import MODEL_OPTIONS, PLACES, check_encoder, check_resumed, named

if TYPE_CHECKING:
    from rich.console import Console

    from halfstride.autoencoder import Images, Run, TrainingOptions
    from halfstride.autoencoder.own_encoder import Autoencoder

_IMAGES, _MODEL, _OWN, _TRAINING = "The images", "The model", "An encoder of your own", "The training"

Data = Annotated[
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
    data: Data = "digits",
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
        float | None,
        _option(
            _TRAINING, "The highest of its schedule. By default 0.001, or 0.004 for 16 and more numbers of a vector."
        ),
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
        _option(_TRAINING, "Side of a map's random crops, 0 for none. By default 3/4 of the image, 32 to 64."),
    ] = None,
    jitter: Annotated[
        float | None,
        _option(_TRAINING, "Largest random change of brightness and contrast, 0 to 1. By default 0.2 for a map."),
    ] = None,
    seed: Annotated[int, _option(_TRAINING, "The same seed gives the same run.")] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], _option(_TRAINING, "auto takes bfloat16 where the device has it.")
    ] = "auto",
    device: Device = "auto",
    tensorboard: Annotated[bool, _option(_TRAINING, "Write TensorBoard's files too.", "--tensorboard")] = False,
    detector: Annotated[
        bool,
        _option(
            _TRAINING,
            "Fit a detector at the end, for `halfstride detect`: up to two minutes.",
            "--detector/--no-detector",
        ),
    ] = True,
) -> None:
    """Train an autoencoder on images, see how good it is, and draw what it learned.

    Without any argument it trains on handwritten digits.

    Ctrl-C saves the run and says how to go on with it. After a crash, --resume goes on from the last checkpoint.

    Examples:
      halfstride train
      halfstride train photos/ --minutes 10
      halfstride train photos/ --size 128 --latent-dim 8 --out runs/photos
      halfstride train scans/ --corrupt gaussian:0.1,blur:1
      halfstride train --out runs/photos --resume --steps 4000
      torchrun --nproc-per-node 2 -m halfstride train photos/ --out runs/two
    """
    from halfstride.autoencoder import ImageOptions, Run, TrainingOptions, load_encoder
    from halfstride.autoencoder.devices import find_device
    from halfstride.autoencoder.run_folder import WAY_OUT
    from halfstride.autoencoder.writing import next_free, require_free

    is_main = int(os.environ.get("RANK", "0")) == 0
    console = make_console(quiet=not is_main)
    given, asked = context.params, named(context)
    if data == "":
        raise ValueError("`data` (=) must be a folder of images, a .npy or .npz file, hub:NAME, or digits.")
    find_device(device)  # before the images are read, which can take a while
    training = replace(
        TrainingOptions(**{field.name: given[field.name] for field in fields(TrainingOptions) if field.name in given}),
        corruption=corrupt,
        beta=1.0 if variational is None else variational,
    )
    if resume and out is None:
        raise ValueError("`--resume` needs the run's folder: name it by --out.")
    recorded = Run.open(out).image_options if resume and out is not None else None
    image_options = ImageOptions(
        data if recorded is None or "data" in asked else recorded.source,
        clean=clean,
        size=read_pair(size),
        channels=channels,
        fit=fit,
        test_fraction=test_fraction,
        seed=seed,
    )
    model_options = {name: given[name] for name in MODEL_OPTIONS} | {"variational": variational is not None}
    own: dict[str, Any] = {"encoder": encoder, "freeze": freeze}
    own |= {"mean": _floats("--mean", mean), "std": _floats("--std", std)}
    check_encoder(own, asked)
    if recorded is not None and out is not None:
        run = Run(out)
        check_resumed(run, asked, training, image_options, model_options | own)
        # `train` compares the images with the run's, and records where they lie now.
        recorded = replace(
            recorded, **{field: getattr(image_options, field) for field, name in PLACES.items() if name in asked}
        )
        if recorded.source is None:
            raise ValueError(f"`--out` (={out}) was trained on images in memory: resume it in Python, or name them.")
        images = load(recorded)
        model = open_model(run, encoder, device)
        show_images(console, images)
    else:
        if out is None:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise ValueError("`--out` must name the run's folder where several processes train together.")
            out = next_free(Path("runs") / short_name(data))
        require_free(out, WAY_OUT)
        own["module"] = None if encoder is None else load_encoder(encoder)
        images = load(image_options)
        show_images(console, images)
        model, told = build_model(images, model_options, own, seed)
        for line in told:
            tell(console, line)
        run = Run(out)
    _introduce(console, images, model)
    _train_and_finish(console, run, model, images, training, resume=resume, device=device, is_main=is_main)
    if is_main:
        # A detector judges images as they are.
        if detector and not training.corruption and images.options.clean is None:
            _fit_detector(console, run, model, images)
        console.print()
        tell(console, "Next:", style="bold")
        for line in _next(run, model, images):
            console.print(f"  {line}", soft_wrap=True)  # so that it can be pasted


def build_model(
    images: Images, options: dict[str, Any], own: dict[str, Any], seed: int
) -> tuple[Autoencoder, list[str]]:
    """The model for these images, and sentences: why it has its kind of latent, and warnings about its kernels."""
    import torch

    from halfstride.autoencoder import ConvAutoencoder, EncoderAutoencoder, choose_latent
    from halfstride.autoencoder.devices import within_memory
    from halfstride.autoencoder.memory import build_within_memory

    torch.manual_seed(seed)
    size, channels = images.shape[1:], images.shape[0]
    model: Autoencoder
    lines = []
    with within_memory(None), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if own["encoder"] is not None:
            given = {name: own[name] if len(own[name]) > 1 else own[name][0] for name in ("mean", "std") if own[name]}
            given |= {"upsampling": options["upsampling"], "freeze": own["freeze"], "encoder_name": own["encoder"]}
            model = EncoderAutoencoder(own["module"], size, channels, **given)
        else:
            choice = choose_latent(images, **{name: options[name] for name in ("latent", "latent_dim", "downscale")})
            options |= {name: value for name, value in choice._asdict().items() if name != "reason"}
            model = build_within_memory(ConvAutoencoder, size, channels, **options)
            lines.append(f"Latent {model.latent}: {choice.reason}.")
    return model, lines + [f"warning: {warning.message}" for warning in told]


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
    from halfstride.autoencoder.devices import within_memory

    started = time.monotonic()
    before = len(images.skipped)
    try:
        train_model(model, images, run.path, options, resume=resume, device=device)
    except Interrupted as stop:
        if is_main:
            typer.echo(str(stop), err=True)
        raise typer.Exit(130) from None
    if not is_main:
        return
    seconds = time.monotonic() - started
    with progress_bar() as report, within_memory(None):
        evaluation, pictures = finish(run, model, images, progress=report)
    console.print()
    show_evaluation(console, evaluation)
    console.print()
    kept = min(run.metrics, key=lambda entry: entry["validation_loss"])["step"]
    total = sum(run.stages)
    early = "" if kept == total else f", of which the one after {kept:,} is kept: validation images were best then"
    tell(console, f"Trained for {total:,} steps{early}; this took {seconds:.0f} s.")
    first, *others = (picture.name for picture in pictures)
    tell(console, f"Look at {run.path / first}; beside it are {', '.join(others)} and README.md.")
    show_skipped(console, images.skipped[before:])  # what streams met on the way


def _fit_detector(console: Console, run: Run, model: Autoencoder, images: Images) -> None:
    """Fit a detector for `halfstride detect`, where there are images enough."""
    from halfstride.autoencoder.devices import within_memory
    from halfstride.autoencoder.scoring import device_of
    from halfstride.cli.detect import show_detector
    from halfstride.tasks import TrainedRun, fit_detector

    try:
        with progress_bar() as report, within_memory(None):
            fitted = fit_detector(TrainedRun(run, model, device_of(model)), images, progress=report)
    except ValueError as error:  # the run is good for everything else
        tell(console, f"No detector was fitted: {error}")
        return
    console.print()
    show_detector(console, fitted)


def _next(run: Run, model: Autoencoder, images: Images) -> list[str]:
    """Commands, and what each is for."""
    from halfstride.autoencoder import EncoderAutoencoder

    out = shlex.quote(str(run.path))
    own = f" --encoder {shlex.quote(model.encoder_name)}" if isinstance(model, EncoderAutoencoder) else ""
    lines = [
        (f"halfstride reconstruct {out} PICTURES/{own} --out back/", "try other pictures"),
        (f"halfstride evaluate {out} PICTURES/{own}", "score other pictures"),
    ]
    if (run.path / "detector.json").is_file():
        lines.append((f"halfstride detect {out} PICTURES/{own} --out found/", "find the odd ones"))
    if run.training_options.corruption or images.options.clean is not None:
        lines.append((f"halfstride denoise {out} PICTURES/{own} --out clean/", "clean other pictures"))
    lines.append((f"halfstride train --out {out}{own} --resume --steps {sum(run.stages)}", "train it longer"))
    if images.options.source == "digits":
        lines.append(("halfstride train PICTURES/", "use your own pictures"))
    width = max(len(command) for command, _ in lines)
    return [f"{command:<{width}}  # {purpose}" for command, purpose in lines]


def _introduce(console: Console, images: Images, model: Autoencoder) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    image, code = ("×".join(map(str, shape)) for shape in (images.shape, model.latent_shape))
    smaller = math.prod(images.shape) / math.prod(model.latent_shape)
    tell(
        console,
        f"An image of {image} becomes a latent {model.latent} of {code}, {smaller:.0f} times smaller; the model has "
        f"{parameters:,} parameters.",
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
