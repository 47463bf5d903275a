"""`halfstride optimize`: show how much faster a model can be."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device

if TYPE_CHECKING:
    from torch import Tensor


@app.command()
def optimize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY",
            help="A function without arguments that returns the model, or the model, and the module that it is in.",
        ),
    ],
    input: Annotated[
        list[str], typer.Option("--input", "-i", help="Shape of an input, as 1x4x32x32; once for each argument.")
    ],
    training: Annotated[
        bool, typer.Option("--training", help="Training mode, forward and backward; else evaluation, forward only.")
    ] = False,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show which upsampling of a model can be computed faster, and how much faster the model is.

    Inputs are random numbers of the shapes given. In Python, halfstride.optimize(model, inputs) does the same and
    returns the model, ready to use.

    Examples:
      halfstride optimize mynets:make_decoder --input 1x4x32x32
      halfstride optimize mynets:make_unet --input 8x3x256x256 --training --json
    """
    import torch

    from halfstride._support.models import load_model
    from halfstride.autoencoder.devices import find_device
    from halfstride.optimizing import optimize as optimize_model

    place = find_device(device)
    net = load_model("model", model).train(training).to(place)
    example = tuple(_random(shape).to(place) for shape in input)
    with contextlib.nullcontext() if training else torch.no_grad():
        _, report = optimize_model(net, example)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        make_console().print(report)


def _random(text: str) -> Tensor:
    import torch

    try:
        shape = [int(part) for part in text.lower().replace("×", "x").split("x")]
    except ValueError:
        shape = [0]
    if min(shape) < 1:
        raise typer.BadParameter(f"--input {text!r} must be sizes of 1 or more, as 1x4x32x32.")
    try:
        return torch.randn(shape)
    except (RuntimeError, TypeError) as error:  # torch's errors for too little memory, and for numbers too large
        raise typer.BadParameter(f"--input {text!r} must fit into memory, as 1x4x32x32 does.") from error
