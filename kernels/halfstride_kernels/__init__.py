"""Fused CPU kernels for halfstride: two libraries, one for each set of vector instructions.

Importing this package loads nothing. `halfstride` loads the library that fits the processor, as torch judges it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["INTERFACE", "library"]

INTERFACE = 1
"""Counts the changes of the operators' arguments and programs: halfstride uses kernels of its own number only."""


def library(capability: str) -> Path | None:
    """Return the library for a processor; None where there is none for it.

    Args:
        capability: what `torch.backends.cpu.get_cpu_capability()` returns.
    """
    for name in ("avx512", "avx2"):
        if capability.lower().startswith(name):
            return Path(__file__).parent / f"{name}.so"
    return None
