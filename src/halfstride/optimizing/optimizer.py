"""`optimize`: find the upsamplings of a model, try what is faster, keep what is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halfstride.optimizing import measuring
from halfstride.optimizing.exploring import Explorer
from halfstride.optimizing.forwards import install, restore, undoing
from halfstride.optimizing.plan import Plan
from halfstride.optimizing.report import Report, Row, Times
from halfstride.optimizing.running import Run

__all__ = ["optimize"]

_BUDGET = 3.0
"""Seconds for comparing the model as a whole."""
_OUTPUTS, _GRADIENTS = 10, 1000
"""How many times a layer's tolerance the whole model may be off: rounding adds up from layer to layer, and a sum that
it pushes across zero in front of a ReLU switches gradients on or off."""


def optimize(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Report]:
    """Let a model's upsampling be computed in faster, equivalent ways.

    Every upsampling is found as the model runs, however it is written: transposed convolutions, and nearest-neighbour
    upsampling by an integer scale with a convolution behind it, also with a `torch.cat`, activations, casts, padding
    or 1×1 convolutions in between. Each is compared with the original on the example inputs, and timed, by itself and
    within the model. What is equal to rounding and faster is kept, if it makes the whole model faster. Likewise the
    `conv1d` of a model, all at once, in inference: they may keep the channels of signals together.

    The model is changed in place: only how some of its modules run, never its modules, parameters or `state_dict`.
    It goes on to work with other inputs, types and devices, and with weights that change. While it is compiled, traced
    or exported, or its parts are watched by forward hooks during training, it computes as it always did.

    Args:
        model: any module; it is measured in the mode, training or evaluation, that it is in.
        example_inputs: a tensor, a tuple or list of the model's arguments, or a dict of its keyword arguments. Best of
            the size that is to be fast.

    Training (forward and backward) is measured too, where gradients are enabled and wanted by a parameter: call it
    under `torch.no_grad()` to save the time and memory for that.

    Returns:
        The same model, and a report on every upsampling. `print(report)` shows it, `report.to_dict()` is plain data,
        `report.undo()` gives the model back as it was.

    Raises:
        ValueError: where the model raises on the example inputs.

    Example:
        >>> model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1))
        >>> model, report = optimize(model, torch.rand(1, 64, 32, 32))
        >>> [row.was for row in report.rows]
        ['nearest ×2, conv2d 64→64 k3']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, not {type(model).__name__}.")
    restore(model)
    run = Run(model, example_inputs)
    with _left_as_found(model, run.tensors):
        comparable = run.gives_tensors()
        explorer = Explorer(model, run.gradients)
        report = Report([], note="no upsampling that can be faster")
        try:
            explorer.explore(run)
            explorer.confirm(run)
        except Exception as failure:  # the model runs, but not with what it is looked into by
            comparable = False
            report.note = f"it raises {type(failure).__name__} while it is looked into: {failure}"
        else:
            if not comparable:
                report.note = "the output holds no tensors that could be compared"
        report.rows = explorer.report_rows()
        if comparable and explorer.owners:
            _decide(model, run, explorer, report)
        if comparable and explorer.convolved_signals and not explorer.loses_fast_path(model):
            _decide_on_signals(model, run, explorer, report)
    if report.optimized:
        report._undo = undoing(model)
    else:
        restore(model)
        for row in report.rows:
            if row.became:
                row.became, row.reason = "", report.note
    return model, report


def _decide(model: nn.Module, run: Run, explorer: Explorer, report: Report) -> None:
    """Compare the model as a whole, and keep of the plan what holds."""
    plan = explorer.plan()
    modes = [False, True] if run.gradients else [False]

    def optimized(gradients: bool) -> tuple[Any, ...]:
        return _by(plan, explorer.owners, model, run, gradients)

    def leave_training() -> None:
        modes.remove(True)
        plan.forget(True)

    for gradients in modes:
        try:
            expected = run(gradients)
        except Exception:  # the original cannot be trained
            if not gradients:
                raise
            leave_training()
            break
        try:
            error, off = run.differences(optimized(gradients), expected)
        except Exception as failure:
            report.note = f"it raises {type(failure).__name__} when optimised: {failure}"
            return
        if plan.hands_out:
            leave_training()
            break
        report.error = max(error, report.error or 0.0)
        tolerance = run.tolerance(expected)
        if not (error <= _OUTPUTS * tolerance and off <= min(_GRADIENTS * tolerance, 0.1)):
            report.note = f"the result differs by {error:.0e}" + (f", a gradient by {off:.0e}" if off else "")
            return
    for gradients in modes:
        runs = {"before": lambda: run(gradients), "after": lambda: optimized(gradients)}  # noqa: B023  # run at once
        times = Times(**measuring.alternating(runs, run.device, _BUDGET))
        setattr(report, "training" if gradients else "inference", times)
        if times.after >= times.before:
            plan.forget(gradients)
    if any(name for tried in plan.algorithms.values() for name in tried.values()):
        install(explorer.owners, plan)
        report.optimized, report.note = True, ""
    else:
        report.note = "the model as a whole is not faster"


def _decide_on_signals(model: nn.Module, run: Run, explorer: Explorer, report: Report) -> None:
    """In inference, keep the channels of signals together, if the model is faster so than it is by now."""
    plan, owners = (explorer.plan(), explorer.owners) if report.optimized else (Plan(), [])
    with_signals = replace(plan, signals=True), list(dict.fromkeys([*owners, model]))
    row = Row("", f"{explorer.convolved_signals} conv1d", "", "not faster")
    report.rows.append(row)

    restore(model)
    runs = {
        "original": partial(run, False),
        "after": partial(_by, *with_signals, model, run, False),
        "before": partial(_by, plan, owners, model, run, False),
    }
    try:
        expected = runs["original"]()
        row.error, _ = run.differences(runs["after"](), expected)
    except Exception as failure:
        row.reason = f"{type(failure).__name__}: {failure}"
    else:
        if row.error > _OUTPUTS * run.tolerance(expected):
            row.reason = f"differs by {row.error:.0e}"
        else:
            seconds = measuring.alternating(runs, run.device, _BUDGET)
            row.inference = Times(seconds["before"], seconds["after"])
            if seconds["after"] < measuring.GAIN * seconds["before"]:
                row.became, row.reason = "channels last", ""
                report.optimized, report.note, report.error = True, "", max(row.error, report.error or 0.0)
                report.inference = Times(seconds["original"], seconds["after"])
                plan, owners = with_signals
    install(owners, plan)


def _by(plan: Plan, owners: list[nn.Module], model: nn.Module, run: Run, gradients: bool) -> tuple[Any, ...]:
    """What a model says that is changed as planned, which afterwards it is not."""
    install(owners, plan)
    try:
        return run(gradients)
    finally:
        restore(model)


@contextlib.contextmanager
def _left_as_found(model: nn.Module, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Running statistics, random numbers and the example inputs are afterwards what they were."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    changing = [(buffer, value) for _, _, buffer, value in buffers]
    changing += [(x, x.detach().clone()) for x in inputs if x.layout is torch.strided and not x.is_meta]
    devices = {tensor.device for tensor in (*model.buffers(), *model.parameters())}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # what models draw from
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for module, name, buffer, _ in buffers:
                module._buffers[name] = buffer
            for tensor, value in changing:
                if not _is_still(tensor, value):
                    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                        tensor.copy_(value)


def _is_still(tensor: Tensor, value: Tensor) -> bool:
    """Whether a tensor has these values, not-a-number among them."""
    return torch.equal(tensor, value) or bool(((tensor == value) | ((tensor != tensor) & (value != value))).all())
