"""A folder of images: which files are images, which are for testing, and what classes there are.

- All regular files below the folder are taken, links included (a folder reached twice is read once), in the order of
  their names. What a file is, its content says, not its name.
- Left alone: whatever begins with a dot, `__MACOSX`, `Thumbs.db`, `desktop.ini`, and the files that accompany images
  (.txt, .csv, .json and the like). Everything else that is no image is skipped, and listed by name.
- A folder that holds nothing but one subfolder stands for that subfolder.
- With folders `train`, `val` and `test`, these are the split, and with `train` and one of the others that is for
  testing; what lies beside them is left out, such as `ground_truth`. Without, the split is drawn (see `parts`).
- The first folder on an image's way is its class, if all images lie in folders and there are two or more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from halfstride.autoencoder.images.collection import Collection, Part, named_parts, split_note
from halfstride.autoencoder.images.formats import printable
from halfstride.autoencoder.images.splits import Skipped

_LEFT_ALONE = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}
_SIDECARS = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst", ".html"),
    *(".htm", ".log", ".py", ".ipynb", ".sh", ".xmp", ".aae", ".db", ".sha256", ".md5"),
}
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")


def read_folder(folder: Path) -> Collection:
    """The files of a folder, none of them opened yet.

    Raises:
        ValueError: where the folder holds no file that might be an image.
    """
    files: list[tuple[str, ...]] = []
    skipped: list[Skipped] = []
    for parts, reason in sorted(_walk(folder)):
        if reason:
            skipped.append(Skipped(printable("/".join(parts) or "."), reason))
        else:
            files.append(parts)
    inner = files
    while inner and len(inner[0]) > 1 and all(parts[:1] == inner[0][:1] and len(parts) > 1 for parts in inner):
        inner = [parts[1:] for parts in inner]  # a folder that holds nothing but one subfolder
    parts_of_data: list[Part] | None = None
    notes: list[str] = []
    if names := _split_folders(inner):
        part_of = {name: part for part, name in names.items()}
        wanted = [i for i, parts in enumerate(inner) if parts[0] in part_of and len(parts) > 1]
        files, inner = [files[i] for i in wanted], [inner[i] for i in wanted]
        parts_of_data = [(part_of[parts[0]],) for parts in inner]
        inner = [parts[1:] for parts in inner]
        notes.append(split_note("folders", names))
    collection = Collection(
        name=printable(folder.resolve().name or str(folder)),
        source=printable(str(folder)),
        pictures=[folder.joinpath(*parts) for parts in files],
        names=["/".join(parts) for parts in files],
        groups=[parts[0] if len(parts) > 1 else None for parts in inner],
        parts=parts_of_data,
        skipped=skipped,
        notes=notes,
    )
    collection.require()
    return collection


def read_picture(path: Path) -> Collection:
    """A single file as if it were all of a folder; not opened yet."""
    name = printable(path.name)
    return Collection(name, printable(str(path)), pictures=[path], names=[path.name], groups=[None])


def _walk(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Everything below the folder that is not left alone: its path as parts, and why it cannot be used, or ""."""
    seen: set[tuple[int, int]] = set()  # a link to a folder above it would lead round for ever
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        path = folder.joinpath(*parts)
        try:
            status = path.stat()
            identity = status.st_dev, status.st_ino
            if identity in seen and status.st_ino:  # 0 where the file system has no such numbers
                continue
            seen.add(identity)
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield parts, f"cannot be opened: {error.strerror}"
            continue
        for entry in found:
            here = (*parts, entry.name)
            if entry.name.startswith(".") or entry.name.lower() in _LEFT_ALONE:
                continue
            try:
                if entry.is_dir():
                    waiting.append(here)
                elif PurePath(entry.name).suffix.lower() not in _SIDECARS:
                    yield here, "" if entry.is_file() else "is not a file"
            except OSError as error:
                yield here, f"cannot be opened: {error.strerror}"


def _split_folders(files: list[tuple[str, ...]]) -> dict[str, str]:
    """The folders for training, validation and testing; empty unless there are some for training and for testing."""
    folders = {parts[0].lower(): parts[0] for parts in files if len(parts) > 1}
    return named_parts(
        *(next((folders[name] for name in names if name in folders), None) for names in (_TRAIN, _VALIDATION, _TEST))
    )
