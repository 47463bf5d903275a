"""What a model and its training need of memory, and what there is: too much is refused before any is taken."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, or of the container where that has a limit."""
    import psutil

    found = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" where there is none
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in lines).get("inactive_file", 0))
    except (OSError, ValueError):
        return found
    return max(min(found, limit - used + cached), 0)


def require_memory(needed: int, what: str, way_out: str) -> None:
    """Raise where something does not fit into memory.

    Args:
        needed: bytes, by an estimate from below.
        what: names the argument with its value, and says what takes the memory.
        way_out: what to do.

    Raises:
        ValueError: where less is available.
    """
    if needed > 2**28 and needed > (available := available_memory()):  # so much there always is
        raise ValueError(f"{what} {_gib(needed)} of memory, and {_gib(available)} are available: {way_out}.")


def build_within_memory(build: Callable[..., ModelT], *arguments: Any, **options: Any) -> ModelT:
    """Build a `ConvAutoencoder` of these arguments, unless its weights alone do not fit into memory.

    Raises:
        ValueError: where they do not, and as the class does.
    """
    with torch.device("meta"), warnings.catch_warnings():  # on which they take nothing
        warnings.simplefilter("ignore")  # they are given below
        sketch = build(*arguments, **options)
    largest, _ = max(sketch.named_parameters(), key=lambda named: named[1].numel())
    names = ["latent_dim"] if "latent" in largest or "linear" in largest else ["width", "kernel_size"]
    told = [f"`{name}` (={options[name]})" for name in names if options.get(name) is not None]
    require_memory(weight_bytes(sketch), f"{' and '.join(told)}: the weights alone take", "use a smaller model")
    return build(*arguments, **options)


def require_training_memory(model: nn.Module, shape: Sequence[int], batch_size: int, crop: int, processes: int) -> None:
    """Raise where a training on a CPU does not fit into memory.

    Args:
        model: what is trained, with its weights on the CPU.
        shape: of an image, C×H×W.
        batch_size: images per step, over all processes.
        crop: side of the crops that are trained on; 0 for whole images.
        processes: how many share the batch.

    Raises:
        ValueError: where it does not.
    """
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    # Gradients and two moments, and a copy of weights and moments while a checkpoint is written.
    weights = 4 * 6 * sum(trained)
    require_memory(weights, "`width`: beside the weights, a training takes", "use a smaller model")
    channels, *size = shape
    share = -(-batch_size // processes)
    height, width = (min(side, crop) if crop else side for side in size)
    most = max((len(weight) for weight in model.parameters() if weight.ndim == 4), default=channels)
    needed = weights + share * math.prod(shape)  # bytes of whole images
    # The run on tensors without data imports parts of torch for a second or more, which is spared where all is small.
    if _LAYERS * 4 * share * height * width * most > available_memory():
        needed += kept_bytes(model, (share, channels, height, width))
    way = f"use a batch size of {batch_size // 2}" if batch_size > 1 else "use smaller images or a smaller `width`"
    require_memory(needed, f"`batch_size` (={batch_size}): a step takes", way)


_LAYERS = 64
"""More than the features of the largest size and the most channels that any but a very deep model keeps."""


def weight_bytes(module: nn.Module) -> int:
    """What the weights of a module take; it may be on the device "meta", where they take nothing."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def kept_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """What a training step keeps from the forward to the backward pass, found by a run on tensors without data.

    Args:
        model: is not changed.
        shape: of a batch, N×C×H×W.

    Returns:
        Bytes; 0 for a model that does not run on such tensors, such as one that looks at values.
    """
    meta = {
        name: torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    own = {value.untyped_storage()._cdata for value in meta.values()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or the number of one could become that of another

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            torch.func.functional_call(model, meta, (torch.empty(tuple(shape), device="meta"),))
    except Exception:  # whatever an encoder of the user's own does
        return 0
    return sum(kept.values())


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
