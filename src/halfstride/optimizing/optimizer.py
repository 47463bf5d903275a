"""`optimize`: find the upsamplings of a model, try what is faster, keep what is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from halfstride.optimizing import measuring
from halfstride.optimizing.forwards import install, is_watched, restore
from halfstride.optimizing.lazy import LazyTensor, plain
from halfstride.optimizing.plan import Origin, Plan, Site
from halfstride.optimizing.report import Report, Row, Times
from halfstride.optimizing.rewriting import Rewriting

__all__ = ["optimize"]

_GAIN = 0.97
"""A site must take less than this share of the original's time: less is noise."""
_WHOLE_BUDGET = 3.0  # seconds
_OUTPUTS, _GRADIENTS = 10, 1000
"""How many times a layer's tolerance the whole model may be off: rounding adds up from layer to layer, and a sum that
it pushes across zero in front of a ReLU switches gradients on or off."""


def optimize(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Report]:
    """Let a model's upsampling be computed in faster, equivalent ways.

    Every upsampling is found as the model runs, however it is written: transposed convolutions, and nearest-neighbour
    upsampling by an integer scale with a convolution behind it, also with a `torch.cat`, activations, casts, padding
    or 1×1 convolutions in between. Each is compared with the original on the example inputs, and timed. What is
    equal to rounding and faster is kept, if it makes the whole model faster.

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
    run = _Run(model, example_inputs)
    with _left_as_found(model):
        run.check()
        explorer = Explorer(model, run.gradients)
        explorer.explore(run)
        report = Report(explorer.report_rows(), note="no upsampling that can be faster")
        if explorer.owners:
            _decide(model, run, explorer, report)
    if report.optimized:
        report._undo = lambda: restore(model)
    else:
        restore(model)
        for row in report.rows:
            if row.became:
                row.became, row.reason = "", report.note
    return model, report


def _decide(model: nn.Module, run: _Run, explorer: Explorer, report: Report) -> None:
    """Compare the model as a whole, and keep of the plan what holds."""
    plan = explorer.plan()
    modes = [False, True] if run.gradients else [False]

    def optimized(gradients: bool) -> tuple[Any, ...]:
        install(explorer.owners, plan)
        try:
            return run(gradients)
        finally:
            restore(model)

    for gradients in modes:
        expected = run(gradients)
        try:
            error, off = run.differences(optimized(gradients), expected)
        except Exception as failure:
            report.note = f"it raises {type(failure).__name__} when optimised: {failure}"
            return
        report.error = max(error, report.error or 0.0)
        tolerance = run.tolerance(expected)
        if not (error <= _OUTPUTS * tolerance and off <= min(_GRADIENTS * tolerance, 0.1)):
            report.note = f"the result differs by {error:.0e}" + (f", a gradient by {off:.0e}" if off else "")
            return
    for gradients in modes:
        runs = {"before": lambda: run(gradients), "after": lambda: optimized(gradients)}  # noqa: B023  # run at once
        times = Times(**measuring.alternating(runs, run.device, _WHOLE_BUDGET))
        setattr(report, "training" if gradients else "inference", times)
        if times.after >= times.before:
            plan.forget(gradients)
    if any(name for tried in plan.algorithms.values() for name in tried.values()):
        install(explorer.owners, plan)
        report.optimized, report.note = True, ""
    else:
        report.note = "the model as a whole is not faster"


# Running the model ----------------------------------------------------------------------------------------------------


class _Run:
    """The model on its example inputs, forwards, or forwards and backwards."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model = model
        self.args, self.kwargs = _arguments(example_inputs)
        tensors = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        parameters = list(model.parameters())
        self.wanted = [tensor for tensor in (*parameters, *tensors) if tensor.requires_grad]
        self.device = next((tensor.device for tensor in (*parameters, *tensors)), torch.device("cpu"))
        self.gradients = torch.is_grad_enabled() and bool(self.wanted) and not is_watched(model)

    def check(self) -> None:
        try:
            self(False)
        except Exception as error:
            raise ValueError(
                f"`model` ({type(self.model).__name__}) raises {type(error).__name__} on the example inputs "
                f"{_described(self.args, self.kwargs)}: {error}"
            ) from error

    def __call__(self, gradients: bool) -> tuple[Any, tuple[Tensor | None, ...]]:
        """The output, and where they are asked for the gradients of a random sum of it."""
        torch.manual_seed(0)
        if not gradients:
            with torch.no_grad():
                return self.model(*self.args, **self.kwargs), ()
        output = self.model(*self.args, **self.kwargs)
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        cotangents = [torch.randn(leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in leaves]
        return output, torch.autograd.grad(leaves, self.wanted, cotangents, allow_unused=True) if leaves else ()

    def differences(self, actual: Any, expected: Any) -> tuple[float, float]:
        """Of the outputs, and of the gradients: these measured by the largest of all, because that of a bias in front
        of a normalisation is nothing but rounding.
        """
        outputs, gradients = measuring.difference(actual[0], expected[0]), (actual[1], expected[1])
        return outputs, measuring.difference(*gradients, each=False, strides=False)

    def tolerance(self, outcome: Any) -> float:
        return max(
            measuring.TOLERANCE.get(leaf.dtype, 0.0) for leaf in tree_leaves(outcome) if isinstance(leaf, Tensor)
        )


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}


def _described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [*(("", value) for value in args), *((f"{name}=", value) for name, value in kwargs.items())]
    return (
        "("
        + ", ".join(
            f"{name}{'×'.join(map(str, value.shape)) or 'a number'}"
            if isinstance(value, Tensor)
            else f"{name}{value!r}"
            for name, value in named
        )
        + ")"
    )


@contextlib.contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Running statistics and random numbers are afterwards what they were."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {buffer.device for buffer, _ in buffers} | {parameter.device for parameter in model.parameters()}
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


# Finding and trying ---------------------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """What was found out about a kind of site."""

    row: Row
    names: dict[bool, str | None] = field(default_factory=dict)
    """Without and with gradients: the algorithm that is faster than the original, if there is one."""


class Explorer(Plan):
    """A plan in the making: every site that comes by for the first time is tried."""

    def __init__(self, model: nn.Module, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._trials: dict[Hashable, _Trial] = {}
        self._rows: dict[tuple[str, Hashable], Row] = {}
        self._unused: dict[Hashable, Row] = {}
        self._kept: list[tuple[tuple[nn.Module, ...], tuple[Any, ...]]] = []

    def explore(self, run: _Run) -> None:
        def enter(module: nn.Module, _args: Any) -> None:
            self._stack.append(module)

        def leave(module: nn.Module, _args: Any, _output: Any) -> None:
            self._stack.pop()

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            with torch.no_grad(), Rewriting(self) as rewriting:
                output = run.model(*run.args, **run.kwargs)
            rewriting.finish(output)
        finally:
            for handle in handles:
                handle.remove()

    def wants(self, origin: Origin) -> Hashable:
        here = origin, tuple(self._stack)
        self._unused[here] = Row(self._path(), f"nearest {origin.scale}", "", "no convolution follows that takes it in")
        return here

    def note(self, was: str, reason: str) -> None:
        self._rows.setdefault((self._path(), was), Row(self._path(), was, "", reason, calls=0)).calls += 1

    def choose(self, site: Site) -> str | None:
        for origin in site.origins:
            self._unused.pop(origin, None)
        kind = site.key, site.positions
        if kind not in self._trials:
            self._trials[kind] = _tried(site, self.gradients)
        trial = self._trials[kind]
        for gradients, name in trial.names.items():
            self.algorithms.setdefault((site.key, gradients), {})[site.positions] = name
        row = self._rows.setdefault((self._path(), kind), Row(**{**vars(trial.row), "where": self._path(), "calls": 0}))
        row.calls += 1
        if row.became:
            self._kept.append((tuple(self._stack), site.origins))
        return trial.names[False]

    def _path(self) -> str:
        module = self._stack[-1] if self._stack else None
        return self._paths.get(id(module)) or type(module).__name__ if module is not None else ""

    def plan(self) -> Plan:
        return Plan(dict(self.algorithms), {origin for _, origins in self._kept for origin, _ in origins})

    def report_rows(self) -> list[Row]:
        return [*self._rows.values(), *self._unused.values()]

    @property
    def owners(self) -> list[nn.Module]:
        """The smallest modules inside which a site and the upsamplings that lead to it happen; none inside another."""
        owners: dict[nn.Module, None] = {}
        for stack, origins in self._kept:
            depth = len(stack)
            for _, other in origins:
                same = [a is b for a, b in zip(stack, other, strict=False)]
                depth = min(depth, same.index(False) if False in same else len(same))
            owners[stack[max(depth, 1) - 1]] = None
        return [module for module in owners if not any(module in set(other.modules()) - {other} for other in owners)]


def _tried(site: Site, training: bool) -> _Trial:
    """Compare the original and every algorithm, first by result, then by time."""
    trial = _Trial(Row("", site.was, "", bytes_saved=site.bytes_saved))
    found: dict[bool, tuple[str, float]] = {}
    for backward in (False, True) if training else (False,):
        runs = {"": _thunk(site, site.reference, backward)}
        expected = runs[""]()
        errors: dict[str, float] = {}
        for name in site.algorithms:
            thunk = _thunk(site, lambda name=name: site.compute(name), backward)  # type: ignore[misc]
            try:
                output, *gradients = thunk()
                error = measuring.difference(output, expected[0])
                off = measuring.difference(gradients, list(expected[1:]), strides=False)
            except Exception as failure:
                trial.row.reason = trial.row.reason or f"{name}: {failure}"
                continue
            tolerance = measuring.TOLERANCE.get(output.dtype, 0.0)
            if error <= tolerance and off <= 10 * tolerance:  # a kernel's gradient is a sum over the whole image
                runs[name], errors[name] = thunk, error
            else:
                trial.row.reason = trial.row.reason or f"{name} differs by {max(error, off):.0e}"
        del expected
        if not errors:
            trial.names[backward] = None
            continue
        times = measuring.alternating(runs, site.tensors[0].device)
        best = min(errors, key=times.__getitem__)
        setattr(trial.row, "training" if backward else "inference", Times(times[""], times[best]))
        kept = times[best] < _GAIN * times[""]
        trial.names[backward] = best if kept else None
        trial.row.error = max(errors[best], trial.row.error or 0.0)
        if kept:
            found[backward] = best, times[best]
    if found:
        names = dict.fromkeys(name for name, _ in found.values())
        trial.row.became, trial.row.reason = f"{site.became} ({' / '.join(names)})", ""
    else:
        trial.row.reason = trial.row.reason or "not faster"
    return trial


def _thunk(site: Site, compute: Callable[[], Tensor], backward: bool) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward), _wanting_gradients(site.tensors if backward else ()):
            output = compute()
            output = plain(output) if isinstance(output, LazyTensor) else output
            return output, *(torch.autograd.grad(output, site.tensors, torch.ones_like(output)) if backward else ())

    return run


@contextlib.contextmanager
def _wanting_gradients(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gradients to all tensors: nothing has a history while a model is explored, so they end there."""
    changed = [tensor for tensor in tensors if not tensor.requires_grad]
    try:
        for tensor in changed:
            tensor.requires_grad_()
        yield
    finally:
        for tensor in changed:
            tensor.requires_grad_(False)
