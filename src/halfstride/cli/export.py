"""`halfstride export`: a trained run as one file that needs no halfstride."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Encoder, RunFolder, progress_bar, tell


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.onnx, or NAME.pt2 for torch.export.")],
    parts: Annotated[
        Literal["all", "encoder", "decoder"], typer.Option(help="All, images to codes, or codes to images.")
    ] = "all",
    layout: Annotated[Literal["NHWC", "NCHW"], typer.Option(help="Order of the axes of images.")] = "NHWC",
    half: Annotated[
        bool, typer.Option("--half", help="Store weights in half precision, in a file of half the size.")
    ] = False,
    encoder: Encoder = None,
) -> None:
    """Write a trained run as one ONNX file, checked against PyTorch on test images before it gets its name.

    It takes images as bytes and returns images, codes and, where the run has a detector, scores, anomaly maps and
    labels. Beside it lies a program that runs it with numpy and onnxruntime alone.

    Example:
      halfstride export runs/parts --out parts.onnx
    """
    from halfstride.tasks import export as export_run
    from halfstride.tasks import load_run

    console = make_console()
    opened = load_run(run, device="cpu", encoder=encoder)
    with progress_bar() as report:
        exported = export_run(opened, out, parts=parts, layout=layout, half=half, progress=report)
    size = exported.path.stat().st_size / 2**20
    tell(console, f"{exported.path}, {size:.1f} MiB, equals PyTorch on {exported.images} images:", style="bold")
    for name, shape in exported.inputs.items():
        tell(console, f"  takes    {name:<12} {shape}")
    for name, shape in exported.outputs.items():
        tell(console, f"  returns  {name:<12} {shape}, within {exported.errors[name]:.1e} of its range")
    if exported.example is not None:
        tell(console, f"Run it without halfstride: python {exported.example}")
