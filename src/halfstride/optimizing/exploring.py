"""Finding the upsamplings of a model, and trying what is faster: each by itself, then within the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from halfstride.optimizing import measuring
from halfstride.optimizing.forwards import has_fast_path
from halfstride.optimizing.lazy import LazyTensor, plain
from halfstride.optimizing.plan import Origin, Plan, Site
from halfstride.optimizing.report import Row, Times
from halfstride.optimizing.rewriting import Rewriting
from halfstride.optimizing.running import Run

__all__ = ["Explorer"]

_BUDGET = 1.0
"""Seconds for comparing sites within the model."""


_Kind = tuple[Hashable, int]
"""Sites with the same key and size."""


@dataclass
class _Trial:
    """What was found out about a kind of site."""

    row: Row
    what: str
    """What takes the place of the original."""
    names: dict[bool, str | None] = field(default_factory=dict)
    """Without and with gradients: the algorithm that is faster than the original, if there is one."""

    @property
    def became(self) -> str:
        names = dict.fromkeys(name for name in self.names.values() if name)
        return f"{self.what} ({' / '.join(names)})" if names else ""


class _Timing(Rewriting):
    """The mode that notes how long each site takes at the shortest, as it was or changed as planned."""

    def __init__(self, plan: Plan, changed: bool, shortest: dict[_Kind, float], device: torch.device) -> None:
        super().__init__(plan)
        self.changed, self.shortest, self.device = changed, shortest, device

    def run(self, site: Site) -> Any:
        algorithm, outputs = self.plan.choose(site), []
        if algorithm is None:
            return NotImplemented
        compute = partial(site.compute, algorithm) if self.changed else site.reference
        seconds = measuring.seconds(lambda: outputs.append(compute()), self.device)
        kind = site.key, site.positions
        self.shortest[kind] = min(seconds, self.shortest.get(kind, seconds))
        return outputs[0]


class Explorer(Plan):
    """A plan in the making: every site that comes by for the first time is tried."""

    def __init__(self, model: nn.Module, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._trials: dict[_Kind, _Trial] = {}
        self._rows: dict[tuple[str, Hashable], Row] = {}
        self._unused: dict[Hashable, Row] = {}
        self._kept: list[tuple[_Kind, tuple[nn.Module, ...], tuple[Any, ...]]] = []
        self._around_fast_paths: set[nn.Module] = set()
        self.convolved_signals = 0
        """How often a forward pass convolves a signal whose channels could be kept together."""

    def explore(self, run: Run) -> None:
        def enter(module: nn.Module, _args: Any) -> None:
            self._stack.append(module)
            if has_fast_path(module):
                self._around_fast_paths.update(self._stack)

        def leave(module: nn.Module, _args: Any, _output: Any) -> None:
            self._stack.pop()

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            self._rewritten(run, Rewriting(self))
        finally:
            for handle in handles:
                handle.remove()
        found, self._kept = self._kept, []
        for kind, stack, origins in found:
            if self.loses_fast_path(self._owner(stack, origins)):
                row = self._rows[self._path(stack), kind]
                row.became, row.reason = "", "it stands beside attention, whose fast path would be lost"
            else:
                self._kept.append((kind, stack, origins))

    def confirm(self, run: Run) -> None:
        """Leave out what is not faster where it stands in the model, with caches that others have used in between."""
        shortest: dict[str, dict[_Kind, float]] = {"original": {}, "changed": {}}
        if self._kept:
            plan, device = self.plan(), run.device
            runs = {
                name: partial(self._rewritten, run, _Timing(plan, name == "changed", shortest[name], device))
                for name in shortest
            }
            measuring.alternating(runs, device, _BUDGET)
        original, changed = shortest["original"], shortest["changed"]
        for kind, trial in self._trials.items():
            if kind not in original or kind not in changed:  # a model may come by other sites in every run
                continue
            times = Times(original[kind], changed[kind])
            faster = times.after < measuring.GAIN * times.before
            if not faster:
                trial.names[False] = None
                self._choose(kind, trial)
            for (_, other), row in self._rows.items():
                if other == kind:
                    row.inference, row.became = times, trial.became
                    row.reason = row.reason if row.became else "not faster within the model"
        self._kept = [kept for kept in self._kept if self._trials[kept[0]].became]

    def _rewritten(self, run: Run, rewriting: Rewriting) -> None:
        with torch.no_grad(), rewriting:
            output = run.model(*run.args, **run.kwargs)
        rewriting.finish(output)

    def wants(self, origin: Origin) -> Hashable:
        here = origin, tuple(self._stack)
        self._unused[here] = Row(self._path(), f"nearest {origin.scale}", "", "no convolution follows that takes it in")
        return here

    def wants_signals(self) -> bool:
        self.convolved_signals += 1
        return False

    def note(self, was: str, reason: str) -> None:
        self._rows.setdefault((self._path(), was), Row(self._path(), was, "", reason, calls=0)).calls += 1

    def choose(self, site: Site) -> str | None:
        for origin in site.origins:
            self._unused.pop(origin, None)
        kind = site.key, site.positions
        if kind not in self._trials:
            self._trials[kind] = _tried(site, self.gradients)
        trial = self._trials[kind]
        self._choose(kind, trial)
        row = self._rows.setdefault((self._path(), kind), Row(**{**vars(trial.row), "where": self._path(), "calls": 0}))
        row.calls += 1
        if row.became:
            self._kept.append((kind, tuple(self._stack), site.origins))
        return trial.names[False]

    def _choose(self, kind: _Kind, trial: _Trial) -> None:
        key, positions = kind
        for gradients, name in trial.names.items():
            self.algorithms.setdefault((key, gradients), {})[positions] = name

    def _path(self, stack: Sequence[nn.Module] | None = None) -> str:
        stack = self._stack if stack is None else stack
        module = stack[-1] if stack else None
        return self._paths.get(id(module)) or type(module).__name__ if module is not None else ""

    def plan(self) -> Plan:
        return Plan(dict(self.algorithms), {origin for _, _, origins in self._kept for origin, _ in origins})

    def report_rows(self) -> list[Row]:
        return [*self._rows.values(), *self._unused.values()]

    @property
    def owners(self) -> list[nn.Module]:
        """The smallest modules inside which a site and the upsamplings that lead to it happen; none inside another."""
        owners = dict.fromkeys(self._owner(stack, origins) for _, stack, origins in self._kept)
        return [module for module in owners if not any(module in set(other.modules()) - {other} for other in owners)]

    def loses_fast_path(self, owner: nn.Module) -> bool:
        """Whether something inside a module would, on the example inputs or on others."""
        return owner in self._around_fast_paths or any(map(has_fast_path, owner.modules()))

    def _owner(self, stack: Sequence[nn.Module], origins: Sequence[Any]) -> nn.Module:
        depth = len(stack)
        for _, other in origins:
            same = [a is b for a, b in zip(stack, other, strict=False)]
            depth = min(depth, same.index(False) if False in same else len(same))
        return stack[max(depth, 1) - 1]


def _tried(site: Site, training: bool) -> _Trial:
    """Compare the original and every algorithm, first by result, then by time."""
    trial = _Trial(Row("", site.was, "", bytes_saved=site.bytes_saved), site.became)
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
        trial.names[backward] = best if times[best] < measuring.GAIN * times[""] else None
        trial.row.error = max(errors[best], trial.row.error or 0.0)
    trial.row.became = trial.became
    trial.row.reason = "" if trial.became else trial.row.reason or "not faster"
    return trial


def _thunk(site: Site, compute: Callable[[], Tensor], backward: bool) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward), _wanting_gradients(site.tensors if backward else ()):
            output = compute()
            output = plain(output) if isinstance(output, LazyTensor) else output
            if not backward:
                return (output,)
            # A weight that is a part of a parameter, cut out while no gradients were recorded, may get none.
            return output, *torch.autograd.grad(output, site.tensors, torch.ones_like(output), allow_unused=True)

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
