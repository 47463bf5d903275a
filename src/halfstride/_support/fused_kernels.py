"""The package `halfstride-kernels`, where it is installed: fused loops for processors, as operators of torch.

Results are the same with it and without. `HALFSTRIDE_KERNELS=0` in the environment does without.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from halfstride._support.torch_private import is_traced, is_transformed, load_operators

_INTERFACE = 1
"""What `halfstride_kernels.INTERFACE` must be."""


def _load() -> Any:
    """The package's operators; None where they cannot be used."""
    if os.environ.get("HALFSTRIDE_KERNELS") == "0":
        return None
    try:
        import halfstride_kernels
    except ImportError:
        return None
    try:
        if getattr(halfstride_kernels, "INTERFACE", None) != _INTERFACE:
            raise ImportError("it belongs to another version of halfstride")
        library = halfstride_kernels.library(torch.backends.cpu.get_cpu_capability())
        if library is None:  # an older processor
            return None
        return load_operators(library, "halfstride_kernels")
    except Exception as error:  # whatever is wrong with an optional library, everything works without it
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"halfstride-kernels is installed but cannot be used, so layers are slower: {reason}. Build it again "
            f"(`make kernels`) for torch {torch.__version__}, or uninstall it.",
            stacklevel=2,
        )
        return None


OPERATORS = _load()
"""The package's operators, or None."""


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def takes(*tensors: Tensor | None) -> bool:
    """Whether the operators can take these tensors, in float32: on a processor, and outside of transforms and tracers.

    Half types are converted by who calls the operators.
    """
    return (
        OPERATORS is not None
        and all(
            tensor is None
            or (type(tensor) in (Tensor, nn.Parameter) and tensor.dtype in _NARROW and tensor.device.type == "cpu")
            for tensor in tensors
        )
        and not is_transformed()
        and not is_traced()
    )
