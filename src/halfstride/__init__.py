"""Halfstride: convolutional autoencoders, and the upsampling layers that every decoder stands on.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import halfstride` and
`halfstride --help` take no time, and packages of an extra are needed only by the names that use them.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from halfstride._support.extras import naming_extras

__version__ = "0.1.0"

_MODULES = {
    imported.name: str(statement.module)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for imported in statement.names
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'halfstride' has no attribute {name!r}")
    with naming_extras():
        if _MODULES[name] == __name__:
            return import_module(f"halfstride.{name}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
