"""`torch.compile(model, backend="halfstride")`: compile a model by inductor, with its upsampling rewritten.

Dynamo turns the model's own code into graphs of torch functions. While AOTAutograd traces such a graph, the rules of
`halfstride.optimize` are applied: where the graph upsamples and convolves, the small image is convolved.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from halfstride._support.torch_private import (
    compile_with_inductor,
    disable_torch_function,
    has_unbacked_symbols,
    is_higher_order,
    tree_map_only,
)
from halfstride.optimizing.lazy import LazyTensor, Recipe, is_ordinary
from halfstride.optimizing.rewrites import Call, Origin, Rewrites
from halfstride.optimizing.rewriting import Rewriting
from halfstride.optimizing.rules import RULES

_log = logging.getLogger(__name__)


def backend(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """The backend that `torch.compile` finds by the name "halfstride", also where halfstride was never imported.

    Args:
        graph: what Dynamo read, in functions of torch.
        example_inputs: its inputs, or tensors without numbers that are like them.
        mode: as `torch.compile` takes it for inductor.
        options: likewise, instead of a mode.
    """
    original = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    try:
        return compile_with_inductor(rewritten(graph), list(example_inputs), mode, options)  # type: ignore[no-any-return]
    except Exception as failure:
        # Either a graph in which a rule goes wrong, or one that inductor does not compile, and says so again.
        _log.info("a graph stays as it was: %s: %s", type(failure).__name__, failure)
        return compile_with_inductor(original, list(example_inputs), mode, options)  # type: ignore[no-any-return]


def rewritten(graph: fx.GraphModule) -> fx.GraphModule:
    """A graph that Dynamo read, with its upsampling rewritten as soon as somebody traces it."""
    if not _is_understood(graph):
        return graph
    original = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for node in original.graph.nodes:
        node.meta.pop("example_value", None)  # which would live as long as this function
    end = graph.graph.output_node()
    (returned,) = end.args
    assert isinstance(returned, tuple | list)
    strides = [_strides(was) for was in returned]
    rewrites = _All()

    def halfstride(*inputs: Any) -> list[Any]:
        with _Tracing(rewrites) as rewriting:
            outputs = rewriting.finish(_Interpreter(original, rewriting).run(*inputs))
        rewrites.logged = True
        return [_laid_out(output, wanted) for output, wanted in zip(outputs, strides, strict=True)]

    # One call of a function that no cache of graphs knows, because it is another one in every graph. The graph's inputs
    # stay what they are, with all that Dynamo has noted about them.
    with graph.graph.inserting_before(end):
        call = graph.graph.call_function(halfstride, tuple(graph.graph.find_nodes(op="placeholder")))
        outputs = [graph.graph.call_function(operator.getitem, (call, at)) for at in range(len(returned))]
    for was, output in zip(returned, outputs, strict=True):
        output.meta = dict(was.meta) if isinstance(was, fx.Node) else {}
    end.args = (tuple(outputs),)
    for node in reversed(graph.graph.nodes):
        if node.op != "placeholder" and node not in (call, *outputs, end):
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


_UPSAMPLING = ("interpolate", "conv_transpose", "repeat_interleave", "expand")
"""Within the names of functions: without any of them there is nothing to rewrite."""
_OF_MODES = ("increment_nesting", "_enter_inference_mode")
"""Likewise: `torch.func` and inference mode within a graph, with other tensors on either side of their borders."""


def _is_understood(graph: fx.GraphModule) -> bool:
    """Whether there is something to rewrite, and nothing that a lazy tensor could get lost in."""
    names = " ".join(getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes)
    if not any(part in names for part in _UPSAMPLING) or any(part in names for part in _OF_MODES):
        return False
    if any(True for _ in (*graph.parameters(), *graph.buffers())):
        return False  # who traces wants to find tensors of the graph's own in its nodes
    # Sizes that are only known once it runs answer no questions, and rules ask.
    return not any(has_unbacked_symbols(node.meta.get("example_value", 0)) for node in graph.graph.nodes)


def _strides(node: Any) -> tuple[int, ...] | None:
    """The order in memory of a graph's output, which Dynamo has told the code behind the graph of."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value.stride() if isinstance(value, Tensor) else None


def _laid_out(output: Any, strides: tuple[int, ...] | None) -> Any:
    if not isinstance(output, Tensor) or strides is None:
        return output
    # By their expressions first: the tracer does not know the symbols of Dynamo's strides, and raises if they are used.
    if _expressions(output.stride()) == _expressions(strides) or output.stride() == strides:
        return output
    return output.new_empty_strided(output.shape, strides).copy_(output)


def _expressions(strides: Sequence[int | torch.SymInt]) -> list[Any]:
    return [stride.node.expr if isinstance(stride, torch.SymInt) else stride for stride in strides]


class _All(Rewrites):
    """Nothing is measured: every call that the planner knows a faster algorithm for is rewritten."""

    logged = False
    """Whether the log has every call: a graph is traced several times."""

    def defer(self, origin: Origin) -> Hashable:
        return origin

    def accepts(self, call: Call) -> bool:
        if call.algorithms and not self.logged:
            _log.info("%s becomes %s", call.was, call.became)
        return bool(call.algorithms)

    def lazy(self, recipe: Recipe) -> Any:
        if not all(map(is_ordinary, recipe.pieces)):
            return NotImplemented
        if not torch.is_grad_enabled():
            recipe.pieces = tuple(piece.detach() for piece in recipe.pieces)
        return LazyTensor(recipe)


class _Tracing(Rewriting):
    """The mode while a graph is traced: what is lazy is made by operators that are traced as well."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = NotImplemented if func in _OF_AUTOGRAD else self.by_rule(func, args, kwargs)
        if result is not NotImplemented:
            return result
        if func not in _OF_SIZES:
            args, kwargs = self.finish((args, kwargs))
        return func(*args, **kwargs)

    def finish(self, output: Any) -> Any:
        return tree_map_only(LazyTensor, _made, output)


class _Interpreter(fx.Interpreter):
    """Runs a graph under the mode, and hands what is lazy only to those who meet the mode first."""

    def __init__(self, graph: fx.GraphModule, rewriting: _Tracing) -> None:
        super().__init__(graph)
        self.rewriting = rewriting

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in RULES or getattr(target, "__module__", "") == "_operator":  # `a + b` asks for a method of theirs
            return super().call_function(target, args, kwargs)
        args, kwargs = self.rewriting.finish((args, kwargs))
        if not is_higher_order(target):
            return super().call_function(target, args, kwargs)
        with disable_torch_function():  # graphs within it, of autograd.Function, checkpointing or branches
            return super().call_function(target, args, kwargs)


def _made(tensor: LazyTensor) -> Tensor:
    """The tensor itself, as it would have been made where it was put off: who asks for it may record no gradients."""
    recipe = tensor.recipe
    if recipe.made is None:
        device = recipe.pieces[0].device.type
        with disable_torch_function(), torch.enable_grad(), torch.autocast(device, enabled=False):
            recipe.made = recipe.build(*recipe.pieces)
    return recipe.made


_OF_AUTOGRAD = {Tensor.register_hook, Tensor.requires_grad_, Tensor.retain_grad}
"""What is about this very tensor, which has to be made."""

_OF_SIZES: set[Callable[..., Any]] = {
    *(getattr(Tensor, name) for name in ("dim", "is_contiguous", "ndimension", "nelement", "numel", "size", "stride")),
    *(getattr(Tensor, name).__get__ for name in ("device", "dtype", "layout", "ndim", "shape")),
}
"""What is known of a tensor that is not made."""
