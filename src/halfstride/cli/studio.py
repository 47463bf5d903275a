"""`halfstride studio` and `halfstride animate`: layers and runs to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfstride.cli.app import app


@app.command()
def studio(
    runs: Annotated[
        Path | None, typer.Argument(help="A folder of runs, or a run. By default runs/, where it is there.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port to listen on; where it is taken, the next free one.")
    ] = 8765,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """A page on this machine: upsampling layers to touch, and your autoencoder to play with.

    It is served to this machine alone, and asks nothing of the outside.

    Examples:
      halfstride studio
      halfstride studio runs/
      halfstride studio runs/photos --no-open --port 9000
    """
    from halfstride.studio.server import serve

    if runs is None and Path("runs").is_dir():
        runs = Path("runs")
    serve(runs, host, port, open_browser=not no_open)
