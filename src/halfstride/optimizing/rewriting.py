"""Run a model's methods with their upsampling rewritten.

While `Rewriting` is active every call of a torch function comes here first. A nearest-neighbour upsampling returns a
lazy tensor; what acts on each position alone (activations, casts, 1×1 convolutions, normalisation in evaluation) acts
on the small tensor; a concatenation is remembered by its parts. A convolution of stride 1 then becomes a
resize-convolution, its kernel split by input channels where there are parts, and a transposed convolution is computed
by the planner's choice. Whatever no rule understands is left to torch, which gets an ordinary tensor. `Rewrites`
decides which calls are rewritten.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable
from types import CodeType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from halfstride._support.torch_private import (
    function_modes,
    has_saved_tensor_hooks,
    is_device_mode,
    is_traced,
    is_transformed,
    tree_leaves,
    tree_map,
)
from halfstride.optimizing.lazy import LazyTensor, plain
from halfstride.optimizing.rewrites import Rewrites
from halfstride.optimizing.rules import RULES, UsedBefore

_log = logging.getLogger(__name__)


class Rewriting(TorchFunctionMode):
    """The mode: one for each call of a method."""

    def __init__(self, rewrites: Rewrites) -> None:
        super().__init__()
        self.rewrites = rewrites

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Gradient checkpointing later computes things again without this mode, and expects the same operators.
        is_recorded = torch.is_grad_enabled() and has_saved_tensor_hooks()
        result = NotImplemented if is_recorded or is_transformed() else self.by_rule(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result

    def by_rule(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of a call by its rule; `NotImplemented` where none understands it.

        A call for which a rule raises is not understood: torch computes it, or says what is wrong with it.
        """
        rule = RULES.get(func)
        if rule is None:
            return NotImplemented
        try:
            return rule(self.rewrites, func, *args, **kwargs)
        except UsedBefore:
            raise
        except Exception as failure:
            _log.debug("%s is left to torch: %s: %s", func.__name__, type(failure).__name__, failure)
            return NotImplemented

    def finish(self, output: Any) -> Any:
        """The output, after the mode has been left, with ordinary tensors in place of lazy ones."""
        known: dict[int, Tensor] = {}

        def finished(leaf: Any) -> Any:
            if type(leaf) is LazyTensor:
                if torch.is_grad_enabled() and (leaf.recipe.used or leaf.recipe.made is not None):
                    self.rewrites.leaks_upsampled = True
                return known.setdefault(id(leaf), plain(leaf))
            for name, value in fields_of(leaf).items():
                if any(type(part) is LazyTensor or fields_of(part) for part in tree_leaves(value)):
                    object.__setattr__(leaf, name, tree_map(finished, value))
            return leaf

        return tree_map(finished, output)


def fields_of(leaf: Any) -> dict[str, Any]:
    """The fields of a dataclass, which torch's trees take for a leaf; empty for everything else."""
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return {}
    return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf) if hasattr(leaf, field.name)}


# In place of a model's methods ----------------------------------------------------------------------------------------


class OptimizedMethod:
    """A method of a module, with upsampling rewritten. Installed, it hides the module's own under the same name."""

    def __init__(self, module: nn.Module, name: str, rewrites: Rewrites) -> None:
        self.module, self.name, self.rewrites = module, name, rewrites
        self.original: Any = None  # what another library has put in the method's place, such as accelerate
        self.retired = False

    def install(self) -> None:
        self.original, self.retired = vars(self.module).get(self.name), False
        setattr(self.module, self.name, self)

    def remove(self) -> bool:
        """Restore the module; False where the method was wrapped meanwhile: then this one just calls the original."""
        self.retired = True
        if vars(self.module).get(self.name) is not self:
            return False
        if self.original is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.original)
        return True

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._bound)

    @property
    def __code__(self) -> CodeType:  # which torch.export looks at
        code: CodeType = self._bound.__code__
        return code

    @property
    def _bound(self) -> Any:
        return self.original or MethodType(getattr(type(self.module), self.name), self.module)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self.original is not None:
            return self.original(*args, **kwargs)
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.retired or _must_stay(self.module, self.rewrites):
            return self._call(*args, **kwargs)
        with Rewriting(self.rewrites) as rewriting:
            output = self._call(*args, **kwargs)
        return rewriting.finish(output)


def optimized_methods(model: nn.Module) -> list[OptimizedMethod]:
    """Those that are installed in a model."""
    return [
        value for module in model.modules() for value in vars(module).values() if isinstance(value, OptimizedMethod)
    ]


def _must_stay(module: nn.Module, rewrites: Rewrites) -> bool:
    """Whether a method around this one is rewritten already, or what the module does is recorded, as by `diagnose`."""
    for mode in function_modes():
        if mode.rewrites is rewrites if isinstance(mode, Rewriting) else not is_device_mode(mode):
            return True
    return is_traced() or is_transformed() or (torch.is_grad_enabled() and is_watched(module))


def is_watched(module: nn.Module) -> bool:
    """Whether forward hooks see inputs or outputs of its parts, and may ask for gradients that pass through them.

    Those of torch's own weight and spectral normalisation see the weight only.
    """
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return True
    return any(
        part._forward_hooks
        or any(not type(hook).__module__.startswith("torch.nn.utils") for hook in part._forward_pre_hooks.values())
        for part in module.modules()
    )
