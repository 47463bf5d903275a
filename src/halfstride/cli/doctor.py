"""`halfstride doctor`: is there a checkerboard in a model or an image, and which layer makes it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device, load, show_skipped

if TYPE_CHECKING:
    from halfstride.checkerboard import Diagnosis, ImageDiagnosis

_TEST_IMAGES = 256  # enough to find a pattern of half a percent


@app.command()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A folder that `halfstride train` wrote, or MODULE:FACTORY, a function that returns a model, "
            "or a model and its example inputs."
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image to diagnose, instead of a model.")] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Where TARGET is MODULE:FACTORY, run the model on normal noise of this shape, such as 16x100x1x1."
        ),
    ] = None,
    device: Device = "auto",
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 1 where a checkerboard is found, 3 where that could not be judged."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder, new or empty, for doctor.json and doctor.png.")
    ] = None,
) -> None:
    """Look for checkerboards, measure them, and name the layers that make them.

    Examples:
      halfstride doctor runs/digits
      halfstride doctor mypackage.models:generator --input-shape 16x100x1x1 --out report
      halfstride doctor --image generated.png --check
    """
    if (target is None) == (image is None):
        raise typer.BadParameter("name a TARGET or an --image, one of the two.")
    is_factory = target is not None and ":" in target and not Path(target).exists()
    if input_shape is not None and not is_factory:
        raise typer.BadParameter("--input-shape is for a TARGET of the form MODULE:FACTORY.")
    if out is not None:
        from halfstride.autoencoder.writing import require_free

        require_free(out, "or empty it")  # before the diagnosis, which can take minutes
    found: Diagnosis | ImageDiagnosis
    if image is not None:
        found = _diagnose_image(image)
    elif is_factory:
        found = _diagnose_factory(str(target), input_shape, device)
    else:
        found = _diagnose_run(str(target), device)
    typer.echo(str(found))
    if out is not None:
        _write(out, found)
        typer.echo(f"doctor.json and doctor.png in {out}")
    if check and found.found is not False:
        raise typer.Exit(1 if found.found else 3)


def _diagnose_image(path: Path) -> ImageDiagnosis:
    from halfstride.autoencoder.images.decoding import decode, inspect
    from halfstride.checkerboard import diagnose_image

    header = inspect(path)
    return diagnose_image(decode(path, (1 if header.grey else 3, header.height, header.width)).float() / 255)


def _diagnose_factory(target: str, input_shape: str | None, device: str) -> Diagnosis:
    import torch

    from halfstride._support.models import load_model
    from halfstride._support.torch_private import tree_map_only
    from halfstride.autoencoder.devices import find_device
    from halfstride.checkerboard import diagnose

    place = find_device(device)
    loaded = load_model("target", target, with_inputs=True)
    model, inputs = loaded if isinstance(loaded, tuple) else (loaded, None)
    if input_shape is not None:
        try:
            shape = [int(size) for size in input_shape.split("x")]
            inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        except (ValueError, RuntimeError):
            raise ValueError(f"`--input-shape` (={input_shape}) must be sizes such as 16x100x1x1.") from None
    if inputs is None:
        raise ValueError(f"`target` (={target}) returns no example inputs: give --input-shape.")
    try:
        return diagnose(model.to(place), tree_map_only(torch.Tensor, lambda tensor: tensor.to(place), inputs))
    except RuntimeError as error:
        source = f"--input-shape {input_shape}" if input_shape else "the inputs that it comes with"
        raise ValueError(f"`target` (={target}) does not run on {source}: {error}") from error


def _diagnose_run(folder: str, device: str) -> Diagnosis:
    from halfstride.autoencoder import Run, to_float
    from halfstride.autoencoder.devices import find_device
    from halfstride.autoencoder.images.splits import inputs_and_targets
    from halfstride.checkerboard import diagnose

    place = find_device(device)
    if not Path(folder).exists():
        raise ValueError(f"`target` (={folder}) is no folder that `halfstride train` wrote, and not MODULE:FACTORY.")
    run = Run.open(folder)
    if run.image_options.source is None:
        raise ValueError(f"`target` (={folder}) was trained on images in memory: diagnose it in Python.")
    model = run.load_model().to(place)
    images = load(run.image_options)
    sample = images.test.sample(_TEST_IMAGES).images
    show_skipped(make_console(), images.skipped)
    return diagnose(model, to_float(inputs_and_targets(sample)[0].to(place)))


def _write(out: Path, found: Diagnosis | ImageDiagnosis) -> None:
    from halfstride import figures
    from halfstride.autoencoder.writing import writing_folder
    from halfstride.checkerboard import Diagnosis

    figure = figures.diagnosis(found) if isinstance(found, Diagnosis) else figures.image_diagnosis(found)
    with writing_folder(out) as folder:
        (folder / "doctor.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        figure.savefig(folder / "doctor.png")
