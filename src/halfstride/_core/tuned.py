"""Choices that `halfstride.tune` measured on this machine, in a JSON file that only it writes.

They hold for the device, its number of threads, and the versions that they were measured with; anything else is
unknown here, and left to the planner's rule.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import halfstride
from halfstride._core.case import Case
from halfstride._support import fused_kernels


class Question(NamedTuple):
    """Which algorithm: of a case, and how it is called."""

    case: Case
    device: str  # its type
    dtype: torch.dtype
    training: bool
    channels_last: bool

    def text(self) -> str:
        """As it stands in the file."""
        return json.dumps([*self.case, self.device, str(self.dtype), self.training, self.channels_last])


_asked: ContextVar[dict[Question, None] | None] = ContextVar("asked", default=None)


@contextmanager
def asking() -> Iterator[dict[Question, None]]:
    """Collect what the planner is asked meanwhile, in this thread."""
    questions: dict[Question, None] = {}
    token = _asked.set(questions)
    try:
        yield questions
    finally:
        _asked.reset(token)


def answer(question: Question) -> str | None:
    """The algorithm that was measured to be the fastest; None where nothing was measured."""
    questions = _asked.get()
    if questions is not None:
        questions[question] = None
    choices = _read()
    return choices.get(_machine(question.device), {}).get(question.text()) if choices else None


def remember(answers: Mapping[Question, str]) -> Path:
    """Write choices beside those that are known, and return the file."""
    path = _path()
    choices = {machine: dict(known) for machine, known in _read().items()}
    for question, algorithm in answers.items():
        choices.setdefault(_machine(question.device), {})[question.text()] = algorithm
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump(choices, file, indent=1)
    Path(file.name).replace(path)
    _read.cache_clear()
    return path


def _path() -> Path:
    told = os.environ.get("HALFSTRIDE_TUNED")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(told) if told else Path(cache) / "halfstride" / "tuned.json"


@lru_cache(maxsize=1)
def _read() -> Mapping[str, Mapping[str, str]]:
    path = _path()
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(name, str) for known in read.values() for name in known.values()):
            raise TypeError("not a table of names")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} cannot be read, so nothing is known from halfstride.tune: {error}", stacklevel=2)
        return {}
    table: Mapping[str, Mapping[str, str]] = read
    return table


def _machine(device: str) -> str:
    name = torch.backends.cpu.get_cpu_capability() if device == "cpu" else _accelerator(device)
    parts = [name, f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    parts.append(f"halfstride {halfstride.__version__}")
    if fused_kernels.OPERATORS is not None:
        parts.append("with kernels")
    return ", ".join(parts)


def _accelerator(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
