"""Data sets of the Hugging Face hub, and everything else that the library `datasets` reads or holds.

`hub:NAME` or `hub:NAME:CONFIG`, as in "hub:ylecun/mnist"; NAME may also be a local folder that `datasets` understands
(parquet, WebDataset, ...). In Python, a data set object of that library will do as well.

- Images are the first column of images (the one called "image" or "img" where there are several), classes the first
  column of class labels, or else whole numbers called "label", "labels" or "cls".
- The splits `train` and `test` (or else `validation`) are the split; without these two, `train` or else the first one
  is split. Others are left out.
- What takes at most `memory_limit` bytes to download is downloaded once, into the library's own cache. The rest, and
  whatever does not tell its size, is streamed: if its files add up to more than `memory_limit` bytes (known beforehand
  or found out while reading), every epoch reads it anew.

No code of a data set is ever run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from halfstride.autoencoder.images.collection import Collection, Progress
from halfstride.autoencoder.images.decoding import Fit, Shape
from halfstride.autoencoder.images.iterable import IterableSplit, Side, content, guarded, picture
from halfstride.autoencoder.images.opening import ImageError, Picture, one_line, printable

_SAMPLE = 1_000
"""Images of a stream that decide on size and channels."""

_CONNECTIONS = 16
"""Pictures fetched at the same time, where the data set holds their addresses instead of their bytes."""


@dataclass
class Streams:
    """A data set too large to keep."""

    sample: Collection
    """Its first images, which stand for all when the shape is chosen."""
    column: str
    train: Any
    """`datasets.IterableDataset` with the column of images alone, not decoded."""
    test: Any
    """The same; None where the split is to be drawn."""


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
    parts = [(data if name is None else data[name]).with_format(None) for name in names]
    image, label = _columns(parts[0], source)
    class_names = getattr(parts[0].features.get(label), "names", None)
    columns = [[column for column in (image, label) if column in (part.features or ())] for part in parts]
    if not all(image in kept for kept in columns):
        raise ValueError(f"`source` (={source}) must have its images in a column {image} in {names[1]} too.")
    parts = [
        part.select_columns(kept).cast_column(image, datasets.Image(decode=False))
        for part, kept in zip(parts, columns, strict=True)
    ]
    if isinstance(parts[0], datasets.Dataset):
        pictures, whole = _Pictures(parts, image), True
        labels = [value for part in parts for value in (part[label] if label in part.features else [None] * len(part))]
    else:
        examples, whole = _read_examples(parts, image, source, memory_limit, progress)
        pictures = _Pictures(examples, image)
        labels = [example.get(label) for part in examples for example in part]
    collection = Collection(
        name=source,
        source=source,
        pictures=pictures,
        names=[f"image {i}" for i in range(len(labels))],
        groups=[_class_name(value, class_names) for value in labels],
        tests=[part is not pictures.parts[0] for part in pictures.parts for _ in range(len(part))]
        if len(parts) == 2
        else None,
    )
    if len(parts) == 2:
        collection.notes.append(f"The splits {names[0]} and {names[1]} are for training and for testing.")
    collection.require()
    if whole:
        return collection
    collection.keep(range(min(len(labels), _SAMPLE)))
    train, *test = (part.select_columns([image]) for part in parts)
    return Streams(collection, image, train, test[0] if test else None)


def split_streams(
    streams: Streams, shape: Shape, fit: Fit, test_fraction: float, seed: int
) -> tuple[IterableSplit, IterableSplit]:
    """The splits of a data set that is streamed; drawn by content where it has none of its own."""
    parts: Iterable[tuple[Any, Side | None, int | None]]
    about = _count(streams.train)
    if streams.test is not None:
        parts = (streams.train, None, about), (streams.test, None, _count(streams.test))
    else:
        parts = tuple(
            (streams.train, Side(seed, test_fraction, test), about and round(about * share))
            for test, share in ((False, 1 - test_fraction), (True, test_fraction))
        )
    train, test = (
        IterableSplit(streams.sample.source, data, streams.column, side, count, shape, fit)
        for data, side, count in parts
    )
    return train, test


# Splits, columns and values -------------------------------------------------------------------------------------------


def _split_names(data: Any, source: str) -> list[str | None]:
    """The names of the splits to train and to test on; one name where the split is to be drawn; None for no names."""
    if not isinstance(data, dict):
        return [None]
    if not data:
        raise ValueError(f"`source` (={source}) has no splits.")
    test = next((name for name in ("test", "validation", "valid", "val") if name in data), None)
    return ["train", test] if "train" in data and test else ["train" if "train" in data else next(iter(data))]


def _columns(part: Any, source: str) -> tuple[str, str | None]:
    """The columns of images and of classes."""
    import datasets

    features = part.features or {}
    images = [
        column
        for column, feature in features.items()
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    ]
    if not images:
        told = ", ".join(features) or "none that it tells of"
        raise ValueError(f"`source` (={source}) must have a column of images; its columns: {told}.")
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels += [
        column
        for column, feature in features.items()
        if column in ("label", "labels", "cls") and getattr(feature, "dtype", "").startswith(("int", "uint"))
    ]
    image = next((column for column in ("image", "img") if column in images), images[0])
    return image, labels[0] if labels else None


def _count(part: Any) -> int | None:
    """How many examples a data set says that this split of it has."""
    known = (part.info.splits or {}).get(str(part.split))
    return known.num_examples if known else None


def _class_name(value: Any, names: Sequence[str] | None) -> str | None:
    if value is None or (names and not 0 <= value < len(names)):  # -1 stands for "not told"
        return None
    return names[value] if names else str(value)


class _Pictures(Sequence[Picture]):
    """The pictures of one or two lists of examples, one after the other, looked up one at a time."""

    def __init__(self, parts: Sequence[Any], column: str) -> None:
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: Any) -> Any:
        for part in self.parts:
            if i < len(part):
                return picture(part[i][self.column])
            i -= len(part)
        raise IndexError(i)


def _read_examples(
    parts: Sequence[Any], column: str, source: str, memory_limit: int, progress: Progress | None
) -> tuple[list[list[Any]], bool]:
    """The first examples of streams with the bytes of their pictures, and whether they are all.

    They are not where they take more than `memory_limit` bytes, or the download would: then a sample is enough.
    """
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
