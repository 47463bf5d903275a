"""A small layer at work, frame by frame: inputs scattered through the kernel, a kernel that slides and gathers, and the
layer's phases, matrix and coverage at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from halfstride.figures.frames import Frame, Rectangle, Words
from halfstride.figures.upsampling_steps import By, Moment, UpsamplingSteps, moment_of

View = Literal["scatter", "sliding"]
Picture = Literal["scatter", "emulated", "phases", "matrix", "coverage"]
Theme = Literal["light", "dark"]

_WIDTH, _HEIGHT = 1280, 720
_LEFT, _TOP, _BOTTOM = 60, 150, 625
_WORDS_SHOWN = 88  # letters in the line below the picture
_HEAT = 0.6  # of the whole colour, where the most products are; numbers on it keep their contrast


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


def upsampling_frames(steps: UpsamplingSteps, view: View = "scatter", theme: Theme = "light") -> list[Frame]:
    """The layer at work, one frame a step and one more with everything done; 1280 × 720, to be read from afar.

    Args:
        steps: the layer.
        view: "scatter" steps through the inputs, each times the kernel; "sliding" through the outputs, each a window
            of the padded input.
        theme: light or dark.
    """
    painter = _Painter(steps, THEMES[theme])
    by: By = "inputs" if view == "scatter" else "outputs"
    draw = painter.scatter if view == "scatter" else painter.sliding
    count = steps.input.size if view == "scatter" else steps.output.size
    return [draw(moment_of(steps, by, step)) for step in (*range(count), None)]


def upsampling_picture(
    steps: UpsamplingSteps,
    view: Picture,
    by: By = "inputs",
    step: int | None = None,
    theme: Theme = "light",
    turned: bool = False,
) -> Frame:
    """One view of a layer at a step; 1280 × 720, larger where its cells need it.

    Args:
        steps: the layer.
        view: which view.
        by: whether `step` counts inputs or outputs.
        step: the step; None, or one after the last, for everything done.
        theme: light or dark.
        turned: draw the transposed matrix.
    """
    painter = _Painter(steps, THEMES[theme])
    moment = moment_of(steps, by, step)
    match view:
        case "scatter":
            return painter.scatter(moment)
        case "emulated":
            return painter.sliding(moment)
        case "phases":
            return painter.phases(moment)
        case "matrix":
            return painter.matrix(moment, turned)
    return painter.coverage()


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

    # The views --------------------------------------------------------------------------------------------------------

    def scatter(self, moment: Moment) -> Frame:
        """The input, the kernel, and the sum of all that has landed up to this step."""
        steps, frame = self.steps, self._frame()
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
            for (j, i), (_, landed) in moment.entries.items():
                row = _Grid(outputs.x, inputs.y + i * side, side, o)
                shown = landed if moment.reaches((j, i)) else None
                self._cell(frame, row, j, shown, "kernel" if moment.lights((j, i)) else "plain")
        for index, value in enumerate(steps.input.ravel()):
            self._cell(frame, inputs, index, value, "input", lit=index in moment.inputs_lit)
        self._kernels(frame, kernel_place, side, moment.taps_lit)
        for index, shown in enumerate(moment.outputs):
            corner, lit = moment.landing.get(index) if self.two else None, index == moment.output_lit
            self._cell(frame, outputs, index, shown, "output", lit=lit, ring=index in moment.landing, corner=corner)
        self._name(frame, inputs, "input")
        self._name(frame, _Grid(*kernel_place, side, 1), "kernel")
        self._name(frame, outputs, "output")
        self._explain(frame, moment)
        return frame

    def sliding(self, moment: Moment) -> Frame:
        """The padded input under the kernel, and the outputs that are done up to this step."""
        steps, frame = self.steps, self._frame()
        padded, o = steps.source.shape[-1], steps.output.shape[-1]
        tall = max(steps.source.shape[0], o) if self.two else 5
        across = padded + 2 + o if self.two else max(padded, o)
        side = min((_BOTTOM - _TOP) // tall, (_WIDTH - 2 * _LEFT) // across, 64)
        grid = _Grid(_LEFT, _TOP, side, padded)
        x, y = (_LEFT + (padded + 2) * side, _TOP) if self.two else (_LEFT, _TOP + 3 * side)
        outputs = _Grid(x, y, side, o)
        slides = moment.output_lit is not None
        under_kernel = () if moment.output_lit is None else steps.windows[moment.output_lit]
        window = {int(cell): int(tap) for cell, tap in under_kernel}
        kernel = steps.kernels.ravel()
        for cell, source in enumerate(steps.source.ravel()):
            kind = "input" if source >= 0 else "between" if source == -1 else "padding"
            value = steps.input.ravel()[source] if source >= 0 else 0.0 if source == -1 else None
            weight = float(kernel[window[cell]]) if cell in window else None
            under = cell in window
            lit = source >= 0 and (under if slides else int(source) in moment.inputs_lit)
            self._cell(frame, grid, cell, value, kind, lit=lit, ring=under, corner=weight)
        for index, shown in enumerate(moment.outputs):
            lit, ring = index == moment.output_lit, index in moment.landing
            self._cell(frame, outputs, index, shown, "output", lit=lit, ring=ring)
        self._name(frame, grid, "input", self._source_name())
        self._name(frame, outputs, "output")
        self._explain(frame, moment)
        return frame

    def phases(self, moment: Moment) -> Frame:
        """Outputs with the same index modulo the stride (of a convolution inputs), with their small kernel."""
        steps = self.steps
        of_input = steps.phased == "input"
        shape = steps.input.shape if of_input else steps.output.shape
        per_row = round(len(steps.phases) ** 0.5) if self.two else len(steps.phases)
        s = per_row if self.two else len(steps.phases)
        columns, rows = -(-shape[-1] // s), -(-shape[0] // s) if self.two else 1
        small = max((phase.kernel.shape[1] for phase in steps.phases), default=0)
        tall = max((phase.kernel.shape[0] for phase in steps.phases), default=0)
        wide, high = max(small + 1 + columns, 4) + 1, max(tall, rows) + 2  # cells of a block, with what is between
        down = -(-len(steps.phases) // per_row)
        frame, side = self._frame_for(per_row * wide, down * high, least=24)
        values = steps.input.ravel().tolist() if of_input else moment.outputs
        lit = moment.inputs_lit if of_input else {moment.output_lit}
        for place, phase in enumerate(steps.phases):
            x, y = _LEFT + place % per_row * wide * side, _TOP + place // per_row * high * side
            kernel = _Grid(x, y, side, max(phase.kernel.shape[1], 1))
            for tap, (value, taps) in enumerate(zip(phase.kernel.flat, phase.taps.flat, strict=True)):
                self._cell(frame, kernel, tap, value if taps else None, "kernel" if taps else "padding")
            grid = _Grid(x + (small + 1) * side, y, side, columns)
            first = [min((p // shape[-1] for p in phase.positions), default=0)]
            first.append(min((p % shape[-1] for p in phase.positions), default=0))
            for position in phase.positions:
                row, column = ((p - begin) // s for p, begin in zip(divmod(position, shape[-1]), first, strict=True))
                now, ring = position in lit, not of_input and position in moment.landing
                index = row * columns + column
                self._cell(frame, grid, index, values[position], steps.phased, lit=now, ring=ring)
            total, remainder = int(phase.taps.sum()), ", ".join(map(str, phase.remainder))
            what = f"phase {remainder}: {total} {'tap' if total == 1 else 'taps'}, sum {number(phase.kernel.sum())}"
            frame.words.append(Words(x, y - 15, ((what, self.colours.muted),), 17))
        self._explain(frame, moment)
        return frame

    def matrix(self, moment: Moment, turned: bool) -> Frame:
        """The layer as a matrix with a row for every output, or transposed."""
        steps, c = self.steps, self.colours
        across, down = (steps.output.size, steps.input.size)[:: 1 if turned else -1]
        frame, side = self._frame_for(across + 5, down + 2, least=20 if max(across, down) <= 80 else 8)
        left = _LEFT + max(2 * side, 80)  # beside the word above the outputs
        beside, above = _Grid(left - 2 * side, _TOP + 2 * side, side, 1), _Grid(left, _TOP, side, across)
        entries = _Grid(above.x, beside.y, side, across)
        tiny = side < 16  # too small for numbers
        edge = Rectangle(entries.x - 4, entries.y - 4, across * side + 6, down * side + 6, None, c.line)
        frame.rectangles.append(edge)
        inputs, outputs = (beside, above) if turned else (above, beside)
        for index, value in enumerate(steps.input.ravel()):
            self._cell(frame, inputs, index, None if tiny else value, "input", lit=index in moment.inputs_lit)
        for index, shown in enumerate(moment.outputs):
            lit, ring = index == moment.output_lit, index in moment.landing
            self._cell(frame, outputs, index, None if tiny else shown, "output", lit=lit, ring=ring)
        for (j, i), (tap, _) in moment.entries.items():
            index = i * across + j if turned else j * across + i
            lit = moment.lights((j, i)) or (tiny and moment.step is None)
            self._cell(frame, entries, index, None if tiny else tap, "kernel", lit=lit)
        for kind, grid in (("input", inputs), ("output", outputs)):
            self._name(frame, above if grid is above else beside._replace(x=_LEFT, y=_TOP), kind)
        self._explain(frame, moment)
        return frame

    def coverage(self) -> Frame:
        """The number of products at each position of the side that has the phases."""
        steps, c = self.steps, self.colours
        array = steps.input if steps.phased == "input" else steps.output
        counts = np.bincount(steps.terms[:, 0 if steps.phased == "input" else 2], minlength=array.size)
        frame, side = self._frame_for(array.shape[-1], array.shape[0] if self.two else 1, least=24)
        grid, accent = _Grid(_LEFT, _TOP, side, array.shape[-1]), getattr(c, steps.phased)
        for index, count in enumerate(counts.tolist()):
            x, y = grid.cell(index)
            share = _HEAT * count / max(1, counts.max())
            frame.rectangles.append(Rectangle(x, y, side - 2, side - 2, _mixed(c.ground, accent, share)))
            middle = x + side // 2 - 1, y + side // 2 - 1
            frame.words.append(Words(*middle, ((str(count), c.ink),), round(side * 0.42), centred=True))
        self._name(frame, grid, steps.phased, f"products at each {steps.phased}")
        self._say(frame, [(f"{len(steps.terms)} products", "ink")])
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

    def _frame_for(self, across: int, down: int, least: int) -> tuple[Frame, int]:
        """A frame for so many cells, which grows where they would be smaller than `least`, and the size of a cell."""
        side = max(least, min((_BOTTOM - _TOP) // down, (_WIDTH - 2 * _LEFT) // across, 64))
        below = _HEIGHT - _BOTTOM
        return self._frame(max(_WIDTH, across * side + 2 * _LEFT), max(_HEIGHT, _TOP + down * side + below)), side

    def _frame(self, width: int = _WIDTH, height: int = _HEIGHT) -> Frame:
        frame = Frame(width, height, self.colours.ground)
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

    def _explain(self, frame: Frame, moment: Moment) -> None:
        """The line below: what is computed at this step."""
        steps, step = self.steps, moment.step
        if step is None:
            self._say(frame, [(f"{len(steps.terms)} products, added up", "ink")])
        elif moment.by == "inputs":
            value = number(steps.input.ravel()[step])
            sums = ", ".join(number(product) for product in moment.landing.values())
            self._say(frame, [(value, "input"), (" times ", "ink"), ("the kernel", "kernel"), (f":  {sums}", "ink")])
        else:
            kernel = steps.kernels.ravel()
            pieces: list[tuple[str, str]] = []
            for i, t in steps.terms[steps.terms[:, 2] == step, :2].tolist():
                pieces += [(" + " if pieces else "", "ink"), (number(steps.input.ravel()[i]), "input"), ("·", "ink")]
                pieces.append((number(kernel[t]), "kernel"))
            total = number(steps.output.ravel()[step])
            self._say(frame, [*pieces, (" = " if pieces else "", "ink"), (total, "output")])

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
        frame.words.append(Words(_LEFT, frame.height - 45, tuple(shown), 24))


def _mixed(ground: str, colour: str, share: float) -> str:
    """A colour on a ground, as "#rrggbb"."""
    pairs = ((int(ground[at : at + 2], 16), int(colour[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(low + share * (high - low)):02x}" for low, high in pairs)
