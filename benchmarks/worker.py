"""The process of one peer: it waits on its pipe, asleep, until it is told what to do.

    prepare PEER TASK    build, compile and call once                        -> the algorithm that auto chose
    check PATH           compare one call with the float64 results           -> the errors, and seconds the call took
    turn CALLS           that many calls in a row                            -> the median of the seconds each took
    map_tensors          keep large tensors out of the heap
    memory               one call                                            -> bytes it had allocated at its peak
    share TASK           five calls, the upsampling modules under the clock  -> the median of their share of the time
    reference TASK PATH  compute and save the float64 results

Every answer is ("done", value) or ("failed", reason).
"""

from __future__ import annotations

import ctypes
import gc
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.models import ModelRow
from benchmarks.peers import Peer, Prepared, Task
from benchmarks.report import median

__all__ = ["TOLERANCE", "keep_memory", "serve"]

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""How far from float64 a result may be, in root mean square, relative to the root mean square of the result."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt


def serve(pipe: Connection, threads: int) -> None:
    """Answer until the other end is closed."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # what an exporter has to say is no result of a benchmark
    worker = _Worker()
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", getattr(worker, command)(*arguments)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {str(error).strip()}"[:500]))


def keep_memory() -> None:
    """From now on no memory goes back to the system, as in processes that `runner` starts."""
    _set_malloc({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


class _Worker:
    task: Task
    prepared: Prepared | None = None

    def prepare(self, peer: Peer, task: Task) -> str | None:
        if self.prepared is not None:  # what the row before has left, compiled modules and their cycles too
            self.prepared = None
            gc.collect()
        self.task = task
        self.prepared = peers.prepare(peer, task)
        self.prepared.run()
        return self.prepared.chosen

    def check(self, path: str) -> dict[str, float]:
        started = time.perf_counter()
        results = self._ready.results(self._run())
        seconds = time.perf_counter() - started
        errors = [_error(*pair) for pair in zip(results, torch.load(path, mmap=True), strict=True)]
        error, largest = (max(column) for column in zip(*errors, strict=True))
        if not error <= TOLERANCE[self.task.dtype]:
            raise ArithmeticError(f"wrong by {error:.1e} of the result's size")
        return {"error": error, "largest": largest, "seconds": seconds}

    def turn(self, calls: int) -> float:
        seconds = []
        for _ in range(calls):
            started = time.perf_counter()
            self._run()
            seconds.append(time.perf_counter() - started)
        return median(seconds)

    def map_tensors(self) -> None:
        """From now on every large tensor has pages of its own: a heap with holes in it would count them too."""
        _set_malloc({_M_MMAP_THRESHOLD: 1 << 16, _M_MMAP_MAX: 1 << 16})

    def memory(self) -> int | None:
        """What one call needs beyond its inputs, weights and whatever is kept from call to call."""
        gc.collect()
        if self.task.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self._run()
            return torch.cuda.max_memory_allocated() - before
        if not Path("/proc/self/clear_refs").exists():
            return None
        self._run()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident
        before = _status("VmRSS")
        self._run()
        return _status("VmHWM") - before

    def share(self, task: Task) -> float:
        """The share of a model's time, in eager torch, that its upsampling modules take."""
        row = task.row
        assert isinstance(row, ModelRow)
        model, inputs = peers.network(task), peers.network_inputs(task)
        spent: list[float] = []
        started: list[float] = []
        for module in row.upsampling(model):
            module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
            module.register_forward_hook(lambda *_: spent.append(time.perf_counter() - started.pop()))
        shares = []
        with torch.inference_mode():
            model(*inputs)
            for _ in range(5):
                spent.clear()
                begun = time.perf_counter()
                model(*inputs)
                shares.append(sum(spent) / (time.perf_counter() - begun))
        return median(shares)

    def reference(self, task: Task, path: str) -> None:
        torch.save(peers.reference(task), path)

    @property
    def _ready(self) -> Prepared:
        assert self.prepared is not None
        return self.prepared

    def _run(self) -> Any:
        result = self._ready.run()
        self._synchronize()
        return result

    def _synchronize(self) -> None:
        if self.task.device == "cuda":
            torch.cuda.synchronize()


def _set_malloc(options: dict[int, int]) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in options.items():
            libc.mallopt(option, value)


def _error(actual: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """The difference in root mean square, relative to the result's, and the largest absolute difference."""
    if actual.shape != expected.shape:
        raise ArithmeticError(f"of shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    difference = actual.detach().cpu().double() - expected
    relative = difference.square().mean().sqrt() / expected.square().mean().sqrt()
    return float(relative), float(difference.abs().max())


def _status(entry: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) * 1024
    raise LookupError(entry)
