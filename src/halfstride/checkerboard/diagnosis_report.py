"""What `diagnose` returns: a report of each layer and of each period in the output, as a table and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from halfstride._support.printed import Printed
from halfstride.checkerboard.coverage import even_kernel
from halfstride.checkerboard.pattern import FEW, Pattern
from halfstride.checkerboard.thresholds import EQUAL_GAINS, EVIDENCE, STRENGTH


@dataclass(frozen=True)
class LayerReport:
    """The report of one upsampling layer."""

    name: str
    kind: str
    """"transposed", "resize", "sub-pixel", or "interpolate": upsampling without a kernel of its own."""
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    """Or scale factor; 1 along every axis where the scale is no integer."""
    output_size: tuple[int, ...]
    taps: tuple[int, int] | None
    """Fewest and most kernel taps that an output position sums; None without a kernel."""
    gain_spread: float | None
    """`gain_spread` of its weights; None where they are not known."""
    gains: Tensor | None
    """Each phase's gain, projected on the mean gain, (*stride): 1 for all phases of an even layer."""
    made: float | None
    """Strength of the pattern that its weights make of its mean input, in units of its output's standard deviation;
    computed from the weights, not measured. None where the weights are not known."""
    pattern: Pattern | None
    """The pattern measured in its output at the period of its own stride."""
    refusal: str = ""
    """Why nothing was measured."""
    tolerance: float = EQUAL_GAINS
    """The `gain_spread` up to which its gains count as equal: more in bfloat16, which cannot hold them better."""

    @property
    def has_equal_gains(self) -> bool:
        """Whether all its phases have one gain, as far as the type of its weights can hold that."""
        return self.gain_spread is not None and self.gain_spread <= self.tolerance

    @property
    def makes(self) -> dict[str, float]:
        """The strengths of the parts of a pattern that it makes by its weights, or that were found in its output."""
        parts = {"additive": self.made or 0.0, "multiplicative": 0.0}
        if self.pattern is not None and self.pattern.additive.found:
            parts["additive"] = max(parts["additive"], self.pattern.additive.strength)
        # With equal gains a multiplicative part can only come from phases that differ in variance.
        if self.pattern is not None and self.pattern.multiplicative.found and not self.has_equal_gains:
            parts["multiplicative"] = self.pattern.multiplicative.strength
        return {name: strength for name, strength in parts.items() if strength >= STRENGTH}

    @property
    def verdict(self) -> str:
        """One of "checkerboard", "weights uneven", "even" and "not judged"."""
        if self.makes:
            return "checkerboard"
        if self.gain_spread is not None and not self.has_equal_gains:
            return "weights uneven"
        return "even" if self.pattern is not None or self.gain_spread is not None else "not judged"

    @property
    def advice(self) -> str:
        """What to do, in a sentence; empty where there is nothing to do."""
        if self.verdict == "even":
            return ""
        if self.verdict == "not judged":
            return self.refusal
        if self.kind == "sub-pixel":
            advice = "its phases have weights of their own: cure it, or start from ICNR (halfstride.SubpixelConv)."
        elif self.taps is not None and self.taps[0] != self.taps[1]:
            better = joined([even_kernel(k, s) for k, s in zip(self.kernel_size, self.stride, strict=True)])
            advice = f"the stride does not divide the kernel: cure it, or train with kernel {better} or a resize."
        elif self.kind == "transposed":
            advice = "the overlap is even, the weights are not: cure it, or train with a resize-convolution."
        else:
            advice = "this layer has even phases: look for a pattern in its input."
        return advice if self.verdict == "checkerboard" else f"no pattern with these inputs, but others can: {advice}"


@dataclass(frozen=True)
class OutputPattern:
    """A pattern in the model's output, and the layers that make patterns of this period."""

    period: tuple[int, ...]
    layers: tuple[str, ...]
    direct: bool
    """Whether these layers upsample last: nothing after them changes the period of their patterns."""
    pattern: Pattern | None
    refusal: str = ""
    """Why nothing was measured."""
    without: tuple[tuple[int, ...], ...] = ()
    """The periods whose harmonics are left out."""
    on_constant: float | None = None
    """Its strength where the inputs of these layers (of the model, without layers) are constant over all positions,
    still in units of the output's standard deviation; None where that was not measured."""

    place: int = 0
    """Which of the batches that the model returns, counted from 0."""

    @property
    def found(self) -> bool:
        """Whether a pattern was found, and is not made by content that changes from one position to the next."""
        if self.pattern is None or not self.pattern.found:
            return False
        return self.on_constant is None or self.on_constant >= self.pattern.strength / 2


@dataclass(frozen=True)
class Diagnosis(Printed):
    """The findings of `diagnose`; print it for a table."""

    layers: tuple[LayerReport, ...]
    output: tuple[OutputPattern, ...]
    """The patterns in the model's output, one for each period that a layer could give it; where no upsampling was
    recognised, one for each period from 2 to 8 that it is large enough for."""
    unreached: tuple[str, ...]
    """Upsampling modules that did not run for the example inputs."""
    uneven_gradients: tuple[str, ...]
    """Strided convolutions whose stride does not divide the kernel."""
    samples: Tensor | None
    """The first outputs (n, channels, *size), for pictures; None where the model returns no such tensor."""

    channels_last: bool = False
    """Whether the model returns (batch, *size, channels); `samples` have the channels second."""

    @property
    def found(self) -> bool | None:
        """Whether there is a checkerboard in the model's output; None where that could not be judged (see `reason`).

        It is measured there. What content makes by changing from one position to the next is none: a pattern that a
        nonlinearity makes of phases that differ in variance, and that is gone where content is constant. A layer that
        upsamples last and makes one counts too, unless the output shows that later operations remove it. Patterns that
        stay inside do not count: trained models use the differences between phases
        to paint detail, and later layers undo what is no detail.
        """
        if self.blamed or any(part.found for part in self.output):
            return True
        return False if self._is_measured else None

    @property
    def _is_measured(self) -> bool:
        """Whether anything was measured in the model's output."""
        return any(part.pattern is not None for part in self.output)

    @property
    def reason(self) -> str:
        """Why the output could not be judged; empty where it was."""
        if self.found is not None:
            return ""
        if self.samples is None:
            return "the model returns no batch of images, volumes or sound in floating point"
        if self.output:
            return "; ".join(dict.fromkeys(part.refusal for part in self.output))
        return f"its output of {joined(tuple(self.samples.shape[2:]))} is smaller than four periods of 2 along an axis"

    @property
    def patterns(self) -> list[Pattern]:
        """The patterns found in the model's output."""
        return [part.pattern for part in self.output if part.pattern is not None and part.pattern.found]

    @property
    def visible(self) -> bool:
        """Whether a pattern was measured in the model's output itself."""
        return bool(self.patterns)

    @property
    def reaching(self) -> set[str]:
        """The layers whose patterns may be in the output: those that upsample last, or whose period is found there.

        Not those that make one of which enough outputs show that later operations remove it.
        """
        seen = [part for part in self.output if part.direct or part.found]
        reaching = {name for part in seen for name in part.layers}
        if self.samples is None or len(self.samples) < FEW:  # too few to say that a pattern is gone
            return reaching
        return reaching - ({layer.name for layer in self.layers if layer.makes} - set(self.blamed))

    @property
    def blamed(self) -> tuple[str, ...]:
        """The layers that make the checkerboard in the output."""
        made = [layer for layer in self.layers if layer.makes]
        return tuple(
            layer.name
            for layer in made
            if not self.output or any(_reaches(layer, part) for part in self.output if layer.name in part.layers)
        )

    @property
    def strength(self) -> float:
        """The patterns found in the model's output taken together, in units of its standard deviation."""
        return math.hypot(*(pattern.strength for pattern in self.patterns))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain numbers, texts and lists."""
        names = (
            "name",
            "kind",
            "kernel_size",
            "stride",
            "output_size",
            "taps",
            "gain_spread",
            "tolerance",
            "made",
            "verdict",
        )
        layers = [
            {name: getattr(layer, name) for name in (*names, "advice")}
            | {"measured": None if layer.pattern is None else layer.pattern.to_dict()}
            for layer in self.layers
        ]
        output = [
            {
                "place": part.place,
                "period": part.period,
                "layers": part.layers,
                "refusal": part.refusal,
                "on_constant": part.on_constant,
            }
            | {"measured": None if part.pattern is None else part.pattern.to_dict()}
            for part in self.output
        ]
        return {
            "found": self.found,
            "reason": self.reason,
            "visible": self.visible,
            "blamed": self.blamed,
            "strength_in_output": self.strength,
            "layers": layers,
            "output": output,
            "unreached": self.unreached,
            "uneven_gradients": self.uneven_gradients,
            "thresholds": {"evidence": EVIDENCE, "strength": STRENGTH, "gain_spread": EQUAL_GAINS},
        }

    def __str__(self) -> str:
        titles = ("layer", "kind", "kernel/stride", "taps", "gain spread", "makes", "measured", "verdict")
        if self.layers:
            lines = [*table([titles, *map(_cells, self.layers)]), ""]
        else:
            lines = ["No upsampling layer was recognised; the output is searched for patterns of 2 to 8 positions."]
        if self.channels_last:
            lines.append("The output was read as (batch, height, width, channels).")
        lines.append(
            "patterns in percent of the output's standard deviation; additive: the same everywhere, multiplicative: "
            "growing with the content"
        )
        for part in self.output:
            measured = part.refusal if part.pattern is None else _measured(part.pattern)
            if part.on_constant is not None:
                measured += f"; {part.on_constant:.1%} where content is constant"
            of = f" ({', '.join(part.layers)})" if part.layers else ""
            which = f" {part.place + 1}" if len({each.place for each in self.output}) > 1 else ""
            lines.append(f"in the model's output{which}, period {joined(part.period)}{of}: {measured}")
        removed = [layer.name for layer in self.layers if layer.makes] if self.found is False else []
        advised = [layer for layer in self.layers if layer.advice and layer.name not in removed]
        for advice in dict.fromkeys(layer.advice for layer in advised):
            names = ", ".join(layer.name for layer in advised if layer.advice == advice)
            lines.append(f"{names}: {advice}")
        if self.unreached:
            lines.append(f"not run by these inputs: {', '.join(self.unreached)}")
        if self.uneven_gradients:
            names = ", ".join(self.uneven_gradients)
            lines.append(f"uneven gradients (strided convolutions whose stride does not divide the kernel): {names}")
        names = ", ".join(self.blamed)
        if self.visible and names:
            lines.append(f"Checkerboard found in the output; made by {names}.")
        elif self.visible and self.found is False:
            lines.append(
                "No checkerboard found in the output: it has a pattern, but no layer makes it by its weights alone. "
                "Content that changes from one position to the next does, by phases that differ in variance."
            )
        elif self.visible and not self.layers:
            lines.append("Checkerboard found in the output; what makes it was not recognised.")
        elif self.visible:
            lines.append(
                "Checkerboard found in the output; no layer makes it by its weights alone. A nonlinearity makes one of "
                "phases that differ in variance."
            )
        elif self.found and self._is_measured:
            lines.append(f"Checkerboard found in {names}; in the model's output it cannot be told from the content.")
        elif self.found:
            lines.append(f"Checkerboard found in {names}; whether it stays in the model's output was not measured.")
        elif self.found is None:
            lines.append(f"Could not judge: {self.reason}.")
        elif removed:
            made = ", ".join(removed)
            lines.append(f"No checkerboard found in the output: what {made} makes does not show in it.")
        else:
            lines.append("No checkerboard found in the output.")
        return "\n".join(lines)


def _reaches(layer: LayerReport, output: OutputPattern) -> bool:
    """Whether the pattern that a layer makes is in the output, as far as that was measured."""
    if output.pattern is None:
        return output.direct
    # If less than half of a part is measured, a later operation has removed it. With few signals the measured strength
    # is mostly noise and larger than that, so the layer still counts.
    left = {"additive": output.pattern.additive.strength, "multiplicative": output.pattern.multiplicative.strength}
    if output.on_constant is not None:
        left = {name: min(strength, output.on_constant) for name, strength in left.items()}
    stays = any(left[name] >= max(STRENGTH, strength / 2) for name, strength in layer.makes.items())
    return output.found or (output.direct and stays)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with the cells of `rows` in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def joined(sizes: Sequence[int]) -> str:
    """Sizes along all axes as one word: "3", or "3×4" where they differ."""
    return str(sizes[0]) if len(set(sizes)) == 1 else "×".join(map(str, sizes))


def _cells(layer: LayerReport) -> tuple[str, ...]:
    """The layer's row in the table."""
    return (
        layer.name,
        layer.kind,
        f"{joined(layer.kernel_size) if layer.kernel_size else '-'}/{joined(layer.stride)}",
        "-" if layer.taps is None else " to ".join(map(str, sorted(set(layer.taps)))),
        "-" if layer.gain_spread is None else f"{layer.gain_spread:.2g}",
        "-" if layer.made is None else f"{layer.made:.1%}",
        "-" if layer.pattern is None else _measured(layer.pattern),
        layer.verdict,
    )


def _measured(pattern: Pattern) -> str:
    return f"{pattern.shares if pattern.found else 'none'} (evidence {pattern.evidence:.1f})"
