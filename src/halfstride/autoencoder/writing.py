"""Writing of files and folders, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` when the block ends well and vanishes when it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's are for their owner alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing_folder(path: Path, way_out: str = "or empty it") -> Iterator[Path]:
    """A temporary folder that becomes `path`, new or empty, when the block ends well and vanishes when it does not.

    Args:
        path: appears with all its files at once; an empty folder that is there already is filled file by file.
        way_out: see `require_free`.

    Raises:
        ValueError: where the folder holds something already.
    """
    require_free(path, way_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as temporary:
        yield temporary
        if path.exists():
            move_files(temporary, path)
        else:
            _open_to_others(temporary)
            temporary.chmod(0o777 & ~_umask())  # mkdtemp's are for their owner alone
            temporary.replace(path)


def require_free(path: Path, way_out: str) -> None:
    """Raise a `ValueError` where `path` is something other than a folder that is new or empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`out` (={path}) exists already: choose another name, {way_out}.")
    if file := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
        raise ValueError(f"`out` (={path}) cannot be a folder, since {file} is a file: choose another name.")


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(prefix=".writing.", dir=beside))
    try:
        with storage_errors():
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_files(source: Path, target: Path) -> None:
    _open_to_others(source)
    for file in source.iterdir():
        file.replace(target / file.name)


def _open_to_others(folder: Path) -> None:
    """Give files the usual permissions: some writers make files that only their owner can read."""
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o666 & ~_umask())


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """safetensors reports a full disk as an error of its own; make it the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"writing failed: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def distinct_names(labels: Iterable[str], suffix: str, taken: Collection[str] = ()) -> list[str]:
    """A file name for each label, such as `cats/1.jpg`: no two are equal, and none is one that is taken already."""
    names: dict[str, None] = {}
    for label in labels:
        stem = str(PurePath(label).with_suffix("")).replace("/", "-")
        name, number = f"{stem}{suffix}", 2
        while name in names or name in taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        names[name] = None
    return list(names)


def next_free(path: Path) -> Path:
    """`path`, or where that exists `path-2`, `path-3` and so on."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
