"""One small upsampling layer with numbers in it, taken apart for every view that shows it.

Nothing here repeats the arithmetic of a layer. An operator that is linear in its input and in its kernel is known
completely by its answers to inputs and kernels with a single one in them, so `explain` asks the package's own
functions for those, all in one call, and reads off which products make up which output.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from halfstride import functional, geometry
from halfstride._core import planner
from halfstride.studio.text import Code, Formula, code, formula

__all__ = ["Explanation", "Form", "Layer", "explain", "read_layer"]

Form = Literal["conv", "transposed", "resize", "subpixel"]

LARGEST = {1: 40, 2: 18}
"""Positions along an axis that can still be told apart on a screen, by the number of axes."""

LARGEST_PADDED = {1: 60, 2: 26}
"""The same for the emulated view, most of whose cells are empty."""

MOST_PRODUCTS = 12_000
"""So that an answer takes a few milliseconds and a page does not stumble."""

_Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Layer(BaseModel):
    """A layer with one input and one output channel and no bias, the same along every axis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = "transposed"
    dims: Literal[1, 2] = Field(2, description="The number of axes.")
    input_size: int = Field(3, ge=1, le=40, description="Input positions along each axis.")
    kernel_size: int = Field(3, ge=1, le=9, description="Taps of the kernel along each axis.")
    stride: int = Field(2, ge=1, le=6, description="The stride, or the scale factor of a resize or sub-pixel layer.")
    padding: int = Field(0, ge=0, le=20)
    dilation: int = Field(1, ge=1, le=6)
    output_padding: int = Field(0, ge=0, le=5, description="Of a transposed convolution; 0 for the others.")
    input: tuple[_Number, ...] | None = Field(None, max_length=1600, description="Row by row; by default 1, 2, 3, ...")
    kernel: tuple[_Number, ...] | None = Field(
        None, max_length=3000, description="Row by row; of a sub-pixel convolution one kernel after the other."
    )

    @property
    def kernels(self) -> int:
        """How many kernels there are: a sub-pixel convolution has one for each phase."""
        return self.stride**self.dims if self.form == "subpixel" else 1

    @property
    def output_size(self) -> int:
        """Output positions along each axis.

        Raises:
            ValueError: where the arguments do not go together.
        """
        n, k, s, p, d = self.input_size, self.kernel_size, self.stride, self.padding, self.dilation
        if self.output_padding and self.form != "transposed":
            raise ValueError(
                f"`output_padding` (={self.output_padding}) belongs to transposed convolutions: set it to 0."
            )
        if self.form == "transposed":
            size = geometry.conv_transpose_size(n, k, s, p, self.output_padding, d)
        elif self.form == "conv":
            size = geometry.conv_size(n, k, s, p, d)
        elif self.form == "resize":
            size = geometry.conv_size(n * s, k, 1, p, d)
        else:
            size = geometry.conv_size(n, k, 1, p, d)
        assert isinstance(size, int)
        return s * size if self.form == "subpixel" else size

    def __call__(self, inputs: Tensor, kernels: Tensor) -> Tensor:
        """Apply the layer to N inputs with C kernels (or C groups of phases' kernels) at once.

        Shape:
            `(N, 1, *input_size)` and `(C * self.kernels, 1, *kernel_size)` to `(N, C, *output_size)`.
        """
        if self.form == "conv":
            conv: Any = F.conv1d if self.dims == 1 else F.conv2d
            return conv(inputs, kernels, stride=self.stride, padding=self.padding, dilation=self.dilation)  # type: ignore[no-any-return]
        if self.form == "transposed":
            transposed = functional.conv_transpose1d if self.dims == 1 else functional.conv_transpose2d
            return transposed(
                inputs,
                kernels.transpose(0, 1),
                stride=self.stride,
                padding=self.padding,
                output_padding=self.output_padding,
                dilation=self.dilation,
            )
        operators: Any = {
            ("resize", 1): functional.resize_conv1d,
            ("resize", 2): functional.resize_conv2d,
            ("subpixel", 1): functional.subpixel_conv1d,
            ("subpixel", 2): functional.subpixel_conv2d,
        }
        operator = operators[self.form, self.dims]
        return operator(  # type: ignore[no-any-return]
            inputs, kernels, scale_factor=self.stride, padding=self.padding, dilation=self.dilation
        )


def read_layer(*, input: str | None = None, kernel: str | None = None, **arguments: Any) -> Layer:
    """A layer from a person's words: numbers of input and kernel as text, row by row, with commas between.

    Raises:
        ValueError: where an argument is out of range, in one sentence.
    """
    try:
        return Layer(**arguments, input=_read_numbers("input", input), kernel=_read_numbers("kernel", kernel))
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(each) for each in error.errors()[:3])) from None


def _read_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"`{name}` must be numbers with commas between them, such as 1,2.5,-3.") from None


def _sentence(error: Any) -> str:
    name = error["loc"][0] if error["loc"] else "layer"
    reason = error["msg"][0].lower() + error["msg"][1:].removesuffix(".")
    return f"`{name}` (={str(error['input'])[:40]}): {reason}."


# What a front is told ---------------------------------------------------------------------------------------------
# What there are thousands of stands in columns, and these are no models: making an object of each product, checking it
# and writing its names out took longer than computing them all.


class Term(NamedTuple):
    """One product: `input[i] * kernel[t]`, added to `output[j]`."""

    i: int
    t: int
    j: int
    product: float


@dataclass(slots=True)
class Terms:
    """Every product, ordered by input, then kernel tap."""

    i: list[int]
    t: list[int]
    j: list[int]
    product: list[float]

    def __iter__(self) -> Iterator[Term]:
        return map(Term, self.i, self.t, self.j, self.product)


class Entry(NamedTuple):
    """One entry of the operator's matrix: what a unit of `input[i]` adds to `output[j]`, and what all of it adds."""

    j: int
    i: int
    value: float
    contribution: float


@dataclass(slots=True)
class Matrix:
    """The entries of the operator's matrix that are not empty, row by row."""

    j: list[int]
    i: list[int]
    value: list[float]
    contribution: list[float]

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry, self.j, self.i, self.value, self.contribution)


@dataclass(slots=True)
class Emulated:
    """The layer as a convolution that slides over a grid: the input, spread out and padded.

    `size` is the number of cells along each axis. `source` is the input shown by each cell: -1 a zero put between, -2
    padding. For each output, `cells` has the cells that the kernel lies on, and `taps` the tap on each.
    """

    size: int
    source: list[int]
    cells: list[list[int]]
    taps: list[list[int]]


class PhaseKernel(BaseModel):
    """What one phase is: a small convolution of its own."""

    remainder: list[int] = Field(description="Position modulo the stride, per axis, counted before padding cuts any.")
    positions: list[int] = Field(description="Its outputs (of a convolution: its inputs).")
    size: list[int] = Field(description="Height and width of its kernel; one axis: 1 and the width.")
    taps: list[int] = Field(description="How many taps of the layer's kernel each of its own sums.")
    kernel: list[float]
    gain: float = Field(description="The sum of its kernel: its answer to a constant input.")


class Phases(BaseModel):
    side: Literal["input", "output"] = Field(description="Which side has the phases: the larger one.")
    kernels: list[PhaseKernel]


class Coverage(BaseModel):
    side: Literal["input", "output"]
    counts: list[int] = Field(description="How many products reach each position.")
    even: bool = Field(description="Whether all phases have the same number of taps.")
    checkerboard: bool = Field(description="Whether the phases answer a constant input differently.")
    verdict: str


class Cost(BaseModel):
    """What one way to compute the layer needs for this input."""

    algorithm: str
    products: int | None = Field(description="Multiplications; null where the algorithm cannot do it.")
    obstacle: str | None = Field(description="Why it cannot.")


class Explanation(BaseModel):
    """Everything that the views of one layer show; positions are counted row by row."""

    layer: Layer
    output_size: int
    kernels: int
    input: list[float]
    kernel: list[float]
    output: list[float]
    terms: Terms
    partial: list[list[float]] = Field(description="The output after the first input, after two, and so on.")
    emulated: Emulated
    phases: Phases
    matrix: Matrix
    coverage: Coverage
    costs: list[Cost] = Field(description="Empty for a convolution, which torch alone computes.")
    formula: Formula
    code: Code


def explain(layer: Layer) -> Explanation:
    """Take a layer apart.

    Raises:
        ValueError: where its arguments do not go together, or it is too large to be shown.

    Example:
        >>> explained = explain(Layer(dims=1, input_size=2, input=(1, 2), kernel=(1, 10, 100)))
        >>> explained.output
        [1.0, 10.0, 102.0, 20.0, 200.0]
        >>> [(term.i, term.t) for term in explained.terms if term.j == 2]
        [(0, 2), (1, 0)]
    """
    output_size = layer.output_size
    _check_size(layer, output_size)
    x = _values("input", layer.input, layer.input_size**layer.dims, 9)
    w = _values("kernel", layer.kernel, layer.kernels * layer.kernel_size**layer.dims, layer.kernel_size + 1)
    images, taps = (-1, 1, *_axes(layer, layer.input_size)), (-1, 1, *_axes(layer, layer.kernel_size))
    inputs, kernels = x.reshape(images), w.reshape(taps)
    every_input = torch.eye(len(x), dtype=x.dtype).reshape(images)
    every_kernel = torch.eye(len(w), dtype=w.dtype).reshape(taps)

    structure = layer(every_input, every_kernel).flatten(2)
    i, t, j = structure.nonzero(as_tuple=True)
    # Cumulative inputs: the first alone, the first two, and so on.
    first_ones = torch.ones(len(x), len(x), dtype=x.dtype).tril() * x
    entries = layer(every_input, kernels).flatten(1)
    reached = structure.sum(1)
    row, column = reached.T.nonzero(as_tuple=True)
    return Explanation(
        layer=layer,
        output_size=output_size,
        kernels=layer.kernels,
        input=x.tolist(),
        kernel=w.tolist(),
        output=layer(inputs, kernels).flatten().tolist(),
        terms=Terms(i.tolist(), t.tolist(), j.tolist(), (x[i] * w[t]).tolist()),
        partial=layer(first_ones.reshape(images), kernels).flatten(1).tolist(),
        emulated=_emulated(layer, output_size),
        phases=(phases := _phases(layer, output_size, kernels)),
        matrix=Matrix(
            row.tolist(),
            column.tolist(),
            (values := entries[column, row]).tolist(),
            (values * x[column]).tolist(),
        ),
        coverage=_coverage(layer, phases, reached),
        costs=_costs(layer),
        formula=formula(layer, output_size),
        code=code(layer, x.tolist(), w.tolist()),
    )


# The parts --------------------------------------------------------------------------------------------------------


def _check_size(layer: Layer, output_size: int) -> None:
    axes = f"{layer.dims} {'axis' if layer.dims == 1 else 'axes'}"
    padded = len(_emulated_axis(layer, output_size)[0])
    for name, size, largest in (
        ("input", layer.input_size, LARGEST),
        ("output", output_size, LARGEST),
        ("padded input", padded, LARGEST_PADDED),
    ):
        if size > largest[layer.dims]:
            raise ValueError(
                f"The {name} would have {size} positions along an axis; up to {largest[layer.dims]} can be shown with "
                f"{axes}: choose a smaller input, kernel, stride or dilation."
            )
    anchors = layer.input_size if layer.form == "transposed" else output_size
    products = (anchors * layer.kernel_size) ** layer.dims
    if products > MOST_PRODUCTS:
        raise ValueError(
            f"The layer makes {products:,} products; up to {MOST_PRODUCTS:,} can be shown: choose a smaller input or "
            "kernel."
        )


def _values(name: str, given: Sequence[float] | None, count: int, cycle: int) -> Tensor:
    """The numbers given, or 1, 2, 3, ... beginning again after `cycle`: small, and different enough to show flips."""
    if given is None:
        given = [1.0 + index % cycle for index in range(count)]
    if len(given) != count:
        raise ValueError(f"`{name}` (of {len(given)} numbers) must have {count}, row by row.")
    return torch.tensor(given, dtype=torch.float64)


def _axes(layer: Layer, size: int) -> tuple[int, ...]:
    return (size,) * layer.dims


def _emulated(layer: Layer, output_size: int) -> Emulated:
    """The view along one axis, combined with itself for each further one."""
    shown, windows = _emulated_axis(layer, output_size)
    n, k, s, size = layer.input_size, layer.kernel_size, layer.stride, len(shown)
    axis = np.array(windows).reshape(output_size, k, 2)
    source = np.array(shown)
    cells, taps = axis[..., 0], axis[..., 1]
    # Which of a sub-pixel convolution's kernels an output uses, in the order of `torch.nn.PixelShuffle`.
    block = np.arange(output_size) % s
    if layer.dims == 2:
        # Padding beats the zeros between: a cell that is padding along one axis is padding.
        least = np.minimum.outer(source, source)
        source = np.where(least >= 0, np.add.outer(n * source, source), least).ravel()
        cells, taps, block = (np.add.outer(step * one, one) for step, one in ((size, cells), (k, taps), (s, block)))
        cells, taps = (one.transpose(0, 2, 1, 3).reshape(output_size**2, k * k) for one in (cells, taps))
    if layer.form == "subpixel":
        taps = taps + block.reshape(-1, 1) * k**layer.dims
    return Emulated(size=size, source=source.tolist(), cells=cells.tolist(), taps=taps.tolist())


def _emulated_axis(layer: Layer, output_size: int) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Along one axis: which input each cell shows, and for each output the cells and taps that it sums."""
    n, k, s, p, d = layer.input_size, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    if layer.form == "transposed":
        # Zeros between, the kernel turned round, and as much padding as lets it reach every output.
        first = p - d * (k - 1)
        cells = range(first, first + output_size + d * (k - 1))
        source = [-2 if not 0 <= cell <= s * (n - 1) else -1 if cell % s else cell // s for cell in cells]
        return source, [[(j + d * (k - 1 - t), t) for t in range(k)] for j in range(output_size)]
    repeated = s if layer.form == "resize" else 1
    source = [cell // repeated if 0 <= cell < n * repeated else -2 for cell in range(-p, n * repeated + p)]
    step, shared = {"conv": (s, 1), "resize": (1, 1), "subpixel": (1, s)}[layer.form]
    return source, [[(step * (j // shared) + d * t, t) for t in range(k)] for j in range(output_size)]


def _phases(layer: Layer, output_size: int, kernels: Tensor) -> Phases:
    """The phases of the operator's answer to a single one, far from any border."""
    s, span = layer.stride, layer.dilation * (layer.kernel_size - 1)
    # `first` is where the output begins on that answer: phases are counted before padding cuts anything.
    if layer.form in ("conv", "transposed"):
        # A convolution has the phases of the transposed one of the same geometry, on its input.
        alone, first = {"form": "transposed", "padding": 0}, layer.padding
    else:
        alone, first = {"padding": span}, (span - layer.padding) * (s if layer.form == "subpixel" else 1)
    impulse = layer.model_copy(update={"input_size": 1, "output_padding": 0, **alone})
    one = torch.ones(1, 1, *_axes(layer, 1), dtype=kernels.dtype)
    full, taps = impulse(one, kernels)[0, 0], impulse(one, torch.ones_like(kernels))[0, 0]
    side: Literal["input", "output"] = "input" if layer.form == "conv" else "output"
    wide = layer.input_size if side == "input" else output_size
    found = []
    for remainder in itertools.product(range(s), repeat=layer.dims):
        every = tuple(slice(r, None, s) for r in remainder)
        kernel, counts = full[every], taps[every]
        rows, columns = [range(1), *(range((r - first) % s, wide, s) for r in remainder)][-2:]
        members = [row * wide + column for row, column in itertools.product(rows, columns)]
        found.append(
            PhaseKernel(
                remainder=list(remainder),
                positions=members,
                size=[1, *kernel.shape][-2:],
                taps=counts.round().int().flatten().tolist(),
                kernel=kernel.flatten().tolist(),
                gain=kernel.sum().item(),
            )
        )
    return Phases(side=side, kernels=found)


def _coverage(layer: Layer, phases: Phases, reached: Tensor) -> Coverage:
    counts = reached.sum(1 if phases.side == "input" else 0)
    taps = [sum(phase.taps) for phase in phases.kernels]
    gains = [phase.gain for phase in phases.kernels]
    even = len(set(taps)) == 1
    checkerboard = max(gains) - min(gains) > 1e-9 * max(map(abs, gains), default=0)
    return Coverage(
        side=phases.side,
        counts=counts.round().int().tolist(),
        even=even,
        checkerboard=checkerboard,
        verdict=_verdict(layer, taps, gains, even, checkerboard),
    )


def _costs(layer: Layer) -> list[Cost]:
    if layer.form == "conv":
        return []
    sizes: dict[str, Any] = {"padding": layer.padding, "dilation": layer.dilation}
    if layer.form == "transposed":
        sizes |= {"stride": layer.stride, "output_padding": layer.output_padding}
    else:
        sizes |= {"scale_factor": layer.stride}
    plan = planner.explain(
        layer.form,
        (1, 1, *_axes(layer, layer.input_size)),
        (layer.kernels, 1, *_axes(layer, layer.kernel_size)),
        **sizes,
    )
    return [
        Cost(algorithm=one.algorithm, products=one.macs, obstacle=one.unsupported_reason) for one in plan.candidates
    ]


def _verdict(layer: Layer, taps: list[int], gains: list[float], even: bool, checkerboard: bool) -> str:
    k, s, d = layer.kernel_size, layer.stride, layer.dilation
    if s == 1:
        return "Stride 1: there is a single phase, and nothing to be uneven."
    if layer.form == "resize":
        return "Even: every phase sums all taps of the kernel, whatever its weights. No checkerboard is possible."
    reader = "input is read" if layer.form == "conv" else "output is reached"
    if not even:
        why = (
            f"stride {s} and dilation {d} have a common divisor"
            if math.gcd(s, d) > 1
            else f"stride {s} does not divide kernel {k}"
        )
        numbers = sorted(Counter(taps))
        listed = " or ".join([", ".join(map(str, numbers[:-1])), str(numbers[-1])])
        where = " in the gradient" if layer.form == "conv" else ""
        return f"Checkered{where}: {why}, so each {reader} by {listed} taps, in a regular pattern."
    if layer.form == "conv":
        return f"Even: every input is read by {taps[0]} taps, away from the border."
    if checkerboard:
        return (
            f"Even coverage, {taps[0]} taps for every phase; but these weights answer a constant input of 1 with "
            f"{min(gains):.4g} to {max(gains):.4g}, so there is a checkerboard all the same."
        )
    return f"Even: every phase has {taps[0]} taps, and these weights give all phases the same gain."
