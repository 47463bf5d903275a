"""What the doctor reports of a model: each layer, each period in the output, all of it; as a table and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from halfstride.checkerboard.coverage import even_kernel
from halfstride.checkerboard.pattern import EVIDENCE, STRENGTH, Pattern

__all__ = ["EVEN", "Diagnosis", "LayerReport", "OutputPattern", "joined", "pattern_dict", "shares", "table"]

EVEN = 1e-3
"""Phase gains that differ by less than this share of their mean count as equal."""


@dataclass(frozen=True)
class LayerReport:
    """What is known of one upsampling layer."""

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
    """Each phase's gain along the mean gain, (*stride): 1 for all phases of an even layer."""
    made: float | None
    """Strength of the pattern that its weights make of its average input, in units of its output's standard deviation;
    computed, not measured: no chance is in it. None where the weights are not known."""
    pattern: Pattern | None
    """What was measured in its output at its own stride."""
    refusal: str = ""
    """Why nothing was measured."""

    @property
    def verdict(self) -> str:
        """One of "checkerboard", "weights uneven", "even" and "not judged"."""
        even = self.gain_spread is not None and self.gain_spread <= EVEN
        # Equal gains multiply nothing: what may look like it are phases that differ in how much they vary.
        seen = self.pattern.additive if self.pattern is not None and even else self.pattern
        if (seen is not None and seen.found) or (self.made or 0.0) >= STRENGTH:
            return "checkerboard"
        if self.gain_spread is not None and not even:
            return "weights uneven"
        return "even" if self.pattern is not None or self.gain_spread is not None else "not judged"

    @property
    def advice(self) -> str:
        """What to do, in a sentence; empty where there is nothing to do."""
        if self.verdict == "even":
            return ""
        if self.verdict == "not judged":
            return self.refusal
        otherwise = "" if self.verdict == "checkerboard" else "these inputs make no pattern, but others can: "
        if self.kind == "sub-pixel":
            advice = "its phases have weights of their own: cure it, or start from ICNR (halfstride.SubpixelConv)."
            return otherwise + advice
        if self.taps is not None and self.taps[0] != self.taps[1]:
            better = joined([even_kernel(k, s) for k, s in zip(self.kernel_size, self.stride, strict=True)])
            return (
                f"{otherwise}the stride does not divide the kernel: cure it, or train with kernel {better} or a resize."
            )
        if self.kind == "transposed":
            return f"{otherwise}the overlap is even, the weights are not: cure it, or train with a resize-convolution."
        return f"{otherwise}this layer has even phases: look at what its input carries."


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


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; print it for a table."""

    layers: tuple[LayerReport, ...]
    output: tuple[OutputPattern, ...]
    """The patterns in the model's output, one for each period that a layer could give it."""
    unreached: tuple[str, ...]
    """Upsampling modules that the example inputs never came to."""
    uneven_gradients: tuple[str, ...]
    """Strided convolutions whose stride does not divide the kernel."""
    samples: Tensor | None
    """The first outputs (n, channels, *size), for pictures; None where the model returns no such tensor."""

    @property
    def found(self) -> bool:
        """Whether there is a checkerboard in the model's output, or right before it in a layer that upsamples last.

        Patterns that stay inside do not count: trained models use the differences between phases to paint detail, and
        later layers undo what is no detail.
        """
        return bool(self.blamed) or self.visible

    @property
    def visible(self) -> bool:
        """Whether a pattern was measured in the model's output itself."""
        return any(part.pattern is not None and part.pattern.found for part in self.output)

    @property
    def blamed(self) -> tuple[str, ...]:
        """The layers that make the checkerboard found in, or right before, the output."""
        made = [layer.name for layer in self.layers if layer.verdict == "checkerboard"]
        if not self.output:
            return tuple(made)
        seen = [part for part in self.output if part.direct or (part.pattern is not None and part.pattern.found)]
        return tuple(name for name in made if any(name in part.layers for part in seen))

    @property
    def strength(self) -> float:
        """The patterns found in the model's output taken together, in units of its standard deviation."""
        found = [part.pattern for part in self.output if part.pattern is not None and part.pattern.found]
        return math.sqrt(sum(pattern.strength**2 for pattern in found))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain numbers, texts and lists."""
        layers = []
        for layer in self.layers:
            row = {name: getattr(layer, name) for name in ("name", "kind", "kernel_size", "stride", "output_size")}
            row |= {"taps": layer.taps, "gain_spread": layer.gain_spread, "made": layer.made, "verdict": layer.verdict}
            row |= {"advice": layer.advice, "measured": pattern_dict(layer.pattern)}
            layers.append(row)
        return {
            "found": self.found,
            "visible": self.visible,
            "blamed": self.blamed,
            "strength_in_output": self.strength,
            "layers": layers,
            "output": [
                {
                    "period": part.period,
                    "layers": part.layers,
                    "measured": pattern_dict(part.pattern),
                    "refusal": part.refusal,
                }
                for part in self.output
            ],
            "unreached": self.unreached,
            "uneven_gradients": self.uneven_gradients,
            "thresholds": {"evidence": EVIDENCE, "strength": STRENGTH, "gain_spread": EVEN},
        }

    def __str__(self) -> str:
        if not self.layers:
            return "This model has no upsampling layer that these inputs reach: there is nothing to judge."
        rows = [("layer", "kind", "kernel/stride", "taps", "gain spread", "makes", "measured", "verdict")]
        for layer in self.layers:
            kernel = joined(layer.kernel_size) if layer.kernel_size else "-"
            taps = "-" if layer.taps is None else " to ".join(map(str, sorted(set(layer.taps))))
            spread = "-" if layer.gain_spread is None else f"{layer.gain_spread:.2g}"
            made = "-" if layer.made is None else f"{layer.made:.1%}"
            measured = "-" if layer.pattern is None else _measured(layer.pattern)
            shape = f"{kernel}/{joined(layer.stride)}"
            rows.append((layer.name, layer.kind, shape, taps, spread, made, measured, layer.verdict))
        lines = [
            *table(rows),
            "",
            "patterns in percent of the output's standard deviation; additive: the same everywhere, multiplicative: "
            "growing with the content",
        ]
        for part in self.output:
            told = part.refusal if part.pattern is None else _measured(part.pattern)
            lines.append(f"in the model's output, period {joined(part.period)} ({', '.join(part.layers)}): {told}")
        advice: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.advice:
                advice.setdefault(layer.advice, []).append(layer.name)
        lines += [f"{', '.join(names)}: {text}" for text, names in advice.items()]
        if self.unreached:
            lines.append(f"never reached by these inputs: {', '.join(self.unreached)}")
        if self.uneven_gradients:
            names = ", ".join(self.uneven_gradients)
            lines.append(f"uneven on the way back (kernel not divisible by the stride, gradients checkered): {names}")
        names = ", ".join(self.blamed)
        if self.visible and names:
            lines.append(f"Checkerboard found in the output; made by {names}.")
        elif self.visible:
            lines.append(
                "Checkerboard found in the output; no layer makes it by its weights alone. A nonlinearity makes one of "
                "phases that differ in how much they vary."
            )
        elif self.found:
            lines.append(f"Checkerboard found in {names}; none was measured in the model's output itself.")
        else:
            lines.append("No checkerboard found in the output.")
        return "\n".join(lines)


# Text -----------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with the cells of `rows` in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _measured(pattern: Pattern) -> str:
    if not pattern.found:
        return f"none (evidence {pattern.evidence:.1f})"
    return f"{shares(pattern)} (evidence {pattern.evidence:.1f})"


def shares(pattern: Pattern, digits: int = 1) -> str:
    """The strengths of the parts that were found, with their names."""
    return ", ".join(f"{part.strength:.{digits}%} {name}" for name, part in pattern.parts.items())


def pattern_dict(pattern: Pattern | None) -> dict[str, Any] | None:
    """A measurement as plain numbers and lists."""
    if pattern is None:
        return None
    parts = {"additive": pattern.additive, "multiplicative": pattern.multiplicative}
    return {
        "period": pattern.period,
        "strength": pattern.strength,
        "evidence": pattern.evidence,
        "found": pattern.found,
        "kinds": list(pattern.parts) if pattern.found else [],
        "brightest_phase": pattern.brightest,
        **{
            name: {
                "strength": part.strength,
                "evidence": part.evidence,
                "found": part.found,
                "channel": part.channel,
                "brightest_phase": part.brightest,
            }
            for name, part in parts.items()
        },
    }


def joined(sizes: Sequence[int]) -> str:
    """Sizes along all axes as one word: "3", or "3×4" where they differ."""
    return str(sizes[0]) if len(set(sizes)) == 1 else "×".join(map(str, sizes))
