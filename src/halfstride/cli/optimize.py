"""`halfstride optimize`: show how much faster a model can be."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device

if TYPE_CHECKING:
    from torch import Tensor, nn


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

    from halfstride.autoencoder.devices import find_device
    from halfstride.optimizing import optimize as optimize_model

    place = find_device(device)
    net = _load(model).train(training).to(place)
    example = tuple(_random(shape).to(place) for shape in input)
    with contextlib.nullcontext() if training else torch.no_grad():
        _, report = optimize_model(net, example)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        make_console().print(report)


def _load(reference: str) -> nn.Module:
    from torch import nn

    name, _, attribute = reference.partition(":")
    if not name or not attribute:
        raise typer.BadParameter(f"{reference!r} must be MODULE:FACTORY, as mynets:make_decoder.")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found: Any = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # the module is the user's, and may raise anything
        raise ValueError(f"`{reference}` cannot be made: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise ValueError(f"`{reference}` must give a torch.nn.Module, not {type(made).__name__}.")
    return made


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
