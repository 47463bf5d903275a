"""What is measured: one line per row, and what a row's operator costs at the least.

A row is written as `form batch x channels x size -> out_channels`, then kernel_size, stride (or scale), padding and
output_padding, each the same along every axis. Resize-convolutions and sub-pixel convolutions are padded to keep their
size. `parse` reads any such line, so that `--row` is not bound to the grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["LAYERS", "Row", "fewest_bytes", "fewest_products", "parse", "select"]


class Row(NamedTuple):
    """One upsampling layer on one input shape."""

    name: str
    tags: frozenset[str]
    form: str
    batch: int
    in_channels: int
    size: tuple[int, ...]
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    output_padding: int

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_channels, *self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        if self.form == "transposed":
            grown = self.kernel_size - 2 * self.padding + self.output_padding
            size = tuple((n - 1) * self.stride + grown for n in self.size)
        else:
            size = tuple(n * self.stride for n in self.size)
        return (self.batch, self.out_channels, *size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        taps = (self.kernel_size,) * self.axes
        if self.form == "transposed":
            return (self.in_channels, self.out_channels, *taps)
        phases = self.stride**self.axes if self.form == "subpixel" else 1
        return (self.out_channels * phases, self.in_channels, *taps)


_LINE = re.compile(
    r"(?P<form>resize|transposed|subpixel) (?P<batch>\d+)x(?P<channels>\d+)x(?P<size>\d+(?:x\d+){0,2}) -> (?P<out>\d+)"
    r" k(?P<k>\d+) s(?P<s>\d+)(?: p(?P<p>\d+))?(?: op(?P<op>\d+))?"
)


def parse(line: str, *tags: str) -> Row:
    """The row that a line describes.

    Raises:
        ValueError: where the line cannot be read.

    Example:
        >>> parse("transposed 8x64x16x16 -> 32 k4 s2 p1").output_shape
        (8, 32, 32, 32)
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"`row` (={line!r}) cannot be read: write it like 'transposed 8x64x16x16 -> 32 k4 s2 p1'.")
    k, s = int(match["k"]), int(match["s"])
    form, size = match["form"], tuple(map(int, match["size"].split("x")))
    if form != "transposed" and (k % 2 == 0 or match["p"] or match["op"]):
        raise ValueError(f"`row` (={line!r}) must have an odd kernel and no p or op: a {form} row keeps its size.")
    return Row(
        line,
        frozenset({form, f"{len(size)}d", f"k{k}", f"s{s}", *tags}),
        form,
        int(match["batch"]),
        int(match["channels"]),
        size,
        int(match["out"]),
        k,
        s,
        int(match["p"] or 0) if form == "transposed" else k // 2,
        int(match["op"] or 0),
    )


def select(rows: Iterable[Row], words: Sequence[str]) -> list[Row]:
    """The rows that have all of these tags: a form, "1d" to "3d", "k3", "s2", "training", "quick", "odd", "tail".

    Example:
        >>> [row.name for row in select(LAYERS, ["resize", "3d"])]
        ['resize 1x64x16x16x16 -> 64 k3 s2']
    """
    return [row for row in rows if row.tags.issuperset(words)]


# What it costs at the least -------------------------------------------------------------------------------------------


def fewest_products(row: Row) -> int:
    """The multiplications of the most frugal algorithm known here, the borders' few savings aside.

    One product per tap, input position and pair of channels. For a resize-convolution that is summation by parts, k
    products per axis and input position whatever the scale.

    Example:
        >>> fewest_products(parse("resize 1x1x10x10 -> 1 k3 s2"))
        900
    """
    return row.batch * math.prod(row.size) * math.prod(row.weight_shape)


def fewest_bytes(row: Row, itemsize: int = 4, *, training: bool = False) -> int:
    """Bytes read and written when everything given is read once and everything asked for is written once.

    Forward: input, weight and output. Forward and backward: the gradient of the output besides, and the gradients of
    input and weight.
    """
    tensors = [row.input_shape, row.weight_shape, row.output_shape]
    return itemsize * sum(map(math.prod, tensors)) * (2 if training else 1)


# The grid -------------------------------------------------------------------------------------------------------------

LAYERS = [
    # Resize-convolution, 3 x 3 at scale 2: image decoders
    parse("resize 1x512x32x32 -> 512 k3 s2", "training"),
    parse("resize 1x256x64x64 -> 256 k3 s2", "training"),
    parse("resize 1x256x128x128 -> 256 k3 s2"),
    parse("resize 8x256x16x16 -> 256 k3 s2", "training"),
    parse("resize 32x128x16x16 -> 64 k3 s2", "training"),
    parse("resize 32x64x32x32 -> 32 k3 s2", "training"),
    parse("resize 4x32x64x64 -> 32 k3 s2", "training"),
    parse("resize 1x64x256x256 -> 64 k3 s2"),
    parse("resize 1x128x8x8 -> 64 k3 s2", "quick"),
    # ... to few output channels
    parse("resize 32x64x32x32 -> 3 k3 s2", "tail", "training"),
    parse("resize 1x64x256x256 -> 3 k3 s2", "tail"),
    parse("resize 32x32x14x14 -> 1 k3 s2", "tail", "training", "quick"),
    # ... of odd sizes, other kernels and scales, 1-D and 3-D
    parse("resize 3x96x17x23 -> 80 k3 s2", "odd", "training", "quick"),
    parse("resize 7x33x31x13 -> 17 k3 s2", "odd"),
    parse("resize 8x128x16x16 -> 128 k5 s2", "training"),
    parse("resize 1x64x64x64 -> 64 k5 s2"),
    parse("resize 1x64x128x128 -> 3 k5 s2", "tail"),
    parse("resize 1x256x32x32 -> 256 k3 s4", "training"),
    parse("resize 8x64x32x32 -> 64 k3 s4", "training"),
    parse("resize 8x64x32x32 -> 3 k3 s4", "tail"),
    parse("resize 4x128x1024 -> 64 k3 s2", "training"),
    parse("resize 1x64x16x16x16 -> 64 k3 s2", "training"),
    # Transposed, 4 x 4 at stride 2: GANs and autoencoders
    parse("transposed 1x1024x4x4 -> 512 k4 s2 p1"),
    parse("transposed 16x1024x4x4 -> 512 k4 s2 p1", "training"),
    parse("transposed 1x512x8x8 -> 256 k4 s2 p1"),
    parse("transposed 1x512x32x32 -> 256 k4 s2 p1", "training"),
    parse("transposed 8x256x16x16 -> 128 k4 s2 p1"),
    parse("transposed 32x128x16x16 -> 64 k4 s2 p1", "training"),
    parse("transposed 32x64x32x32 -> 32 k4 s2 p1"),
    parse("transposed 32x64x32x32 -> 3 k4 s2 p1", "tail", "training"),
    parse("transposed 32x32x14x14 -> 1 k4 s2 p1", "tail", "quick"),
    # ... 3 x 3
    parse("transposed 1x512x32x32 -> 256 k3 s2 p1 op1"),
    parse("transposed 8x256x16x16 -> 128 k3 s2 p1 op1", "training"),
    parse("transposed 32x128x16x16 -> 64 k3 s2 p1 op1"),
    parse("transposed 32x64x32x32 -> 3 k3 s2 p1 op1", "tail"),
    parse("transposed 32x32x14x14 -> 1 k3 s2 p1 op1", "tail", "training"),
    parse("transposed 3x96x17x23 -> 80 k3 s2 p1", "odd", "quick"),
    # ... 2 x 2, where nothing overlaps: U-Nets
    parse("transposed 1x512x32x32 -> 256 k2 s2", "training"),
    parse("transposed 8x128x32x32 -> 64 k2 s2"),
    parse("transposed 32x64x32x32 -> 3 k2 s2", "tail"),
    parse("transposed 7x33x31x13 -> 17 k2 s2", "odd", "quick"),
    # ... 5 x 5
    parse("transposed 1x512x16x16 -> 256 k5 s2 p2 op1"),
    parse("transposed 32x128x16x16 -> 64 k5 s2 p2 op1", "training"),
    parse("transposed 32x32x14x14 -> 1 k5 s2 p2 op1", "tail"),
    # ... 1-D: vocoders, and an inverse short-time Fourier transform
    parse("transposed 1x512x200 -> 256 k16 s8 p4", "training"),
    parse("transposed 1x128x4000 -> 64 k4 s2 p1"),
    parse("transposed 1x1026x224 -> 1 k1024 s256 p384"),
    # ... 3-D: volumes
    parse("transposed 1x64x16x16x16 -> 32 k2 s2", "training"),
    parse("transposed 1x32x24x24x24 -> 16 k3 s2 p1 op1", "training"),
    # Sub-pixel convolution: super-resolution
    parse("subpixel 1x64x128x128 -> 64 k3 s2"),
    parse("subpixel 1x64x128x128 -> 3 k3 s2", "tail", "quick"),
    parse("subpixel 8x64x32x32 -> 32 k3 s2", "training"),
    parse("subpixel 1x64x64x64 -> 3 k3 s4", "tail"),
]
