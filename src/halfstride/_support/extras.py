"""The error of a missing optional package, in one line that says how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_EXTRAS = {
    "train": (
        "accelerate datasets huggingface_hub matplotlib mlxtend PIL psutil pyarrow safetensors scipy sklearn "
        "torchmetrics"
    ),
    "studio": "fastapi starlette uvicorn",
    "export": "onnx onnxruntime onnxscript",
    "tensorboard": "tensorboard",
    "heif": "pi_heif",
}
"""The packages that each extra of pyproject.toml brings, by the names under which they are imported."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Say which extra to install where a package of an extra is missing.

    Raises:
        ModuleNotFoundError: in place of one that was raised within.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if missing in packages.split():
                command = f'pip install "halfstride[{extra}]"'
                raise ModuleNotFoundError(f"{missing} is not installed: {command}", name=error.name) from None
        raise
