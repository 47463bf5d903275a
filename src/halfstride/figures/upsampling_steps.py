"""A small layer and what it computes, as plain arrays, and what of it is seen at a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

By = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class Phase:
    """One phase of a layer: a small kernel, and the outputs (or inputs) that have it."""

    remainder: tuple[int, ...]
    kernel: Float[np.ndarray, "rows columns"]
    taps: Int[np.ndarray, "rows columns"]
    """How many of the layer's taps are summed in each of its own."""
    positions: Sequence[int]


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
        phases: all phases.
        phased: the side that has the phases, "input" or "output".
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
    phases: Sequence[Phase]
    phased: Literal["input", "output"]


@dataclass(frozen=True)
class Moment:
    """What is seen at a step: values, None where not reached yet, and what is highlighted."""

    by: By
    step: int | None
    outputs: Sequence[float | None]
    inputs_lit: set[int]
    taps_lit: set[int]
    output_lit: int | None
    landing: dict[int, float]
    """What is added to outputs at this step."""
    entries: dict[tuple[int, int], tuple[float, float]]
    """Of each output and input: the sum of the taps between them, and that times the input."""

    def reaches(self, entry: tuple[int, int]) -> bool:
        """Whether the product of an output and an input is there at this step."""
        return self.step is None or entry[0 if self.by == "outputs" else 1] <= self.step

    def lights(self, entry: tuple[int, int]) -> bool:
        """Whether it belongs to this step."""
        return self.step is not None and entry[0 if self.by == "outputs" else 1] == self.step


def moment_of(steps: UpsamplingSteps, by: By, step: int | None) -> Moment:
    """What is seen at a step that counts inputs or outputs; None, or one after the last, for everything done."""
    if step is not None and step >= (steps.input.size if by == "inputs" else steps.output.size):
        step = None
    kernel = steps.kernels.ravel()
    entries: dict[tuple[int, int], tuple[float, float]] = {}
    for (i, t, j), product in zip(steps.terms.tolist(), steps.products.tolist(), strict=True):
        tap, landed = entries.get((j, i), (0.0, 0.0))
        entries[j, i] = tap + float(kernel[t]), landed + product
    entries = dict(sorted(entries.items()))
    values = steps.output.ravel().tolist()
    if step is None:
        return Moment(by, None, values, set(), set(), None, {}, entries)
    if by == "outputs":
        now = steps.terms[steps.terms[:, 2] == step]
        shown = [value if j <= step else None for j, value in enumerate(values)]
        return Moment(by, step, shown, set(now[:, 0].tolist()), set(now[:, 1].tolist()), step, {}, entries)
    now = steps.terms[steps.terms[:, 0] == step]
    reached = set(steps.terms[steps.terms[:, 0] <= step, 2].tolist())
    sums = steps.partial[step].ravel().tolist()
    shown = [value if j in reached else None for j, value in enumerate(sums)]
    landing = {j: landed for (j, i), (_, landed) in entries.items() if i == step}
    return Moment(by, step, shown, {step}, set(now[:, 1].tolist()), None, landing, entries)
