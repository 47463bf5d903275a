"""From a folder, a file, an array or a name to images of one size, ready to train on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images.arrays import read_array, read_array_file, read_digits
from halfstride.autoencoder.images.choices import choose
from halfstride.autoencoder.images.collection import (
    TEST,
    TRAIN,
    VALIDATION,
    Collection,
    Progress,
    decode_all,
    listed,
    survey,
)
from halfstride.autoencoder.images.copies import compare
from halfstride.autoencoder.images.decoding import Fit, Preparation, Shape
from halfstride.autoencoder.images.folders import read_folder, read_picture
from halfstride.autoencoder.images.formats import printable
from halfstride.autoencoder.images.hub import Streams, is_data_set, open_data_set, read_data_set
from halfstride.autoencoder.images.iterable import IterableSplit
from halfstride.autoencoder.images.options import MEMORY_LIMIT, ImageOptions
from halfstride.autoencoder.images.pairs import survey_pairs
from halfstride.autoencoder.images.parts import complete_parts, draw_parts, drop_copies
from halfstride.autoencoder.images.splits import MemorySplit, Skipped, Split
from halfstride.autoencoder.images.streams import ListedSplit
from halfstride.autoencoder.memory import require_memory

_BYTES_PER_VALUE = 32
"""Of an image, its reconstruction, their difference and the largest features, as float32."""

Source = str | os.PathLike[str] | np.ndarray | Tensor | Any | None
"""`Any` is a data set object of the library `datasets`, which has no types and need not be imported."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, to train on, to validate on and to test on."""

    name: str
    """Where they come from, in a few words."""
    shape: Shape
    """Channels, height, width."""
    classes: tuple[str, ...] | None
    """The names of the classes, in the order of `Split.labels`; None where there are none."""
    train: Split
    validation: Split
    """What choices are made on: a tenth of the training images, unless the source has images for it."""
    test: Split
    """What nothing is chosen on."""
    options: ImageOptions
    """How they were found and prepared, with all that was chosen: `options.load()` gives the same images again."""
    notes: tuple[str, ...] = ()
    """What was decided on the way, in sentences: the size and why, the split and why."""
    _skipped: tuple[Skipped, ...] = field(default=(), repr=False)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """All that could not be used, by name and with the reason; streams add to it while they are read."""
        added = (*self.train.skipped, *self.validation.skipped, *self.test.skipped)
        return (*self._skipped, *dict.fromkeys(added))

    def describe(self, *, skipped: bool = True) -> str:
        """What there is to train on, for people: how many images, which size and why.

        Args:
            skipped: whether a last line names the first few of those that could not be used.
        """
        counts = (
            f"{_count(split)} to {what} on"
            for split, what in ((self.train, "train"), (self.validation, "validate"), (self.test, "test"))
        )
        lines = [f"{self.name}: {', '.join(counts)}.", *self.notes]
        if skipped and self.skipped:
            lines.append(f"{listed(self.skipped)}.")
        return "\n".join(lines)


def load_images(
    source: Source = None,
    *,
    clean: str | os.PathLike[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: Fit = "crop",
    test_fraction: float = 0.2,
    white: int | None = None,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> Images:
    """Images to train on, to validate on and to test on, all of one size, as bytes.

    What fits into `memory_limit` is decoded once and kept; anything larger is decoded by worker processes while the
    model trains. Files that cannot be used are skipped and listed, never fatal while one usable image is left.

    The images have three parts: for training, for validation (a tenth of those for training) and for testing. Identical
    pictures are never in two of them (see `parts`).

    Args:
        source: where the images are:
            None or "digits": 5,000 handwritten digits from MNIST, always the same 1,000 to test on
            (a folder of that name is "./digits");
            a folder: all images in it and below it (see `folders` for classes, and for folders called `train`,
            `val` and `test`);
            an .npy or .npz file, an array or a tensor (see `arrays` for the order of axes and for the values);
            "hub:NAME" or "hub:NAME:CONFIG": a data set of the Hugging Face hub, or a data set object (see `hub`).
        clean: a folder of clean twins of the pictures in the folder `source`, of the same names apart from the suffix:
            a model learns to clean the noisy ones. Batches are then N×2×C×H×W, input and target.
        size: pixels, (height, width) or one number for both. None takes an array's own size, or of files the size that
            all have, else the median of their heights and the median of their widths, scaled to at most 128 a side.
        channels: 1 for grey, 3 for RGB. None takes grey where all images are grey, and RGB else.
        fit: how images of other sizes are brought to this one: "crop", "pad" or "stretch" (see `decode`).
        test_fraction: the share to test on, above 0 and below 1, where the source itself has no split. It is drawn by
            a hash of each image's name, so a new image changes the place of at most one other.
        white: the value of pictures and arrays of 16 bits that is white, 1 to 65,535; larger ones count as white. None
            takes the smallest of 1,023, 4,095, 16,383 and 65,535 (10, 12, 14 and 16 bits) that no value exceeds.
        seed: of this draw, and of that for validation.
        memory_limit: bytes of decoded images that may be kept; while they are decoded and split, twice as much is
            needed. Each process keeps its own.
        progress: called now and then with what is being done, how many images are done, and of how many (or None).

    Size, channels and white are chosen from the images that are not for testing.

    Raises:
        ValueError: where an argument is out of range, the source cannot be read or holds no usable image, or pictures
            have no clean twin.

    Example:
        >>> images = load_images("digits")
        >>> images.shape, len(images.train), len(images.validation), len(images.test)
        ((1, 28, 28), 3600, 400, 1000)
        >>> next(images.train.batches(32, seed=0, epoch=0, shuffle=True)).shape
        torch.Size([32, 1, 28, 28])
    """
    named = source is None or isinstance(source, str | os.PathLike)
    options = ImageOptions(
        _text("digits" if source is None else cast("str | os.PathLike[str]", source)) if named else None,
        None if clean is None else os.fspath(clean),
        size,  # type: ignore[arg-type]  # one number becomes two there
        channels,
        fit,
        test_fraction,
        white,
        seed,
    )
    return load(options.source if named else source, options, memory_limit, progress)


@torch.inference_mode(False)  # in which the images could be written to by one thread alone
def load(
    source: Source, options: ImageOptions, memory_limit: int, progress: Progress | None, together: bool = False
) -> Images:
    """The images of a source, by the rules of `load_images`."""
    if memory_limit < 0:
        raise ValueError(f"`memory_limit` (={memory_limit}) must be a number of bytes, 0 or more.")
    if options.clean is not None and isinstance(options.source, str) and Path(options.source).is_file():
        raise ValueError(
            f"`clean` (={printable(options.clean)}) must go with a folder of pictures as `source`, "
            f"which is {printable(options.source)}."
        )
    found = _find(source, memory_limit, progress, together)
    if isinstance(found, Streams):
        return _load_streams(found, options, progress)
    if options.clean is None:
        survey(found, progress)
    else:
        survey_pairs(found, Path(options.clean), progress)
    found.require()
    drawn, notes, how = found.parts is None, [], []
    if together:
        found.parts = [(TRAIN, VALIDATION, TEST)] * len(found.names)
    else:
        compare(found, progress)
        notes = [] if drawn else drop_copies(found)
        how = _divide(found, options, drawn)
    options, preparation = _prepared(found, options)
    images = None
    if len(found.names) * math.prod(preparation.item_shape) <= memory_limit:
        images = decode_all(found, preparation, progress)
        found.require()
        if not all(found.members(part) for part in (TRAIN, VALIDATION, TEST)):  # those few could not be decoded
            how = _divide(found, options, drawn)
        pixel = images[:1, ..., :1, :1]
        if (images[:1] == pixel).all() and (images == pixel).all():
            notes.append("All images are of one and the same grey or colour: there is nothing to learn.")
    else:
        notes.append(f"More than memory_limit ({memory_limit:,} bytes): decoded anew in every epoch.")
    classes, (train, validation, test) = _split(found, images, preparation)
    all_notes, skipped = (*found.notes, *notes, *how), tuple(found.skipped)
    return Images(found.name, preparation.shape, classes, train, validation, test, options, all_notes, skipped)


def _divide(found: Collection, options: ImageOptions, drawn: bool) -> list[str]:
    return draw_parts(found, options.test_fraction, options.seed) if drawn else complete_parts(found, options.seed)


def _load_streams(found: Streams, options: ImageOptions, progress: Progress | None) -> Images:
    sample, validation = found.sample, found.validation
    for collection in (sample, validation):
        survey(collection, progress)
        collection.require()
    options, preparation = _prepared(sample, options)
    kept = MemorySplit(decode_all(validation, preparation, progress))
    train, test = (found.split(part, preparation) for part in (TRAIN, TEST))
    notes = (*sample.notes, "Too large to keep: read anew in every epoch.")
    skipped = tuple(dict.fromkeys([*sample.skipped, *validation.skipped]))
    return Images(sample.name, preparation.shape, None, train, kept, test, options, notes, skipped)


def _prepared(collection: Collection, options: ImageOptions) -> tuple[ImageOptions, Preparation]:
    """The options with all that was chosen filled in, and what follows from them for each picture."""
    options = choose(collection, options)
    assert options.size is not None
    assert options.channels is not None
    assert options.white is not None
    shape = options.channels, *options.size
    what = f"`size` (={shape[1]}x{shape[2]}): for a single image, a model takes about"
    require_memory(_BYTES_PER_VALUE * math.prod(shape), what, "use a smaller one")
    preparation = Preparation(shape, options.fit, options.white, options.clean is not None)
    return replace(options, source=_absolute(options.source), clean=_absolute(options.clean)), preparation


def _text(source: str | os.PathLike[str]) -> str:
    """A path or name as text; a path that looks like a name becomes one that does not."""
    text = os.fsdecode(source)
    is_path = not isinstance(source, str)
    return f"./{text}" if is_path and (text == "digits" or text.startswith("hub:")) else text


def _absolute(source: str | None) -> str | None:
    """A path that does not depend on where the process runs; names stay as they are."""
    if source is None or source == "digits":
        return source
    if not source.startswith("hub:"):
        return str(Path(source).resolve())
    path, colon, config = source.removeprefix("hub:").partition(":")
    return f"hub:{Path(path).resolve()}{colon}{config}" if path and Path(path).is_dir() else source


def _find(source: Source, memory_limit: int, progress: Progress | None, one: bool) -> Collection | Streams:
    """What there is, not decoded yet; `one` is whether it may be a single picture, on which nothing is trained."""
    if isinstance(source, np.ndarray | Tensor):
        return read_array(source)
    if is_data_set(source):
        return read_data_set(source, "data set", memory_limit, progress)
    if source == "digits":
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
    if one:
        return read_picture(path)
    raise ValueError(f"`source` (={quoted}) is a file: give the folder that it lies in, or an .npy or .npz file.")


def _split(
    collection: Collection, images: Tensor | None, preparation: Preparation
) -> tuple[tuple[str, ...] | None, list[Split]]:
    """The classes, and the images of the three parts: of those in memory, or else to be decoded when needed."""
    classes = tuple(
        sorted(  # numbers by their value, before all others
            {group for group in collection.groups if group is not None},
            key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name),
        )
    )
    index = {name: i for i, name in enumerate(classes)}
    numbers = torch.tensor([-1 if group is None else index[group] for group in collection.groups])
    splits: list[Split] = []
    before: list[int] = []
    for part in (TRAIN, VALIDATION, TEST):
        wanted = collection.members(part)
        if wanted == before:  # all images are in all parts
            splits.append(splits[-1])
            continue
        before = wanted
        own = numbers[wanted]
        labels = own if len(classes) > 1 and own.min() >= 0 else None
        names = [collection.names[i] for i in wanted]
        if images is not None:
            splits.append(MemorySplit(images[wanted], labels, names))
        else:
            splits.append(ListedSplit(collection.source, collection.pictures, names, wanted, labels, preparation))
    return None if all(split.labels is None for split in splits) else classes, splits


def _count(split: Split) -> str:
    if isinstance(split, IterableSplit):
        return f"about {split.about:,} images" if split.about else "an unknown number of images"
    return f"{split.size:,} image{'' if split.size == 1 else 's'}"
