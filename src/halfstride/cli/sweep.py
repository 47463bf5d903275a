"""`halfstride sweep`: how large a latent pays."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import (
    Device,
    load,
    progress_bar,
    read_numbers,
    read_pair,
    short_name,
    show_images,
    show_skipped,
    tell,
)
from halfstride.cli.train import Data, build_model

if TYPE_CHECKING:
    from rich.console import Console

    from halfstride.autoencoder import Images


@app.command()
def sweep(
    data: Data = "digits",
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
    from halfstride.autoencoder import ImageOptions
    from halfstride.autoencoder.devices import find_device
    from halfstride.autoencoder.writing import next_free, require_free

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("A sweep runs in one process: start it without torchrun, or train each size by itself.")
    console = make_console()
    dims = sorted(set(read_numbers("--latents", latents) or ()))
    if len(dims) < 2 or dims[0] < 1:
        raise ValueError(f"`--latents` (={latents}) must be two sizes or more, each at least 1, such as 8,16,32,64.")
    if steps < len(dims):
        raise ValueError(f"`--steps` (={steps}) are shared by {len(dims)} trainings: give at least {len(dims)}.")
    find_device(device)
    folder = out or next_free(Path("runs") / f"sweep-{short_name(data)}")
    require_free(folder, "or empty it")
    images = load(ImageOptions(data, size=read_pair(size), seed=seed))
    show_images(console, images)
    asked = {"latent": latent, "downscale": downscale}
    for dim in reversed(dims):  # one that is impossible is known before hours are spent on the others
        _, told = build_model(images, asked | {"latent_dim": dim}, {"encoder": None}, seed)
    for line in told:
        tell(console, line)
    each, before = steps // len(dims), len(images.skipped)
    rows = _sweep(console, images, asked, dims, folder, steps=each, seed=seed, device=device)
    show_skipped(console, images.skipped[before:])  # what streams met on the way
    console.print()
    tell(console, f"See {folder / 'sweep.png'}.")
    options = {"latent": latent, "downscale": downscale, "size": size, "seed": seed or None}
    options["device"] = None if device == "auto" else device
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    if behind := [f"{row['numbers']:,}" for row in rows if row["pca"] is not None and row["model"] > row["pca"]]:
        those = " and ".join(filter(None, (", ".join(behind[:-1]), behind[-1])))
        behind_pca = f"after {each:,} steps the model is behind PCA with {those} numbers"
        tell(console, f"Which size pays cannot be told yet: {behind_pca}. Train longer:", style="bold")
        command = f"halfstride sweep {shlex.quote(data)} --latents {latents} --steps {4 * steps}{given}"
    else:
        dim, knee = _knee(rows)
        tell(console, f"{knee} To train this size for longer:", style="bold")
        command = f"halfstride train {shlex.quote(data)} --latent-dim {dim}{given}"
    console.print(f"  {command}", soft_wrap=True)  # so that it can be pasted


def _sweep(
    console: Console,
    images: Images,
    asked: dict[str, Any],
    dims: list[int],
    folder: Path,
    *,
    steps: int,
    seed: int,
    device: str,
) -> list[dict[str, Any]]:
    """Train a model of each size, and draw the errors; a row for each."""
    from halfstride import figures
    from halfstride.autoencoder import Interrupted, Run, TrainingOptions, finish
    from halfstride.autoencoder import train as train_model
    from halfstride.autoencoder.writing import writing

    rows: list[dict[str, Any]] = []
    console.print()
    console.print(
        f"{'latent-dim':>10} {'numbers':>9} {'validation MSE':>15} {'PCA':>9} {'thumbnail':>10}", style="bold"
    )
    for dim in dims:
        model, _ = build_model(images, asked | {"latent_dim": dim}, {"encoder": None}, seed)
        run = Run(folder / f"latent-{dim}")
        try:
            training = TrainingOptions(steps=steps, seed=seed)
            train_model(model, images, run.path, training, device=device, progress=False)
        except Interrupted:
            finished = ", ".join(f"latent-{row['latent_dim']}" for row in rows) or "no size yet"
            typer.echo(f"Stopped. Finished in {folder}: {finished}.", err=True)
            raise typer.Exit(130) from None
        with progress_bar() as report:
            evaluation, _ = finish(run, model, images, progress=report)
        error = (evaluation.validation or evaluation.test).mse
        found = {row.name: row.validation_mse for row in evaluation.rows}
        row: dict[str, Any] = {"latent_dim": dim, "numbers": evaluation.numbers, "model": error}
        row |= {"pca": found.get("PCA"), "thumbnail": found.get("thumbnail")}
        rows.append(row)
        others = (f"{value:.5f}" if (value := row[name]) is not None else "-" for name in ("pca", "thumbnail"))
        console.print("{:>10,} {:>9,} {:>15.5f} {:>9} {:>10}".format(dim, row["numbers"], error, *others))
        if len(rows) > 1:
            with writing(folder / "sweep.png") as temporary:
                figures.sweep(rows).savefig(temporary, format="png")
    return rows


def _knee(rows: list[dict[str, Any]]) -> tuple[int, str]:
    """The size that pays, and a sentence on it."""
    from halfstride import figures

    knee = figures.knee([row["numbers"] for row in rows], [max(row["model"], 1e-12) for row in rows])
    place = next(place for place, row in enumerate(rows) if row["numbers"] == knee)
    if place == len(rows) - 1:
        told = f"More than {knee:,} numbers may gain still more: the last step gained a fifth per doubling, or more."
    elif place == 0:
        told = f"More than {knee:,} numbers gain little, less than a fifth per doubling; fewer were not tried."
    else:
        told = f"More than {knee:,} numbers gain little: less than a fifth per doubling."
    return rows[place]["latent_dim"], told
