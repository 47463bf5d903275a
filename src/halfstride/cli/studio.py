"""`halfstride studio` and `halfstride animate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from halfstride.cli.app import app


@app.command()
def studio(
    runs: Annotated[
        Path | None, typer.Argument(help="A folder of runs, or a run. By default runs/, if it exists.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port to listen on; if it is in use, the next free one.")
    ] = 8765,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Also answer by this name: that of a proxy, such as a JupyterHub. May be repeated."
        ),
    ] = None,
) -> None:
    """Open the studio, a local web page for upsampling layers, your autoencoders, and checkerboards.

    Only this machine can connect to it, and it uses no network. Behind the proxy of a JupyterHub it is at
    https://hub.example.org/user/NAME/proxy/8765/ once its host is allowed: all who may use the proxy may use it.

    Examples:
      halfstride studio
      halfstride studio runs/
      halfstride studio runs/photos --no-open --port 9000
      halfstride studio --no-open --allow-host hub.example.org
    """
    from halfstride.studio.server import serve

    if runs is None and Path("runs").is_dir():
        runs = Path("runs")
    serve(runs, host, port, open_browser=not no_open, allowed_hosts=allow_host or ())


@app.command()
def animate(
    form: Annotated[Literal["conv", "transposed", "resize", "subpixel"], typer.Argument(help="The kind of layer.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .gif or .svg file, or a folder for numbered PNG files.")
    ] = Path("layer.gif"),
    input_size: Annotated[int, typer.Option("--input", "-n", help="Positions of the input along each axis.")] = 3,
    kernel_size: Annotated[int, typer.Option("--kernel", "-k", help="Taps of the kernel along each axis.")] = 3,
    stride: Annotated[int, typer.Option("--stride", "-s", help="The stride, or the scale factor.")] = 2,
    padding: Annotated[int, typer.Option("--padding", "-p", help="The padding at both ends.")] = 0,
    dilation: Annotated[int, typer.Option("--dilation", "-d", help="Positions from one tap to the next.")] = 1,
    output_padding: Annotated[int, typer.Option("--output-padding", help="Of a transposed convolution.")] = 0,
    dims: Annotated[int, typer.Option(min=1, max=2, help="The number of axes.")] = 2,
    input_values: Annotated[str | None, typer.Option(help="Row by row, as 1,2,3. By default 1, 2, 3, ...")] = None,
    kernel_values: Annotated[str | None, typer.Option(help="The same for the kernel.")] = None,
    view: Annotated[
        Literal["scatter", "sliding"], typer.Option(help="Step through the inputs, or slide along the outputs.")
    ] = "scatter",
    theme: Annotated[Literal["light", "dark"], typer.Option(help="Light or dark.")] = "light",
    seconds: Annotated[float | None, typer.Option(min=0.02, max=60, help="How long a frame is shown.")] = None,
) -> None:
    """Draw the computation of a small layer as an animation for a slide: GIF, SVG or PNG files.

    Examples:
      halfstride animate transposed --kernel 3 --stride 2
      halfstride animate resize --padding 1 --view sliding --theme dark --out resize.svg
      halfstride animate conv --dims 1 --input 8 --padding 1 --out frames/
    """
    from halfstride.autoencoder.writing import writing, writing_folder
    from halfstride.studio.animation import animate as make_frames
    from halfstride.studio.animation import encode, numbered
    from halfstride.studio.layer import read_layer

    layer = read_layer(
        form=form,
        dims=dims,
        input_size=input_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
        input=input_values,
        kernel=kernel_values,
    )
    frames = make_frames(layer, view, theme)
    kind = out.suffix.lower().removeprefix(".")
    if kind in ("gif", "svg"):
        with writing(out) as temporary:
            temporary.write_bytes(encode(frames, "gif" if kind == "gif" else "svg", seconds))
    elif kind:
        raise ValueError(f"`--out` (={out}) must end in .gif or .svg, or name a folder.")
    else:
        with writing_folder(out) as folder:
            for name, content in numbered(frames):
                (folder / name).write_bytes(content)
    typer.echo(f"{len(frames)} frames in {out}")
