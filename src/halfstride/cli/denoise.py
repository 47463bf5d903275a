"""`halfstride denoise`: pictures cleaned by a model that was trained for it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device, Encoder, progress_bar, show_skipped, tell


@app.command()
def denoise(
    run: Annotated[Path, typer.Argument(help="A folder that `halfstride train` wrote, with --corrupt or --clean.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to, new or empty.")] = Path("denoised"),
    clean: Annotated[
        Path | None, typer.Option(help="A folder of clean twins of the same names: PSNR and SSIM before and after.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted command has stopped.")] = False,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Remove from pictures what a run was trained to remove, and write them as PNG files of the same size.

    A model with a latent map works at each picture's own size; any other takes one size, to which pictures are
    stretched and back. overview.png shows the first ones before and after, results.csv lists all.

    Examples:
      halfstride denoise runs/scans new-scans/ --out cleaned/
      torchrun --nproc-per-node 4 -m halfstride denoise runs/scans new-scans/ --out cleaned/
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.tasks import denoise_files, load_run

    console = make_console()
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        written = denoise_files(opened, images, out, clean=clean, resume=resume, progress=report)
    if written is None:
        return
    results, skipped = written
    show_skipped(console, skipped)
    if not opened.model.takes_any_size:
        height, width = opened.model.image_size
        tell(console, f"This model takes {height}×{width} pixels: pictures of other sizes were stretched, and back.")

    def mean(name: str) -> float | None:
        values = [getattr(quality, name) for _, quality in results if getattr(quality, name, None) is not None]
        return statistics.fmean(values) if values else None

    for label, name, digits in (("PSNR in dB", "psnr", 2), ("SSIM", "ssim", 3)):
        before, after = mean(f"{name}_before"), mean(f"{name}_after")
        if before is not None:
            tell(console, f"{label} beside the clean pictures: {before:.{digits}f} before, {after:.{digits}f} after.")
    tell(console, f"{len(results):,} picture{'' if len(results) == 1 else 's'}, results.csv and overview.png in {out}")
