"""What optimisation found, did and gained."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Report", "Row", "Times"]


@dataclass(frozen=True)
class Times:
    """Shortest seconds of the original and of what took its place."""

    before: float
    after: float

    @property
    def speedup(self) -> float:
        return self.before / self.after


@dataclass
class Row:
    """One upsampling in the model, or all of its convolutions of signals."""

    where: str
    """The module that computes it, by its path in the model; empty for the model itself."""
    was: str
    became: str
    """What took its place; empty where nothing did."""
    reason: str = ""
    """Why it was left as it was."""
    calls: int = 1
    """How often a forward pass comes by."""
    error: float | None = None
    """Largest difference from the original, as a share of the original's largest value."""
    inference: Times | None = None
    """The forward pass."""
    training: Times | None = None
    """Forward and backward pass."""
    bytes_saved: int = 0
    """Size of the high-resolution tensors that are no longer written, in one call."""


@dataclass
class Report:
    """What optimisation found, did and gained. Printed, it is a table.

    The model as a whole: `optimized` says whether it was changed, `note` why it was not. Times and errors as in `Row`.
    """

    rows: list[Row]
    optimized: bool = False
    note: str = ""
    error: float | None = None
    inference: Times | None = None
    training: Times | None = None
    _undo: Callable[[], None] = field(default=lambda: None, repr=False)

    def undo(self) -> None:
        """Give the model back its own way to compute."""
        self._undo()
        self.optimized = False

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        data = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        for name in ("inference", "training"):
            data[name] = _times(data[name])
        data["rows"] = [
            {**asdict(row), "inference": _times(row.inference), "training": _times(row.training)} for row in self.rows
        ]
        return data

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("where", "was", "became"):
            table.add_column(name, overflow="fold")
        for name in ("error", "forward", "+ backward", "saved"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            where = (row.where or "(the model)") + (f" ({row.calls} calls)" if row.calls > 1 else "")
            table.add_row(
                where,
                row.was,
                row.became or f"as it was: {row.reason}",
                "" if row.error is None else f"{row.error:.0e}",
                _ratio(row.inference),
                _ratio(row.training),
                f"{row.bytes_saved / 2**20:.1f} MiB" if row.became and row.bytes_saved else "",
                style=None if row.became else "dim",
            )
        return Group(Text(self._title(), style="bold"), table) if self.rows else Text(self._title(), style="bold")

    def _title(self) -> str:
        parts = ["Optimised" if self.optimized else f"Left as it was: {self.note}"]
        parts += [
            f"{name} {_ratio(times)} ({times.before * 1e3:.1f} → {times.after * 1e3:.1f} ms)"
            for name, times in (("forward", self.inference), ("forward + backward", self.training))
            if times
        ]
        return ", ".join([*parts, *([] if self.error is None else [f"error {self.error:.0e}"])])

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=160, markup=False, emoji=False, highlight=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _times(times: Times | None) -> dict[str, float] | None:
    return None if times is None else {**asdict(times), "speedup": times.speedup}


def _ratio(times: Times | None) -> str:
    return f"{times.speedup:.2f}×" if times else ""
