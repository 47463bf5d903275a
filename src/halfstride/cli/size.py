"""`halfstride size`: the arithmetic of convolutions and of the layers that upsample, forwards and backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from halfstride import formulas, geometry
from halfstride.cli.app import app, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from halfstride._core.planner import Choice

size = typer.Typer(
    help="""Sizes of convolutions and of the layers that upsample, forwards and backwards.

    Every number may be one for each axis, joined by x, as in 28x27.

    Examples:
      halfstride size transposed --input 2 --kernel 3 --stride 2
      halfstride size conv --input 28x27 --kernel 3 --stride 2 --padding 1
      halfstride size resize --input 14 --kernel 3 --scale 2 --explain
      halfstride size solve --from 7 --to 14
    """,
    no_args_is_help=True,
)
app.add_typer(size, name="size")


def _per_axis(text: str) -> geometry.Ints:
    try:
        numbers = tuple(int(number) for number in text.split("x"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number, or one for each axis such as 28x27.") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _channels(text: str) -> tuple[int, int]:
    channels = _per_axis(text)
    if isinstance(channels, int):
        channels = channels, channels
    if len(channels) != 2 or min(channels) < 1:
        raise typer.BadParameter(f"{text!r} is not one number of channels, or two (in and out) such as 64x32.")
    return channels[0], channels[1]


def _option(*names: str, help: str) -> Any:
    return typer.Option(*names, parser=_per_axis, metavar="N[xN]", help=help)


# Any, because typer knows no unions: each is a geometry.Ints. Defaults are text, which is parsed as if it were typed.
_Input = Annotated[Any, _option("--input", "-n", help="Positions of the input.")]
_Kernel = Annotated[Any, _option("--kernel", "-k", help="Taps of the kernel.")]
_Dilation = Annotated[Any, _option("--dilation", "-d", help="Positions from one tap to the next.")]
_Explain = Annotated[bool, typer.Option("--explain", help="List the algorithms, what each costs, and which is chosen.")]
_Channels = Annotated[
    Any, typer.Option("--channels", parser=_channels, metavar="N[xN]", help="Input and output channels, for --explain.")
]


@size.command()
def conv(
    input_size: _Input,
    kernel_size: _Kernel,
    stride: Annotated[Any, _option("--stride", "-s", help="Input positions from kernel to kernel.")] = "1",
    padding: Annotated[Any, _option("--padding", "-p", help="Positions added at both ends of the input.")] = "0",
    dilation: _Dilation = "1",
) -> None:
    """The output size of a convolution or a pooling, step by step.

    It also shows how evenly the input is read, which other inputs have the same output size, and with which output
    padding a transposed convolution leads back to each of them.

    Example:
      halfstride size conv --input 28 --kernel 3 --stride 2 --padding 1
    """
    output_size = geometry.conv_size(input_size, kernel_size, stride, padding, dilation)
    output_padding = geometry.output_padding_for(output_size, input_size, kernel_size, stride, padding, dilation)
    axes = _by_axis(output_size, input_size, kernel_size, stride, padding, output_padding, dilation)
    _print_layer("Conv", [_Axis(*axis) for axis in axes])


@size.command()
def transposed(
    input_size: _Input,
    kernel_size: _Kernel,
    stride: Annotated[Any, _option("--stride", "-s", help="Output positions from kernel to kernel.")] = "1",
    padding: Annotated[Any, _option("--padding", "-p", help="Positions cut from both ends of the output.")] = "0",
    output_padding: Annotated[Any, _option("--output-padding", "-o", help="Positions added at its end.")] = "0",
    dilation: _Dilation = "1",
    explain: _Explain = False,
    channels: _Channels = "64",
) -> None:
    """The output size of a transposed convolution, step by step.

    It also shows how evenly the kernels cover the output, and the other sizes that other output paddings lead to.

    Examples:
      halfstride size transposed --input 2 --kernel 3 --stride 2
      halfstride size transposed --input 14 --kernel 4 --stride 2 --padding 1 --explain --channels 64x32
    """
    output_size = geometry.conv_transpose_size(input_size, kernel_size, stride, padding, output_padding, dilation)
    layer = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    plan = _plan("transposed", channels, input_size, kernel_size, layer) if explain else None
    axes = _by_axis(input_size, output_size, kernel_size, stride, padding, output_padding, dilation)
    _print_layer("ConvTranspose", [_Axis(*axis) for axis in axes])
    if plan is not None:
        _print_plan(plan)


@size.command()
def resize(
    input_size: _Input,
    kernel_size: _Kernel,
    scale_factor: Annotated[Any, _option("--scale", "-s", help="How often each position is repeated.")] = "2",
    padding: Annotated[
        Any,
        typer.Option(
            "--padding",
            "-p",
            parser=lambda text: text if text == "same" else _per_axis(text),
            metavar="same|N[xN]",
            help="Positions added at both ends of the repeated input.",
        ),
    ] = "same",
    dilation: _Dilation = "1",
    explain: _Explain = False,
    channels: _Channels = "64",
) -> None:
    """The output size of a resize-convolution: nearest-neighbour upsampling, then a convolution of stride 1.

    With --explain it also lists the algorithms that can compute the layer, their products and the bytes they move.

    Example:
      halfstride size resize --input 14 --kernel 3 --scale 2 --explain
    """
    output_size = geometry.resize_conv_size(input_size, kernel_size, scale_factor, padding, dilation)
    layer = {"scale_factor": scale_factor, "padding": padding, "dilation": dilation}
    plan = _plan("resize", channels, input_size, kernel_size, layer) if explain else None
    console = make_console()
    axes = _by_axis(input_size, output_size, kernel_size, scale_factor, 0 if padding == "same" else padding, dilation)
    for n, o, k, s, p, d in axes:
        console.print(f"Resize-convolution: {n} -> {o}", style="bold", soft_wrap=True)
        _print_steps(console, formulas.resize_conv(n, k, s, "same" if padding == "same" else p, d))
    console.print("No checkerboard from overlap: every phase sums the whole kernel.", style="green", soft_wrap=True)
    console.print()
    _, _, kernels, scales, paddings, dilations = zip(*axes, strict=True)
    arguments = {"kernel_size": kernels, "scale_factor": scales, "padding": paddings, "dilation": dilations}
    if padding == "same":
        del arguments["padding"]
    _print_call(console, "halfstride.ResizeConv", arguments, defaults={"dilation": 1})
    if plan is not None:
        _print_plan(plan)


@size.command()
def solve(
    input_size: Annotated[Any, _option("--from", help="Positions to start from.")],
    output_size: Annotated[Any, _option("--to", help="Positions to arrive at.")],
) -> None:
    """The layers that change one size into another, those without a checkerboard first.

    Upwards they are transposed convolutions, downwards convolutions.

    Example:
      halfstride size solve --from 7 --to 14
    """
    sizes = _by_axis(input_size, output_size)
    ways = [geometry.solve(n, m) for n, m in sizes]
    console = make_console()
    for (n, m), ways_of_axis in zip(sizes, ways, strict=True):
        _print_heading(console, "ConvTranspose" if n < m else "Conv", n, m)
        names = ["kernel_size", "stride", "padding", *(["output_padding"] if n < m else [])]
        overlaps = ["even: no checkerboard" if way.even else "uneven" for way in ways_of_axis]
        rows = [
            [*(str(getattr(way, name)) for name in names), overlap]
            for way, overlap in zip(ways_of_axis, overlaps, strict=True)
        ]
        _print_table(console, [*names, "overlap"], rows, ["green" if way.even else None for way in ways_of_axis])
        console.print()
    upwards, downwards = any(n < m for n, m in sizes), any(n > m for n, m in sizes)
    if upwards and downwards:
        console.print("No single layer makes one axis larger and another smaller: take two.")
    else:
        first = [_Axis(min(n, m), max(n, m), *way[0][:4]) for (n, m), way in zip(sizes, ways, strict=True)]
        _print_torch(console, "ConvTranspose" if upwards else "Conv", first)


class _Axis(NamedTuple):
    """One axis of a layer that joins two sizes: a convolution leads from large to small, a transposed one back."""

    small: int
    large: int
    kernel_size: int
    stride: int
    padding: int
    output_padding: int
    dilation: int = 1


def _by_axis(*values: geometry.Ints) -> list[tuple[int, ...]]:
    """The values of each axis; ints are repeated for every axis."""
    axes = sorted({len(value) for value in values if isinstance(value, tuple)}) or [1]
    if len(axes) > 1:
        raise ValueError(f"{axes[0]} axes do not go with {axes[1]}: give one number for all axes, or one for each.")
    return list(zip(*(value if isinstance(value, tuple) else (value,) * axes[0] for value in values), strict=True))


def _print_layer(layer: str, axes: list[_Axis]) -> None:
    """Explain a layer axis by axis: the formula with the numbers put in, the coverage, and the sizes that it joins."""
    console = make_console()
    for axis in axes:
        if layer == "Conv":
            _print_heading(console, layer, axis.large, axis.small)
            steps = formulas.conv(axis.large, axis.kernel_size, axis.stride, axis.padding, axis.dilation)
        else:
            _print_heading(console, layer, axis.small, axis.large)
            _, _, k, s, p, op, d = axis
            steps = formulas.conv_transpose(axis.small, k, s, p, op, d)
        _print_steps(console, steps)
        _print_coverage(console, layer, axis)
        _print_joined_sizes(console, axis)
        console.print()
    _print_torch(console, layer, axes)


def _print_heading(console: Console, layer: str, n: int, m: int) -> None:
    name = "Convolution" if layer == "Conv" else "Transposed convolution"
    console.print(f"{name}: {n} -> {m}", style="bold", soft_wrap=True)


def _print_steps(console: Console, steps: list[formulas.Line]) -> None:
    console.print("  " + "\n    ".join(map(formulas.plain, steps)), soft_wrap=True)
    console.print()


_LABEL = "{:13}{}".format


def _print_coverage(console: Console, layer: str, axis: _Axis) -> None:
    small, large, k, s, p, op, d = axis
    where = " in the gradient" if layer == "Conv" else ""
    if geometry.is_even(k, s, d):
        console.print(_LABEL("coverage", f"even, no checkerboard{where} from overlap"), style="green", soft_wrap=True)
    else:
        text = f"uneven{where}: {formulas.why_uneven(k, s, d)}"
        console.print(_LABEL("coverage", text), style="yellow", soft_wrap=True)
    if large <= console.width and small * k <= 1000:
        row = _LABEL("", " ".join(map(str, geometry.coverage(small, k, s, p, op, d))))
        if len(row) <= console.width:
            console.print(row)


def _print_joined_sizes(console: Console, axis: _Axis) -> None:
    """Which sizes the convolution of this geometry takes to the small one, and how the transposed one comes back."""
    small, _, k, s, p, op, d = axis
    if op >= s:
        text = f"none leads back to {small}: output_padding {op} is not less than stride {s}"
        console.print(_LABEL("convolution", text), soft_wrap=True)
        return
    sizes = geometry.conv_input_sizes(small, k, s, p, d)
    few = sizes[-1] - sizes[0] < 2
    shown, comma = (list(sizes), ", ") if few else ([sizes[0], sizes[-1]], ", ..., ")
    ways_back = []
    for large in shown:
        needed = geometry.output_padding_for(small, large, k, s, p, d)
        ways_back.append(f"{small} -> {large}" + (f" with output_padding={needed}" if needed else ""))
    console.print(_LABEL("convolution", f"{comma.join(map(str, shown))} -> {small}"), soft_wrap=True)
    console.print(_LABEL("transposed", comma.join(ways_back)), soft_wrap=True)


def _print_table(console: Console, header: list[str], rows: list[list[str]], styles: list[str | None]) -> None:
    """Numbers flush right; the last column, of words, flush left."""
    widths = [max(map(len, column)) for column in zip(header[:-1], *(row[:-1] for row in rows), strict=True)]
    for row, style in zip([header, *rows], ["dim", *styles], strict=True):
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        console.print("  ".join([*cells, row[-1]]), style=style, soft_wrap=True)


def _print_torch(console: Console, layer: str, axes: list[_Axis]) -> None:
    names = ["kernel_size", "stride", "padding", *(["output_padding"] if layer == "ConvTranspose" else []), "dilation"]
    arguments = {name: tuple(getattr(axis, name) for axis in axes) for name in names}
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    _print_call(console, f"torch.nn.{layer}", arguments, defaults)


def _print_call(console: Console, layer: str, arguments: dict[str, tuple[int, ...]], defaults: dict[str, int]) -> None:
    """The layer as a line of Python; in two dimensions where one number stands for all axes."""
    shown = ["in_channels", "out_channels"]
    for name, values in arguments.items():
        if set(values) != {defaults.get(name)}:
            shown.append(f"{name}={values if len(set(values)) > 1 else values[0]}")
    axes = len(arguments["kernel_size"])
    if axes <= 3:
        console.print(f"{layer}{axes if axes > 1 else 2}d({', '.join(shown)})", soft_wrap=True)


# --explain ------------------------------------------------------------------------------------------------------------

_LARGEST_EXPLAINED = 100_000


def _plan(
    form: Literal["transposed", "resize"],
    channels: tuple[int, int],
    input_size: geometry.Ints,
    kernel_size: geometry.Ints,
    layer: dict[str, Any],
) -> Choice:
    """What the planner says of a layer, for one image; in two dimensions where one number stands for all axes."""
    from halfstride._core import planner

    per_axis = {name: value for name, value in layer.items() if value != "same"}
    axes = _by_axis(input_size, kernel_size, *per_axis.values())
    if len(axes) > 3 or max(map(max, axes)) > _LARGEST_EXPLAINED:
        raise ValueError(
            "`--explain` is for layers that can be computed: "
            f"use at most 3 axes, and numbers of at most {_LARGEST_EXPLAINED}."
        )
    sizes, kernel, *columns = zip(*(axes if len(axes) > 1 else axes * 2), strict=True)
    inputs, outputs = channels
    weight_shape = (inputs, outputs, *kernel) if form == "transposed" else (outputs, inputs, *kernel)
    return planner.explain(form, (1, inputs, *sizes), weight_shape, **layer | dict(zip(per_axis, columns, strict=True)))


def _print_plan(plan: Choice) -> None:
    console, case = make_console(), plan.case
    sizes = "x".join(map(str, case.input_size))
    rows = [
        [f"{each.macs:,}", f"{each.bytes:,}", each.algorithm]
        if each.unsupported_reason is None
        else ["-", "-", f"{each.algorithm}: {each.unsupported_reason}"]
        for each in plan.candidates
    ]
    chosen = ["green" if each.algorithm == plan.algorithm else None for each in plan.candidates]
    console.print(
        f"\nOne image of {sizes}, {case.in_channels} channels to {case.out_channels}, in float32:", style="bold"
    )
    _print_table(console, ["products", "bytes", "algorithm"], rows, chosen)
    console.print(f"\nChosen: {plan.algorithm}; {plan.reason}.", style="green", soft_wrap=True)
