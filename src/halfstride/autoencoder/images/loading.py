"""From a folder, a file, an array or a name to images of one size, ready to train on."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images.arrays import read_array, read_array_file, read_digits
from halfstride.autoencoder.images.collection import Collection, Progress, choose_test, decode_all, listed, survey
from halfstride.autoencoder.images.decoding import Fit, Header, Shape, check_fit
from halfstride.autoencoder.images.folders import read_folder
from halfstride.autoencoder.images.hub import Streams, is_data_set, open_data_set, read_data_set, split_streams
from halfstride.autoencoder.images.iterable import IterableSplit
from halfstride.autoencoder.images.opening import printable
from halfstride.autoencoder.images.splits import MemorySplit, Skipped, Split
from halfstride.autoencoder.images.streams import ListedSplit

Source = str | os.PathLike[str] | np.ndarray | Tensor | Any | None
"""`Any` is a data set object of the library `datasets`, which has no types and need not be imported."""

_LARGEST_SIDE = 128
"""Without a `size`, files are brought to at most this many pixels per side: what trains in minutes on a CPU."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, to train on and to test on."""

    name: str
    """Where they come from, in a few words."""
    shape: Shape
    """Channels, height, width."""
    classes: tuple[str, ...] | None
    """The names of the classes, in the order of `Split.labels`; None where there are none."""
    train: Split
    test: Split
    notes: tuple[str, ...] = ()
    """What was decided on the way, in sentences: the size and why, the split and why."""
    _skipped: tuple[Skipped, ...] = field(default=(), repr=False)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What could not be used, by name and with the reason; streams add to it while they are read."""
        return (*self._skipped, *self.train.skipped, *self.test.skipped)

    def describe(self) -> str:
        """What there is to train on, for people: how many images, which size and why, what was skipped."""
        lines = [f"{self.name}: {_count(self.train)} to train on, {_count(self.test)} to test on.", *self.notes]
        if self.skipped:
            lines.append(f"{listed(self.skipped)}.")
        return "\n".join(lines)


def load_images(
    source: Source = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    test_fraction: float = 0.2,
    seed: int = 0,
    memory_limit: int = 2 * 2**30,
    progress: Progress | None = None,
) -> Images:
    """Images to train on and to test on, all of one size, as bytes.

    What fits into `memory_limit` is decoded once and kept; anything larger is decoded by worker processes while the
    model trains. Files that cannot be used are skipped and listed, never fatal while one usable image is left.

    Args:
        source: where the images are:
            None or "digits": 5,000 handwritten digits from MNIST, always the same 4,000 to train and 1,000 to test on
            (a folder of that name is "./digits");
            a folder: all images in it and below it (see `folders` for classes, and for `train` and `test` folders);
            an .npy or .npz file, an array or a tensor (see `arrays` for the order of axes and for the values);
            "hub:NAME" or "hub:NAME:CONFIG": a data set of the Hugging Face hub, or a data set object (see `hub`).
        size: pixels, (height, width) or one number for both. None takes an array's own size, or of files the size that
            all have, else the median of their heights and the median of their widths, scaled to at most 128 a side.
        channels: 1 for grey, 3 for RGB. None takes grey where all images are grey, and RGB else.
        fit: how images of other sizes are brought to this one: "crop", "pad" or "stretch" (see `decode`).
        test_fraction: the share to test on, above 0 and below 1, where the source itself has no split. It is drawn by
            a hash of each image's name, so a new image changes the place of at most one other.
        seed: of this draw.
        memory_limit: bytes of decoded images that may be kept; while they are decoded and split, twice as much is
            needed. Each process keeps its own.
        progress: called now and then with what is being done, how many images are done, and of how many (or None).

    Raises:
        ValueError: where an argument is out of range, or the source cannot be read or holds no usable image.

    Example:
        >>> images = load_images("digits")
        >>> images.shape, len(images.train), len(images.test)
        ((1, 28, 28), 4000, 1000)
        >>> next(images.train.batches(32, seed=0, epoch=0, shuffle=True)).shape
        torch.Size([32, 1, 28, 28])
    """
    size = _checked_size(size)
    if channels not in (None, 1, 3):
        raise ValueError(f"`channels` (={channels!r}) must be 1 (grey), 3 (RGB) or None (as the images are).")
    check_fit(fit)
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` (={test_fraction}) must lie between 0 and 1, such as 0.2.")
    if memory_limit < 0:
        raise ValueError(f"`memory_limit` (={memory_limit}) must be a number of bytes, 0 or more.")
    found = _find(source, memory_limit, progress)
    collection = found.sample if isinstance(found, Streams) else found
    headers = [collection.header] if collection.header else survey(collection, progress)
    collection.require()
    shape = _choose_shape(collection, headers, size, channels, fit)
    train: Split
    test: Split
    if isinstance(found, Streams):
        classes = None
        train, test = split_streams(found, shape, fit, test_fraction, seed)
        collection.notes.append(
            f"Too large to keep: read anew in every epoch. Its first {len(headers):,} images stand for all here."
        )
    else:
        images = None
        if len(collection.names) * math.prod(shape) <= memory_limit:
            images = decode_all(collection, shape, fit, progress)
            collection.require()
        else:
            collection.notes.append(f"More than memory_limit ({memory_limit:,} bytes): decoded anew in every epoch.")
        classes, train, test = _split(collection, images, shape, fit, test_fraction, seed)
    return Images(collection.name, shape, classes, train, test, tuple(collection.notes), tuple(collection.skipped))


def _find(source: Source, memory_limit: int, progress: Progress | None) -> Collection | Streams:
    """What there is, not decoded yet."""
    if isinstance(source, np.ndarray | Tensor):
        return read_array(source)
    if is_data_set(source):
        return read_data_set(source, "data set", memory_limit, progress)
    if source is None or source == "digits":
        return read_digits()
    if isinstance(source, str) and source.startswith("hub:"):
        return read_data_set(open_data_set(source, memory_limit), printable(source), memory_limit, progress)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"`source` (of type {type(source).__name__}) must be a path, a name, an array or a tensor.")
    path = Path(source)
    quoted = printable(str(path))
    try:
        if path.is_dir() and source != "":
            return read_folder(path)
        missing = source == "" or not path.exists()
    except OSError as error:
        raise ValueError(f"`source` (={quoted}) cannot be opened: {error.strerror}.") from None
    if missing:
        raise ValueError(
            f"`source` (={quoted}) does not exist: give a folder of images, an .npy or .npz file, "
            f'"hub:NAME" for a data set of the Hugging Face hub, or "digits".'
        )
    if path.suffix.lower() in (".npy", ".npz"):
        return read_array_file(path, memory_limit)
    raise ValueError(f"`source` (={quoted}) is a file: give the folder that it lies in, or an .npy or .npz file.")


def _choose_shape(
    collection: Collection,
    headers: Sequence[Header],
    size: tuple[int, int] | None,
    channels: int | None,
    fit: Fit,
) -> Shape:
    """The shape that all images are brought to, and a note that says why it is this one."""
    grey = all(header.grey for header in headers)
    sizes = {(header.height, header.width) for header in headers}
    median = tuple(int(np.median([header[axis] for header in headers])) for axis in (0, 1))
    if size is not None:
        why = "as asked for"
    elif collection.header is not None:
        size, why = (collection.header.height, collection.header.width), "the array's own"
    else:
        scale = min(1.0, _LARGEST_SIDE / max(median))
        size = max(round(median[0] * scale), 1), max(round(median[1] * scale), 1)
        why = "that of all files" if len(sizes) == 1 else "the median of the files' heights and of their widths"
        if scale < 1:
            why += f" ({median[0]}×{median[1]}) scaled to at most {_LARGEST_SIDE} a side; `size` takes another"
    height, width = size
    note = f"Size {height}×{width} (height × width): {why}."
    if sizes != {size}:
        ways = {
            "crop": "scaled to cover it and cropped at the centre",
            "pad": "scaled to lie inside and padded with their edges",
            "stretch": "stretched",
        }
        note += f" Images of other sizes are {ways[fit]}."
    channels = channels or (1 if grey else 3)
    collection.notes += [note, "Grey." if channels == 1 else "Colour (RGB)."]
    return channels, height, width


def _split(
    collection: Collection, images: Tensor | None, shape: Shape, fit: Fit, test_fraction: float, seed: int
) -> tuple[tuple[str, ...] | None, Split, Split]:
    """The classes, and the images to train and to test on: of those in memory, or else to be decoded when needed."""
    tests = _tests(collection, test_fraction, seed)
    classes = _ordered({group for group in collection.groups if group is not None})
    index = {name: i for i, name in enumerate(classes)}
    numbers = torch.tensor([-1 if group is None else index[group] for group in collection.groups])

    def part(test: bool) -> Split:
        wanted = torch.tensor([i for i, for_test in enumerate(tests) if for_test == test or len(tests) == 1])
        labels = numbers[wanted] if len(classes) > 1 and numbers[wanted].min() >= 0 else None
        if images is not None:
            return MemorySplit(images[wanted], labels)
        pictures, names = collection.pictures, collection.names
        return ListedSplit(collection.source, pictures, names, wanted.tolist(), labels, shape, fit)

    train, test = part(test=False), part(test=True)
    return None if train.labels is None and test.labels is None else classes, train, test


def _tests(collection: Collection, test_fraction: float, seed: int) -> list[bool]:
    """Which pictures are for testing, and a note that says so."""
    if collection.tests is None:
        if len(collection.names) == 1:
            collection.notes.append("With one image, it is both trained and tested on.")
        else:
            collection.notes.append(f"For testing, {test_fraction:.0%} were drawn by a hash of name and seed ({seed}).")
        return choose_test(collection.names, test_fraction, seed)
    for wanted, what in ((False, "train"), (True, "test")):
        if wanted not in collection.tests:
            raise ValueError(
                f"`source` (={collection.source}) holds no usable image to {what} on: "
                f"add some to its split for that, or remove it to have the other one split."
            )
    return list(collection.tests)


def _ordered(names: set[str]) -> tuple[str, ...]:
    """The names of classes in order: numbers by their value, before all others."""
    return tuple(sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)))


def _checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        height, width = map(operator.index, size if isinstance(size, tuple | list) else (size, size))
    except (TypeError, ValueError):
        raise ValueError(f"`size` (={size!r}) must be an int or (height, width).") from None
    if height < 1 or width < 1:
        raise ValueError(f"`size` (={size}) must be at least 1.")
    return height, width


def _count(split: Split) -> str:
    if isinstance(split, IterableSplit):
        return f"about {split.about:,} images" if split.about else "an unknown number of images"
    return f"{split.size:,} image{'' if split.size == 1 else 's'}"
