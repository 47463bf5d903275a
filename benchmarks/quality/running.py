"""One row: train in a process of its own, score what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality import ours
from benchmarks.quality.rows import OURS, Row
from benchmarks.quality.scores import scores
from benchmarks.quality.sets import Data

__all__ = ["RATES", "TrainingError", "interpreter", "run_ours", "run_peer"]

RATES = (3e-4, 1e-3, 3e-3)
"""Each peer trains with each for a tenth of its budget, in addition to it, and in full with the best of them."""
PILOT = 1 / 10
_ROOT = Path(__file__).parents[2]
_MAKING = threading.Lock()


class TrainingError(Exception):
    """A contender's process failed; the message is the end of what it said."""


class _Used(NamedTuple):
    cpu_seconds: float
    wall_seconds: float


def run_ours(row: Row, data: Data, work: Path) -> dict[str, Any]:
    """`halfstride train` with the row's threads, and the scores of the model that its run folder holds.

    Of a variational model samples are drawn as well, as `samples.png` beside the run.
    """
    run = _fresh(work, row) / "run"
    command = ours.command(row, data.source, run)
    used = _spend(command, run.with_name("log.txt"), row.threads)
    images = data.load()
    tested = {part: images[part] for part in images if part != "train"}
    trained = ours.read(run, tested)
    active = {}
    if trained.active is not None:
        active["active"] = trained.active
        _spend(ours.sample_command(run, run.with_name("samples.png")), run.with_name("sample-log.txt"), threads=2)
    return {
        "command": " ".join(["halfstride", *command[3:4], row.data, "--out", "RUN", *command[7:]]),
        "numbers": trained.numbers,
        **active,
        "parameters": trained.parameters,
        "model": trained.config,
        **used._asdict(),
        **{part: scores(trained.outputs[part], tested[part]) for part in tested},
    }


def run_peer(row: Row, data: Data, work: Path, venvs: Path) -> dict[str, Any]:
    """A peer with one thread: short trainings with each rate, a full one with the best on validation."""
    folder = _fresh(work, row)
    python = interpreter(row.contender, venvs)

    def train(rate: float, cpu_seconds: float, *more: str) -> tuple[dict[str, Any], _Used]:
        report = folder / f"{rate:g}.json"
        command = [python, "-m", "benchmarks.quality.peer", row.contender, "--data", str(data.arrays)]
        command += ["--numbers", str(row.asked), "--cpu-seconds", f"{cpu_seconds:g}", "--rate", f"{rate:g}"]
        command += ["--seed", str(row.seed), "--out", str(report), *more]
        command += ["--flips"] if row.data.startswith("photographs") else []
        used = _spend(command, folder / "log.txt", threads=1)
        return json.loads(report.read_text()), used

    pilots = {rate: train(rate, row.cpu_seconds * PILOT, "--checks", "1")[0]["validation_mse"] for rate in RATES}
    rate = min(pilots, key=pilots.__getitem__)
    file = folder / "outputs.npz"
    report, used = train(rate, row.cpu_seconds, "--outputs", str(file))
    images = data.load()
    with np.load(file) as outputs:
        scored = {part: scores(outputs[part], images[part]) for part in outputs.files}
    file.unlink()
    pilots_told = {f"{tried:g}": error for tried, error in pilots.items()}
    return {**report, "rate": rate, "pilots": pilots_told, **used._asdict(), **scored}


def interpreter(contender: str, venvs: Path) -> str:
    """The Python that a peer runs in; its environment is made where it is not there yet."""
    needs = {"pythae": "pythae", "autoencoder": "diffusers"}.get(contender.split("-")[0])
    if needs is None or contender == OURS:
        return sys.executable
    python = venvs / needs / "bin" / "python"
    ready = venvs / needs / "ready"
    with _MAKING:
        if not ready.exists():
            shutil.rmtree(venvs / needs, ignore_errors=True)
            requirements = Path(__file__).with_name(f"requirements-{needs}.txt")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([sys.executable, "-m", "venv", str(venvs / needs)], check=True)
            subprocess.run([*pip, "-r", str(requirements)], check=True)
            ready.touch()
    return str(python)


def _fresh(work: Path, row: Row) -> Path:
    folder = work / "runs" / row.key.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _spend(command: list[str], log: Path, threads: int) -> _Used:
    """Run a command to its end, and say what CPU time it took with all its threads and children.

    Raises:
        TrainingError: where it ends with an error.
    """
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
        raise TrainingError(f"exit status {process.returncode}: {' / '.join(last)}")
    return _Used(usage.ru_utime + usage.ru_stime, time.perf_counter() - started)
