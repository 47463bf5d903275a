"""Halfstride: convolutional autoencoders, and the upsampling layers that every decoder stands on.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import halfstride` and
`halfstride --help` take no time, and packages of an extra are needed only by the names that use them.
"""

# Nothing is imported here: Ctrl-C while a command starts would show a traceback until `__main__` has begun.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_modules: dict[str, str] = {}


def _public() -> dict[str, str]:
    """The public names, each with the module that defines it."""
    if not _modules:
        import ast
        from pathlib import Path

        listed = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
        imports = [statement for statement in listed if isinstance(statement, ast.ImportFrom)]
        _modules.update({name.name: str(statement.module) for statement in imports for name in statement.names})
    return _modules


def __getattr__(name: str) -> "Any":
    if name == "__all__":
        return sorted(_public())
    if name not in _public():
        raise AttributeError(f"module 'halfstride' has no attribute {name!r}")
    from importlib import import_module

    from halfstride._support.extras import naming_extras

    module = _public()[name]
    with naming_extras():
        if module == __name__:
            return import_module(f"halfstride.{name}")
        return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return [*sorted(_public()), "__version__"]
