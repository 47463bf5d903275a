"""The user's models: import one by its name MODULE:FACTORY, run one in evaluation mode."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_model(argument: str, reference: str, *, with_inputs: bool = False) -> Any:
    """Import the model that `reference` names, or call the function of that name for it.

    Importing runs code: pass what was typed at the command line or in Python, never what a file says.

    Args:
        argument: the name of the argument that holds `reference`, for error messages.
        reference: `MODULE:FACTORY`: a module, in the current folder or installed, and in it a model, or a function (or
            class) that is called without arguments and returns one.
        with_inputs: whether the function may also return a pair of the model and its example inputs.

    Returns:
        The model; a pair where the function returned one.

    Raises:
        ValueError: where there is no such module or name, where one of them raises, and where the result is no model.

    Example:
        >>> load_model("model", "torch.nn:Identity")
        Identity()
    """
    label = f"`{argument}` (={reference})"
    name, _, attribute = reference.partition(":")
    if not name or not attribute or name.endswith(".py"):
        raise ValueError(f"{label} must be MODULE:FACTORY, such as mynets:make_model for make_model in mynets.py.")
    with _current_folder_importable():
        with one_line_errors(f"{label} cannot be imported"):
            found: Any = importlib.import_module(name)
        with one_line_errors(f"{label} is not in {name}"):
            for part in attribute.split("."):
                found = getattr(found, part)
        if not isinstance(found, nn.Module):
            with one_line_errors(f"{label} fails when it is called without arguments"):
                found = found()
    model = found[0] if with_inputs and isinstance(found, tuple) and len(found) == 2 else found
    if not isinstance(model, nn.Module):
        raise ValueError(f"{label} returns {type(model).__name__}: it must return a torch.nn.Module.")
    return found


def arguments_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs, one tensor, a tuple or a dict, as positional and named arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}


@contextlib.contextmanager
def removing(handles: list[Any]) -> Iterator[None]:
    """Remove hooks afterwards, also those that are added to `handles` within."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every module to evaluation mode, and back to its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with contextlib.suppress(NotImplementedError):  # an exported program has one mode
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Give every buffer back the value that it had."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                if module._buffers.get(name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextlib.contextmanager
def one_line_errors(label: str) -> Iterator[None]:
    """Raise whatever the user's code raises as a `ValueError` of one line that begins with `label`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = [type(error).__name__, *str(error).splitlines()[:1]]
        raise ValueError(f"{label}: {': '.join(reason).rstrip('.')}.") from error


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder on the import path, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path
            sys.path.remove(folder)
