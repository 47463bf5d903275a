"""What the command `halfstride` starts, and `python -m halfstride`."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; Ctrl-C while anything is still being imported ends the process at once, without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)
    from halfstride.cli import main as run

    run()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, but not into an import: torch ends by abort(), and others swallow it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
