"""`halfstride embed`, `similar` and `duplicates`: the codes of pictures, and what is found by them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device, Encoder, RunFolder, progress_bar, show_skipped, tell

_SHOWN = 10


@app.command()
def embed(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, ending in .parquet or .npz.")] = Path(
        "codes.parquet"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted command has stopped.")] = False,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Encode pictures and write their codes to a file: path, class and code of each.

    Of a latent map the code is the mean and the standard deviation of each channel.

    Examples:
      halfstride embed runs/photos holiday/ --out codes.parquet
      torchrun --nproc-per-node 4 -m halfstride embed runs/photos holiday/ --out codes.npz
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.tasks import embed_to_file, load_run

    console = make_console()
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        found = embed_to_file(opened, images, out, resume=resume, progress=report)
    if found is None:  # another process has written
        return
    show_skipped(console, found.skipped)
    tell(console, f"{len(found):,} code{'' if len(found) == 1 else 's'} of {found.codes.shape[1]:,} numbers in {out}")


@app.command()
def similar(
    run: RunFolder,
    queries: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    images: Annotated[Path, typer.Argument(help="The folder to search, or a file that `halfstride embed` wrote.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many pictures to find for each query.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder, new or empty, for results.csv and overview.png.")
    ] = None,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Find the pictures that are most like each query, by the distance of their codes.

    Examples:
      halfstride similar runs/photos portrait.jpg holiday/ --out found/
      halfstride similar runs/photos portrait.jpg codes.parquet -k 3
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.autoencoder.writing import require_free
    from halfstride.tasks import load_run
    from halfstride.tasks import similar as find

    console = make_console()
    if out is not None:
        require_free(out, "or empty it")
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        found = find(opened, queries, images, k, progress=report)
        if out is not None:
            found.save(out)
    show_skipped(console, found.skipped)
    for query, names, distances in zip(found.queries, found.names, found.distances, strict=True):
        tell(console, query, style="bold")
        for name, distance in zip(names, distances, strict=True):
            tell(console, f"  {distance:<9.4g} {name}")
    if out is not None:
        tell(console, f"results.csv and overview.png in {out}")


@app.command()
def duplicates(
    run: RunFolder,
    images: Annotated[
        Path | None,
        typer.Argument(help="A folder. By default the run's own training images, against its test images."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another folder: pairs then have a picture of either. Nothing is deleted.")
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option(help="Up to which a pair counts. By default a tenth of the median of two pictures."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write pairs.csv and ladder.png to, new or empty.")
    ] = Path("duplicates"),
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Find pairs of pictures that are nearly the same, by the distance of their codes. Nothing is deleted.

    ladder.png shows pairs at growing distances, by which to choose another --distance.

    Examples:
      halfstride duplicates runs/photos holiday/
      halfstride duplicates runs/photos old/ --against new/ --distance 1.5 --out again/
      halfstride duplicates runs/photos    # are there test images that the run was trained on?
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.autoencoder.writing import require_free
    from halfstride.tasks import duplicates as find
    from halfstride.tasks import load_run

    console = make_console()
    require_free(out, "or empty it")
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        found = find(opened, images, against, distance=distance, progress=report)
        found.save(out)
    show_skipped(console, found.skipped)
    for apart, (first, second) in list(zip(found.distances, found.pairs, strict=True))[:_SHOWN]:
        tell(console, f"  {apart:<9.4g} {first}  {second}")
    count = len(found.pairs)
    more = f", and {found.left_out:,} more that are not listed" if found.left_out else ""
    told = "" if found.typical != found.typical else f"; two pictures drawn at random: {found.typical:.3g}"
    tell(console, f"{count:,} pair{'' if count == 1 else 's'} within {found.distance:.3g}{more}{told}.")
    tell(console, f"pairs.csv and ladder.png in {out}")
