"""Report what `optimize` found and changed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from halfstride._support.printed import Printed

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Times:
    """Shortest seconds of the model as it was, and changed."""

    before: float
    after: float

    @property
    def speedup(self) -> float:
        return self.before / self.after


@dataclass
class Row:
    """One kind of upsampling in one module of the model.

    Attributes:
        where: the path of the module that computes it; empty for the model itself.
        was: what it was.
        became: what took its place; empty where nothing did.
        reason: why it was left as it was.
        calls: how often a forward pass comes by.
        bytes_saved: size in bytes of the high-resolution tensors that are no longer written, in one call.
    """

    where: str
    was: str
    became: str = ""
    reason: str = ""
    calls: int = 0
    bytes_saved: int = 0


@dataclass
class Report(Printed):
    """What `optimize` found and changed. Printed, it is a table.

    Attributes:
        rows: every upsampling that was found.
        optimized: whether the model was changed.
        note: why it was not, or after `undo()` what could not be restored.
        frozen: whether changes of its weights are seen by their versions only (see `halfstride.freeze`).
        error: the largest difference of the model's output, as a share of its largest value.
        inference: the times of a forward pass.
        training: the times of a forward and a backward pass.
    """

    rows: list[Row]
    optimized: bool = False
    note: str = ""
    frozen: bool = False
    error: float | None = None
    inference: Times | None = None
    training: Times | None = None
    _undo: Callable[[], str] = field(default=lambda: "", repr=False)

    def undo(self) -> None:
        """Restore the model's own methods.

        A method that other code has wrapped since stays wrapped, around one that only calls the original; `note` names
        it.
        """
        self.note = self._undo() or self.note
        self.optimized = self.frozen = False

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        data = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        for name in ("inference", "training"):
            times = data[name]
            data[name] = times and {**asdict(times), "speedup": times.speedup}
        return {**data, "rows": [asdict(row) for row in self.rows]}

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = Text(self._title(), style="bold")
        if not self.rows:
            return title
        table = Table(box=None, pad_edge=False)
        for name in ("where", "was", "became"):
            table.add_column(name, overflow="fold")
        table.add_column("saved", justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                (row.where or "(the model)") + (f" ({row.calls} calls)" if row.calls > 1 else ""),
                row.was,
                row.became or f"as it was: {row.reason}",
                f"{row.bytes_saved / 2**20:.1f} MiB" if row.became and row.bytes_saved else "",
                style=None if row.became else "dim",
            )
        return Group(title, table)

    def _title(self) -> str:
        parts = ["Optimised" if self.optimized else f"Left as it was: {self.note}"]
        for name, times in (("forward", self.inference), ("forward + backward", self.training)):
            if times:
                parts.append(f"{name} {times.speedup:.2f}× ({times.before * 1e3:.1f} → {times.after * 1e3:.1f} ms)")
        if self.frozen:
            parts.append("weights frozen")
        return ", ".join([*parts, *([] if self.error is None else [f"error {self.error:.0e}"])])

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=160, markup=False, emoji=False, highlight=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
