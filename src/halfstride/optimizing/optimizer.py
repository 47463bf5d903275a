"""`optimize`: find the upsampling of a model, rewrite it as the planner says, and keep that if it is faster."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from inspect import getattr_static
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from halfstride._support import weight_cache
from halfstride._support.torch_private import module_call_code, tree_leaves
from halfstride.optimizing.example import TOLERANCE, Example, difference
from halfstride.optimizing.report import Report, Row
from halfstride.optimizing.rewrites import Call, Origin, Rewrites, scale_text
from halfstride.optimizing.rewriting import OptimizedMethod, Rewriting, optimized_methods

_GAIN = 0.97
"""A changed model must take less than this share of the original's time: less is noise."""
_OUTPUTS, _GRADIENTS = 10, 1000
"""How many times a layer's tolerance the whole model may differ: rounding adds up from layer to layer, and a sum that
it moves across zero in front of a ReLU switches gradients on or off."""


def optimize(model: nn.Module, example_inputs: Any, *, freeze: bool = False) -> tuple[nn.Module, Report]:
    """Compute a model's upsampling in faster, equivalent ways.

    Every upsampling that the example inputs reach is found, however it is written: transposed convolutions, and
    nearest-neighbour upsampling by an integer scale followed by a convolution, also with a `torch.cat`, activations,
    casts, padding or 1×1 convolutions in between. The planner says how each is computed fastest. The model as a whole
    is then compared with the original on the example inputs, and timed, and the change is kept only where it is equal
    to rounding and at least 3 % faster.

    The model is changed in place: only how some methods of its modules compute (`forward`, or whichever method does the
    upsampling, as `decode`), never its modules, parameters or `state_dict`. It goes on to work with other inputs, types
    and devices, and with weights that change. While it is compiled, traced or exported, or its parts have forward hooks
    during training, it computes as it always did.

    Args:
        model: any module; it is measured in the mode, training or evaluation, that it is in.
        example_inputs: a tensor, a tuple or list of the model's arguments, or a dict of its keyword arguments. Best of
            the size that is to be fast.
        freeze: promise that weights change in recorded ways only (see `halfstride.freeze`), so that no call looks at
            their values.

    Training (forward and backward) is measured too, and only then changed, where gradients are enabled and wanted by a
    parameter. Call it under `torch.no_grad()` for inference only, which takes at most 21 forward passes.

    Returns:
        The same model, and a report on every upsampling. `print(report)` shows it, `report.to_dict()` is plain data,
        `report.undo()` restores the model.

    Raises:
        TypeError: where `model` is no module.
        ValueError: where the model raises on the example inputs.

    Example:
        >>> model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1))
        >>> model, report = optimize(model, torch.rand(1, 64, 32, 32))
        >>> [row.was for row in report.rows]
        ['nearest ×2, conv2d 64→64 k3']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, not {type(model).__name__}.")
    for method in optimized_methods(model):
        method.remove()
    example, finder, report = Example(model, example_inputs), Finder(model), Report([])
    before = weight_cache.frozen(model)
    with example.left_as_found():
        expected = example.first_run()
        if freeze:
            weight_cache.freeze(model)
        try:
            report.note = _decide(example, finder, expected, report)
        except Exception as failure:  # the model runs, but not with its upsampling rewritten
            report.note = f"it raises {type(failure).__name__} when its upsampling is rewritten: {failure}"
    newly = set(weight_cache.frozen(model)).difference(before)
    report.rows = finder.rows
    if report.note:
        weight_cache.thaw(newly)
        for row in report.rows:
            if row.became:
                row.became, row.reason = "", report.note
    else:
        methods = finder.methods()
        for method in methods:
            method.install()
        report.optimized, report.frozen = True, freeze
        report._undo = lambda: _undo(model, methods, newly)
    return model, report


def _decide(example: Example, finder: Finder, expected: Any, report: Report) -> str:
    """Find what can be rewritten, compare and time the model with it, and return why nothing is kept, if nothing is."""
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(expected)):
        return "the output holds no tensors that could be compared"
    rewrites, kept = finder.rewrites, set[bool]()
    for gradients in (False, True) if example.gradients else (False,):
        if gradients:
            try:
                expected = example.run(gradients)
            except Exception:  # the original cannot be trained
                break
        finder.explore(example, gradients)
        methods = finder.methods()
        if not methods:
            continue
        rewrites.modes = {gradients}
        with _installed(methods):
            outcome = example.run(gradients)
        if rewrites.leaks_upsampled:
            break
        error = difference(outcome[0], expected[0])
        # By the largest gradient of all: that of a bias in front of a normalisation is nothing but rounding.
        off = difference(outcome[1], expected[1], each=False, strides=False)
        tolerance = max(TOLERANCE.get(leaf.dtype, 0.0) for leaf in tree_leaves(expected) if isinstance(leaf, Tensor))
        if not (error <= _OUTPUTS * tolerance and off <= min(_GRADIENTS * tolerance, 0.1)):
            return f"the result differs by {error:.0e}" + (f", a gradient by {off:.0e}" if off else "")
        report.error = max(error, report.error or 0.0)
        times = example.times(gradients, lambda: _installed(methods))  # noqa: B023  # called at once
        setattr(report, "training" if gradients else "inference", times)
        if times.after < _GAIN * times.before:
            kept.add(gradients)
    rewrites.modes = kept
    if kept:
        return ""
    return "the model as a whole is not faster" if finder.methods() else "no upsampling that can be faster"


@contextlib.contextmanager
def _installed(methods: Sequence[OptimizedMethod]) -> Iterator[None]:
    for method in methods:
        method.install()
    try:
        yield
    finally:
        for method in methods:
            method.remove()


def _undo(model: nn.Module, methods: Sequence[OptimizedMethod], frozen: Iterable[Tensor]) -> str:
    """Restore a model, and say what could not be."""
    weight_cache.thaw(frozen)
    paths = {id(module): path for path, module in model.named_modules()}
    left = [f"{paths[id(method.module)]}.{method.name}".lstrip(".") for method in methods if not method.remove()]
    return f"wrapped by other code since, and left so: {', '.join(left)}" if left else ""


# Finding what can be rewritten ----------------------------------------------------------------------------------------

_Method = tuple[nn.Module, str]
"""A module, and the name of a method."""

_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute in another way while a mode such as `Rewriting` is active: more slowly, in another memory
format, and `TransformerEncoder` with other values at masked positions."""
_CALL = module_call_code()
_UNUSED = "no convolution that can use it follows"


class Finder(Rewrites):
    """Finds the upsampling of a model by running it with everything rewritten."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rewrites = Rewrites()  # what was found, for the methods that are installed
        self._paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
        self._root: _Method = (model, "forward")
        self._rows: dict[Hashable, Row] = {}
        self._algorithms: dict[int, dict[str, None]] = {}  # of each row, by its identity
        self._unused: dict[Hashable, Row] = {}
        self._found: list[tuple[Row, tuple[_Method, ...], tuple[Any, ...]]] = []
        self._around_attention: set[_Method] = set()
        self._counting = True

    def explore(self, example: Example, gradients: bool) -> None:
        self._counting = not gradients  # a call is counted in one pass only
        with torch.set_grad_enabled(gradients), Rewriting(self) as rewriting:
            output = example.call()
        rewriting.finish(output)

    def methods(self) -> list[OptimizedMethod]:
        """The smallest methods inside which a call and the upsamplings of its input happen."""
        methods: dict[_Method, None] = {}
        for row, stack, origins in self._found:
            method = _innermost_common(stack, [other for _, other in origins])
            if method in self._around_attention or any(isinstance(part, _FAST_PATHS) for part in method[0].modules()):
                row.became, row.reason = "", "it stands beside attention, whose fast path would be lost"
            else:
                methods[method] = None
                self.rewrites.origins.update(origin for origin, _ in origins)
        return [OptimizedMethod(*method, self.rewrites) for method in methods]

    @property
    def rows(self) -> list[Row]:
        return [*self._rows.values(), *self._unused.values()]

    def defer(self, origin: Origin) -> Hashable:
        stack = self._stack()
        here = origin, stack
        self._unused[here] = Row(self._where(stack), f"nearest {scale_text(origin.scale)}", reason=_UNUSED, calls=1)
        return here

    def note(self, was: str, reason: str) -> None:
        self._row(self._where(self._stack()), was, reason=reason)

    def note_attention(self) -> None:
        self._around_attention.update(self._stack())

    def accepts(self, call: Call) -> bool:
        for origin in call.origins:
            self._unused.pop(origin, None)
        stack = self._stack()
        row = self._row(self._where(stack), call.was, bytes_saved=call.bytes_saved)
        if not call.algorithms:
            row.reason = row.reason or "torch's own operator is predicted to be the fastest"
            return False
        algorithms = self._algorithms.setdefault(id(row), {})
        algorithms.update(dict.fromkeys(call.algorithms))
        row.became, row.reason = f"{call.became} ({' / '.join(algorithms)})", ""
        self._found.append((row, stack, call.origins))
        return True

    def _row(self, where: str, was: str, **values: Any) -> Row:
        row = self._rows.setdefault((where, was), Row(where, was, **values))
        row.calls += self._counting
        return row

    def _where(self, stack: tuple[_Method, ...]) -> str:
        module, _ = stack[-1]
        return self._paths[id(module)]

    def _stack(self) -> tuple[_Method, ...]:
        """The methods of the model's modules that this thread is in, outermost first."""
        stack: list[_Method] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            module: Any = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if id(module) in self._paths and (code is _CALL or _is_replaceable(module, code.co_name)):
                method = module, "forward" if code is _CALL else code.co_name
                if not stack or stack[-1] != method:
                    stack.append(method)
            frame = frame.f_back
        return (self._root, *reversed(stack))


def _is_replaceable(module: nn.Module, name: str) -> bool:
    """Whether this names a method of the module's class that an attribute of the module can hide."""
    is_own = name == "forward" or not (hasattr(nn.Module, name) or name.startswith("__"))
    return is_own and isinstance(getattr_static(type(module), name, None), FunctionType)


def _innermost_common(stack: tuple[_Method, ...], others: Sequence[tuple[_Method, ...]]) -> _Method:
    depth = len(stack)
    for other in others:
        same = [a == b for a, b in zip(stack, other, strict=False)]
        depth = min(depth, same.index(False) if False in same else len(same))
    return stack[depth - 1]
