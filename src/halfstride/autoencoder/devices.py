"""Where a model runs: the device that a name stands for, and one line where its memory is exhausted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name.

    Args:
        name: `"auto"` for an accelerator where there is one and the CPU else, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.

    Raises:
        ValueError: where this machine has no such device.
    """
    if str(name) == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"`device` (={name}) is not the name of a device: use {_available()}.") from None
    if device.type == "meta":
        raise ValueError(f"`device` (={name}) holds no numbers: use {_available()}.")
    try:
        torch.empty(1, device=device)
    except Exception as error:  # torch raises a class of its own for each way a device can be missing
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"`device` (={name}) is not available here ({reason}): use {_available()}.") from None
    return device


@contextlib.contextmanager
def within_memory(batch_size: int | None) -> Iterator[None]:
    """Turn exhausted device memory into a `ValueError` that says what to do.

    Args:
        batch_size: images per step, which the way out halves; None where the user does not choose it.
    """
    try:
        yield
    except RuntimeError as error:
        cpu = "DefaultCPUAllocator" in str(error)
        # Only CUDA's allocator has a class of errors for it.
        if not isinstance(error, torch.OutOfMemoryError) and not cpu and "out of memory" not in str(error):
            raise
        where = "memory" if cpu else "the device's memory"
        if batch_size is None:
            way = "use smaller ones" if cpu else "use smaller ones, or `device` cpu"
            raise ValueError(f"`images` do not fit into {where}: {way}.") from None
        way = f"use a batch size of {batch_size // 2}" if batch_size > 1 else "use smaller images or a smaller `width`"
        raise ValueError(f"`batch_size` (={batch_size}) does not fit into {where}: {way}.") from None


def _available() -> str:
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(1, torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(names)
