"""What a person sees of a training while it runs, and how they stop it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop and has saved itself; the text says how to go on."""


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a flag, so that a step is never torn; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._former[number] = signal.signal(number, self._handle)
            except ValueError:  # signals reach only the main thread; a training in another one goes without
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


class Progress:
    """A progress bar over all steps with loss, speed and time left, and a table with a line for each scoring.

    All goes to stderr; the bar is shown in a terminal only.

    Args:
        steps: steps of the whole training.
        shown: whether to show anything at all.
    """

    def __init__(self, steps: int, shown: bool) -> None:
        self._steps = steps
        self._headed = False
        console = Console(quiet=not shown, stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, state="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def set_steps(self, steps: int) -> None:
        """Change how many steps the whole training has."""
        self._steps = steps
        self._bar.update(self._task, total=steps)

    def report(self, step: int, mse: float, images_per_second: float) -> None:
        """Show where the training is.

        Args:
            step: steps done.
            mse: mean squared error of the images since the last scoring.
            images_per_second: speed.
        """
        state = f"MSE {mse:.5f} · {images_per_second:,.0f} images/s ·"
        self._bar.update(self._task, completed=step, description=f"step {step:,}/{self._steps:,}", state=state)

    def show(self, entry: Mapping[str, Any], best: bool) -> None:
        """Leave a scoring's line on the screen, with a star where the model is the best so far."""
        self._bar.update(self._task, completed=entry["step"])
        width = max(2 * len(f"{self._steps:,}") + 1, 4)
        if not self._headed:
            self._headed = True
            self._print(
                f"{'step':>{width}} {'train MSE':>10} {'validation':>11} {'test MSE':>10} {'PSNR':>9} {'SSIM':>6}  best"
            )
        errors = " ".join(
            f"{entry[name]:>{columns}.5f}"
            for name, columns in (("train_mse", 10), ("validation_mse", 11), ("test_mse", 10))
        )
        step = f"{entry['step']:,}/{self._steps:,}"
        ssim = "" if entry["test_ssim"] is None else f"{entry['test_ssim']:.3f}"
        self._print(f"{step:>{width}} {errors} {entry['test_psnr']:>6.2f} dB {ssim:>6}{'  *' if best else ''}".rstrip())

    def _print(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, soft_wrap=True)
