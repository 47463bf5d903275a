"""`halfstride doctor`: is there a checkerboard in a model or a picture, and which layer makes it?"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfstride.cli.app import app
from halfstride.cli.console import Device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 256  # images of a run's test set: enough to find half a percent


@app.command()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A folder that `halfstride train` wrote, or MODULE:FACTORY, a function that returns a model, "
            "or a model and its example inputs."
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to look at, instead of a model.")] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Where TARGET is MODULE:FACTORY, run the model on normal noise of this shape, such as 16x100x1x1."
        ),
    ] = None,
    device: Device = "auto",
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a checkerboard is found.")] = False,
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
    if input_shape is not None and (target is None or not _is_factory(target)):
        raise typer.BadParameter("--input-shape is for a TARGET of the form MODULE:FACTORY.")
    if out is not None:
        from halfstride.autoencoder.writing import require_free

        require_free(out, "or empty it")  # before the work, which can take a while
    found = _look_at_image(image) if image is not None else _look_at_model(str(target), input_shape, device)
    typer.echo(str(found))
    if out is not None:
        _write(out, found)
        typer.echo(f"doctor.json and doctor.png in {out}")
    if check and found.found:
        raise typer.Exit(1)


def _look_at_image(path: Path) -> Any:
    from halfstride.autoencoder.images.decoding import decode, inspect
    from halfstride.checkerboard import diagnose_image

    header = inspect(path)
    return diagnose_image(decode(path, (1 if header.grey else 3, header.height, header.width)).float() / 255)


def _look_at_model(target: str, input_shape: str | None, device: str) -> Any:
    from halfstride.autoencoder.devices import find_device
    from halfstride.checkerboard import diagnose

    place = find_device(device)
    if _is_factory(target):
        from torch import Tensor
        from torch.utils._pytree import tree_map_only

        model, inputs = _made(target, input_shape)
        try:
            return diagnose(model.to(place), tree_map_only(Tensor, lambda tensor: tensor.to(place), inputs))
        except RuntimeError as error:
            told = f"--input-shape {input_shape}" if input_shape else "the inputs that it comes with"
            raise ValueError(f"`target` (={target}) does not run on {told}: {error}") from error
    if not Path(target).exists():
        raise ValueError(f"`target` (={target}) is no folder that `halfstride train` wrote, and not MODULE:FACTORY.")
    from halfstride.autoencoder import Run, to_float
    from halfstride.autoencoder.images.splits import inputs_and_targets

    run = Run.open(target)
    if run.image_options.source is None:
        raise ValueError(f"`target` (={target}) was trained on images in memory: diagnose it in Python.")
    model = run.load_model().to(place)
    sample = run.image_options.load().test.sample(_EXAMPLES).images
    return diagnose(model, to_float(inputs_and_targets(sample)[0].to(place)))


def _is_factory(target: str) -> bool:
    return ":" in target and not Path(target).exists()


def _made(target: str, input_shape: str | None) -> tuple[Any, Any]:
    """The model that a factory makes, and its inputs."""
    import torch

    module_name, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`target` (={target}) cannot be imported: {error}.") from error
    finally:
        sys.path.pop(0)
    try:
        made = factory()
    except Exception as error:  # whatever a stranger's code raises
        raise ValueError(f"`target` (={target}) raises {type(error).__name__}: {error}") from error
    model, inputs = made if isinstance(made, tuple) else (made, None)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"`target` (={target}) returns a {type(model).__name__}: it must return a torch.nn.Module.")
    if input_shape is not None:
        try:
            shape = [int(size) for size in input_shape.split("x")]
            inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        except (ValueError, RuntimeError):
            raise ValueError(f"`--input-shape` (={input_shape}) must be sizes such as 16x100x1x1.") from None
    if inputs is None:
        raise ValueError(f"`target` (={target}) returns no example inputs: give --input-shape.")
    return model, inputs


def _write(out: Path, found: Any) -> None:
    from halfstride import figures
    from halfstride.autoencoder.writing import writing_folder
    from halfstride.checkerboard import Diagnosis

    figure: Figure = figures.diagnosis(found) if isinstance(found, Diagnosis) else figures.image_diagnosis(found)
    with writing_folder(out) as folder:
        (folder / "doctor.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        figure.savefig(folder / "doctor.png")
