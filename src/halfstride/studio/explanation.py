"""One small upsampling layer with numbers in it: every product, every sum, and what follows from them.

Nothing here repeats the arithmetic of a layer. A function that is linear in its input and in its kernel is determined
by its outputs for inputs and kernels with a single one in them. `explain` computes those with the package's own
functions, all in one call, and reads off which products make up which output.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from halfstride import formulas
from halfstride._core import planner
from halfstride.studio.layer import Layer
from halfstride.studio.text import Code, Formula, code, formula

_LARGEST = {1: 40, 2: 18}
"""Input and output positions along each axis, by the number of axes: more cannot be told apart on a screen."""

_LARGEST_PADDED = {1: 60, 2: 26}
"""The same for the input with zeros between and around it, most of whose cells are empty."""

_MOST_PRODUCTS = 12_000
"""Limits the time of an answer to some milliseconds, and that of a drawing."""

# Thousands of products are sent as columns of numbers in plain dataclasses: to create, validate and serialise an object
# for each took longer than to compute them.


@dataclass(slots=True)
class Terms:
    """Every product `input[i] * kernel[t]`, which is added to `output[j]`; ordered by input, then kernel tap."""

    i: list[int]
    t: list[int]
    j: list[int]
    product: list[float]


@dataclass(slots=True)
class Matrix:
    """The nonzero entries of the layer as a matrix, row by row.

    A unit of `input[i]` adds `value` to `output[j]`, and the whole of it `contribution`.
    """

    j: list[int]
    i: list[int]
    value: list[float]
    contribution: list[float]


@dataclass(slots=True)
class Emulated:
    """The layer as a convolution whose kernel slides over the input with zeros between and around it.

    `size` is the number of cells along each axis. `source` is each cell's input, -1 for a zero between inputs, -2 for
    padding. For each output, `cells` are the cells under the kernel, and `taps` the kernel tap on each of them.
    """

    size: int
    source: list[int]
    cells: list[list[int]]
    taps: list[list[int]]


class PhaseKernel(BaseModel):
    """One phase as a convolution of its own."""

    remainder: list[int] = Field(description="Output position modulo the stride, per axis, before padding is cut off.")
    positions: list[int] = Field(description="Its outputs; for a convolution its inputs.")
    size: list[int] = Field(description="Height and width of its kernel; the height is 1 for one axis.")
    taps: list[int] = Field(description="Number of the layer's taps that are summed in each of its own.")
    kernel: list[float]
    gain: float = Field(description="The sum of its kernel: its output for a constant input of 1.")


class Phases(BaseModel):
    side: Literal["input", "output"] = Field(description="The side that has the phases: the larger one.")
    kernels: list[PhaseKernel]


class Coverage(BaseModel):
    side: Literal["input", "output"]
    counts: list[int] = Field(description="Number of products at each position.")
    even: bool = Field(description="Whether all phases have the same number of taps.")
    checkerboard: bool = Field(description="Whether the phase gains differ.")
    verdict: str


class Cost(BaseModel):
    """The number of multiplications of one algorithm."""

    algorithm: str
    products: int | None = Field(description="Null where the algorithm cannot compute this layer.")
    obstacle: str | None = Field(description="The reason.")


class Explanation(BaseModel):
    """Everything that the page shows of one layer; positions are counted row by row."""

    layer: Layer
    output_size: int
    kernels: int
    input: list[float]
    kernel: list[float]
    output: list[float]
    terms: Terms
    partial: list[list[float]] = Field(description="The output of the first input alone, of the first two, and so on.")
    emulated: Emulated
    phases: Phases
    matrix: Matrix
    coverage: Coverage
    costs: list[Cost] = Field(description="Empty for a convolution, which only torch computes.")
    formula: Formula
    code: Code


def explain(layer: Layer) -> Explanation:
    """Compute everything that the page shows of a layer.

    Raises:
        ValueError: where its arguments do not go together, or it is too large to be shown.

    Example:
        >>> explained = explain(Layer(dims=1, input_size=2, input=(1, 2), kernel=(1, 10, 100)))
        >>> explained.output
        [1.0, 10.0, 102.0, 20.0, 200.0]
        >>> terms = explained.terms
        >>> [(i, t) for i, t, j in zip(terms.i, terms.t, terms.j) if j == 2]
        [(0, 2), (1, 0)]
    """
    check_size(layer)
    x = _values("input", layer.input, layer.input_size**layer.dims, 9)
    w = _values("kernel", layer.kernel, layer.kernels * layer.kernel_size**layer.dims, layer.kernel_size + 1)
    images, taps = (-1, 1, *(layer.input_size,) * layer.dims), (-1, 1, *(layer.kernel_size,) * layer.dims)
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
    values = entries[column, row]
    phases = _phases(layer, kernels)
    return Explanation(
        layer=layer,
        output_size=layer.output_size,
        kernels=layer.kernels,
        input=x.tolist(),
        kernel=w.tolist(),
        output=layer(inputs, kernels).flatten().tolist(),
        terms=Terms(i.tolist(), t.tolist(), j.tolist(), (x[i] * w[t]).tolist()),
        partial=layer(first_ones.reshape(images), kernels).flatten(1).tolist(),
        emulated=_emulated(layer),
        phases=phases,
        matrix=Matrix(row.tolist(), column.tolist(), values.tolist(), (values * x[column]).tolist()),
        coverage=_coverage(layer, phases, reached),
        costs=_costs(layer),
        formula=formula(layer),
        code=code(layer, x.tolist(), w.tolist()),
    )


# The parts --------------------------------------------------------------------------------------------------------


def check_size(layer: Layer) -> None:
    """Check that a layer is small enough to be shown.

    Raises:
        ValueError: where its arguments do not go together, or it is too large.
    """
    axes = f"{layer.dims} {'axis' if layer.dims == 1 else 'axes'}"
    padded = len(_emulated_axis(layer)[0])
    sizes = {"input": layer.input_size, "output": layer.output_size, "padded input": padded}
    for (name, size), largest in zip(sizes.items(), (_LARGEST, _LARGEST, _LARGEST_PADDED), strict=True):
        if size > largest[layer.dims]:
            raise ValueError(
                f"The {name} would have {size} positions along each axis; up to {largest[layer.dims]} can be shown "
                f"with {axes}: choose a smaller input, kernel, stride or dilation."
            )
    anchors = layer.input_size if layer.form == "transposed" else layer.output_size
    products = (anchors * layer.kernel_size) ** layer.dims
    if products > _MOST_PRODUCTS:
        raise ValueError(
            f"The layer makes {products:,} products; up to {_MOST_PRODUCTS:,} can be shown: choose a smaller input or "
            "kernel."
        )


def _values(name: str, given: Sequence[float] | None, count: int, cycle: int) -> Tensor:
    """The numbers given; by default 1, 2, ..., `cycle`, 1, 2, ...: small, and different enough to show a flip."""
    if given is None:
        given = [1.0 + index % cycle for index in range(count)]
    if len(given) != count:
        raise ValueError(f"`{name}` (of {len(given)} numbers) must have {count}, row by row.")
    return torch.tensor(given, dtype=torch.float64)


def _emulated(layer: Layer) -> Emulated:
    """The result for one axis, combined with itself for two."""
    shown, windows = _emulated_axis(layer)
    n, k, s, size, output_size = layer.input_size, layer.kernel_size, layer.stride, len(shown), layer.output_size
    axis = np.array(windows).reshape(output_size, k, 2)
    source = np.array(shown)
    cells, taps = axis[..., 0], axis[..., 1]
    # The kernel of a sub-pixel convolution that computes an output, in the order of `torch.nn.PixelShuffle`.
    block = np.arange(output_size) % s
    if layer.dims == 2:
        # A cell that is padding along either axis is padding, also where it is a zero between along the other.
        least = np.minimum.outer(source, source)
        source = np.where(least >= 0, np.add.outer(n * source, source), least).ravel()
        cells, taps, block = (np.add.outer(step * one, one) for step, one in ((size, cells), (k, taps), (s, block)))
        cells, taps = (one.transpose(0, 2, 1, 3).reshape(output_size**2, k * k) for one in (cells, taps))
    if layer.form == "subpixel":
        taps = taps + block.reshape(-1, 1) * k**layer.dims
    return Emulated(size=size, source=source.tolist(), cells=cells.tolist(), taps=taps.tolist())


def _emulated_axis(layer: Layer) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Along one axis: the input in each cell, and for each output the cells and taps that it sums."""
    n, k, s, p, d = layer.input_size, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    output_size = layer.output_size
    if layer.form == "transposed":
        # Zeros between the inputs, the kernel flipped, and enough padding for every output.
        first = p - d * (k - 1)
        cells = range(first, first + output_size + d * (k - 1))
        source = [-2 if not 0 <= cell <= s * (n - 1) else -1 if cell % s else cell // s for cell in cells]
        return source, [[(j + d * (k - 1 - t), t) for t in range(k)] for j in range(output_size)]
    repeated = s if layer.form == "resize" else 1
    source = [cell // repeated if 0 <= cell < n * repeated else -2 for cell in range(-p, n * repeated + p)]
    step, shared = {"conv": (s, 1), "resize": (1, 1), "subpixel": (1, s)}[layer.form]
    return source, [[(step * (j // shared) + d * t, t) for t in range(k)] for j in range(output_size)]


def _phases(layer: Layer, kernels: Tensor) -> Phases:
    """The phases of the layer's output for a single one, far from any border."""
    s, span = layer.stride, layer.dilation * (layer.kernel_size - 1)
    # `first` is where the layer's output begins in that one: phases are counted before padding is cut off.
    if layer.form in ("conv", "transposed"):
        # A convolution has the phases of the transposed convolution with the same arguments, on its input.
        alone, first = {"form": "transposed", "padding": 0}, layer.padding
    else:
        alone, first = {"padding": span}, (span - layer.padding) * (s if layer.form == "subpixel" else 1)
    impulse = layer.model_copy(update={"input_size": 1, "output_padding": 0, **alone})
    one = torch.ones(1, 1, *(1,) * layer.dims, dtype=kernels.dtype)
    full, taps = impulse(one, kernels)[0, 0], impulse(one, torch.ones_like(kernels))[0, 0]
    side: Literal["input", "output"] = "input" if layer.form == "conv" else "output"
    wide = layer.input_size if side == "input" else layer.output_size
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
    input_shape = 1, 1, *(layer.input_size,) * layer.dims
    weight_shape = layer.kernels, 1, *(layer.kernel_size,) * layer.dims
    found = planner.explain(layer.form, input_shape, weight_shape, **layer.arguments).candidates
    return [Cost(algorithm=one.algorithm, products=one.macs, obstacle=one.unsupported_reason) for one in found]


def _verdict(layer: Layer, taps: list[int], gains: list[float], even: bool, checkerboard: bool) -> str:
    k, s, d = layer.kernel_size, layer.stride, layer.dilation
    if s == 1:
        return "Stride 1: there is a single phase, so coverage is even."
    if layer.form == "resize":
        return "Even: every phase sums all taps of the kernel, whatever its weights. No checkerboard is possible."
    reader = "input is read" if layer.form == "conv" else "output is reached"
    if not even:
        why = formulas.why_uneven(k, s, d)
        numbers = sorted(Counter(taps))
        listed = " or ".join([", ".join(map(str, numbers[:-1])), str(numbers[-1])])
        where = " in the gradient" if layer.form == "conv" else ""
        return f"Uneven coverage{where}: {why}, so each {reader} by {listed} taps, in a regular pattern."
    if layer.form == "conv":
        return f"Even: every input is read by {taps[0]} taps, away from the border."
    if checkerboard:
        return (
            f"Even coverage, {taps[0]} taps for every phase; but the outputs for a constant input of 1 are "
            f"{min(gains):.4g} to {max(gains):.4g} with these weights: a checkerboard."
        )
    return f"Even: every phase has {taps[0]} taps, and all phase gains are equal with these weights."
