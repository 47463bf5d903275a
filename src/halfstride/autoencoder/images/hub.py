"""Data sets of the Hugging Face hub, and everything else that the library `datasets` reads or holds.

`hub:NAME` or `hub:NAME:CONFIG`, as in "hub:ylecun/mnist"; NAME may also be a local folder that `datasets` understands
(parquet, WebDataset, ...). In Python, a data set object of that library will do as well.

- Images are the first column of images (the one called "image" or "img" where there are several), classes the first
  column of class labels, or else whole numbers called "label", "labels" or "cls".
- The splits `train`, `validation` and `test` are the split, and with `train` and one of the others that is for testing;
  without these, `train` or else the first one is split (see `parts`). Others are left out.
- What takes at most `memory_limit` bytes to download is downloaded once, into the library's own cache. What does not
  tell its size is read, and kept if its files add up to no more than that.
- The rest is streamed: every epoch reads it anew. It must have a split for testing. Images for validation are kept in
  memory: the first 1,000 of the split for it or, without one, a tenth of the first training images, which are then left
  out of training. Copies between the splits are not looked for.

No code of a data set is ever run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfstride.autoencoder.images.collection import (
    TEST,
    TRAIN,
    VALIDATION,
    Collection,
    Progress,
    named_parts,
    split_note,
)
from halfstride.autoencoder.images.decoding import Preparation
from halfstride.autoencoder.images.formats import ImageError, Picture, one_line, printable
from halfstride.autoencoder.images.iterable import IterableSplit, content, fingerprint, guarded, picture
from halfstride.autoencoder.images.parts import validation_count

_SAMPLE = 1_000
"""Images of a stream that decide on size and channels."""

_CONNECTIONS = 16
"""Pictures fetched at the same time, where the data set holds their addresses instead of their bytes."""


@dataclass
class Streams:
    """A data set too large to keep."""

    sample: Collection
    """The first training images, from which the shape is chosen."""
    validation: Collection
    column: str
    train: Any
    """A `datasets.IterableDataset` with the column of images alone, not decoded; `test` is another one."""
    test: Any
    left_out: Set[str]
    """Fingerprints of the training images that are for validation."""

    def split(self, part: str, preparation: Preparation) -> IterableSplit:
        """The images to train on, or those to test on."""
        data, left_out = (self.train, self.left_out) if part == TRAIN else (self.test, frozenset[str]())
        about = _count(data)
        about = about and about - len(left_out)
        return IterableSplit(self.sample.source, data, self.column, about, preparation, left_out)


def is_data_set(source: object) -> bool:
    """Whether this is an object of the library `datasets` (which need not be imported to tell)."""
    return type(source).__module__.partition(".")[0] == "datasets"


def open_data_set(name: str, memory_limit: int) -> Any:
    """The data set behind `hub:NAME` or `hub:NAME:CONFIG`, downloaded or as a stream.

    Raises:
        ValueError: where it cannot be found or reached.
    """
    import datasets

    path, _, config = name.removeprefix("hub:").partition(":")
    try:
        size = datasets.load_dataset_builder(path, config or None).info.download_size
        return datasets.load_dataset(path, config or None, streaming=size is None or size > memory_limit)
    except Exception as error:  # not found, not reached, not understood: each comes in several classes
        raise ValueError(
            f"`source` (={printable(name)}) cannot be loaded: {one_line(error)}. "
            f"Check the name (hub:NAME or hub:NAME:CONFIG) and the connection."
        ) from None


def read_data_set(data: Any, source: str, memory_limit: int, progress: Progress | None) -> Collection | Streams:
    """The images of a data set: a collection, or streams where its files take more than `memory_limit` bytes.

    Raises:
        ValueError: where it has no column of images, or cannot be read.
    """
    import datasets

    names = _split_names(data, source)
    parts = {key: (data if name is None else data[name]).with_format(None) for key, name in names.items()}
    train = parts[TRAIN]
    image, label = _columns(train, source)
    class_names = getattr(train.features.get(label), "names", None)
    columns = {key: [c for c in (image, label) if c in (part.features or ())] for key, part in parts.items()}
    if odd := [names[key] for key, kept in columns.items() if image not in kept]:
        raise ValueError(f"`source` (={source}) must have its images in a column {image} in {odd[0]} too.")
    parts = {
        key: part.select_columns(columns[key]).cast_column(image, datasets.Image(decode=False))
        for key, part in parts.items()
    }
    note = [split_note("splits", {key: str(name) for key, name in names.items()})] if len(parts) > 1 else []
    examples, whole = list(parts.values()), True
    if not isinstance(train, datasets.Dataset):
        examples, whole = _read_examples(examples, image, source, memory_limit, progress)
    if not whole:
        return _streams(parts, examples[0], image, source, memory_limit, note)
    labels = [_labels(part, label) for part in examples]
    collection = _collection(examples, image, source)
    collection.groups = [_class_name(value, class_names) for values in labels for value in values]
    collection.notes += note
    if note:
        collection.parts = [(key,) for key, values in zip(parts, labels, strict=True) for _ in values]
    collection.require()
    return collection


def _collection(parts: Sequence[Any], column: str, source: str) -> Collection:
    pictures = _Pictures(parts, column)
    count = len(pictures)
    return Collection(source, source, pictures, [f"image {i}" for i in range(count)], [None] * count)


def _streams(
    parts: dict[str, Any], first: list[Any], column: str, source: str, memory_limit: int, notes: list[str]
) -> Streams:
    """A data set to stream, of which the first training examples are read."""
    if TEST not in parts:
        raise ValueError(
            f"`source` (={source}) takes more than memory_limit={memory_limit:,} bytes, so it is streamed, and has no "
            "split to test on: raise memory_limit, or give a data set with splits called train and test."
        )
    first, left_out = first[:_SAMPLE], frozenset[str]()
    if VALIDATION in parts:
        held_out = list(itertools.islice(guarded(parts[VALIDATION], source), _SAMPLE))
    else:
        wanted = validation_count(_count(parts[TRAIN]) or len(first))
        held_out = first[:: max(len(first) // max(wanted, 1), 1)][:wanted]
        left_out = frozenset(fingerprint(example[column]) for example in held_out)
        notes = [*notes, f"{len(held_out):,} of the first {len(first):,} training images are for validation."]
    sample, validation = _collection([first], column, source), _collection([held_out], column, source)
    sample.parts, sample.notes = [(TRAIN,)] * len(first), notes
    train, test = (parts[part].select_columns([column]) for part in (TRAIN, TEST))
    return Streams(sample, validation, column, train, test, left_out)


# Splits, columns and values -------------------------------------------------------------------------------------------


def _split_names(data: Any, source: str) -> dict[str, str | None]:
    """The splits for training, validation and testing; one alone where it is to be drawn from, None where it is all."""
    if not isinstance(data, dict):
        return {TRAIN: None}
    if not data:
        raise ValueError(f"`source` (={source}) has no splits.")
    validation = next((name for name in ("validation", "valid", "val") if name in data), None)
    names = named_parts("train" if "train" in data else None, validation, "test" if "test" in data else None)
    return dict(names) or {TRAIN: "train" if "train" in data else next(iter(data))}


def _columns(part: Any, source: str) -> tuple[str, str | None]:
    """The columns of images and of classes."""
    import datasets

    features = part.features or {}
    images: list[str] = []
    classes: list[str] = []
    numbers: list[str] = []
    for column, feature in features.items():
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"}):
            images.append(column)
        elif isinstance(feature, datasets.ClassLabel):
            classes.append(column)
        elif column in ("label", "labels", "cls") and getattr(feature, "dtype", "").startswith(("int", "uint")):
            numbers.append(column)
    if not images:
        told = ", ".join(features) or "none that it tells of"
        raise ValueError(f"`source` (={source}) must have a column of images; its columns: {told}.")
    image = next((column for column in ("image", "img") if column in images), images[0])
    return image, next(iter([*classes, *numbers]), None)


def _count(part: Any) -> int | None:
    """How many examples a data set says that this split of it has."""
    known = (part.info.splits or {}).get(str(part.split))
    return known.num_examples if known else None


def _labels(part: Any, column: str | None) -> Sequence[Any]:
    """The labels of examples, or of a downloaded data set, whose images are then not read; None for those without."""
    if isinstance(part, list):
        return [example.get(column) for example in part]
    return part[column] if column in part.features else [None] * len(part)


def _class_name(value: Any, names: Sequence[str] | None) -> str | None:
    if value is None or (names and not 0 <= value < len(names)):  # -1 stands for "not told"
        return None
    return names[value] if names else str(value)


class _Pictures(Sequence[Picture]):
    """The pictures of some lists of examples, one after the other, looked up one at a time."""

    def __init__(self, parts: Sequence[Any], column: str) -> None:
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: Any) -> Any:
        return picture(self.value(i))

    def value(self, i: int) -> Any:
        """What the column holds."""
        for part in self.parts:
            if i < len(part):
                return part[i][self.column]
            i -= len(part)
        raise IndexError(i)

    def identity(self, i: int) -> Path | bytes:
        """What tells this picture from others, without fetching it: a file, bytes, or the bytes of its address."""
        value = self.value(i)
        if isinstance(value, dict) and value["bytes"] is None and value["path"] and "://" not in value["path"]:
            return Path(value["path"])
        return content(value)


def _read_examples(
    parts: Sequence[Any], column: str, source: str, memory_limit: int, progress: Progress | None
) -> tuple[list[list[Any]], bool]:
    """Examples of streams with their pictures' bytes, and whether they are all; if `memory_limit` is less, a sample."""
    enough = _SAMPLE if (parts[0].info.download_size or 0) > memory_limit else None
    kept: list[list[Any]] = []
    size = done = 0

    def fetched(example: Any) -> Any:
        try:
            found = picture(example[column])
        except ImageError:  # whoever decodes it will find out, and say so
            return example
        return {**example, column: {**example[column], "bytes": found}} if isinstance(found, bytes) else example

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for part in parts:
            kept.append([])
            examples = guarded(part, source)
            while block := list(itertools.islice(examples, 4 * _CONNECTIONS)):
                kept[-1] += pool.map(fetched, block)
                size += sum(len(content(example[column])) for example in kept[-1][-len(block) :])
                done += len(block)
                if size > memory_limit or (enough and done >= enough):
                    return kept, False
                if progress is not None:
                    progress("reading", done, None)
    return kept, True
