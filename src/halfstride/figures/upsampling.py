"""A small layer at work, frame by frame: inputs scattered through the kernel, or a kernel that slides and gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from halfstride.figures.frames import Frame, Rectangle, Words

if TYPE_CHECKING:
    from jaxtyping import Float, Int

View = Literal["scatter", "sliding"]
Theme = Literal["light", "dark"]

_WIDTH, _HEIGHT = 1280, 720
_LEFT, _TOP, _BOTTOM = 60, 150, 625
_WORDS_SHOWN = 88  # letters in the line below the picture


class _Colours(NamedTuple):
    ground: str
    ink: str
    muted: str
    line: str
    between: str
    on_accent: str
    input: str
    input_tint: str
    kernel: str
    kernel_tint: str
    output: str
    output_tint: str


THEMES: dict[str, _Colours] = {
    "light": _Colours(
        *("#ffffff", "#1d1f23", "#5a5e66", "#d3cfc5", "#f0eee8", "#ffffff"),
        *("#0b5fa8", "#dcebf9", "#00705a", "#d8f0e8", "#b0440a", "#fbe6d8"),
    ),
    "dark": _Colours(
        *("#131519", "#e9e7e2", "#a7acb5", "#3b414d", "#242932", "#101216"),
        *("#6db7ff", "#17324d", "#4fd0a8", "#12392f", "#ff9f63", "#482612"),
    ),
}


@dataclass(frozen=True)
class UpsamplingSteps:
    """A layer and what it computes, as arrays of one axis or two.

    Args:
        title: what layer it is.
        caption: its arguments, in a line.
        input: the input.
        kernels: one kernel, or one for each phase.
        output: the output.
        terms: a row `(i, t, j)` for each product, of flat positions in input, kernels and output.
        products: the product of each row of `terms`.
        partial: the output after the first input, after two, and so on.
        source: which input each cell of the padded input shows; -1 a zero put between, -2 padding.
        windows: for each output, rows of a flat position in `source` and one in the kernels.
    """

    title: str
    caption: str
    input: Float[np.ndarray, "*n"]
    kernels: Float[np.ndarray, "kernels *k"]
    output: Float[np.ndarray, "*o"]
    terms: Int[np.ndarray, "products 3"]
    products: Float[np.ndarray, " products"]
    partial: Float[np.ndarray, "steps *o"]
    source: Int[np.ndarray, "*padded"]
    windows: Sequence[Int[np.ndarray, "taps 2"]]


def upsampling_frames(steps: UpsamplingSteps, view: View = "scatter", theme: Theme = "light") -> list[Frame]:
    """The layer at work, one frame a step and one more with everything done; 1280 × 720, to be read from afar.

    Args:
        steps: the layer.
        view: "scatter" steps through the inputs, each times the kernel; "sliding" through the outputs, each a window
            of the padded input.
        theme: light or dark.
    """
    painter = _Painter(steps, THEMES[theme])
    if view == "scatter":
        return [painter.scatter(step) for step in range(steps.input.size)] + [painter.scatter(None)]
    return [painter.sliding(step) for step in range(steps.output.size)] + [painter.sliding(None)]


def number(value: float) -> str:
    """A number as a person would write it: at most four significant digits.

    Example:
        >>> number(3.0), number(-0.123456)
        ('3', '−0.1235')
    """
    text = f"{value:.0f}" if value == int(value) and abs(value) < 1e7 else f"{value:.4g}"
    return text.replace("-", "−")


class _Grid(NamedTuple):
    """Where an array's cells lie on the frame."""

    x: int
    y: int
    side: int
    columns: int

    def cell(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        return self.x + column * self.side, self.y + row * self.side


class _Painter:
    def __init__(self, steps: UpsamplingSteps, colours: _Colours) -> None:
        self.steps = steps
        self.colours = colours
        self.two = steps.input.ndim == 2

    # Scatter ----------------------------------------------------------------------------------------------------------

    def scatter(self, step: int | None) -> Frame:
        """The input, the kernel, and the sum of all that has landed up to this step."""
        steps, frame = self.steps, self._frame()
        now = [] if step is None else [row for row in range(len(steps.terms)) if steps.terms[row, 0] == step]
        landing = {int(steps.terms[row, 2]): float(steps.products[row]) for row in now}
        done = len(steps.partial) - 1 if step is None else step
        reached = set(steps.terms[steps.terms[:, 0] <= done, 2].tolist())
        lit_kernel = {int(steps.terms[row, 1]) for row in now}
        values = steps.partial[done].ravel()
        if self.two:
            n, o, left = steps.input.shape[1], steps.output.shape[1], self._kernels_size()
            below = steps.input.shape[0] + 1 + left[0]
            side = min((_BOTTOM - _TOP) // max(below, o), (_WIDTH - 2 * _LEFT) // (max(n, left[1]) + 2 + o), 64)
            inputs = _Grid(_LEFT, _TOP, side, n)
            kernel_place = (_LEFT, _TOP + (steps.input.shape[0] + 1) * side)
            outputs = _Grid(_LEFT + (max(n, left[1]) + 2) * side, _TOP, side, o)
        else:
            n, o = steps.input.size, steps.output.size
            across = max(o, self._kernels_size()[1])
            side = min((_BOTTOM - _TOP) // (n + 3), (_WIDTH - 2 * _LEFT) // (across + 2), 64)
            inputs = _Grid(_LEFT, _TOP + round(1.5 * side), side, 1)
            kernel_place = (_LEFT + 2 * side, _TOP)
            outputs = _Grid(_LEFT + 2 * side, _TOP + round((n + 1.8) * side), side, o)
            for (i, _, j), product in zip(steps.terms.tolist(), steps.products.tolist(), strict=True):
                row = _Grid(outputs.x, inputs.y + i * side, side, o)
                self._cell(frame, row, j, product if i <= done else None, "kernel" if i == step else "plain")
        for index, value in enumerate(steps.input.ravel()):
            self._cell(frame, inputs, index, value, "input", lit=index == step)
        self._kernels(frame, kernel_place, side, lit_kernel)
        for index, value in enumerate(values):
            shown, corner = value if index in reached else None, landing.get(index) if self.two else None
            self._cell(frame, outputs, index, shown, "output", ring=index in landing, corner=corner)
        self._name(frame, inputs, "input")
        self._name(frame, _Grid(*kernel_place, side, 1), "kernel")
        self._name(frame, outputs, "output")
        if step is None:
            self._say(frame, [(f"{len(steps.terms)} products, added up", "ink")])
        else:
            value = number(steps.input.ravel()[step])
            sums = ", ".join(number(product) for product in landing.values())
            self._say(frame, [(value, "input"), (" times ", "ink"), ("the kernel", "kernel"), (f":  {sums}", "ink")])
        return frame

    # Sliding ----------------------------------------------------------------------------------------------------------

    def sliding(self, step: int | None) -> Frame:
        """The padded input under the kernel, and the outputs that are done up to this step."""
        steps, frame = self.steps, self._frame()
        padded, o = steps.source.shape[-1], steps.output.shape[-1]
        tall = max(steps.source.shape[0], o) if self.two else 5
        across = padded + 2 + o if self.two else max(padded, o)
        side = min((_BOTTOM - _TOP) // tall, (_WIDTH - 2 * _LEFT) // across, 64)
        grid = _Grid(_LEFT, _TOP, side, padded)
        x, y = (_LEFT + (padded + 2) * side, _TOP) if self.two else (_LEFT, _TOP + 3 * side)
        outputs = _Grid(x, y, side, o)
        window = {} if step is None else {int(cell): int(tap) for cell, tap in steps.windows[step]}
        kernel = steps.kernels.ravel()
        for cell, source in enumerate(steps.source.ravel()):
            kind = "input" if source >= 0 else "between" if source == -1 else "padding"
            value = steps.input.ravel()[source] if source >= 0 else 0.0 if source == -1 else None
            weight = float(kernel[window[cell]]) if cell in window else None
            under = cell in window
            self._cell(frame, grid, cell, value, kind, lit=source >= 0 and under, ring=under, corner=weight)
        for index, value in enumerate(steps.output.ravel()):
            shown = value if step is None or index <= step else None
            self._cell(frame, outputs, index, shown, "output", lit=index == step)
        self._name(frame, grid, "input", self._source_name())
        self._name(frame, outputs, "output")
        if step is None:
            self._say(frame, [(f"{len(steps.terms)} products, added up", "ink")])
            return frame
        pieces: list[tuple[str, str]] = []
        for i, t in steps.terms[steps.terms[:, 2] == step, :2].tolist():
            pieces += [(" + " if pieces else "", "ink"), (number(steps.input.ravel()[i]), "input"), ("·", "ink")]
            pieces.append((number(kernel[t]), "kernel"))
        self._say(frame, [*pieces, (" = " if pieces else "", "ink"), (number(steps.output.ravel()[step]), "output")])
        return frame

    def _source_name(self) -> str:
        """What was done to the input before the kernel slides over it, such as "input, repeated and padded"."""
        source = self.steps.source
        changes = {
            "repeated": np.count_nonzero(source >= 0) > self.steps.input.size,
            "with zeros between": (source == -1).any(),
            "padded": (source == -2).any(),
        }
        done = " and ".join(change for change, is_done in changes.items() if is_done)
        return f"input, {done}" if done else "input"

    # Parts ------------------------------------------------------------------------------------------------------------

    def _frame(self) -> Frame:
        frame = Frame(_WIDTH, _HEIGHT, self.colours.ground)
        frame.words.append(Words(_LEFT, 50, ((self.steps.title, self.colours.ink),), 34, bold=True))
        frame.words.append(Words(_LEFT, 92, ((self.steps.caption, self.colours.muted),), 22))
        return frame

    def _cell(
        self,
        frame: Frame,
        grid: _Grid,
        index: int,
        value: float | None,
        kind: str,
        lit: bool = False,
        ring: bool = False,
        corner: float | None = None,
    ) -> None:
        c = self.colours
        x, y = grid.cell(index)
        size = grid.side - 2
        tint = {"input": c.input_tint, "kernel": c.kernel_tint, "output": c.output_tint, "between": c.between}
        accent = {"input": c.input, "kernel": c.kernel, "output": c.output}
        if kind == "padding":
            frame.rectangles.append(Rectangle(x, y, size, size, None, c.line))
        elif kind != "plain":
            frame.rectangles.append(Rectangle(x, y, size, size, accent[kind] if lit else tint[kind]))
        if ring:
            frame.rectangles.append(Rectangle(x, y, size, size, None, c.kernel, max(2, size // 16)))
        if value is not None:
            text = number(value)
            letters = max(len(text), 2)
            ink = c.on_accent if lit else c.muted if kind in ("plain", "between") else c.ink
            shown = min(round(size * 0.46), round(1.45 * size / letters))
            frame.words.append(Words(x + size // 2, y + size // 2, ((text, ink),), shown, centred=True))
        if corner is not None and size >= 24:
            ink = c.on_accent if lit else c.kernel
            text = number(corner)
            shown = round(size * 0.24)
            place = x + size - 4 - round(0.32 * shown * len(text))
            frame.words.append(Words(place, y + round(size * 0.18), ((text, ink),), shown, bold=True, centred=True))

    def _kernels_size(self) -> tuple[int, int]:
        """Rows and columns of cells that all kernels take together."""
        count, *shape = self.steps.kernels.shape
        if not self.two:
            return 1, count * shape[0]
        beside = round(count**0.5)
        return beside * shape[0], beside * shape[1]

    def _kernels(self, frame: Frame, place: tuple[int, int], side: int, lit: set[int]) -> None:
        count, *shape = self.steps.kernels.shape
        beside = round(count**0.5) if self.two else count
        taps = int(np.prod(shape))
        for block in range(count):
            row, column = divmod(block, beside)
            # Kernels of several phases stand apart by a few pixels.
            x = place[0] + column * (shape[-1] * side + (6 if column else 0))
            y = place[1] + row * (shape[0] * side + (6 if row else 0)) if self.two else place[1]
            grid = _Grid(x, y, side, shape[-1])
            for tap in range(taps):
                index = block * taps + tap
                self._cell(frame, grid, tap, self.steps.kernels.ravel()[index], "kernel", lit=index in lit)

    def _name(self, frame: Frame, grid: _Grid, kind: str, text: str | None = None) -> None:
        frame.words.append(Words(grid.x, grid.y - 17, ((text or kind, getattr(self.colours, kind)),), 19))

    def _say(self, frame: Frame, pieces: Sequence[tuple[str, str]]) -> None:
        """The line below; one that is too long is cut at its end."""
        shown: list[tuple[str, str]] = []
        room = _WORDS_SHOWN
        for text, colour in pieces:
            if len(text) > room:
                shown.append((text[:room] + " …", getattr(self.colours, colour)))
                break
            shown.append((text, getattr(self.colours, colour)))
            room -= len(text)
        frame.words.append(Words(_LEFT, 675, tuple(shown), 24))
