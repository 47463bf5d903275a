"""`halfstride size`: the arithmetic of convolutions and transposed convolutions, forwards and backwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from halfstride import geometry
from halfstride.cli.app import app, make_console

if TYPE_CHECKING:
    from rich.console import Console

size = typer.Typer(
    help="""Sizes of convolutions and transposed convolutions, forwards and backwards.

    Every number may be one for each axis, joined by x, as in 28x27.

    Examples:
      halfstride size transposed --input 2 --kernel 3 --stride 2
      halfstride size conv --input 28x27 --kernel 3 --stride 2 --padding 1
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


def _option(*names: str, help: str) -> Any:
    return typer.Option(*names, parser=_per_axis, metavar="N[xN]", help=help)


# Any, because typer knows no unions: each is a geometry.Ints. Defaults are text, which is parsed as if it were typed.
_Input = Annotated[Any, _option("--input", "-n", help="Positions of the input.")]
_Kernel = Annotated[Any, _option("--kernel", "-k", help="Taps of the kernel.")]
_Dilation = Annotated[Any, _option("--dilation", "-d", help="Positions from one tap to the next.")]


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
) -> None:
    """The output size of a transposed convolution, step by step.

    It also shows how evenly the kernels cover the output, and the other sizes that other output paddings lead to.

    Example:
      halfstride size transposed --input 2 --kernel 3 --stride 2
    """
    output_size = geometry.conv_transpose_size(input_size, kernel_size, stride, padding, output_padding, dilation)
    axes = _by_axis(input_size, output_size, kernel_size, stride, padding, output_padding, dilation)
    _print_layer("ConvTranspose", [_Axis(*axis) for axis in axes])


@size.command()
def solve(
    input_size: Annotated[Any, _option("--from", help="Positions to start from.")],
    output_size: Annotated[Any, _option("--to", help="Positions to arrive at.")],
) -> None:
    """The layers that lead from one size to another, those without a checkerboard first.

    Upwards they are transposed convolutions, downwards convolutions.

    Example:
      halfstride size solve --from 7 --to 14
    """
    sizes = _by_axis(input_size, output_size)
    ways = [geometry.solve(n, m) for n, m in sizes]
    console = make_console()
    for (n, m), ways_of_axis in zip(sizes, ways, strict=True):
        _print_heading(console, "ConvTranspose" if n < m else "Conv", n, m)
        _print_ways(console, ways_of_axis, transposed=n < m)
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
            steps = _conv_steps(axis)
        else:
            _print_heading(console, layer, axis.small, axis.large)
            steps = _conv_transpose_steps(axis)
        console.print("  o = " + "\n    = ".join(steps), soft_wrap=True)
        console.print()
        _print_coverage(console, layer, axis)
        _print_joined_sizes(console, axis)
        console.print()
    _print_torch(console, layer, axes)


def _print_heading(console: Console, layer: str, n: int, m: int) -> None:
    name = "Convolution" if layer == "Conv" else "Transposed convolution"
    console.print(f"{name}: {n} -> {m}", style="bold", soft_wrap=True)


def _conv_steps(axis: _Axis) -> list[str]:
    o, n, k, s, p, _, d = axis
    symbols, numbers = ("k", f"{k}") if d == 1 else ("d(k - 1) - 1", f"{d}*({k} - 1) - 1")
    room = n + 2 * p - d * (k - 1) - 1
    return [
        f"floor((n + 2p - {symbols}) / s) + 1",
        f"floor(({n} + 2*{p} - {numbers}) / {s}) + 1",
        f"floor({room} / {s}) + 1",
        f"{room // s} + 1",
        f"{o}",
    ]


def _conv_transpose_steps(axis: _Axis) -> list[str]:
    n, o, k, s, p, op, d = axis
    symbols, numbers = ("k", f"{k}") if d == 1 else ("d(k - 1) + 1", f"{d}*({k} - 1) + 1")
    end = f" + {op}" if op else ""
    return [
        f"s(n - 1) + {symbols} - 2p{' + op' if op else ''}",
        f"{s}*({n} - 1) + {numbers} - 2*{p}{end}",
        f"{s * (n - 1)} + {d * (k - 1) + 1} - {2 * p}{end}",
        f"{o}",
    ]


_LABEL = "{:13}{}".format  # what stands on the left, and what there is to say of it


def _print_coverage(console: Console, layer: str, axis: _Axis) -> None:
    small, large, k, s, p, op, d = axis
    where = " in the gradient" if layer == "Conv" else ""
    if geometry.is_even(k, s, d):
        console.print(_LABEL("coverage", f"even, no checkerboard{where} from overlap"), style="green", soft_wrap=True)
    else:
        reason = f"stride {s} does not divide kernel {k}"
        if math.gcd(s, d) > 1:
            reason = f"stride {s} and dilation {d} have a common divisor"
        console.print(_LABEL("coverage", f"uneven{where}: {reason}"), style="yellow", soft_wrap=True)
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


def _print_ways(console: Console, ways: list[geometry.Solution], transposed: bool) -> None:
    names = ["kernel_size", "stride", "padding", *(["output_padding"] if transposed else [])]
    rows = [[str(getattr(way, name)) for name in names] for way in ways]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def line(cells: list[str], overlap: str) -> str:
        return "  ".join([*(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)), overlap])

    console.print(line(names, "overlap"), style="dim", soft_wrap=True)
    for way, row in zip(ways, rows, strict=True):
        text = line(row, "even: no checkerboard" if way.even else "uneven")
        console.print(text, style="green" if way.even else None, soft_wrap=True)


def _print_torch(console: Console, layer: str, axes: list[_Axis]) -> None:
    """The layer as a line of PyTorch; in two dimensions where one number stands for all axes."""
    if len(axes) > 3:
        return
    arguments = ["in_channels", "out_channels"]
    for name, default in {"kernel_size": 0, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}.items():
        values = tuple(getattr(axis, name) for axis in axes)
        if set(values) != {default} and (layer, name) != ("Conv", "output_padding"):
            arguments.append(f"{name}={values if len(set(values)) > 1 else values[0]}")
    dimensions = len(axes) if len(axes) > 1 else 2
    console.print(f"torch.nn.{layer}{dimensions}d({', '.join(arguments)})", soft_wrap=True)
