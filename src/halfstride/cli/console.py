"""What the commands that run a model have in common: reading numbers, loading runs and images, showing results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from halfstride.autoencoder import Evaluation, ImageOptions, Images, Run
    from halfstride.autoencoder.evaluation import Row
    from halfstride.autoencoder.images.splits import Skipped
    from halfstride.autoencoder.own_encoder import Autoencoder

__all__ = [
    "Device",
    "Encoder",
    "Fit",
    "RunFolder",
    "as_json",
    "load",
    "open_model",
    "progress_bar",
    "read_numbers",
    "read_pair",
    "short_name",
    "show_evaluation",
    "show_images",
    "show_skipped",
    "tell",
]

RunFolder = Annotated[Path, typer.Argument(help="A folder that `halfstride train` wrote.")]
Fit = Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="How images of another size are brought to it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Encoder = Annotated[
    str | None, typer.Option(help="MODULE:FACTORY of the encoder that the run was trained with, if it is your own.")
]


def tell(console: Console, text: str = "", style: str | None = None) -> None:
    """Print a text: wrapped between words in a terminal, unchanged in a pipe or a file."""
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def load(options: ImageOptions, *, together: bool = False) -> Images:
    """The images, with a progress bar while they are read."""
    from halfstride.autoencoder.devices import within_memory

    with progress_bar() as report, within_memory(None):
        return options.load(together=together, progress=report)


def open_model(run: Run, encoder: str | None, device: str) -> Autoencoder:
    """A run's model on a device; an encoder of the user's own is imported by its name MODULE:FACTORY."""
    from halfstride.autoencoder import load_encoder
    from halfstride.autoencoder.devices import find_device

    found = find_device(device)
    return run.load_model(None if encoder is None else load_encoder(encoder)).to(found)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar on stderr, in a terminal only, that vanishes at the end; and the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


def show_images(console: Console, images: Images) -> None:
    """A description of the images, and every file that could not be used."""
    tell(console, images.describe(skipped=False))
    show_skipped(console, images.skipped)


def show_skipped(console: Console, skipped: Sequence[Skipped]) -> None:
    """Every file that could not be used, by name: what each command that reads pictures prints."""
    for name, reason in skipped:
        tell(console, f"skipped {name}: {reason}", style="yellow")


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """The model beside its baselines, its other measures, and the verdict."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "room", "MSE", "PSNR"):
        table.add_column(heading, justify="left" if heading in ("", "room") else "right", no_wrap=True)
    for row in evaluation.rows:
        style = "bold" if row is evaluation.rows[0] else ""
        table.add_row(row.name, _room(row), _error(row.mse), f"{row.psnr:.2f} dB", style=style)
    console.print(table)
    test, train = evaluation.test, evaluation.train
    ssim = "" if test.ssim is None else f", SSIM {test.ssim:.3f}"
    which = "the 1 test image" if test.images == 1 else f"all {test.images:,} test images"
    tell(
        console,
        f"On {which}: MSE {_error(test.mse)}, PSNR {test.psnr:.2f} dB{ssim}; MSE on training images "
        f"{_error(train.mse)}. The code is {evaluation.compression:.0f} times smaller than the image, and "
        f"{evaluation.used:,} of its {_numbers(evaluation.numbers)} vary between images.",
    )
    if evaluation.neighbours is not None:
        near = evaluation.neighbours
        tell(
            console,
            f"Nearest neighbours find the class of {near.latent:.1%} of the test images by code, of {near.pca:.1%} by "
            "PCA.",
        )
    console.print()
    tell(console, evaluation.verdict.sentence, style="bold")


def _room(row: Row) -> str:
    """What a row's images take, as text."""
    if row.bytes is not None:
        return f"{row.bytes:,.0f} bytes" + ("" if row.comparable else " (no smaller file)")
    return "" if row.numbers is None else _numbers(row.numbers)


def _numbers(count: int) -> str:
    return f"{count:,} number{'' if count == 1 else 's'}"


def _error(mse: float) -> str:
    return f"{mse:.5f}" if mse == 0 or mse >= 1e-4 else f"{mse:.1e}"


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
