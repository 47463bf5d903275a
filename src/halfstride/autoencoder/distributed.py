"""One process or many: what the training loop asks of Hugging Face accelerate, in the loop's own words."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from halfstride.autoencoder.devices import find_device


class Processes:
    """The processes that train together, started by `torchrun` or `accelerate launch`; without those just this one.

    Args:
        precision: `"auto"`, `"float32"` or `"bfloat16"`; auto is bfloat16 on a GPU that computes in it natively.
        device: `"auto"`, or the name of a device; several processes take theirs by their rank.
        tensorboard: folder for TensorBoard's event files, or None for none.

    Raises:
        ValueError: where there is no such device, or TensorBoard is not installed.
    """

    def __init__(self, precision: str, device: str, tensorboard: Path | None) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState

        if tensorboard is not None and find_spec("tensorboard") is None:
            raise ValueError(
                "`tensorboard` (=True) needs a package that is not installed: pip install 'halfstride[tensorboard]'."
            )
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if several and ":" in device:
            raise ValueError(f"`device` (={device}) is one device for several processes: use {device.split(':')[0]}.")
        found = find_device(device)
        if precision == "auto":
            native = found.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if native else "float32"
        # accelerate keeps the precision of the first Accelerator for the whole process; each training chooses its own.
        AcceleratorState._reset_state()
        former = os.environ.get("ACCELERATE_TORCH_DEVICE")
        if not several:
            PartialState._reset_state()
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(found)
        try:
            self.accelerator = Accelerator(
                mixed_precision="bf16" if precision == "bfloat16" else "no",
                cpu=found.type == "cpu",
                log_with="tensorboard" if tensorboard is not None else None,
                project_dir=tensorboard,
            )
        finally:
            os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
            if former is not None:
                os.environ["ACCELERATE_TORCH_DEVICE"] = former
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self._tracking = tensorboard is not None

    def sum(self, *numbers: float) -> list[float]:
        """Numbers summed over all processes."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def main_first(self, main: Callable[[], None]) -> None:
        """Do something in the main process, before the others go on; where it fails, all fail alike."""
        failure: list[str | None] = [None]
        if self.is_main:
            try:
                main()
            except (ValueError, OSError) as error:
                if self.count == 1:
                    raise
                failure = [str(error)]
        if self.count > 1:
            torch.distributed.broadcast_object_list(failure)
            if failure[0] is not None:
                raise ValueError(failure[0])

    def track(self, entry: dict[str, Any]) -> None:
        """Hand an epoch's metrics to TensorBoard, where that was asked for."""
        if not self._tracking:
            return
        if not self.accelerator.trackers:
            self.accelerator.init_trackers("tensorboard")
        numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=entry["step"])

    def end(self) -> None:
        self.accelerator.end_training()
