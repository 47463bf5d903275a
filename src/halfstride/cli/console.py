"""What the commands that run a model have in common: reading numbers, loading runs and images, showing progress."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from halfstride.autoencoder import Evaluation, ImageOptions, Images, Run
    from halfstride.autoencoder.own_encoder import Autoencoder

__all__ = [
    "Device",
    "Encoder",
    "Fit",
    "as_json",
    "load",
    "open_model",
    "progress_bar",
    "read_numbers",
    "read_pair",
    "short_name",
    "show_evaluation",
    "show_skipped",
]

Fit = Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="How images of another size are brought to it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Encoder = Annotated[
    str | None, typer.Option(help="MODULE:FACTORY of the encoder that the run was trained with, if it is your own.")
]


def load(options: ImageOptions, console: Console, *, together: bool = False) -> Images:
    """The images, with a progress bar while they are read."""
    with progress_bar(console) as report:
        return options.load(together=together, progress=report)


def open_model(run: Run, encoder: str | None, device: str) -> Autoencoder:
    """A run's model on a device; the user's own encoder is imported by the name that the user gives."""
    from halfstride.autoencoder import load_encoder
    from halfstride.autoencoder.devices import find_device

    found = find_device(device)
    return run.load_model(None if encoder is None else load_encoder(encoder)).to(found)


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
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


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """The model beside its baselines, what else is known of it, and the verdict."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "room", "MSE", "PSNR"):
        table.add_column(heading, justify="left" if heading in ("", "room") else "right")
    for row in evaluation.rows:
        room = f"{row.numbers:,} numbers" if row.bytes is None else f"{row.bytes:,.0f} bytes"
        table.add_row(
            row.name,
            (room if row.numbers != 0 else "") + ("" if row.comparable else " (no smaller file)"),
            f"{row.mse:.5f}",
            f"{row.psnr:.2f} dB",
            style="bold" if row is evaluation.rows[0] else "",
        )
    console.print(table)
    test, train = evaluation.test, evaluation.train
    ssim = "" if test.ssim is None else f", SSIM {test.ssim:.3f}"
    console.print(
        f"On all {test.images:,} test images MSE {test.mse:.5f}, PSNR {test.psnr:.2f} dB{ssim}; on training images "
        f"{train.mse:.5f}. The code is {evaluation.compression:.0f} times smaller than the image, and "
        f"{evaluation.used:,} of its {evaluation.numbers:,} numbers are in use.",
        soft_wrap=True,
    )
    if evaluation.neighbours is not None:
        near = evaluation.neighbours
        console.print(
            f"Nearest neighbours find the class of {near.latent:.1%} of the test images by code, of {near.pca:.1%} by "
            "PCA.",
            soft_wrap=True,
        )
    console.print(f"\n{evaluation.verdict.sentence}", style="bold", soft_wrap=True)


def show_skipped(console: Console, images: Images) -> None:
    """Every file that could not be used, by name."""
    for name, reason in images.skipped:
        console.print(f"skipped {name}: {reason}", style="yellow", soft_wrap=True)


def as_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def read_numbers(name: str, text: str | None, separator: str = ",") -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(separator))
    except ValueError:
        example = separator.join(("64", "48"))
        raise ValueError(f"`{name}` (={text}) must be whole numbers, such as {example}.") from None


def read_pair(text: str | None) -> tuple[int, int] | None:
    """Height and width, from one number or two."""
    numbers = read_numbers("--size", text, "x")
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise ValueError(f"`--size` (={text}) must be one number, or height and width such as 64x48.")
    return numbers[0], numbers[-1]


def short_name(data: str) -> str:
    """The data's name as that of a folder: the last part of a path or of a hub name."""
    return Path(data.removeprefix("hub:").replace(":", "-")).resolve().stem or "run"
