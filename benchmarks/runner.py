"""One run: every peer in a process of its own, one awake at a time, turns alternating round after round."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from getpass import getuser
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch

from benchmarks.models import ModelRow
from benchmarks.peers import GEMM_SIDE, Peer, Task, peers_for
from benchmarks.report import condensed, median
from benchmarks.rows import Row, fewest_bytes, fewest_products
from benchmarks.worker import serve

__all__ = ["Workers", "calls_in_turn", "measure"]

_TURN = 0.02
"""Seconds that a turn lasts at least: short calls are repeated within it."""

_ROUNDS = (5, 40)
"""Rounds at the least and at the most."""

_HOPELESS = 3.0
"""Peers that take this many times as long as the fastest keep to `_ROUNDS_OF_HOPELESS` rounds."""

_ROUNDS_OF_HOPELESS = 3

_PAUSE = 0.015
"""Seconds before a turn, in which the threads of whoever came before stop spinning: OpenMP's do for some 10 ms."""

_ENVIRONMENT = {
    # No memory goes back to the system: what page faults cost depends on each process's past, and on nothing else.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def _compiled_code() -> str:
    """A folder for each set of instructions: inductor finds a graph again that was compiled for another one, and makes
    code of it that reads and writes beyond its tensors."""
    return str(Path(gettempdir(), f"torchinductor_{getuser()}_{torch.backends.cpu.get_cpu_capability()}"))


class Workers(AbstractContextManager["Workers"]):
    """Processes by name, each started when it is first spoken to and kept for the rows to come."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pipes: dict[str, Connection] = {}
        self._processes: dict[str, Any] = {}

    def start(self, name: str, command: str, *arguments: Any) -> None:
        """Send a command to a worker without waiting for its answer."""
        if name not in self._pipes:
            threads = str(self.threads)
            os.environ.update(_ENVIRONMENT, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = _compiled_code()
            context = _context()
            self._pipes[name], theirs = context.Pipe()
            self._processes[name] = context.Process(target=serve, args=(theirs, self.threads))
            self._processes[name].start()
            theirs.close()
        self._pipes[name].send((command, *arguments))

    def answer(self, name: str) -> Any:
        """Wait for the answer to the last command.

        Raises:
            RuntimeError: with the worker's reason, where it failed; a worker that died is started anew when it is next
                spoken to.
        """
        try:
            outcome, value = self._pipes[name].recv()
        except EOFError:
            self.stop(name)
            raise RuntimeError("its process ended") from None
        if outcome == "failed":
            raise RuntimeError(value)
        return value

    def ask(self, name: str, command: str, *arguments: Any) -> Any:
        self.start(name, command, *arguments)
        return self.answer(name)

    def __exit__(self, *error: object) -> None:
        for name in list(self._pipes):
            self.stop(name)

    def stop(self, name: str) -> None:
        if name not in self._pipes:
            return
        self._pipes.pop(name).close()
        process = self._processes.pop(name)
        process.join(timeout=5)
        if process.is_alive():
            process.kill()


def measure(
    workers: Workers, task: Task, seconds: float, peers: Sequence[Peer] | None = None, *, memory: bool = True
) -> dict[str, Any]:
    """Everything about one row: who is right, how long each takes, what it needs, and what the limit is made of.

    Args:
        seconds: the time that the rounds should take; they take longer where the fewest rounds do.
        peers: who takes part; by default everyone who can.
        memory: whether training's memory is measured too, in new processes.
    """
    row = task.row
    contestants: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    calls: dict[str, int] = {}
    peers = list(peers_for(task) if peers is None else peers)
    with TemporaryDirectory() as folder:
        reference = str(Path(folder) / "reference.pt")
        workers.ask("reference", "reference", task, reference)
        chosen: dict[str, Any] = {}
        for group in _prepared_together(peers, task):
            for peer in group:
                workers.start(peer.name, "prepare", peer, task)
            answers, failures = _answers(workers, group)
            chosen |= answers
            failed |= failures
        for peer in peers:
            if peer.name in failed:
                continue
            try:
                checked = {} if peer.kind == "limit" else workers.ask(peer.name, "check", reference)
                estimate = checked.pop("seconds", 0.0)
                if estimate < 10 * _TURN:  # the first call in peace may yet be a slow one
                    estimate = workers.ask(peer.name, "turn", 3)
            except RuntimeError as error:
                failed[peer.name] = str(error)
                continue
            calls[peer.name] = calls_in_turn(estimate)
            contestants[peer.name] = {"kind": peer.kind, "how": peer.how, **checked, "seconds": []}
            if chosen[peer.name] is not None:
                contestants[peer.name]["chosen"] = chosen[peer.name]
    _take_turns(workers, calls, {name: result["seconds"] for name, result in contestants.items()}, seconds)
    if task.training and memory:
        for peer in peers:
            if peer.name in contestants and peer.kind != "limit":
                contestants[peer.name]["memory"] = _memory(workers, peer, task)
    facts: dict[str, Any] = {"name": row.name, "tags": sorted(row.tags)}
    if isinstance(row, Row):
        facts["output_shape"] = row.output_shape
        facts["products"] = fewest_products(row) * (3 if task.training else 1)
        facts["bytes"] = fewest_bytes(row, task.dtype.itemsize, training=task.training)
        facts["gemm_products"] = GEMM_SIDE**3
    else:
        facts["upsampling_share"] = workers.ask("reference", "share", task)
    return {**facts, "peers": condensed(contestants), "failed": failed}


def calls_in_turn(estimate: float) -> int:
    """How often a peer calls in one turn, when a call takes about `estimate` seconds.

    Example:
        >>> calls_in_turn(0.0015), calls_in_turn(3.0)
        (14, 1)
    """
    return min(max(math.ceil(_TURN / estimate), 1), 1000)


def _context() -> Any:
    """How processes start: forked from one that has imported torch and done nothing yet, where the system can."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.worker"])
    return context


def _answers(workers: Workers, peers: Iterable[Peer]) -> tuple[dict[str, Any], dict[str, str]]:
    values, failed = {}, {}
    for peer in peers:
        try:
            values[peer.name] = workers.answer(peer.name)
        except RuntimeError as error:
            failed[peer.name] = str(error)
    return values, failed


def _prepared_together(peers: Sequence[Peer], task: Task) -> list[list[Peer]]:
    """Peers that may be prepared at the same time: each that measures to decide, as `optimize` does, is left alone."""
    alone = [peer for peer in peers if isinstance(task.row, ModelRow) and peer.how == "auto" and not peer.compiled]
    return [[peer for peer in peers if peer not in alone], *([peer] for peer in alone)]


def _memory(workers: Workers, peer: Peer, task: Task) -> int | None:
    """The bytes that a peer needs at its peak, in a new process."""
    name = f"{peer.name}, for its memory"
    try:
        workers.ask(name, "map_tensors")
        workers.ask(name, "prepare", peer, task)
        needed: int | None = workers.ask(name, "memory")
    finally:
        workers.stop(name)
    return needed


def _take_turns(workers: Workers, calls: dict[str, int], times: dict[str, list[float]], budget: float) -> None:
    """Rounds in which everyone has a turn, in an order drawn anew, until the budget is spent."""
    order = list(calls)
    shuffled = random.Random(0)
    started = time.perf_counter()
    least, most = _ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() - started > budget:
            break
        if done == _ROUNDS_OF_HOPELESS:
            fastest = min((median(times[name]) for name in order), default=0.0)
            order = [name for name in order if median(times[name]) <= _HOPELESS * fastest or name in ("gemm", "copy")]
        shuffled.shuffle(order)
        for name in order:
            time.sleep(_PAUSE)
            if calls[name] > 1:
                workers.ask(name, "turn", 1)  # the others have left nothing of its data in the caches
            times[name].append(workers.ask(name, "turn", calls[name]))
