"""Changing how the modules of a model run, and only that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from halfstride._support.torch_private import is_traced, is_transformed
from halfstride.optimizing.plan import Plan
from halfstride.optimizing.rewriting import Rewriting, is_active

__all__ = ["has_fast_path", "install", "is_watched", "restore", "undoing"]

_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute in another way while a mode is active, such as ours: slower, in another order in memory, and
`TransformerEncoder` with other values at positions that are masked."""


class _Forward:
    """What stands in the place of a module's `forward`: the same, with upsampling rewritten."""

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module = module
        self.plan = plan
        self.original = vars(module).get("forward")  # another's replacement, such as accelerate's
        self.retired = False

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._bound)

    @property
    def __code__(self) -> CodeType:  # which torch.export looks at
        code: CodeType = self._bound.__code__
        return code

    @property
    def _bound(self) -> Any:
        return self.original or MethodType(type(self.module).forward, self.module)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.original is not None:
            return self.original(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.retired or _must_stay(self.module) or is_active(self.plan):
            return self._forward(*args, **kwargs)
        with Rewriting(self.plan) as rewriting:
            output = self._forward(*args, **kwargs)
        return rewriting.finish(output)


def _must_stay(module: nn.Module) -> bool:
    """Whether somebody records what the module does, and should see its own operators."""
    if is_traced() or is_transformed():
        return True
    return torch.is_grad_enabled() and is_watched(module)


def is_watched(module: nn.Module) -> bool:
    """Whether hooks can see inputs or outputs of its parts, and may ask for gradients that pass through them.

    Those of torch's own weight and spectral normalisation look at nothing but the weight.
    """
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return True
    return any(
        part._forward_hooks
        or any(not type(hook).__module__.startswith("torch.nn.utils") for hook in part._forward_pre_hooks.values())
        for part in module.modules()
    )


def has_fast_path(module: nn.Module) -> bool:
    """Whether a module would lose its fast path, and must not be run under our mode."""
    return isinstance(module, _FAST_PATHS)


def install(owners: list[nn.Module], plan: Plan) -> None:
    for owner in owners:
        owner.forward = _Forward(owner, plan)


def restore(model: nn.Module) -> None:
    for forward in _installed(model):
        if forward.original is None:
            del forward.module.forward
        else:
            forward.module.forward = forward.original


def undoing(model: nn.Module) -> Callable[[], None]:
    """What gives a model back as it was, also where somebody has wrapped by then what is installed now."""
    installed = _installed(model)

    def undo() -> None:
        restore(model)
        for forward in installed:
            forward.retired = True

    return undo


def _installed(model: nn.Module) -> list[_Forward]:
    forwards = (vars(module).get("forward") for module in model.modules())
    return [forward for forward in forwards if isinstance(forward, _Forward)]
