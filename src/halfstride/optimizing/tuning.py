"""`tune`: measure the algorithms of a model's layers on this device, and remember the fastest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halfstride import functional
from halfstride._core import planner, tuned
from halfstride._core.algorithms import ALGORITHMS
from halfstride._support.weight_cache import forget
from halfstride.optimizing.example import Example
from halfstride.optimizing.optimizer import Finder

_ROUNDS, _SECONDS = 15, 1.0
"""How often each algorithm is timed, and after how long no further round begins."""


@dataclass(frozen=True)
class Tuned:
    """One layer's shape, as it was measured.

    Attributes:
        layer: form, shapes and how it was called.
        algorithm: what `algorithm="auto"` means for it from now on.
        milliseconds: by algorithm, the shortest of the rounds.
    """

    layer: str
    algorithm: str
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class TuningReport:
    """What `tune` measured.

    Attributes:
        rows: a row for each shape of a layer, forward, and forward and backward where the model is trained.
        file: where the choices are kept.
    """

    rows: list[Tuned]
    file: Path | None

    def __str__(self) -> str:
        if self.file is None:
            return "The model calls no layer whose algorithm halfstride chooses: nothing was measured."
        lines = []
        for row in self.rows:
            times = ", ".join(
                f"{name} {ms:.3g}" for name, ms in sorted(row.milliseconds.items(), key=lambda one: one[1])
            )
            lines.append(f"{row.layer}: {row.algorithm} (ms: {times})")
        return "\n".join([*lines, f"Kept in {self.file}; delete it to forget."])


def tune(model: nn.Module, example_inputs: Any) -> TuningReport:
    """Measure every algorithm for a model's upsampling on its device, and use the fastest from now on.

    Without it halfstride chooses by a rule that was fitted to processors, and leaves other devices and types to torch,
    where nothing was measured. What `tune` finds is kept in a file, for this device, number of threads and versions,
    and these very shapes, and used wherever such a layer is called outside of `torch.compile`. It is never called by
    itself. Torch's own operator is left only for a gain of at least 10 %.

    Layers of halfstride use the choices at once. For a model made of torch's own modules call `optimize` afterwards,
    which asks the same rule.

    Args:
        model: any module; it is measured in the mode that it is in, and for training too where gradients are enabled
            and wanted by a parameter. Its weights stay as they are.
        example_inputs: a tensor, a tuple or list of the model's arguments, or a dict of its keyword arguments, of the
            sizes that are to be fast.

    Returns:
        What was measured; `print` shows it.

    Raises:
        TypeError: where `model` is no module.
        ValueError: where the model raises on the example inputs.

    The file is `halfstride/tuned.json` in `$XDG_CACHE_HOME` or `~/.cache`, or what `$HALFSTRIDE_TUNED` names.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, not {type(model).__name__}.")
    example = Example(model, example_inputs)
    forget(functional.plan)
    with example.left_as_found(), tuned.asking() as questions:
        example.first_run()
        for gradients in (False, True) if example.gradients else (False,):
            Finder(model).explore(example, gradients)
    answers, rows = {}, []
    for question in questions:
        times = _times(question, example.device)
        if len(times) > 1:
            best = planner.clearly_fastest(times)
            answers[question] = best
            rows.append(Tuned(_described(question), best, {name: 1e3 * seconds for name, seconds in times.items()}))
    file = tuned.remember(answers) if answers else None
    forget(functional.plan)
    return TuningReport(rows, file)


def _times(question: tuned.Question, device: torch.device) -> dict[str, float]:
    """The shortest seconds of every algorithm that computes the case, in turns."""
    case = question.case
    able = {name: each for name, each in ALGORITHMS.items() if each.unsupported_reason(case) is None}
    if case.form == "subpixel":  # computed in one way only
        return {}
    shape = (case.out_channels, case.in_channels // case.groups)
    if case.form == "transposed":
        shape = (case.in_channels, case.out_channels // case.groups)
    like: dict[str, Any] = {"device": device, "dtype": question.dtype}
    x = torch.randn(case.batch, case.in_channels, *case.input_size, **like)
    if question.channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight = nn.Parameter(torch.randn(*shape, *case.kernel_size, **like), requires_grad=question.training)
    bias = nn.Parameter(torch.randn(case.out_channels, **like), requires_grad=question.training)
    wanted = [x.requires_grad_(question.training), weight, bias]

    def seconds(name: str) -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(question.training):
            output: Tensor = able[name].compute(case, x, weight, bias)
            if question.training:
                torch.autograd.grad(output, wanted, torch.ones_like(output))
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    for name in [*able]:
        try:
            seconds(name)
            seconds(name)
        except RuntimeError:  # an operator that the device lacks, or too little memory
            del able[name]
    times: dict[str, float] = {name: float("inf") for name in able}
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        for name in able:
            times[name] = min(times[name], seconds(name))
        if time.perf_counter() - begun > _SECONDS:
            break
    return times


def _described(question: tuned.Question) -> str:
    case = question.case
    size = "x".join(map(str, case.input_size))
    geometry = " ".join(f"{name}{values}" for name, values in (("k", case.kernel_size), ("s", case.stride)))
    rest = [str(question.dtype).removeprefix("torch."), "training" if question.training else "forward"]
    if question.channels_last:
        rest.append("channels_last")
    return f"{case.form} {case.batch}x{case.in_channels}x{size} -> {case.out_channels} {geometry}, {', '.join(rest)}"
